//! One client's interest in one resource type: what it asked for, what it has, what it must be told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use super::known::{Known, Told};
use super::status::TypeStatus;
use crate::resource::{Resources, same_version};
use crate::{Resource, ResourceSet, ResourceType, Version};

/// Why a name must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Its content changed.
    Changed,
    /// The client waits for it: it has just subscribed, or its cluster is warming. Told even if unchanged.
    Awaited,
}

#[derive(Debug)]
struct InFlight {
    nonce: Arc<str>,
    version: Arc<str>,
    told: BTreeMap<Arc<str>, Told>,
    /// All resources there were to be told of.
    all: Resources,
    awaited: bool,
}

/// The names a response is to tell.
#[derive(Debug)]
pub(super) struct News {
    names: Vec<Arc<str>>,
    /// Whether the client waits for one of them.
    awaited: bool,
}

/// A response about to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// What is news.
    pub upserts: Vec<Resource>,
    pub removals: Vec<Arc<str>>,
    /// With [`Extent::Everything`], all that the client shall have.
    pub everything: Option<Vec<Resource>>,
}

/// Which part of the world a response holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Only what changed.
    Changes,
    /// Everything the client shall have, because absence deletes.
    Everything,
}

#[derive(Debug, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    known: Known,
    pending: BTreeMap<Arc<str>, Need>,
    /// Names the client has that are gone; told apart from the rest because others may still refer to them.
    vanished: BTreeSet<Arc<str>>,
    /// Parts of refused responses, sent again one by one until the resource at fault stands alone.
    suspects: VecDeque<Vec<Arc<str>>>,
    in_flight: Option<InFlight>,
    /// An answer is owed even if it is empty: a client waits for the first one of a wildcard.
    owed: bool,
    /// The resources as last compared, so that an update costs work for what it changed.
    compared: Option<Resources>,
    pub last_nonce: Arc<str>,
    status: TypeStatus,
}

impl Subscription {
    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub fn name_count(&self) -> usize {
        self.names.len()
    }

    /// No content waits to be told or acknowledged. Removals are not counted.
    pub fn settled(&self) -> bool {
        self.in_flight.is_none() && self.pending.is_empty() && self.suspects.is_empty()
    }

    pub fn has_removals(&self) -> bool {
        !self.vanished.is_empty()
    }

    pub fn has_news(&self) -> bool {
        self.owed || !self.pending.is_empty() || !self.suspects.is_empty()
    }

