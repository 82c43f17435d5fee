//! The dynamic forward proxy, for services whose hosts are those that requests name.
//!
//! All parts of a proxy share one cache of addresses: a filter of a port that several such services have would else look
//! a host up once for each. Source: Istio `core/cluster_builder.go` (buildDFPCluster), `core/networkfilter.go`
//! (buildSNIDFPFilter), which have a cache for each service.

use super::wire;
use crate::node::Families;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, CustomClusterType, DnsLookupFamily};
use envoy_types::pb::envoy::config::listener::v3::{Filter, filter::ConfigType};
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    FilterConfig, filter_config::ImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::{
    FilterConfig as SniConfig, filter_config::PortSpecifier,
};
use envoy_types::pb::google::protobuf::Any;

/// Name of the HTTP filter.
pub const HTTP_FILTER: &str = "envoy.filters.http.dynamic_forward_proxy";

/// Which addresses of names are used.
pub fn lookup_family(families: Families) -> DnsLookupFamily {
    match families {
        Families::V4 => DnsLookupFamily::V4Only,
        Families::V6 => DnsLookupFamily::V6Only,
        Families::Dual => DnsLookupFamily::All,
    }
}

/// Envoy takes one name for one configuration only.
fn cache(families: Families) -> DnsCacheConfig {
    DnsCacheConfig {
        name: "dynamic_dns".to_owned(),
        dns_lookup_family: lookup_family(families).into(),
        ..Default::default()
    }
}

/// The type of a cluster. `unverified`: no TLS whose server's name is verified is spoken to the hosts.
pub fn cluster_type(families: Families, unverified: bool) -> ClusterDiscoveryType {
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(cache(families))),
        allow_insecure_cluster_options: unverified,
        ..Default::default()
    };
    ClusterDiscoveryType::ClusterType(CustomClusterType {
        name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
        typed_config: Some(wire::any(&config)),
    })
}

/// The configuration of the HTTP filter.
pub fn http_filter(families: Families) -> Any {
    wire::any(&FilterConfig {
        implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(cache(families))),
        ..Default::default()
    })
}

/// The filter that has the server name of a TLS client looked up, in front of the proxy to it.
pub fn sni_filter(port: u16, families: Families) -> Filter {
    let config = SniConfig {
        dns_cache_config: Some(cache(families)),
        port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
        ..Default::default()
    };
    Filter {
        name: "envoy.filters.network.sni_dynamic_forward_proxy".to_owned(),
        config_type: Some(ConfigType::TypedConfig(wire::any(&config))),
    }
}
