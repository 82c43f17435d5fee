//! Route configurations of gateways: one for all plain HTTP servers of a port, one for each server of HTTPS.
//!
//! A pure function of its input struct, which is also its cache key. Source: Istio `core/gateway.go`
//! (buildGatewayHTTPRouteConfig, collapseDuplicateRoutes).

use super::route::{self, RouteScope, Targets};
use super::route_match;
use super::sidecar_routes::{configuration, virtual_host};
use crate::host;
use crate::names;
use crate::plan::gateway::{PlannedServer, ServerKind};
use crate::rules::VirtualServiceRule;
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteConfiguration, VirtualHost, virtual_host::TlsRequirementType,
};
use std::collections::BTreeMap;

/// A route configuration of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayRoutes {
    /// `http.PORT`, PORT being the workload's, or `https.PORT.NAME.GATEWAY.NAMESPACE`, PORT being the server's; with the
    /// address if it is bound to one.
    pub name: String,
    /// All that are served by it; at least one.
    pub servers: Vec<PlannedServer>,
    /// Rules bound to each Gateway, the oldest first.
    pub rules: BTreeMap<String, Vec<VirtualServiceRule>>,
    pub targets: Targets,
    /// For every server but its port and Gateway.
    pub scope: RouteScope,
}

struct Host {
    port: u16,
    routes: Vec<Route>,
    require_tls: bool,
}

impl GatewayRoutes {
    /// The route configuration.
    pub fn build(&self) -> RouteConfiguration {
        let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
        // Servers of one Gateway on this port that name the same host must not repeat a rule's routes there.
        let mut given: Vec<(String, &VirtualServiceRule)> = Vec::new();
        for server in &self.servers {
            let redirect = server.kind == ServerKind::Http { https_redirect: true };
            for rule in self.rules.get(&server.gateway).into_iter().flatten() {
                let shared = shared_hosts(server, rule);
                if shared.is_empty() {
                    continue;
                }
                let routes = route::of_rule(rule, &self.scope(server), &self.targets);
                if routes.is_empty() {
                    continue;
                }
                for name in shared {
                    let first_time = !given.iter().any(|(host, known)| *host == name && *known == rule);
                    let entry = hosts.entry(name.clone()).or_insert_with(|| Host {
                        port: server.port,
                        routes: Vec::new(),
                        require_tls: false,
                    });
                    if first_time {
                        entry.routes.extend(routes.iter().cloned());
                        given.push((name, rule));
                    }
                    entry.require_tls |= redirect;
                }
            }
            if redirect {
                for host in &server.hosts {
                    let entry = hosts.entry(host.host.clone()).or_insert_with(|| Host {
                        port: server.port,
                        routes: Vec::new(),
                        require_tls: false,
                    });
                    entry.require_tls = true;
                }
            }
        }
        if hosts.is_empty() {
            let port = self.servers.first().map_or(0, |server| server.port);
            let nothing = VirtualHost {
                name: names::host_port("blackhole", port),
                domains: vec!["*".to_owned()],
                ..Default::default()
            };
            return configuration(self.name.clone(), vec![nothing], self.scope.attempt_count);
        }
        configuration(self.name.clone(), collapse(hosts), self.scope.attempt_count)
    }

    fn scope(&self, server: &PlannedServer) -> RouteScope {
        RouteScope {
            port: server.port,
            gateways: vec![server.gateway.clone()],
            tls: matches!(server.kind, ServerKind::Https | ServerKind::Http { https_redirect: true }),
            ..self.scope.clone()
        }
    }
}

/// Hosts both a server and a rule stand for; of two that overlap the more specific one.
pub fn shared_hosts(server: &PlannedServer, rule: &VirtualServiceRule) -> Vec<String> {
    let mut shared: Vec<String> = Vec::new();
    for of_server in server.hosts.iter().filter(|host| host.admits(rule.namespace())) {
        for of_rule in rule.hosts() {
            let common = if host::is_subset_of(of_rule, &of_server.host) {
                of_rule
            } else if host::is_subset_of(&of_server.host, of_rule) {
                &of_server.host
            } else {
                continue;
            };
            if !shared.contains(common) {
                shared.push(common.clone());
            }
        }
    }
    shared
}

/// Hosts with the same routes become one virtual host, called after the first of them.
fn collapse(hosts: BTreeMap<String, Host>) -> Vec<VirtualHost> {
    let mut collapsed: Vec<VirtualHost> = Vec::new();
    for (name, host) in hosts {
        let routes = catch_alls_last(host.routes);
        let require_tls = if host.require_tls { TlsRequirementType::All } else { TlsRequirementType::None };
        let alike =
            collapsed.iter_mut().find(|known| known.require_tls == require_tls as i32 && known.routes == routes);
        match alike {
            Some(known) => known.domains.push(name),
            None => collapsed.push(VirtualHost {
                require_tls: require_tls.into(),
                ..virtual_host(&name, host.port, vec![name.clone()], routes)
            }),
        }
    }
    collapsed.sort_by(|a, b| a.name.cmp(&b.name));
    collapsed
}

/// Routes that take everything go behind those that do not, so that one rule does not hide another's.
fn catch_alls_last(routes: Vec<Route>) -> Vec<Route> {
    let (mut all, mut some) = (Vec::new(), Vec::new());
    for route in routes {
        if route.r#match.as_ref().is_some_and(route_match::is_everything) {
            all.push(route);
        } else {
            some.push(route);
        }
    }
    some.append(&mut all);
    some
}
