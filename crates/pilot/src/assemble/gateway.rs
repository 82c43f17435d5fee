//! What only gateways have: listeners for their Gateways' servers, and those servers' routes.
//!
//! Source: Istio `core/gateway.go`.

use super::{Memo, l4};
use crate::generate::gateway_routes::{GatewayRoutes, shared_hosts};
use crate::generate::listener::{Chain, ChainAction, ChainMatch, GatewayListener};
use crate::generate::route::RouteScope;
use crate::node::Node;
use crate::plan::gateway::{self, Claimant, ListenerKey, Plan, PlannedListener, PlannedServer, ServerKind};
use crate::registry::{Labels, selects};
use crate::rules::VirtualServiceRule;
use crate::scope::Scope;
use crate::world;
use lateen_xds::Resource;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Listeners and routes of a gateway; servers that are not served are added to `problems`.
pub fn build(
    scope: &Scope<'_>,
    node: &Node,
    labels: &Labels,
    memo: &mut Memo,
    problems: &mut Vec<String>,
) -> (Vec<Resource>, Vec<Resource>) {
    let plan = plan(scope, node, labels);
    problems.extend(
        plan.refused
            .iter()
            .map(|refused| format!("server {} of gateway {}: {}", refused.server, refused.gateway, refused.reason)),
    );
    let access = Arc::new(scope.world.access.find(&node.namespace, labels));
    let mut listeners = Vec::new();
    let mut routes = Vec::new();
    for (key, planned) in &plan.listeners {
        let chains = chains(scope, *key, planned, problems);
        if chains.is_empty() {
            continue;
        }
        if chains.iter().any(|chain| matches!(chain.action, ChainAction::Http { .. })) {
            routes.push(memo.get(gateway_routes(scope, *key, planned)));
        }
        listeners.push(memo.get(GatewayListener {
            addresses: key.0.map_or_else(|| scope.key.wildcards(), |address| vec![address]),
            port: key.1,
            chains,
            access: Arc::clone(&access),
            settings: scope.key.settings.clone(),
        }));
    }
    (listeners, routes)
}

fn plan(scope: &Scope<'_>, node: &Node, labels: &Labels) -> Plan {
    let claimants: Vec<Claimant<'_>> = scope
        .world
        .gateways
        .iter()
        .filter_map(|object| {
            let spec = world::gateway(object)?;
            selects(&spec.selector, labels).then(|| Claimant {
                namespace: object.namespace(),
                name: object.name(),
                spec,
            })
        })
        .collect();
    let instances = scope.world.registry.instances(&node.namespace, &node.addresses, labels);
    let target = |port: u16| {
        let instance = instances.iter().find(|instance| instance.port.number == port);
        instance.map_or(port, |instance| instance.target)
    };
    gateway::plan(&claimants, &target, node.unprivileged)
}

fn chains(scope: &Scope<'_>, key: ListenerKey, planned: &PlannedListener, problems: &mut Vec<String>) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut names_taken: HashSet<String> = HashSet::new();
    for server in &planned.servers {
        match server.kind {
            ServerKind::Http { .. } if chains.is_empty() => chains.push(Chain {
                matches: ChainMatch::default(),
                action: ChainAction::Http { route_name: route_name(key), grpc_web: server.grpc_web },
                origin: None,
            }),
            ServerKind::Http { .. } => {}
            ServerKind::Tcp => {
                let route = rules(scope, server)
                    .filter(|rule| !shared_hosts(server, rule).is_empty())
                    .find_map(|rule| l4::gateway_tcp(rule, scope, &route_scope(scope, server)));
                match route {
                    Some(route) => chains.push(Chain {
                        matches: ChainMatch::default(),
                        action: ChainAction::Tcp(route),
                        origin: None,
                    }),
                    None => problems.push(no_route(server)),
                }
            }
            ServerKind::Passthrough => {
                for rule in rules(scope, server).filter(|rule| !shared_hosts(server, rule).is_empty()) {
                    for chain in l4::gateway_tls(rule, scope, &route_scope(scope, server)) {
                        // Envoy refuses two chains for one name.
                        let names = chain.matches.canonical().server_names;
                        if names.iter().any(|name| names_taken.contains(name)) || names.is_empty() {
                            problems.push(format!(
                                "VirtualService {}/{} on gateway {}: an older rule has {}",
                                rule.namespace(),
                                rule.name(),
                                server.gateway,
                                names.join(", ")
                            ));
                            continue;
                        }
                        names_taken.extend(names);
                        chains.push(chain);
                    }
                }
            }
        }
    }
    chains
}

fn no_route(server: &PlannedServer) -> String {
    format!("port {} of gateway {}: no VirtualService has a TCP route for it", server.port, server.gateway)
}

fn rules<'a>(scope: &Scope<'a>, server: &PlannedServer) -> impl Iterator<Item = &'a VirtualServiceRule> {
    scope.rules_of(&server.gateway).collect::<Vec<_>>().into_iter()
}

fn route_scope(scope: &Scope<'_>, server: &PlannedServer) -> RouteScope {
    scope.routes_at(server.port, &server.gateway)
}

fn route_name(key: ListenerKey) -> String {
    match key {
        (None, port) => format!("http.{port}"),
        (Some(address), port) => format!("http.{port}.{address}"),
    }
}

fn gateway_routes(scope: &Scope<'_>, key: ListenerKey, planned: &PlannedListener) -> GatewayRoutes {
    let mut rules: BTreeMap<String, Vec<VirtualServiceRule>> = BTreeMap::new();
    for server in &planned.servers {
        rules.entry(server.gateway.clone()).or_insert_with(|| scope.rules_of(&server.gateway).cloned().collect());
    }
    GatewayRoutes {
        name: route_name(key),
        servers: planned.servers.clone(),
        targets: scope.targets(rules.values().flatten()),
        rules,
        scope: scope.routes_at(key.1, ""),
    }
}
