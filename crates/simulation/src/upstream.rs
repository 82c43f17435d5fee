//! A cluster as one proxy uses it: its hosts, which of them is next, who is out, and the limits they share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use lateen_traffic::Dice as _;
use lateen_traffic::balance::{HostSet, Hosts, LocalityShare, Part, Rotation, Turn};
use lateen_traffic::cluster::{
    Cluster, ClusterSettings, Discovery, DnsFamily, EndpointAddress, Health, LbPolicy, TransportLabels,
};
use lateen_traffic::health::{HostHealth, Showing};
use lateen_traffic::outlier::{Detector, Report};
use lateen_traffic::retry::Window;
use lateen_traffic::tls::{TransportSocket, UpstreamTls};

use crate::pool::Pool;
use crate::world::{Pod, World};

/// A cluster.
pub(crate) struct Upstream {
    /// The pod whose proxy uses it.
    pub owner: Rc<Pod>,
    pub cluster: Arc<Cluster>,
    /// Open or opening connections.
    pub connections: Cell<u32>,
    /// Requests waiting for a connection.
    pub pending: Cell<u32>,
    /// Requests in flight.
    pub requests: Cell<u32>,
    /// Retries in flight.
    pub retries: Cell<u32>,
    /// Requests that began lately, if the cluster's retry budget asks.
    pub begun: Window,
    hosts: Vec<Rc<Host>>,
    // What discovery tells of each: priority and health.
    discovered: Vec<(u32, Health)>,
    state: RefCell<State>,
    // Hosts of clusters that find them by themselves, as they are asked for.
    dynamic: RefCell<HashMap<SocketAddr, Rc<Host>>>,
}

struct State {
    set: HostSet,
    turn: Turn,
    detector: Option<Detector>,
    showing: Showing,
}

/// A host.
pub(crate) struct Host {
    pub target: EndpointAddress,
    pub hostname: Arc<str>,
    /// Requests in flight to it.
    pub active: Cell<u32>,
    pub pool: Pool,
    /// Chooses what connections to it are made of.
    transport_labels: TransportLabels,
    weight: u32,
    locality: usize,
    hash_key: Option<Arc<str>>,
    health: Arc<HostHealth>,
}

impl Host {
    fn new(target: EndpointAddress) -> Host {
        Host {
            target,
            hostname: "".into(),
            active: Cell::new(0),
            pool: Pool::default(),
            transport_labels: TransportLabels::default(),
            weight: 1,
            locality: 0,
            hash_key: None,
            health: Arc::default(),
        }
    }

    /// The socket it is reached at; `None` for what is none of the network's.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.target {
            EndpointAddress::Socket(address) => Some(address),
            EndpointAddress::Dns { .. } | EndpointAddress::Pipe(_) => None,
        }
    }
}

/// What was tried before for the same request, and how that counts in the choice of a host.
#[derive(Clone, Copy, Default)]
pub(crate) struct Again<'a> {
    /// The hosts, in order.
    pub tried: &'a [Rc<Host>],
    /// How often another host is chosen to avoid those.
    pub selections: u32,
    /// After each so many attempts, their priorities are left out.
    pub leave_priorities_after: Option<usize>,
}

struct Flat<'a>(&'a [Rc<Host>]);

impl Hosts for Flat<'_> {
    fn weight(&self, host: usize) -> u32 {
        self.0.get(host).map_or(1, |host| host.weight)
    }

    fn active(&self, host: usize) -> u32 {
        self.0.get(host).map_or(0, |host| host.active.get())
    }
}

impl Upstream {
    /// A cluster that `owner`'s proxy uses from now on. Its hosts were all there before.
    pub fn new(world: &World, owner: &Rc<Pod>, cluster: &Arc<Cluster>) -> Upstream {
        let mut hosts = Vec::new();
        let mut discovered = Vec::new();
        for (locality, group) in cluster.endpoints.localities.iter().enumerate() {
            for endpoint in &group.endpoints {
                for target in targets(world, owner, &endpoint.address, &cluster.settings.discovery) {
                    hosts.push(Rc::new(Host {
                        hostname: Arc::clone(&endpoint.hostname),
                        weight: endpoint.weight.max(1),
                        locality,
                        hash_key: endpoint.hash_key.clone(),
                        transport_labels: endpoint.transport_labels.clone(),
                        ..Host::new(target)
                    }));
                    discovered.push((group.priority, endpoint.health));
                }
            }
        }
        let now = world.clock.now();
        let detector = cluster.settings.outlier.as_ref().map(|settings| {
            let mut detector = Detector::new(Arc::clone(settings), now);
            detector.members(hosts.iter().map(|host: &Rc<Host>| (&host.target, &host.health)));
            detector
        });
        let turn = Turn::beginning(&Rotation::default(), &mut world.dice());
        let upstream = Upstream {
            owner: Rc::clone(owner),
            cluster: Arc::clone(cluster),
            connections: Cell::new(0),
            pending: Cell::new(0),
            requests: Cell::new(0),
            retries: Cell::new(0),
            begun: Window::default(),
            state: RefCell::new(State { set: HostSet::default(), turn, detector, showing: Showing::default() }),
            hosts,
            discovered,
            dynamic: RefCell::default(),
        };
        let set = upstream.sorted();
        upstream.state.borrow_mut().set = set;
        upstream
    }

