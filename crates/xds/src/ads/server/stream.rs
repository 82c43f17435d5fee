//! One client's stream: requests and updates in, responses out. Knows no socket; the time is an argument.
//!
//! The order of a push is make-before-break. Clusters go first, endpoints that a client waits for next; listeners
//! and routes follow when those are acknowledged; clusters are removed when no listener or route can still refer to
//! them. One response of a type is in flight at a time, what changes meanwhile is merged into the next. Waiting is
//! bounded by [`PATIENCE`], because a client may owe its acknowledgement to something else (Envoy holds back that of
//! clusters while one of them resolves its name).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google::rpc::Status;
use prost::Message as _;

use super::status::StreamStatus;
use super::subscription::{Extent, News, Subscription};
use crate::ads::{Awaited, Protocol, WorkloadHealth, awaited};
use crate::{Resource, ResourceSet, ResourceType, Resources};

/// How long listeners and routes wait for clusters to be acknowledged.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Limits on what a client can make a stream keep.
const MAX_TYPES: usize = 32;
const MAX_NAMES: usize = 100_000;
const MAX_NAME_BYTES: usize = 4096;
const MAX_MESSAGE_CHARS: usize = 8192;

/// Why a stream is ended.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StreamError {
    #[error("more than {MAX_TYPES} resource types requested on one stream")]
    TooManyTypes,
    #[error("more than {MAX_NAMES} {0} resources named in subscriptions")]
    TooManyNames(ResourceType),
    #[error("a resource name of more than {MAX_NAME_BYTES} bytes in a {0} subscription")]
    NameTooLong(ResourceType),
}

/// One response to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    pub r#type: ResourceType,
    pub version: Arc<str>,
    pub nonce: Arc<str>,
    pub resources: Vec<Resource>,
    /// Always empty for [`Protocol::StateOfTheWorld`].
    pub removed: Vec<Arc<str>>,
}

