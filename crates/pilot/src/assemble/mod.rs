//! From a proxy's view of the world to the set of resources it is sent.
//!
//! Fills the generators' input structs and keeps what they make. Knows nothing of streams or time.

mod claims;
mod clusters;
mod gateway;
mod inbound;
mod l4;
mod memo;
mod sidecar;

pub use memo::Memo;

use crate::node::{Node, NodeType};
use crate::plan;
use crate::registry::Labels;
use crate::scope::{Scope, ScopeKey};
use crate::world::World;
use lateen_xds::{Resource, ResourceSet, ResourceType};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

/// What proxies with equal scopes share.
#[derive(Clone, Debug, Default)]
pub struct Outbound {
    pub clusters: Vec<Resource>,
    pub endpoints: Vec<Resource>,
    /// With the first address of each, by which a proxy leaves out those that lead to its own workload.
    pub listeners: Vec<(IpAddr, Resource)>,
    pub routes: Vec<Resource>,
    pub conflicts: Vec<plan::outbound::Conflict>,
    /// Hosts of the services proxies reach: what befalls others is nothing to them.
    pub hosts: HashSet<Arc<str>>,
    /// Hosts whose endpoints are part of more than endpoint resources: written into clusters, or listeners of
    /// their own.
    pub hosts_beyond_endpoints: Vec<Arc<str>>,
}

/// What one proxy is sent, and what it could not be.
#[derive(Clone, Debug)]
pub struct Assembled {
    pub resources: ResourceSet,
    /// Claims and servers that were not granted, in words.
    pub problems: Vec<String>,
}

/// The labels of a proxy's workload: the registry's, else those it says it has.
pub fn labels(node: &Node, world: &World) -> Labels {
    let workloads = world.registry.workloads();
    let pod = node.pod().and_then(|(name, namespace)| workloads.pod(namespace, name));
    let known = pod.or_else(|| node.addresses.iter().find_map(|address| workloads.at(*address)));
    known.map_or_else(|| node.labels.clone(), |info| (*info.labels).clone())
}

/// Makes what proxies with this key share. Gateways share clusters and endpoints only.
pub fn outbound(world: &World, key: &ScopeKey, memo: &mut Memo) -> Outbound {
    let scope = Scope::new(world, key);
    let hosts = scope.services().iter().map(|entry| Arc::clone(&entry.service.host)).collect();
    let mut outbound = Outbound { hosts, ..Outbound::default() };
    clusters::add(&scope, memo, &mut outbound);
    if key.node_type == NodeType::Sidecar {
        sidecar::add_outbound(&scope, memo, &mut outbound);
    }
    outbound
}

/// Makes what one proxy is sent. Types that did not change are shared with `before`.
pub fn assemble(
    world: &World,
    node: &Node,
    key: &ScopeKey,
    outbound: &Outbound,
    before: &ResourceSet,
    memo: &mut Memo,
) -> Assembled {
    let labels = labels(node, world);
    let mut clusters = outbound.clusters.clone();
    let mut problems: Vec<String> = outbound
        .conflicts
        .iter()
        .map(|conflict| format!("{} on {}:{}: {}", conflict.host, conflict.address, conflict.port, conflict.reason))
        .collect();
    let (listeners, routes) = match node.node_type {
        NodeType::Sidecar => {
            let own = |address: &IpAddr| node.addresses.contains(address);
            let mut listeners: Vec<Resource> = outbound
                .listeners
                .iter()
                .filter(|(address, _)| !own(address))
                .map(|(_, listener)| listener.clone())
                .collect();
            inbound::Inbound::new(world, key, node, &labels).add(memo, &mut clusters, &mut listeners);
            (listeners, outbound.routes.clone())
        }
        NodeType::Router => gateway::build(&Scope::new(world, key), node, &labels, memo, &mut problems),
    };
    let resources = before
        .clone()
        .with(ResourceType::Cluster, clusters)
        .with(ResourceType::Endpoint, outbound.endpoints.iter().cloned())
        .with(ResourceType::Listener, listeners)
        .with(ResourceType::Route, routes);
    Assembled { resources, problems }
}

/// Endpoint resources of these hosts, as proxies with this key get them.
pub fn endpoints_of(world: &World, key: &ScopeKey, hosts: &[Arc<str>], memo: &mut Memo) -> Vec<Resource> {
    let scope = Scope::new(world, key);
    let mut outbound = Outbound::default();
    for entry in hosts.iter().filter_map(|host| scope.service(host)) {
        clusters::add_service(&scope, entry, memo, &mut outbound);
    }
    outbound.endpoints
}

#[cfg(test)]
mod tests;
