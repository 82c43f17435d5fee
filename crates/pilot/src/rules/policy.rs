//! How a cluster treats its connections: a DestinationRule's traffic policy with every default filled in.
//!
//! Knows nothing of which rule holds for which service. Source: Istio `core/cluster_traffic_policy.go`,
//! `pilot/pkg/networking/util` (GetPortLevelTrafficPolicy), `model` (MergeSubsetTrafficPolicy).

use super::balancing::{Balancing, HashBy, Warmup};
use super::outlier::Outlier;
use lateen_galley::istio::destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, LoadBalancerSettings,
    LocalityLoadBalancerSetting, OutlierDetection, ProxyProtocolVersion, RetryBudget, TcpKeepalive, TcpSettings,
    TrafficPolicy,
};
use std::time::Duration;

/// TCP keep-alive; unset fields are the operating system's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// What the mesh says of connections whose rule does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Connections {
    pub connect_timeout: Duration,
    pub keepalive: Option<Keepalive>,
    /// Speak HTTP/2 at ports declared to speak HTTP/1.
    pub upgrade_to_http2: bool,
    /// How long names of endpoints are believed to stand for the same addresses.
    pub dns_refresh_rate: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            connect_timeout: Duration::from_secs(10),
            keepalive: None,
            upgrade_to_http2: false,
            dns_refresh_rate: Duration::from_secs(60),
        }
    }
}

/// HTTP/2 PING keep-alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pings {
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
}

/// Limit of retries relative to requests under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Thousandths of a percent of the requests under way.
    pub millipercent: u32,
    pub min_retry_concurrency: u32,
    pub interval: Option<Duration>,
}

/// A policy with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    pub balancing: Balancing,
    /// What of a request is hashed, if endpoints are chosen by that.
    pub hash: Option<HashBy>,
    /// Of least request and round robin.
    pub warmup: Option<Warmup>,
    /// Something is said of how endpoints are chosen.
    pub balancing_given: bool,
    /// Which localities are preferred, if the rule says it.
    pub localities: Option<LocalityLoadBalancerSetting>,
    /// When endpoints that fail are taken out, if they are.
    pub outlier: Option<Outlier>,
    /// The mesh's if none.
    pub connect_timeout: Option<Duration>,
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    pub retry_budget: Option<Budget>,
    /// Tell hosts of their clients, in this form of the PROXY protocol.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// TLS with hosts, if the rule says anything of it.
    pub tls: Option<ClientTlsSettings>,
    pub keepalive: Option<Keepalive>,
    /// Of HTTP connections; from the HTTP settings, else the TCP settings.
    pub idle_timeout: Option<Duration>,
    /// Of TCP streams: from the TCP settings.
    pub tcp_idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub max_concurrent_streams: Option<u32>,
    pub pings: Option<Pings>,
    /// Speak HTTP/2 though the port is not declared to; as the mesh says if none.
    pub upgrade_to_http2: Option<bool>,
    /// Speak whatever the client speaks.
    pub use_client_protocol: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            balancing: Balancing::default(),
            hash: None,
            warmup: None,
            balancing_given: false,
            localities: None,
            outlier: None,
            connect_timeout: None,
            max_connections: u32::MAX,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
            retry_budget: None,
            proxy_protocol: None,
            tls: None,
            keepalive: None,
            idle_timeout: None,
            tcp_idle_timeout: None,
            max_connection_duration: None,
            max_requests_per_connection: None,
            max_concurrent_streams: None,
            pings: None,
            upgrade_to_http2: None,
            use_client_protocol: false,
        }
    }
}

impl Policy {
    /// The policy for a service port: the rule's entry for the port replaces the rule's own policy, and what the
    /// subset says goes over either, block by block; a subset's entry for the port replaces the subset's.
    pub fn of(rule: Option<&TrafficPolicy>, subset: Option<&TrafficPolicy>, port: u16) -> Policy {
        let blocks = [rule.map(|rule| Blocks::of(rule, port)), subset.map(|subset| Blocks::of(subset, port))];
        let mut merged = Blocks::default();
        for block in blocks.into_iter().flatten() {
            merged.balancing = block.balancing.or(merged.balancing);
            merged.pool = block.pool.or(merged.pool);
            merged.budget = block.budget.or(merged.budget);
            merged.proxy_protocol = block.proxy_protocol.or(merged.proxy_protocol);
            merged.outlier = block.outlier.or(merged.outlier);
            merged.tls = block.tls.or(merged.tls);
        }
        merged.policy()
    }

    /// The same where clients stay with one endpoint, unless something else is said.
    pub fn with_client_affinity(self) -> Policy {
        if self.balancing_given {
            return self;
        }
        Policy { balancing: Balancing::RingHash { minimum: Some(1024) }, hash: Some(HashBy::SourceIp(true)), ..self }
    }

    /// The same with what the mesh says where the rule says nothing. `http`: the port is declared to speak HTTP.
    pub fn in_mesh(mut self, mesh: &Connections, http: bool) -> Policy {
        self.connect_timeout.get_or_insert(mesh.connect_timeout);
        if let Some(usual) = &mesh.keepalive {
            let own = self.keepalive.get_or_insert_default();
            own.probes = own.probes.or(usual.probes);
            own.time = own.time.or(usual.time);
            own.interval = own.interval.or(usual.interval);
        }
        self.upgrade_to_http2.get_or_insert(mesh.upgrade_to_http2 && http);
        self
    }

