//! The listener redirected inbound connections arrive at, 15006.
//!
//! A pure function of its input struct. Chains are those of workloads that take plain text only (PeerAuthentication
//! DISABLE). Source: Istio `core/listener_inbound.go`, `core/filterchain_options.go`, `core/httproute.go`
//! (buildSidecarInboundHTTPRouteConfig).

use super::http::{self, HttpSettings, Side};
use super::listener::{self, ChainMatch, PLAINTEXT_HTTP, RAW_BUFFER};
use super::tcp::{self, TcpRoute};
use super::{access_log, authorization, retry, wire};
use crate::names;
use crate::registry::{Protocol, Shape};
use crate::rules::Access;
use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
    listener_filter_chain_match_predicate::{MatchSet, Rule},
};
use envoy_types::pb::envoy::config::route::v3::{
    Decorator, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    route::Action,
    route_action::{ClusterSpecifier, MaxStreamDuration},
    route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::listener::{
    original_dst::v3::OriginalDst, original_src::v3::OriginalSrc,
};
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Port that inbound connections are redirected to.
pub const INBOUND_PORT: u16 = 15006;

/// Mark of connections the proxy makes with its client's address as the source.
const TPROXY_MARK: u32 = 1337;

/// A port of the proxy's workload that a service has, or that a Sidecar names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundPort {
    /// The port clients come to.
    pub port: u16,
    /// The address its chains are named after; the wildcard if none.
    pub bind: Option<IpAddr>,
    pub protocol: Protocol,
    /// The port of the service in front of it.
    pub service_port: u16,
    pub host: String,
    /// Path of the Sidecar that names it.
    pub origin: Option<String>,
}

impl InboundPort {
    /// `ADDRESS_PORT`.
    fn name(&self) -> String {
        match self.bind {
            Some(bind) => names::listener(bind, self.port),
            None => names::wildcard_listener(self.port),
        }
    }
}

/// The virtual inbound listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualInbound {
    /// Wildcards of the proxy's families; at least one.
    pub addresses: Vec<IpAddr>,
    /// Keeps the client's source address (TPROXY).
    pub transparent: bool,
    /// In ascending order, no port twice.
    pub ports: Vec<InboundPort>,
    pub access: Arc<Access>,
    pub settings: HttpSettings,
}

impl VirtualInbound {
    /// The listener.
    pub fn build(&self) -> Listener {
        let mut chains = vec![blackhole()];
        chains.extend(self.passthrough());
        for port in &self.ports {
            chains.extend(port_chains(port, &self.access, &self.settings));
        }
        Listener {
            name: names::VIRTUAL_INBOUND.to_owned(),
            address: Some(wire::address(listener::primary(&self.addresses), INBOUND_PORT)),
            additional_addresses: listener::additional(&self.addresses, INBOUND_PORT),
            listener_filters: self.listener_filters(&chains),
            listener_filters_timeout: Some(wire::duration(self.settings.detection_timeout)),
            continue_on_listener_filters_timeout: true,
            filter_chains: chains,
            transparent: self.transparent.then(|| wire::truth(true)),
            traffic_direction: TrafficDirection::Inbound.into(),
            max_connections_to_accept_per_socket_event: Some(wire::number(1)),
            access_log: access_log::unmatched(self.settings.access_log.as_deref()),
            ..Default::default()
        }
    }

    fn passthrough(&self) -> [FilterChain; 2] {
        let cluster = names::INBOUND_PASSTHROUGH_CLUSTER;
        [
            FilterChain {
                name: "virtualInbound-catchall-http".to_owned(),
                filter_chain_match: Some(chain_match(None, ChainMatch::plaintext_http())),
                filters: vec![http::with_routes(
                    Side::SidecarInbound { http2: false },
                    cluster,
                    routes(cluster, 0, ":0/*", true),
                    &self.access,
                    &self.settings,
                )],
                ..Default::default()
            },
            FilterChain {
                name: names::VIRTUAL_INBOUND.to_owned(),
                filter_chain_match: Some(chain_match(None, raw_buffer())),
                filters: bytes(cluster, &self.access, &self.settings),
                ..Default::default()
            },
        ]
    }

    fn listener_filters(&self, chains: &[FilterChain]) -> Vec<ListenerFilter> {
        let mut filters =
            vec![listener::listener_filter("envoy.filters.listener.original_dst", wire::any(&OriginalDst::default()))];
        if self.transparent {
            let config = OriginalSrc { mark: TPROXY_MARK, ..Default::default() };
            filters.push(listener::listener_filter("envoy.filters.listener.original_src", wire::any(&config)));
        }
        // No TLS inspector: no chain of plain-text workloads matches on TLS.
        let mut inspector = listener::http_inspector();
        inspector.filter_disabled = not_on(&ports_without_inspection(chains));
        filters.push(inspector);
        filters
    }
}

/// A port of the workload at which the proxy listens itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BoundInbound {
    pub port: InboundPort,
    pub access: Arc<Access>,
    pub settings: HttpSettings,
}

impl BoundInbound {
    /// `ADDRESS_PORT`.
    pub fn name(&self) -> String {
        self.port.name()
    }

