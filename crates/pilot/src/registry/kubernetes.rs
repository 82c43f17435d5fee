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
use lateen_galley::Snapshot;
use std::collections::HashMap;
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

/// All endpoint slices, by the service they belong to.
pub struct Slices<'a>(HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>);

impl<'a> Slices<'a> {
    /// Reads all slices.
    pub fn new(snapshot: &'a Snapshot) -> Slices<'a> {
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in snapshot.list::<EndpointSlice>() {
            if let Some(owner) = owner(slice) {
                slices.entry(owner).or_default().push(slice);
            }
        }
        Slices(slices)
    }

    /// Reads the slices of one service.
    pub fn of(snapshot: &'a Snapshot, service: &'a Service) -> Slices<'a> {
        let name = (service.namespace.as_str(), service.name.as_str());
        let slices: Vec<_> =
            snapshot.list_in::<EndpointSlice>(name.0).filter(|slice| owner(slice) == Some(name)).collect();
        Slices(if slices.is_empty() { HashMap::new() } else { HashMap::from([(name, slices)]) })
    }

    /// The endpoints of a service: from its slices, or from its Endpoints object if it has none. Ports are matched by
    /// name; endpoints that are going away are left out.
    pub fn endpoints(&self, service: &Service, snapshot: &Snapshot, workloads: &Workloads) -> PortEndpoints {
        match self.0.get(&(service.namespace.as_str(), service.name.as_str())) {
            Some(slices) => of_slices(service, slices, workloads),
            None => snapshot
                .typed::<Endpoints>(&service.namespace, &service.name)
                .map(|endpoints| of_endpoints(service, endpoints, workloads))
                .unwrap_or_default(),
        }
    }
}

/// Namespace and name of the service a slice belongs to.
pub fn owner(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((slice.metadata.namespace.as_deref().unwrap_or_default(), service))
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
