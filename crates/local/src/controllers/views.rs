//! What the cluster's DNS answers and its relays connect to, read off a snapshot. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lateen_galley::istio::service_entry::{Resolution, ServicePort as EntryPort};
use lateen_galley::istio::{ServiceEntry, WorkloadEntry};
use lateen_galley::{Config, Key, Kind, Snapshot};

use super::{endpoints, selection};
use crate::dns::{CLUSTER_DOMAIN, Zone};
use crate::hosts::{Backends, Endpoint, ServicePort};

type Slices<'a> = HashMap<Key, Vec<&'a EndpointSlice>>;

fn slices(snapshot: &Snapshot) -> Slices<'_> {
    let mut slices: Slices<'_> = HashMap::new();
    for object in snapshot.objects(Kind::EndpointSlice) {
        if let (Some(service), Some(slice)) = (endpoints::service_of(object), object.typed::<EndpointSlice>()) {
            slices.entry(service).or_default().push(slice);
        }
    }
    slices
}

fn addresses(texts: &[String]) -> impl Iterator<Item = IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok())
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    let all = spec.and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.cluster_ip.clone());
    let mut ips: Vec<IpAddr> = addresses(&all).chain(addresses(one.as_slice())).collect();
    ips.dedup();
    ips
}

/// The names of all Services and ServiceEntry hosts. A name that a Service has addresses for is the Service's, as in
/// Istio's table of names.
pub fn zone(snapshot: &Snapshot) -> Zone {
    let mut zone = Zone::default();
    let slices = slices(snapshot);
    for object in snapshot.objects(Kind::Service) {
        let Some(service) = object.typed::<Service>() else { continue };
        let Some(spec) = &service.spec else { continue };
        let name = format!("{}.{}.svc.{CLUSTER_DOMAIN}", object.name(), object.namespace());
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = &spec.external_name {
                zone.add_alias(&name, target);
            }
            continue;
        }
        let ips = cluster_ips(service);
        // The name exists even while nobody serves it.
        zone.add_addresses(&name, ips.iter().copied());
        for ip in &ips {
            zone.add_pointer(*ip, &name);
        }
        for port in spec.ports.iter().flatten().filter(|_| !ips.is_empty()) {
            if let (Some(port_name), Ok(number)) = (&port.name, u16::try_from(port.port)) {
                let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
                zone.add_service_port(&format!("_{port_name}._{protocol}.{name}"), number, &name);
            }
        }
        if ips.is_empty() {
            for slice in slices.get(&object.key()).into_iter().flatten() {
                add_headless(&mut zone, &name, slice);
            }
        }
    }
    let entries = snapshot.list::<Config<ServiceEntry>>();
    let hosts = entries.flat_map(|entry| entry.spec.hosts.iter().map(move |host| (host, entry_addresses(entry, host))));
    let lone: Vec<_> = hosts.filter(|(host, ips)| !ips.is_empty() && !zone.has_addresses(host)).collect();
    for (host, ips) in lone {
        zone.add_addresses(host, ips);
    }
    zone
}

/// A headless Service's name stands for its pods, each of which has a name below it.
fn add_headless(zone: &mut Zone, name: &str, slice: &EndpointSlice) {
    for endpoint in slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)) {
        let ips: Vec<IpAddr> = addresses(&endpoint.addresses).collect();
        zone.add_addresses(name, ips.iter().copied());
        let head = match (&endpoint.hostname, ips.first()) {
            (Some(hostname), _) => hostname.clone(),
            // Kubernetes' DNS specification leaves the name of a nameless pod open; this is CoreDNS's.
            (None, Some(ip)) => ip.to_string().replace(['.', ':'], "-"),
            (None, None) => continue,
        };
        let own = format!("{head}.{name}");
        zone.add_addresses(&own, ips.iter().copied());
        for ip in &ips {
            zone.add_pointer(*ip, &own);
        }
        for port in slice.ports.iter().flatten() {
            let number = port.port.and_then(|port| u16::try_from(port).ok());
            if let (Some(port_name), Some(number)) = (port.name.as_ref().filter(|name| !name.is_empty()), number) {
                let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
                zone.add_service_port(&format!("_{port_name}._{protocol}.{name}"), number, &own);
            }
        }
    }
}

