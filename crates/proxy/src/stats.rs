//! Statistics: what the proxy counts, per worker, and how it is merged when somebody asks.
//!
//! Names, meaning and output are Envoy's ("Statistics overview" in Envoy's documentation). A worker holds `Arc`s of its
//! own scopes and writes to them without locks; the registry's locks are taken only when a scope is first seen and
//! when statistics are read. Knows nothing of HTTP serving: [`Snapshot`] renders to text, the admin server sends it.

mod by_prefix;
mod cells;
mod policies;
mod prometheus;
mod rbac;
mod scopes;
mod snapshot;
mod text;
mod tls;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lateen_traffic::Config;
use lateen_traffic::cluster::{Cluster, ClusterSettings};
use lateen_traffic::filter::{FilterKind, Overrides};
use lateen_traffic::hcm::RouteSource;
use lateen_traffic::listener::{Gate, Listener, Terminal};
use lateen_traffic::rbac::Rbac;
use lateen_traffic::route::{Action, RouteConfig, Target, WeightedCluster};

use crate::refusals::{Refusal, Refusals};

pub use cells::{BOUNDS_MS, Counter, Distribution, Gauge, Histogram, SharedCounter, SharedGauge};
pub use rbac::RbacStats;
pub use scopes::{
    AuthorizationStats, ClusterManagerStats, ClusterStats, ConnectionAuthzStats, ControlPlaneStats, DnsStats,
    FilesystemStats, Http2Stats, HttpStats, ListenerManagerStats, ListenerStats, RouteStats, ServerStats, TcpStats,
};
pub use snapshot::{Buckets, ClusterFacts, Filter, Snapshot, Types};

/// All statistics of the process.
#[derive(Debug)]
pub struct Stats {
    workers: Vec<Mutex<Scopes>>,
    /// There are scopes that no configuration names and something still uses.
    draining: AtomicBool,
    /// Values of counters when they were last reset. Cells are their workers' to write, so a reset is a subtraction.
    resets: Mutex<snapshot::Resets>,
    tags: Tags,
    started: Instant,
    /// Who was refused lately.
    pub(crate) refusals: Refusals,
    /// `server.`
    pub server: ServerStats,
    /// `listener_manager.`
    pub listener_manager: ListenerManagerStats,
    /// `cluster_manager.`
    pub cluster_manager: ClusterManagerStats,
    /// `control_plane.`
    pub control_plane: ControlPlaneStats,
    /// `filesystem.`
    pub filesystem: FilesystemStats,
    /// `http2.`
    pub http2: Http2Stats,
    /// `dns.getaddrinfo.`
    pub dns: DnsStats,
}

/// Names of the Prometheus labels. Values are the whole name up to a `;`, which ends a name in Istio's configuration;
/// Envoy's own patterns would cut a cluster's name at its first dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tags {
    /// Envoy's default tags: `envoy_cluster_name`, `envoy_http_conn_manager_prefix`, `envoy_response_code`, …
    #[default]
    Envoy,
    /// The same without `envoy_`, as the `stats_config` in Istio's bootstrap defines them: `cluster_name`, …
    Istio,
}

/// The scopes of one worker.
#[derive(Debug, Default)]
struct Scopes {
    clusters: Named<ClusterStats>,
    ext_authz: Named<ConnectionAuthzStats>,
    http: Named<HttpStats>,
    listeners: Named<ListenerStats>,
    rbac: Named<RbacStats>,
    routes: Named<RouteStats>,
    tcp: Named<TcpStats>,
}

