//! What there is to talk to: services, the endpoints behind their ports, and the workloads they belong to.
//!
//! Built from a snapshot of Kubernetes and Istio objects; knows nothing of rules, proxies or xDS. Source: Istio
//! `pilot/pkg/serviceregistry`.

mod endpoint;
mod follow;
mod kubernetes;
mod protocol;
mod service;
mod service_entry;
mod workload;

pub use endpoint::{
    Endpoint, EndpointAddress, HOSTNAME, Labels, Locality, NETWORK, PortEndpoints, REGION, SUBZONE, Workload, ZONE,
    selects,
};
pub use protocol::{Protocol, Shape};
pub use service::{Cidr, Distribution, ExportTo, Resolution, Service, ServicePort, Source, TargetPort};
pub use workload::{HEALTH_CHECKED, HEALTHY, WorkloadInfo, Workloads, locality_of};

use crate::world::EndpointChange;
use kubernetes::Slices;
use lateen_galley::istio::ServiceEntry;
use lateen_galley::{Config, Snapshot};
use lateen_persistent::Map;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// A host in the namespace that declares it: several namespaces may declare the same.
pub type ServiceKey = (Arc<str>, String);

/// A service with its endpoints.
#[derive(Clone, Debug)]
pub struct Entry {
    pub service: Arc<Service>,
    pub endpoints: Arc<PortEndpoints>,
}

/// All services of a mesh at one moment. Parts equal to those of the registry before it are shared with it; a clone costs
/// a few counters.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    entries: Map<ServiceKey, Entry>,
    workloads: Workloads,
    slices: Slices,
    /// Names of the ServiceEntries that declare each service.
    declared: Arc<HashMap<ServiceKey, Vec<Arc<str>>>>,
    /// Services with a selector, by namespace.
    selecting: Arc<HashMap<String, Vec<ServiceKey>>>,
    /// Services that several objects declare together.
    merged: Arc<BTreeSet<ServiceKey>>,
    /// Services with an endpoint at the address.
    at_address: Map<IpAddr, Arc<BTreeSet<ServiceKey>>>,
    /// Services whose hosts are those that requests name.
    named: Arc<Vec<Arc<Service>>>,
}

/// A port of a proxy's own workload that a service has.
#[derive(Clone, Debug)]
pub struct Instance {
    pub service: Arc<Service>,
    pub port: ServicePort,
    /// The workload's port.
    pub target: u16,
}

impl Registry {
    /// Reads a snapshot. `before` is the registry of the snapshot before.
    pub fn new(snapshot: &Snapshot, mesh: &crate::Config, before: &Registry) -> Registry {
        let workloads = Workloads::new(snapshot);
        let mut entries: BTreeMap<ServiceKey, (Service, PortEndpoints)> = BTreeMap::new();
        let mut merged = BTreeSet::new();
        let mut declared: HashMap<ServiceKey, Vec<Arc<str>>> = HashMap::new();
        let slices = Slices::new(snapshot);
        for service in snapshot.list::<k8s_openapi::api::core::v1::Service>() {
            let Some(service) = kubernetes::service(service, mesh) else { continue };
            let endpoints = slices.endpoints(&service, snapshot, &workloads);
            entries.insert((Arc::clone(&service.host), service.namespace.clone()), (service, endpoints));
        }
        for entry in snapshot.list::<Config<ServiceEntry>>() {
            let name: Arc<str> = entry.metadata.name.as_deref().unwrap_or_default().into();
            for service in service_entry::services(entry, mesh) {
                let endpoints = service_entry::endpoints(entry, &service, &workloads);
                let key = (Arc::clone(&service.host), service.namespace.clone());
                let names = declared.entry(key.clone()).or_default();
                if names.last() != Some(&name) {
                    names.push(Arc::clone(&name));
                }
                match entries.get_mut(&key) {
                    Some((known, of_known)) => {
                        merge(known, of_known, service, endpoints);
                        merged.insert(key);
                    }
                    None => {
                        entries.insert(key, (service, endpoints));
                    }
                }
            }
        }
        add_aliases(&mut entries);
        let entries: Map<ServiceKey, Entry> = entries
            .into_iter()
            .map(|(key, (service, endpoints))| {
                let old = before.entries.get(&key);
                let entry = Entry {
                    service: share(old.map(|old| &old.service), service),
                    endpoints: share(old.map(|old| &old.endpoints), endpoints),
                };
                (key, entry)
            })
            .collect();
        let (merged, declared) = (Arc::new(merged), Arc::new(declared));
        let mut registry = Registry { entries, workloads, slices, merged, declared, ..Registry::default() };
        registry.index();
        registry
    }

