//! What a proxy has been told, and what it serves by.
//!
//! Keeps the last good content of every resource and yields whole [`Config`]s. Nothing that works is replaced by
//! something that cannot work yet: a cluster waits ("warms") until its endpoints are known, a listener until its
//! routes are, both until their secrets are, and meanwhile the older one stays. Removals act at once. A change of one
//! resource costs work in proportion to that change; one of routes or listeners also a copy of their map of pointers.
//!
//! Knows no stream and no clock: [`crate::ads::client`] feeds it, the time is an argument.

mod clusters;
mod dump;
mod history;
mod listeners;
mod secrets;
mod sockets;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::google::protobuf::Any;
use lateen_persistent::Map;
use lateen_traffic::Config;
use lateen_traffic::cluster::Endpoints;
use lateen_traffic::listener::Listener;
use lateen_traffic::tls::SecretOrigin;
use prost::{Message, Name};
use zeroize::Zeroize as _;

use crate::ResourceType;
use crate::bootstrap::Bootstrap;
use crate::convert::{At as _, Notes, Reject};
use clusters::ClusterParts;
use history::Histories;
use secrets::Secrets;
pub use sockets::Bind;
use sockets::Sockets;

/// A resource as a client receives it.
#[derive(Clone, PartialEq)]
pub struct Received {
    /// The name it is subscribed under; empty where the protocol does not say (state of the world), to be taken from
    /// the body.
    pub name: Arc<str>,
    /// The server's version of it.
    pub version: Arc<str>,
    pub body: Any,
}

/// Without its content: it may be a secret.
impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Received({:?}, {:?}, {} bytes)", self.name, self.version, self.body.value.len())
    }
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

impl Update {
    /// Overwrites secrets in memory: what was made of them is all that is needed.
    pub fn overwrite_secrets(&mut self) {
        if self.r#type == ResourceType::Secret {
            self.resources.iter_mut().for_each(|received| received.body.value.zeroize());
        }
    }
}

/// A resource that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub name: Arc<str>,
    pub reason: Reject,
}

/// Names of resources to be discovered, and what each is used by. Versions share what they have in common.
pub type Users = Map<Arc<str>, BTreeSet<Arc<str>>>;

fn add_user(users: &mut Users, name: &Arc<str>, user: &Arc<str>) {
    match users.get_mut(name) {
        Some(known) => _ = known.insert(Arc::clone(user)),
        None => _ = users.insert(Arc::clone(name), [Arc::clone(user)].into()),
    }
}

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
    secrets: Secrets,
    /// Somebody who referred to a secret may do so no longer.
    secret_users_changed: bool,
    notes: Notes,
    sockets: Sockets,
    received: BTreeSet<ResourceType>,
    /// Resources converted since the start.
    converted: usize,
}

impl State {
    /// A state that serves what a bootstrap holds itself, and takes its listeners' addresses by `bind`.
    pub fn new(bootstrap: &Bootstrap, bind: Bind, now: SystemTime) -> Result<State, Reject> {
        let mut state = State { notes: bootstrap.notes.clone(), sockets: Sockets::new(bind), ..State::default() };
        for (at, secret) in bootstrap.secrets.iter().enumerate() {
            let at = format!("static_resources.secrets[{at}]");
            state.put_static_secret(secret.clone(), now).at(&at)?;
        }
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

    /// The names of a type that what is known so far refers to: endpoints of clusters, routes of listeners, and secrets of
    /// the control plane.
    pub fn wanted(&self, r#type: &ResourceType) -> Users {
        match r#type {
            ResourceType::Endpoint => self.assignment_users.clone(),
            ResourceType::Route => self.route_users.clone(),
            ResourceType::Secret => self.wanted_secrets(&SecretOrigin::ControlPlane),
            ResourceType::Cluster | ResourceType::Listener | ResourceType::Other(_) => Users::new(),
        }
    }

    /// Applies a response of whoever tells secrets, or anything else if that is the control plane.
    pub fn apply_from(&mut self, origin: &SecretOrigin, update: &Update, now: SystemTime) -> Vec<Refused> {
        match (origin, &update.r#type) {
            (_, ResourceType::Secret) => self.apply_secrets(origin, update, now),
            (SecretOrigin::ControlPlane, _) => self.apply(update, now),
            // Not a type that such a server was asked for.
            (SecretOrigin::Server(_) | SecretOrigin::Bootstrap, _) => Vec::new(),
        }
    }

    /// How many resources it took to come here: what comes again as it was is none.
    pub fn converted(&self) -> usize {
        self.converted
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
            self.converted += 1;
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
        if matches!(r#type, ResourceType::Listener | ResourceType::Route) {
            self.release_sockets();
        }
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

    /// Drops what nothing has referred to since the end of an update. Not earlier: a later resource of the same
    /// update may refer to it again, and the server would not hear that it is wanted once more.
    fn drop_orphans(&mut self) {
        if std::mem::take(&mut self.secret_users_changed) {
            self.drop_orphaned_secrets();
        }
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
