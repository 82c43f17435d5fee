//! How a cluster chooses hosts: the policy in its old fields or as an extension, and what is common to all policies.
//!
//! - reject: balancing within subsets of hosts, bounded loads of hashing balancers, other biases of least request,
//!   because hosts would get other shares than meant
//! - note: zone awareness (without a local cluster Envoy does not weigh zones either)

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{self as pb, cluster as pb_cluster, load_balancing_policy};
use envoy_types::pb::envoy::config::core::v3::RuntimeDouble;
use envoy_types::pb::envoy::extensions::load_balancing_policies::common::v3::{
    self as common, LocalityLbConfig, locality_lb_config,
};
use envoy_types::pb::envoy::extensions::load_balancing_policies::{
    least_request::v3::LeastRequest, maglev::v3::Maglev, random::v3::Random, ring_hash::v3 as ring_hash,
    round_robin::v3::RoundRobin,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value, UInt64Value};
use lateen_traffic::cluster::{HashFunction, HashTable, Hashing, LbPolicy, SlowStart};

use super::address::{duration, percent, port, type_name, unpack};
use super::reject::{At as _, Notes, Reject, note_if_set, reject_if_set};

const DEFAULT_PANIC_THRESHOLD: f64 = 50.0;
const DEFAULT_MERGE_WINDOW: Duration = Duration::from_secs(1);
/// Envoy's limit on the places of a ring, and its default.
const LARGEST_RING: u64 = 8 * 1024 * 1024;
const DEFAULT_RING: u64 = 1024;
/// Envoy's limit on the places of a Maglev table.
const LARGEST_MAGLEV: u64 = 5_000_011;
const DEFAULT_MAGLEV: u64 = 65_537;

pub(super) struct Balancer {
    pub policy: LbPolicy,
    pub slow_start: Option<SlowStart>,
    pub locality_weighted: bool,
    pub original_dst: OriginalDst,
    pub panic_threshold: f64,
    pub update_merge_window: Duration,
    pub ignore_unchecked_hosts: bool,
}

#[derive(Default)]
pub(super) struct OriginalDst {
    pub use_http_header: bool,
    pub port_override: Option<u16>,
}

impl Balancer {
    fn new(policy: LbPolicy) -> Self {
        Self {
            policy,
            slow_start: None,
            locality_weighted: false,
            original_dst: OriginalDst::default(),
            panic_threshold: DEFAULT_PANIC_THRESHOLD,
            update_merge_window: DEFAULT_MERGE_WINDOW,
            ignore_unchecked_hosts: false,
        }
    }
}

/// The fields of a cluster that say how hosts are chosen.
pub(super) fn balancer(
    policy: i32,
    config: Option<pb_cluster::LbConfig>,
    extension: Option<pb::LoadBalancingPolicy>,
    common: Option<pb_cluster::CommonLbConfig>,
    notes: &mut Notes,
) -> Result<Balancer, Reject> {
    let mut balancer = match extension {
        Some(extension) => extension_policy(extension, notes).at("load_balancing_policy")?,
        None => old_policy(policy, config.as_ref())?,
    };
    if let Some(pb_cluster::LbConfig::OriginalDstLbConfig(config)) = config {
        balancer.original_dst = original_dst(config).at("original_dst_lb_config")?;
    }
    if let Some(common) = common {
        common_lb(common, &mut balancer, notes).at("common_lb_config")?;
    }
    Ok(balancer)
}