/// Scopes of one kind by name.
#[derive(Debug)]
struct Named<T>(HashMap<Arc<str>, Arc<T>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Default> Named<T> {
    fn get(&mut self, name: &Arc<str>) -> Arc<T> {
        match self.0.get(name) {
            Some(scope) => scope.clone(),
            None => self.0.entry(name.clone()).or_default().clone(),
        }
    }

    /// Drops scopes that are neither named nor in use: a connection that drains goes on counting. Tells whether there are
    /// such.
    fn retain(&mut self, names: &HashSet<Arc<str>>) -> bool {
        let mut draining = false;
        self.0.retain(|name, scope| {
            let (named, used) = (names.contains(name), Arc::strong_count(scope) > 1);
            draining |= used && !named;
            named || used
        });
        if self.0.capacity() > 4 * self.0.len().max(16) {
            self.0.shrink_to_fit();
        }
        draining
    }
}

impl Stats {
    /// Statistics for this many workers, with Envoy's default tags.
    pub fn new(workers: usize) -> Arc<Self> {
        Self::with_tags(workers, Tags::default())
    }

    /// Statistics for this many workers.
    pub fn with_tags(workers: usize, tags: Tags) -> Arc<Self> {
        let stats = Self {
            workers: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            draining: AtomicBool::new(false),
            resets: Mutex::default(),
            tags,
            started: Instant::now(),
            refusals: Refusals::new(workers.max(1)),
            server: ServerStats::default(),
            listener_manager: ListenerManagerStats::default(),
            cluster_manager: ClusterManagerStats::default(),
            control_plane: ControlPlaneStats::default(),
            filesystem: FilesystemStats::default(),
            http2: Http2Stats::default(),
            dns: DnsStats::default(),
        };
        stats.server.concurrency.set(stats.workers.len() as i64);
        Arc::new(stats)
    }

    /// The handle of one worker. Only that worker's thread may write to the scopes it gives: two writers would lose
    /// counts. An index beyond the number of workers shares the last one's scopes.
    pub fn worker(self: &Arc<Self>, index: usize) -> WorkerStats {
        WorkerStats { index: index.min(self.workers.len() - 1), stats: self.clone() }
    }

    /// Requests of a connection manager that suffer an injected fault at this moment, on all workers. As in Envoy,
    /// workers that ask at once may all be told that there is room for one more.
    pub fn active_faults(&self, prefix: &Arc<str>) -> u64 {
        let of =
            |worker: &Mutex<Scopes>| lock(worker).http.0.get(prefix).map_or(0, |http| http.fault().active_faults.get());
        self.workers.iter().map(of).sum()
    }

    /// Since when this process counts.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Forgets scopes that the configuration no longer has and nothing uses any more. To be called after each change of
    /// configuration; it also catches what was still in use the last time. Endpoints that change cost nothing here.
    pub fn retain(&self, config: &Config, before: &Config) {
        let clusters_same =
            config.clusters.changes_since(&before.clusters).all(|change| match (change.was, change.is) {
                (Some(was), Some(is)) => cluster_scope(&was.settings) == cluster_scope(&is.settings),
                _ => false,
            });
        let same = clusters_same
            && Arc::ptr_eq(&config.listeners, &before.listeners)
            && Arc::ptr_eq(&config.routes, &before.routes);
        if same && !self.draining.load(Ordering::Relaxed) {
            return;
        }
        let names = ConfigScopes::of(config);
        let mut draining = false;
        for worker in &self.workers {
            let mut scopes = lock(worker);
            scopes.http.0.values().for_each(|http| http.retain_policies(&names.policies));
            scopes.rbac.0.values().for_each(|rbac| rbac.retain_policies(&names.policies));
            draining |= scopes.clusters.retain(&names.clusters);
            draining |= scopes.ext_authz.retain(&names.ext_authz);
            draining |= scopes.http.retain(&names.http);
            draining |= scopes.listeners.retain(&names.listeners);
            draining |= scopes.rbac.retain(&names.rbac);
            draining |= scopes.routes.retain(&names.routes);
            draining |= scopes.tcp.retain(&names.tcp);
        }
        self.draining.store(draining, Ordering::Relaxed);
        lock(&self.resets).retain(|kind, name| match kind {
            snapshot::Kind::Cluster => names.clusters.contains(name),
            snapshot::Kind::ExtAuthz => names.ext_authz.contains(name),
            snapshot::Kind::Http => names.http.contains(name),
            snapshot::Kind::Listener => names.listeners.contains(name),
            snapshot::Kind::Rbac => names.rbac.contains(name),
            snapshot::Kind::Route => names.routes.contains(name),
            snapshot::Kind::Tcp => names.tcp.contains(name),
            _ => true,
        });
    }

    /// Sets all counters to zero, as far as a reader can see. Gauges and histograms stay, as in Envoy. The arguments
    /// are those of [`snapshot`](Self::snapshot).
    pub fn reset_counters(&self, config: &Config, facts: &dyn Fn(&Cluster) -> ClusterFacts) {
        let now = snapshot::merge(self, config, facts);
        lock(&self.resets).take(&now);
    }

    /// All statistics at this moment. The configuration says which clusters exist, `facts` what is known of one besides
    /// what workers count.
    pub fn snapshot(&self, config: &Config, facts: &dyn Fn(&Cluster) -> ClusterFacts) -> Snapshot {
        let mut scopes = snapshot::merge(self, config, facts);
        lock(&self.resets).subtract(&mut scopes);
        Snapshot::new(scopes, self.tags)
    }

    fn by_name<T>(&self, pick: impl Fn(&Scopes) -> &Named<T>) -> ByName<T> {
        let mut all = ByName::new();
        for (index, worker) in self.workers.iter().enumerate() {
            for (name, scope) in &pick(&lock(worker)).0 {
                all.entry(name.clone()).or_default().push((index, scope.clone()));
            }
        }
        all
    }
}

/// Scopes of one kind by name, each with the number of its worker.
type ByName<T> = BTreeMap<Arc<str>, Vec<(usize, Arc<T>)>>;

/// The statistics of one worker.
#[derive(Debug, Clone)]
pub struct WorkerStats {
    stats: Arc<Stats>,
    index: usize,
}

impl WorkerStats {
    /// The scope of a cluster; the name is [`cluster_scope`]'s.
    pub fn cluster(&self, name: &Arc<str>) -> Arc<ClusterStats> {
        self.scopes().clusters.get(name)
    }

    /// The scope of questions about connections, by the name they give it, for example `ext_authz.waf`.
    pub fn ext_authz(&self, name: &Arc<str>) -> Arc<ConnectionAuthzStats> {
        self.scopes().ext_authz.get(name)
    }

    /// The scope of an HTTP connection manager, by its `stat_prefix`.
    pub fn http(&self, prefix: &Arc<str>) -> Arc<HttpStats> {
        self.scopes().http.get(prefix)
    }

    /// The scope of a listener; the name is [`listener_scope`]'s.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerStats> {
        self.scopes().listeners.get(name)
    }

    /// The scope of rules about connections, by the name they give it, for example `tcp.rbac`.
    pub fn rbac(&self, name: &Arc<str>) -> Arc<RbacStats> {
        self.scopes().rbac.get(name)
    }

    /// The scope of a route. The lock is this worker's own, and only routes that keep statistics take it.
    pub fn route(&self, name: &Arc<str>) -> Arc<RouteStats> {
        self.scopes().routes.get(name)
    }

    /// The scope of a TCP proxy, by its `stat_prefix`.
    pub fn tcp(&self, prefix: &Arc<str>) -> Arc<TcpStats> {
        self.scopes().tcp.get(prefix)
    }

    /// Keeps who was refused, for a while.
    pub(crate) fn refused(&self, refusal: Refusal) {
        self.stats.refusals.add(self.index, refusal);
    }

    /// All statistics.
    pub fn all(&self) -> &Arc<Stats> {
        &self.stats
    }

    fn scopes(&self) -> MutexGuard<'_, Scopes> {
        lock(&self.stats.workers[self.index])
    }
}

