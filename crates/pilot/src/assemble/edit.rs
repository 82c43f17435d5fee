//! What edits of rules mean for what proxies share: only what the rules speak of is made anew.
//!
//! What follows must be what making everything anew would yield; a property test holds it to that.

use super::{Made, Memo, Outbound, clusters, outbound, sidecar};
use crate::host;
use crate::names;
use crate::node::NodeType;
use crate::registry::{Entry, Service};
use crate::rules::{Imports, Merged, VirtualServiceRule};
use crate::scope::{Egress, Scope, ScopeKey, View};
use crate::world::{RuleChange, World};
use lateen_xds::{Resource, Resources};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// What of an edit proxies with a key see.
#[derive(Debug)]
pub struct Concern<'c> {
    /// Services for which another DestinationRule holds.
    services: Vec<Arc<Service>>,
    /// Such a rule speaks of more than clusters.
    beyond_clusters: bool,
    /// VirtualServices, as they were and as they are.
    rules: Vec<&'c VirtualServiceRule>,
}

/// What an edit changed of what proxies share.
#[derive(Debug, PartialEq, Eq)]
pub enum Edited {
    /// Clusters, endpoints and routes at most.
    Parts,
    /// More: each proxy's own part is to be put together anew.
    Whole,
}

/// What of an edit proxies with this key see; `None` if nothing.
pub fn concern<'c>(
    before: &World,
    now: &World,
    key: &ScopeKey,
    known: &Outbound,
    change: &'c RuleChange,
) -> Option<Concern<'c>> {
    let mut concern = Concern { services: Vec::new(), beyond_clusters: false, rules: rules(key, change) };
    let mut hosts: BTreeMap<&str, &Arc<Service>> = BTreeMap::new();
    for rule in &change.destination_rules {
        if host::is_wildcard(rule.host()) {
            let of_rule = known.services.iter().filter(|(name, _)| host::is_subset_of(name, rule.host()));
            hosts.extend(of_rule.map(|(name, service)| (&**name, service)));
        } else if let Some((name, service)) = known.services.get_key_value(rule.host()) {
            hosts.insert(name, service);
        }
    }
    for service in hosts.into_values() {
        let rule = |world: &'_ World| -> Option<Arc<Merged>> {
            world.destination_rules.find(&key.namespace, &key.labels, &service.host, &service.namespace).cloned()
        };
        let (was, is) = (rule(before), rule(now));
        if was != is {
            let shapes = |rule: &Option<Arc<Merged>>| rule.as_ref().is_some_and(|rule| rule.shapes_routes());
            concern.beyond_clusters |= service.client_affinity || shapes(&was) || shapes(&is);
            concern.services.push(Arc::clone(service));
        }
    }
    (!concern.services.is_empty() || !concern.rules.is_empty()).then_some(concern)
}

/// The VirtualServices that sidecars with this key have.
fn rules<'c>(key: &ScopeKey, change: &'c RuleChange) -> Vec<&'c VirtualServiceRule> {
    if key.node_type != NodeType::Sidecar {
        return Vec::new();
    }
    let seen = |rule: &&VirtualServiceRule| rule.visible_in(&key.namespace) && rule.is_bound_to(names::MESH_GATEWAY);
    let mut rules: Vec<&VirtualServiceRule> = change.virtual_services.iter().filter(seen).collect();
    let listeners = key.sidecar.as_ref().map(|sidecar| &sidecar.spec().egress).filter(|egress| !egress.is_empty());
    if let Some(listeners) = listeners.filter(|_| !rules.is_empty()) {
        let imports: Vec<Imports<'_>> =
            listeners.iter().map(|listener| Imports::new(&listener.hosts, &key.namespace)).collect();
        let imported = |rule: &VirtualServiceRule, host: &String| {
            imports.iter().any(|imports| imports.rule(rule.namespace(), host))
        };
        rules.retain(|rule| rule.hosts().iter().any(|host| imported(rule, host)));
    }
    rules
}

