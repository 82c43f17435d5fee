//! Connections to a service: limits, times, health, TLS.

use serde::{Deserialize, Serialize};

use crate::istio::Duration;

/// Limits and times of connections. Of numbers, 0 means Istio's default (2³¹−1 for limits).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionPoolSettings {
    /// For every protocol.
    pub tcp: Option<TcpSettings>,
    /// For HTTP alone.
    pub http: Option<HttpSettings>,
}

/// Connections as such.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpSettings {
    /// Connections to one service at once, per client proxy.
    pub max_connections: i32,
    /// Absent: 10 s.
    pub connect_timeout: Option<Duration>,
    /// `SO_KEEPALIVE` and its kin.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// A connection is closed after this time.
    pub max_connection_duration: Option<Duration>,
    /// A TCP connection without traffic is closed after this time. Absent: 1 h; `0s`: never.
    pub idle_timeout: Option<Duration>,
}

/// Probes on idle connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// Unanswered probes until the connection is dead; 0 is the system's default.
    pub probes: u32,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// Requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpSettings {
    /// Requests waiting for a connection.
    pub http1_max_pending_requests: i32,
    /// Active requests (HTTP/1.1 too, despite its name).
    pub http2_max_requests: i32,
    /// Requests until a connection is closed; 1 disables keep-alive; 0 is unlimited.
    pub max_requests_per_connection: i32,
    /// Retries under way at once.
    pub max_retries: i32,
    /// A connection without requests is closed after this time. Absent: 1 h; `0s`: never.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 requests are sent as HTTP/2.
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// Speak what the client spoke; `h2_upgrade_policy` is disregarded then.
    pub use_client_protocol: bool,
    /// Requests at once on one HTTP/2 connection.
    pub max_concurrent_streams: i32,
    /// HTTP/2 PINGs.
    pub http2_keep_alive: Option<ConnectionKeepalive>,
}

/// Whether HTTP/1.1 requests are sent as HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    /// As the mesh says.
    #[default]
    Default,
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// HTTP/2 PINGs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionKeepalive {
    /// Time between PINGs.
    pub interval: Option<Duration>,
    /// Time to wait for the answer.
    pub timeout: Option<Duration>,
}

/// When an endpoint is taken out for a while.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Deprecated form of `consecutive_5xx_errors`.
    pub consecutive_errors: i32,
    /// Tell failures of the connection from answers of the service.
    pub split_external_local_origin_errors: bool,
    /// Failures of the connection in a row. Absent: 5.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Answers 502, 503, 504 in a row; 0 or absent: off.
    pub consecutive_gateway_errors: Option<u32>,
    /// Answers 5xx in a row. Absent: 5; 0: off.
    pub consecutive_5xx_errors: Option<u32>,
    /// Time between sweeps. Absent: 10 s.
    pub interval: Option<Duration>,
    /// Multiplied by the number of times an endpoint was taken out. Absent: 30 s.
    pub base_ejection_time: Option<Duration>,
    /// Share of endpoints that may be out, in percent; 0 is 10.
    pub max_ejection_percent: i32,
    /// With fewer healthy endpoints than this share, in percent, health is disregarded.
    pub min_health_percent: i32,
    /// Status codes that count as errors.
    pub outlier_detection_http_error_codes: Vec<u32>,
}

/// TLS towards a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTlsSettings {
    /// Whether, and whose certificates.
    pub mode: ClientTlsMode,
    /// File with the client's certificate.
    pub client_certificate: String,
    /// File with its key.
    pub private_key: String,
    /// File with the authorities for the server's certificate.
    pub ca_certificates: String,
    /// Secret with all of these.
    pub credential_name: String,
    /// Names the server's certificate must have one of.
    pub subject_alt_names: Vec<String>,
    /// The server name sent.
    pub sni: String,
    /// Accept any certificate.
    pub insecure_skip_verify: Option<bool>,
    /// File with revoked certificates.
    pub ca_crl: String,
}

/// Whether TLS is spoken, and whose certificates are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    /// No TLS.
    #[default]
    Disable,
    /// TLS, no certificate shown.
    Simple,
    /// TLS, the given certificate shown.
    Mutual,
    /// TLS, the mesh's certificate shown.
    IstioMutual,
}
