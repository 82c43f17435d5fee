//! What only sidecars have: listeners for services, their routes, and all that leads to the own workload.

use super::clusters::label;
use super::{Memo, Outbound, claims};
use crate::config::OutboundTrafficPolicy;
use crate::generate::cluster::{FixedCluster, InboundCluster, Upstream};
use crate::generate::inbound::{InboundPort, VirtualInbound};
use crate::generate::listener::{ChainAction, OutboundListener, VirtualOutbound};
use crate::generate::route::RouteScope;
use crate::generate::sidecar_routes::{HttpService, SidecarRoutes};
use crate::node::{Interception, Node};
use crate::registry::{Entry, Instance, Labels, Protocol, Resolution, Source};
use crate::rules::VirtualServiceRule;
use crate::scope::{Scope, ScopeKey};
use crate::world::World;
use crate::{host, names, plan};
use lateen_xds::Resource;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

/// Adds listeners for services, their routes, and the clusters for what no service takes.
pub fn add_outbound(scope: &Scope<'_>, memo: &mut Memo, outbound: &mut Outbound) {
    let key = scope.key;
    let bound = key.interception == Interception::None;
    let catch_all = match scope.world.config.outbound_traffic_policy {
        OutboundTrafficPolicy::AllowAny => names::PASSTHROUGH_CLUSTER,
        OutboundTrafficPolicy::RegistryOnly => names::BLACK_HOLE_CLUSTER,
    };
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
            catch_all,
            bound,
            settings: key.settings.clone(),
        };
        outbound.listeners.push((address, memo.get(listener)));
    }
    outbound.conflicts = plan.conflicts;
    add_routes(scope, &route_names, memo, outbound);
    outbound.clusters.push(memo.get(FixedCluster::BlackHole));
    outbound.clusters.push(memo.get(FixedCluster::Passthrough));
    if !bound {
        let listener = VirtualOutbound {
            addresses: key.wildcards(),
            transparent: key.interception == Interception::Tproxy,
            catch_all,
            settings: key.settings.clone(),
        };
        let address = key.wildcards().first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        outbound.listeners.push((address, memo.get(listener)));
    }
}

fn add_routes(scope: &Scope<'_>, names: &BTreeSet<(u16, String)>, memo: &mut Memo, outbound: &mut Outbound) {
    let mut by_port: BTreeMap<u16, Vec<HttpService>> = BTreeMap::new();
    for entry in scope.services().iter().filter(|entry| entry.service.resolution != Resolution::Alias) {
        for port in entry.service.ports.iter().filter(|port| port.protocol.may_be_http()) {
            by_port.entry(port.number).or_default().push(http_service(scope, entry));
        }
    }
    for services in by_port.values_mut() {
        services.sort_by(|a, b| a.host.cmp(&b.host));
    }
    for (port, name) in names {
        let on_port = by_port.get(port).map(Vec::as_slice).unwrap_or_default();
        let only = name.strip_suffix(&format!(":{port}")).map(str::to_owned);
        let services: Vec<HttpService> = match &only {
            Some(only) => on_port.iter().filter(|service| service.host == *only).cloned().collect(),
            None => on_port.to_vec(),
        };
        let rules = rules_for(scope, *port, only.as_deref(), &services);
        outbound.routes.push(memo.get(SidecarRoutes {
            name: name.clone(),
            only,
            client_domain: scope.key.client_domain.clone(),
            services,
            targets: scope.targets(rules.iter()),
            rules,
            scope: RouteScope {
                port: *port,
                gateways: vec![names::MESH_GATEWAY.to_owned()],
                namespace: scope.key.namespace.clone(),
                labels: scope.key.labels.clone(),
                domain: scope.world.config.domain.clone(),
                tls: false,
            },
            policy: scope.world.config.outbound_traffic_policy,
        }));
    }
}

fn http_service(scope: &Scope<'_>, entry: &Entry) -> HttpService {
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
    }
}

/// Rules that speak of a service on the port. On port 80 also those that speak of none: it is where hosts outside the
/// registry are served.
fn rules_for(scope: &Scope<'_>, port: u16, only: Option<&str>, services: &[HttpService]) -> Vec<VirtualServiceRule> {
    let known: HashSet<&str> = services.iter().map(|service| service.host.as_str()).collect();
    let speaks = |rule: &&VirtualServiceRule| {
        !rule.spec().http.is_empty()
            && ((port == 80 && only.is_none())
                || rule.hosts().iter().any(|name| {
                    known.contains(name.as_str())
                        || (host::is_wildcard(name) && services.iter().any(|s| host::is_subset_of(&s.host, name)))
                }))
    };
    scope.mesh_rules().filter(speaks).cloned().collect()
}

/// Adds what leads to the proxy's own workload.
pub fn add_own(
    world: &World,
    key: &ScopeKey,
    node: &Node,
    labels: &Labels,
    memo: &mut Memo,
    clusters: &mut Vec<Resource>,
    listeners: &mut Vec<Resource>,
) {
    if key.interception == Interception::None {
        return;
    }
    let mut by_target: BTreeMap<u16, Vec<Instance>> = BTreeMap::new();
    for instance in world.registry.instances(&node.namespace, &node.addresses, labels) {
        if instance.port.protocol != Protocol::Udp {
            by_target.entry(instance.target).or_default().push(instance);
        }
    }
    let mut ports = Vec::new();
    for (target, instances) in by_target {
        // The oldest service decides.
        let Some(first) = instances.first() else { continue };
        // Rules for chosen clients say nothing of what those clients serve.
        let host = &first.service.host;
        let rule = world.destination_rules.find(&node.namespace, &Labels::new(), host, &first.service.namespace);
        clusters.push(memo.get(InboundCluster {
            port: target,
            upstream: match first.port.protocol {
                protocol if protocol.is_http2() => Upstream::Http2,
                Protocol::Auto => Upstream::AsClient,
                _ => Upstream::Http1,
            },
            policy: rule.map(|rule| rule.policy("", first.port.number)).unwrap_or_default(),
            families: key.families,
            services: instances.iter().map(|instance| label(&instance.service)).collect(),
            config: rule.map(|rule| rule.config_path()),
        }));
        ports.push(InboundPort {
            port: target,
            protocol: first.port.protocol,
            service_port: first.port.number,
            host: first.service.host.to_string(),
        });
    }
    clusters.push(memo.get(FixedCluster::InboundPassthrough(key.families)));
    listeners.push(memo.get(VirtualInbound {
        addresses: key.wildcards(),
        transparent: key.interception == Interception::Tproxy,
        ports,
        settings: key.settings.clone(),
    }));
}