impl Concern<'_> {
    /// Makes anew what the edit is about.
    #[must_use]
    pub fn carry_out(
        &self,
        before: &World,
        now: &World,
        key: &ScopeKey,
        known: &mut Outbound,
        memo: &mut Memo,
    ) -> Edited {
        // Whose credentials they are, is not written down.
        let Some(changes) = self.clusters(before, now, key, memo).filter(|_| !self.needs_all(now, key, known)) else {
            *known = outbound(now, key, Some(known), memo);
            return Edited::Whole;
        };
        changes.carry_out(known);
        let of_sidecar = key.node_type == NodeType::Sidecar;
        if of_sidecar && (self.beyond_clusters || self.rules.iter().any(|rule| of_connections(rule))) {
            let mut made = Made::default();
            sidecar::add_listeners(&Scope::new(now, key), memo, &mut made);
            known.set_listeners(made);
            return Edited::Whole;
        }
        if of_sidecar && !self.rules.is_empty() {
            let mut made = Made::default();
            let scope = Scope::new(now, key);
            sidecar::add_routes(&scope, &self.route_names(&scope, known), memo, &mut made);
            for routes in made.routes {
                put(&mut known.routes, routes);
            }
        }
        // A gateway's own part knows of subsets where it passes TLS on.
        let own = !of_sidecar && (self.beyond_clusters || !key.passes_on.is_empty());
        if own { Edited::Whole } else { Edited::Parts }
    }

    /// Whether the services proxies reach may be others: a Sidecar's rules bring those along that they send to.
    fn needs_all(&self, now: &World, key: &ScopeKey, known: &Outbound) -> bool {
        let imports = key.sidecar.as_ref().is_some_and(|sidecar| !sidecar.spec().egress.is_empty());
        if !imports || self.rules.is_empty() {
            return false;
        }
        let scope = Scope::new(now, key);
        let same = |entry: &Entry| known.services.get(&entry.service.host).is_some_and(|is| *is == entry.service);
        scope.services().len() != known.services.len() || !scope.services().iter().all(same)
    }

    /// What becomes of clusters; `None` if their credentials matter.
    fn clusters(&self, before: &World, now: &World, key: &ScopeKey, memo: &mut Memo) -> Option<ClusterChanges> {
        let (mut was, mut is) = (Made::default(), Made::default());
        for service in &self.services {
            let Some(found) = now.registry.get(&service.host, &service.namespace) else { continue };
            let entry = Entry { service: Arc::clone(service), endpoints: Arc::clone(&found.endpoints) };
            clusters::add_service(&View { world: before, key }, &entry, memo, &mut was);
            clusters::add_service(&View { world: now, key }, &entry, memo, &mut is);
        }
        (was.credentials.is_empty() && is.credentials.is_empty()).then_some(ClusterChanges { was, is })
    }

    /// Names and ports of the route configurations that the rules are part of.
    fn route_names(&self, scope: &Scope<'_>, known: &Outbound) -> BTreeSet<(u16, String)> {
        // What no service has is served there.
        let mut names = BTreeSet::from([(80, "80".to_owned())]);
        for name in self.rules.iter().flat_map(|rule| rule.hosts()) {
            let services: Vec<&Arc<Service>> = match (scope.egress(), host::is_wildcard(name)) {
                // Each may reach another service of that name.
                ([_, _, ..], _) => {
                    let each = scope.egress().iter().flat_map(Egress::services).map(|entry| &entry.service);
                    each.filter(|service| host::is_subset_of(&service.host, name)).collect()
                }
                (_, true) => {
                    known.services.values().filter(|service| host::is_subset_of(&service.host, name)).collect()
                }
                (_, false) => known.services.get(name.as_str()).into_iter().collect(),
            };
            for service in services {
                for port in &service.ports {
                    names.insert((port.number, port.number.to_string()));
                    names.insert((port.number, names::host_port(&service.host, port.number)));
                }
            }
        }
        names.retain(|(_, name)| known.routes.contains_key(name.as_str()));
        names
    }
}

/// Clusters and endpoints of some services, as they were and as they are.
struct ClusterChanges {
    was: Made,
    is: Made,
}

impl ClusterChanges {
    fn carry_out(self, known: &mut Outbound) {
        replace(&mut known.clusters, self.was.clusters, self.is.clusters);
        replace(&mut known.endpoints, self.was.endpoints, self.is.endpoints);
    }
}

fn replace(resources: &mut Resources, was: Vec<Resource>, is: Vec<Resource>) {
    let stay: HashSet<&Arc<str>> = is.iter().map(Resource::name).collect();
    for gone in was.iter().map(Resource::name).filter(|name| !stay.contains(name)) {
        resources.remove(gone);
    }
    for resource in is {
        put(resources, resource);
    }
}

/// Puts a resource in, unless it is there.
fn put(resources: &mut Resources, resource: Resource) {
    if resources.get(resource.name()).is_none_or(|before| before.version() != resource.version()) {
        resources.insert(Arc::clone(resource.name()), resource);
    }
}

/// Whether it speaks of connections too, and not of requests alone.
fn of_connections(rule: &VirtualServiceRule) -> bool {
    !rule.spec().tcp.is_empty() || !rule.spec().tls.is_empty()
}
