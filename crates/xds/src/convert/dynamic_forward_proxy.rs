//! The dynamic forward proxy: a cluster whose hosts are those that requests name, and the filters in front of it.
//!
//! - reject: sub-clusters, lookups by other ways than the system's, names resolved in advance
//! - note: the HTTP filter itself, as the cluster looks up what no filter has (so does Envoy's since 1.35); the rate at
//!   which failed lookups are repeated

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    self as cluster_pb, cluster_config::ClusterImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::{self as pb, DnsCacheCircuitBreakers};
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    self as http_pb, filter_config::ImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::{
    self as sni_pb, filter_config::PortSpecifier,
};
use lateen_traffic::cluster::{Discovery, NameCache};

use super::address::{duration, port};
use super::cluster::dns_family;
use super::reject::{At as _, Notes, Reject, note_if_set, reject_if_set};

const DEFAULT_REFRESH: Duration = Duration::from_secs(60);
const DEFAULT_TTL: Duration = Duration::from_secs(300);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_MAX_HOSTS: u32 = 1024;
const DEFAULT_MAX_PENDING: u32 = 1024;

/// Converts the configuration of a cluster.
pub(super) fn cluster(config: cluster_pb::ClusterConfig, notes: &mut Notes) -> Result<Discovery, Reject> {
    let cluster_pb::ClusterConfig {
        allow_insecure_cluster_options: _,
        allow_coalesced_connections,
        cluster_implementation_specifier,
    } = config;
    reject_if_set!(allow_coalesced_connections);
    match cluster_implementation_specifier {
        Some(ClusterImplementationSpecifier::DnsCacheConfig(cache)) => {
            Ok(Discovery::Named(Arc::new(name_cache(cache, notes).at("dns_cache_config")?)))
        }
        Some(ClusterImplementationSpecifier::SubClustersConfig(_)) => {
            Err(Reject::field("sub_clusters_config", "not supported yet"))
        }
        None => Err(Reject::field("dns_cache_config", "missing")),
    }
}

/// Checks the configuration of the HTTP filter.
pub(super) fn http_filter(config: http_pb::FilterConfig, notes: &mut Notes) -> Result<(), Reject> {
    let http_pb::FilterConfig { save_upstream_address, allow_dynamic_host_from_filter_state, implementation_specifier } =
        config;
    reject_if_set!(allow_dynamic_host_from_filter_state);
    note_if_set!(notes, "DynamicForwardProxy": save_upstream_address);
    match implementation_specifier {
        Some(ImplementationSpecifier::DnsCacheConfig(cache)) => {
            name_cache(cache, notes).map(drop).at("dns_cache_config")
        }
        Some(ImplementationSpecifier::SubClusterConfig(_)) => {
            Err(Reject::field("sub_cluster_config", "not supported yet"))
        }
        None => Err(Reject::field("dns_cache_config", "missing")),
    }
}

/// The port to which the network filter sends clients' server names.
pub(super) fn sni_filter(config: sni_pb::FilterConfig, notes: &mut Notes) -> Result<u16, Reject> {
    let sni_pb::FilterConfig { dns_cache_config, save_upstream_address, port_specifier } = config;
    note_if_set!(notes, "SniDynamicForwardProxy": save_upstream_address);
    let cache = dns_cache_config.ok_or_else(|| Reject::field("dns_cache_config", "missing"))?;
    name_cache(cache, notes).at("dns_cache_config")?;
    match port_specifier {
        Some(PortSpecifier::PortValue(number)) => port("port_value", number),
        None => Ok(443),
    }
}

fn name_cache(config: pb::DnsCacheConfig, notes: &mut Notes) -> Result<NameCache, Reject> {
    let pb::DnsCacheConfig {
        name,
        dns_lookup_family,
        dns_refresh_rate,
        // Answers tell no time here: the rate above it is what counts.
        dns_min_refresh_rate,
        host_ttl,
        max_hosts,
        disable_dns_refresh_on_failure,
        dns_failure_refresh_rate,
        dns_cache_circuit_breaker,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        preresolve_hostnames,
        dns_query_timeout,
        key_value_config,
        resolved_address_filter,
    } = config;
    reject_if_set!(
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        preresolve_hostnames,
        key_value_config,
        resolved_address_filter,
    );
    note_if_set!(notes, "DnsCacheConfig":
        dns_min_refresh_rate, disable_dns_refresh_on_failure, dns_failure_refresh_rate, typed_dns_resolver_config);
    if name.is_empty() {
        return Err(Reject::field("name", "empty"));
    }
    let length = |field: &str, value: Option<_>, default| -> Result<Duration, Reject> {
        Ok(value.map(|value| duration(field, value)).transpose()?.unwrap_or(default))
    };
    let max_pending = match dns_cache_circuit_breaker {
        Some(DnsCacheCircuitBreakers { max_pending_requests }) => max_pending_requests.map(|most| most.value),
        None => None,
    };
    let max_hosts = max_hosts.map_or(DEFAULT_MAX_HOSTS, |most| most.value);
    if max_hosts == 0 {
        return Err(Reject::field("max_hosts", "must be at least 1"));
    }
    let timeout = length("dns_query_timeout", dns_query_timeout, DEFAULT_TIMEOUT)?;
    Ok(NameCache {
        name: name.into(),
        family: dns_family(dns_lookup_family)?,
        refresh: length("dns_refresh_rate", dns_refresh_rate, DEFAULT_REFRESH)?.max(Duration::from_millis(1)),
        keep: length("host_ttl", host_ttl, DEFAULT_TTL)?,
        // Envoy leaves the limit to its resolver then.
        timeout: if timeout.is_zero() { DEFAULT_TIMEOUT } else { timeout },
        max_hosts,
        max_pending: max_pending.unwrap_or(DEFAULT_MAX_PENDING),
    })
}
