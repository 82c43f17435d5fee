//! Connections that are passed on as they are.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use lateen_traffic::RequestHead;
use lateen_traffic::cluster::{Discovery, NameCache};
use lateen_traffic::hashing;
use lateen_traffic::listener::Gate;
use lateen_traffic::outlier::Report;
use lateen_traffic::record::{Flags, Record};
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::tcp::TcpProxy;

use crate::message::{Heard, Said};
use crate::pool::Wire;
use crate::proxy::{Downstream, Proxy};
use crate::trace::{Decision, Trace};
use crate::upstream::Again;
use crate::world::World;

impl Proxy {
    /// Passes what is said on to a host of the filter's cluster, and what it answers back.
    pub(crate) async fn tunnel(
        self: &Rc<Self>,
        world: &Rc<World>,
        tcp: &TcpProxy,
        gates: &[Gate],
        downstream: &Downstream,
        said: Said,
        trace: &Trace,
    ) -> Heard {
        let begun = world.clock.now();
        let mut record = downstream.record(world);
        let heard = match self.connect(world, tcp, downstream, &mut record, trace).await {
            Some((_lease, wire)) => {
                record.upstream_local = Some(wire.source);
                // Rules are asked once the client has spoken; the way on is open by then.
                if let Some(denial) = self.denial(world, gates, downstream, &mut record.metadata, trace).await {
                    record.termination_details = denial.clone().into();
                    Heard::closed(denial)
                } else {
                    let inner = trace.deeper();
                    world.hop().await;
                    wire.say(world, said, &inner).await
                }
            }
            None => Heard::closed(format!("closed by a proxy ({})", record.flags)),
        };
        record.duration = world.clock.now() - begun;
        self.log.write(&tcp.access_log, &record, &RequestHead::default(), None);
        heard
    }

    /// A connection to one of the filter's clusters; `None` with the reason in the record.
    async fn connect(
        self: &Rc<Self>,
        world: &Rc<World>,
        tcp: &TcpProxy,
        downstream: &Downstream,
        record: &mut Record,
        trace: &Trace,
    ) -> Option<(crate::pool::Lease, Wire)> {
        let name = tcp.cluster(&mut world.dice()).cloned();
        if let Some(name) = &name {
            trace.tell(world, || Decision::Cluster { name: Arc::clone(name), weight: None });
        }
        let Some(upstream) = name.and_then(|name| self.upstream(world, &name)) else {
            record.flags.add(Flags::NO_CLUSTER);
            return None;
        };
        let settings = Arc::clone(upstream.settings());
        if tcp.tunnel.is_some() {
            let problem = format!("cluster {}: that its hosts are asked for a tunnel is not computed", settings.name);
            world.problem(&self.pod, &problem);
        }
        record.upstream_cluster = Some(Arc::clone(&settings.name));
        record.upstream_cluster_alt = settings.alt_stat_name.clone();
        let destination = match &settings.discovery {
            Discovery::Named(cache) => self.named(world, tcp, downstream, cache),
            _ => downstream.original,
        };
        let hash = tcp.hash_source_ip.then(|| hashing::of_address(downstream.peer.ip()));
        let mut tried = Vec::new();
        for attempt in 1..=tcp.max_connect_attempts {
            record.attempts = attempt;
            let again = Again { tried: &tried, selections: 3, ..Again::default() };
            let Some(host) = upstream.pick(world, destination, hash, again) else {
                record.flags.add(Flags::NO_HEALTHY_UPSTREAM);
                return None;
            };
            record.upstream_host = Some(host.target.clone());
            trace.tell(world, || Decision::Try {
                number: attempt,
                host: host.target.to_string(),
                pod: host.address().and_then(|a| world.pod_at(a.ip())).map(|pod| Rc::clone(&pod.name)),
                secured: upstream.secured(&host),
            });
            match upstream.connect(world, &host).await {
                Ok(lease) => {
                    upstream.report(world, &host, Report::Served);
                    let wire = lease.wire().cloned()?;
                    return Some((lease, wire));
                }
                Err(failure) => {
                    trace.tell(world, || Decision::TryFailed(failure.reason().to_owned()));
                    record.flags.add(failure.flags());
                    record.upstream_failure = failure.transport_reason();
                    if failure == UpstreamFailure::Overflow {
                        return None;
                    }
                    upstream.report(world, &host, Report::Failed);
                    tried.push(host);
                }
            }
        }
        record.flags.add(Flags::RETRY_LIMIT);
        None
    }

    /// The address of the host whose name a TLS client sent.
    fn named(&self, world: &World, tcp: &TcpProxy, downstream: &Downstream, cache: &NameCache) -> Option<SocketAddr> {
        let (port, name) = (tcp.named_port?, downstream.server_name.as_deref()?);
        let found = world.addresses(name, &self.pod.namespace);
        cache.family.of(&found).next().map(|ip| SocketAddr::new(ip, port))
    }
}
