//! Connected proxies, and what each is to have.
//!
//! Knows no clock and no thread. A snapshot is taken in, and its consequences carried out, in two steps, so that
//! whoever drives it may wait in between.

use crate::assemble::{self, Memo, Outbound};
use crate::config::Config;
use crate::node::Node;
use crate::registry::Labels;
use crate::scope::{Place, ScopeKey};
use crate::world::{Change, World};
use lateen_galley::Snapshot;
use lateen_xds::ads::server::StreamStatus;
use lateen_xds::{ResourceSet, ResourceType};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::watch;

/// Scopes kept beyond those in use.
const SPARE_SCOPES: usize = 16;

/// A connected proxy.
#[derive(Debug)]
pub struct Proxy {
    pub node: Node,
    key: ScopeKey,
    own: Own,
    pub resources: watch::Sender<Arc<ResourceSet>>,
    pub status: watch::Receiver<StreamStatus>,
    /// Claims and servers that were not granted, in words.
    pub problems: Vec<String>,
}

/// All of a workload that the part of its proxy's configuration depends on that no other proxy shares.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    labels: Labels,
    /// Host, port of the service, port of the workload.
    instances: Vec<(Arc<str>, u16, u16)>,
    place: Place,
}

impl Own {
    fn new(node: &Node, world: &World) -> Own {
        let labels = assemble::labels(node, world);
        let instances = world.registry.instances(&node.namespace, &node.addresses, &labels);
        let instance = |instance: &crate::registry::Instance| {
            (Arc::clone(&instance.service.host), instance.port.number, instance.target)
        };
        let place = Place::new(node, &labels, world);
        Own { instances: instances.iter().map(instance).collect(), labels, place }
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pushes of everything.
    pub full_pushes: u64,
    /// Pushes of endpoints alone.
    pub endpoint_pushes: u64,
    /// Sets of resources made for single proxies.
    pub assembled: u64,
}

/// Connected proxies and the world their configuration is made of.
#[derive(Debug)]
pub struct State {
    /// What proxies were told of.
    world: World,
    /// What the last snapshot says.
    latest: World,
    synced: bool,
    memo: Memo,
    scopes: HashMap<ScopeKey, Arc<Outbound>>,
    proxies: BTreeMap<u64, Proxy>,
    next_id: u64,
    version: u64,
    /// Revision of the newest snapshot whose consequences are all in the proxies' sets.
    revision: u64,
    /// Changes wait for [`State::push`].
    waiting: bool,
    pub counts: Counts,
}

/// What is to be done about a snapshot taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing, or it is done already.
    Nothing,
    /// [`State::push`], now.
    Now,
    /// [`State::push`], once things are quiet.
    WhenQuiet,
}

impl State {
    pub fn new(config: Config) -> State {
        let world = World::empty(Arc::new(config));
        State {
            latest: world.clone(),
            world,
            synced: false,
            memo: Memo::default(),
            scopes: HashMap::new(),
            proxies: BTreeMap::new(),
            next_id: 0,
            version: 0,
            revision: 0,
            waiting: false,
            counts: Counts::default(),
        }
    }

