//! What the admin page shows of clusters and listeners, and statistics that are known without counting.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lateen_traffic::balance;
use lateen_traffic::cluster::{CircuitLimits, Cluster, Discovery};

use crate::admin::{ClusterView, HostView, ListenerView};
use crate::proxy::Proxy;
use crate::stats::{ClusterFacts, cluster_scope};
use crate::upstream::{ClusterShared, targets};

/// All clusters with their hosts, in the order of their names.
pub fn clusters(proxy: &Proxy) -> Vec<ClusterView> {
    let config = proxy.config();
    let resolved = proxy.resolved();
    let mut all: Vec<_> = config.clusters.values().collect();
    all.sort_by(|a, b| a.settings.name.cmp(&b.settings.name));
    all.into_iter()
        .map(|cluster| {
            let settings = &cluster.settings;
            let shared = proxy.upstreams().cluster(&settings.name);
            let told = shared.told();
            let mut hosts = Vec::new();
            for locality in &cluster.endpoints.localities {
                for endpoint in &locality.endpoints {
                    for address in targets(&endpoint.address, &settings.discovery, &resolved) {
                        let counts = shared.known_host(&address).unwrap_or_default();
                        let total = counts.requests.load(Ordering::Relaxed);
                        let error = counts.errors.load(Ordering::Relaxed);
                        let active = u64::from(counts.active.load(Ordering::Relaxed));
                        let found = told.as_ref().and_then(|told| told.hosts.get(&address));
                        hosts.push(HostView {
                            found: found.map(|host| Arc::clone(&host.health)),
                            rates: found.map(|host| host.rates).unwrap_or_default(),
                            address,
                            hostname: Arc::clone(&endpoint.hostname),
                            health: endpoint.health,
                            weight: endpoint.weight,
                            locality: locality.locality.clone(),
                            priority: locality.priority,
                            cx_active: u64::from(counts.connections.load(Ordering::Relaxed)),
                            cx_connect_fail: counts.connect_failures.load(Ordering::Relaxed),
                            cx_total: counts.connections_total.load(Ordering::Relaxed),
                            rq_active: active,
                            rq_error: error,
                            rq_success: total.saturating_sub(error).saturating_sub(active),
                            rq_timeout: counts.timeouts.load(Ordering::Relaxed),
                            rq_total: total,
                        });
                    }
                }
            }
            ClusterView {
                name: Arc::clone(&settings.name),
                observability_name: Arc::clone(cluster_scope(settings)),
                added_via_api: !proxy.is_static(&settings.name),
                limits: settings.limits,
                detects_outliers: settings.outlier.is_some(),
                eds_service_name: match &settings.discovery {
                    Discovery::Eds { service_name } => Some(Arc::clone(service_name)),
                    _ => None,
                },
                hosts,
            }
        })
        .collect()
}

/// What is known of a cluster besides what workers count.
pub fn facts(proxy: &Proxy, cluster: &Cluster) -> ClusterFacts {
    let settings = &cluster.settings;
    let (resolved, shared) = (proxy.resolved(), proxy.upstreams().cluster(&settings.name));
    let told = shared.told();
    let mut facts = ClusterFacts::default();
    for (_, endpoint) in balance::hosts(&cluster.endpoints) {
        for target in targets(&endpoint.address, &settings.discovery, &resolved) {
            let health = endpoint.health;
            facts.member(told.as_ref().map_or(health, |told| told.all_in_all(&target, health)));
            facts.excluded += u64::from(told.as_ref().is_some_and(|told| told.is_excluded(&target)));
        }
    }
    if let Some(checks) = told.as_ref().and_then(|told| told.checks.as_ref()) {
        let counters = checks.counts.named().into_iter();
        facts.counters.extend(counters.map(|(name, n)| (format!("health_check.{name}").into(), n)));
        facts.gauges.push(("health_check.healthy".into(), checks.healthy));
        facts.gauges.push(("health_check.degraded".into(), checks.degraded));
    }
    if let Some(ejections) = told.and_then(|told| told.ejections) {
        let counters = ejections.named().into_iter();
        facts.counters.extend(counters.map(|(name, n)| (format!("outlier_detection.{name}").into(), n)));
        facts.gauges.push(("outlier_detection.ejections_active".into(), ejections.active));
    }
    facts.gauges.extend(breakers(&settings.limits, &shared));
    facts.gauges.extend(shared.table_gauges());
    facts
}

/// `circuit_breakers.default.`: which limits are reached, and what is left of each if that is asked for.
fn breakers(limits: &CircuitLimits, shared: &ClusterShared) -> impl Iterator<Item = (Cow<'static, str>, u64)> {
    let at = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
    // Told anew only when something is counted, so a limit of 0 is not reached at first.
    let open = |used: u32, limit: u32| u64::from(used >= limit && (used > 0 || limit > 0));
    let left = |used: u32, limit: u32| u64::from(limit.saturating_sub(used));
    let (connections, pending) = (at(&shared.connections), at(&shared.pending));
    let (requests, retries) = (at(&shared.requests), at(&shared.retries));
    let reached = [
        ("circuit_breakers.default.cx_open", open(connections, limits.max_connections)),
        // Pools are not limited.
        ("circuit_breakers.default.cx_pool_open", 0),
        ("circuit_breakers.default.rq_open", open(requests, limits.max_requests)),
        ("circuit_breakers.default.rq_pending_open", open(pending, limits.max_pending_requests)),
        ("circuit_breakers.default.rq_retry_open", open(retries, limits.max_retries)),
    ];
    let remaining = limits.track_remaining.then(|| {
        [
            ("circuit_breakers.default.remaining_cx", left(connections, limits.max_connections)),
            ("circuit_breakers.default.remaining_rq", left(requests, limits.max_requests)),
            ("circuit_breakers.default.remaining_pending", left(pending, limits.max_pending_requests)),
            ("circuit_breakers.default.remaining_retries", left(retries, limits.max_retries)),
        ]
    });
    reached.into_iter().chain(remaining.into_iter().flatten()).map(|(name, n)| (name.into(), n))
}

/// All listeners, in the order of their names.
pub fn listeners(proxy: &Proxy) -> Vec<ListenerView> {
    let config = proxy.config();
    let view = |l: &Arc<lateen_traffic::listener::Listener>| ListenerView {
        name: Arc::clone(&l.name),
        addresses: l.addresses.clone(),
    };
    config.listeners.values().map(view).collect()
}
