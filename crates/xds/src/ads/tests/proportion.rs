//! What a change costs both ends, counted: the same in a small mesh and in a large one.

use super::world::{cluster, cluster_name, endpoints};
use super::*;
use crate::Resource;

/// Clusters with endpoints, those of the first in a variant.
fn mesh(clusters: u8, variant: u8) -> ResourceSet {
    // Odd ones have no endpoints of their own.
    let ids = || (0..clusters).map(|id| id * 2);
    ResourceSet::new(variant.to_string())
        .with(ResourceType::Cluster, ids().map(|id| Resource::new(cluster_name(id), &cluster(id, 0))))
        .with(
            ResourceType::Endpoint,
            ids().map(|id| Resource::new(cluster_name(id), &endpoints(id, if id == 0 { variant } else { 0 }))),
        )
}

/// What one changed endpoint makes of a session that has settled: resources sent, names asked for or no more, resources
/// whose content a client took anew, clusters that became others.
fn work(clusters: u8) -> [usize; 4] {
    let mut wire = Wire::new(Protocol::Delta, mesh(clusters, 0));
    wire.settle();
    let before = wire.config();
    assert_eq!(before.clusters.len(), usize::from(clusters));
    let accepted = wire.state.converted();
    let mut endpoints = wire.set.all_of(&ResourceType::Endpoint);
    for (name, _, now) in mesh(clusters, 0)
        .all_of(&ResourceType::Endpoint)
        .diff(&mesh(clusters, 1).all_of(&ResourceType::Endpoint), |a, b| a == b)
    {
        endpoints.insert(name.clone(), now.unwrap().clone());
    }
    wire.update(wire.set.at("1").with_all(ResourceType::Endpoint, endpoints));
    let sent = wire.to_client.iter().map(|push| push.resources.len() + push.removed.len()).sum();
    let mut names = 0;
    while wire.receive() {
        names +=
            wire.to_server.iter().map(|ask| ask.subscribe.len() + ask.unsubscribe.len() + ask.has.len()).sum::<usize>();
        while wire.serve() {}
    }
    assert!(wire.stream.status().synced());
    let after = wire.config();
    let changed = after.clusters.changes_since(&before.clusters).count();
    [sent, names, wire.state.converted() - accepted, changed]
}

#[test]
fn a_changed_endpoint_costs_a_large_mesh_what_it_costs_a_small_one() {
    assert_eq!(work(2), [1, 0, 1, 1]);
    assert_eq!(work(120), [1, 0, 1, 1]);
}
