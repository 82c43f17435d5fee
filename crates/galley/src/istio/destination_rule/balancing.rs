//! Choosing an endpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::istio::{Duration, only_one};

/// Which endpoint gets the next request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "LoadBalancerFields", into = "LoadBalancerFields")]
pub struct LoadBalancerSettings {
    /// Absent: least request.
    pub policy: Option<LbPolicy>,
    /// Overrides the mesh's locality settings.
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// Prefer the client's own zone.
    pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
    /// Deprecated form of `warmup.duration`.
    pub warmup_duration_secs: Option<Duration>,
    /// New endpoints get their share little by little.
    pub warmup: Option<WarmupConfiguration>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum LbPolicy {
    /// Without regard to the request.
    Simple(SimpleLb),
    /// Requests with the same key go to the same endpoint.
    ConsistentHash(ConsistentHashLb),
}

/// Choices that disregard the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// Istio's default, least request.
    #[default]
    Unspecified,
    /// Deprecated name of `LeastRequest`.
    LeastConn,
    /// Any one.
    Random,
    /// The address the client addressed.
    Passthrough,
    /// In turn.
    RoundRobin,
    /// The one with fewer requests of two chosen at random.
    LeastRequest,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename = "LoadBalancerSettings", rename_all = "camelCase")]
struct LoadBalancerFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    simple: Option<SimpleLb>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consistent_hash: Option<ConsistentHashLb>,
    locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
    warmup_duration_secs: Option<Duration>,
    warmup: Option<WarmupConfiguration>,
}

impl TryFrom<LoadBalancerFields> for LoadBalancerSettings {
    type Error = String;

    fn try_from(fields: LoadBalancerFields) -> Result<Self, String> {
        let LoadBalancerFields {
            simple,
            consistent_hash,
            locality_lb_setting,
            zone_aware_lb_setting,
            warmup_duration_secs,
            warmup,
        } = fields;
        only_one(&[("simple", simple.is_some()), ("consistentHash", consistent_hash.is_some())])?;
        let policy = simple.map(LbPolicy::Simple).or(consistent_hash.map(LbPolicy::ConsistentHash));
        Ok(Self { policy, locality_lb_setting, zone_aware_lb_setting, warmup_duration_secs, warmup })
    }
}

impl From<LoadBalancerSettings> for LoadBalancerFields {
    fn from(value: LoadBalancerSettings) -> Self {
        let LoadBalancerSettings { policy, locality_lb_setting, zone_aware_lb_setting, warmup_duration_secs, warmup } =
            value;
        let (simple, consistent_hash) = match policy {
            None => (None, None),
            Some(LbPolicy::Simple(simple)) => (Some(simple), None),
            Some(LbPolicy::ConsistentHash(hash)) => (None, Some(hash)),
        };
        Self { simple, consistent_hash, locality_lb_setting, zone_aware_lb_setting, warmup_duration_secs, warmup }
    }
}

/// Requests with the same key go to the same endpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "ConsistentHashFields", into = "ConsistentHashFields")]
pub struct ConsistentHashLb {
    /// What is hashed. Required.
    pub key: Option<HashKey>,
    /// How endpoints are spread over the hash. Absent: a ring.
    pub algorithm: Option<HashAlgorithm>,
    /// Deprecated form of `ring_hash.minimum_ring_size`.
    pub minimum_ring_size: u64,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq)]
pub enum HashKey {
    /// A header's value.
    HttpHeaderName(String),
    /// A cookie, made if it is missing and has a lifetime.
    HttpCookie(HttpCookie),
    /// The client's address.
    UseSourceIp(bool),
    /// A query parameter's value.
    HttpQueryParameterName(String),
}

/// How endpoints are spread over the hash.
#[derive(Debug, Clone, PartialEq)]
pub enum HashAlgorithm {
    /// A ring.
    RingHash(RingHash),
    /// Maglev's table.
    Maglev(Maglev),
}

/// A ring of hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RingHash {
    /// 0 is 1024.
    pub minimum_ring_size: u64,
}

/// Maglev's table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Maglev {
    /// A prime; 0 is 65537.
    pub table_size: u64,
}

/// A cookie as hash key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpCookie {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: String,
    /// Its lifetime; `0s` lasts a session; absent: never made.
    pub ttl: Option<Duration>,
    /// Attributes of a cookie made.
    pub attributes: Vec<HttpCookieAttribute>,
}

