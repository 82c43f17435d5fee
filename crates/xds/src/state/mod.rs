//! What a proxy has been told, and what it serves by.
//!
//! Keeps the last good content of every resource and yields whole [`Config`]s. Nothing that works is replaced by
//! something that cannot work yet: a cluster waits ("warms") until its endpoints are known, a listener until its
//! routes are, and meanwhile the older one stays. Removals act at once. A change of one resource costs work in
//! proportion to that change, and a copy of one map of pointers.
//!
//! Knows no stream and no clock: [`crate::ads::client`] feeds it, the time is an argument.

mod dump;
mod history;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener as PbListener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::google::protobuf::Any;
use lateen_traffic::Config;
use lateen_traffic::cluster::{Cluster, ClusterSettings, Discovery, Endpoints};
use lateen_traffic::listener::Listener;
use prost::{Message, Name};

use crate::ResourceType;
use crate::bootstrap::Bootstrap;
use crate::convert::{self, Addresses, At as _, Notes, Reject, route_names};
use history::Histories;

/// A resource as a client receives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The name it is subscribed under; empty where the protocol does not say (state of the world), to be taken from
    /// the body.
    pub name: Arc<str>,
    /// The server's version of it.
    pub version: Arc<str>,
    pub body: Any,
}

/// One response, whichever protocol it came by.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub r#type: ResourceType,
    /// The version of the whole response.
    pub version: Arc<str>,
    pub nonce: Arc<str>,
    pub resources: Vec<Received>,
    pub removed: Vec<Arc<str>>,
}

/// A resource that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub name: Arc<str>,
    pub reason: Reject,
}

/// A cluster as the resource says, waiting for endpoints or served.
#[derive(Clone, Debug)]
struct ClusterParts {
    settings: Arc<ClusterSettings>,
    /// `None`: by EDS.
    endpoints: Option<Arc<Endpoints>>,
}

impl ClusterParts {
    fn service_name(&self) -> Option<&Arc<str>> {
        match &self.settings.discovery {
            Discovery::Eds { service_name } => Some(service_name),
            _ => None,
        }
    }
}

/// What a name of a discovered resource is used by.
type Users = HashMap<Arc<str>, BTreeSet<Arc<str>>>;

/// All resources of one proxy.
#[derive(Debug, Default)]
pub struct State {
    config: Config,
    published: Option<Arc<Config>>,
    warming_clusters: BTreeMap<Arc<str>, ClusterParts>,
    warming_listeners: BTreeMap<Arc<str>, Arc<Listener>>,
    /// Endpoints received by EDS, by service name.
    assignments: HashMap<Arc<str>, Arc<Endpoints>>,
    assignment_users: Users,
    route_users: Users,
    /// Names that lost their last user in the update being applied.
    orphans: Vec<(ResourceType, Arc<str>)>,
    histories: Histories,
    notes: Notes,
    received: BTreeSet<ResourceType>,
}

impl State {
    /// A state that serves what a bootstrap holds itself.
    pub fn new(bootstrap: &Bootstrap, now: SystemTime) -> Result<State, Reject> {
        let mut state = State { notes: bootstrap.notes.clone(), ..State::default() };
        for (at, cluster) in bootstrap.clusters.iter().enumerate() {
            let body = any(cluster);
            state.put_cluster(&body, None).at(&format!("static_resources.clusters[{at}]"))?;
            state.histories.fixed(ResourceType::Cluster, cluster.name.as_str().into(), body, now);
        }
        for (at, listener) in bootstrap.listeners.iter().enumerate() {
            let body = any(listener);
            let name = state.put_listener(&body, None).at(&format!("static_resources.listeners[{at}]"))?;
            state.histories.fixed(ResourceType::Listener, name, body, now);
        }
        Ok(state)
    }

    /// The configuration to serve by: the same `Arc` as long as nothing changes.
    pub fn config(&mut self) -> Arc<Config> {
        let config = self.published.get_or_insert_with(|| Arc::new(self.config.clone()));
        Arc::clone(config)
    }

