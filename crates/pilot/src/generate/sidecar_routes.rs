//! Route configurations of sidecars: one per port, shared by all hosts on it, or one for a sniffed host and port.
//!
//! A pure function of its input struct, which is also its cache key. Source: Istio `core/httproute.go`
//! (buildSidecarOutboundHTTPRouteConfig), `core/route/route.go` (BuildSidecarVirtualHostWrapper).

use super::route::{self, RouteScope, Targets};
use super::{domains, route_match, wire};
use crate::rules::{HashBy, VirtualServiceRule};
use crate::scope::Unknown;
use crate::{host, names};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteAction, RouteConfiguration, VirtualHost, route::Action,
    route_action::ClusterSpecifier,
};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// A service with a port that is HTTP or may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpService {
    pub host: String,
    /// Virtual addresses in effect for the proxy, as written in a `Host` header.
    pub addresses: Vec<String>,
    pub aliases: Vec<String>,
    /// Pods have names of their own below the service's.
    pub headless: bool,
    /// What of a request to it is hashed, if its endpoints are chosen by that.
    pub hash: Option<HashBy>,
}

/// The route configuration of a port, or of one host on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SidecarRoutes {
    /// `80`, or `HOST:80`.
    pub name: String,
    /// For `HOST:80`: the host.
    pub only: Option<String>,
    /// DNS domain clients search.
    pub client_domain: String,
    /// By host; no host twice.
    pub services: Vec<HttpService>,
    /// Rules of the mesh gateway that name a host on this port, the oldest first.
    pub rules: Vec<VirtualServiceRule>,
    pub scope: RouteScope,
    pub targets: Targets,
    /// What is done with requests for other hosts.
    pub unknown: Unknown,
}

impl SidecarRoutes {
    /// The route configuration.
    pub fn build(&self) -> RouteConfiguration {
        let mut hosts = match &self.only {
            Some(only) => self.only_host(only),
            None => self.all_hosts(),
        };
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        // Whoever declares all hosts has taken the place, and Envoy takes no name twice.
        let all_taken = hosts.iter().any(|host| host.domains.iter().any(|domain| domain == "*"));
        if !all_taken {
            hosts.push(catch_all(&self.unknown));
        }
        configuration(self.name.clone(), hosts, self.scope.attempt_count)
    }

    fn only_host(&self, only: &str) -> Vec<VirtualHost> {
        let Some(service) = self.services.iter().find(|service| service.host == only) else { return Vec::new() };
        let mut of_rules = RoutesOfRules::new(self);
        let routes = match of_rules.for_service(&service.host) {
            Some((_, routes)) => routes,
            None => self.default_routes(service),
        };
        vec![virtual_host(&service.host, self.scope.port, vec!["*".to_owned()], routes)]
    }

    fn all_hosts(&self) -> Vec<VirtualHost> {
        let mut of_rules = RoutesOfRules::new(self);
        // Rules claim names before services without a rule do, the older rule first.
        let mut by_rule: BTreeMap<usize, Vec<&HttpService>> = BTreeMap::new();
        let mut without_rule = Vec::new();
        for service in &self.services {
            match of_rules.for_service(&service.host) {
                Some((rule, _)) => by_rule.entry(rule).or_default().push(service),
                None => without_rule.push(service),
            }
        }
        let mut claims = Claims::new(&self.services);
        let mut hosts = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let routes = of_rules.of(index);
            if routes.is_empty() {
                continue;
            }
            let services = by_rule.remove(&index).unwrap_or_default();
            // Hosts the registry does not know have no port of their own: they are served where a known host of
            // the rule is, else on port 80.
            if !services.is_empty() || self.scope.port == 80 {
                for unknown in self.unknown_hosts(rule) {
                    if claims.name(unknown)
                        && let Some(domains) = claims.domains(vec![names::bracketed(unknown)], &[])
                    {
                        hosts.push(virtual_host(unknown, self.scope.port, domains, routes.clone()));
                    }
                }
            }
            for service in services {
                hosts.extend(self.service_host(service, routes.clone(), &mut claims));
            }
        }
        for service in without_rule {
            hosts.extend(self.service_host(service, self.default_routes(service), &mut claims));
        }
        hosts
    }

    /// Hosts of a rule that no service on this port has.
    fn unknown_hosts<'a>(&'a self, rule: &'a VirtualServiceRule) -> impl Iterator<Item = &'a str> {
        rule.hosts().iter().map(String::as_str).filter(|name| {
            !self.services.iter().any(|service| {
                service.host == **name || (host::is_wildcard(name) && host::is_subset_of(&service.host, name))
            })
        })
    }

    fn service_host(&self, service: &HttpService, routes: Vec<Route>, claims: &mut Claims) -> Option<VirtualHost> {
        if !claims.name(&service.host) {
            return None;
        }
        let mut all = Vec::new();
        let mut alternatives = Vec::new();
        for name in std::iter::once(&service.host).chain(&service.aliases) {
            let others = domains::alternatives(name, &self.client_domain);
            all.push(names::bracketed(name));
            all.extend(others.iter().cloned());
            alternatives.extend(others);
        }
        if service.headless {
            let of_pods: Vec<String> = all.iter().map(|name| format!("*.{name}")).collect();
            all.extend(of_pods);
        }
        all.extend(service.addresses.iter().map(|address| names::bracketed(address)));
        let domains = claims.domains(all, &alternatives)?;
        Some(virtual_host(&service.host, self.scope.port, domains, routes))
    }

    fn default_routes(&self, service: &HttpService) -> Vec<Route> {
        let (host, port) = (&service.host, self.scope.port);
        let (cluster, operation) = (names::outbound_cluster(port, "", host), names::trace_operation(host, port));
        vec![route::default(cluster, operation, self.scope.retries.as_ref(), service.hash.as_ref())]
    }
}