    pub fn settings(&self) -> &Arc<ClusterSettings> {
        &self.cluster.settings
    }

    /// A request has got its connection; `None` if there are as many requests as there may be.
    pub fn begin(&self, world: &World) -> Option<Counted<'_>> {
        let limits = &self.settings().limits;
        let counted = Counted::take(&self.requests, limits.max_requests)?;
        if let Some(interval) = limits.retry_budget.and_then(|budget| budget.interval) {
            self.begun.begin(interval, world.clock.now());
        }
        Some(counted)
    }

    /// How TLS is spoken to a host, if it is.
    pub fn tls(&self, host: &Host) -> Option<&Arc<UpstreamTls>> {
        match self.settings().transport_for(&host.transport_labels) {
            TransportSocket::Plain => None,
            TransportSocket::Tls(tls) => Some(tls),
        }
    }

    /// The same for people, where it is not one way for all hosts.
    pub fn secured(&self, host: &Host) -> Option<String> {
        self.settings().speaks_tls().then(|| match self.tls(host) {
            None => "in plain text".to_owned(),
            Some(tls) => match &tls.server_name {
                Some(name) => format!("by TLS, as {name}"),
                None => "by TLS".to_owned(),
            },
        })
    }

    /// Sorts hosts by their health as it is now.
    fn sorted(&self) -> HostSet {
        let settings = self.settings();
        let factor = self.cluster.endpoints.overprovisioning_factor;
        let health = self.hosts.iter().zip(&self.discovered);
        let health = health.map(|(host, (priority, told))| (*priority, host.health.all_in_all(*told)));
        // No host is new: nothing is warming up in a mesh that has always been there.
        let mut set = HostSet::new(health, settings.panic_threshold, factor)
            .with_weights(self.hosts.iter().map(|host| host.weight));
        if settings.locality_weighted {
            let mut shares = LocalityShare::of(&self.cluster.endpoints);
            shares.of_host = self.hosts.iter().map(|host| host.locality).collect();
            set = set.with_localities(&shares, factor);
        }
        if let LbPolicy::Hash(hashing) = settings.lb {
            let part = |host: usize| self.part(host, hashing.by_hostname);
            set = set.with_tables(part, |parts| Arc::new(hashing.table(parts)));
        }
        set
    }

    fn part(&self, host: usize, by_hostname: bool) -> Part {
        let Some(host) = self.hosts.get(host) else { return Part { key: "".into(), weight: 1.0 } };
        let key = match &host.hash_key {
            Some(key) => Arc::clone(key),
            None if by_hostname && !host.hostname.is_empty() => Arc::clone(&host.hostname),
            None => host.target.to_string().into(),
        };
        Part { key, weight: f64::from(host.weight) }
    }

    /// Chooses a host. `original` is the address the client meant, or that of the host it names, `hash` what the request is
    /// hashed to.
    pub fn pick(
        &self,
        world: &World,
        original: Option<SocketAddr>,
        hash: Option<u64>,
        again: Again<'_>,
    ) -> Option<Rc<Host>> {
        match self.settings().discovery {
            Discovery::OriginalDst { port_override, .. } => {
                let mut address = original?;
                address.set_port(port_override.unwrap_or(address.port()));
                return Some(self.dynamic_host(address));
            }
            Discovery::Named(_) => return Some(self.dynamic_host(original?)),
            Discovery::Eds { .. } | Discovery::Static | Discovery::StrictDns { .. } | Discovery::LogicalDns { .. } => {}
        }
        self.tend(world);
        let policy = match self.settings().lb {
            LbPolicy::ClusterProvided => LbPolicy::RoundRobin,
            other => other,
        };
        let mut dice = world.dice();
        // Without a hash a random one does.
        let hash = matches!(policy, LbPolicy::Hash(_)).then(|| hash.unwrap_or_else(|| dice.roll()));
        let State { set, turn, .. } = &mut *self.state.borrow_mut();
        let flat = Flat(&self.hosts);
        let loads = match again.leave_priorities_after {
            Some(every) if again.tried.len() >= every => {
                let place = |host: &Rc<Host>| self.hosts.iter().position(|one| Rc::ptr_eq(one, host));
                set.loads_after(&again.tried.iter().filter_map(place).collect::<Vec<_>>(), every)
            }
            _ => None,
        };
        let mut pick = |attempt| match hash {
            Some(hash) => set.pick_by_hash(hash, loads.as_ref(), attempt),
            None => set.pick(policy, loads.as_ref(), &flat, turn, &mut dice),
        };
        let mut picked = self.hosts.get(pick(0)?)?;
        for attempt in 1..=again.selections {
            if !again.tried.iter().any(|host| Rc::ptr_eq(host, picked)) {
                break;
            }
            picked = self.hosts.get(pick(attempt)?)?;
        }
        Some(Rc::clone(picked))
    }

    fn dynamic_host(&self, address: SocketAddr) -> Rc<Host> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let mut known = self.dynamic.borrow_mut();
        let host = known.entry(address).or_insert_with(|| Rc::new(Host::new(EndpointAddress::Socket(address))));
        Rc::clone(host)
    }

    /// Tells how an attempt went for a host.
    pub fn report(&self, world: &World, host: &Host, report: Report) {
        let Some(outlier) = &self.settings().outlier else { return };
        self.tend(world);
        let now = world.clock.now();
        for cause in host.health.monitor.report(outlier, report) {
            let mut state = self.state.borrow_mut();
            let Some(detector) = &mut state.detector else { return };
            if detector.suspect(&host.target, cause, now, &mut world.dice())
                && state.showing.changed(self.settings().update_merge_window, now)
            {
                drop(state);
                self.show();
            }
        }
    }

    /// Does what was due until now, each at its time.
    fn tend(&self, world: &World) {
        let now = world.clock.now();
        loop {
            let mut state = self.state.borrow_mut();
            let State { detector, showing, .. } = &mut *state;
            let sweep = detector.as_ref().map(Detector::next_sweep).filter(|at| *at <= now);
            let due = showing.due().filter(|at| *at <= now);
            let shown = match (sweep, due) {
                (None, None) => return,
                (sweep, Some(due)) if sweep.is_none_or(|sweep| due <= sweep) => {
                    showing.show(due);
                    true
                }
                (sweep, _) => {
                    let (Some(at), Some(detector)) = (sweep, detector) else { return };
                    detector.sweep(at, &mut world.dice()) && showing.changed(self.settings().update_merge_window, at)
                }
            };
            drop(state);
            if shown {
                self.show();
            }
        }
    }

    fn show(&self) {
        let set = self.sorted();
        self.state.borrow_mut().set = set;
    }
}

