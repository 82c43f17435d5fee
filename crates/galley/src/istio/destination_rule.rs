//! `DestinationRule`: how a service is called once a route has chosen it.
//! Schema: istio/api `networking/v1alpha3/destination_rule.proto`.

mod balancing;
mod connections;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Duration, PortSelector};
pub use balancing::{
    ConsistentHashLb, Distribute, Failover, HashAlgorithm, HashKey, HttpCookie, HttpCookieAttribute, LbPolicy,
    LoadBalancerSettings, LocalityLoadBalancerSetting, Maglev, RingHash, SimpleLb, WarmupConfiguration,
    ZoneAwareLoadBalancerSetting,
};
pub use connections::{
    ClientTlsMode, ClientTlsSettings, ConnectionKeepalive, ConnectionPoolSettings, H2UpgradePolicy, HttpSettings,
    OutlierDetection, TcpKeepalive, TcpSettings,
};

/// Policies and subsets of one host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DestinationRule {
    /// A name of the service registry, or `*.suffix`; short names belong to the object's namespace.
    pub host: String,
    /// For every subset, unless it says otherwise.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of the service, by endpoint labels.
    pub subsets: Vec<Subset>,
    /// Namespaces that see this: `*`, `.` (its own), or names. Empty means the mesh's default, `*`.
    pub export_to: Vec<String>,
    /// Clients this applies to; absent is all of them.
    pub workload_selector: Option<WorkloadSelector>,
}

/// Labels that client pods must all have (istio/api `type/v1beta1/selector.proto`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Label names and values.
    pub match_labels: BTreeMap<String, String>,
}

/// A named part of a service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    /// What routes call it.
    pub name: String,
    /// Labels its endpoints have.
    pub labels: BTreeMap<String, String>,
    /// Overrides the host's.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// How endpoints are chosen and connections kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// Which endpoint gets the next request.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits and times of connections.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is taken out for a while.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the service.
    pub tls: Option<ClientTlsSettings>,
    /// Per port; replaces the fields above whole, nothing is inherited.
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// CONNECT tunnels to this host.
    pub tunnel: Option<TunnelSettings>,
    /// Announce clients in the PROXY protocol.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Limits retries by the number of active requests.
    pub retry_budget: Option<RetryBudget>,
}

/// Policies of one port.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortTrafficPolicy {
    /// The service's port.
    pub port: Option<PortSelector>,
    /// Which endpoint gets the next request.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits and times of connections.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is taken out for a while.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the service.
    pub tls: Option<ClientTlsSettings>,
}

/// Tunnels over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TunnelSettings {
    /// `CONNECT` or `POST`; empty is CONNECT.
    pub protocol: String,
    /// What the tunnel leads to.
    pub target_host: String,
    /// Its port.
    pub target_port: u32,
}

/// The PROXY protocol towards the service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyProtocol {
    /// Text (1) or binary (2).
    pub version: ProxyProtocolVersion,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ProxyProtocolVersion {
    /// The text form.
    #[default]
    V1,
    /// The binary form.
    V2,
}

/// Limits of concurrent retries.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryBudget {
    /// Share of the active requests that may be retries, in percent. Absent: 20.
    pub percent: Option<f64>,
    /// Retries always allowed at once; 0 is 3.
    pub min_retry_concurrency: u32,
    /// The time looked back for active requests.
    pub budget_interval: Option<Duration>,
}
