//! A request of a proxy's own to a cluster, in one try: a copy, or a question.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use lateen_traffic::Protocol;
use lateen_traffic::cluster::Discovery;
use lateen_traffic::outlier::Report;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::router::judged;
use lateen_traffic::tls::Wanted;

use crate::exchange::Exchange;
use crate::message::{Answer, Heard, Request, Said};
use crate::trace::Trace;
use crate::upstream::{Again, Counted, Upstream};
use crate::world::World;

impl Exchange<'_> {
    /// Where such a request goes in clusters that have no hosts of their own.
    pub(crate) fn meant(&self, upstream: &Upstream) -> Option<SocketAddr> {
        match upstream.settings().discovery {
            Discovery::Named(_) => None,
            _ => self.downstream.original,
        }
    }
}

/// The answer, if there is one in time.
pub(crate) async fn call(
    world: &Rc<World>,
    upstream: &Rc<Upstream>,
    original: Option<SocketAddr>,
    request: Request,
    timeout: Option<Duration>,
    trace: &Trace,
) -> Option<Answer> {
    let calling = attempt(world, upstream, original, request, trace);
    match timeout {
        None => calling.await,
        Some(timeout) => match select(pin!(calling), world.clock.sleep(timeout)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => None,
        },
    }
}

async fn attempt(
    world: &Rc<World>,
    upstream: &Rc<Upstream>,
    original: Option<std::net::SocketAddr>,
    mut request: Request,
    trace: &Trace,
) -> Option<Answer> {
    let host = upstream.pick(world, original, None, Again::default())?;
    let settings = upstream.settings();
    let http2 = settings.protocol.is_http2(request.head.protocol);
    let wanted = Wanted::of(settings, &request.head.authority, None);
    let lease = match upstream.lease(world, &host, request.head.protocol, &wanted).await {
        Ok(lease) => lease,
        Err(failure) => {
            if failure != UpstreamFailure::Overflow {
                upstream.report(world, &host, Report::Failed);
            }
            return None;
        }
    };
    upstream.report(world, &host, Report::Connected);
    let Some(_in_flight) = upstream.begin(world) else {
        lease.release(world, settings, false);
        return None;
    };
    let _active = Counted::take(&host.active, u32::MAX);
    let wire = lease.wire().cloned()?;
    request.head.protocol = if http2 { Protocol::Http2 } else { Protocol::Http11 };
    let grpc = request.head.is_grpc();
    world.hop().await;
    match wire.say(world, Said::Http(request), trace).await {
        Heard::Http(answer) => {
            upstream.report(world, &host, Report::Answered(judged(settings, grpc, &answer.head)));
            lease.release(world, settings, true);
            Some(answer)
        }
        Heard::Bytes { .. } | Heard::Broken { .. } => {
            upstream.report(world, &host, Report::Failed);
            None
        }
    }
}
