//! Clusters at work: hosts, their pools and the limits they share.

mod balance;
mod checks;
mod connect;
mod health;
mod http2;
mod lease;
mod named;
mod pool;
mod tls;
mod told;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lateen_traffic::balance::{HostSet, Rotation, Standing, Turn};
use lateen_traffic::cluster::{
    Cluster, ClusterSettings, Discovery, DnsFamily, EndpointAddress, Health, LbPolicy, TransportLabels, UpstreamBind,
};
use lateen_traffic::health::HostHealth;
use lateen_traffic::outlier::Report;
use lateen_traffic::proxy_protocol::Told;
use lateen_traffic::retry::Window;
use lateen_traffic::{ClusterChange, Config, Dice, ResponseHead};

use crate::stats::{ClusterStats, WorkerStats};
use crate::tls::context::{Contexts, Secrets};

pub use checks::{Check, Until};
pub use connect::{connect, dial, original_destination};
pub use http2::{Http2Lease, failure as http2_failure};
pub use lease::{InFlight, Lease};
pub use named::NameCaches;
pub use pool::{Http1Lease, Pools, TcpLease};
pub use tls::server_name;

/// Addresses that DNS names of clusters resolve to, by name.
pub type Resolved = Arc<HashMap<Arc<str>, Arc<[IpAddr]>>>;

/// What all workers share about upstreams.
pub struct Shared {
    clusters: Mutex<HashMap<Arc<str>, Arc<ClusterShared>>>,
    // Names of those that are configured no more and still used.
    leaving: Mutex<HashSet<Arc<str>>>,
    // Those with hosts that something is found out about.
    watched: Mutex<HashMap<Arc<str>, Arc<ClusterShared>>>,
    pulse: Arc<health::Pulse>,
    // Hosts that nobody checks yet and somebody shall.
    to_check: Mutex<Vec<(Check, Until)>>,
    check_bell: tokio::sync::Notify,
    /// Used by clusters that bring no binding of their own.
    pub default_bind: Option<UpstreamBind>,
    /// Addresses of hosts that requests name.
    pub names: NameCaches,
    /// TLS, ready for handshakes.
    pub tls: Arc<Contexts>,
}

/// Counts of one cluster over all workers, against which its limits are held.
#[derive(Default)]
pub struct ClusterShared {
    /// Open or opening connections.
    pub connections: AtomicU32,
    /// Requests waiting for a connection.
    pub pending: AtomicU32,
    /// Requests in flight.
    pub requests: AtomicU32,
    /// Retries in flight.
    pub retries: AtomicU32,
    // Those of clusters whose retry budget has an interval.
    begun: OnceLock<Box<Window>>,
    hosts: Mutex<HashMap<EndpointAddress, Arc<HostShared>>>,
    health: health::ClusterHealth,
    pulse: Arc<health::Pulse>,
    had_traffic: AtomicBool,
    tables: balance::Tables,
    rotation: Rotation,
}

/// Counts of one host over all workers.
#[derive(Debug, Default)]
pub struct HostShared {
    /// Requests in flight.
    pub active: AtomicU32,
    /// Open connections.
    pub connections: AtomicU32,
    /// Requests ever sent.
    pub requests: AtomicU64,
    /// Requests that failed (5xx, resets).
    pub errors: AtomicU64,
    /// Requests that took too long.
    pub timeouts: AtomicU64,
    /// Connection attempts that failed.
    pub connect_failures: AtomicU64,
    /// Connections ever opened.
    pub connections_total: AtomicU64,
    /// Since when it is known.
    pub since: balance::Since,
    /// Rings when it becomes unhealthy, for clusters whose connections end then.
    fell: tokio::sync::Notify,
}

impl Shared {
    /// Nothing counted yet.
    pub fn new(default_bind: Option<UpstreamBind>) -> Self {
        Self {
            clusters: Mutex::default(),
            leaving: Mutex::default(),
            watched: Mutex::default(),
            pulse: Arc::default(),
            to_check: Mutex::default(),
            check_bell: tokio::sync::Notify::new(),
            default_bind,
            names: NameCaches::default(),
            tls: Arc::default(),
        }
    }