/// `lb_policy`, and the one of the configurations that belongs to it. The others say nothing, as in Envoy.
fn old_policy(policy: i32, config: Option<&pb_cluster::LbConfig>) -> Result<Balancer, Reject> {
    use pb_cluster::{LbConfig as Config, LbPolicy as Policy};
    let policy = Policy::try_from(policy).map_err(|_| Reject::field("lb_policy", "not known"))?;
    let mut balancer = Balancer::new(LbPolicy::RoundRobin);
    match (policy, config) {
        (Policy::RoundRobin, Some(Config::RoundRobinLbConfig(config))) => {
            let pb_cluster::RoundRobinLbConfig { slow_start_config } = config;
            balancer.slow_start = old_slow_start(slow_start_config.as_ref()).at("round_robin_lb_config")?;
        }
        (Policy::RoundRobin, _) => {}
        (Policy::LeastRequest, Some(Config::LeastRequestLbConfig(config))) => {
            let pb_cluster::LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } =
                config.clone();
            let slow_start = (|| {
                reject_if_set!(active_request_bias);
                old_slow_start(slow_start_config.as_ref())
            })();
            balancer.slow_start = slow_start.at("least_request_lb_config")?;
            balancer.policy = least_request(choice_count);
        }
        (Policy::LeastRequest, _) => balancer.policy = least_request(None),
        (Policy::Random, _) => balancer.policy = LbPolicy::Random,
        (Policy::RingHash, Some(Config::RingHashLbConfig(config))) => {
            use pb_cluster::ring_hash_lb_config::HashFunction as Function;
            let pb_cluster::RingHashLbConfig { minimum_ring_size, hash_function, maximum_ring_size } = *config;
            let function = match Function::try_from(hash_function) {
                Ok(Function::XxHash) => Ok(HashFunction::XxHash),
                Ok(Function::MurmurHash2) => Ok(HashFunction::Murmur2),
                Err(_) => Err(Reject::field("hash_function", "not known")),
            };
            let kind = function.and_then(|function| ring(minimum_ring_size, maximum_ring_size, function));
            balancer.policy = hashing(kind.at("ring_hash_lb_config")?);
        }
        (Policy::RingHash, _) => balancer.policy = hashing(ring(None, None, HashFunction::XxHash)?),
        (Policy::Maglev, Some(Config::MaglevLbConfig(config))) => {
            let pb_cluster::MaglevLbConfig { table_size } = *config;
            balancer.policy = hashing(maglev(table_size).at("maglev_lb_config")?);
        }
        (Policy::Maglev, _) => balancer.policy = hashing(maglev(None)?),
        (Policy::ClusterProvided, _) => balancer.policy = LbPolicy::ClusterProvided,
        (other @ Policy::LoadBalancingPolicyConfig, _) => {
            return Err(Reject::field("lb_policy", format_args!("{} without one", other.as_str_name())));
        }
    }
    Ok(balancer)
}

fn least_request(choice_count: Option<UInt32Value>) -> LbPolicy {
    LbPolicy::LeastRequest { choices: choice_count.map_or(2, |count| count.value.max(2)) }
}

fn hashing(kind: HashTable) -> LbPolicy {
    LbPolicy::Hash(Hashing { kind, by_hostname: false })
}

fn ring(
    minimum: Option<UInt64Value>,
    maximum: Option<UInt64Value>,
    function: HashFunction,
) -> Result<HashTable, Reject> {
    let minimum = minimum.map_or(DEFAULT_RING, |size| size.value);
    let maximum = maximum.map_or(LARGEST_RING, |size| size.value);
    if minimum > LARGEST_RING || maximum > LARGEST_RING {
        return Err(Reject::new(format_args!("a ring has {LARGEST_RING} places at most")));
    }
    if minimum > maximum {
        let reason = format_args!("minimum_ring_size ({minimum}) > maximum_ring_size ({maximum})");
        return Err(Reject::new(reason));
    }
    Ok(HashTable::Ring { minimum, maximum, function })
}

fn maglev(size: Option<UInt64Value>) -> Result<HashTable, Reject> {
    let size = size.map_or(DEFAULT_MAGLEV, |size| size.value);
    let prime = size > 1 && (2..).take_while(|n| n * n <= size).all(|n| !size.is_multiple_of(n));
    match u32::try_from(size) {
        Ok(size) if u64::from(size) <= LARGEST_MAGLEV && prime => Ok(HashTable::Maglev { size }),
        _ => Err(Reject::field("table_size", format_args!("{size} is no prime number up to {LARGEST_MAGLEV}"))),
    }
}