    /// Whether there ever was a snapshot: before, nobody can be told anything.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// What proxies were told of.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The cluster's revision that every proxy's resources are made from: nothing of it is still to be told.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Connected proxies.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.proxies.values().filter(|proxy| !proxy.resources.is_closed())
    }

    /// Resources made, and resources found made already, since the start.
    pub fn memo_counts(&self) -> (u64, u64) {
        (self.memo.made, self.memo.found)
    }

    /// Takes a snapshot in. Changes of endpoints are carried out at once.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) -> Pending {
        let latest = self.latest.advance(snapshot);
        let change = latest.change_since(&self.latest);
        self.latest = latest;
        if !self.synced {
            return Pending::Now;
        }
        let pending = match change {
            Change::Nothing => Pending::Nothing,
            Change::Anything => Pending::WhenQuiet,
            Change::Endpoints(hosts) => {
                self.world.registry.adopt_endpoints(&hosts, &self.latest.registry);
                self.push_endpoints(&hosts);
                Pending::Nothing
            }
        };
        self.waiting |= pending == Pending::WhenQuiet;
        if !self.waiting {
            self.revision = self.latest.snapshot().revision();
        }
        pending
    }

    /// Tells every proxy what the last snapshot says.
    pub fn push(&mut self) {
        self.world = self.latest.clone();
        self.synced = true;
        self.version += 1;
        self.counts.full_pushes += 1;
        self.memo.grow_older();
        self.scopes.clear();
        self.drop_closed();
        for id in self.proxies.keys().copied().collect::<Vec<_>>() {
            self.assemble(id);
        }
        self.waiting = false;
        self.revision = self.latest.snapshot().revision();
    }

    fn push_endpoints(&mut self, hosts: &[Arc<str>]) {
        self.drop_closed();
        self.version += 1;
        self.counts.endpoint_pushes += 1;
        let mut changes = HashMap::new();
        let mut rebuilt = HashSet::new();
        for (key, outbound) in &mut self.scopes {
            if outbound.hosts_beyond_endpoints.iter().any(|host| hosts.contains(host)) {
                *outbound = Arc::new(assemble::outbound(&self.world, key, &mut self.memo));
                rebuilt.insert(key.clone());
                continue;
            }
            if !hosts.iter().any(|host| outbound.hosts.contains(host)) {
                changes.insert(key.clone(), Vec::new());
                continue;
            }
            let changed = assemble::endpoints_of(&self.world, key, hosts, &mut self.memo);
            let by_name: HashMap<_, _> =
                changed.iter().map(|resource| (Arc::clone(resource.name()), resource)).collect();
            let mut after = Outbound::clone(outbound);
            for endpoint in &mut after.endpoints {
                if let Some(changed) = by_name.get(endpoint.name()) {
                    *endpoint = (*changed).clone();
                }
            }
            *outbound = Arc::new(after);
            changes.insert(key.clone(), changed);
        }
        for id in self.proxies.keys().copied().collect::<Vec<_>>() {
            let Some(proxy) = self.proxies.get(&id) else { continue };
            let own_changed = Own::new(&proxy.node, &self.world) != proxy.own;
            match changes.get(&proxy.key) {
                Some(changed) if !own_changed && changed.is_empty() => {}
                Some(changed) if !own_changed && !rebuilt.contains(&proxy.key) => {
                    let version = self.version_text();
                    let before = proxy.resources.borrow().clone();
                    let changed = changed.iter().map(|resource| (Arc::clone(resource.name()), Some(resource.clone())));
                    let after = before.at(version).with_changes(ResourceType::Endpoint, changed);
                    proxy.resources.send_replace(Arc::new(after));
                }
                _ => self.assemble(id),
            }
        }
    }

    /// Adds a proxy. What it gets is complete at once; `None` before the first push.
    pub fn connect(
        &mut self,
        node: Node,
        status: watch::Receiver<StreamStatus>,
    ) -> Option<watch::Receiver<Arc<ResourceSet>>> {
        if !self.synced {
            return None;
        }
        self.drop_closed();
        let own = Own::new(&node, &self.world);
        let key = ScopeKey::new(&node, &own.labels, &self.world);
        let (resources, receiver) = watch::channel(Arc::new(ResourceSet::new(self.version_text())));
        let id = self.next_id;
        self.next_id += 1;
        self.proxies.insert(id, Proxy { node, key, own, resources, status, problems: Vec::new() });
        self.assemble(id);
        Some(receiver)
    }

    fn assemble(&mut self, id: u64) {
        let version = self.version_text();
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        proxy.own = Own::new(&proxy.node, &self.world);
        proxy.key = ScopeKey::new(&proxy.node, &proxy.own.labels, &self.world);
        let outbound = match self.scopes.get(&proxy.key) {
            Some(outbound) => Arc::clone(outbound),
            None => {
                let outbound = Arc::new(assemble::outbound(&self.world, &proxy.key, &mut self.memo));
                self.scopes.insert(proxy.key.clone(), Arc::clone(&outbound));
                outbound
            }
        };
        let before = proxy.resources.borrow().at(version);
        let made = assemble::assemble(&self.world, &proxy.node, &proxy.key, &outbound, &before, &mut self.memo);
        self.counts.assembled += 1;
        proxy.problems = made.problems;
        // What it has already, a proxy need not be woken for.
        let same = made.resources.shares_all_with(&proxy.resources.borrow());
        if !same {
            proxy.resources.send_replace(Arc::new(made.resources));
        }
    }

    /// Forgets proxies that are gone, and what only they needed.
    fn drop_closed(&mut self) {
        self.proxies.retain(|_, proxy| !proxy.resources.is_closed());
        if self.scopes.len() > self.proxies.len() + SPARE_SCOPES {
            let used: HashSet<&ScopeKey> = self.proxies.values().map(|proxy| &proxy.key).collect();
            self.scopes.retain(|key, _| used.contains(key));
            self.memo.grow_older();
        }
    }

    fn version_text(&self) -> String {
        format!("{}/{}", self.latest.snapshot().revision(), self.version)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
