//! How endpoints are chosen, in clusters and in routes.
//!
//! Source: Istio `core/cluster_traffic_policy.go`, `core/route/route.go` (ConsistentHashToHashPolicy).

use super::wire;
use crate::rules::{Balancing, HashBy, Policy, Warmup};
use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster,
    cluster::{
        LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig,
    },
};
use envoy_types::pb::envoy::config::core::v3::RuntimeDouble;
use envoy_types::pb::envoy::config::route::v3::RouteAction;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HashPolicy,
    hash_policy::{ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter},
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::RandomValueSpecifier;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt64Value;
use lateen_galley::istio::virtual_service::{Destination, HttpRoute, StickyWeights};

/// Sets the balancer of a cluster whose endpoints are not those its clients address.
pub fn apply(cluster: &mut Cluster, policy: &Policy) {
    let slow_start = policy.warmup.map(slow_start);
    let number = |value: u64| Some(UInt64Value { value });
    let (balancer, config) = match policy.balancing {
        Balancing::LeastRequest => {
            let config = |slow| LeastRequestLbConfig { slow_start_config: Some(slow), ..Default::default() };
            (LbPolicy::LeastRequest, slow_start.map(|slow| LbConfig::LeastRequestLbConfig(config(slow))))
        }
        Balancing::RoundRobin => {
            let config = |slow| RoundRobinLbConfig { slow_start_config: Some(slow) };
            (LbPolicy::RoundRobin, slow_start.map(|slow| LbConfig::RoundRobinLbConfig(config(slow))))
        }
        Balancing::Random => (LbPolicy::Random, None),
        Balancing::Passthrough => (LbPolicy::ClusterProvided, None),
        Balancing::RingHash { minimum } => {
            let config = |size| RingHashLbConfig { minimum_ring_size: number(size), ..Default::default() };
            (LbPolicy::RingHash, minimum.map(|size| LbConfig::RingHashLbConfig(config(size))))
        }
        Balancing::Maglev { size } => {
            let config = |size| MaglevLbConfig { table_size: number(size) };
            (LbPolicy::Maglev, size.map(|size| LbConfig::MaglevLbConfig(config(size))))
        }
    };
    cluster.lb_policy = balancer.into();
    cluster.lb_config = config;
}

fn slow_start(warmup: Warmup) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(wire::duration(warmup.duration)),
        aggression: warmup
            .curve
            // Envoy wants a key to look the value up by; no runtime has this one.
            .map(|curve| RuntimeDouble { default_value: curve.aggression(), runtime_key: "(".to_owned() }),
        min_weight_percent: warmup.curve.map(|curve| Percent { value: curve.minimum_percent() }),
    }
}

/// Adds what a route's requests are hashed by: for endpoints by what `hash` says of its destinations, and for weighted
/// destinations by the same, if they are sticky.
pub fn add_hash_policies(
    action: &mut RouteAction,
    http: &HttpRoute,
    sticky: Option<StickyWeights>,
    hash: &dyn Fn(Option<&Destination>) -> Option<HashBy>,
) {
    if let [only] = http.route.as_slice() {
        let hash = hash(only.destination.as_ref());
        action.hash_policy = hash.iter().map(hash_policy).collect();
        let asked = http.retries.as_ref().and_then(|retries| retries.retry_ignore_previous_hosts);
        if let Some(retry) = action.retry_policy.as_mut().filter(|_| hash.is_some() && asked != Some(true)) {
            // Another host is not the one the client belongs to.
            retry.retry_host_predicate.clear();
        }
        return;
    }
    let Some(ClusterSpecifier::WeightedClusters(clusters)) = &mut action.cluster_specifier else { return };
    // Destinations of the same rule would hash the same twice, and make the same cookie twice.
    let mut all: Vec<HashBy> = Vec::new();
    for by in http.route.iter().filter(|to| to.weight > 0).filter_map(|to| hash(to.destination.as_ref())) {
        if !all.contains(&by) {
            all.push(by);
        }
    }
    action.hash_policy = all.iter().map(hash_policy).collect();
    let by = match sticky {
        None => return,
        Some(StickyWeights::ConsistentHash) => None,
        Some(StickyWeights::Header(name)) => Some(HashBy::Header(name)),
        Some(StickyWeights::Cookie(name)) => {
            Some(HashBy::Cookie { name, path: String::new(), ttl: None, attributes: Vec::new() })
        }
        Some(StickyWeights::Query(name)) => Some(HashBy::Query(name)),
        Some(StickyWeights::SourceIp) => Some(HashBy::SourceIp(true)),
    };
    if let Some(by) = by {
        // Alone: together with another hash it would no longer tell the same clients apart.
        action.hash_policy.insert(0, HashPolicy { terminal: true, ..hash_policy(&by) });
    }
    if !action.hash_policy.is_empty() {
        clusters.random_value_specifier = Some(RandomValueSpecifier::UseHashPolicy(wire::truth(true)));
    }
}

/// What of a request a route hashes.
pub fn hash_policy(by: &HashBy) -> HashPolicy {
    let specifier = match by {
        HashBy::Header(name) => PolicySpecifier::Header(Header { header_name: name.clone(), regex_rewrite: None }),
        HashBy::Cookie { name, path, ttl, attributes } => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            path: path.clone(),
            ttl: ttl.map(wire::duration),
            attributes: attributes
                .iter()
                .map(|(name, value)| CookieAttribute { name: name.clone(), value: value.clone() })
                .collect(),
        }),
        HashBy::SourceIp(used) => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: *used }),
        HashBy::Query(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() }),
    };
    HashPolicy { policy_specifier: Some(specifier), terminal: false }
}
