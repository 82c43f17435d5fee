//! Connected proxies, and what each is to have.
//!
//! Knows no clock and no thread. A snapshot is taken in, and its consequences carried out, in two steps, so that
//! whoever drives it may wait in between.

use super::proxies::{Own, Proxies, Proxy};
use crate::assemble::{self, Edited, Memo, Outbound};
use crate::config::Config;
use crate::credentials;
use crate::discovery::Discovery;
use crate::node::Node;
use crate::rules::Keys;
use crate::scope::ScopeKey;
use crate::world::{Change, ENDPOINT_KINDS, EndpointChange, RuleChange, World};
use lateen_galley::{Kind, Snapshot};
use lateen_xds::ads::server::StreamStatus;
use lateen_xds::{ResourceSet, ResourceType};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

/// Scopes kept beyond those in use.
const SPARE_SCOPES: usize = 16;

/// What proxies alike share, and which they are.
#[derive(Debug)]
struct SharedScope {
    outbound: Arc<Outbound>,
    /// The push of everything that it is of.
    push: u64,
    members: BTreeSet<u64>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pushes of everything.
    pub full_pushes: u64,
    /// Pushes of endpoints alone.
    pub endpoint_pushes: u64,
    /// Pushes of what edits of rules changed.
    pub rule_pushes: u64,
    /// Sets of resources made for single proxies.
    pub assembled: u64,
    /// Sets of proxies that were given what changed of what they share, and nothing else.
    pub told: u64,
}

