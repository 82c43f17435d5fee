//! A proxy: which listener and filter chain take a connection, and the clusters it has used.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use futures::future::LocalBoxFuture;
use lateen_pilot::node::NodeType;
use lateen_traffic::Config;
use lateen_traffic::hcm::Hcm;
use lateen_traffic::listener::{
    ConnectionFacts, Direction, ExpectHeader, FilterChain, Gate, Listener, Terminal, TransportProtocol,
};
use lateen_traffic::metadata::Metadata;
use lateen_traffic::rbac::{self, Peer};
use lateen_traffic::record::{Flags, Record};
use lateen_traffic::tls::{Certificate, TlsConnection};
use lateen_traffic::{Protocol, RequestHead};

use crate::compile::Compiled;
use crate::credentials::Known;
use crate::exchange::Exchange;
use crate::log::Log;
use crate::message::{Heard, Said};
use crate::tls::{self, Greeting, Side};
use crate::trace::{Decision, Trace};
use crate::upstream::Upstream;
use crate::world::{Pod, World};

/// Where a sidecar takes over what its pod's program sends, and what comes for it (Istio's ports).
const OUTBOUND_PORT: u16 = 15001;
const INBOUND_PORT: u16 = 15006;
/// Ports of the sidecar's own, which are not taken over.
const SIDECAR_PORTS: [u16; 3] = [15020, 15021, 15090];

/// A proxy at work.
pub struct Proxy {
    /// Where it is.
    pub pod: Rc<Pod>,
    node_type: NodeType,
    pub(crate) config: Arc<Config>,
    /// Its workload's.
    certificate: Arc<Certificate>,
    /// What it is told of others'.
    known: Rc<Known>,
    listeners: HashMap<SocketAddr, Arc<Listener>>,
    upstreams: RefCell<HashMap<Arc<str>, Rc<Upstream>>>,
    /// Requests that suffer a fault at this moment, by the connection manager's statistics.
    pub(crate) faults: RefCell<HashMap<Arc<str>, u64>>,
    /// What it writes to its access logs, if somebody wants it.
    pub log: Log,
}

/// The two ends of a connection, as a proxy knows them.
#[derive(Debug, Clone)]
pub(crate) struct Downstream {
    pub peer: SocketAddr,
    /// Who is at the other end, if a PROXY protocol header named another client.
    pub direct: SocketAddr,
    /// Where the client wanted to.
    pub local: SocketAddr,
    /// The same, if the connection was turned to the proxy by a redirect rule.
    pub original: Option<SocketAddr>,
    /// TLS server name asked for.
    pub server_name: Option<Arc<str>>,
    /// What the proxy's own handshake with the client found out.
    pub tls: Option<Arc<TlsConnection>>,
}

impl Downstream {
    /// The connection's ends, as rules see them. `remote`: the client, as far as the peer is trusted to say who that is.
    pub(crate) fn ends(&self, remote: IpAddr) -> Peer<'_> {
        Peer {
            source: self.peer.ip(),
            direct: self.direct.ip(),
            remote,
            local: self.local,
            server_name: self.server_name.as_deref(),
            tls: self.tls.as_deref(),
        }
    }

    pub(crate) fn record(&self, world: &World) -> Record {
        Record {
            server_name: self.server_name.clone(),
            downstream_direct: self.direct,
            downstream_tls: self.tls.clone(),
            ..Record::begin(world.time(), self.local, self.peer)
        }
    }
}

impl Proxy {
    /// Asks at the gates that stand before connections. What logs say of a denial, if it is denied.
    pub(crate) async fn denial(
        &self,
        world: &Rc<World>,
        gates: &[Gate],
        downstream: &Downstream,
        metadata: &mut Metadata,
        trace: &Trace,
    ) -> Option<String> {
        for gate in gates {
            let denial = match gate {
                Gate::Rules(rules) => {
                    let verdict = rules.decide(downstream.ends(downstream.peer.ip()), None, metadata);
                    trace.tell_policies(world, rules, &verdict);
                    verdict.denial().map(rbac::Decision::details)
                }
                Gate::Ask(filter) if filter.metadata.as_ref().is_none_or(|wanted| wanted.matches(metadata)) => {
                    self.ask(world, filter, downstream, metadata, trace).await.map(str::to_owned)
                }
                Gate::Ask(_) => None,
            };
            if denial.is_some() {
                return denial;
            }
        }
        None
    }