    /// The policy for a port of a workload itself, with these limits in place of the rule's.
    pub fn of_workload(rule: Option<&TrafficPolicy>, port: u16, pool: Option<&ConnectionPoolSettings>) -> Policy {
        let mut blocks = rule.map(|rule| Blocks::of(rule, port)).unwrap_or_default();
        blocks.pool = pool.or(blocks.pool);
        // There is one endpoint, and the rule's TLS ends before it.
        blocks.outlier = None;
        blocks.tls = None;
        blocks.policy()
    }
}

#[derive(Default)]
struct Blocks<'a> {
    balancing: Option<&'a LoadBalancerSettings>,
    pool: Option<&'a ConnectionPoolSettings>,
    budget: Option<&'a RetryBudget>,
    proxy_protocol: Option<ProxyProtocolVersion>,
    outlier: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTlsSettings>,
}

impl<'a> Blocks<'a> {
    fn of(policy: &'a TrafficPolicy, port: u16) -> Blocks<'a> {
        let for_port = policy
            .port_level_settings
            .iter()
            .find(|entry| entry.port.is_some_and(|entry| entry.number == u32::from(port)));
        match for_port {
            Some(entry) => Blocks {
                balancing: entry.load_balancer.as_ref(),
                pool: entry.connection_pool.as_ref(),
                budget: policy.retry_budget.as_ref(),
                proxy_protocol: policy.proxy_protocol.as_ref().map(|protocol| protocol.version),
                outlier: entry.outlier_detection.as_ref(),
                tls: entry.tls.as_ref(),
            },
            None => Blocks {
                balancing: policy.load_balancer.as_ref(),
                pool: policy.connection_pool.as_ref(),
                budget: policy.retry_budget.as_ref(),
                proxy_protocol: policy.proxy_protocol.as_ref().map(|protocol| protocol.version),
                outlier: policy.outlier_detection.as_ref(),
                tls: policy.tls.as_ref(),
            },
        }
    }

    fn policy(&self) -> Policy {
        let mut policy = Policy { outlier: self.outlier.map(Outlier::of), ..Policy::default() };
        if let Some(settings) = self.balancing {
            policy.balancing = Balancing::of(settings);
            policy.hash = HashBy::of(settings);
            policy.warmup = Warmup::of(settings);
            policy.balancing_given = settings.policy.is_some();
            policy.localities.clone_from(&settings.locality_lb_setting);
        }
        if let Some(pool) = self.pool {
            if let Some(http) = &pool.http {
                policy.apply_http(http);
            }
            if let Some(tcp) = &pool.tcp {
                policy.apply_tcp(tcp);
            }
        }
        policy.proxy_protocol = self.proxy_protocol;
        policy.tls = self.tls.cloned();
        policy.retry_budget = self.budget.map(|budget| Budget {
            millipercent: millipercent(budget.percent.unwrap_or(20.0)),
            min_retry_concurrency: if budget.min_retry_concurrency == 0 { 3 } else { budget.min_retry_concurrency },
            interval: budget.budget_interval.map(Into::into),
        });
        policy
    }
}

impl Policy {
    fn apply_http(&mut self, http: &HttpSettings) {
        self.max_requests = limit(http.http2_max_requests).unwrap_or(u32::MAX);
        self.max_pending_requests = limit(http.http1_max_pending_requests).unwrap_or(u32::MAX);
        self.max_retries = limit(http.max_retries).unwrap_or(u32::MAX);
        self.idle_timeout = http.idle_timeout.map(Into::into);
        self.max_requests_per_connection = limit(http.max_requests_per_connection);
        self.max_concurrent_streams = limit(http.max_concurrent_streams);
        self.pings = http
            .http2_keep_alive
            .as_ref()
            .map(|pings| Pings { interval: pings.interval.map(Into::into), timeout: pings.timeout.map(Into::into) });
        self.use_client_protocol = http.use_client_protocol;
        self.upgrade_to_http2 = match http.h2_upgrade_policy {
            _ if http.use_client_protocol => Some(false),
            H2UpgradePolicy::Default => None,
            H2UpgradePolicy::DoNotUpgrade => Some(false),
            H2UpgradePolicy::Upgrade => Some(true),
        };
    }

    fn apply_tcp(&mut self, tcp: &TcpSettings) {
        self.connect_timeout = tcp.connect_timeout.map(Into::into);
        self.max_connections = limit(tcp.max_connections).unwrap_or(u32::MAX);
        self.max_connection_duration = tcp.max_connection_duration.map(Into::into);
        self.tcp_idle_timeout = tcp.idle_timeout.map(Into::into);
        self.idle_timeout = self.idle_timeout.or(self.tcp_idle_timeout);
        self.keepalive = tcp.tcp_keepalive.as_ref().map(Keepalive::of);
    }
}

impl Keepalive {
    /// As rules and the mesh's settings write it.
    pub fn of(keepalive: &TcpKeepalive) -> Keepalive {
        Keepalive {
            probes: (keepalive.probes > 0).then_some(keepalive.probes),
            time: keepalive.time.map(Into::into),
            interval: keepalive.interval.map(Into::into),
        }
    }
}

/// Zero and less stand for "not set" in these fields.
fn limit(value: i32) -> Option<u32> {
    u32::try_from(value).ok().filter(|value| *value > 0)
}

fn millipercent(percent: f64) -> u32 {
    // Saturates, and turns what is not a number into 0.
    (percent.clamp(0.0, 100.0) * 1000.0).round() as u32
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
