//! Statistics of one moment: the workers' scopes added up, and what of them is to be shown.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use lateen_traffic::Config;
use lateen_traffic::cluster::{Cluster, Health};

use super::cells::{BOUNDS_MS, Distribution};
use super::rbac::RbacStats;
use super::scopes::{ClusterStats, ConnectionAuthzStats, HttpStats, ListenerStats, RouteStats, TcpStats};
use super::{ByName, Stats, Tags, cluster_scope};
use crate::tls::held::{self, OfContext};

/// One statistic's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Counter(u64),
    Gauge { value: i64, used: bool },
    Histogram(Box<Distribution>),
}

impl Value {
    fn add(&mut self, other: &Value) {
        match (self, other) {
            (Self::Counter(a), Self::Counter(b)) => *a = a.wrapping_add(*b),
            (Self::Gauge { value, used }, Self::Gauge { value: more, used: other }) => {
                *value = value.wrapping_add(*more);
                *used |= other;
            }
            (Self::Histogram(a), Self::Histogram(b)) => a.add(b),
            // One name has one type.
            _ => {}
        }
    }

    /// Whether it was ever written (Envoy's `usedonly`).
    pub(super) fn used(&self) -> bool {
        match self {
            Self::Counter(n) => *n > 0,
            Self::Gauge { used, .. } => *used,
            Self::Histogram(d) => d.count() > 0,
        }
    }
}

/// One statistic inside its scope.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub name: Cow<'static, str>,
    pub value: Value,
}

impl Entry {
    pub(super) fn new(name: &'static str, value: Value) -> Self {
        Self { name: Cow::Borrowed(name), value }
    }

    fn gauge(name: &'static str, value: u64) -> Self {
        Self::new(name, Value::Gauge { value: i64::try_from(value).unwrap_or(i64::MAX), used: true })
    }
}

/// What a scope is about; in the order of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Cluster,
    ClusterManager,
    ControlPlane,
    Dns,
    /// Questions about connections, whose whole name is the configuration's.
    ExtAuthz,
    Filesystem,
    Http,
    Http2,
    Listener,
    ListenerManager,
    /// Rules about connections, whose whole name is the configuration's.
    Rbac,
    Server,
    Tcp,
    Route,
}

impl Kind {
    /// The first part of its statistics' names.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::ClusterManager => "cluster_manager",
            Self::ControlPlane => "control_plane",
            Self::Dns => "dns.getaddrinfo",
            Self::Filesystem => "filesystem",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Listener => "listener",
            Self::ListenerManager => "listener_manager",
            Self::ExtAuthz | Self::Rbac => "",
            Self::Server => "server",
            Self::Tcp => "tcp",
            Self::Route => "vhost",
        }
    }
}

/// A scope and its values, sorted by name. `name` is empty where there is one of a kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scope {
    pub kind: Kind,
    pub name: Arc<str>,
    pub entries: Vec<Entry>,
}

impl Scope {
    fn new(kind: Kind, name: &Arc<str>, mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Self { kind, name: name.clone(), entries }
    }

    /// The first part of its metrics' names: what is no label of theirs.
    pub(super) fn metric_prefix(&self) -> &str {
        match self.kind {
            Kind::ExtAuthz | Kind::Rbac => &self.name,
            Kind::Route => "vhost.route",
            kind => kind.prefix(),
        }
    }

    /// A statistic's whole name.
    pub(super) fn full_name(&self, entry: &Entry, out: &mut String) {
        for part in [self.kind.prefix(), &self.name].into_iter().filter(|part| !part.is_empty()) {
            out.push_str(part);
            out.push('.');
        }
        out.push_str(&entry.name);
    }
}