fn old_slow_start(config: Option<&pb_cluster::SlowStartConfig>) -> Result<Option<SlowStart>, Reject> {
    let Some(config) = config else { return Ok(None) };
    let pb_cluster::SlowStartConfig { slow_start_window, aggression, min_weight_percent } = config.clone();
    slow_start(slow_start_window, aggression, min_weight_percent).map(Some).at("slow_start_config")
}

fn new_slow_start(config: Option<common::SlowStartConfig>) -> Result<Option<SlowStart>, Reject> {
    let Some(config) = config else { return Ok(None) };
    let common::SlowStartConfig { slow_start_window, aggression, min_weight_percent } = config;
    slow_start(slow_start_window, aggression, min_weight_percent).map(Some).at("slow_start_config")
}

fn slow_start(
    window: Option<ProtoDuration>,
    aggression: Option<RuntimeDouble>,
    least: Option<Percent>,
) -> Result<SlowStart, Reject> {
    let window = window.map(|window| duration("slow_start_window", window)).transpose()?;
    // There is no runtime to take another value from.
    let aggression = aggression.map_or(1.0, |RuntimeDouble { default_value, runtime_key: _ }| default_value);
    if aggression <= 0.0 || !aggression.is_finite() {
        return Err(Reject::field("aggression", "must be above 0"));
    }
    let least = least.map_or(Ok(10.0), |least| percent("min_weight_percent", least))?;
    Ok(SlowStart { window: window.unwrap_or(Duration::ZERO), aggression, least: least / 100.0 })
}

fn original_dst(config: pb_cluster::OriginalDstLbConfig) -> Result<OriginalDst, Reject> {
    let pb_cluster::OriginalDstLbConfig { use_http_header, http_header_name, upstream_port_override, metadata_key } =
        config;
    reject_if_set!(metadata_key);
    if !http_header_name.is_empty() && !http_header_name.eq_ignore_ascii_case("x-envoy-original-dst-host") {
        return Err(Reject::field("http_header_name", "only x-envoy-original-dst-host is supported"));
    }
    let port_override = upstream_port_override.map(|value| port("upstream_port_override", value.value)).transpose()?;
    Ok(OriginalDst { use_http_header, port_override })
}

/// The first policy of the list that is known, as Envoy picks it.
fn extension_policy(list: pb::LoadBalancingPolicy, notes: &mut Notes) -> Result<Balancer, Reject> {
    let pb::LoadBalancingPolicy { policies } = list;
    for load_balancing_policy::Policy { typed_extension_config } in policies {
        let Some(any) = typed_extension_config.and_then(|config| config.typed_config) else { continue };
        if let Some(policy) = unpack::<RoundRobin>(&any)? {
            let RoundRobin { slow_start_config, locality_lb_config } = policy;
            return Ok(Balancer {
                slow_start: new_slow_start(slow_start_config)?,
                locality_weighted: weighs_localities(locality_lb_config, notes),
                ..Balancer::new(LbPolicy::RoundRobin)
            });
        }
        if let Some(policy) = unpack::<LeastRequest>(&any)? {
            let LeastRequest {
                choice_count,
                active_request_bias,
                slow_start_config,
                locality_lb_config,
                enable_full_scan,
                selection_method,
            } = policy;
            reject_if_set!(active_request_bias, selection_method);
            note_if_set!(notes, "LeastRequest": enable_full_scan);
            return Ok(Balancer {
                slow_start: new_slow_start(slow_start_config)?,
                locality_weighted: weighs_localities(locality_lb_config, notes),
                ..Balancer::new(least_request(choice_count))
            });
        }
        if let Some(policy) = unpack::<Random>(&any)? {
            let Random { locality_lb_config } = policy;
            let locality_weighted = weighs_localities(locality_lb_config, notes);
            return Ok(Balancer { locality_weighted, ..Balancer::new(LbPolicy::Random) });
        }
        if let Some(policy) = unpack::<ring_hash::RingHash>(&any)? {
            return ring_hash(policy);
        }
        if let Some(policy) = unpack::<Maglev>(&any)? {
            let Maglev { table_size, consistent_hashing_lb_config, locality_weighted_lb_config } = policy;
            let by_hostname = consistent_hashing(consistent_hashing_lb_config)?;
            let hashing = Hashing { kind: maglev(table_size)?, by_hostname };
            let locality_weighted = locality_weighted_lb_config.is_some();
            return Ok(Balancer { locality_weighted, ..Balancer::new(LbPolicy::Hash(hashing)) });
        }
        if type_name(&any.type_url) == "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided" {
            return Ok(Balancer::new(LbPolicy::ClusterProvided));
        }
    }
    Err(Reject::field("policies", "none of them is supported yet"))
}