    /// The shared counts of a cluster.
    pub fn cluster(&self, name: &Arc<str>) -> Arc<ClusterShared> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = clusters
            .entry(Arc::clone(name))
            .or_insert_with(|| Arc::new(ClusterShared { pulse: Arc::clone(&self.pulse), ..ClusterShared::default() }));
        Arc::clone(shared)
    }

    /// Forgets clusters that went from the configuration, once no worker uses them: one that comes back meanwhile must
    /// be the same for all.
    pub fn retain(&self, config: &Config, before: &Config) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names_went = false;
        for change in config.clusters.changes_since(&before.clusters) {
            if change.is.is_none() {
                leaving.insert(Arc::clone(change.name));
            }
            names_went |= change.was.is_some_and(|was| matches!(was.settings.discovery, Discovery::Named(_)));
        }
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|name| {
            let used = clusters.get(name).is_some_and(|shared| Arc::strong_count(shared) > 1);
            let leaves = !config.clusters.contains_key(name);
            if leaves && !used {
                clusters.remove(name);
            }
            leaves && used
        });
        if names_went {
            self.names.retain(|cache| {
                config.clusters.values().any(
                    |cluster| matches!(&cluster.settings.discovery, Discovery::Named(settings) if *settings.name == *cache),
                )
            });
        }
    }
}

impl ClusterShared {
    /// Whether there ever was a connection for requests.
    fn had_traffic(&self) -> bool {
        self.had_traffic.load(Ordering::Relaxed)
    }

    /// The shared counts of a host.
    pub fn host(&self, address: &EndpointAddress) -> Arc<HostShared> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(address.clone()).or_default())
    }

    /// The shared counts of a host, if it was ever used.
    pub fn known_host(&self, address: &EndpointAddress) -> Option<Arc<HostShared>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned()
    }

    fn retain(&self, keep: impl Fn(&EndpointAddress) -> bool) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|address, shared| keep(address) || shared.connections.load(Ordering::Relaxed) > 0);
    }
}

/// Counts up while it lives, unless a limit is reached.
pub struct Permit {
    shared: Arc<ClusterShared>,
    field: fn(&ClusterShared) -> &AtomicU32,
}

impl Permit {
    /// Takes a place, if the count is below `limit`.
    pub fn take(shared: &Arc<ClusterShared>, field: fn(&ClusterShared) -> &AtomicU32, limit: u32) -> Option<Self> {
        let counter = field(shared);
        if limit != u32::MAX && counter.load(Ordering::Relaxed) >= limit {
            return None;
        }
        counter.fetch_add(1, Ordering::Relaxed);
        Some(Self { shared: Arc::clone(shared), field })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.field)(&self.shared).fetch_sub(1, Ordering::Relaxed);
    }
}

/// A cluster as one worker uses it.
pub struct Upstream {
    /// Counts over all workers.
    pub shared: Arc<ClusterShared>,
    /// Statistics of this worker.
    pub stats: Arc<ClusterStats>,
    tls: Arc<Contexts>,
    state: RefCell<State>,
}

struct State {
    cluster: Arc<Cluster>,
    resolved: Resolved,
    secrets: Arc<Secrets>,
    hosts: Vec<Rc<Host>>,
    // What discovery tells of each of `hosts`: priority and health.
    discovered: Vec<(u32, Health)>,
    set: HostSet,
    // The generation of the hosts' health that `set` is of.
    generation: u64,
    turn: Turn,
    // Hosts of clusters that find them by themselves, made as they are asked for.
    dynamic: HashMap<SocketAddr, Rc<Host>>,
    told: told::ToldHosts,
}

/// A host as one worker uses it.
pub struct Host {
    /// Its address as configured.
    pub address: EndpointAddress,
    /// The socket to connect to.
    pub target: EndpointAddress,
    /// Its name, if known.
    pub hostname: Arc<str>,
    transport_labels: TransportLabels,
    // How it is spoken to over TLS, once it was.
    tls: RefCell<Option<tls::HostTls>>,
    /// Counts over all workers.
    pub shared: Arc<HostShared>,
    /// This worker's connections to it.
    pub pools: Pools,
    weight: Cell<u32>,
    // What is found out of it, if anything is.
    health: RefCell<Option<Arc<HostHealth>>>,
    // How often it had fallen when its connections were last looked at.
    falls: Cell<u32>,
    place: RefCell<balance::Place>,
    // What it is told of the one client's connection that it is used for, and the host that it is.
    told: Option<(Told, Rc<Host>)>,
}

impl Host {
    /// The same host without its connections.
    fn again(&self) -> Host {
        Host {
            address: self.address.clone(),
            target: self.target.clone(),
            hostname: Arc::clone(&self.hostname),
            transport_labels: self.transport_labels.clone(),
            tls: RefCell::default(),
            shared: Arc::clone(&self.shared),
            pools: Pools::default(),
            weight: Cell::new(self.weight.get()),
            health: RefCell::default(),
            falls: Cell::new(0),
            place: RefCell::default(),
            told: None,
        }
    }
}

