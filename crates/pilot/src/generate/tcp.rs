//! The TCP proxy of every chain that forwards bytes.
//!
//! Source: Istio `core/networkfilter.go`.

use super::{access_log, named_hosts, wire};
use crate::config::LogFile;
use crate::node::Families;
use envoy_types::pb::envoy::config::listener::v3::{Filter, filter::ConfigType};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy,
    tcp_proxy::{ClusterSpecifier, TunnelingConfig, WeightedCluster, weighted_cluster::ClusterWeight},
};
use envoy_types::pb::envoy::r#type::v3::{HashPolicy, hash_policy};
use std::time::Duration;

/// Where a chain's bytes go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpRoute {
    pub stat_prefix: String,
    /// Clusters and their relative weights; at least one. A single one is used whatever its weight.
    pub clusters: Vec<(String, u32)>,
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    /// Picks the endpoint by the client's address, in clusters that hash.
    pub hash_source_address: bool,
    /// The client's server name is where to, at this port.
    pub named: Option<(u16, Families)>,
    /// Clusters are of HTTP proxies, and asked for a way on.
    pub tunnel: Option<Tunnel>,
}

/// What an HTTP proxy is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// Host and port.
    pub hostname: String,
    pub post: bool,
}

impl TcpRoute {
    /// Everything to one cluster, counted under its name.
    pub fn to(cluster: &str) -> TcpRoute {
        TcpRoute {
            stat_prefix: cluster.to_owned(),
            clusters: vec![(cluster.to_owned(), 0)],
            idle_timeout: None,
            max_connection_duration: None,
            hash_source_address: false,
            named: None,
            tunnel: None,
        }
    }
}

/// The filters that carry out `route`, with its log written to `log`.
pub fn filters(route: &TcpRoute, log: Option<&LogFile>) -> Vec<Filter> {
    let named = route.named.map(|(port, families)| named_hosts::sni_filter(port, families));
    named.into_iter().chain([proxy(route, log)]).collect()
}

/// The filter that forwards bytes by `route`, with its log written to `log`.
pub fn proxy(route: &TcpRoute, log: Option<&LogFile>) -> Filter {
    let cluster = match route.clusters.as_slice() {
        [(cluster, _)] => ClusterSpecifier::Cluster(cluster.clone()),
        clusters => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: clusters
                .iter()
                .map(|(name, weight)| ClusterWeight { name: name.clone(), weight: *weight, ..Default::default() })
                .collect(),
        }),
    };
    let source_ip =
        HashPolicy { policy_specifier: Some(hash_policy::PolicySpecifier::SourceIp(hash_policy::SourceIp::default())) };
    let proxy = TcpProxy {
        stat_prefix: route.stat_prefix.clone(),
        cluster_specifier: Some(cluster),
        idle_timeout: route.idle_timeout.map(wire::duration),
        max_downstream_connection_duration: route.max_connection_duration.map(wire::duration),
        access_log: access_log::full(log),
        tunneling_config: route.tunnel.as_ref().map(|tunnel| TunnelingConfig {
            hostname: tunnel.hostname.clone(),
            use_post: tunnel.post,
            ..Default::default()
        }),
        hash_policy: if route.hash_source_address { vec![source_ip] } else { Vec::new() },
        ..Default::default()
    };
    Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(ConfigType::TypedConfig(wire::any(&proxy))),
    }
}