    pub(crate) fn new(pod: Rc<Pod>, compiled: Compiled, known: Rc<Known>) -> Proxy {
        let Compiled { config, node_type, identity, problems: _ } = compiled;
        let addresses = |listener: &Arc<Listener>| {
            listener.addresses.iter().map(|a| (*a, Arc::clone(listener))).collect::<Vec<_>>()
        };
        Proxy {
            pod,
            node_type,
            listeners: config.listeners.values().flat_map(addresses).collect(),
            config,
            certificate: tls::of_workload(identity),
            known,
            upstreams: RefCell::default(),
            faults: RefCell::default(),
            log: Log::default(),
        }
    }

    pub(crate) fn side(&self) -> Side<'_> {
        Side { certificate: &self.certificate, known: &self.known }
    }

    /// Whether it is beside a program, and takes over its connections.
    pub fn is_sidecar(&self) -> bool {
        self.node_type == NodeType::Sidecar
    }

    /// Whether it takes connections to this address.
    pub(crate) fn inbound(&self, to: SocketAddr) -> bool {
        self.inbound_listener(to).is_some()
    }

    /// Whether redirect rules turn connections to this address to it.
    fn captures(&self, to: SocketAddr) -> bool {
        self.is_sidecar() && !SIDECAR_PORTS.contains(&to.port())
    }

    fn inbound_listener(&self, to: SocketAddr) -> Option<&Arc<Listener>> {
        let port = if self.captures(to) { INBOUND_PORT } else { to.port() };
        self.bound(SocketAddr::new(to.ip(), port))
    }

    /// The listener of a socket at this address: its very address, else the wildcard address of its port.
    fn bound(&self, address: SocketAddr) -> Option<&Arc<Listener>> {
        self.at(address).filter(|listener| listener.bind_to_port)
    }

    fn at(&self, address: SocketAddr) -> Option<&Arc<Listener>> {
        let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let any = if address.is_ipv4() { v4 } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        [address.ip(), any, v4].into_iter().find_map(|ip| self.listeners.get(&SocketAddr::new(ip, address.port())))
    }

    /// Takes over a connection that its pod's program makes.
    pub(crate) async fn take_outbound(
        self: &Rc<Self>,
        world: &Rc<World>,
        peer: SocketAddr,
        to: SocketAddr,
        said: Said,
        trace: &Trace,
    ) -> Heard {
        let Some(listener) = self.bound(SocketAddr::new(self.pod.address(), OUTBOUND_PORT)) else {
            return Heard::closed("the sidecar has no outbound listener");
        };
        self.take(world, listener, true, peer, to, said, trace).await
    }

    /// Takes a connection that comes for its pod.
    pub(crate) async fn take_inbound(
        self: &Rc<Self>,
        world: &Rc<World>,
        peer: SocketAddr,
        to: SocketAddr,
        said: Said,
        trace: &Trace,
    ) -> Heard {
        let Some(listener) = self.inbound_listener(to) else {
            return Heard::closed(format!("nobody listens at {to}"));
        };
        self.take(world, listener, self.captures(to), peer, to, said, trace).await
    }

    #[allow(clippy::too_many_arguments)] // All of a connection, told once.
    fn take<'a>(
        self: &'a Rc<Self>,
        world: &'a Rc<World>,
        listener: &'a Arc<Listener>,
        captured: bool,
        peer: SocketAddr,
        to: SocketAddr,
        said: Said,
        trace: &'a Trace,
    ) -> LocalBoxFuture<'a, Heard> {
        Box::pin(async move {
            let (direct, original) = (peer, captured.then_some(to));
            let (peer, to, said) = match (listener.proxy_protocol, said) {
                (Some(_), Said::Told(told, said)) => (told.source, told.destination, *said),
                (Some(ExpectHeader::Always), _) => return Heard::closed("reset: no PROXY protocol header comes first"),
                (_, said) => (peer, to, said),
            };
            let listener = self.handed_over(listener, original);
            let facts = facts(listener, peer, to, &said);
            let server_name = facts.server_name.as_deref().map(Arc::from);
            let mut downstream = Downstream { peer, direct, local: to, original, server_name, tls: None };
            let Some(chain) = listener.find_chain(&facts) else {
                trace.tell(world, || Decision::NoChain {
                    at: self.title(listener),
                    listener: Arc::clone(&listener.name),
                });
                let mut record = downstream.record(world);
                record.flags = Flags::NO_ROUTE;
                record.details = "filter_chain_not_found".into();
                self.log.write(&listener.access_log, &record, &RequestHead::default(), None);
                return Heard::closed("reset: no filter chain fits");
            };
            trace.tell(world, || Decision::Listener {
                at: self.title(listener),
                listener: Arc::clone(&listener.name),
                chain: Arc::clone(&chain.name),
                http: matches!(chain.terminal, Terminal::Http(_)),
            });
            let said = match (&chain.tls, said) {
                (Some(tls), Said::Within(within)) => match within.greeting.meets(tls, &self.side()) {
                    Ok(connection) => {
                        downstream.tls = Some(Arc::new(connection));
                        *within.said
                    }
                    Err(why) => return Heard::closed(why),
                },
                // Programs' own TLS is not read here.
                (Some(_), _) => return Heard::closed("reset: no TLS that a proxy can end"),
                (None, said) => said,
            };
            let inner = trace.deeper();
            self.serve(world, chain, downstream, said, &inner).await
        })
    }

    /// The listener for where a connection was going, if it is not this one.
    fn handed_over<'a>(&'a self, listener: &'a Arc<Listener>, original: Option<SocketAddr>) -> &'a Arc<Listener> {
        match original {
            Some(original) if listener.use_original_dst => self.at(original).unwrap_or(listener),
            _ => listener,
        }
    }

    /// Whether TLS comes about with a client that connects to `to`, or it is somebody else's to end.
    ///
    /// # Errors
    /// In words, when it does not.
    pub(crate) fn greet(&self, peer: SocketAddr, to: SocketAddr, greeting: &Rc<Greeting>) -> Result<(), String> {
        let Some(listener) = self.inbound_listener(to) else { return Err(format!("nobody listens at {to}")) };
        let listener = self.handed_over(listener, self.captures(to).then_some(to));
        let chain = listener.find_chain(&of_tls(listener, peer, to, greeting));
        let chain = chain.ok_or("reset: no filter chain fits")?;
        match (&chain.tls, &chain.terminal) {
            (Some(tls), _) => greeting.meets(tls, &self.side()).map(drop),
            (None, Terminal::Tcp(_)) => Ok(()),
            (None, Terminal::Http(_)) => Err("the other end speaks no TLS".to_owned()),
        }
    }

    async fn serve(
        self: &Rc<Self>,
        world: &Rc<World>,
        chain: &FilterChain,
        downstream: Downstream,
        said: Said,
        trace: &Trace,
    ) -> Heard {
        match (&chain.terminal, said) {
            (Terminal::Tcp(tcp), said) => self.tunnel(world, tcp, &chain.gates, &downstream, said, trace).await,
            (Terminal::Http(hcm), said) => {
                match (self.denial(world, &chain.gates, &downstream, &mut Metadata::default(), trace).await, said) {
                    (Some(denial), _) => Heard::closed(denial),
                    (None, Said::Http(request)) => {
                        Exchange::new(world, self, hcm, &downstream, request, trace).serve().await
                    }
                    (None, Said::Bytes(_) | Said::Tls(_) | Said::Told(..) | Said::Within(_)) => {
                        self.refuse(world, hcm, &downstream)
                    }
                }
            }
        }
    }

    /// What is no HTTP is told so, as the codec does.
    fn refuse(&self, world: &World, hcm: &Hcm, downstream: &Downstream) -> Heard {
        let mut record = downstream.record(world);
        record.protocol = Some(Protocol::Http11);
        record.code = 400;
        record.flags = Flags::DOWNSTREAM_PROTOCOL_ERROR;
        record.details = "http1.codec_error".into();
        self.log.write(&hcm.access_log, &record, &RequestHead::default(), None);
        let bytes = "HTTP/1.1 400 Bad Request\r\ncontent-length: 11\r\nconnection: close\r\n\r\nBad Request";
        Heard::Bytes { bytes: bytes.into(), by: None }
    }

    /// A cluster, if it is configured.
    pub(crate) fn upstream(&self, world: &World, name: &str) -> Option<Rc<Upstream>> {
        if let Some(known) = self.upstreams.borrow().get(name) {
            return Some(Rc::clone(known));
        }
        let cluster = self.config.clusters.get(name)?;
        if cluster.settings.proxy_protocol.is_some() {
            world.problem(
                &self.pod,
                &format!("cluster {name}: that it tells of clients by the PROXY protocol is not computed"),
            );
        }
        let made = Rc::new(Upstream::new(world, &self.pod, cluster));
        self.upstreams.borrow_mut().insert(Arc::clone(&cluster.settings.name), Rc::clone(&made));
        Some(made)
    }

    /// What people call it.
    fn title(&self, listener: &Listener) -> String {
        let side = match (self.node_type, listener.direction) {
            (NodeType::Router, _) => "gateway",
            (NodeType::Sidecar, Direction::Inbound) => "inbound sidecar of",
            (NodeType::Sidecar, Direction::Outbound | Direction::Unspecified) => "outbound sidecar of",
        };
        format!("{side} {}", self.pod.name)
    }
}