/// What was tried before for the same request, and how that counts in the choice of a host.
#[derive(Clone, Copy, Default)]
pub struct Again<'a> {
    /// The hosts, in order.
    pub tried: &'a [Rc<Host>],
    /// How often another host is chosen to avoid those.
    pub selections: u32,
    /// After each so many attempts, their priorities are left out.
    pub leave_priorities_after: Option<usize>,
}

/// Hosts such a cluster remembers before it forgets those without connections.
const DYNAMIC_HOSTS: usize = 256;

impl Upstream {
    fn new(
        cluster: Arc<Cluster>,
        resolved: Resolved,
        secrets: Arc<Secrets>,
        shared: &Shared,
        stats: &WorkerStats,
        dice: &mut dyn Dice,
    ) -> Self {
        let tls = Arc::clone(&shared.tls);
        let shared = shared.cluster(&cluster.settings.name);
        let this = Self {
            stats: stats.cluster(crate::stats::cluster_scope(&cluster.settings)),
            state: RefCell::new(State {
                cluster: Arc::clone(&cluster),
                resolved: Arc::clone(&resolved),
                secrets,
                hosts: Vec::new(),
                discovered: Vec::new(),
                set: HostSet::default(),
                generation: 0,
                turn: Turn::beginning(&shared.rotation, dice),
                dynamic: HashMap::new(),
                told: told::ToldHosts::default(),
            }),
            shared,
            tls,
        };
        this.rebuild(cluster, resolved);
        this
    }

    /// The cluster's settings.
    pub fn settings(&self) -> Arc<ClusterSettings> {
        Arc::clone(&self.state.borrow().cluster.settings)
    }

    fn update(&self, cluster: &Arc<Cluster>, resolved: &Resolved, secrets: &Arc<Secrets>) {
        let current = {
            let mut state = self.state.borrow_mut();
            if !Arc::ptr_eq(&state.secrets, secrets) {
                state.secrets = Arc::clone(secrets);
            }
            Arc::ptr_eq(&state.cluster, cluster)
                && (Arc::ptr_eq(&state.resolved, resolved) || !uses_dns(&cluster.settings.discovery))
        };
        if !current {
            self.rebuild(Arc::clone(cluster), Arc::clone(resolved));
        }
    }

    /// Makes the host list anew; hosts that stay keep their pools.
    fn rebuild(&self, cluster: Arc<Cluster>, resolved: Resolved) {
        let mut state = self.state.borrow_mut();
        // What hosts are spoken to by has changed: connections are made anew.
        let settings = &cluster.settings;
        let respoken = !Arc::ptr_eq(&state.cluster.settings, settings)
            && (settings.speaks_tls() || state.cluster.settings.speaks_tls());
        let mut old: HashMap<(EndpointAddress, EndpointAddress), Rc<Host>> =
            state.hosts.drain(..).map(|h| ((h.address.clone(), h.target.clone()), h)).collect();
        if respoken {
            old.clear();
            state.dynamic.clear();
        }
        let mut discovered: Vec<(u32, Health)> = Vec::new();
        let mut hosts = Vec::new();
        let placed = cluster.endpoints.localities.iter().enumerate();
        for (locality, group, endpoint) in placed.flat_map(|(i, l)| l.endpoints.iter().map(move |e| (i, l, e))) {
            for target in targets(&endpoint.address, &cluster.settings.discovery, &resolved) {
                let key = (endpoint.address.clone(), target.clone());
                let known = old.remove(&key).filter(|host| host.transport_labels == endpoint.transport_labels);
                let host = match known {
                    Some(host) => {
                        host.weight.set(endpoint.weight.max(1));
                        host
                    }
                    None => Rc::new(Host {
                        shared: self.shared.host(&target),
                        address: endpoint.address.clone(),
                        target,
                        hostname: Arc::clone(&endpoint.hostname),
                        transport_labels: endpoint.transport_labels.clone(),
                        tls: RefCell::default(),
                        pools: Pools::default(),
                        weight: Cell::new(endpoint.weight.max(1)),
                        health: RefCell::default(),
                        falls: Cell::new(0),
                        place: RefCell::default(),
                        told: None,
                    }),
                };
                host.place.replace(balance::Place { locality, hash_key: endpoint.hash_key.clone() });
                hosts.push(host);
                discovered.push((group.priority, endpoint.health));
            }
        }
        if !finds_hosts_itself(&cluster.settings.discovery) {
            let addresses: std::collections::HashSet<&EndpointAddress> = hosts.iter().map(|h| &h.target).collect();
            self.shared.retain(|address| addresses.contains(address));
        }
        let healths = self.shared.healths(hosts.iter().map(|host| host.target.clone()));
        for (host, health) in hosts.iter().zip(healths) {
            host.health.replace(health);
        }
        state.told.keep_of(&hosts);
        state.hosts = hosts;
        state.discovered = discovered;
        state.cluster = cluster;
        state.resolved = resolved;
        self.sort(&mut state);
    }

