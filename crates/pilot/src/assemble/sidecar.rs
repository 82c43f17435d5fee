//! What only sidecars have: listeners for services, and their routes.

use super::{Made, Memo, claims};
use crate::generate::cluster::{FixedCluster, FixedKind};
use crate::generate::listener::{ChainAction, OutboundListener, VirtualOutbound};
use crate::generate::sidecar_routes::{HttpService, SidecarRoutes};
use crate::node::Interception;
use crate::registry::{Entry, Resolution, Source};
use crate::rules::VirtualServiceRule;
use crate::scope::{Egress, Scope};
use crate::{host, names, plan};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

/// Adds the clusters for what no service takes.
pub fn add_fixed_clusters(scope: &Scope<'_>, memo: &mut Memo, made: &mut Made) {
    let connections = &scope.world.config.connections;
    for kind in [FixedKind::BlackHole, FixedKind::Passthrough] {
        made.clusters.push(memo.get(FixedCluster { kind, connections: connections.clone() }));
    }
}

/// Adds listeners for services, and their routes.
pub fn add_listeners(scope: &Scope<'_>, memo: &mut Memo, made: &mut Made) {
    let key = scope.key;
    let bound = key.interception == Interception::None;
    let unknown = scope.unknown();
    let plan = plan::outbound::plan(claims::claims(scope));
    let mut route_names = BTreeSet::new();
    for ((address, port), planned) in plan.listeners {
        for chain in &planned.chains {
            if let ChainAction::Http { route_name, .. } = &chain.action {
                route_names.insert((port, route_name.clone()));
            }
        }
        let listener = OutboundListener {
            addresses: planned.addresses,
            port,
            chains: planned.chains,
            catch_all: unknown.cluster().to_owned(),
            bound: planned.bound,
            settings: key.settings.clone(),
        };
        made.listeners.push((address, memo.get(listener)));
    }
    made.conflicts = plan.conflicts;
    add_routes(scope, &route_names, memo, made);
    if !bound {
        let listener = VirtualOutbound {
            addresses: key.wildcards(),
            transparent: key.interception == Interception::Tproxy,
            catch_all: unknown.cluster().to_owned(),
            settings: key.settings.clone(),
        };
        let address = key.wildcards().first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        made.listeners.push((address, memo.get(listener)));
    }
}

/// Adds the route configurations of these names and ports.
pub fn add_routes(scope: &Scope<'_>, names: &BTreeSet<(u16, String)>, memo: &mut Memo, made: &mut Made) {
    let ports: BTreeSet<u16> = names.iter().map(|(port, _)| *port).collect();
    let by_port: Vec<BTreeMap<u16, Vec<HttpService>>> =
        scope.egress().iter().map(|egress| services_by_port(scope, egress, &ports)).collect();
    for (port, name) in names {
        let only = name.strip_suffix(&format!(":{port}")).map(str::to_owned);
        // A listener for the port alone has it alone. A host's own configuration is of the listener for all ports.
        let serves = |egress: &Egress<'_>| match egress.port() {
            None => true,
            Some((number, _)) => number == *port && only.is_none(),
        };
        let Some(index) = scope.egress().iter().position(serves) else { continue };
        let (Some(egress), Some(by_port)) = (scope.egress().get(index), by_port.get(index)) else { continue };
        let on_port = by_port.get(port).map(Vec::as_slice).unwrap_or_default();
        let services: Vec<HttpService> = match &only {
            Some(only) => on_port.iter().filter(|service| service.host == *only).cloned().collect(),
            None => on_port.to_vec(),
        };
        let rules = rules_for(egress, *port, only.as_deref(), &services);
        made.routes.push(memo.get(SidecarRoutes {
            name: name.clone(),
            only,
            client_domain: scope.key.client_domain.clone(),
            services,
            targets: scope.targets(rules.iter()),
            rules,
            scope: scope.routes_at(*port, names::MESH_GATEWAY),
            unknown: scope.unknown(),
        }));
    }
}

fn services_by_port(scope: &Scope<'_>, egress: &Egress<'_>, ports: &BTreeSet<u16>) -> BTreeMap<u16, Vec<HttpService>> {
    let mut by_port: BTreeMap<u16, Vec<HttpService>> = BTreeMap::new();
    // A listener for one port speaks what it says, whatever its services' ports are declared to be.
    let declared = egress.port().map(|(_, protocol)| protocol);
    for entry in egress.services().iter().filter(|entry| entry.service.resolution != Resolution::Alias) {
        let of_ports = entry.service.ports.iter().filter(|port| ports.contains(&port.number));
        for port in of_ports.filter(|port| declared.unwrap_or(port.protocol).may_be_http()) {
            by_port.entry(port.number).or_default().push(http_service(scope, entry, port.number));
        }
    }
    for services in by_port.values_mut() {
        services.sort_by(|a, b| a.host.cmp(&b.host));
    }
    by_port
}

fn http_service(scope: &Scope<'_>, entry: &Entry, port: u16) -> HttpService {
    let service = &entry.service;
    HttpService {
        host: service.host.to_string(),
        addresses: service
            .addresses_for(scope.key.dns_capture)
            .into_iter()
            .filter_map(|block| block.address())
            .map(|address| address.to_string())
            .collect(),
        aliases: service.aliases.iter().map(ToString::to_string).collect(),
        headless: service.resolution == Resolution::Passthrough && service.source == Source::Kubernetes,
        hash: scope.policy_of(entry, "", port).hash,
    }
}

/// Rules that speak of a service on the port. On port 80 also those that speak of none: it is where hosts outside the
/// registry are served.
fn rules_for(egress: &Egress<'_>, port: u16, only: Option<&str>, services: &[HttpService]) -> Vec<VirtualServiceRule> {
    let known: HashSet<&str> = services.iter().map(|service| service.host.as_str()).collect();
    let speaks = |rule: &&&VirtualServiceRule| {
        !rule.spec().http.is_empty()
            && ((port == 80 && only.is_none())
                || rule.hosts().iter().any(|name| {
                    known.contains(name.as_str())
                        || (host::is_wildcard(name) && services.iter().any(|s| host::is_subset_of(&s.host, name)))
                }))
    };
    egress.rules().iter().filter(speaks).map(|rule| (*rule).clone()).collect()
}