    pub fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether the client waits for a first answer to a name, or has not yet confirmed one.
    pub fn awaited(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|sent| sent.awaited)
            || self.pending.values().any(|need| *need == Need::Awaited)
    }

    /// Whether the client goes on with older content of some name, because it refused the newer.
    pub fn holds_back(&self) -> bool {
        self.known.holds_back()
    }

    pub fn subscribe_all(&mut self, owed: bool) {
        self.owed |= owed;
        if !self.wildcard {
            self.wildcard = true;
            self.compared = None;
        }
    }

    pub fn unsubscribe_all(&mut self) {
        self.wildcard = false;
        let names = &self.names;
        self.known.retain(|name| names.contains(name));
        self.pending.retain(|name, _| names.contains(name));
        self.vanished.retain(|name| names.contains(name));
    }

    /// What the client says it has from before, by name and version.
    pub fn resume(&mut self, r#type: &ResourceType, name: Arc<str>, version: &str, set: &ResourceSet) {
        let version = Version::parse(version);
        let accepted = match self.desired(r#type, &name, set) {
            Some(resource) if Some(resource.version()) == version => Told::Present(resource),
            _ => Told::Foreign,
        };
        self.known.resume(name, accepted);
    }

    /// Adds a name. It is told even if it was before, for the client would not ask if it had it.
    pub fn subscribe(&mut self, name: Arc<str>) {
        self.await_answer(&name);
        self.names.insert(name);
    }

    /// Adds a name that the client has content of: it is told only if that is not current.
    pub fn subscribe_resumed(&mut self, r#type: &ResourceType, name: Arc<str>, set: &ResourceSet) {
        self.names.insert(Arc::clone(&name));
        self.compare(r#type, &name, set);
    }

    /// Tells a name again, whether or not it changed.
    pub fn await_answer(&mut self, name: &Arc<str>) {
        self.pending.insert(Arc::clone(name), Need::Awaited);
        self.vanished.remove(name);
    }

    pub fn unsubscribe(&mut self, name: &str) {
        self.names.remove(name);
        if !self.wildcard {
            self.known.forget(name);
            self.pending.remove(name);
            self.vanished.remove(name);
        }
    }

    pub fn names(&self) -> &BTreeSet<Arc<str>> {
        &self.names
    }

    /// Finds out what has changed since the last time.
    pub fn compare_all(&mut self, r#type: &ResourceType, set: &ResourceSet) {
        let now = set.all_of(r#type);
        let changed: Vec<Arc<str>> = match &self.compared {
            Some(before) => {
                let names = before.diff(&now, same_version).map(|(name, _, _)| name);
                names.filter(|name| self.wants(name)).cloned().collect()
            }
            None => self.names_of_interest(&now),
        };
        for name in &changed {
            self.compare(r#type, name, set);
        }
        self.compared = Some(now);
    }

    /// Every name that the client asked for, has or is being told.
    fn names_of_interest(&self, now: &Resources) -> Vec<Arc<str>> {
        if !self.wildcard {
            return self.names.iter().cloned().collect();
        }
        let in_flight = self.in_flight.iter().flat_map(|sent| sent.told.keys());
        let others = self.names.iter().chain(self.known.names()).chain(self.pending.keys()).chain(in_flight);
        now.keys().chain(others).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn compare(&mut self, r#type: &ResourceType, name: &Arc<str>, set: &ResourceSet) {
        let desired = self.desired(r#type, name, set);
        let awaited = self.pending.get(name) == Some(&Need::Awaited);
        if self.is_known(name, desired.as_ref()) {
            if !awaited {
                self.pending.remove(name);
            }
            self.vanished.remove(name);
        } else if !awaited
            && set.get(r#type, name).is_none()
            && matches!(self.told(name), Told::Present(_) | Told::Foreign)
        {
            self.pending.remove(name);
            self.vanished.insert(Arc::clone(name));
        } else {
            self.vanished.remove(name);
            self.pending.entry(Arc::clone(name)).or_insert(Need::Changed);
        }
    }

    /// What the client was last told about a name, whatever it will make of it.
    fn told(&self, name: &str) -> Told {
        let in_flight = self.in_flight.as_ref().and_then(|sent| sent.told.get(name));
        in_flight.cloned().unwrap_or_else(|| self.known.told(name))
    }

    /// What the client shall have under a name. Names asked for but unknown are answered with emptiness where the
    /// type has such a thing: a cluster without endpoints, routes that match nothing. A client would wait for ever.
    fn desired(&self, r#type: &ResourceType, name: &Arc<str>, set: &ResourceSet) -> Option<Resource> {
        if let Some(resource) = set.get(r#type, name) {
            return Some(resource.clone());
        }
        match r#type {
            ResourceType::Endpoint => {
                let empty = ClusterLoadAssignment { cluster_name: name.to_string(), ..Default::default() };
                Some(Resource::new(Arc::clone(name), &empty))
            }
            ResourceType::Route => {
                let empty = RouteConfiguration { name: name.to_string(), ..Default::default() };
                Some(Resource::new(Arc::clone(name), &empty))
            }
            ResourceType::Cluster | ResourceType::Listener | ResourceType::Secret | ResourceType::Other(_) => None,
        }
    }

    /// What the next response shall tell: a part of a refused one first, else what is pending, with the removals if
    /// `with_removals`.
    pub fn next_news(&mut self, r#type: &ResourceType, set: &ResourceSet, with_removals: bool) -> Option<News> {
        while let Some(mut names) = self.suspects.pop_front() {
            names.retain(|name| self.wants(name) && !self.is_current(r#type, name, set));
            if !names.is_empty() {
                return Some(News { names, awaited: false });
            }
        }
        let mut names = Vec::with_capacity(self.pending.len());
        let mut awaited = false;
        for (name, need) in std::mem::take(&mut self.pending) {
            if need == Need::Awaited || !self.is_current(r#type, &name, set) {
                awaited |= need == Need::Awaited;
                names.push(name);
            }
        }
        if with_removals {
            names.extend(std::mem::take(&mut self.vanished));
        }
        (std::mem::take(&mut self.owed) || !names.is_empty()).then_some(News { names, awaited })
    }

    pub fn next_removals(&mut self) -> Option<News> {
        let names: Vec<Arc<str>> = std::mem::take(&mut self.vanished).into_iter().collect();
        (!names.is_empty()).then_some(News { names, awaited: false })
    }

    fn is_current(&self, r#type: &ResourceType, name: &Arc<str>, set: &ResourceSet) -> bool {
        self.is_known(name, self.desired(r#type, name, set).as_ref())
    }

    /// Whether telling `wanted` would be no news. That a name is absent is news only to those who asked for it, or
    /// were told otherwise.
    fn is_known(&self, name: &Arc<str>, wanted: Option<&Resource>) -> bool {
        match (self.told(name), wanted) {
            (Told::Nothing, None) => !self.names.contains(name),
            (told, wanted) => told.is(wanted),
        }
    }

    /// Composes the response that tells `news`, and takes it as sent.
    pub fn send(
        &mut self,
        r#type: &ResourceType,
        news: News,
        extent: Extent,
        nonce: Arc<str>,
        set: &ResourceSet,
    ) -> Outgoing {
        let mut outgoing = Outgoing { upserts: Vec::new(), removals: Vec::new(), everything: None };
        let mut told = BTreeMap::new();
        for name in news.names {
            let desired = self.desired(r#type, &name, set);
            match &desired {
                Some(resource) => outgoing.upserts.push(resource.clone()),
                None => outgoing.removals.push(Arc::clone(&name)),
            }
            told.insert(name, Told::of(desired));
        }
        let version = Arc::clone(set.version());
        self.status.sent_version = Arc::clone(&version);
        self.status.sent_nonce = Arc::clone(&nonce);
        self.last_nonce = Arc::clone(&nonce);
        self.in_flight = Some(InFlight { nonce, version, told, all: set.all_of(r#type), awaited: news.awaited });
        outgoing.everything = (extent == Extent::Everything).then(|| self.everything());
        outgoing
    }

    /// All the client shall have once it accepts what is in flight: the rest stays as it has it.
    fn everything(&self) -> Vec<Resource> {
        let mut all: BTreeMap<&Arc<str>, &Resource> = self.known.present().collect();
        for (name, told) in self.in_flight.iter().flat_map(|sent| &sent.told) {
            match told {
                Told::Present(resource) => all.insert(name, resource),
                Told::Nothing | Told::Foreign | Told::Absent => all.remove(name),
            };
        }
        all.into_values().cloned().collect()
    }

    /// Takes an acknowledgement. `false`: it is not about what is in flight.
    pub fn accept(&mut self, nonce: &str) -> bool {
        let Some(sent) = self.in_flight.take_if(|sent| &*sent.nonce == nonce) else { return false };
        self.status.acked_version = sent.version;
        self.status.acked_nonce = sent.nonce;
        let (mut told, all) = (sent.told, sent.all);
        told.retain(|name, told| {
            let gone = *told == Told::Absent && !self.names.contains(name);
            if gone {
                self.known.forget(name);
            }
            !gone && (self.wildcard || self.names.contains(name))
        });
        self.known.accept(told, &all);
        true
    }

    /// Takes a refusal: the response is sent again in parts, until the resource at fault is alone and held back.
    /// `false`: it is not about what is in flight.
    pub fn refuse(&mut self, nonce: &str, message: &str) -> bool {
        self.status.last_error = Some(message.to_owned());
        let Some(sent) = self.in_flight.take_if(|sent| &*sent.nonce == nonce) else { return false };
        self.status.rejects += 1;
        if sent.told.len() <= 1 {
            for (name, told) in sent.told {
                self.known.refuse(name, told, message);
            }
            return true;
        }
        for name in sent.told.keys() {
            self.known.doubt(name);
        }
        let (mut blamed, mut rest): (Vec<_>, Vec<_>) = sent.told.into_keys().partition(|name| mentions(message, name));
        if blamed.is_empty() {
            blamed = rest.split_off(rest.len() / 2);
        } else if rest.is_empty() {
            rest = blamed.split_off(blamed.len() / 2);
        }
        self.suspects.push_front(blamed);
        self.suspects.push_front(rest);
        true
    }

    pub fn status(&self) -> TypeStatus {
        let suspected: usize = self.suspects.iter().map(Vec::len).sum();
        TypeStatus {
            wildcard: self.wildcard,
            names: self.names.len(),
            waiting: self.pending.len() + self.vanished.len() + suspected,
            in_flight: self.in_flight(),
            refused: self.known.refusals(),
            ..self.status.clone()
        }
    }
}

/// Whether an error text speaks of a name: as a word, not as a part of a longer name.
fn mentions(text: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || "._|-".contains(c);
    !name.is_empty()
        && text.match_indices(name).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let mut after = text[at + name.len()..].chars();
            let next = after.next();
            // A full stop that ends the sentence is no part of a name.
            let goes_on = match next {
                Some('.') => after.next().is_some_and(part_of_name),
                Some(c) => part_of_name(c),
                None => false,
            };
            !before.is_some_and(part_of_name) && !goes_on
        })
}
