//! Small worlds of clusters, endpoints, listeners and routes that refer to each other.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, SocketAddress, address, config_source::ConfigSourceSpecifier,
    socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::google::protobuf::{Any, Duration};
use prost::{Message, Name};

use crate::{Resource, ResourceSet, ResourceType};

pub const CLUSTERS: u8 = 5;
pub const ROUTES: u8 = 3;
pub const LISTENERS: u8 = 3;
/// A cluster in this variant is refused.
pub const BAD: u8 = 9;

/// Which listeners there are and what they lead to; the clusters are those referred to, and `extra` ones.
#[derive(Clone, Debug)]
pub struct World {
    pub listeners: Vec<Option<Target>>,
    /// The cluster of each route configuration.
    pub routes: Vec<u8>,
    /// Changes the content of each cluster.
    pub clusters: Vec<u8>,
    /// Changes the content of each cluster's endpoints.
    pub endpoints: Vec<u8>,
    pub extra: BTreeSet<u8>,
}

#[derive(Clone, Copy, Debug)]
pub enum Target {
    Routes(u8),
    Cluster(u8),
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn ads() -> ConfigSource {
    let config_source_specifier = Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {}));
    ConfigSource { config_source_specifier, ..Default::default() }
}

pub fn socket(ip: &str, port: u16) -> Address {
    let address = SocketAddress {
        address: ip.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    Address { address: Some(address::Address::SocketAddress(address)) }
}

pub fn cluster_name(id: u8) -> String {
    format!("outbound|80||c{id}.default.svc.cluster.local")
}

/// Even clusters ask EDS, odd ones are static.
pub fn cluster(id: u8, variant: u8) -> Cluster {
    let eds = id.is_multiple_of(2);
    let kind = if eds { cluster::DiscoveryType::Eds } else { cluster::DiscoveryType::Static };
    Cluster {
        name: cluster_name(id),
        connect_timeout: Some(Duration { seconds: if variant == BAD { 0 } else { 1 + i64::from(variant) }, nanos: 0 }),
        eds_cluster_config: eds.then(|| cluster::EdsClusterConfig { eds_config: Some(ads()), ..Default::default() }),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(kind as i32)),
        ..Default::default()
    }
}

pub fn endpoints(id: u8, variant: u8) -> ClusterLoadAssignment {
    let endpoint = Endpoint { address: Some(socket("10.0.0.1", 1000 + u16::from(variant))), ..Default::default() };
    let endpoint = LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() };
    ClusterLoadAssignment {
        cluster_name: cluster_name(id),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    }
}

pub fn routes(id: u8, cluster: u8) -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster_name(cluster))),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(route::Action::Route(action)),
        ..Default::default()
    };
    let host = VirtualHost { name: "all".into(), domains: vec!["*".into()], routes: vec![route], ..Default::default() };
    RouteConfiguration { name: format!("r{id}"), virtual_hosts: vec![host], ..Default::default() }
}

pub fn listener(id: u8, target: Target) -> Listener {
    let filter = match target {
        Target::Cluster(cluster) => any(&TcpProxy {
            stat_prefix: "tcp".into(),
            cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster_name(cluster))),
            ..Default::default()
        }),
        Target::Routes(routes) => any(&HttpConnectionManager {
            stat_prefix: "http".into(),
            route_specifier: Some(RouteSpecifier::Rds(Rds {
                config_source: Some(ads()),
                route_config_name: format!("r{routes}"),
            })),
            http_filters: vec![HttpFilter {
                name: "envoy.filters.http.router".into(),
                config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
                ..Default::default()
            }],
            ..Default::default()
        }),
    };
    let filter = Filter { name: "f".into(), config_type: Some(filter::ConfigType::TypedConfig(filter)) };
    Listener {
        name: format!("l{id}"),
        address: Some(socket("0.0.0.0", 8000 + u16::from(id))),
        filter_chains: vec![FilterChain { filters: vec![filter], ..Default::default() }],
        ..Default::default()
    }
}

impl World {
    pub fn live_listeners(&self) -> impl Iterator<Item = (u8, Target)> {
        (0..LISTENERS).filter_map(|id| Some((id, self.listeners[usize::from(id)]?)))
    }

    pub fn live_routes(&self) -> BTreeSet<u8> {
        let routes = self.live_listeners().filter_map(|(_, target)| match target {
            Target::Routes(id) => Some(id),
            Target::Cluster(_) => None,
        });
        routes.collect()
    }

    pub fn live_clusters(&self) -> BTreeSet<u8> {
        let direct = self.live_listeners().filter_map(|(_, target)| match target {
            Target::Cluster(id) => Some(id),
            Target::Routes(_) => None,
        });
        let routed = self.live_routes().into_iter().map(|id| self.routes[usize::from(id)]);
        direct.chain(routed).chain(self.extra.iter().copied()).collect()
    }

    pub fn set(&self, version: usize) -> ResourceSet {
        let clusters = self.live_clusters();
        let variant = |of: &[u8], id: u8| of[usize::from(id)];
        ResourceSet::new(version.to_string())
            .with(
                ResourceType::Cluster,
                clusters.iter().map(|id| {
                    let message = cluster(*id, variant(&self.clusters, *id));
                    Resource::new(message.name.clone(), &message)
                }),
            )
            .with(
                ResourceType::Endpoint,
                clusters.iter().filter(|id| id.is_multiple_of(2)).map(|id| {
                    let message = endpoints(*id, variant(&self.endpoints, *id));
                    Resource::new(message.cluster_name.clone(), &message)
                }),
            )
            .with(
                ResourceType::Listener,
                self.live_listeners().map(|(id, target)| {
                    let message = listener(id, target);
                    Resource::new(message.name.clone(), &message)
                }),
            )
            .with(
                ResourceType::Route,
                self.live_routes().into_iter().map(|id| {
                    let message = routes(id, self.routes[usize::from(id)]);
                    Resource::new(message.name.clone(), &message)
                }),
            )
    }
}