/// Routes of each rule, made when first asked for.
struct RoutesOfRules<'a> {
    input: &'a SidecarRoutes,
    made: BTreeMap<usize, Vec<Route>>,
}

impl<'a> RoutesOfRules<'a> {
    fn new(input: &'a SidecarRoutes) -> Self {
        RoutesOfRules { input, made: BTreeMap::new() }
    }

    fn of(&mut self, index: usize) -> Vec<Route> {
        let input = self.input;
        self.made
            .entry(index)
            .or_insert_with(|| {
                input
                    .rules
                    .get(index)
                    .map(|rule| route::of_rule(rule, &input.scope, &input.targets))
                    .unwrap_or_default()
            })
            .clone()
    }

    /// The rule in effect for a service: the oldest that names it, else the most specific wildcard, the oldest of
    /// equal ones. A rule without routes for this proxy and port does not exist for it.
    fn for_service(&mut self, service: &str) -> Option<(usize, Vec<Route>)> {
        let mut candidates: Vec<(&str, usize)> = Vec::new();
        for (index, rule) in self.input.rules.iter().enumerate() {
            let names = rule
                .hosts()
                .iter()
                .filter(|name| *name == service || (host::is_wildcard(name) && host::is_subset_of(service, name)));
            candidates.extend(names.map(|name| (name.as_str(), index)));
        }
        candidates.sort_by(|(a, i), (b, j)| {
            let exact = |name: &str| name != service;
            exact(a).cmp(&exact(b)).then_with(|| host::most_specific_first(a, b)).then(i.cmp(j))
        });
        candidates.into_iter().find_map(|(_, index)| {
            let routes = self.of(index);
            (!routes.is_empty()).then_some((index, routes))
        })
    }
}

/// Names taken so far: no domain may stand in two virtual hosts, and Envoy compares them without case.
struct Claims {
    real: HashSet<String>,
    names: HashSet<String>,
    domains: HashSet<String>,
}

impl Claims {
    fn new(services: &[HttpService]) -> Claims {
        Claims {
            real: services.iter().map(|service| service.host.clone()).collect(),
            names: HashSet::new(),
            domains: HashSet::new(),
        }
    }

    fn name(&mut self, host: &str) -> bool {
        self.names.insert(host.to_owned())
    }

    /// The names not taken yet; `None` if that leaves none. Alternative names give way to hosts really called so.
    fn domains(&mut self, names: Vec<String>, alternatives: &[String]) -> Option<Vec<String>> {
        let free: Vec<String> = names
            .into_iter()
            .filter(|name| !(alternatives.contains(name) && self.real.contains(name)))
            .filter(|name| self.domains.insert(name.to_ascii_lowercase()))
            .collect();
        (!free.is_empty()).then_some(free)
    }
}

/// A route configuration with the settings all have.
pub fn configuration(name: String, mut virtual_hosts: Vec<VirtualHost>, attempt_count: bool) -> RouteConfiguration {
    for host in &mut virtual_hosts {
        host.include_request_attempt_count = attempt_count;
    }
    RouteConfiguration {
        name,
        virtual_hosts,
        // Routes and clusters travel apart; a route may name a cluster that is on its way.
        validate_clusters: Some(wire::truth(false)),
        max_direct_response_body_size_bytes: Some(wire::number(1024 * 1024)),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// A virtual host called `HOST:PORT`.
pub fn virtual_host(host: &str, port: u16, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: names::host_port(host, port), domains, routes, ..Default::default() }
}

// The newer field does not honour a caller's gRPC timeout the same way; istiod writes this one.
#[allow(deprecated)]
fn catch_all(unknown: &Unknown) -> VirtualHost {
    let zero = Some(wire::duration(Duration::ZERO));
    let (name, action) = match unknown {
        Unknown::GoesTo(cluster) => (
            names::ALLOW_ANY,
            Action::Route(RouteAction {
                cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.clone())),
                timeout: zero,
                max_grpc_timeout: zero,
                ..Default::default()
            }),
        ),
        Unknown::Refused => {
            (names::BLOCK_ALL, Action::DirectResponse(DirectResponseAction { status: 502, ..Default::default() }))
        }
    };
    let route = Route {
        name: name.to_owned(),
        r#match: Some(route_match::everything()),
        action: Some(action),
        ..Default::default()
    };
    VirtualHost { name: name.to_owned(), domains: vec!["*".to_owned()], routes: vec![route], ..Default::default() }
}
