//! From a proxy's view of the world to the set of resources it is sent.
//!
//! Fills the generators' input structs and keeps what they make. Knows nothing of streams or time.

mod claims;
mod clusters;
mod edit;
mod gateway;
mod inbound;
mod l4;
mod memo;
mod security;
mod sidecar;

pub use edit::{Edited, concern};
pub use memo::Memo;

use crate::node::{Node, NodeType};
use crate::plan;
use crate::registry::{Entry, Labels, Resolution, Service};
use crate::scope::{Scope, ScopeKey, View};
use crate::world::World;
use lateen_xds::{Resource, ResourceSet, ResourceType, Resources, resource};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// What proxies with equal scopes share.
#[derive(Clone, Debug, Default)]
pub struct Outbound {
    pub clusters: Resources,
    pub endpoints: Resources,
    listeners: Resources,
    /// Listeners by the first address of each, by which a proxy leaves out those that lead to its own workload.
    listeners_at: HashMap<IpAddr, Vec<Arc<str>>>,
    pub routes: Resources,
    /// Names of the credentials that clusters need of the control plane.
    credentials: BTreeSet<String>,
    conflicts: Vec<plan::outbound::Conflict>,
    /// The services proxies reach, as they see them, by host: what befalls others is nothing to them.
    services: HashMap<Arc<str>, Arc<Service>>,
}

/// Resources as generators make them, one after the other.
#[derive(Debug, Default)]
pub struct Made {
    clusters: Vec<Resource>,
    endpoints: Vec<Resource>,
    listeners: Vec<(IpAddr, Resource)>,
    routes: Vec<Resource>,
    credentials: BTreeSet<String>,
    conflicts: Vec<plan::outbound::Conflict>,
}

/// What one proxy is sent, and what it could not be.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// All but its credentials.
    pub resources: ResourceSet,
    /// Names of the credentials that it needs of the control plane.
    pub credentials: BTreeSet<String>,
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

/// Makes what proxies with this key share. Gateways share clusters and endpoints only. What is as it was is shared with
/// what there was `before`.
pub fn outbound(world: &World, key: &ScopeKey, before: Option<&Outbound>, memo: &mut Memo) -> Outbound {
    let scope = Scope::new(world, key);
    let mut made = Made::default();
    clusters::add(&scope, memo, &mut made);
    if key.node_type == NodeType::Sidecar {
        sidecar::add_fixed_clusters(&scope, memo, &mut made);
        sidecar::add_listeners(&scope, memo, &mut made);
    }
    let services = scope.services().iter().map(|entry| (Arc::clone(&entry.service.host), Arc::clone(&entry.service)));
    let nothing = Outbound::default();
    let before = before.unwrap_or(&nothing);
    let mut outbound = Outbound {
        clusters: resource::follow(&before.clusters, by_name(std::mem::take(&mut made.clusters))),
        endpoints: resource::follow(&before.endpoints, by_name(std::mem::take(&mut made.endpoints))),
        credentials: std::mem::take(&mut made.credentials),
        services: services.collect(),
        listeners: before.listeners.clone(),
        routes: before.routes.clone(),
        ..Outbound::default()
    };
    outbound.set_listeners(made);
    outbound
}

fn by_name(resources: impl IntoIterator<Item = Resource>) -> Resources {
    resources.into_iter().map(|resource| (Arc::clone(resource.name()), resource)).collect()
}

impl Outbound {
    /// Takes over the listeners that were made, and their routes.
    fn set_listeners(&mut self, made: Made) {
        self.listeners_at.clear();
        for (address, listener) in &made.listeners {
            self.listeners_at.entry(*address).or_default().push(Arc::clone(listener.name()));
        }
        let listeners = made.listeners.into_iter().map(|(_, listener)| listener);
        self.listeners = resource::follow(&self.listeners, by_name(listeners));
        self.routes = resource::follow(&self.routes, by_name(made.routes));
        self.conflicts = made.conflicts;
    }

    /// Whether proxies reach a service of this host.
    pub fn reaches(&self, host: &str) -> bool {
        self.services.contains_key(host)
    }

    /// Whether a host's endpoints are part of more than endpoint resources: written into clusters, or listeners of
    /// their own.
    pub fn holds_endpoints_of(&self, host: &str, key: &ScopeKey) -> bool {
        self.services.get(host).is_some_and(|service| {
            matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin)
                || claims::depend_on_endpoints(service, key.dns_capture)
        })
    }

    /// Takes over the endpoints that these hosts have now. Whether clusters changed: they name the identities that
    /// endpoints may have.
    #[must_use]
    pub fn put_endpoints(&mut self, world: &World, key: &ScopeKey, hosts: &[Arc<str>], memo: &mut Memo) -> bool {
        let mut made = Made::default();
        for service in hosts.iter().filter_map(|host| self.services.get(host)) {
            if let Some(now) = world.registry.get(&service.host, &service.namespace) {
                let entry = Entry { service: Arc::clone(service), endpoints: Arc::clone(&now.endpoints) };
                clusters::add_service(&View { world, key }, &entry, memo, &mut made);
            }
        }
        for resource in made.endpoints {
            if self.endpoints.get(resource.name()).is_some_and(|before| before.version() != resource.version()) {
                self.endpoints.insert(Arc::clone(resource.name()), resource);
            }
        }
        let mut changed = false;
        for cluster in made.clusters {
            if self.clusters.get(cluster.name()).is_some_and(|before| before.version() != cluster.version()) {
                self.clusters.insert(Arc::clone(cluster.name()), cluster);
                changed = true;
            }
        }
        changed
    }
}

/// Makes what one proxy is sent. What did not change is shared with `before`.
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
    let mut credentials = outbound.credentials.clone();
    let (listeners, routes) = match node.node_type {
        NodeType::Sidecar => {
            let mut listeners = outbound.listeners.clone();
            for name in node.addresses.iter().filter_map(|own| outbound.listeners_at.get(own)).flatten() {
                listeners.remove(name);
            }
            let (mut own_clusters, mut own_listeners) = (Vec::new(), Vec::new());
            let inbound = inbound::Inbound::new(world, key, node, &labels);
            problems.extend(inbound.problems());
            inbound.add(memo, &mut own_clusters, &mut own_listeners);
            let named = |resource: Resource| (Arc::clone(resource.name()), resource);
            clusters.extend(own_clusters.into_iter().map(named));
            listeners.extend(own_listeners.into_iter().map(named));
            (listeners, outbound.routes.clone())
        }
        NodeType::Router => {
            let own = gateway::build(&Scope::new(world, key), node, &labels, memo, &mut problems);
            credentials.extend(own.credentials);
            (by_name(own.listeners), by_name(own.routes))
        }
    };
    let resources = before
        .clone()
        .with_all(ResourceType::Cluster, clusters)
        .with_all(ResourceType::Endpoint, outbound.endpoints.clone())
        .with_all(ResourceType::Listener, listeners)
        .with_all(ResourceType::Route, routes);
    Assembled { resources, credentials, problems }
}

#[cfg(test)]
mod identity_tests;
#[cfg(test)]
mod tests;