fn is_ready(endpoint: &k8s_openapi::api::discovery::v1::Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

/// The addresses a ServiceEntry's host answers with: its own, else those found for it, else, where clients
/// must reach the endpoints themselves, the endpoints'.
fn entry_addresses(entry: &Config<ServiceEntry>, host: &str) -> Vec<IpAddr> {
    let own: Vec<IpAddr> = addresses(&entry.spec.addresses).collect();
    if !own.is_empty() {
        return own;
    }
    let given = entry.status.iter().flat_map(|status| &status.addresses);
    let given: Vec<IpAddr> = given
        .filter(|address| address.host.is_empty() || address.host == host)
        .filter_map(|address| address.value.parse().ok())
        .collect();
    if given.is_empty() && entry.spec.resolution == Resolution::Static {
        return entry.spec.endpoints.iter().filter_map(|endpoint| endpoint.address.parse().ok()).collect();
    }
    given
}

/// The endpoints of every service port, and the virtual addresses they stand behind.
pub fn backends(snapshot: &Snapshot) -> Backends {
    let mut backends = Backends::default();
    let slices = slices(snapshot);
    for object in snapshot.objects(Kind::Service) {
        let Some(service) = object.typed::<Service>() else { continue };
        let ips = cluster_ips(service);
        for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
            let Ok(number) = u16::try_from(port.port) else { continue };
            let key = ServicePort {
                namespace: object.namespace().to_owned(),
                service: object.name().to_owned(),
                port: number,
            };
            let external = service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
            let external = external.filter_map(|text| text.parse().ok());
            for ip in ips.iter().copied().chain(external) {
                backends.add_virtual_address(SocketAddr::new(ip, number), key.clone());
            }
            let mut found = Vec::new();
            for slice in slices.get(&object.key()).into_iter().flatten() {
                let name = port.name.as_deref().unwrap_or_default();
                let same = slice.ports.iter().flatten().find(|other| other.name.as_deref().unwrap_or_default() == name);
                let target = same.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok());
                let Some(target) = target else { continue };
                let ready = slice.endpoints.iter().filter(|endpoint| is_ready(endpoint));
                found.extend(
                    ready
                        .flat_map(|endpoint| addresses(&endpoint.addresses))
                        .map(|ip| Endpoint::Address(SocketAddr::new(ip, target))),
                );
            }
            backends.add(key, found);
        }
    }
    for object in snapshot.objects(Kind::ServiceEntry) {
        let Some(entry) = object.typed::<Config<ServiceEntry>>() else { continue };
        for host in &entry.spec.hosts {
            for port in &entry.spec.ports {
                let Ok(number) = u16::try_from(port.number) else { continue };
                let key = ServicePort { namespace: object.namespace().to_owned(), service: host.clone(), port: number };
                // Where clients connect to is then where they are led.
                let itself = entry.spec.resolution == Resolution::None;
                for ip in entry_addresses(entry, host).into_iter().filter(|_| !itself) {
                    backends.add_virtual_address(SocketAddr::new(ip, number), key.clone());
                }
                backends.add(key, entry_endpoints(snapshot, object.namespace(), &entry.spec, host, port));
            }
        }
    }
    backends
}

fn entry_endpoints(
    snapshot: &Snapshot,
    namespace: &str,
    entry: &ServiceEntry,
    host: &str,
    port: &EntryPort,
) -> Vec<Endpoint> {
    let target = if port.target_port == 0 { port.number } else { port.target_port };
    let of_workload = |workload: &WorkloadEntry| {
        let number = u16::try_from(workload.ports.get(&port.name).copied().unwrap_or(target)).ok()?;
        Some(match workload.address.parse::<IpAddr>() {
            Ok(ip) => Endpoint::Address(SocketAddr::new(ip, number)),
            Err(_) => Endpoint::Name(workload.address.clone(), number),
        })
    };
    if let Some(selector) = &entry.workload_selector {
        let entries = snapshot
            .list_in::<Config<WorkloadEntry>>(namespace)
            .filter(|workload| {
                let labels = workload.metadata.labels.iter().flatten().chain(&workload.spec.labels);
                let labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
                selection::selects(&selector.labels, Some(&labels))
            })
            .filter_map(|workload| of_workload(&workload.spec));
        let pods = selection::pods(snapshot, namespace, &selector.labels)
            .filter(|(_, pod): &(_, &Pod)| selection::is_ready(pod) && !selection::is_ending(pod))
            .filter_map(|(_, pod)| {
                Some(Endpoint::Address(SocketAddr::new(selection::address(pod)?, u16::try_from(target).ok()?)))
            });
        return entries.chain(pods).collect();
    }
    if entry.endpoints.is_empty() && matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin) {
        return u16::try_from(target).map(|target| vec![Endpoint::Name(host.to_owned(), target)]).unwrap_or_default();
    }
    entry.endpoints.iter().filter_map(of_workload).collect()
}
