//! A client's side of the protocol: what it asks for, what it acknowledges, what it says when it comes back. Knows
//! neither sockets nor what resources mean; those who do say which were refused and which names are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google::rpc::Status;

use crate::ResourceType;
use crate::ads::{Awaited, Protocol, WorkloadHealth, awaited};
use crate::state::{Received, Refused, Update, Users, resource_name};

/// gRPC's INTERNAL, the code of Envoy's refusals.
const INTERNAL: i32 = 13;
/// Longest text of a refusal, in characters.
const MAX_MESSAGE_CHARS: usize = 8192;

/// One request to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub r#type: ResourceType,
    /// On the first request of a stream.
    pub node: Option<Node>,
    /// Names added to the subscription.
    pub subscribe: Vec<Arc<str>>,
    /// Names taken off the subscription.
    pub unsubscribe: Vec<Arc<str>>,
    /// All names of the subscription; empty for every resource of the type.
    pub names: Users,
    /// On the first request of a type on a stream: what the client has.
    pub has: BTreeMap<Arc<str>, Arc<str>>,
    /// The version of the last response accepted.
    pub version: Arc<str>,
    /// The response that is answered; empty for none.
    pub nonce: Arc<str>,
    /// Why it is refused.
    pub error: Option<String>,
}

impl Ask {
    /// The request of the delta protocol.
    pub fn to_delta(&self) -> discovery::DeltaDiscoveryRequest {
        let strings = |names: &[Arc<str>]| names.iter().map(|name| name.to_string()).collect();
        discovery::DeltaDiscoveryRequest {
            node: self.node.clone(),
            type_url: self.r#type.url().to_owned(),
            resource_names_subscribe: strings(&self.subscribe),
            resource_names_unsubscribe: strings(&self.unsubscribe),
            initial_resource_versions: self.has.iter().map(|(name, v)| (name.to_string(), v.to_string())).collect(),
            response_nonce: self.nonce.to_string(),
            error_detail: self.error_detail(),
            ..Default::default()
        }
    }

    /// The request of the state-of-the-world protocol.
    pub fn to_state_of_the_world(&self) -> discovery::DiscoveryRequest {
        discovery::DiscoveryRequest {
            version_info: self.version.to_string(),
            node: self.node.clone(),
            resource_names: self.names.keys().map(|name| name.to_string()).collect(),
            type_url: self.r#type.url().to_owned(),
            response_nonce: self.nonce.to_string(),
            error_detail: self.error_detail(),
            ..Default::default()
        }
    }

    fn error_detail(&self) -> Option<Status> {
        let message = self.error.clone()?;
        Some(Status { code: INTERNAL, message, details: Vec::new() })
    }
}

/// What is subscribed of one type.
#[derive(Debug, Default)]
struct Interest {
    wildcard: bool,
    names: Users,
    /// Versions of the resources accepted, by name.
    has: BTreeMap<Arc<str>, Arc<str>>,
    /// Version of the last response accepted.
    version: Arc<str>,
    /// Nonce of the last response, within a stream.
    nonce: Arc<str>,
}

impl Interest {
    fn is_live(&self) -> bool {
        self.wildcard || !self.names.is_empty()
    }
}

/// A node as this client names it to servers, which may tell it what they would not tell an Envoy.
pub fn introduced(node: Node) -> Node {
    Node { user_agent_name: "lateen".to_owned(), ..node }
}

/// The client's state over all streams it opens, one after the other.
#[derive(Debug)]
pub struct ClientSession {
    protocol: Protocol,
    node: Node,
    interests: BTreeMap<ResourceType, Interest>,
    /// Types asked for on this stream.
    asked: BTreeSet<ResourceType>,
    introduced: bool,
    /// What was said of the workload on this stream.
    told_health: Option<WorkloadHealth>,
    /// Whether the server understands what is awaited.
    ours: bool,
    /// What was said to be awaited on this stream.
    told_awaited: BTreeSet<Awaited>,
}

