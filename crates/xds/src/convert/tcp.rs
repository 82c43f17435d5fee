//! The TCP proxy filter.
//!
//! - reject: tunnels to names made of the connection's facts, on-demand clusters, PROXY protocol, other ways to connect
//! - note: tuning of logs and back-off, metadata matches (clusters with subsets are refused themselves)

use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{self as pb, tcp_proxy};
use lateen_traffic::route::WeightedCluster;
use lateen_traffic::tcp::{TcpProxy, TcpTarget, Tunnel};

use super::access_log::access_logs;
use super::address::{duration, timeout};
use super::hash_policy::hashes_source_ip;
use super::matcher::edits;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) fn tcp_proxy(proxy: pb::TcpProxy, notes: &mut Notes) -> Result<TcpProxy, Reject> {
    let pb::TcpProxy {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = proxy;
    reject_if_set!(
        on_demand,
        downstream_idle_timeout,
        upstream_idle_timeout,
        proxy_protocol_tlvs,
        upstream_connect_mode,
        max_early_data_bytes,
    );
    note_if_set!(notes, "TcpProxy":
        metadata_match, backoff_options, max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval, flush_access_log_on_connected, access_log_options,
        proxy_protocol_tlv_merge_policy, check_drain_close);
    if stat_prefix.is_empty() {
        return Err(Reject::field("stat_prefix", "empty"));
    }
    let target = match cluster_specifier {
        Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => TcpTarget::Cluster(name.into()),
        Some(tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster { clusters })) => {
            TcpTarget::Weighted(weighted(clusters, notes)?)
        }
        None => return Err(Reject::field("cluster", "missing")),
    };
    let max_connect_attempts = max_connect_attempts.map_or(1, |attempts| attempts.value);
    if max_connect_attempts == 0 {
        return Err(Reject::field("max_connect_attempts", "must be at least 1"));
    }
    Ok(TcpProxy {
        stat_prefix: stat_prefix.into(),
        target,
        idle_timeout: timeout("idle_timeout", idle_timeout)?.unwrap_or(Some(DEFAULT_IDLE_TIMEOUT)),
        max_connect_attempts,
        max_downstream_connection_duration: max_downstream_connection_duration
            .map(|value| duration("max_downstream_connection_duration", value))
            .transpose()?,
        hash_source_ip: hashes_source_ip(hash_policy)?,
        access_log: access_logs("access_log", access_log, notes)?,
        named_port: None,
        tunnel: tunneling_config.map(|config| tunnel(config, notes).at("tunneling_config")).transpose()?,
    })
}

fn tunnel(config: tcp_proxy::TunnelingConfig, notes: &mut Notes) -> Result<Tunnel, Reject> {
    let tcp_proxy::TunnelingConfig {
        hostname,
        use_post,
        headers_to_add,
        propagate_response_headers,
        post_path,
        propagate_response_trailers,
        request_id_extension,
        request_id_header,
        request_id_metadata_key,
        formatters,
    } = config;
    reject_if_set!(request_id_extension, formatters);
    note_if_set!(notes, "TcpProxy.TunnelingConfig":
        propagate_response_headers, propagate_response_trailers, request_id_header, request_id_metadata_key);
    if hostname.is_empty() {
        return Err(Reject::field("hostname", "empty"));
    }
    if hostname.contains('%') {
        return Err(Reject::field("hostname", "made of the connection's facts: not supported yet"));
    }
    if !post_path.is_empty() && (!use_post || !post_path.starts_with('/')) {
        return Err(Reject::field("post_path", "must begin with / and needs use_post"));
    }
    let path = if post_path.is_empty() { "/".into() } else { post_path.into() };
    let headers = edits(("headers_to_add", headers_to_add), ("", Vec::new()))?;
    Ok(Tunnel { hostname: hostname.into(), post: use_post, path, headers })
}

fn weighted(
    clusters: Vec<tcp_proxy::weighted_cluster::ClusterWeight>,
    notes: &mut Notes,
) -> Result<Vec<WeightedCluster>, Reject> {
    if clusters.is_empty() {
        return Err(Reject::field("weighted_clusters.clusters", "empty"));
    }
    each("weighted_clusters.clusters", clusters, |cluster| {
        let tcp_proxy::weighted_cluster::ClusterWeight { name, weight, metadata_match } = cluster;
        note_if_set!(notes, "TcpProxy.ClusterWeight": metadata_match);
        if weight == 0 {
            return Err(Reject::field("weight", "must be at least 1"));
        }
        Ok(WeightedCluster { name: name.into(), weight, ..WeightedCluster::default() })
    })
}