    fn index(&mut self) {
        let mut selecting: HashMap<String, Vec<ServiceKey>> = HashMap::new();
        let mut at_address: HashMap<IpAddr, Arc<BTreeSet<ServiceKey>>> = HashMap::new();
        for (key, entry) in &self.entries {
            if entry.service.selector.as_ref().is_some_and(|selector| !selector.is_empty()) {
                selecting.entry(key.1.clone()).or_default().push(key.clone());
            }
            for ip in addresses(&entry.endpoints) {
                Arc::make_mut(at_address.entry(ip).or_default()).insert(key.clone());
            }
        }
        let of_named = |entry: &&Entry| entry.service.resolution == Resolution::Named;
        let named = self.entries.values().filter(of_named).map(|entry| Arc::clone(&entry.service));
        self.named = Arc::new(named.collect());
        self.selecting = Arc::new(selecting);
        self.at_address = at_address.into_iter().collect();
    }

    /// All services, by host and namespace.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// A service.
    pub fn get(&self, host: &Arc<str>, namespace: &str) -> Option<&Entry> {
        self.entries.get(&(Arc::clone(host), namespace.to_owned()))
    }

    /// The services of a host, by namespace.
    pub fn of_host(&self, host: &str) -> impl Iterator<Item = &Entry> {
        let host: Arc<str> = host.into();
        let from = (Arc::clone(&host), String::new());
        self.entries.from(&from).take_while(move |(key, _)| key.0 == host).map(|(_, entry)| entry)
    }

    /// Services whose hosts are those that requests name.
    pub fn named(&self) -> &[Arc<Service>] {
        &self.named
    }

    /// Everything known of workloads.
    pub fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// What differs from another registry in endpoints and workloads, or `None` if more than that differs.
    pub fn endpoint_changes(&self, before: &Registry) -> Option<EndpointChange> {
        let mut change = EndpointChange::default();
        self.workloads.differences(&before.workloads, &mut change);
        let same = |was: &Entry, is: &Entry| {
            Arc::ptr_eq(&was.service, &is.service) && Arc::ptr_eq(&was.endpoints, &is.endpoints)
        };
        for (key, was, is) in before.entries.diff(&self.entries, same) {
            let (was, is) = (was?, is?);
            if !Arc::ptr_eq(&was.service, &is.service) {
                return None;
            }
            change.hosts.push(Arc::clone(&key.0));
            let (was, is) = (targets(&was.endpoints), targets(&is.endpoints));
            change.addresses.extend(was.symmetric_difference(&is).map(|(address, ..)| *address));
        }
        Some(change)
    }

    /// Takes over the endpoints of these hosts from a later registry, where their services are the same.
    pub fn adopt_endpoints(&mut self, hosts: &[Arc<str>], later: &Registry) {
        self.workloads = later.workloads.clone();
        self.slices = later.slices.clone();
        for host in hosts {
            let from = (Arc::clone(host), String::new());
            let now: Vec<(ServiceKey, Arc<PortEndpoints>)> = self
                .entries
                .from(&from)
                .take_while(|(key, _)| key.0 == *host)
                .filter_map(|(key, entry)| {
                    let now = later.entries.get(key).filter(|now| Arc::ptr_eq(&now.service, &entry.service))?;
                    Some((key.clone(), Arc::clone(&now.endpoints)))
                })
                .collect();
            for (key, endpoints) in now {
                self.put_endpoints(&key, endpoints);
            }
        }
    }