impl ClientSession {
    /// `everything_of`: the types of which all resources are asked for.
    pub fn new(protocol: Protocol, node: Node, everything_of: impl IntoIterator<Item = ResourceType>) -> ClientSession {
        let node = introduced(node);
        let interest = |r#type| (r#type, Interest { wildcard: true, ..Interest::default() });
        let interests = everything_of.into_iter().map(interest).collect();
        ClientSession {
            protocol,
            node,
            interests,
            asked: BTreeSet::new(),
            introduced: false,
            told_health: None,
            ours: false,
            told_awaited: BTreeSet::new(),
        }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether responses of this type were asked for.
    pub fn asks_for(&self, r#type: &ResourceType) -> bool {
        self.asked.contains(r#type)
    }

    /// A stream has been opened: what to ask first, in push order. `wanted` as for [`ClientSession::answer`].
    pub fn connected(&mut self, wanted: impl Fn(&ResourceType) -> Users) -> Vec<Ask> {
        for r#type in ResourceType::FOLLOWED {
            self.follow(&r#type, wanted(&r#type));
        }
        self.asked.clear();
        self.introduced = false;
        self.told_health = None;
        self.ours = false;
        self.told_awaited.clear();
        for interest in self.interests.values_mut() {
            interest.nonce = Arc::default();
        }
        let live: Vec<ResourceType> = self
            .interests
            .iter()
            .filter(|(_, interest)| interest.is_live())
            .map(|(r#type, _)| r#type.clone())
            .collect();
        live.into_iter().filter_map(|r#type| self.ask_first(&r#type)).collect()
    }

    /// What is to be said of the workload, if that is news on this stream.
    pub fn tell_health(&mut self, health: Option<WorkloadHealth>) -> Vec<Ask> {
        let Some(news) = health.filter(|health| self.told_health.as_ref() != Some(health)) else { return Vec::new() };
        let (r#type, error) = news.request();
        self.told_health = Some(news);
        vec![self.say(r#type, error)]
    }

    /// What is to be said of what is awaited, if the server understands it and it is news on this stream.
    pub fn tell_awaited(&mut self, awaited: BTreeSet<Awaited>) -> Vec<Ask> {
        if !self.ours || self.told_awaited == awaited {
            return Vec::new();
        }
        let said = awaited::to_text(&awaited);
        self.told_awaited = awaited;
        vec![self.say(ResourceType::Other(Arc::from(awaited::TYPE_URL)), said)]
    }

    /// A request that asks for nothing.
    fn say(&mut self, r#type: ResourceType, error: Option<String>) -> Ask {
        let node = (!std::mem::replace(&mut self.introduced, true)).then(|| self.node.clone());
        Ask {
            r#type,
            node,
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            names: Users::new(),
            has: BTreeMap::new(),
            version: Arc::default(),
            nonce: Arc::default(),
            error,
        }
    }

    /// Reads a response of the delta protocol.
    pub fn on_delta_response(&mut self, response: discovery::DeltaDiscoveryResponse) -> Update {
        let discovery::DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url,
            removed_resources,
            // Names by locator, which is never asked for.
            removed_resource_names: _,
            nonce,
            control_plane,
            resource_errors: _,
        } = response;
        self.ours = awaited::is_ours(control_plane.as_ref());
        let received = |resource: discovery::Resource| Received {
            name: resource.name.into(),
            version: resource.version.into(),
            body: resource.resource.unwrap_or_default(),
        };
        Update {
            r#type: ResourceType::from_url(&type_url),
            version: system_version_info.into(),
            nonce: nonce.into(),
            resources: resources.into_iter().map(received).collect(),
            removed: removed_resources.into_iter().map(Arc::from).collect(),
        }
    }

    /// Reads a response of the state-of-the-world protocol: what is absent from a complete one is removed.
    pub fn on_response(&mut self, response: discovery::DiscoveryResponse) -> Update {
        let discovery::DiscoveryResponse {
            version_info,
            resources,
            canary: _,
            type_url,
            nonce,
            control_plane,
            resource_errors: _,
        } = response;
        self.ours = awaited::is_ours(control_plane.as_ref());
        let r#type = ResourceType::from_url(&type_url);
        let version: Arc<str> = version_info.into();
        let resources: Vec<Received> = resources
            .into_iter()
            .map(|body| Received { name: resource_name(&body), version: Arc::clone(&version), body })
            .collect();
        let mut removed = Vec::new();
        if r#type.absence_deletes()
            && let Some(interest) = self.interests.get(&r#type)
        {
            let there: BTreeSet<&Arc<str>> = resources.iter().map(|received| &received.name).collect();
            removed.extend(interest.has.keys().filter(|name| !there.contains(name)).cloned());
        }
        Update { r#type, version, nonce: nonce.into(), resources, removed }
    }

    /// Answers a response that has been applied. `refused` are the resources that were not accepted, `wanted` says for
    /// each type without wildcard which names are referred to now. Subscriptions go before the acknowledgement, so
    /// that a server hears what a client waits for before it hears that the client is done.
    pub fn answer(
        &mut self,
        update: &Update,
        refused: &[Refused],
        wanted: impl Fn(&ResourceType) -> Users,
    ) -> Vec<Ask> {
        let Update { r#type, version, nonce, resources, removed } = update;
        let Some(interest) = self.interests.get_mut(r#type) else { return Vec::new() };
        interest.nonce = Arc::clone(nonce);
        if refused.is_empty() {
            interest.version = Arc::clone(version);
        }
        let bad: BTreeSet<&Arc<str>> = refused.iter().map(|refused| &refused.name).collect();
        for received in resources.iter().filter(|received| !bad.contains(&received.name)) {
            if interest.wildcard || interest.names.contains_key(&received.name) {
                interest.has.insert(Arc::clone(&received.name), Arc::clone(&received.version));
            }
        }
        for name in removed {
            interest.has.remove(name);
        }

        let error = (!refused.is_empty()).then(|| refusal(r#type, refused));
        let mut asks = Vec::new();
        let mut own = None;
        for of_type in ResourceType::FOLLOWED {
            let Some(ask) = self.follow(&of_type, wanted(&of_type)) else { continue };
            match of_type == *r#type {
                true => own = Some(ask),
                false => asks.push(ask),
            }
        }
        let own = own.unwrap_or_else(|| self.ask(r#type));
        asks.push(Ask { nonce: Arc::clone(nonce), error, ..own });
        asks
    }

    /// Asks for what has come to be wanted without a response.
    pub fn want(&mut self, wanted: impl Fn(&ResourceType) -> Users) -> Vec<Ask> {
        ResourceType::FOLLOWED.into_iter().filter_map(|r#type| self.follow(&r#type, wanted(&r#type))).collect()
    }

    /// Brings the subscription of a type up to what is wanted.
    fn follow(&mut self, r#type: &ResourceType, wanted: Users) -> Option<Ask> {
        if self.interests.get(r#type).is_some_and(|interest| interest.wildcard) {
            return None;
        }
        if wanted.is_empty() && !self.interests.contains_key(r#type) {
            return None;
        }
        let interest = self.interests.entry(r#type.clone()).or_default();
        // Whatever uses a name, it is the name that counts.
        let (mut subscribe, mut unsubscribe) = (Vec::new(), Vec::new());
        for (name, was, _) in interest.names.diff(&wanted, |_, _| true) {
            if was.is_some() { &mut unsubscribe } else { &mut subscribe }.push(Arc::clone(name));
        }
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        for name in &unsubscribe {
            interest.has.remove(name);
        }
        interest.names = wanted;
        if !self.asked.contains(r#type) {
            return self.ask_first(r#type);
        }
        let ask = self.ask(r#type);
        let nonce = match self.protocol {
            // An answer only if it says so.
            Protocol::Delta => Arc::default(),
            // Stale names are told from newer ones by the response they follow.
            Protocol::StateOfTheWorld => ask.nonce,
        };
        Some(Ask { subscribe, unsubscribe, nonce, ..ask })
    }

    /// The first request of a type on a stream.
    fn ask_first(&mut self, r#type: &ResourceType) -> Option<Ask> {
        let ask = self.ask(r#type);
        let interest = self.interests.get(r#type)?;
        self.asked.insert(r#type.clone());
        let node = (!std::mem::replace(&mut self.introduced, true)).then(|| self.node.clone());
        Some(Ask { node, subscribe: interest.names.keys().cloned().collect(), has: interest.has.clone(), ..ask })
    }

    fn ask(&self, r#type: &ResourceType) -> Ask {
        let interest = self.interests.get(r#type);
        Ask {
            r#type: r#type.clone(),
            node: None,
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            names: interest.map(|interest| interest.names.clone()).unwrap_or_default(),
            has: BTreeMap::new(),
            version: interest.map(|interest| Arc::clone(&interest.version)).unwrap_or_default(),
            nonce: interest.map(|interest| Arc::clone(&interest.nonce)).unwrap_or_default(),
            error: None,
        }
    }
}

/// The text of a refusal, in the words of Envoy: `Error adding/updating cluster(s) a: reason, b: reason`.
fn refusal(r#type: &ResourceType, refused: &[Refused]) -> String {
    let kind = match r#type {
        ResourceType::Cluster => "cluster",
        ResourceType::Endpoint => "endpoint",
        ResourceType::Listener => "listener",
        ResourceType::Route => "route",
        ResourceType::Secret => "secret",
        ResourceType::Other(url) => url,
    };
    let each: Vec<String> = refused.iter().map(|Refused { name, reason }| format!("{name}: {reason}")).collect();
    let text = format!("Error adding/updating {kind}(s) {}", each.join(", "));
    text.chars().take(MAX_MESSAGE_CHARS).collect()
}