/// The name under which a cluster's statistics are kept.
pub fn cluster_scope(settings: &ClusterSettings) -> &Arc<str> {
    settings.alt_stat_name.as_ref().unwrap_or(&settings.name)
}

/// The name under which a listener's statistics are kept: its first address with `_` for `:`, for example
/// `0.0.0.0_15001`, `[__]_80`.
pub fn listener_scope(listener: &Listener) -> Arc<str> {
    listener
        .addresses
        .first()
        .map_or_else(|| listener.name.clone(), |a: &SocketAddr| a.to_string().replace(':', "_").into())
}

/// The names of all scopes that a configuration has.
#[derive(Debug, Default)]
struct ConfigScopes {
    clusters: HashSet<Arc<str>>,
    ext_authz: HashSet<Arc<str>>,
    http: HashSet<Arc<str>>,
    listeners: HashSet<Arc<str>>,
    policies: HashSet<Arc<str>>,
    rbac: HashSet<Arc<str>>,
    routes: HashSet<Arc<str>>,
    tcp: HashSet<Arc<str>>,
}

impl ConfigScopes {
    fn of(config: &Config) -> Self {
        let mut names = Self::default();
        names.clusters.extend(config.clusters.values().map(|c| cluster_scope(&c.settings).clone()));
        names.routes.extend(Self::of_routes(config).cloned());
        for routes in Self::route_configs(config) {
            names.policies.extend(rules_of(routes).flat_map(Rbac::policies).cloned());
        }
        for listener in config.listeners.values() {
            names.listeners.insert(listener_scope(listener));
            for chain in listener.chains.iter().chain(&listener.default_chain) {
                for gate in &chain.gates {
                    match gate {
                        Gate::Rules(rbac) => {
                            names.rbac.insert(rbac.stat_scope.clone());
                            names.policies.extend(rbac.policies().cloned());
                        }
                        Gate::Ask(filter) => {
                            names.ext_authz.insert(filter.stat_scope.clone());
                        }
                    }
                }
                match &chain.terminal {
                    Terminal::Http(hcm) => {
                        names.http.insert(hcm.stat_prefix.clone());
                        for filter in &hcm.filters {
                            if let FilterKind::Rbac(rbac) = &filter.kind {
                                names.policies.extend(rbac.policies().cloned());
                            }
                        }
                    }
                    Terminal::Tcp(tcp) => {
                        names.tcp.insert(tcp.stat_prefix.clone());
                    }
                }
            }
        }
        names
    }