    /// The ports of a workload that services have, the oldest service first. The workload is known by its addresses
    /// and labels.
    pub fn instances(&self, namespace: &str, addresses: &[IpAddr], labels: &Labels) -> Vec<Instance> {
        let info = addresses.iter().find_map(|address| self.workloads.at(*address));
        let mut found: Vec<Instance> = Vec::new();
        let mut candidates: BTreeSet<&ServiceKey> = self.selecting.get(namespace).into_iter().flatten().collect();
        candidates
            .extend(addresses.iter().filter_map(|address| self.at_address.get(address)).flat_map(|keys| keys.iter()));
        for entry in candidates.into_iter().filter_map(|key| self.entries.get(key)) {
            let service = &entry.service;
            if service.resolution == Resolution::Alias {
                continue;
            }
            let selected = service.namespace == namespace
                && service.selector.as_ref().is_some_and(|selector| !selector.is_empty() && selects(selector, labels));
            for port in &service.ports {
                let listed = entry.endpoints.get(&port.number).and_then(|endpoints| {
                    endpoints.iter().find(|endpoint| match &endpoint.address {
                        EndpointAddress::Ip(ip) => addresses.contains(ip),
                        _ => false,
                    })
                });
                let target = match (&port.target, listed) {
                    (_, Some(endpoint)) => Some(endpoint.port),
                    (TargetPort::Number(number), None) if selected => Some(*number),
                    (TargetPort::Named(name), None) if selected => info.and_then(|info| info.port(name)),
                    _ => None,
                };
                if let Some(target) = target {
                    found.push(Instance { service: Arc::clone(service), port: port.clone(), target });
                }
            }
        }
        found.sort_by(|a, b| a.service.claim_order().cmp(&b.service.claim_order()));
        found
    }
}

/// The IP addresses of endpoints.
fn addresses(endpoints: &PortEndpoints) -> impl Iterator<Item = IpAddr> {
    endpoints.values().flat_map(|endpoints| endpoints.iter()).filter_map(|endpoint| endpoint.address.ip())
}

/// The IP addresses of endpoints, with the port of the service and the endpoint's own.
fn targets(endpoints: &PortEndpoints) -> BTreeSet<(IpAddr, u16, u16)> {
    let of_port = |(port, endpoints): (&u16, &Arc<[Endpoint]>)| {
        let port = *port;
        let targets = endpoints.iter().filter_map(move |at| Some((at.address.ip()?, port, at.port)));
        targets.collect::<Vec<_>>()
    };
    endpoints.iter().flat_map(of_port).collect()
}

/// The value from before if it is equal, so that what was made of it need not be made again.
fn share<T: PartialEq>(before: Option<&Arc<T>>, now: T) -> Arc<T> {
    match before {
        Some(before) if **before == now => Arc::clone(before),
        _ => Arc::new(now),
    }
}

/// Two that one namespace declares for one host are one service with the ports of both; for all else Kubernetes' word
/// counts, else the older one's.
fn merge(known: &mut Service, of_known: &mut PortEndpoints, mut other: Service, mut of_other: PortEndpoints) {
    let order = |service: &Service| (service.source != Source::Kubernetes, service.created);
    if order(&other) < order(known) {
        std::mem::swap(known, &mut other);
        std::mem::swap(of_known, &mut of_other);
    }
    if other.resolution != known.resolution {
        return;
    }
    for port in other.ports {
        if known.port(port.number).is_none() {
            if let Some(endpoints) = of_other.remove(&port.number) {
                of_known.insert(port.number, endpoints);
            }
            known.ports.push(port);
        }
    }
}

/// Gives every service the names that stand for it. A name may stand for a name: chains are followed, circles are not.
fn add_aliases(entries: &mut BTreeMap<ServiceKey, (Service, PortEndpoints)>) {
    let links: HashMap<Arc<str>, Arc<str>> = entries
        .values()
        .filter_map(|(service, _)| Some((Arc::clone(&service.host), service.alias_of.clone()?)))
        .collect();
    let mut of_host: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
    for (alias, first) in &links {
        let mut end = first;
        let mut steps = 0;
        while let Some(next) = links.get(end) {
            steps += 1;
            if steps > links.len() {
                break;
            }
            end = next;
        }
        if steps <= links.len() {
            of_host.entry(Arc::clone(end)).or_default().push(Arc::clone(alias));
        }
    }
    for (service, _) in entries.values_mut() {
        if let Some(aliases) = of_host.get(&service.host) {
            let mut aliases = aliases.clone();
            aliases.sort();
            service.aliases = aliases;
        }
    }
}

#[cfg(test)]
mod tests;