    /// Sorts hosts by their health as it is now.
    fn sort(&self, state: &mut State) {
        // Read first: what changes meanwhile is seen the next time.
        state.generation = self.shared.generation();
        for host in &state.hosts {
            let falls = host.health.borrow().as_ref().map_or(0, |health| health.falls());
            if host.falls.replace(falls) != falls {
                // If it comes back, other connections may do better.
                host.pools.retire();
            }
        }
        let all_in_all = state.hosts.iter().zip(&state.discovered).map(|(host, (priority, told))| {
            let health = host.health.borrow();
            Standing {
                priority: *priority,
                health: health.as_ref().map_or(*told, |health| health.all_in_all(*told)),
                excluded: health.as_ref().is_some_and(|health| health.is_excluded()),
            }
        });
        state.set = balance::host_set(&state.cluster, &state.hosts, all_in_all, &self.shared.tables);
    }

    /// Tells how an attempt went for `host`. `settings` are the cluster's.
    pub fn report(&self, settings: &ClusterSettings, host: &Host, report: Report, dice: &mut dyn Dice) {
        let Some(outlier) = &settings.outlier else { return };
        let host = host.told.as_ref().map_or(host, |(_, of)| of);
        let health = host.health.borrow();
        let Some(health) = health.as_ref() else { return };
        for cause in health.monitor.report(outlier, report) {
            self.shared.suspect(&host.target, cause, dice);
        }
    }

    /// Looks whether an answer asks to leave its host alone, which counts where hosts are checked: until a check succeeds.
    pub fn heed(&self, settings: &ClusterSettings, host: &Host, answer: &ResponseHead) {
        if settings.health_check.is_some() && answer.headers.contains("x-envoy-immediate-health-check-fail") {
            let host = host.told.as_ref().map_or(host, |(_, of)| of);
            self.shared.leave_alone(&host.target);
        }
    }

    /// Chooses a host. `original` is the address the client meant, or that of the host it names, `hash` what the request is
    /// hashed to.
    pub fn pick(
        &self,
        original: Option<SocketAddr>,
        hash: Option<u64>,
        again: Again<'_>,
        dice: &mut dyn Dice,
    ) -> Option<Rc<Host>> {
        let state = &mut *self.state.borrow_mut();
        match state.cluster.settings.discovery {
            Discovery::OriginalDst { port_override, .. } => {
                let mut address = original?;
                if let Some(port) = port_override {
                    address.set_port(port);
                }
                return Some(self.dynamic_host(state, address));
            }
            Discovery::Named(_) => return Some(self.dynamic_host(state, original?)),
            _ => {}
        }
        if state.generation != self.shared.generation() {
            self.sort(state);
        }
        let policy = match state.cluster.settings.lb {
            LbPolicy::ClusterProvided => LbPolicy::RoundRobin,
            other => other,
        };
        // Without a hash a random one does.
        let hash = matches!(policy, LbPolicy::Hash(_)).then(|| hash.unwrap_or_else(|| dice.roll()));
        let (set, flat, turn) = (&state.set, balance::Flat(&state.hosts), &mut state.turn);
        let loads = match again.leave_priorities_after {
            Some(every) if again.tried.len() >= every => {
                let place = |host: &Rc<Host>| state.hosts.iter().position(|h| host.is(h)).unwrap_or(usize::MAX);
                set.loads_after(&again.tried.iter().map(place).collect::<Vec<_>>(), every)
            }
            _ => None,
        };
        let mut pick = |attempt| match hash {
            Some(hash) => set.pick_by_hash(hash, loads.as_ref(), attempt),
            None => set.pick(policy, loads.as_ref(), &flat, turn, dice),
        };
        let mut picked = pick(0)?;
        for attempt in 1..=again.selections {
            if !again.tried.iter().any(|h| h.is(&state.hosts[picked])) {
                break;
            }
            picked = pick(attempt)?;
        }
        if state.set.picked_in_panic(picked) {
            self.stats.lb_healthy_panic.inc();
        }
        state.hosts.get(picked).cloned()
    }

