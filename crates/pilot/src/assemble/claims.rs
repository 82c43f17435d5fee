//! The listeners services ask sidecars for.
//!
//! Source: Istio `core/listener.go` (buildSidecarOutboundListeners, buildSidecarOutboundListener).

use super::l4;
use crate::generate::domains;
use crate::host;
use crate::names;
use crate::node::Interception;
use crate::plan::outbound::Claim;
use crate::registry::{Cidr, EndpointAddress, Entry, Protocol, Resolution, Service, ServicePort, Shape, Source};
use crate::rules::VirtualServiceRule;
use crate::scope::{Egress, Scope};
use std::net::IpAddr;

/// One address to listen at, or several that go together.
struct Place {
    addresses: Vec<IpAddr>,
    /// Address blocks of the service that tell it from others at a shared address.
    blocks: Vec<Cidr>,
}

/// Claims of all services a proxy reaches: those made for one port first, then the oldest services first.
pub fn claims(scope: &Scope<'_>) -> Vec<Claim> {
    let mut claims = Vec::new();
    for egress in scope.egress() {
        for entry in egress.services().iter().filter(|entry| entry.service.resolution != Resolution::Alias) {
            for port in &entry.service.ports {
                match egress.port() {
                    None => claims.extend(of_port(scope, egress, entry, port)),
                    Some((_, protocol)) => {
                        // The listener's word on the protocol counts.
                        let port = ServicePort { protocol, ..port.clone() };
                        claims.extend(of_port(scope, egress, entry, &port));
                    }
                }
            }
        }
    }
    claims
}

fn of_port(scope: &Scope<'_>, egress: &Egress<'_>, entry: &Entry, port: &ServicePort) -> Vec<Claim> {
    let service = &entry.service;
    let Some(shape) = port.protocol.shape() else { return Vec::new() };
    let claim = |addresses: Vec<IpAddr>, tcp| {
        let shared = addresses.first().is_some_and(IpAddr::is_unspecified);
        let route_name = match shape {
            Shape::Tcp => None,
            Shape::Auto if !shared => Some(names::host_port(&service.host, port.number)),
            Shape::Auto | Shape::Http => Some(port.number.to_string()),
        };
        Claim {
            host: service.host.to_string(),
            addresses,
            port: port.number,
            protocol: port.protocol,
            route_name,
            grpc_web: port.protocol == Protocol::GrpcWeb,
            tcp,
            exclusive: egress.port().is_some(),
            bound: is_bound(scope, egress),
        }
    };
    let fixed = fixed_addresses(scope, egress);
    if shape == Shape::Http {
        return vec![claim(fixed.unwrap_or_else(|| scope.key.wildcards()), Vec::new())];
    }
    let places = match fixed {
        Some(addresses) => vec![Place { addresses, blocks: Vec::new() }],
        None => places(scope, egress, entry, port),
    };
    places
        .into_iter()
        .map(|place| {
            let tcp = chains(scope, egress, service, port, &place);
            claim(place.addresses, tcp)
        })
        .collect()
}

fn is_bound(scope: &Scope<'_>, egress: &Egress<'_>) -> bool {
    egress.is_bound() || scope.key.interception == Interception::None
}

/// Where a way out listens whatever the service's address is.
fn fixed_addresses(scope: &Scope<'_>, egress: &Egress<'_>) -> Option<Vec<IpAddr>> {
    match egress.bind() {
        Some(bind) => Some(vec![bind]),
        None if is_bound(scope, egress) => Some(scope.key.loopbacks()),
        None => None,
    }
}

/// Where a port that is not known to be HTTP is listened for: the service's own addresses if it has any, those of its
/// pods if it is headless, else all addresses.
fn places(scope: &Scope<'_>, egress: &Egress<'_>, entry: &Entry, port: &ServicePort) -> Vec<Place> {
    let service = &entry.service;
    let everywhere = |blocks| Place { addresses: scope.key.wildcards(), blocks };
    let addresses = service.addresses_for(scope.key.dns_capture);
    if addresses.is_empty() {
        if service.resolution != Resolution::Passthrough || egress.port().is_some() {
            return vec![everywhere(Vec::new())];
        }
        let endpoints = entry.endpoints.get(&port.number).map(|list| &**list).unwrap_or_default();
        if service.source == Source::ServiceEntry && service.selector.is_none() && endpoints.is_empty() {
            return vec![everywhere(Vec::new())];
        }
        let mut pods: Vec<IpAddr> = endpoints
            .iter()
            .filter_map(|endpoint| match endpoint.address {
                EndpointAddress::Ip(ip) => Some(ip),
                _ => None,
            })
            .collect();
        pods.sort_unstable();
        pods.dedup();
        return pods.into_iter().map(|pod| Place { addresses: vec![pod], blocks: Vec::new() }).collect();
    }
    let (single, blocks): (Vec<Cidr>, Vec<Cidr>) = addresses.iter().partition(|block| block.address().is_some());
    let mut single: Vec<IpAddr> = single.into_iter().filter_map(Cidr::address).collect();
    if single.iter().any(|address| scope.key.has_family_of(*address)) {
        single.retain(|address| scope.key.has_family_of(*address));
    }
    // The addresses of a Kubernetes Service are one service in two families; those of an entry are as many places.
    let mut places: Vec<Place> = match service.source {
        Source::Kubernetes if single.is_empty() => Vec::new(),
        Source::Kubernetes => vec![Place { addresses: single, blocks: Vec::new() }],
        Source::ServiceEntry => {
            single.into_iter().map(|address| Place { addresses: vec![address], blocks: Vec::new() }).collect()
        }
    };
    if !blocks.is_empty() {
        places.push(everywhere(blocks));
    }
    places
}

fn chains(
    scope: &Scope<'_>,
    egress: &Egress<'_>,
    service: &Service,
    port: &ServicePort,
    place: &Place,
) -> Vec<crate::generate::listener::Chain> {
    let route_scope = scope.routes_at(port.number, names::MESH_GATEWAY);
    let names_host = |rule: &&VirtualServiceRule| rule.hosts().iter().any(|name| host::overlaps(name, &service.host));
    let rules = egress.rules().iter().copied().filter(names_host);
    if !port.protocol.is_tls() {
        return l4::tcp_chains(&service.host, port, &place.blocks, rules, scope, &route_scope);
    }
    let shared = place.addresses.first().is_some_and(IpAddr::is_unspecified);
    let names = if shared { server_names(scope, service) } else { Vec::new() };
    l4::tls_chains(&service.host, port, &place.blocks, names, rules, scope, &route_scope)
}

/// Server names clients may send for a service.
fn server_names(scope: &Scope<'_>, service: &Service) -> Vec<String> {
    let mut names = vec![service.host.to_string()];
    for alias in &service.aliases {
        names.push(alias.to_string());
        // TLS server names have no final dot.
        let others = domains::alternatives(alias, &scope.key.client_domain);
        names.extend(others.into_iter().filter(|name| !name.ends_with('.')));
    }
    names
}

/// Whether listeners of the service come and go with its endpoints.
pub fn depend_on_endpoints(service: &Service, dns_capture: bool) -> bool {
    service.resolution == Resolution::Passthrough
        && service.addresses_for(dns_capture).is_empty()
        && service.ports.iter().any(|port| port.protocol.shape() != Some(Shape::Http) && port.protocol != Protocol::Udp)
}
