//! Services declared by ServiceEntries, and their endpoints.
//!
//! Source: Istio `pilot/pkg/serviceregistry/serviceentry`.

use super::endpoint::{Endpoint, EndpointAddress, Locality, PortEndpoints};
use super::protocol::Protocol;
use super::service::{Cidr, Distribution, ExportTo, Resolution, Service, ServicePort, Source, TargetPort};
use super::workload::{WorkloadInfo, Workloads, inline};
use super::{selects, workload};
use crate::host;
use crate::rules::created;
use lateen_galley::Config;
use lateen_galley::istio::ServiceEntry;
use lateen_galley::istio::service_entry::{Location, Resolution as Declared};
use std::net::IpAddr;
use std::sync::Arc;

/// One service per host.
pub fn services(entry: &Config<ServiceEntry>, mesh: &crate::Config) -> Vec<Service> {
    let spec = &entry.spec;
    let name = entry.metadata.name.clone().unwrap_or_default();
    let namespace = entry.metadata.namespace.clone().unwrap_or_default();
    let ports: Vec<ServicePort> = spec
        .ports
        .iter()
        .filter_map(|port| {
            let number = u16::try_from(port.number).ok().filter(|number| *number != 0)?;
            let target = u16::try_from(port.target_port).ok().filter(|target| *target != 0).unwrap_or(number);
            Some(ServicePort {
                name: port.name.clone(),
                number,
                protocol: Protocol::parse(&port.protocol),
                target: TargetPort::Number(target),
            })
        })
        .collect();
    let addresses: Vec<Cidr> = spec.addresses.iter().filter_map(|text| Cidr::parse(text)).collect();
    let resolution = match spec.resolution {
        Declared::None => Resolution::Passthrough,
        Declared::DynamicDns => Resolution::Named,
        Declared::Static => Resolution::Static,
        Declared::Dns => Resolution::Dns,
        Declared::DnsRoundRobin => Resolution::DnsRoundRobin,
    };
    let automatic = entry.status.iter().flat_map(|status| &status.addresses);
    let service = |host: &String| Service {
        auto_addresses: automatic
            .clone()
            // An address without a host is meant for all of them.
            .filter(|address| address.host.is_empty() || address.host.eq_ignore_ascii_case(host))
            .filter_map(|address| address.value.parse().ok())
            .collect(),
        host: host::resolve(host, &namespace, &mesh.domain).into(),
        name: name.clone(),
        namespace: namespace.clone(),
        source: Source::ServiceEntry,
        created: created(&entry.metadata),
        resolution,
        addresses: addresses.clone(),
        ports: ports.clone(),
        export_to: ExportTo::parse(&spec.export_to, &namespace, &mesh.export_to.service),
        mesh_external: spec.location == Location::MeshExternal,
        alias_of: None,
        aliases: Vec::new(),
        distribution: Distribution::of(None, entry.metadata.annotations.as_ref()),
        node_local: false,
        client_affinity: false,
        server_names: spec.subject_alt_names.clone(),
        selector: spec.workload_selector.as_ref().map(|selector| selector.labels.clone()),
    };
    spec.hosts.iter().map(service).collect()
}

/// The endpoints of one of an entry's services: those listed, those of workloads it selects, or for names to be
/// resolved the host itself.
pub fn endpoints(entry: &Config<ServiceEntry>, service: &Service, workloads: &Workloads) -> PortEndpoints {
    let spec = &entry.spec;
    let listed: Vec<Arc<WorkloadInfo>> = match &spec.workload_selector {
        Some(selector) => workloads
            .of_namespace(&service.namespace)
            .filter(|info| !selector.labels.is_empty() && selects(&selector.labels, &info.labels))
            .cloned()
            .collect(),
        None => spec.endpoints.iter().map(|endpoint| Arc::new(inline(endpoint, &service.namespace))).collect(),
    };
    let named = matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    let mut all = PortEndpoints::new();
    for port in &service.ports {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for info in &listed {
            // Only proxies that resolve names can use one.
            let usable = info.addresses.iter().filter(|address| named || !matches!(address, EndpointAddress::Name(_)));
            for address in usable {
                endpoints.push(info.endpoint(address.clone(), target(port, info)));
            }
        }
        if endpoints.is_empty() && named && spec.endpoints.is_empty() && !host::is_wildcard(&service.host) {
            endpoints.push(itself(service, port));
        }
        endpoints.sort_by(|a, b| (&a.address, a.port).cmp(&(&b.address, b.port)));
        all.insert(port.number, endpoints.into());
    }
    all
}

/// The workload's own port of that name, else the entry's target port.
fn target(port: &ServicePort, info: &workload::WorkloadInfo) -> u16 {
    let declared = match port.target {
        TargetPort::Number(number) => number,
        TargetPort::Named(_) => port.number,
    };
    // Container ports' names say nothing of service ports.
    info.port(&port.name).filter(|_| info.is_entry).unwrap_or(declared)
}

fn itself(service: &Service, port: &ServicePort) -> Endpoint {
    let address = service
        .host
        .parse::<IpAddr>()
        .map_or_else(|_| EndpointAddress::Name(service.host.to_string()), EndpointAddress::Ip);
    Endpoint {
        address,
        port: match port.target {
            TargetPort::Number(number) => number,
            TargetPort::Named(_) => port.number,
        },
        labels: Arc::default(),
        locality: Locality::default(),
        node: None,
        weight: 1,
        healthy: true,
        mutual_tls: false,
        workload: Default::default(),
    }
}
