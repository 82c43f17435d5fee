//! Connected proxies, and which of them a change is about.

use crate::assemble::{self, Outbound};
use crate::credentials::{self, Dated, Made, Missing, Told};
use crate::host;
use crate::node::{Node, NodeType};
use crate::registry::{Instance, Labels, selects};
use crate::rules::VirtualServiceRule;
use crate::scope::{Place, ScopeKey};
use crate::world::{self, EndpointChange, RuleChange, World};
use lateen_galley::istio::Gateway;
use lateen_galley::{Object, Snapshot};
use lateen_xds::ads::server::{Refusal, StreamStatus, TypeStatus};
use lateen_xds::{Resource, ResourceSet, ResourceType, Resources, resource};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

/// A connected proxy.
#[derive(Debug)]
pub struct Proxy {
    pub node: Node,
    pub(super) key: Arc<ScopeKey>,
    pub(super) own: Own,
    pub resources: watch::Sender<Arc<ResourceSet>>,
    pub status: watch::Receiver<StreamStatus>,
    /// Names of the credentials that it needs of the control plane.
    pub(super) credentials: BTreeSet<String>,
    /// Credentials that it needs and is not told.
    pub(super) missing: Vec<Missing>,
    /// When the credentials are good that it is told.
    pub(super) dated: Vec<Dated>,
    /// What was said of those in the log.
    pub(super) warned: Vec<String>,
    /// Claims and servers that were not granted, in words.
    pub(super) refused: Vec<String>,
}

impl Proxy {
    /// What it cannot be given, in words.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.refused.iter().cloned().chain(self.missing.iter().map(ToString::to_string))
    }

    /// Credentials that it is told although they are good no more, or not yet, in words.
    pub fn out_of_date(&self, now: SystemTime) -> impl Iterator<Item = String> {
        self.dated.iter().filter_map(move |dated| dated.trouble(now))
    }

    /// Says so in the log, once for each.
    pub(super) fn warn(&mut self, now: SystemTime) {
        let troubles: Vec<String> = self.out_of_date(now).collect();
        for new in troubles.iter().filter(|new| !self.warned.contains(new)) {
            tracing::warn!(proxy = %self.node.id, "a credential is told that nobody will accept: {new}");
        }
        self.warned = troubles;
    }

    /// What it was told last, with its credentials as objects have them now.
    pub(super) fn with_credentials(
        &mut self,
        resources: ResourceSet,
        snapshot: &Snapshot,
        made: &mut Made,
    ) -> ResourceSet {
        let before = self.resources.borrow().clone();
        if self.credentials.is_empty() && before.of_type(&ResourceType::Secret).next().is_none() {
            return resources;
        }
        let told = credentials::resources(&self.credentials, &self.node, snapshot, &before, made);
        let Told { resources: secrets, missing, dated } = told;
        for new in missing.iter().filter(|new| !self.missing.contains(new)) {
            tracing::warn!(proxy = %self.node.id, "a credential is not told: {new}");
        }
        (self.missing, self.dated) = (missing, dated);
        resources.with_all(ResourceType::Secret, secrets)
    }

    /// Tells it what of what it shares with others is other than it was, of which `clusters` are the clusters as they were.
    pub(super) fn tell_parts(&self, clusters: &Resources, shared: &Outbound, version: &Arc<str>) {
        let before = self.resources.borrow().clone();
        let mut own = before.all_of(&ResourceType::Cluster);
        for (name, _, now) in clusters.diff(&shared.clusters, resource::same_version) {
            match now {
                Some(cluster) => own.insert(Arc::clone(name), cluster.clone()),
                None => own.remove(name),
            };
        }
        let routes = match self.node.node_type {
            NodeType::Sidecar => shared.routes.clone(),
            NodeType::Router => before.all_of(&ResourceType::Route),
        };
        self.tell(
            &[
                (ResourceType::Cluster, own),
                (ResourceType::Endpoint, shared.endpoints.clone()),
                (ResourceType::Route, routes),
            ],
            version,
        );
    }

    /// Tells it that all resources of these types are others, unless they are the same.
    pub(super) fn tell(&self, parts: &[(ResourceType, Resources)], version: &Arc<str>) {
        let before = self.resources.borrow().clone();
        let at = before.at(Arc::clone(version));
        let after = parts.iter().fold(at, |after, (kind, all)| after.with_all(kind.clone(), all.clone()));
        if !after.shares_all_with(&before) {
            self.resources.send_replace(Arc::new(after));
        }
    }

    /// Whether it has accepted or refused all there is for it now.
    pub fn has_answered(&self) -> bool {
        let status = self.status.borrow();
        status.answered() && status.version == *self.resources.borrow().version() && self.has_asked(&status)
    }

    /// What it refused of what there is for it now: an older refusal may stand until it has answered to the newer.
    pub fn refusals(&self) -> Vec<(Arc<str>, Refusal)> {
        let (status, resources) = (self.status.borrow(), self.resources.borrow());
        let of_type = |(kind, of_type): (&ResourceType, &TypeStatus)| {
            let current = |name: &str| resources.get(kind, name).map(Resource::version);
            let refused = of_type.refused.iter().filter(|(name, refusal)| current(name) == refusal.version);
            refused.map(|(name, refusal)| (Arc::clone(name), refusal.clone())).collect::<Vec<_>>()
        };
        status.types.iter().flat_map(of_type).collect()
    }

    /// Whether it has asked for all there is for it. Routes and endpoints are asked for by name, when a client has seen
    /// where they are used: until then it owes no acknowledgement, and yet does not have them.
    pub fn has_asked(&self, status: &StreamStatus) -> bool {
        let resources = self.resources.borrow();
        [ResourceType::Endpoint, ResourceType::Route].iter().all(|kind| {
            let names = status.types.get(kind).map_or(0, |of_type| of_type.names);
            names >= resources.of_type(kind).count()
        })
    }
}

