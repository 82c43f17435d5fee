//! How endpoints are chosen: the load balancer block of a traffic policy with every default filled in.
//!
//! Source: Istio `core/cluster_traffic_policy.go` (applyLoadBalancer, ApplyRingHashLoadBalancer, setWarmup),
//! `core/route/route.go` (ConsistentHashToHashPolicy).

use lateen_galley::istio::destination_rule::{
    ConsistentHashLb, HashAlgorithm, HashKey, LbPolicy, LoadBalancerSettings, SimpleLb,
};
use std::time::Duration;

/// Which endpoint a request goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balancing {
    /// The less busy of two picked at random.
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    /// Where the connection was going.
    Passthrough,
    /// The one its hash stands for on a ring of so many places at least; unset is Envoy's default.
    RingHash {
        minimum: Option<u64>,
    },
    /// The one its hash stands for in Maglev's table of so many places; unset is Envoy's default.
    Maglev {
        size: Option<u64>,
    },
}

/// What of a request is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashBy {
    Header(String),
    /// Made if the client has none and there is a `ttl`.
    Cookie {
        name: String,
        path: String,
        ttl: Option<Duration>,
        attributes: Vec<(String, String)>,
    },
    /// The client's address, unless it says no.
    SourceIp(bool),
    Query(String),
}

/// New endpoints get their share little by little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Warmup {
    pub duration: Duration,
    /// Absent where the rule has the older field alone: then Envoy's defaults hold.
    pub curve: Option<Curve>,
}

/// How a share grows. Numbers are kept as their bits, so that they can be compared and hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Curve {
    aggression: u64,
    minimum_percent: u64,
}

impl Curve {
    pub fn aggression(self) -> f64 {
        f64::from_bits(self.aggression)
    }

    pub fn minimum_percent(self) -> f64 {
        f64::from_bits(self.minimum_percent)
    }
}

impl Balancing {
    pub(super) fn of(settings: &LoadBalancerSettings) -> Balancing {
        match &settings.policy {
            Some(LbPolicy::Simple(SimpleLb::RoundRobin)) => Balancing::RoundRobin,
            Some(LbPolicy::Simple(SimpleLb::Random)) => Balancing::Random,
            Some(LbPolicy::Simple(SimpleLb::Passthrough)) => Balancing::Passthrough,
            Some(LbPolicy::Simple(SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Unspecified)) | None => {
                Balancing::LeastRequest
            }
            Some(LbPolicy::ConsistentHash(hash)) => Balancing::of_hash(hash),
        }
    }

    fn of_hash(hash: &ConsistentHashLb) -> Balancing {
        let given = |value: u64| (value != 0).then_some(value);
        match &hash.algorithm {
            Some(HashAlgorithm::Maglev(maglev)) => Balancing::Maglev { size: given(maglev.table_size) },
            Some(HashAlgorithm::RingHash(ring)) => Balancing::RingHash { minimum: given(ring.minimum_ring_size) },
            None => Balancing::RingHash { minimum: given(hash.minimum_ring_size).or(Some(1024)) },
        }
    }
}

impl HashBy {
    pub(super) fn of(settings: &LoadBalancerSettings) -> Option<HashBy> {
        let Some(LbPolicy::ConsistentHash(hash)) = &settings.policy else { return None };
        Some(match hash.key.as_ref()? {
            HashKey::HttpHeaderName(name) => HashBy::Header(name.clone()),
            HashKey::UseSourceIp(used) => HashBy::SourceIp(*used),
            HashKey::HttpQueryParameterName(name) => HashBy::Query(name.clone()),
            HashKey::HttpCookie(cookie) => HashBy::Cookie {
                name: cookie.name.clone(),
                path: cookie.path.clone(),
                ttl: cookie.ttl.map(|ttl| ttl.get()),
                attributes: cookie.attributes.iter().map(|a| (a.name.clone(), a.value.clone())).collect(),
            },
        })
    }
}

impl Warmup {
    pub(super) fn of(settings: &LoadBalancerSettings) -> Option<Warmup> {
        match (&settings.warmup, settings.warmup_duration_secs) {
            (Some(warmup), _) => Some(Warmup {
                duration: warmup.duration.map_or(Duration::ZERO, |duration| duration.get()),
                curve: Some(Curve {
                    aggression: warmup.aggression.unwrap_or(1.0).to_bits(),
                    minimum_percent: warmup.minimum_percent.unwrap_or(10.0).to_bits(),
                }),
            }),
            (None, Some(duration)) => Some(Warmup { duration: duration.get(), curve: None }),
            (None, None) => None,
        }
    }
}