/// Adds up the workers' scopes.
pub(super) fn merge(stats: &Stats, config: &Config, facts: &dyn Fn(&Cluster) -> ClusterFacts) -> Vec<Scope> {
    let mut scopes = clusters(stats, config, facts);
    let none: Arc<str> = "".into();
    let mut single = |kind, fill: &dyn Fn(&mut Vec<Entry>)| scopes.push(one(kind, &none, fill));
    single(Kind::ClusterManager, &|out| stats.cluster_manager.read(out));
    single(Kind::ControlPlane, &|out| stats.control_plane.read(out));
    single(Kind::Dns, &|out| stats.dns.read(out));
    named(Kind::ExtAuthz, stats.by_name(|s| &s.ext_authz), ConnectionAuthzStats::read, &mut scopes);
    let mut single = |kind, fill: &dyn Fn(&mut Vec<Entry>)| scopes.push(one(kind, &none, fill));
    single(Kind::Filesystem, &|out| stats.filesystem.read(out));
    single(Kind::Http2, &|out| stats.http2.read(out));
    for (name, workers) in stats.by_name(|s| &s.http) {
        let values = workers.iter().map(|(_, http): &(_, Arc<HttpStats>)| {
            let mut out = Vec::with_capacity(64);
            http.read(&mut out);
            http.read_responses(&mut out);
            http.read_filters(&mut out);
            out
        });
        scopes.push(Scope::new(Kind::Http, &name, sum(values)));
    }
    let mut expirations: HashMap<Arc<str>, Vec<Entry>> = HashMap::new();
    for listener in config.listeners.values() {
        for settings in held::of_listener(listener) {
            let out = expirations.entry(super::listener_scope(listener)).or_default();
            super::tls::expirations(&OfContext::new(settings, &config.secrets), out);
        }
    }
    let mut connections = 0;
    for (name, workers) in stats.by_name(|s| &s.listeners) {
        let values = workers.iter().map(|(index, listener): &(_, Arc<ListenerStats>)| {
            let mut out = Vec::with_capacity(16);
            listener.read(&mut out);
            listener.read_tls(&mut out);
            let active = listener.downstream_cx_active.get();
            connections += active;
            for (what, value) in [
                ("active", Value::Gauge { value: active as i64, used: true }),
                ("total", Value::Counter(listener.downstream_cx_total.get())),
            ] {
                out.push(Entry { name: format!("worker_{index}.downstream_cx_{what}").into(), value });
            }
            out
        });
        let mut entries = sum(values);
        entries.extend(expirations.remove(&name).unwrap_or_default());
        scopes.push(Scope::new(Kind::Listener, &name, entries));
    }
    let mut single = |kind, fill: &dyn Fn(&mut Vec<Entry>)| scopes.push(one(kind, &none, fill));
    single(Kind::ListenerManager, &|out| stats.listener_manager.read(out));
    named(Kind::Rbac, stats.by_name(|s| &s.rbac), RbacStats::read, &mut scopes);
    let mut single = |kind, fill: &dyn Fn(&mut Vec<Entry>)| scopes.push(one(kind, &none, fill));
    single(Kind::Server, &|out| {
        stats.server.read(out);
        let memory = crate::admin::memory::read();
        out.push(Entry::gauge("uptime", stats.started.elapsed().as_secs()));
        out.push(Entry::gauge("total_connections", connections));
        out.push(Entry::gauge("days_until_first_cert_expiring", super::tls::days_left(config, SystemTime::now())));
        out.push(Entry::gauge("memory_allocated", memory.allocated));
        out.push(Entry::gauge("memory_heap_size", memory.heap));
        out.push(Entry::gauge("memory_physical_size", memory.resident));
    });
    named(Kind::Tcp, stats.by_name(|s| &s.tcp), TcpStats::read, &mut scopes);
    let mut counted = stats.by_name(|s| &s.routes);
    for name in super::ConfigScopes::of_routes(config) {
        counted.entry(Arc::clone(name)).or_default();
    }
    for (name, workers) in counted {
        let read = |route: &RouteStats| {
            let mut out = Vec::with_capacity(16);
            route.read(&mut out);
            route.read_responses(&mut out);
            out.retain(|entry| entry.name != "upstream_rq_time" || entry.value.used());
            out
        };
        let entries = match workers.is_empty() {
            true => read(&RouteStats::default()),
            false => sum(workers.iter().map(|(_, route)| read(route))),
        };
        scopes.push(Scope::new(Kind::Route, &name, entries));
    }
    scopes
}

/// The only scope of a kind.
fn one(kind: Kind, none: &Arc<str>, fill: &dyn Fn(&mut Vec<Entry>)) -> Scope {
    let mut entries = Vec::new();
    fill(&mut entries);
    Scope::new(kind, none, entries)
}

/// Adds the scopes of one kind, by their names.
fn named<T>(kind: Kind, all: ByName<T>, read: fn(&T, &mut Vec<Entry>), scopes: &mut Vec<Scope>) {
    for (name, workers) in all {
        let values = workers.iter().map(|(_, scope)| {
            let mut out = Vec::with_capacity(16);
            read(scope, &mut out);
            out
        });
        scopes.push(Scope::new(kind, &name, sum(values)));
    }
}