/// Connected proxies and the world their configuration is made of.
#[derive(Debug)]
pub struct State {
    discovery: Discovery,
    /// What proxies were told of.
    world: World,
    /// What the last snapshot says; of all but endpoints, the last that was read.
    latest: World,
    /// The last snapshot, if changes were waiting already when it came: reading all of it is left until they are told.
    unread: Option<Arc<Snapshot>>,
    synced: bool,
    memo: Memo,
    credentials: credentials::Made,
    scopes: HashMap<Arc<ScopeKey>, SharedScope>,
    proxies: Proxies,
    next_id: u64,
    version: u64,
    /// Revision of the newest snapshot whose consequences are all in the proxies' sets.
    revision: u64,
    /// Changes wait for [`State::push`].
    waiting: bool,
    /// Of others than rules, so that everything is to be made anew.
    whole: bool,
    /// Credentials are others than proxies were told, and wait too.
    credentials_wait: bool,
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
            discovery: Discovery::default(),
            latest: world.clone(),
            unread: None,
            world,
            synced: false,
            memo: Memo::default(),
            credentials: credentials::Made::default(),
            scopes: HashMap::new(),
            proxies: Proxies::default(),
            next_id: 0,
            version: 0,
            revision: 0,
            waiting: false,
            whole: false,
            credentials_wait: false,
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
        self.proxies.iter().filter(|proxy| !proxy.resources.is_closed())
    }

    /// Resources made, and resources found made already, since the start.
    pub fn memo_counts(&self) -> (u64, u64) {
        (self.memo.made, self.memo.found)
    }

    /// Takes a snapshot in. Changes of endpoints are carried out at once.
    pub fn take(&mut self, snapshot: Arc<Snapshot>) -> Pending {
        let snapshot = self.discovery.see(snapshot);
        let read = self.latest.snapshot();
        let differs = |kind: Kind| !ENDPOINT_KINDS.contains(&kind) && !read.same(&snapshot, kind);
        if self.waiting && Kind::all().any(differs) {
            let endpoints = Arc::new(read.with(&ENDPOINT_KINDS, &snapshot));
            self.unread = Some(snapshot);
            self.read(endpoints);
            return Pending::WhenQuiet;
        }
        self.unread = None;
        self.read(snapshot)
    }

    /// Takes in the keys of issuers that were fetched. Proxies are told with the next push.
    pub fn learn(&mut self, keys: Arc<Keys>) -> Pending {
        let latest = self.latest.with_keys(keys);
        if !self.synced {
            self.latest = latest;
            return Pending::Nothing;
        }
        self.turn_to(latest)
    }

    fn read(&mut self, snapshot: Arc<Snapshot>) -> Pending {
        self.turn_to(self.latest.advance(snapshot))
    }

    fn turn_to(&mut self, latest: World) -> Pending {
        let change = latest.change_since(&self.latest);
        let same = |kind: &Kind| latest.snapshot().same(self.latest.snapshot(), *kind);
        let credentials = !credentials::KINDS.iter().all(same);
        self.latest = latest;
        if !self.synced {
            return Pending::Now;
        }
        let pending = match change {
            Change::Anything => {
                self.whole = true;
                Pending::WhenQuiet
            }
            Change::Parts(endpoints, rules) => {
                if !endpoints.is_empty() {
                    self.world.registry.adopt_endpoints(&endpoints.hosts, &self.latest.registry);
                    self.push_endpoints(&endpoints);
                }
                if rules.is_empty() { Pending::Nothing } else { Pending::WhenQuiet }
            }
        };
        self.waiting |= pending == Pending::WhenQuiet;
        self.credentials_wait |= credentials;
        if !self.waiting {
            self.push_credentials();
            self.revision = self.latest.snapshot().revision();
        }
        pending
    }

    /// Tells proxies what the last snapshot says.
    pub fn push(&mut self) {
        if let Some(snapshot) = self.unread.take() {
            self.turn_to(self.latest.advance(snapshot));
        }
        match self.latest.change_since(&self.world) {
            Change::Parts(_, rules) if self.synced && !self.whole => self.push_rules(&rules),
            _ => self.push_everything(),
        }
        (self.waiting, self.whole) = (false, false);
        self.push_credentials();
        self.revision = self.latest.snapshot().revision();
    }

    fn push_everything(&mut self) {
        self.world = self.latest.clone();
        self.synced = true;
        self.version += 1;
        self.counts.full_pushes += 1;
        self.memo.grow_older();
        self.credentials.retain_those_of(self.latest.snapshot());
        self.credentials_wait = false;
        self.drop_closed();
        for id in self.proxies.ids() {
            self.assemble(id);
        }
        self.scopes.retain(|_, scope| !scope.members.is_empty());
    }

    /// Tells the proxies that see these rules what became of them. No other is looked at.
    fn push_rules(&mut self, change: &RuleChange) {
        self.version += 1;
        self.counts.rule_pushes += 1;
        self.drop_closed();
        self.scopes.retain(|_, scope| !scope.members.is_empty());
        let before = std::mem::replace(&mut self.world, self.latest.clone());
        let mut whole: BTreeSet<u64> = self.proxies.own_with(change, &self.world);
        let mut parts = Vec::new();
        for (key, scope) in &mut self.scopes {
            let concern = assemble::concern(&before, &self.world, key, &scope.outbound, change);
            let Some(concern) = concern else { continue };
            let clusters = scope.outbound.clusters.clone();
            let outbound = Arc::make_mut(&mut scope.outbound);
            match concern.carry_out(&before, &self.world, key, outbound, &mut self.memo) {
                Edited::Whole => whole.extend(&scope.members),
                Edited::Parts => parts.push((Arc::clone(key), clusters)),
            }
        }
        let version = self.version_text();
        for (key, clusters) in parts {
            let Some(scope) = self.scopes.get(&key) else { continue };
            for id in scope.members.difference(&whole) {
                let Some(proxy) = self.proxies.get(*id) else { continue };
                self.counts.told += 1;
                proxy.tell_parts(&clusters, &scope.outbound, &version);
            }
        }
        for id in whole {
            self.assemble(id);
        }
        self.memo.forget_unused();
    }

    /// Tells the proxies that reach these hosts of their endpoints, and those whose own workload may be among them of what
    /// that means to it. No other is looked at.
    fn push_endpoints(&mut self, change: &EndpointChange) {
        self.version += 1;
        self.counts.endpoint_pushes += 1;
        let hosts = &change.hosts;
        let mut whole: BTreeSet<u64> = self.proxies.own_among(change, &self.world);
        let mut told = BTreeSet::new();
        for (key, scope) in &mut self.scopes {
            if !hosts.iter().any(|host| scope.outbound.reaches(host)) {
                continue;
            }
            if hosts.iter().any(|host| scope.outbound.holds_endpoints_of(host, key)) {
                scope.outbound = Arc::new(assemble::outbound(&self.world, key, Some(&scope.outbound), &mut self.memo));
                whole.extend(&scope.members);
            } else if Arc::make_mut(&mut scope.outbound).put_endpoints(&self.world, key, hosts, &mut self.memo) {
                whole.extend(&scope.members);
            } else {
                told.extend(&scope.members);
            }
        }
        self.memo.forget_unused();
        let version = self.version_text();
        for id in told.difference(&whole) {
            let Some(proxy) = self.proxies.get(*id) else { continue };
            let Some(scope) = self.scopes.get(&proxy.key) else { continue };
            self.counts.told += 1;
            proxy.tell(&[(ResourceType::Endpoint, scope.outbound.endpoints.clone())], &version);
        }
        for id in whole {
            self.assemble(id);
        }
    }

    /// Tells the proxies that have credentials how those are now, if they are others. No other is looked at.
    fn push_credentials(&mut self) {
        if !std::mem::take(&mut self.credentials_wait) {
            return;
        }
        self.version += 1;
        self.credentials.retain_those_of(self.latest.snapshot());
        let version = self.version_text();
        for id in self.proxies.ids() {
            let Some(proxy) = self.proxies.get_mut(id).filter(|proxy| !proxy.credentials.is_empty()) else { continue };
            let resources = proxy.resources.borrow().at(Arc::clone(&version));
            let resources = proxy.with_credentials(resources, self.latest.snapshot(), &mut self.credentials);
            if !resources.shares_all_with(&proxy.resources.borrow()) {
                proxy.resources.send_replace(Arc::new(resources));
            }
        }
    }

    /// Says in the log which credentials that proxies are told are good no more, or not yet.
    pub fn warn(&mut self, now: SystemTime) {
        for id in self.proxies.ids() {
            if let Some(proxy) = self.proxies.get_mut(id).filter(|proxy| !proxy.dated.is_empty()) {
                proxy.warn(now);
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
        let key = Arc::new(ScopeKey::new(&node, &own.labels, &self.world));
        let (resources, receiver) = watch::channel(Arc::new(ResourceSet::new(self.version_text())));
        let id = self.next_id;
        self.next_id += 1;
        let proxy = Proxy {
            node,
            key,
            own,
            resources,
            status,
            credentials: BTreeSet::new(),
            missing: Vec::new(),
            dated: Vec::new(),
            warned: Vec::new(),
            refused: Vec::new(),
        };
        self.proxies.insert(id, proxy);
        self.assemble(id);
        Some(receiver)
    }

    fn assemble(&mut self, id: u64) {
        let version = self.version_text();
        let Some(proxy) = self.proxies.get_mut(id) else { return };
        proxy.own = Own::new(&proxy.node, &self.world);
        let key = ScopeKey::new(&proxy.node, &proxy.own.labels, &self.world);
        let before = self.scopes.get(&proxy.key).map(|scope| Arc::clone(&scope.outbound));
        if *proxy.key != key {
            if let Some(left) = self.scopes.get_mut(&proxy.key) {
                left.members.remove(&id);
            }
            proxy.key = Arc::new(key);
        }
        if let Some((known, _)) = self.scopes.get_key_value(&proxy.key) {
            proxy.key = Arc::clone(known);
        }
        let push = self.counts.full_pushes;
        if self.scopes.get(&proxy.key).is_none_or(|scope| scope.push != push) {
            let outbound = assemble::outbound(&self.world, &proxy.key, before.as_deref(), &mut self.memo);
            let outbound = Arc::new(outbound);
            let scope = self.scopes.entry(Arc::clone(&proxy.key));
            scope
                .and_modify(|scope| (scope.outbound, scope.push) = (Arc::clone(&outbound), push))
                .or_insert_with(|| SharedScope { outbound, push, members: BTreeSet::new() });
        }
        let Some(scope) = self.scopes.get_mut(&proxy.key) else { return };
        scope.members.insert(id);
        let before = proxy.resources.borrow().at(version);
        let made = assemble::assemble(&self.world, &proxy.node, &proxy.key, &scope.outbound, &before, &mut self.memo);
        self.counts.assembled += 1;
        (proxy.refused, proxy.credentials) = (made.problems, made.credentials);
        let resources = proxy.with_credentials(made.resources, self.latest.snapshot(), &mut self.credentials);
        // What it has already, a proxy need not be woken for.
        let same = resources.shares_all_with(&proxy.resources.borrow());
        if !same {
            proxy.resources.send_replace(Arc::new(resources));
        }
    }

    /// Forgets proxies that are gone, and what only they needed.
    fn drop_closed(&mut self) {
        for (id, key) in self.proxies.drop_closed() {
            if let Some(scope) = self.scopes.get_mut(&key) {
                scope.members.remove(&id);
            }
        }
        if self.scopes.len() > self.proxies.len() + SPARE_SCOPES {
            self.scopes.retain(|_, scope| !scope.members.is_empty());
            self.memo.grow_older();
        }
    }

    fn version_text(&self) -> Arc<str> {
        format!("{}/{}", self.latest.snapshot().revision(), self.version).into()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "steps_tests.rs"]
mod steps_tests;
