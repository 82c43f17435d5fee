//! Workloads: pods and workload entries.

use super::endpoint::{Endpoint, EndpointAddress, Labels, Locality, NETWORK, REGION, SUBZONE, Workload, ZONE};
use crate::world::EndpointChange;
use k8s_openapi::api::core::v1::Pod;
use lateen_galley::istio::WorkloadEntry;
use lateen_galley::istio::workload_group::MEMBER_ANNOTATION;
use lateen_galley::{Config, Kind, Object, Snapshot};
use lateen_persistent::Map;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Annotation of entries whose workload's health is told; until it is told to be good, the workload gets no requests.
pub const HEALTH_CHECKED: &str = "proxy.istio.io/health-checks-enabled";
/// The condition that tells it.
pub const HEALTHY: &str = "Healthy";
/// Label of workloads whose proxy takes the mesh's mutual TLS, which is then `istio`; injection sets it.
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadInfo {
    pub identity: Workload,
    pub labels: Arc<Labels>,
    pub locality: Locality,
    /// Name of the machine it is on, if known.
    pub node: Option<Arc<str>>,
    pub addresses: Vec<EndpointAddress>,
    /// A pod that is ready; a workload entry that is healthy, or whose health nobody looks after.
    pub ready: bool,
    /// Its proxy takes the mesh's mutual TLS.
    pub mutual_tls: bool,
    /// Relative share of traffic; at least 1.
    pub weight: u32,
    /// Ports by name.
    ports: BTreeMap<String, u16>,
    /// A pod in its node's network: it shares the node's address with others and cannot be known by it.
    host_network: bool,
    /// A workload entry: its names are those of service ports.
    pub is_entry: bool,
}

impl WorkloadInfo {
    /// The port called `name`.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.get(name).copied()
    }

    /// An endpoint of this workload.
    pub fn endpoint(&self, address: EndpointAddress, port: u16) -> Endpoint {
        Endpoint {
            address,
            port,
            labels: Arc::clone(&self.labels),
            locality: self.locality.clone(),
            node: self.node.clone(),
            weight: self.weight,
            healthy: self.ready,
            mutual_tls: self.mutual_tls,
            workload: self.identity.clone(),
        }
    }
}

/// All workloads, by name and by address. A clone costs three counters.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    pods: Named,
    entries: Named,
    /// Those that say they have the address, in the order in which they are believed: pods before entries, by name.
    by_address: Map<IpAddr, Arc<BTreeMap<Name, Arc<WorkloadInfo>>>>,
}

/// By namespace and name.
type Named = Map<(Arc<str>, Arc<str>), Arc<WorkloadInfo>>;
/// Whether it is an entry; namespace and name.
type Name = (bool, Arc<str>, Arc<str>);

impl Workloads {
    /// Reads all pods and workload entries.
    pub fn new(snapshot: &Snapshot) -> Workloads {
        Workloads::default().follow(&Snapshot::default(), snapshot).0
    }

    /// The workloads of a later snapshot, made from those of the one before, and every workload that came, went or
    /// became another, as it was and as it is.
    pub fn follow(&self, before: &Snapshot, now: &Snapshot) -> (Workloads, Vec<Arc<WorkloadInfo>>) {
        let mut workloads = self.clone();
        let mut changed = Vec::new();
        for kind in [Kind::Pod, Kind::WorkloadEntry] {
            for (was, is) in now.changes(before, kind) {
                let Some(object) = is.or(was) else { continue };
                let info = is.and_then(|object| WorkloadInfo::of(object));
                let old = self.named(kind, object.namespace(), object.name());
                if old.map(|old| &**old) == info.as_ref() {
                    continue;
                }
                let info = info.map(Arc::new);
                changed.extend(old.cloned().into_iter().chain(info.clone()));
                workloads.put(kind, object, info);
            }
        }
        (workloads, changed)
    }

    /// The workload with this address.
    pub fn at(&self, address: IpAddr) -> Option<&Arc<WorkloadInfo>> {
        self.by_address.get(&address)?.values().next()
    }

