//! TCP and TLS routes of VirtualServices as chains and TCP proxies.
//!
//! Source: Istio `core/tls.go`, `core/networkfilter.go`.

use crate::generate::listener::{Chain, ChainAction, ChainMatch};
use crate::generate::route::{self, RouteScope, Targets};
use crate::generate::tcp::{TcpRoute, Tunnel};
use crate::names;
use crate::registry::{Cidr, Entry, Labels, Protocol, Resolution, ServicePort, selects};
use crate::rules::{HashBy, VirtualServiceRule};
use crate::scope::Scope;
use lateen_galley::istio::destination_rule::TunnelSettings;
use lateen_galley::istio::virtual_service::{L4MatchAttributes, RouteDestination, TlsMatchAttributes};

/// The conditions of a match block that are known before a connection is there.
struct Static<'a> {
    port: u32,
    gateways: &'a [String],
    source_labels: &'a Labels,
    source_namespace: &'a str,
}

impl Static<'_> {
    fn hold(&self, rule: &VirtualServiceRule, scope: &RouteScope) -> bool {
        (self.port == 0 || self.port == u32::from(scope.port))
            && (self.gateways.is_empty()
                || self.gateways.iter().any(|gateway| scope.gateways.contains(&rule.gateway_name(gateway))))
            && selects(self.source_labels, &scope.labels)
            && (self.source_namespace.is_empty() || self.source_namespace == scope.namespace)
    }
}

fn of_tcp(block: &L4MatchAttributes) -> Static<'_> {
    Static {
        port: block.port,
        gateways: &block.gateways,
        source_labels: &block.source_labels,
        source_namespace: &block.source_namespace,
    }
}

fn of_tls(block: &TlsMatchAttributes) -> Static<'_> {
    Static {
        port: block.port,
        gateways: &block.gateways,
        source_labels: &block.source_labels,
        source_namespace: &block.source_namespace,
    }
}

fn blocks(texts: &[String]) -> Vec<Cidr> {
    texts.iter().filter_map(|text| Cidr::parse(text)).collect()
}

/// A chain's way to the destinations of a rule.
pub fn to_destinations(
    destinations: &[RouteDestination],
    rule: &VirtualServiceRule,
    view: &Scope<'_>,
    scope: &RouteScope,
    targets: &Targets,
) -> TcpRoute {
    let cluster = |to: &RouteDestination| route::cluster_of(to.destination.as_ref(), rule, scope, targets);
    let mut to = match destinations {
        [only] => TcpRoute::to(&cluster(only)),
        several => {
            let weighted: Vec<&RouteDestination> = several.iter().filter(|to| to.weight > 0).collect();
            let shift = route::weight_shift(weighted.iter().map(|to| to.weight));
            let mut clusters: Vec<(String, u32)> =
                weighted.iter().map(|to| (cluster(to), u32::try_from(to.weight).unwrap_or(0) >> shift)).collect();
            if clusters.is_empty() {
                clusters.push((names::UNKNOWN_SERVICE.to_owned(), 1));
            }
            TcpRoute {
                stat_prefix: format!("{}.{}", rule.name(), rule.namespace()),
                clusters,
                ..TcpRoute::to(names::UNKNOWN_SERVICE)
            }
        }
    };
    if let Some((cluster, _)) = to.clusters.first().cloned() {
        let mut parts = cluster.split('|').skip(1);
        let (port, subset, host) = (parts.next(), parts.next(), parts.next());
        if let (Some(port), Some(host)) = (port.and_then(|port| port.parse().ok()), host) {
            // Of several destinations none speaks for the others.
            let subset = subset.filter(|_| destinations.len() == 1).unwrap_or_default();
            add_policy(&mut to, host, subset, port, view);
            to.tunnel = tunnel(host, subset, view);
        }
    }
    to
}

/// A chain's way to a service.
pub fn to_service(host: &str, port: u16, view: &Scope<'_>) -> TcpRoute {
    let mut route = TcpRoute::to(&names::outbound_cluster(port, "", host));
    add_policy(&mut route, host, "", port, view);
    route.tunnel = tunnel(host, "", view);
    route
}

/// What the hosts of a service are asked for, if they are HTTP proxies.
fn tunnel(host: &str, subset: &str, view: &Scope<'_>) -> Option<Tunnel> {
    let settings = view.destination_rule(view.service(host)?)?.tunnel(subset)?;
    let TunnelSettings { protocol, target_host, target_port } = settings;
    let hostname = match target_host.contains(':') {
        true => format!("[{target_host}]:{target_port}"),
        false => format!("{target_host}:{target_port}"),
    };
    Some(Tunnel { hostname, post: protocol == "POST" })
}

/// Chains of a gateway that passes the mesh's TLS on to a service: what the client asks for names port and subset.
pub fn by_server_name(entry: &Entry, view: &Scope<'_>) -> Vec<Chain> {
    let service = &entry.service;
    let rule = view.destination_rule(entry);
    let subsets: Vec<&str> = rule.iter().flat_map(|rule| rule.subsets()).map(|(name, _)| name).collect();
    let mut chains = Vec::new();
    for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
        for subset in std::iter::once("").chain(subsets.iter().copied().filter(|name| !name.is_empty())) {
            let name = names::server_name(port.number, subset, &service.host);
            let mut route = TcpRoute::to(&name);
            add_policy(&mut route, &service.host, subset, port.number, view);
            chains.push(Chain {
                // With these protocols an endpoint proves itself and looks at the client, which is not seen from here.
                matches: ChainMatch {
                    server_names: vec![name],
                    application_protocols: MESH_PROTOCOLS.to_vec(),
                    ..ChainMatch::default()
                },
                action: ChainAction::Tcp(route),
                origin: None,
            });
        }
    }
    chains
}

