//! Kubernetes Services, and their endpoints from EndpointSlices or Endpoints.
//!
//! Source: Istio `pilot/pkg/serviceregistry/kube`.

use super::endpoint::{Endpoint, EndpointAddress, Locality, PortEndpoints};
use super::protocol::Protocol;
use super::service::{Cidr, Distribution, ExportTo, Resolution, Service, ServicePort, Source, TargetPort};
use super::workload::Workloads;
use crate::rules::created;
use k8s_openapi::api::core::v1::{self, Endpoints};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lateen_galley::{Kind, Object, Snapshot};
use lateen_persistent::Map;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Where a Service may be seen, as a list with commas.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// The service a Kubernetes Service declares; `None` if it has no name or, without being a name for another, no port.
pub fn service(object: &v1::Service, mesh: &crate::Config) -> Option<Service> {
    let metadata = &object.metadata;
    let name = metadata.name.clone()?;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let spec = object.spec.clone().unwrap_or_default();
    let external_name = spec.external_name.filter(|_| spec.type_.as_deref() == Some("ExternalName"));
    let mut addresses: Vec<Cidr> = Vec::new();
    for address in spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()) {
        addresses.extend(address.parse().ok().map(Cidr::single).filter(|address| !addresses.contains(address)));
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports: Vec<ServicePort> = spec.ports.iter().flatten().filter_map(port).collect();
    if ports.is_empty() && external_name.is_none() {
        return None;
    }
    let export_to = metadata.annotations.as_ref().and_then(|annotations| annotations.get(EXPORT_TO));
    let export_to: Vec<String> = export_to.iter().flat_map(|list| list.split(',')).map(trimmed).collect();
    Some(Service {
        host: format!("{name}.{namespace}.svc.{}", mesh.domain).into(),
        source: Source::Kubernetes,
        created: created(metadata),
        resolution: match (&external_name, headless) {
            (Some(_), _) => Resolution::Alias,
            (None, true) => Resolution::Passthrough,
            (None, false) => Resolution::Static,
        },
        addresses,
        auto_addresses: Vec::new(),
        ports,
        export_to: ExportTo::parse(&export_to, &namespace, &mesh.export_to.service),
        mesh_external: external_name.is_some(),
        alias_of: external_name.map(|name| name.trim_end_matches('.').to_ascii_lowercase().into()),
        aliases: Vec::new(),
        distribution: Distribution::of(spec.traffic_distribution.as_deref(), metadata.annotations.as_ref()),
        node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        client_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
        server_names: Vec::new(),
        selector: spec.selector,
        name,
        namespace,
    })
}

fn trimmed(text: &str) -> String {
    text.trim().to_owned()
}

fn port(port: &v1::ServicePort) -> Option<ServicePort> {
    let number = u16::try_from(port.port).ok()?;
    let name = port.name.clone().unwrap_or_default();
    let target = match &port.target_port {
        Some(IntOrString::Int(0)) | None => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(*target).ok()?),
        Some(IntOrString::String(name)) => {
            name.parse().map_or_else(|_| TargetPort::Named(name.clone()), TargetPort::Number)
        }
    };
    let protocol = Protocol::of_kubernetes_port(number, &name, port.protocol.as_deref(), port.app_protocol.as_deref());
    Some(ServicePort { name, number, protocol, target })
}

/// Namespace and name of a service.
type Owner = (Arc<str>, Arc<str>);

/// The names of endpoint slices, by the service they belong to, in its namespace. A clone costs one counter.
#[derive(Clone, Debug, Default)]
pub struct Slices(Map<Owner, Arc<BTreeSet<Arc<str>>>>);

impl Slices {
    /// Reads all slices.
    pub fn new(snapshot: &Snapshot) -> Slices {
        let mut of: BTreeMap<Owner, BTreeSet<Arc<str>>> = BTreeMap::new();
        for slice in snapshot.list::<EndpointSlice>() {
            if let Some(owner) = owner(slice) {
                of.entry(owner).or_default().insert(name(slice));
            }
        }
        Slices(of.into_iter().map(|(owner, names)| (owner, Arc::new(names))).collect())
    }

    /// Takes over what a later snapshot has of slices. Tells which services have other slices, or had them.
    pub fn follow(&mut self, before: &Snapshot, now: &Snapshot) -> BTreeSet<Owner> {
        let mut touched = BTreeSet::new();
        for (was, is) in now.changes(before, Kind::EndpointSlice) {
            let (was, is) = (typed(was), typed(is));
            let (old, new) = (was.and_then(owner), is.and_then(owner));
            if let (Some(slice), Some(of)) = (was, &old)
                && old != new
                && let Some(names) = self.0.get_mut(of)
            {
                Arc::make_mut(names).remove(&name(slice));
                if names.is_empty() {
                    self.0.remove(of);
                }
            }
            if let (Some(slice), Some(of)) = (is, &new)
                && old != new
            {
                let mut names = self.0.get(of).cloned().unwrap_or_default();
                Arc::make_mut(&mut names).insert(name(slice));
                self.0.insert(of.clone(), names);
            }
            touched.extend(old.into_iter().chain(new));
        }
        touched
    }