/// The clusters of the configuration and those that still count.
fn clusters(stats: &Stats, config: &Config, facts: &dyn Fn(&Cluster) -> ClusterFacts) -> Vec<Scope> {
    let mut known: HashMap<&Arc<str>, Vec<Entry>> = HashMap::new();
    for cluster in config.clusters.values() {
        let mut facts = facts(cluster).entries();
        for settings in held::of_cluster(&cluster.settings) {
            super::tls::expirations(&OfContext::new(settings, &config.secrets), &mut facts);
        }
        // Several clusters may share a name for statistics.
        let name = cluster_scope(&cluster.settings);
        let together = match known.remove(name) {
            Some(before) => sum([before, facts].into_iter()),
            None => facts,
        };
        known.insert(name, together);
    }
    let mut counted = stats.by_name(|s| &s.clusters);
    for name in known.keys() {
        if !counted.contains_key(*name) {
            counted.insert((*name).clone(), Vec::new());
        }
    }
    let mut scopes = Vec::with_capacity(counted.len() + 16);
    for (name, workers) in counted {
        let read = |cluster: &ClusterStats| {
            let mut out = Vec::with_capacity(64);
            cluster.read(&mut out);
            cluster.read_responses(&mut out);
            cluster.read_tls(&mut out);
            cluster.read_ext_authz(&mut out);
            out
        };
        let mut entries = if workers.is_empty() {
            read(&ClusterStats::default())
        } else {
            sum(workers.iter().map(|(_, cluster)| read(cluster)))
        };
        // As in Envoy, it comes into being with the first response; idle clusters are many and buckets are long.
        entries.retain(|entry| entry.name != "upstream_rq_time" || entry.value.used());
        entries.extend(known.remove(&name).unwrap_or_default());
        scopes.push(Scope::new(Kind::Cluster, &name, entries));
    }
    scopes
}

/// What is known of a cluster besides what workers count.
#[derive(Debug, Default)]
pub struct ClusterFacts {
    /// Hosts.
    pub total: u64,
    /// Those that are healthy, all in all.
    pub healthy: u64,
    /// Those that are used last.
    pub degraded: u64,
    /// Those that do not count when the healthy share of hosts is worked out.
    pub excluded: u64,
    /// Further numbers that only grow, by their names in the cluster's scope.
    pub counters: Vec<(Cow<'static, str>, u64)>,
    /// Further numbers of this moment.
    pub gauges: Vec<(Cow<'static, str>, u64)>,
}

impl ClusterFacts {
    /// One more host.
    pub fn member(&mut self, health: Health) {
        self.total += 1;
        match health {
            Health::Healthy => self.healthy += 1,
            Health::Degraded => self.degraded += 1,
            Health::Unhealthy | Health::Draining => {}
        }
    }

    fn entries(self) -> Vec<Entry> {
        let members = [
            Entry::gauge("membership_total", self.total),
            Entry::gauge("membership_healthy", self.healthy),
            Entry::gauge("membership_degraded", self.degraded),
            Entry::gauge("membership_excluded", self.excluded),
        ];
        let counters = self.counters.into_iter().map(|(name, n)| Entry { name, value: Value::Counter(n) });
        let gauges = self.gauges.into_iter().map(|(name, n)| Entry { name, ..Entry::gauge("", n) });
        members.into_iter().chain(counters).chain(gauges).collect()
    }
}

/// Adds entries of the same name.
fn sum(scopes: impl Iterator<Item = Vec<Entry>>) -> Vec<Entry> {
    let mut total: Vec<Entry> = Vec::new();
    for (nth, scope) in scopes.enumerate() {
        if nth == 0 {
            total = scope;
            continue;
        }
        for (at, entry) in scope.into_iter().enumerate() {
            // Fixed fields come in the same order from every worker; only codes and classes vary.
            let same = total.get(at).is_some_and(|t| t.name == entry.name);
            let at = if same { Some(at) } else { total.iter().position(|t| t.name == entry.name) };
            match at.and_then(|at| total.get_mut(at)) {
                Some(sum) => sum.value.add(&entry.value),
                None => total.push(entry),
            }
        }
    }
    total
}

/// Counter values at the last reset.
#[derive(Debug, Default)]
pub(super) struct Resets(HashMap<(Kind, Arc<str>), HashMap<Cow<'static, str>, u64>>);

impl Resets {
    pub(super) fn take(&mut self, scopes: &[Scope]) {
        self.0.clear();
        for scope in scopes {
            let counters: HashMap<_, _> = scope
                .entries
                .iter()
                .filter_map(|e| match e.value {
                    Value::Counter(n) if n > 0 => Some((e.name.clone(), n)),
                    _ => None,
                })
                .collect();
            if !counters.is_empty() {
                self.0.insert((scope.kind, scope.name.clone()), counters);
            }
        }
    }

    pub(super) fn subtract(&self, scopes: &mut [Scope]) {
        if self.0.is_empty() {
            return;
        }
        for scope in scopes {
            let Some(counters) = self.0.get(&(scope.kind, scope.name.clone())) else { continue };
            for entry in &mut scope.entries {
                if let (Value::Counter(n), Some(base)) = (&mut entry.value, counters.get(&entry.name)) {
                    // A scope that went and came back counts from zero again.
                    *n = n.checked_sub(*base).unwrap_or(*n);
                }
            }
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Kind, &Arc<str>) -> bool) {
        self.0.retain(|(kind, name), _| keep(*kind, name));
    }
}

/// Which statistics are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// Only what was ever written.
    pub used_only: bool,
    /// Only these types.
    pub types: Types,
}

/// Types of statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Types {
    /// All.
    #[default]
    All,
    /// Counters.
    Counters,
    /// Gauges.
    Gauges,
    /// Histograms.
    Histograms,
    /// Texts, of which there are none.
    TextReadouts,
}

/// How a histogram is written in text and JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buckets {
    /// As quantiles.
    #[default]
    Summary,
    /// As buckets, each counting all that is not longer.
    Cumulative,
    /// As buckets, each counting its own.
    Disjoint,
}

