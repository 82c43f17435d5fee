//! Workloads: pods and workload entries.

use super::endpoint::{Endpoint, EndpointAddress, Labels, Locality, REGION, SUBZONE, Workload, ZONE};
use k8s_openapi::api::core::v1::Pod;
use lateen_galley::istio::WorkloadEntry;
use lateen_galley::{Config, Snapshot};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadInfo {
    pub identity: Workload,
    pub labels: Arc<Labels>,
    pub locality: Locality,
    /// Name of the machine it is on, if known.
    pub node: Option<Arc<str>>,
    pub addresses: Vec<EndpointAddress>,
    /// A pod that is ready; workload entries always are.
    pub ready: bool,
    /// Relative share of traffic; at least 1.
    pub weight: u32,
    /// Ports by name.
    ports: BTreeMap<String, u16>,
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
            workload: self.identity.clone(),
        }
    }
}

/// All workloads, by name and by address.
#[derive(Clone, Debug, Default)]
pub struct Workloads(Arc<Index>);

#[derive(Debug, Default)]
struct Index {
    pods: BTreeMap<(String, String), Arc<WorkloadInfo>>,
    entries: BTreeMap<(String, String), Arc<WorkloadInfo>>,
    by_address: HashMap<IpAddr, Arc<WorkloadInfo>>,
}

impl Workloads {
    /// Reads all pods and workload entries.
    pub fn new(snapshot: &Snapshot) -> Workloads {
        let mut index = Index::default();
        for pod in snapshot.list::<Pod>() {
            let info = Arc::new(of_pod(pod));
            let key = (info.identity.namespace.clone(), pod.metadata.name.clone().unwrap_or_default());
            // A host-network pod shares its node's address with others and cannot be known by it.
            if pod.spec.as_ref().is_none_or(|spec| spec.host_network != Some(true)) {
                index.add(&info);
            }
            index.pods.insert(key, info);
        }
        for entry in snapshot.list::<Config<WorkloadEntry>>() {
            let namespace = entry.metadata.namespace.clone().unwrap_or_default();
            let name = entry.metadata.name.clone().unwrap_or_default();
            let info = Arc::new(of_entry(&entry.spec, &name, &namespace, entry.metadata.labels.as_ref()));
            index.add(&info);
            index.entries.insert((namespace, name), info);
        }
        Workloads(Arc::new(index))
    }

    /// The workload with this address.
    pub fn at(&self, address: IpAddr) -> Option<&Arc<WorkloadInfo>> {
        self.0.by_address.get(&address)
    }

    /// A pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<WorkloadInfo>> {
        self.0.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// All workloads of a namespace: pods, then entries.
    pub fn of_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<WorkloadInfo>> {
        let of = move |map: &'a BTreeMap<(String, String), Arc<WorkloadInfo>>| {
            map.range((namespace.to_owned(), String::new())..)
                .take_while(move |((of, _), _)| of == namespace)
                .map(|(_, info)| info)
        };
        of(&self.0.pods).chain(of(&self.0.entries))
    }
}

impl Index {
    fn add(&mut self, info: &Arc<WorkloadInfo>) {
        for address in &info.addresses {
            if let EndpointAddress::Ip(ip) = address {
                self.by_address.entry(*ip).or_insert_with(|| Arc::clone(info));
            }
        }
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
        labels: Arc::new(labels),
        addresses,
        ready,
        weight: 1,
        ports,
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
    WorkloadInfo {
        identity: Workload {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            service_account: entry.service_account.clone(),
        },
        locality: if entry.locality.is_empty() { locality_of(&labels) } else { Locality::parse(&entry.locality) },
        node: None,
        labels: Arc::new(labels),
        addresses: address_of(&entry.address).into_iter().collect(),
        ready: true,
        weight: entry.weight.max(1),
        ports: entry
            .ports
            .iter()
            .filter_map(|(name, port)| Some((name.clone(), u16::try_from(*port).ok().filter(|port| *port != 0)?)))
            .collect(),
        is_entry: true,
    }
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