    /// The listener.
    pub fn build(&self) -> Listener {
        let chains = port_chains(&self.port, &self.access, &self.settings);
        let sniffs = ports_without_inspection(&chains).is_empty();
        Listener {
            name: self.name(),
            address: Some(wire::address(self.port.bind.unwrap_or(wire::ANY_V4), self.port.port)),
            listener_filters: if sniffs { vec![listener::http_inspector()] } else { Vec::new() },
            listener_filters_timeout: Some(wire::duration(Duration::ZERO)),
            continue_on_listener_filters_timeout: true,
            filter_chains: chains,
            traffic_direction: TrafficDirection::Inbound.into(),
            max_connections_to_accept_per_socket_event: Some(wire::number(1)),
            access_log: access_log::unmatched(self.settings.access_log.as_deref()),
            ..Default::default()
        }
    }
}

/// The chains of one port.
fn port_chains(port: &InboundPort, access: &Access, settings: &HttpSettings) -> Vec<FilterChain> {
    let cluster = names::inbound_cluster(port.port);
    let chain = |matches, filters| FilterChain {
        name: port.name(),
        filter_chain_match: Some(chain_match(Some(port.port), matches)),
        filters,
        metadata: port.origin.as_deref().map(wire::config_metadata),
        ..Default::default()
    };
    let http = |matches| {
        let operation = names::trace_operation(&port.host, port.service_port);
        let filter = http::with_routes(
            Side::SidecarInbound { http2: port.protocol.is_http2() },
            &format!("inbound_{}", port.name()),
            routes(&cluster, port.service_port, &operation, !port.protocol.is_grpc()),
            access,
            settings,
        );
        chain(matches, vec![filter])
    };
    let tcp = || chain(raw_buffer(), bytes(&cluster, access, settings));
    match port.protocol.shape() {
        Some(Shape::Http) => vec![http(raw_buffer())],
        Some(Shape::Tcp) => vec![tcp()],
        Some(Shape::Auto) => vec![http(ChainMatch::plaintext_http()), tcp()],
        None => Vec::new(),
    }
}

/// Bytes to a cluster, for those who may.
fn bytes(cluster: &str, access: &Access, settings: &HttpSettings) -> Vec<Filter> {
    let mut filters = authorization::network_filters(access);
    filters.push(tcp::proxy(&TcpRoute::to(cluster), settings.access_log.as_deref()));
    filters
}

/// Ports whose protocol is declared: looking at their bytes would only delay servers that speak first.
fn ports_without_inspection(chains: &[FilterChain]) -> Vec<u16> {
    let port_of = |chain: &FilterChain| {
        let port = chain.filter_chain_match.as_ref()?.destination_port.as_ref()?.value;
        u16::try_from(port).ok()
    };
    let sniffs = |chain: &FilterChain| {
        let matches = chain.filter_chain_match.as_ref();
        matches.is_some_and(|matches| {
            matches.application_protocols.iter().any(|name| PLAINTEXT_HTTP.contains(&name.as_str()))
        })
    };
    let sniffed: Vec<u16> = chains.iter().filter(|chain| sniffs(chain)).filter_map(port_of).collect();
    let mut ports: Vec<u16> = chains.iter().filter_map(port_of).filter(|port| !sniffed.contains(port)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn not_on(ports: &[u16]) -> Option<ListenerFilterChainMatchPredicate> {
    let mut rules: Vec<ListenerFilterChainMatchPredicate> = ports
        .iter()
        .map(|port| {
            let start = i32::from(*port);
            ListenerFilterChainMatchPredicate {
                rule: Some(Rule::DestinationPortRange(Int32Range { start, end: start + 1 })),
            }
        })
        .collect();
    if rules.len() > 1 {
        return Some(ListenerFilterChainMatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules })) });
    }
    rules.pop()
}

/// Connections to 15006 itself: passing them on would lead straight back here.
fn blackhole() -> FilterChain {
    FilterChain {
        name: "virtualInbound-blackhole".to_owned(),
        filter_chain_match: Some(chain_match(Some(INBOUND_PORT), ChainMatch::default())),
        filters: vec![tcp::proxy(&TcpRoute::to(names::BLACK_HOLE_CLUSTER), None)],
        ..Default::default()
    }
}

fn raw_buffer() -> ChainMatch {
    ChainMatch { transport_protocol: RAW_BUFFER, ..ChainMatch::default() }
}

fn chain_match(port: Option<u16>, matches: ChainMatch) -> FilterChainMatch {
    FilterChainMatch {
        destination_port: port.map(|port| wire::number(u32::from(port))),
        application_protocols: matches.application_protocols.iter().map(|name| (*name).to_owned()).collect(),
        transport_protocol: matches.transport_protocol.to_owned(),
        ..Default::default()
    }
}

/// Everything to the workload. `retries`: requests reset before they reached it are sent again.
fn routes(cluster: &str, service_port: u16, operation: &str, retries: bool) -> RouteConfiguration {
    let zero = Some(wire::duration(Duration::ZERO));
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: zero,
        max_stream_duration: Some(MaxStreamDuration {
            max_stream_duration: zero,
            grpc_timeout_header_max: zero,
            ..Default::default()
        }),
        retry_policy: retries.then(retry::inbound),
        ..Default::default()
    };
    let route = Route {
        name: "default".to_owned(),
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }),
        decorator: Some(Decorator { operation: operation.to_owned(), ..Default::default() }),
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{service_port}"),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        validate_clusters: Some(wire::truth(false)),
        ..Default::default()
    }
}