    /// The endpoints of a service: from its slices, or from its Endpoints object if it has none. Ports are matched by
    /// name; endpoints that are going away are left out.
    pub fn endpoints(&self, service: &Service, snapshot: &Snapshot, workloads: &Workloads) -> PortEndpoints {
        let owner: Owner = (service.namespace.as_str().into(), service.name.as_str().into());
        match self.0.get(&owner) {
            Some(names) => {
                let slices = names.iter().filter_map(|name| snapshot.typed(&service.namespace, name));
                of_slices(service, &slices.collect::<Vec<_>>(), workloads)
            }
            None => snapshot
                .typed::<Endpoints>(&service.namespace, &service.name)
                .map(|endpoints| of_endpoints(service, endpoints, workloads))
                .unwrap_or_default(),
        }
    }
}

fn typed(object: Option<&Arc<Object>>) -> Option<&EndpointSlice> {
    object?.typed()
}

/// The service a slice belongs to.
fn owner(slice: &EndpointSlice) -> Option<Owner> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((slice.metadata.namespace.as_deref().unwrap_or_default().into(), service.as_str().into()))
}

fn name(slice: &EndpointSlice) -> Arc<str> {
    slice.metadata.name.as_deref().unwrap_or_default().into()
}

fn of_slices(service: &Service, slices: &[&EndpointSlice], workloads: &Workloads) -> PortEndpoints {
    let mut all = PortEndpoints::new();
    for port in &service.ports {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for slice in slices {
            let target = slice.ports.iter().flatten().find(|entry| entry.name.clone().unwrap_or_default() == port.name);
            let Some(target) = target.and_then(|entry| u16::try_from(entry.port?).ok()) else { continue };
            for entry in &slice.endpoints {
                let conditions = entry.conditions.clone().unwrap_or_default();
                if conditions.terminating == Some(true) {
                    continue;
                }
                let pod = entry.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
                let pod = pod.and_then(|pod| pod.name.as_deref());
                // Kubernetes reads "unknown" as ready.
                let ready = conditions.ready != Some(false);
                let place = (entry.zone.as_deref(), entry.node_name.as_deref());
                for address in &entry.addresses {
                    endpoints.extend(endpoint(service, address, target, pod, ready, place, workloads));
                }
            }
        }
        insert(&mut all, port.number, endpoints);
    }
    all
}

fn of_endpoints(service: &Service, object: &Endpoints, workloads: &Workloads) -> PortEndpoints {
    let mut all = PortEndpoints::new();
    for port in &service.ports {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for subset in object.subsets.iter().flatten() {
            let target =
                subset.ports.iter().flatten().find(|entry| entry.name.clone().unwrap_or_default() == port.name);
            let Some(target) = target.and_then(|entry| u16::try_from(entry.port).ok()) else { continue };
            let lists = [(true, &subset.addresses), (false, &subset.not_ready_addresses)];
            for (ready, entry) in
                lists.into_iter().flat_map(|(ready, list)| list.iter().flatten().map(move |e| (ready, e)))
            {
                let pod = entry.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
                let pod = pod.and_then(|pod| pod.name.as_deref());
                endpoints.extend(endpoint(
                    service,
                    &entry.ip,
                    target,
                    pod,
                    ready,
                    (None, entry.node_name.as_deref()),
                    workloads,
                ));
            }
        }
        insert(&mut all, port.number, endpoints);
    }
    all
}

fn endpoint(
    service: &Service,
    address: &str,
    port: u16,
    pod: Option<&str>,
    ready: bool,
    (zone, node): (Option<&str>, Option<&str>),
    workloads: &Workloads,
) -> Option<Endpoint> {
    let ip = address.parse().ok()?;
    let info = pod.and_then(|pod| workloads.pod(&service.namespace, pod)).or_else(|| workloads.at(ip));
    let mut endpoint = match info {
        Some(info) => info.endpoint(EndpointAddress::Ip(ip), port),
        None => Endpoint {
            address: EndpointAddress::Ip(ip),
            port,
            labels: Arc::default(),
            locality: Locality::default(),
            node: None,
            weight: 1,
            healthy: ready,
            mutual_tls: false,
            workload: Default::default(),
        },
    };
    endpoint.healthy = ready;
    if let Some(zone) = zone.filter(|_| endpoint.locality == Locality::default()) {
        endpoint.locality.zone = zone.to_owned();
    }
    if endpoint.node.is_none() {
        endpoint.node = node.map(Arc::from);
    }
    Some(endpoint)
}

/// Adds endpoints in a stable order. Slices of one service may overlap for a moment while they are rearranged.
fn insert(all: &mut PortEndpoints, port: u16, mut endpoints: Vec<Endpoint>) {
    endpoints.sort_by(|a, b| (&a.address, a.port).cmp(&(&b.address, b.port)));
    endpoints.dedup_by(|a, b| a.address == b.address && a.port == b.port);
    all.insert(port, endpoints.into());
}
