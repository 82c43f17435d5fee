//! The egress listeners of a scope: which services and rules each imports.
//!
//! Source: Istio `pilot/pkg/model/sidecar.go` (convertIstioListenerToWrapper, collectImportedServices).

use super::ScopeKey;
use crate::names;
use crate::registry::{Entry, Protocol, Service, Source};
use crate::rules::{Imports, VirtualServiceRule};
use crate::world::World;
use lateen_galley::istio::sidecar::{CaptureMode, EgressListener};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// A way out of a proxy: for one port, or for all that no other has.
#[derive(Debug)]
pub struct Egress<'a> {
    /// As the Sidecar has it; none without a Sidecar.
    listener: Option<&'a EgressListener>,
    services: Vec<Entry>,
    rules: Vec<&'a VirtualServiceRule>,
}

impl<'a> Egress<'a> {
    /// The only one of proxies without a Sidecar: everything visible.
    pub fn everything(services: &[&Entry], rules: &[&'a VirtualServiceRule]) -> Egress<'a> {
        let services = services.iter().map(|entry| (*entry).clone()).collect();
        let rules = rules.iter().copied().filter(|rule| rule.is_bound_to(names::MESH_GATEWAY)).collect();
        Egress { listener: None, services, rules }
    }

    /// What a listener of a Sidecar imports of what is visible.
    pub fn new(
        listener: &'a EgressListener,
        key: &'a ScopeKey,
        visible: &[&Entry],
        rules: &[&'a VirtualServiceRule],
    ) -> Egress<'a> {
        let imports = Imports::new(&listener.hosts, &key.namespace);
        let mesh = rules.iter().copied().filter(|rule| rule.is_bound_to(names::MESH_GATEWAY));
        let rules = mesh.filter(|rule| rule.hosts().iter().any(|host| imports.rule(rule.namespace(), host))).collect();
        let mut egress = Egress { listener: Some(listener), services: Vec::new(), rules };
        let imported = visible
            .iter()
            .filter(|entry| imports.service(&entry.service.namespace, &entry.service.host))
            .filter_map(|entry| egress.with_its_port(entry))
            .map(|entry| with_imported_aliases(entry, &imports))
            .collect();
        egress.services = super::one_of_each_host(imported, key);
        egress
    }

    /// Services it reaches, the oldest first, no host twice.
    pub fn services(&self) -> &[Entry] {
        &self.services
    }

    /// Rules for them, in order of precedence.
    pub fn rules(&self) -> &[&'a VirtualServiceRule] {
        &self.rules
    }

    /// The only port it is for, and the protocol spoken there.
    pub fn port(&self) -> Option<(u16, Protocol)> {
        let port = self.listener?.port.as_ref()?;
        Some((u16::try_from(port.number).ok()?, Protocol::parse(&port.protocol)))
    }

    /// The address its listeners have in place of the services' own.
    pub fn bind(&self) -> Option<IpAddr> {
        self.listener?.bind.parse().ok()
    }

    /// Whether clients connect to its listeners, rather than being redirected there.
    pub fn is_bound(&self) -> bool {
        self.listener.is_some_and(|listener| listener.capture_mode == CaptureMode::None)
    }

    /// The service with the listener's port alone; none if it does not have that.
    fn with_its_port(&self, entry: &Entry) -> Option<Entry> {
        match self.port() {
            None => Some(entry.clone()),
            Some((number, _)) => with_ports(entry, &BTreeSet::from([number])),
        }
    }
}

/// The service with these of its ports; none if it has none of them.
fn with_ports(entry: &Entry, ports: &BTreeSet<u16>) -> Option<Entry> {
    let kept: Vec<_> = entry.service.ports.iter().filter(|port| ports.contains(&port.number)).cloned().collect();
    if kept.is_empty() {
        return None;
    }
    if kept.len() == entry.service.ports.len() {
        return Some(entry.clone());
    }
    Some(Entry { service: Arc::new(Service { ports: kept, ..(*entry.service).clone() }), ..entry.clone() })
}

fn with_imported_aliases(entry: Entry, imports: &Imports<'_>) -> Entry {
    let service = &entry.service;
    let imported = |alias: &Arc<str>| imports.service(&service.namespace, alias);
    if service.aliases.iter().all(imported) {
        return entry;
    }
    let aliases = service.aliases.iter().filter(|alias| imported(alias)).cloned().collect();
    Entry { service: Arc::new(Service { aliases, ..(**service).clone() }), ..entry }
}

/// All services of the listeners, and those their rules send to, no host twice.
pub fn union(listeners: &[Egress<'_>], world: &World, key: &ScopeKey) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    let mut places: HashMap<Arc<str>, usize> = HashMap::new();
    for listener in listeners {
        for entry in &listener.services {
            add(entry.clone(), &mut all, &mut places);
        }
        if listener.listener.is_none() {
            continue;
        }
        for (host, ports) in destinations(listener.rules(), world, key) {
            let Some(entry) = destination(&host, world, key) else { continue };
            let entry = match (listener.port(), ports.contains(&0)) {
                (Some(_), _) => listener.with_its_port(entry),
                (None, true) => Some(entry.clone()),
                (None, false) => with_ports(entry, &ports),
            };
            if let Some(entry) = entry {
                add(entry, &mut all, &mut places);
            }
        }
    }
    all.sort_by(|a, b| a.service.claim_order().cmp(&b.service.claim_order()));
    all
}

/// Adds a service, or what is new of it to what is there.
fn add(entry: Entry, all: &mut Vec<Entry>, places: &mut HashMap<Arc<str>, usize>) {
    let Some(known) = places.get(&entry.service.host).and_then(|place| all.get_mut(*place)) else {
        places.insert(Arc::clone(&entry.service.host), all.len());
        all.push(entry);
        return;
    };
    if known.service.source != entry.service.source {
        if entry.service.source == Source::Kubernetes {
            *known = entry;
        }
        return;
    }
    if known.service.namespace != entry.service.namespace {
        return;
    }
    let new = entry.service.ports.iter().filter(|port| known.service.port(port.number).is_none());
    let new: Vec<_> = new.cloned().collect();
    if !new.is_empty() {
        Arc::make_mut(&mut known.service).ports.extend(new);
    }
}

/// Hosts that rules send clients of this namespace to, and at which ports; 0 is all.
fn destinations(rules: &[&VirtualServiceRule], world: &World, key: &ScopeKey) -> BTreeMap<String, BTreeSet<u16>> {
    let mut all: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for rule in rules {
        for (host, port) in rule.destinations_from(&key.namespace, &world.config.domain) {
            all.entry(host).or_default().insert(port);
        }
    }
    all
}

/// The service a rule means by a host: the own namespace's, else Kubernetes', else the oldest.
fn destination<'w>(host: &str, world: &'w World, key: &ScopeKey) -> Option<&'w Entry> {
    let visible = world.registry.of_host(host).filter(|entry| entry.service.export_to.visible_in(&key.namespace));
    visible.min_by_key(|entry| {
        let service = &entry.service;
        (service.namespace != key.namespace, service.source != Source::Kubernetes, service.created)
    })
}