    /// Whether a response of this type has been applied, be it empty.
    pub fn has_received(&self, r#type: &ResourceType) -> bool {
        self.received.contains(r#type)
    }

    /// Names of the resources of a type that discovery told of and that were accepted.
    pub fn names(&self, r#type: &ResourceType) -> BTreeSet<Arc<str>> {
        let told = self.histories.of_type(r#type).filter(|(_, history)| !history.fixed);
        told.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Names of clusters and listeners that wait for endpoints and routes.
    pub fn warming(&self) -> impl Iterator<Item = &Arc<str>> {
        self.warming_clusters.keys().chain(self.warming_listeners.keys())
    }

    /// What has been noted and not carried out, since the start.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The names of a type that what is known so far refers to: endpoints of clusters, routes of listeners.
    pub fn wanted(&self, r#type: &ResourceType) -> BTreeSet<Arc<str>> {
        match r#type {
            ResourceType::Endpoint => self.assignment_users.keys().cloned().collect(),
            ResourceType::Route => self.route_users.keys().cloned().collect(),
            ResourceType::Cluster | ResourceType::Listener | ResourceType::Secret | ResourceType::Other(_) => {
                BTreeSet::new()
            }
        }
    }

    /// Applies a response, resource by resource: what is good is served, what is refused is returned and the last
    /// good one stays.
    pub fn apply(&mut self, update: &Update, now: SystemTime) -> Vec<Refused> {
        let Update { r#type, version, nonce: _, resources, removed } = update;
        // First, so that a new listener can take the address of one that goes.
        for name in removed {
            self.remove(r#type, name);
        }
        let mut refused = Vec::new();
        for received in resources {
            let Received { name, version, body } = received;
            let name = match &**name {
                "" => resource_name(body),
                _ => Arc::clone(name),
            };
            if self.histories.is_current(r#type, &name, body) {
                self.histories.confirmed(r#type, &name, version);
                continue;
            }
            match self.put(r#type, &name, body) {
                Ok(()) if !self.is_asked_for(r#type, &name) => {}
                Ok(()) => self.histories.accepted(r#type, name, Arc::clone(version), body.clone(), now),
                Err(reason) => {
                    let text = reason.to_string();
                    self.histories.refused(r#type, Arc::clone(&name), Arc::clone(version), body.clone(), text, now);
                    refused.push(Refused { name, reason });
                }
            }
        }
        self.drop_orphans();
        self.received.insert(r#type.clone());
        self.histories.version(r#type.clone(), Arc::clone(version));
        refused
    }

    fn put(&mut self, r#type: &ResourceType, name: &Arc<str>, body: &Any) -> Result<(), Reject> {
        if name.is_empty() {
            return Err(Reject::new("a resource without a name"));
        }
        if self.histories.is_fixed(r#type, name) {
            return Err(Reject::new("the bootstrap has a static resource of this name, which cannot be replaced"));
        }
        match r#type {
            ResourceType::Cluster => self.put_cluster(body, Some(name)),
            ResourceType::Endpoint => self.put_assignment(body, name),
            ResourceType::Listener => self.put_listener(body, Some(name)).map(drop),
            ResourceType::Route => self.put_routes(body, name),
            ResourceType::Secret | ResourceType::Other(_) => Err(Reject::new("not a type that was asked for")),
        }
    }

    /// Names that nothing refers to any more may still come, from before the server heard so.
    fn is_asked_for(&self, r#type: &ResourceType, name: &str) -> bool {
        match r#type {
            ResourceType::Endpoint => self.assignment_users.contains_key(name),
            ResourceType::Route => self.route_users.contains_key(name),
            ResourceType::Cluster | ResourceType::Listener | ResourceType::Secret | ResourceType::Other(_) => true,
        }
    }

    fn remove(&mut self, r#type: &ResourceType, name: &Arc<str>) {
        match r#type {
            ResourceType::Cluster if !self.histories.is_fixed(r#type, name) => {
                self.remove_cluster(name);
                self.histories.forget(r#type, name);
            }
            ResourceType::Endpoint => self.assignment_is_absent(name),
            ResourceType::Listener if !self.histories.is_fixed(r#type, name) => {
                self.remove_listener(name);
                self.histories.forget(r#type, name);
            }
            // Routes stay as long as a listener names them: the last ones known are better than none.
            _ => {}
        }
    }

    fn put_cluster(&mut self, body: &Any, expected: Option<&Arc<str>>) -> Result<(), Reject> {
        let message: PbCluster = decode(body)?;
        check_name(&message.name, expected)?;
        let converted = convert::cluster(message, &mut self.notes)?;
        let name = Arc::clone(&converted.settings.name);
        if expected.is_none() && (self.config.clusters.contains_key(&name) || self.warming_clusters.contains_key(&name))
        {
            return Err(Reject::new(format_args!("a second cluster {name:?}")));
        }
        let parts =
            ClusterParts { settings: Arc::new(converted.settings), endpoints: converted.endpoints.map(Arc::new) };
        let older = self.warming_clusters.remove(&name);
        let endpoints = match (&parts.endpoints, parts.service_name()) {
            (Some(inline), _) => Some(Arc::clone(inline)),
            (None, Some(service)) => {
                self.assignment_users.entry(Arc::clone(service)).or_default().insert(Arc::clone(&name));
                self.assignments.get(service).cloned()
            }
            (None, None) => Some(Arc::default()),
        };
        match endpoints {
            Some(endpoints) => self.serve_cluster(&name, parts.settings, endpoints),
            None => {
                self.warming_clusters.insert(Arc::clone(&name), parts);
            }
        }
        if let Some(service) = older.as_ref().and_then(ClusterParts::service_name) {
            self.release_assignment(service, &name);
        }
        Ok(())
    }

    /// Puts a cluster in place of what was served under its name.
    fn serve_cluster(&mut self, name: &Arc<str>, settings: Arc<ClusterSettings>, endpoints: Arc<Endpoints>) {
        let cluster = Arc::new(Cluster { settings, endpoints });
        let older = self.change_clusters().insert(Arc::clone(name), cluster);
        if let Some(older) = older
            && let Discovery::Eds { service_name } = &older.settings.discovery
        {
            self.release_assignment(service_name, name);
        }
    }

    fn remove_cluster(&mut self, name: &Arc<str>) {
        let warming = self.warming_clusters.remove(name);
        let served = if self.config.clusters.contains_key(name) { self.change_clusters().remove(name) } else { None };
        let settings = warming.map(|parts| parts.settings).into_iter().chain(served.map(|c| Arc::clone(&c.settings)));
        for settings in settings {
            if let Discovery::Eds { service_name } = &settings.discovery {
                self.release_assignment(service_name, name);
            }
        }
    }

    /// A cluster no longer uses an assignment, unless another form of it still does.
    fn release_assignment(&mut self, service: &Arc<str>, cluster: &Arc<str>) {
        let uses = |settings: &ClusterSettings| match &settings.discovery {
            Discovery::Eds { service_name } => service_name == service,
            _ => false,
        };
        let still = self.config.clusters.get(cluster).is_some_and(|served| uses(&served.settings))
            || self.warming_clusters.get(cluster).is_some_and(|parts| uses(&parts.settings));
        if still {
            return;
        }
        let Some(users) = self.assignment_users.get_mut(service) else { return };
        users.remove(cluster);
        if users.is_empty() {
            self.orphans.push((ResourceType::Endpoint, Arc::clone(service)));
        }
    }

    /// Drops what nothing has referred to since the end of an update. Not earlier: a later resource of the same
    /// update may refer to it again, and the server would not hear that it is wanted once more.
    fn drop_orphans(&mut self) {
        for (r#type, name) in std::mem::take(&mut self.orphans) {
            let of_routes = r#type == ResourceType::Route;
            let users = if of_routes { &mut self.route_users } else { &mut self.assignment_users };
            if users.get(&name).is_some_and(|users| !users.is_empty()) {
                continue;
            }
            users.remove(&name);
            self.histories.forget(&r#type, &name);
            if !of_routes {
                self.assignments.remove(&name);
            } else if self.config.routes.contains_key(&name) {
                self.published = None;
                Arc::make_mut(&mut self.config.routes).remove(&name);
            }
        }
    }

    fn put_assignment(&mut self, body: &Any, name: &Arc<str>) -> Result<(), Reject> {
        let message: ClusterLoadAssignment = decode(body)?;
        check_name(&message.cluster_name, Some(name))?;
        let endpoints = Arc::new(convert::endpoints(message, Addresses::Ready, &mut self.notes)?);
        self.assign(name, endpoints);
        Ok(())
    }

    /// Nobody knows the name: clusters that wait for it shall not wait for ever, and one in use keeps what it has.
    fn assignment_is_absent(&mut self, name: &Arc<str>) {
        if !self.assignments.contains_key(name) {
            self.assign(name, Arc::default());
        }
    }

    fn assign(&mut self, service: &Arc<str>, endpoints: Arc<Endpoints>) {
        let Some(users) = self.assignment_users.get(service) else {
            // Asked for no longer.
            return;
        };
        for cluster in users.clone() {
            let waits = self.warming_clusters.get(&cluster).is_some_and(|parts| parts.service_name() == Some(service));
            if waits && let Some(parts) = self.warming_clusters.remove(&cluster) {
                self.serve_cluster(&cluster, parts.settings, Arc::clone(&endpoints));
                continue;
            }
            let Some(served) = self.config.clusters.get(&cluster) else { continue };
            if matches!(&served.settings.discovery, Discovery::Eds { service_name } if service_name == service) {
                let settings = Arc::clone(&served.settings);
                let cluster_now = Arc::new(Cluster { settings, endpoints: Arc::clone(&endpoints) });
                self.change_clusters().insert(cluster, cluster_now);
            }
        }
        self.assignments.insert(Arc::clone(service), endpoints);
    }

    fn put_listener(&mut self, body: &Any, expected: Option<&Arc<str>>) -> Result<Arc<str>, Reject> {
        let message: PbListener = decode(body)?;
        if expected.is_some() {
            check_name(&message.name, expected)?;
        }
        let listener = Arc::new(convert::listener(message, &mut self.notes)?);
        let name = Arc::clone(&listener.name);
        let others = self.config.listeners.values().chain(self.warming_listeners.values());
        for other in others {
            if other.name == name {
                if expected.is_none() {
                    return Err(Reject::new(format_args!("a second listener {name:?}")));
                }
                continue;
            }
            let shared = listener.addresses.iter().find(|address| other.addresses.contains(address));
            if let Some(address) = shared.filter(|_| listener.bind_to_port && other.bind_to_port) {
                let reason = format_args!("address {address} is that of listener {:?} too", other.name);
                return Err(Reject::new(reason));
            }
        }
        let older = self.warming_listeners.remove(&name);
        for route in route_names(&listener) {
            self.route_users.entry(Arc::clone(route)).or_default().insert(Arc::clone(&name));
        }
        if self.has_routes(&listener) {
            self.serve_listener(listener);
        } else {
            self.warming_listeners.insert(Arc::clone(&name), listener);
        }
        if let Some(older) = older {
            self.release_routes(&older);
        }
        Ok(name)
    }

    fn has_routes(&self, listener: &Listener) -> bool {
        route_names(listener).all(|name| self.config.routes.contains_key(name))
    }

    fn serve_listener(&mut self, listener: Arc<Listener>) {
        let older = self.change_listeners().insert(Arc::clone(&listener.name), listener);
        if let Some(older) = older {
            self.release_routes(&older);
        }
    }

    fn remove_listener(&mut self, name: &Arc<str>) {
        let warming = self.warming_listeners.remove(name);
        let served = if self.config.listeners.contains_key(name) { self.change_listeners().remove(name) } else { None };
        for listener in warming.into_iter().chain(served) {
            self.release_routes(&listener);
        }
    }

    /// A form of a listener no longer uses its routes; others of the same name still may.
    fn release_routes(&mut self, older: &Listener) {
        let forms = [self.config.listeners.get(&older.name), self.warming_listeners.get(&older.name)];
        let still: BTreeSet<Arc<str>> =
            forms.into_iter().flatten().flat_map(|form| route_names(form)).cloned().collect();
        for route in route_names(older) {
            if still.contains(route) {
                continue;
            }
            let Some(users) = self.route_users.get_mut(route) else { continue };
            users.remove(&older.name);
            if users.is_empty() {
                self.orphans.push((ResourceType::Route, Arc::clone(route)));
            }
        }
    }

    fn put_routes(&mut self, body: &Any, name: &Arc<str>) -> Result<(), Reject> {
        let message: RouteConfiguration = decode(body)?;
        check_name(&message.name, Some(name))?;
        let routes = Arc::new(convert::route_config(message, &mut self.notes)?);
        let Some(users) = self.route_users.get(name) else {
            // Asked for no longer.
            return Ok(());
        };
        let users = users.clone();
        self.published = None;
        Arc::make_mut(&mut self.config.routes).insert(Arc::clone(name), routes);
        for listener in users {
            let ready = self.warming_listeners.get(&listener).is_some_and(|waiting| self.has_routes(waiting));
            if ready && let Some(waiting) = self.warming_listeners.remove(&listener) {
                self.serve_listener(waiting);
            }
        }
        Ok(())
    }

    fn change_clusters(&mut self) -> &mut HashMap<Arc<str>, Arc<Cluster>> {
        self.published = None;
        Arc::make_mut(&mut self.config.clusters)
    }

    fn change_listeners(&mut self) -> &mut BTreeMap<Arc<str>, Arc<Listener>> {
        self.published = None;
        Arc::make_mut(&mut self.config.listeners)
    }
}

/// The name in a resource's body: field 1 of all four types.
pub(crate) fn resource_name(body: &Any) -> Arc<str> {
    #[derive(Clone, PartialEq, Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    Named::decode(body.value.as_slice()).map_or_else(|_| "".into(), |named| named.name.into())
}

fn check_name(name: &str, expected: Option<&Arc<str>>) -> Result<(), Reject> {
    match expected {
        Some(expected) if **expected != *name => {
            Err(Reject::new(format_args!("the resource is named {name:?} inside, {expected:?} outside")))
        }
        _ => Ok(()),
    }
}

fn decode<M: Message + Name + Default>(body: &Any) -> Result<M, Reject> {
    let Any { type_url, value } = body;
    if type_url.rsplit('/').next() != Some(M::full_name().as_str()) {
        return Err(Reject::new(format_args!("a resource of type {type_url}, not {}", M::full_name())));
    }
    M::decode(value.as_slice()).map_err(|e| Reject::new(format_args!("malformed: {e}")))
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
