//! What only gateways have: listeners for their Gateways' servers, and those servers' routes.
//!
//! Source: Istio `core/gateway.go`.

use super::{Memo, l4};
use crate::generate::gateway_routes::{GatewayRoutes, shared_hosts};
use crate::generate::listener::{Chain, ChainAction, ChainMatch, GatewayChain, GatewayListener};
use crate::generate::route::RouteScope;
use crate::generate::server_tls::ServerTls;
use crate::host;
use crate::node::Node;
use crate::plan::gateway::{self, Claimant, ListenerKey, Plan, PlannedListener, PlannedServer, ServerKind};
use crate::registry::{Entry, Labels, selects};
use crate::rules::VirtualServiceRule;
use crate::scope::Scope;
use crate::world;
use lateen_xds::Resource;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// What only a gateway is sent.
#[derive(Debug, Default)]
pub struct Own {
    pub listeners: Vec<Resource>,
    pub routes: Vec<Resource>,
    /// Secrets that its servers name.
    pub credentials: BTreeSet<String>,
}

/// Listeners and routes of a gateway; servers that are not served are added to `problems`.
pub fn build(scope: &Scope<'_>, node: &Node, labels: &Labels, memo: &mut Memo, problems: &mut Vec<String>) -> Own {
    let plan = plan(scope, node, labels);
    problems.extend(
        plan.refused
            .iter()
            .map(|refused| format!("server {} of gateway {}: {}", refused.server, refused.gateway, refused.reason)),
    );
    let access = Arc::new(scope.world.access.find(&scope.world.registry, &node.namespace, labels));
    problems.extend(access.problems());
    let mut own = Own::default();
    for (key, planned) in &plan.listeners {
        let chains = chains(scope, *key, planned, problems);
        if chains.is_empty() {
            continue;
        }
        own.credentials.extend(chains.iter().filter_map(|chain| chain.tls.as_ref()).flat_map(ServerTls::credentials));
        let (plain, ended): (Vec<_>, Vec<_>) =
            planned.servers.iter().partition(|server| server.kind != ServerKind::Https);
        let plain: Vec<PlannedServer> =
            plain.into_iter().filter(|server| matches!(server.kind, ServerKind::Http { .. })).cloned().collect();
        if !plain.is_empty() {
            own.routes.push(memo.get(gateway_routes(scope, route_name(*key), key.1, plain)));
        }
        for server in ended {
            let name = https_route_name(*key, server);
            own.routes.push(memo.get(gateway_routes(scope, name, server.port, vec![server.clone()])));
        }
        own.listeners.push(memo.get(GatewayListener {
            addresses: key.0.map_or_else(|| scope.key.wildcards(), |address| vec![address]),
            port: key.1,
            chains,
            access: Arc::clone(&access),
            settings: scope.key.settings.clone(),
        }));
    }
    own
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

fn chains(
    scope: &Scope<'_>,
    key: ListenerKey,
    planned: &PlannedListener,
    problems: &mut Vec<String>,
) -> Vec<GatewayChain> {
    let mut chains: Vec<GatewayChain> = Vec::new();
    // Envoy refuses two chains for one name; "" stands for all. Servers that end TLS have theirs whatever passes it on.
    let ends = planned.servers.iter().filter(|server| server.tls.is_some());
    let mut names_taken: HashSet<String> = ends.flat_map(|server| names(&by_hosts(server))).collect();
    for server in &planned.servers {
        let tls = server.tls.as_ref().map(|settings| ServerTls {
            settings: Arc::clone(settings),
            defaults: scope.world.config.tls_defaults.clone(),
            oldest_of_mesh: scope.world.config.mesh_mtls.min_protocol_version,
            http: server.kind == ServerKind::Https,
        });
        let add = |chain: Chain| GatewayChain { chain, tls: tls.clone(), name: String::new(), open: false };
        match server.kind {
            ServerKind::Http { .. } if chains.is_empty() => {
                let action = ChainAction::Http { route_name: route_name(key), grpc_web: server.grpc_web };
                chains.push(add(Chain { matches: ChainMatch::default(), action, origin: None }));
            }
            ServerKind::Http { .. } => {}
            ServerKind::Https => {
                let action = ChainAction::Http { route_name: https_route_name(key, server), grpc_web: false };
                let chain = add(Chain { matches: by_hosts(server), action, origin: None });
                chains.push(GatewayChain { name: server.name.clone(), ..chain });
            }
            ServerKind::Tcp | ServerKind::Tls => {
                let route = rules(scope, server)
                    .filter(|rule| !shared_hosts(server, rule).is_empty())
                    .find_map(|rule| l4::gateway_tcp(rule, scope, &route_scope(scope, server)));
                match route {
                    Some(route) => {
                        let matches = if tls.is_some() { by_hosts(server) } else { ChainMatch::default() };
                        chains.push(add(Chain { matches, action: ChainAction::Tcp(route), origin: None }));
                    }
                    None => problems.push(no_route(server)),
                }
            }
            ServerKind::AutoPassthrough => {
                let covers = |entry: &&Entry| {
                    let mut hosts = server.hosts.iter();
                    scope.passes_on_to(&entry.service)
                        && hosts.any(|host| host::is_subset_of(&entry.service.host, &host.host))
                };
                let served = scope.services().iter().filter(covers);
                let by_name = served.flat_map(|entry| l4::by_server_name(entry, scope));
                chains.extend(by_name.map(|chain| GatewayChain { open: true, ..add(chain) }));
            }
            ServerKind::Passthrough => {
                for rule in rules(scope, server).filter(|rule| !shared_hosts(server, rule).is_empty()) {
                    for chain in l4::gateway_tls(rule, scope, &route_scope(scope, server)) {
                        let names = names(&chain.matches);
                        if names.iter().any(|name| names_taken.contains(name)) {
                            problems.push(format!(
                                "VirtualService {}/{} on gateway {}: an older rule or server has {}",
                                rule.namespace(),
                                rule.name(),
                                server.gateway,
                                names.join(", ")
                            ));
                            continue;
                        }
                        names_taken.extend(names);
                        chains.push(add(chain));
                    }
                }
            }
        }
    }
    chains
}

/// The server names that belong to a server.
fn by_hosts(server: &PlannedServer) -> ChainMatch {
    let server_names = server.hosts.iter().map(|host| host.host.clone()).collect();
    ChainMatch { server_names, ..ChainMatch::default() }
}

/// The server names a chain takes; `""` if it takes any.
fn names(matches: &ChainMatch) -> Vec<String> {
    let names = matches.canonical().server_names;
    if names.is_empty() { vec![String::new()] } else { names }
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

/// Every server of HTTPS has routes of its own: clients cannot come to a host by the certificate of another.
fn https_route_name((bind, _): ListenerKey, server: &PlannedServer) -> String {
    let (namespace, gateway) = server.gateway.split_once('/').unwrap_or_default();
    let name = format!("https.{}.{}.{gateway}.{namespace}", server.port, server.port_name);
    bind.map_or_else(|| name.clone(), |address| format!("{name}.{address}"))
}

fn gateway_routes(scope: &Scope<'_>, name: String, port: u16, servers: Vec<PlannedServer>) -> GatewayRoutes {
    let mut rules: BTreeMap<String, Vec<VirtualServiceRule>> = BTreeMap::new();
    for server in &servers {
        rules.entry(server.gateway.clone()).or_insert_with(|| scope.rules_of(&server.gateway).cloned().collect());
    }
    GatewayRoutes {
        name,
        servers,
        targets: scope.targets(rules.values().flatten()),
        rules,
        scope: scope.routes_at(port, ""),
    }
}