/// Application protocols of the mesh's TLS.
const MESH_PROTOCOLS: [&str; 5] = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

fn add_policy(route: &mut TcpRoute, host: &str, subset: &str, port: u16, view: &Scope<'_>) {
    if view.service(host).is_some_and(|entry| entry.service.resolution == Resolution::Named) {
        route.named = Some((port, view.key.families));
    }
    route.hash_source_address = view.policy(host, subset, port).hash == Some(HashBy::SourceIp(true));
    let policy = view.policy(host, "", port);
    route.idle_timeout = policy.tcp_idle_timeout.or(view.key.settings.idle_timeout);
    route.max_connection_duration = policy.max_connection_duration;
}

/// Chains for a TCP port of a service; `destinations` are its address blocks, if it has any.
pub fn tcp_chains<'r>(
    host: &str,
    port: &ServicePort,
    destinations: &[Cidr],
    rules: impl Iterator<Item = &'r VirtualServiceRule>,
    view: &Scope<'_>,
    scope: &RouteScope,
) -> Vec<Chain> {
    let mut chains = Vec::new();
    for rule in rules {
        let targets = view.targets(std::iter::once(rule));
        for tcp in rule.spec().tcp.iter().filter(|tcp| !tcp.route.is_empty()) {
            let chain = |destinations: Vec<Cidr>| Chain {
                matches: ChainMatch { destinations, ..ChainMatch::default() },
                action: ChainAction::Tcp(to_destinations(&tcp.route, rule, view, scope, &targets)),
                origin: Some(rule.config_path()),
            };
            let matching: Vec<&L4MatchAttributes> =
                tcp.matches.iter().filter(|block| of_tcp(block).hold(rule, scope)).collect();
            let takes_all = matching.iter().any(|block| block.destination_subnets.is_empty());
            if tcp.matches.is_empty() || takes_all {
                chains.push(chain(destinations.to_vec()));
                return chains;
            }
            let subnets: Vec<Cidr> = matching.iter().flat_map(|block| blocks(&block.destination_subnets)).collect();
            if !subnets.is_empty() {
                chains.push(chain(subnets));
            }
        }
    }
    chains.push(Chain {
        matches: ChainMatch { destinations: destinations.to_vec(), ..ChainMatch::default() },
        action: ChainAction::Tcp(to_service(host, port.number, view)),
        origin: None,
    });
    chains
}

/// Chains for a TLS port of a service. `names` are the server names that tell it from others on the same listener; none
/// where its address does.
pub fn tls_chains<'r>(
    host: &str,
    port: &ServicePort,
    destinations: &[Cidr],
    names: Vec<String>,
    rules: impl Iterator<Item = &'r VirtualServiceRule>,
    view: &Scope<'_>,
    scope: &RouteScope,
) -> Vec<Chain> {
    let mut chains = Vec::new();
    for rule in rules {
        let targets = view.targets(std::iter::once(rule));
        for tls in rule.spec().tls.iter().filter(|tls| !tls.route.is_empty()) {
            for block in tls.matches.iter().filter(|block| of_tls(block).hold(rule, scope)) {
                let own = blocks(&block.destination_subnets);
                chains.push(Chain {
                    matches: ChainMatch {
                        server_names: block.sni_hosts.clone(),
                        destinations: if own.is_empty() { destinations.to_vec() } else { own },
                        ..ChainMatch::default()
                    },
                    action: ChainAction::Tcp(to_destinations(&tls.route, rule, view, scope, &targets)),
                    origin: Some(rule.config_path()),
                });
            }
        }
    }
    if chains.is_empty() {
        chains.push(Chain {
            matches: ChainMatch { server_names: names, destinations: destinations.to_vec(), ..ChainMatch::default() },
            action: ChainAction::Tcp(to_service(host, port.number, view)),
            origin: None,
        });
    }
    chains
}

/// The way a gateway's TCP server takes: the first TCP route whose conditions hold.
pub fn gateway_tcp(rule: &VirtualServiceRule, view: &Scope<'_>, scope: &RouteScope) -> Option<TcpRoute> {
    let holds = |block: &L4MatchAttributes| {
        (block.port == 0 || block.port == u32::from(scope.port)) && gateway_holds(&block.gateways, rule, scope)
    };
    let route = rule
        .spec()
        .tcp
        .iter()
        .find(|tcp| !tcp.route.is_empty() && (tcp.matches.is_empty() || tcp.matches.iter().any(holds)))?;
    let targets = view.targets(std::iter::once(rule));
    Some(to_destinations(&route.route, rule, view, scope, &targets))
}

/// Chains of a gateway that passes TLS on, one per match block.
pub fn gateway_tls(rule: &VirtualServiceRule, view: &Scope<'_>, scope: &RouteScope) -> Vec<Chain> {
    let targets = view.targets(std::iter::once(rule));
    let mut chains = Vec::new();
    for tls in rule.spec().tls.iter().filter(|tls| !tls.route.is_empty()) {
        for block in &tls.matches {
            let holds =
                (block.port == 0 || block.port == u32::from(scope.port)) && gateway_holds(&block.gateways, rule, scope);
            if !holds {
                continue;
            }
            chains.push(Chain {
                matches: ChainMatch { server_names: block.sni_hosts.clone(), ..ChainMatch::default() },
                action: ChainAction::Tcp(to_destinations(&tls.route, rule, view, scope, &targets)),
                origin: None,
            });
        }
    }
    chains
}

fn gateway_holds(gateways: &[String], rule: &VirtualServiceRule, scope: &RouteScope) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| scope.gateways.contains(&rule.gateway_name(gateway)))
}