/// All of a workload that the part of its proxy's configuration depends on that no other proxy shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub labels: Labels,
    /// Host, port of the service, port of the workload.
    instances: Vec<(Arc<str>, u16, u16)>,
    place: Place,
}

impl Own {
    pub fn new(node: &Node, world: &World) -> Own {
        let labels = assemble::labels(node, world);
        let instances = world.registry.instances(&node.namespace, &node.addresses, &labels);
        let instance =
            |instance: &Instance| (Arc::clone(&instance.service.host), instance.port.number, instance.target);
        let place = Place::new(node, &labels, world);
        Own { instances: instances.iter().map(instance).collect(), labels, place }
    }
}

/// All connected proxies, by number; those that a workload is known by can be found by that.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    by_id: BTreeMap<u64, Proxy>,
    at_address: HashMap<IpAddr, BTreeSet<u64>>,
    /// By namespace and name.
    of_pod: HashMap<(String, String), BTreeSet<u64>>,
}

impl Proxies {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Proxy> {
        self.by_id.values()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.by_id.keys().copied().collect()
    }

    pub fn get(&self, id: u64) -> Option<&Proxy> {
        self.by_id.get(&id)
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut Proxy> {
        self.by_id.get_mut(&id)
    }

    pub fn insert(&mut self, id: u64, proxy: Proxy) {
        for address in &proxy.node.addresses {
            self.at_address.entry(*address).or_default().insert(id);
        }
        if let Some(pod) = pod(&proxy.node) {
            self.of_pod.entry(pod).or_default().insert(id);
        }
        self.by_id.insert(id, proxy);
    }

    /// Forgets proxies that are gone. Tells which they were, and which scope each had.
    pub fn drop_closed(&mut self) -> Vec<(u64, Arc<ScopeKey>)> {
        let closed = self.by_id.iter().filter(|(_, proxy)| proxy.resources.is_closed());
        let closed: Vec<(u64, Arc<ScopeKey>)> = closed.map(|(id, proxy)| (*id, Arc::clone(&proxy.key))).collect();
        for (id, _) in &closed {
            let Some(proxy) = self.by_id.remove(id) else { continue };
            for address in &proxy.node.addresses {
                forget(&mut self.at_address, address, *id);
            }
            if let Some(pod) = pod(&proxy.node) {
                forget(&mut self.of_pod, &pod, *id);
            }
        }
        closed
    }

    /// Proxies to whose own workload a change means something.
    pub fn own_among(&self, change: &EndpointChange, world: &World) -> BTreeSet<u64> {
        let at = change.addresses.iter().filter_map(|address| self.at_address.get(address));
        let of = change.pods.iter().filter_map(|pod| self.of_pod.get(pod));
        let candidates: BTreeSet<u64> = at.chain(of).flatten().copied().collect();
        let changed = |proxy: &Proxy| Own::new(&proxy.node, world) != proxy.own;
        candidates.into_iter().filter(|id| self.get(*id).is_some_and(changed)).collect()
    }

    /// Proxies to whose own part an edit of rules means something: what leads to the workload of a sidecar, and what a
    /// gateway serves.
    pub fn own_with(&self, change: &RuleChange, world: &World) -> BTreeSet<u64> {
        let served: Vec<(&VirtualServiceRule, &Gateway)> = change
            .virtual_services
            .iter()
            .flat_map(|rule| {
                let bound =
                    |object: &&Arc<Object>| rule.is_bound_to(&format!("{}/{}", object.namespace(), object.name()));
                let gateways = world.gateways.iter().filter(bound).filter_map(|object| world::gateway(object));
                gateways.map(move |gateway| (rule, gateway))
            })
            .collect();
        let hosts: BTreeSet<&str> = change.destination_rules.iter().map(|rule| rule.host()).collect();
        let led_to = |host: &str| hosts.iter().any(|of_rule| host::is_subset_of(host, of_rule));
        let concerned = |proxy: &Proxy| match proxy.node.node_type {
            NodeType::Router => served.iter().any(|(rule, gateway)| {
                rule.visible_in(&proxy.node.namespace) && selects(&gateway.selector, &proxy.own.labels)
            }),
            NodeType::Sidecar => proxy.own.instances.iter().any(|(host, ..)| led_to(host)),
        };
        self.by_id.iter().filter(|(_, proxy)| concerned(proxy)).map(|(id, _)| *id).collect()
    }
}

fn pod(node: &Node) -> Option<(String, String)> {
    node.pod().map(|(name, namespace)| (namespace.to_owned(), name.to_owned()))
}

fn forget<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<u64>>, key: &K, id: u64) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
