//! The listener redirected inbound connections arrive at, 15006.
//!
//! A pure function of its input struct. Source: Istio `core/listener_inbound.go`, `core/httproute.go`
//! (buildSidecarInboundHTTPRouteConfig).

mod chains;
mod inspect;
mod tls;

pub use tls::InboundTls;

use super::http::HttpSettings;
use super::listener::{self, ChainMatch};
use super::tcp::{self, TcpRoute};
use super::{access_log, authorization, retry, wire};
use crate::names;
use crate::registry::Protocol;
use crate::rules::{Access, PeerMode};
use chains::Common;
use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter};
use envoy_types::pb::envoy::config::route::v3::{
    Decorator, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    route::Action,
    route_action::{ClusterSpecifier, MaxStreamDuration},
    route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::listener::{
    original_dst::v3::OriginalDst, original_src::v3::OriginalSrc,
};
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
    /// How connections are taken.
    pub mode: PeerMode,
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
    /// How connections to all other ports are taken, but for those after.
    pub elsewhere: PeerMode,
    /// Ports that only PeerAuthentications speak of.
    pub others: Vec<(u16, PeerMode)>,
    pub tls: Arc<InboundTls>,
    pub access: Arc<Access>,
    pub settings: HttpSettings,
}

impl VirtualInbound {
    /// The listener.
    pub fn build(&self) -> Listener {
        let common = Common { tls: &self.tls, access: &self.access, settings: &self.settings };
        let mut chains = vec![blackhole()];
        chains.extend(common.passing(None, self.elsewhere));
        for (port, mode) in &self.others {
            chains.extend(common.passing(Some(*port), *mode));
        }
        for port in &self.ports {
            chains.extend(common.of_port(port));
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

    fn listener_filters(&self, chains: &[FilterChain]) -> Vec<ListenerFilter> {
        let mut filters =
            vec![listener::listener_filter("envoy.filters.listener.original_dst", wire::any(&OriginalDst::default()))];
        if self.transparent {
            let config = OriginalSrc { mark: TPROXY_MARK, ..Default::default() };
            filters.push(listener::listener_filter("envoy.filters.listener.original_src", wire::any(&config)));
        }
        filters.extend(inspect::inspectors(chains));
        filters
    }
}

/// A port of the workload at which the proxy listens itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BoundInbound {
    pub port: InboundPort,
    pub tls: Arc<InboundTls>,
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
        let common = Common { tls: &self.tls, access: &self.access, settings: &self.settings };
        let chains = common.of_port(&self.port);
        Listener {
            name: self.name(),
            address: Some(wire::address(self.port.bind.unwrap_or(wire::ANY_V4), self.port.port)),
            listener_filters: inspect::inspectors(&chains).collect(),
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

/// Bytes to a cluster, for those who may.
fn bytes(cluster: &str, access: &Access, settings: &HttpSettings) -> Vec<Filter> {
    let mut filters = authorization::network_filters(access);
    filters.push(tcp::proxy(&TcpRoute::to(cluster), settings.access_log.as_deref()));
    filters
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