/// The sockets behind an endpoint: all addresses of a name, or the first for LOGICAL_DNS.
fn targets(world: &World, owner: &Pod, address: &EndpointAddress, discovery: &Discovery) -> Vec<EndpointAddress> {
    let EndpointAddress::Dns { host, port } = address else { return vec![address.clone()] };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return vec![EndpointAddress::ip(ip, *port)];
    }
    let (family, take) = match discovery {
        Discovery::LogicalDns { family, .. } => (*family, 1),
        Discovery::StrictDns { family, .. } => (*family, usize::MAX),
        Discovery::Eds { .. } | Discovery::Static | Discovery::OriginalDst { .. } | Discovery::Named(_) => {
            (DnsFamily::All, usize::MAX)
        }
    };
    let found = world.addresses(host, &owner.namespace);
    family.of(&found).take(take).map(|ip| EndpointAddress::ip(ip, *port)).collect()
}

/// Counts while it lives.
pub(crate) struct Counted<'a>(pub &'a Cell<u32>);

impl<'a> Counted<'a> {
    /// One more, if there are fewer than `limit`.
    pub fn take(counter: &'a Cell<u32>, limit: u32) -> Option<Counted<'a>> {
        if limit != u32::MAX && counter.get() >= limit {
            return None;
        }
        counter.set(counter.get() + 1);
        Some(Counted(counter))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