/// An attribute of a cookie.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpCookieAttribute {
    /// Its name.
    pub name: String,
    /// Its value; may be empty.
    pub value: String,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename = "ConsistentHashLB", rename_all = "camelCase")]
struct ConsistentHashFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    http_header_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_cookie: Option<HttpCookie>,
    #[serde(skip_serializing_if = "Option::is_none")]
    use_source_ip: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_query_parameter_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring_hash: Option<RingHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maglev: Option<Maglev>,
    minimum_ring_size: u64,
}

impl TryFrom<ConsistentHashFields> for ConsistentHashLb {
    type Error = String;

    fn try_from(fields: ConsistentHashFields) -> Result<Self, String> {
        let ConsistentHashFields {
            http_header_name,
            http_cookie,
            use_source_ip,
            http_query_parameter_name,
            ring_hash,
            maglev,
            minimum_ring_size,
        } = fields;
        only_one(&[
            ("httpHeaderName", http_header_name.is_some()),
            ("httpCookie", http_cookie.is_some()),
            ("useSourceIp", use_source_ip.is_some()),
            ("httpQueryParameterName", http_query_parameter_name.is_some()),
        ])?;
        only_one(&[("ringHash", ring_hash.is_some()), ("maglev", maglev.is_some())])?;
        let key = http_header_name
            .map(HashKey::HttpHeaderName)
            .or(http_cookie.map(HashKey::HttpCookie))
            .or(use_source_ip.map(HashKey::UseSourceIp))
            .or(http_query_parameter_name.map(HashKey::HttpQueryParameterName));
        let algorithm = ring_hash.map(HashAlgorithm::RingHash).or(maglev.map(HashAlgorithm::Maglev));
        Ok(Self { key, algorithm, minimum_ring_size })
    }
}

impl From<ConsistentHashLb> for ConsistentHashFields {
    fn from(ConsistentHashLb { key, algorithm, minimum_ring_size }: ConsistentHashLb) -> Self {
        let mut fields = Self { minimum_ring_size, ..Self::default() };
        match key {
            None => {}
            Some(HashKey::HttpHeaderName(name)) => fields.http_header_name = Some(name),
            Some(HashKey::HttpCookie(cookie)) => fields.http_cookie = Some(cookie),
            Some(HashKey::UseSourceIp(used)) => fields.use_source_ip = Some(used),
            Some(HashKey::HttpQueryParameterName(name)) => fields.http_query_parameter_name = Some(name),
        }
        match algorithm {
            None => {}
            Some(HashAlgorithm::RingHash(ring)) => fields.ring_hash = Some(ring),
            Some(HashAlgorithm::Maglev(table)) => fields.maglev = Some(table),
        }
        fields
    }
}

/// New endpoints get their share little by little.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WarmupConfiguration {
    /// Until an endpoint has its full share.
    pub duration: Option<Duration>,
    /// The share at first, in percent. Absent: 10.
    pub minimum_percent: Option<f64>,
    /// The curve's exponent, at least 1. Absent: 1, a line.
    pub aggression: Option<f64>,
}

/// Which localities are preferred.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalityLoadBalancerSetting {
    /// Fixed shares.
    pub distribute: Vec<Distribute>,
    /// Regions to turn to.
    pub failover: Vec<Failover>,
    /// Labels by which endpoints are preferred, in order.
    pub failover_priority: Vec<String>,
    /// Absent: as the mesh says.
    pub enabled: Option<bool>,
}

/// Fixed shares for clients of a locality.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Distribute {
    /// `region/zone/subzone`, `*` at the end.
    pub from: String,
    /// Localities and their share in percent; together 100.
    pub to: BTreeMap<String, u32>,
}

/// A region to turn to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Failover {
    /// The client's region.
    pub from: String,
    /// The region used when its own has no healthy endpoint.
    pub to: String,
}

/// Prefer the client's own zone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ZoneAwareLoadBalancerSetting {
    /// Absent: as the mesh says.
    pub enabled: Option<bool>,
    /// Regions to turn to.
    pub failover: Vec<Failover>,
    /// Labels by which endpoints are preferred, in order.
    pub failover_priority: Vec<String>,
    /// With fewer endpoints than this, zones are disregarded.
    pub min_cluster_size: Option<u64>,
}