/// What is known of a connection when its chain is chosen: addresses, and what a listener's inspectors find in what is
/// said first.
fn facts(listener: &Listener, peer: SocketAddr, to: SocketAddr, said: &Said) -> ConnectionFacts {
    if let Said::Within(within) = said {
        return of_tls(listener, peer, to, &within.greeting);
    }
    let mut facts = ConnectionFacts { destination: Some(to), source: Some(peer), ..ConnectionFacts::default() };
    if let Said::Tls(hello) = said {
        if listener.tls_inspector.as_ref().is_some_and(|inspector| inspector.runs_for(to.port())) {
            facts.transport = TransportProtocol::Tls;
            facts.server_name.clone_from(&hello.server_name);
            facts.application_protocols.clone_from(&hello.application_protocols);
        }
        return facts;
    }
    let looks = listener.http_inspector.as_ref().is_some_and(|inspector| inspector.runs_for(to.port()));
    if let (true, Said::Http(request)) = (looks, said) {
        let found = match request.head.protocol {
            Protocol::Http10 => "http/1.0",
            Protocol::Http11 => "http/1.1",
            Protocol::Http2 => "h2c",
        };
        facts.application_protocols.push(found.to_owned());
    }
    facts
}

/// The same of a client that begins TLS which may be ended here.
fn of_tls(listener: &Listener, peer: SocketAddr, to: SocketAddr, greeting: &Greeting) -> ConnectionFacts {
    let mut facts = ConnectionFacts { destination: Some(to), source: Some(peer), ..ConnectionFacts::default() };
    if listener.tls_inspector.as_ref().is_some_and(|inspector| inspector.runs_for(to.port())) {
        facts.transport = TransportProtocol::Tls;
        facts.server_name = greeting.server_name.as_deref().map(str::to_owned);
        facts.application_protocols.clone_from(&greeting.application_protocols);
    }
    facts
}