/// All statistics of one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) scopes: Vec<Scope>,
    pub(super) tags: Tags,
}

impl Snapshot {
    pub(super) fn new(scopes: Vec<Scope>, tags: Tags) -> Self {
        Self { scopes, tags }
    }

    /// Leaves only what the filter takes.
    #[must_use]
    pub fn filtered(self, filter: Filter) -> Self {
        self.retain(|_, entry| {
            let typed = match filter.types {
                Types::All => true,
                Types::Counters => matches!(entry.value, Value::Counter(_)),
                Types::Gauges => matches!(entry.value, Value::Gauge { .. }),
                Types::Histograms => matches!(entry.value, Value::Histogram(_)),
                Types::TextReadouts => false,
            };
            typed && (!filter.used_only || entry.value.used())
        })
    }

    /// Leaves only statistics with names that `takes` takes.
    #[must_use]
    pub fn named(self, takes: impl Fn(&str) -> bool) -> Self {
        let mut full = String::new();
        self.retain(|scope, entry| {
            full.clear();
            scope.full_name(entry, &mut full);
            takes(&full)
        })
    }

    fn retain(mut self, mut keep: impl FnMut(&Scope, &Entry) -> bool) -> Self {
        for scope in &mut self.scopes {
            let mut entries = std::mem::take(&mut scope.entries);
            entries.retain(|entry| keep(scope, entry));
            scope.entries = entries;
        }
        self.scopes.retain(|scope| !scope.entries.is_empty());
        self
    }

    /// The value of a counter or gauge by its whole name; for tests and health summaries.
    pub fn get(&self, name: &str) -> Option<i64> {
        let mut full = String::new();
        for scope in &self.scopes {
            for entry in &scope.entries {
                full.clear();
                scope.full_name(entry, &mut full);
                if full == name {
                    return match &entry.value {
                        Value::Counter(n) => Some(i64::try_from(*n).unwrap_or(i64::MAX)),
                        Value::Gauge { value, .. } => Some(*value),
                        Value::Histogram(d) => Some(i64::try_from(d.count()).unwrap_or(i64::MAX)),
                    };
                }
            }
        }
        None
    }
}

/// A histogram's buckets with their upper bounds in milliseconds.
pub(super) fn buckets(d: &Distribution, cumulative: bool) -> impl Iterator<Item = (f64, u64)> {
    BOUNDS_MS.into_iter().zip(d.counts).scan(0, move |below, (bound, count)| {
        *below += count;
        Some((bound, if cumulative { *below } else { count }))
    })
}