    fn dynamic_host(&self, state: &mut State, address: SocketAddr) -> Rc<Host> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if let Some(host) = state.dynamic.get(&address) {
            return Rc::clone(host);
        }
        if state.dynamic.len() >= DYNAMIC_HOSTS {
            state.dynamic.retain(|_, host| Rc::strong_count(host) > 1 || !host.pools.is_empty());
            let known = &state.dynamic;
            self.shared.retain(|a| matches!(a, EndpointAddress::Socket(a) if known.contains_key(a)));
        }
        let target = EndpointAddress::Socket(address);
        let host = Rc::new(Host {
            shared: self.shared.host(&target),
            address: target.clone(),
            target,
            hostname: "".into(),
            transport_labels: TransportLabels::default(),
            tls: RefCell::default(),
            pools: Pools::default(),
            weight: Cell::new(1),
            health: RefCell::default(),
            falls: Cell::new(0),
            place: RefCell::default(),
            told: None,
        });
        state.dynamic.insert(address, Rc::clone(&host));
        host
    }

    /// Closes pooled connections that the peer closed or that were idle for too long; tells how many are left.
    pub fn sweep(&self, now: tokio::time::Instant) -> usize {
        let state = self.state.borrow();
        let settings = &state.cluster.settings;
        state
            .hosts
            .iter()
            .chain(state.dynamic.values())
            .chain(state.told.iter())
            .map(|h| h.pools.sweep(now, settings))
            .sum()
    }
}

/// Whether hosts are made as they are asked for.
fn finds_hosts_itself(discovery: &Discovery) -> bool {
    matches!(discovery, Discovery::OriginalDst { .. } | Discovery::Named(_))
}

fn uses_dns(discovery: &Discovery) -> bool {
    matches!(discovery, Discovery::StrictDns { .. } | Discovery::LogicalDns { .. })
}

/// The sockets behind an endpoint: all addresses of a name, or the first for LOGICAL_DNS.
pub fn targets(address: &EndpointAddress, discovery: &Discovery, resolved: &Resolved) -> Vec<EndpointAddress> {
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
    let addresses = resolved.get(host).map_or(&[][..], |a| a);
    family.of(addresses).take(take).map(|ip| EndpointAddress::ip(ip, *port)).collect()
}

/// The clusters one worker has used so far.
#[derive(Default)]
pub struct Upstreams {
    used: RefCell<HashMap<Arc<str>, Rc<Upstream>>>,
}

impl Upstreams {
    /// The cluster of this name, as the configuration has it now; `None` if it has none.
    pub fn get(
        &self,
        name: &str,
        config: &Config,
        resolved: &Resolved,
        shared: &Shared,
        stats: &WorkerStats,
        dice: &mut dyn Dice,
    ) -> Option<Rc<Upstream>> {
        let cluster = config.clusters.get(name)?;
        if let Some(upstream) = self.used.borrow().get(name) {
            upstream.update(cluster, resolved, &config.secrets);
            return Some(Rc::clone(upstream));
        }
        let upstream = Rc::new(Upstream::new(
            Arc::clone(cluster),
            Arc::clone(resolved),
            Arc::clone(&config.secrets),
            shared,
            stats,
            dice,
        ));
        self.used.borrow_mut().insert(Arc::clone(&cluster.settings.name), Rc::clone(&upstream));
        Some(upstream)
    }

    /// Follows a new configuration: removed clusters are forgotten, removed hosts lose their idle connections.
    pub fn follow(&self, config: &Config, before: &Config, resolved: &Resolved) {
        let mut used = self.used.borrow_mut();
        for ClusterChange { name, was: _, is } in config.clusters.changes_since(&before.clusters) {
            match (used.get(name), is) {
                (Some(upstream), Some(cluster)) => upstream.update(cluster, resolved, &config.secrets),
                (Some(_), None) => _ = used.remove(name),
                (None, _) => {}
            }
        }
        drop(used);
        if !Arc::ptr_eq(&config.secrets, &before.secrets) {
            self.resolve(config, resolved);
        }
    }

    /// Follows new addresses of DNS clusters, or new secrets.
    pub fn resolve(&self, config: &Config, resolved: &Resolved) {
        for (name, upstream) in self.used.borrow().iter() {
            if let Some(cluster) = config.clusters.get(name) {
                upstream.update(cluster, resolved, &config.secrets);
            }
        }
    }

    /// Closes what need not stay open; see [`Upstream::sweep`].
    pub fn sweep(&self, now: tokio::time::Instant) {
        for upstream in self.used.borrow().values() {
            upstream.sweep(now);
        }
    }
}