impl Push {
    /// The response of the delta protocol.
    pub fn to_delta(&self) -> discovery::DeltaDiscoveryResponse {
        let resource = |resource: &Resource| discovery::Resource {
            name: resource.name().to_string(),
            version: resource.version().to_string(),
            resource: Some(resource.to_any(&self.r#type)),
            ..Default::default()
        };
        discovery::DeltaDiscoveryResponse {
            system_version_info: self.version.to_string(),
            resources: self.resources.iter().map(resource).collect(),
            type_url: self.r#type.url().to_owned(),
            removed_resources: self.removed.iter().map(|name| name.to_string()).collect(),
            nonce: self.nonce.to_string(),
            control_plane: awaited::identified(),
            ..Default::default()
        }
    }

    /// The response of the state-of-the-world protocol.
    pub fn to_state_of_the_world(&self) -> discovery::DiscoveryResponse {
        discovery::DiscoveryResponse {
            version_info: self.version.to_string(),
            resources: self.resources.iter().map(|resource| resource.to_any(&self.r#type)).collect(),
            type_url: self.r#type.url().to_owned(),
            nonce: self.nonce.to_string(),
            control_plane: awaited::identified(),
            ..Default::default()
        }
    }
}

/// The state of one stream. Of a delta stream [`ServerStream::on_delta_request`] takes the requests, of a
/// state-of-the-world stream [`ServerStream::on_request`].
#[derive(Debug)]
pub struct ServerStream {
    protocol: Protocol,
    set: Arc<ResourceSet>,
    subscriptions: BTreeMap<ResourceType, Subscription>,
    nonces: u64,
    /// Since when listeners or routes have been waiting for clusters.
    waiting_since: Option<Instant>,
    /// When the first request came.
    opened: Option<Instant>,
    workload: Option<WorkloadHealth>,
    awaited: BTreeSet<Awaited>,
}

impl ServerStream {
    pub fn new(protocol: Protocol, set: Arc<ResourceSet>) -> ServerStream {
        ServerStream {
            protocol,
            set,
            subscriptions: BTreeMap::new(),
            nonces: 0,
            waiting_since: None,
            opened: None,
            workload: None,
            awaited: BTreeSet::new(),
        }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What the client has been told and has said to it.
    pub fn status(&self) -> StreamStatus {
        let types = self.subscriptions.iter().map(|(r#type, sub)| (r#type.clone(), sub.status())).collect();
        let secrets = self.subscriptions.get(&ResourceType::Secret).map(|asked| asked.names().clone());
        StreamStatus {
            version: Arc::clone(self.set.version()),
            types,
            workload: self.workload.clone(),
            awaited: self.awaited.clone(),
            secrets: secrets.unwrap_or_default(),
        }
    }

    /// When [`ServerStream::on_deadline`] wants to be called, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + PATIENCE)
    }

    pub fn on_deadline(&mut self, now: Instant) -> Vec<Push> {
        self.flush(now)
    }

    /// The client shall have `set` from now on.
    pub fn on_update(&mut self, set: Arc<ResourceSet>, now: Instant) -> Vec<Push> {
        self.set = set;
        for (r#type, subscription) in &mut self.subscriptions {
            subscription.compare_all(r#type, &self.set);
        }
        self.flush(now)
    }

    /// A request of the delta protocol: changes of the subscription, and an answer to a response if it has a nonce.
    pub fn on_delta_request(
        &mut self,
        request: discovery::DeltaDiscoveryRequest,
        now: Instant,
    ) -> Result<Vec<Push>, StreamError> {
        let discovery::DeltaDiscoveryRequest {
            node: _,
            type_url,
            resource_names_subscribe,
            resource_names_unsubscribe,
            // Locators are names of another kind, which no client of ours or Envoy's own configuration uses.
            resource_locators_subscribe: _,
            resource_locators_unsubscribe: _,
            initial_resource_versions,
            response_nonce,
            error_detail,
        } = request;
        if self.hears(&type_url, error_detail.as_ref()) {
            return Ok(Vec::new());
        }
        let r#type = ResourceType::from_url(&type_url);
        let first = !self.subscriptions.contains_key(&r#type);
        if first && error_detail.is_some() {
            // A refusal from before a reconnect: of a response this stream never sent.
            return Ok(Vec::new());
        }
        check_names(&r#type, resource_names_subscribe.iter().chain(initial_resource_versions.keys()))?;
        let set = Arc::clone(&self.set);
        let all = set.all_of(&r#type);
        let subscription = self.subscription(&r#type)?;
        if subscription.name_count() + resource_names_subscribe.len() > MAX_NAMES
            || initial_resource_versions.len() > MAX_NAMES
        {
            return Err(StreamError::TooManyNames(r#type));
        }

        if !first {
            answer(subscription, &response_nonce, error_detail.as_ref().map(|error| error.message.as_str()));
        }
        for name in resource_names_unsubscribe {
            match name.as_str() {
                "*" => subscription.unsubscribe_all(),
                name => subscription.unsubscribe(name),
            }
        }
        let resumed: BTreeSet<Arc<str>> = if first {
            let resumed = initial_resource_versions.into_iter();
            resumed
                .map(|(name, version)| {
                    let name = shared_name(&all, name);
                    subscription.resume(&r#type, Arc::clone(&name), &version, &set);
                    name
                })
                .collect()
        } else {
            BTreeSet::new()
        };
        if first && resource_names_subscribe.is_empty() && r#type.nameless_means_all() {
            subscription.subscribe_all(resumed.is_empty());
        }
        for name in resource_names_subscribe {
            let name = shared_name(&all, name);
            match &*name {
                "*" => subscription.subscribe_all(resumed.is_empty()),
                _ if resumed.contains(&name) => subscription.subscribe_resumed(&r#type, name, &set),
                _ => subscription.subscribe(name),
            }
        }
        subscription.compare_all(&r#type, &set);
        Ok(self.flush(now))
    }

    /// A request of the state-of-the-world protocol: all names of the subscription, and an answer to the last
    /// response if it has a nonce.
    pub fn on_request(&mut self, request: discovery::DiscoveryRequest, now: Instant) -> Result<Vec<Push>, StreamError> {
        let discovery::DiscoveryRequest {
            // Our versions name pushes; a client that comes back is told everything.
            version_info: _,
            node: _,
            resource_names,
            resource_locators: _,
            type_url,
            response_nonce,
            error_detail,
        } = request;
        if self.hears(&type_url, error_detail.as_ref()) {
            return Ok(Vec::new());
        }
        let r#type = ResourceType::from_url(&type_url);
        let first = !self.subscriptions.contains_key(&r#type);
        if first && error_detail.is_some() {
            return Ok(Vec::new());
        }
        check_names(&r#type, &resource_names)?;
        if resource_names.len() > MAX_NAMES {
            return Err(StreamError::TooManyNames(r#type));
        }
        let set = Arc::clone(&self.set);
        let all = set.all_of(&r#type);
        let subscription = self.subscription(&r#type)?;
        // What was overtaken by a newer response answers nothing, but its names are the newest there are.
        if !first && *response_nonce == *subscription.last_nonce {
            answer(subscription, &response_nonce, error_detail.as_ref().map(|error| error.message.as_str()));
        }
        let afresh = first || response_nonce.is_empty();
        if resource_names.is_empty() && r#type.nameless_means_all() && subscription.names().is_empty() {
            subscription.subscribe_all(afresh);
        }
        let wanted: BTreeSet<Arc<str>> = resource_names.into_iter().map(|name| shared_name(&all, name)).collect();
        let dropped: Vec<Arc<str>> = subscription.names().difference(&wanted).cloned().collect();
        dropped.iter().for_each(|name| subscription.unsubscribe(name));
        for name in wanted {
            if &*name == "*" {
                subscription.subscribe_all(afresh);
            } else if afresh || !subscription.names().contains(&name) {
                subscription.subscribe(name);
            }
        }
        subscription.compare_all(&r#type, &set);
        Ok(self.flush(now))
    }

    /// Whether a request tells something of the client, and asks for nothing.
    fn hears(&mut self, type_url: &str, said: Option<&Status>) -> bool {
        if let Some(health) = WorkloadHealth::of_request(type_url, said) {
            self.workload = Some(health);
        } else if let Some(awaited) = awaited::of_request(type_url, said) {
            self.awaited = awaited;
        } else {
            return false;
        }
        true
    }

    fn subscription(&mut self, r#type: &ResourceType) -> Result<&mut Subscription, StreamError> {
        if self.subscriptions.len() >= MAX_TYPES && !self.subscriptions.contains_key(r#type) {
            return Err(StreamError::TooManyTypes);
        }
        Ok(self.subscriptions.entry(r#type.clone()).or_default())
    }

    /// Everything that may be sent now.
    fn flush(&mut self, now: Instant) -> Vec<Push> {
        self.opened.get_or_insert(now);
        let types: Vec<ResourceType> = self.subscriptions.keys().cloned().collect();
        let mut waits = false;
        let mut pushes = Vec::new();
        for r#type in types {
            match self.next_push(&r#type, now) {
                Turn::Push(push) => pushes.push(push),
                Turn::Nothing => {}
                Turn::Wait => waits = true,
            }
        }
        self.waiting_since = if waits { self.waiting_since.or(Some(now)) } else { None };
        pushes
    }

    fn next_push(&mut self, r#type: &ResourceType, now: Instant) -> Turn {
        let removable = match self.subscriptions.get(r#type) {
            Some(subscription) if subscription.has_removals() => self.may_remove(r#type, now),
            _ => Removal::Later,
        };
        let patient = self.waiting_since.is_none_or(|since| now < since + PATIENCE);
        let turn_of_clusters =
            matches!(r#type, ResourceType::Listener | ResourceType::Route) && !self.clusters_settled();
        let set = Arc::clone(&self.set);
        let Some(subscription) = self.subscriptions.get_mut(r#type) else { return Turn::Nothing };
        if subscription.in_flight() {
            return Turn::Nothing;
        }
        let removals_along = *r#type == ResourceType::Listener;
        if subscription.has_news() || (removals_along && subscription.has_removals()) {
            if turn_of_clusters && patient {
                return Turn::Wait;
            }
            // A new listener may take the address of one that goes: both in one response.
            if let Some(news) = subscription.next_news(r#type, &set, removals_along) {
                return Turn::Push(self.send(r#type, news));
            }
        }
        if subscription.has_removals() && !removals_along {
            match removable {
                Removal::Now => {}
                Removal::Wait => return Turn::Wait,
                Removal::Later => return Turn::Nothing,
            }
            if let Some(news) = subscription.next_removals() {
                return Turn::Push(self.send(r#type, news));
            }
        }
        Turn::Nothing
    }

    fn send(&mut self, r#type: &ResourceType, news: News) -> Push {
        self.nonces += 1;
        let nonce: Arc<str> = self.nonces.to_string().into();
        let extent = match self.protocol {
            Protocol::StateOfTheWorld if r#type.absence_deletes() => Extent::Everything,
            _ => Extent::Changes,
        };
        let set = Arc::clone(&self.set);
        let subscription = self.subscriptions.entry(r#type.clone()).or_default();
        let outgoing = subscription.send(r#type, news, extent, Arc::clone(&nonce), &set);
        if *r#type == ResourceType::Cluster {
            self.warm(&outgoing.upserts);
        }
        let removed = match self.protocol {
            Protocol::Delta => outgoing.removals,
            Protocol::StateOfTheWorld => Vec::new(),
        };
        let resources = outgoing.everything.unwrap_or(outgoing.upserts);
        let version = Arc::clone(set.version());
        Push { r#type: r#type.clone(), version, nonce, resources, removed }
    }

    /// A cluster that is told anew waits for its endpoints, and its client does not ask again for names it has asked
    /// for (envoyproxy/envoy#13009): they are told without being asked for.
    fn warm(&mut self, clusters: &[Resource]) {
        let Some(endpoints) = self.subscriptions.get_mut(&ResourceType::Endpoint) else { return };
        for cluster in clusters {
            let name = endpoints_of(cluster);
            if endpoints.names().contains(&name) {
                endpoints.await_answer(&name);
            }
        }
    }

    /// Whether the client has every cluster it shall have, with its endpoints.
    fn clusters_settled(&self) -> bool {
        let clusters = self.subscriptions.get(&ResourceType::Cluster);
        let endpoints = self.subscriptions.get(&ResourceType::Endpoint);
        clusters.is_none_or(Subscription::settled) && !endpoints.is_some_and(Subscription::awaited)
    }

    /// Whether what vanished of a type can still be in use by what the client has of other types.
    fn may_remove(&self, r#type: &ResourceType, now: Instant) -> Removal {
        let of = |r#type| self.subscriptions.get(r#type);
        let idle = |sub: &Subscription| sub.settled() && !sub.has_removals();
        let free = match r#type {
            ResourceType::Cluster => match (of(&ResourceType::Listener), of(&ResourceType::Route)) {
                (Some(listeners), Some(routes)) => {
                    idle(listeners) && !listeners.holds_back() && routes.settled() && !routes.holds_back()
                }
                // Right after a reconnect the requests for listeners and routes are still on their way.
                _ if self.opened.is_none_or(|opened| now < opened + PATIENCE) => return Removal::Wait,
                (listeners, routes) => {
                    [listeners, routes].into_iter().flatten().all(|users| users.settled() && !users.holds_back())
                }
            },
            ResourceType::Endpoint => of(&ResourceType::Cluster).is_none_or(idle),
            ResourceType::Route => of(&ResourceType::Listener).is_none_or(idle),
            ResourceType::Listener | ResourceType::Secret | ResourceType::Other(_) => true,
        };
        if free { Removal::Now } else { Removal::Later }
    }
}

enum Turn {
    Push(Push),
    Nothing,
    /// There is news, and it waits for clusters.
    Wait,
}

enum Removal {
    Now,
    /// Until the stream has settled.
    Wait,
    /// Until something else is acknowledged.
    Later,
}

fn answer(subscription: &mut Subscription, nonce: &str, error: Option<&str>) {
    if nonce.is_empty() {
        return;
    }
    match error {
        None => subscription.accept(nonce),
        Some(message) => {
            let message: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
            subscription.refuse(nonce, &message)
        }
    };
}

/// A name as resources have it, if one does: thousands of clients name the same.
fn shared_name(resources: &Resources, name: String) -> Arc<str> {
    resources.get_key_value(name.as_str()).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
}

fn check_names<'a>(r#type: &ResourceType, names: impl IntoIterator<Item = &'a String>) -> Result<(), StreamError> {
    match names.into_iter().any(|name| name.len() > MAX_NAME_BYTES) {
        true => Err(StreamError::NameTooLong(r#type.clone())),
        false => Ok(()),
    }
}

/// The name under which a cluster asks for its endpoints. Reads that field alone.
fn endpoints_of(cluster: &Resource) -> Arc<str> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Cluster {
        #[prost(message, optional, tag = "3")]
        eds_cluster_config: Option<EdsClusterConfig>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct EdsClusterConfig {
        #[prost(string, tag = "2")]
        service_name: String,
    }
    match Cluster::decode(cluster.body().clone()).ok().and_then(|cluster| cluster.eds_cluster_config) {
        Some(eds) if !eds.service_name.is_empty() => eds.service_name.into(),
        _ => Arc::clone(cluster.name()),
    }
}