    /// Those of routes.
    fn of_routes(config: &Config) -> impl Iterator<Item = &Arc<str>> {
        Self::route_configs(config).flat_map(|routes| &routes.stats)
    }

    fn route_configs(config: &Config) -> impl Iterator<Item = &Arc<RouteConfig>> {
        let chains =
            config.listeners.values().flat_map(|listener| listener.chains.iter().chain(&listener.default_chain));
        let inline = chains.filter_map(|chain| match &chain.terminal {
            Terminal::Http(hcm) => match &hcm.routes {
                RouteSource::Inline(routes) => Some(routes),
                RouteSource::Named(_) => None,
            },
            Terminal::Tcp(_) => None,
        });
        config.routes.values().chain(inline)
    }
}

/// The rules about access that a route configuration has.
fn rules_of(routes: &RouteConfig) -> impl Iterator<Item = &Rbac> {
    let hosts = routes.virtual_hosts.iter();
    let levels = hosts.flat_map(|host| {
        let of_routes = host.routes.iter().flat_map(|route| {
            let weighted: &[WeightedCluster] = match &route.action {
                Action::Forward(forward) => match &forward.target {
                    Target::Weighted(clusters) => clusters,
                    _ => &[],
                },
                _ => &[],
            };
            std::iter::once(&route.filters).chain(weighted.iter().map(|cluster| &cluster.filters))
        });
        std::iter::once(&host.filters).chain(of_routes)
    });
    std::iter::once(&routes.filters).chain(levels).flat_map(Overrides::rules)
}

/// A panic elsewhere while a lock was held leaves plain numbers behind, which are as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