    /// A pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<WorkloadInfo>> {
        self.named(Kind::Pod, namespace, name)
    }

    /// All workloads of a namespace: pods, then entries.
    pub fn of_namespace<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<WorkloadInfo>> + use<'a> {
        let namespace: Arc<str> = namespace.into();
        let of = |map: &'a Named| {
            let namespace = Arc::clone(&namespace);
            let from = map.from(&(Arc::clone(&namespace), "".into()));
            from.take_while(move |((of, _), _)| *of == namespace).map(|(_, info)| info)
        };
        of(&self.pods).chain(of(&self.entries))
    }

    /// Adds what differs from other workloads.
    pub fn differences(&self, before: &Workloads, change: &mut EndpointChange) {
        let pods = before.pods.diff(&self.pods, Arc::ptr_eq);
        change.pods.extend(pods.map(|((namespace, name), _, _)| (namespace.to_string(), name.to_string())));
        let addresses = before.by_address.diff(&self.by_address, Arc::ptr_eq);
        change.addresses.extend(addresses.map(|(address, _, _)| *address));
    }

    fn named(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<WorkloadInfo>> {
        let map = if kind == Kind::Pod { &self.pods } else { &self.entries };
        map.get(&(namespace.into(), name.into()))
    }

    /// Puts a workload in place of the one of that name, or takes that out.
    fn put(&mut self, kind: Kind, object: &Object, info: Option<Arc<WorkloadInfo>>) {
        let map = if kind == Kind::Pod { &mut self.pods } else { &mut self.entries };
        let key: (Arc<str>, Arc<str>) = (object.namespace().into(), object.name().into());
        let old = match &info {
            Some(info) => map.insert(key.clone(), Arc::clone(info)),
            None => map.remove(&key),
        };
        let name: Name = (kind != Kind::Pod, key.0, key.1);
        for address in old.iter().flat_map(|info| info.known_by()) {
            if let Some(holders) = self.by_address.get_mut(&address) {
                Arc::make_mut(holders).remove(&name);
                if holders.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        for (info, address) in info.iter().flat_map(|info| info.known_by().map(move |address| (info, address))) {
            let mut holders = self.by_address.get(&address).cloned().unwrap_or_default();
            Arc::make_mut(&mut holders).insert(name.clone(), Arc::clone(info));
            self.by_address.insert(address, holders);
        }
    }
}

impl WorkloadInfo {
    fn of(object: &Object) -> Option<WorkloadInfo> {
        if let Some(pod) = object.typed::<Pod>() {
            return object.annotation(MEMBER_ANNOTATION).is_none().then(|| of_pod(pod));
        }
        let entry = object.typed::<Config<WorkloadEntry>>()?;
        let info = of_entry(&entry.spec, object.name(), object.namespace(), entry.metadata.labels.as_ref());
        let told = entry.status.as_ref().and_then(|status| status.healthy);
        let checked = object.annotation(HEALTH_CHECKED).is_some_and(|said| said.eq_ignore_ascii_case("true"));
        Some(WorkloadInfo { ready: !checked || told == Some(true), ..info })
    }

    /// The addresses by which it can be told from others.
    fn known_by(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter(|_| !self.host_network).filter_map(EndpointAddress::ip)
    }
}

fn of_pod(pod: &Pod) -> WorkloadInfo {
    let metadata = &pod.metadata;
    let status = pod.status.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let ready = metadata.deletion_timestamp.is_none()
        && status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let mut addresses: Vec<EndpointAddress> = Vec::new();
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    for ip in status.pod_ip.as_deref().into_iter().chain(listed).filter_map(|ip| ip.parse().ok()) {
        if !addresses.contains(&EndpointAddress::Ip(ip)) {
            addresses.push(EndpointAddress::Ip(ip));
        }
    }
    let ports = spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)))
        .collect();
    let labels = metadata.labels.clone().unwrap_or_default();
    WorkloadInfo {
        identity: Workload {
            name: workload_name(pod),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            service_account: spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        },
        locality: locality_of(&labels),
        node: spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty()).map(Arc::from),
        mutual_tls: tls_mode(&labels).unwrap_or(false),
        labels: Arc::new(labels),
        addresses,
        ready,
        weight: 1,
        ports,
        host_network: spec.is_some_and(|spec| spec.host_network == Some(true)),
        is_entry: false,
    }
}

/// The name of what made a pod: its Deployment rather than the ReplicaSet in between, whose name ends in a hash.
fn workload_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    match owner {
        Some(owner) if owner.kind == "ReplicaSet" => {
            let hash = metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
            let suffix = hash.map(|hash| format!("-{hash}"));
            suffix.and_then(|suffix| owner.name.strip_suffix(&suffix)).unwrap_or(&owner.name).to_owned()
        }
        Some(owner) => owner.name.clone(),
        None => metadata.name.clone().unwrap_or_default(),
    }
}

fn of_entry(entry: &WorkloadEntry, name: &str, namespace: &str, metadata_labels: Option<&Labels>) -> WorkloadInfo {
    let mut labels = metadata_labels.cloned().unwrap_or_default();
    labels.extend(entry.labels.clone());
    if !entry.network.is_empty() {
        labels.insert(NETWORK.to_owned(), entry.network.clone());
    }
    WorkloadInfo {
        identity: Workload {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            service_account: entry.service_account.clone(),
        },
        locality: if entry.locality.is_empty() { locality_of(&labels) } else { Locality::parse(&entry.locality) },
        node: None,
        // Who has an identity can prove it.
        mutual_tls: tls_mode(&labels).unwrap_or(!entry.service_account.is_empty()),
        labels: Arc::new(labels),
        addresses: address_of(&entry.address).into_iter().collect(),
        ready: true,
        weight: entry.weight.max(1),
        ports: entry
            .ports
            .iter()
            .filter_map(|(name, port)| Some((name.clone(), u16::try_from(*port).ok().filter(|port| *port != 0)?)))
            .collect(),
        host_network: false,
        is_entry: true,
    }
}

/// Whether labels say that a workload's proxy takes the mesh's mutual TLS, if they speak of it.
fn tls_mode(labels: &Labels) -> Option<bool> {
    labels.get(TLS_MODE).map(|mode| mode == "istio")
}

/// A workload written inside a service entry.
pub fn inline(entry: &WorkloadEntry, namespace: &str) -> WorkloadInfo {
    of_entry(entry, "", namespace, None)
}

fn address_of(text: &str) -> Option<EndpointAddress> {
    if text.is_empty() {
        return None;
    }
    if let Some(path) = text.strip_prefix("unix://") {
        return Some(EndpointAddress::Pipe(path.to_owned()));
    }
    Some(text.parse().map_or_else(|_| EndpointAddress::Name(text.to_ascii_lowercase()), EndpointAddress::Ip))
}

/// Where labels say a workload is.
pub fn locality_of(labels: &Labels) -> Locality {
    // Label values cannot hold a slash, so the label separates with dots.
    if let Some(label) = labels.get("istio-locality") {
        return Locality::parse(&label.replace('.', "/"));
    }
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    Locality { region: label(REGION), zone: label(ZONE), subzone: label(SUBZONE) }
}
