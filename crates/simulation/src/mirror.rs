//! Copies of requests: sent at once, their answers thrown away, and never waited for.

use std::pin::pin;
use std::rc::Rc;

use futures::future::select;
use lateen_traffic::cluster::Discovery;
use lateen_traffic::mirror::{self, Mirror};
use lateen_traffic::outlier::Report;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::router::judged;
use lateen_traffic::{Protocol, RequestHead};

use crate::exchange::{Exchange, Plan};
use crate::message::{Heard, Request, Said};
use crate::trace::{Decision, Trace};
use crate::upstream::{Again, Counted, Upstream};
use crate::world::World;

impl Exchange<'_> {
    /// Sends the copies that the route asks for.
    pub(crate) fn mirror(&mut self, plan: &Plan<'_>) {
        let policies = mirror::policies(plan.way.routes, plan.way.routed.virtual_host, plan.way.forward);
        let chosen: Vec<&Mirror> = mirror::chosen(policies, &mut self.world.dice()).collect();
        for one in chosen {
            let Some(name) = one.cluster(&self.request) else { continue };
            // A mirror that is not there is nobody's concern.
            let Some(upstream) = self.proxy.upstream(self.world, name) else { continue };
            let timeout = plan.way.timeout.filter(|timeout| !timeout.is_zero());
            let head = one.copy(&self.request, &self.record, self.proxy.pod.address(), timeout);
            let original = match upstream.settings().discovery {
                Discovery::Named(_) => None,
                _ => self.downstream.original,
            };
            self.trace.tell(self.world, || Decision::Mirror { cluster: name.to_owned() });
            let (world, trace) = (Rc::clone(self.world), self.trace.deeper());
            let request = Request { head, body: self.body.clone() };
            self.world.clock.spawn(async move {
                let copying = copy(&world, &upstream, original, request, &trace);
                match timeout {
                    None => copying.await,
                    Some(timeout) => drop(select(pin!(copying), world.clock.sleep(timeout)).await),
                }
            });
        }
    }
}

async fn copy(
    world: &Rc<World>,
    upstream: &Rc<Upstream>,
    original: Option<std::net::SocketAddr>,
    mut request: Request,
    trace: &Trace,
) {
    let Some(host) = upstream.pick(world, original, None, Again::default()) else { return };
    let settings = upstream.settings();
    let http2 = settings.protocol.is_http2(request.head.protocol);
    let lease = match upstream.lease(world, &host, request.head.protocol).await {
        Ok(lease) => lease,
        Err(failure) => {
            if failure != UpstreamFailure::Overflow {
                upstream.report(world, &host, Report::Failed);
            }
            return;
        }
    };
    upstream.report(world, &host, Report::Connected);
    let Some(_in_flight) = Counted::take(&upstream.requests, settings.limits.max_requests) else {
        lease.release(world, settings, false);
        return;
    };
    let _active = Counted::take(&host.active, u32::MAX);
    let Some(wire) = lease.wire().cloned() else { return };
    let RequestHead { protocol, .. } = &mut request.head;
    *protocol = if http2 { Protocol::Http2 } else { Protocol::Http11 };
    let grpc = request.head.is_grpc();
    world.hop().await;
    match wire.reached.take(world, wire.source, Said::Http(request), trace).await {
        Heard::Http(answer) => {
            upstream.report(world, &host, Report::Answered(judged(settings, grpc, &answer.head)));
            lease.release(world, settings, true);
        }
        Heard::Bytes { .. } | Heard::Broken { .. } => upstream.report(world, &host, Report::Failed),
    }
}
