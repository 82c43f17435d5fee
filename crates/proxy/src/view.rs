//! What the admin page shows of clusters and listeners.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lateen_traffic::cluster::Discovery;

use crate::admin::{ClusterView, HostView, ListenerView};
use crate::proxy::Proxy;
use crate::stats::cluster_scope;
use crate::upstream::targets;

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
            let mut hosts = Vec::new();
            for locality in &cluster.endpoints.localities {
                for endpoint in &locality.endpoints {
                    for address in targets(&endpoint.address, &settings.discovery, &resolved) {
                        let counts = shared.known_host(&address).unwrap_or_default();
                        let total = counts.requests.load(Ordering::Relaxed);
                        let error = counts.errors.load(Ordering::Relaxed);
                        let active = u64::from(counts.active.load(Ordering::Relaxed));
                        hosts.push(HostView {
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
                eds_service_name: match &settings.discovery {
                    Discovery::Eds { service_name } => Some(Arc::clone(service_name)),
                    _ => None,
                },
                hosts,
            }
        })
        .collect()
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