fn ring_hash(policy: ring_hash::RingHash) -> Result<Balancer, Reject> {
    use ring_hash::ring_hash::HashFunction as Function;
    let ring_hash::RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = policy;
    reject_if_set!(hash_balance_factor);
    let function = match Function::try_from(hash_function) {
        Ok(Function::DefaultHash | Function::XxHash) => HashFunction::XxHash,
        Ok(Function::MurmurHash2) => HashFunction::Murmur2,
        Err(_) => return Err(Reject::field("hash_function", "not known")),
    };
    let by_hostname = consistent_hashing(consistent_hashing_lb_config)? || use_hostname_for_hashing;
    let hashing = Hashing { kind: ring(minimum_ring_size, maximum_ring_size, function)?, by_hostname };
    let locality_weighted = locality_weighted_lb_config.is_some();
    Ok(Balancer { locality_weighted, ..Balancer::new(LbPolicy::Hash(hashing)) })
}

fn consistent_hashing(config: Option<common::ConsistentHashingLbConfig>) -> Result<bool, Reject> {
    let Some(config) = config else { return Ok(false) };
    let common::ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor, hash_policy } = config;
    (|| {
        reject_if_set!(hash_balance_factor, hash_policy);
        Ok(use_hostname_for_hashing)
    })()
    .at("consistent_hashing_lb_config")
}

fn weighs_localities(config: Option<LocalityLbConfig>, notes: &mut Notes) -> bool {
    use locality_lb_config::LocalityConfigSpecifier as Specifier;
    match config.and_then(|config| config.locality_config_specifier) {
        Some(Specifier::LocalityWeightedLbConfig(locality_lb_config::LocalityWeightedLbConfig {})) => true,
        Some(Specifier::ZoneAwareLbConfig(_)) => {
            notes.add("LocalityLbConfig.zone_aware_lb_config");
            false
        }
        None => false,
    }
}

fn common_lb(config: pb_cluster::CommonLbConfig, lb: &mut Balancer, notes: &mut Notes) -> Result<(), Reject> {
    use pb_cluster::common_lb_config::{
        ConsistentHashingLbConfig, LocalityConfigSpecifier as Specifier, LocalityWeightedLbConfig,
    };
    let pb_cluster::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = config;
    reject_if_set!(close_connections_on_host_set_change);
    note_if_set!(notes, "CommonLbConfig": override_host_status);
    lb.ignore_unchecked_hosts = ignore_new_hosts_until_first_hc;
    if let Some(config) = consistent_hashing_lb_config {
        let ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor } = config;
        if hash_balance_factor.is_some() {
            return Err(Reject::field("consistent_hashing_lb_config.hash_balance_factor", "not supported yet"));
        }
        if let LbPolicy::Hash(hashing) = &mut lb.policy {
            hashing.by_hostname |= use_hostname_for_hashing;
        }
    }
    match locality_config_specifier {
        Some(Specifier::ZoneAwareLbConfig(_)) => notes.add("CommonLbConfig.zone_aware_lb_config"),
        Some(Specifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) => lb.locality_weighted = true,
        None => {}
    }
    if let Some(window) = update_merge_window {
        lb.update_merge_window = duration("update_merge_window", window)?;
    }
    if let Some(threshold) = healthy_panic_threshold {
        lb.panic_threshold = percent("healthy_panic_threshold", threshold)?;
    }
    Ok(())
}
