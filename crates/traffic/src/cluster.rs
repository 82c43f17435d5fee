//! Upstream clusters: how their hosts are found, chosen and connected to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::health_check::HealthCheck;
use crate::message::Protocol;
use crate::outlier::{ErrorMatch, OutlierDetection};
use crate::tls::{NamesOfRequests, TransportSocket};

/// A cluster and the endpoints known for it at this moment.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// What the cluster resource says.
    pub settings: Arc<ClusterSettings>,
    /// Its hosts: from EDS, or inline. Empty for [`Discovery::OriginalDst`] and [`Discovery::Named`].
    pub endpoints: Arc<Endpoints>,
}

/// The cluster resource itself.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// Name, for example `outbound|80|v1|reviews.default.svc.cluster.local`.
    pub name: Arc<str>,
    /// Name used in statistics instead of `name`, if set.
    pub alt_stat_name: Option<Arc<str>>,
    /// Where hosts come from.
    pub discovery: Discovery,
    /// How a host is chosen.
    pub lb: LbPolicy,
    /// New hosts get their share little by little, if set; only of [`LbPolicy::RoundRobin`] and
    /// [`LbPolicy::LeastRequest`].
    pub slow_start: Option<SlowStart>,
    /// A locality is chosen by weight before a host is.
    pub locality_weighted: bool,
    /// Time allowed for the TCP handshake. Envoy's default is 5 s.
    pub connect_timeout: Duration,
    /// Limits at priority DEFAULT.
    pub limits: CircuitLimits,
    /// Which HTTP version is spoken to the hosts.
    pub protocol: UpstreamProtocol,
    /// Settings of HTTP/2 connections to the hosts.
    pub http2: Http2Upstream,
    /// A pooled connection without a request is closed after this time. Envoy's default is one hour; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// A connection is drained after this time, if set.
    pub max_connection_duration: Option<Duration>,
    /// Requests after which a connection is closed; `None` is no limit.
    pub max_requests_per_connection: Option<u32>,
    /// What connections to hosts are made of, but for those that `transport_matches` names.
    pub transport: TransportSocket,
    /// The first that fits a host is used for it instead of `transport`.
    pub transport_matches: Vec<TransportMatch>,
    /// Which names of servers come from requests.
    pub names_of_requests: NamesOfRequests,
    /// Its connections offer what its transport says by ALPN, whatever filters say (Istio's metadata `alpn_override`).
    pub keeps_protocols: bool,
    /// Connections begin with a PROXY protocol header that tells of the client.
    pub proxy_protocol: Option<crate::proxy_protocol::Version>,
    /// Source address and socket options of upstream connections; when absent the proxy's own default is used.
    pub bind: Option<UpstreamBind>,
    /// TCP keepalive, if set.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Percentage of healthy hosts below which health is ignored (Envoy's panic threshold). Envoy's default is 50.
    pub panic_threshold: f64,
    /// Takes hosts out that fail, if set.
    pub outlier: Option<Arc<OutlierDetection>>,
    /// Which answers outlier detection takes for failures; when absent those of 5xx.
    pub outlier_errors: Option<Arc<ErrorMatch>>,
    /// Asks hosts how they are, if set; only of discoveries that tell hosts.
    pub health_check: Option<Arc<HealthCheck>>,
    /// A new host does not count, when the healthy share of hosts is worked out, until its first check is through.
    pub ignore_unchecked_hosts: bool,
    /// TCP connections to a host end when it becomes unhealthy.
    pub close_connections_to_unhealthy: bool,
    /// Changes of hosts' health within this time of each other are shown together. Envoy's default is 1 s.
    pub update_merge_window: Duration,
}

/// What connections to some of the hosts are made of.
#[derive(Debug, Clone)]
pub struct TransportMatch {
    /// For example `tlsMode-istio`.
    pub name: Arc<str>,
    /// Labels that a host must have, all of them.
    pub labels: TransportLabels,
    /// What its connections are made of.
    pub transport: TransportSocket,
}

/// What is said of a host for the choice of its transport (metadata `envoy.transport_socket_match`), by key.
pub type TransportLabels = Box<[(Arc<str>, Arc<str>)]>;

impl ClusterSettings {
    /// Whether connections to any of the hosts may be of TLS.
    pub fn speaks_tls(&self) -> bool {
        let is_tls = |socket: &TransportSocket| matches!(socket, TransportSocket::Tls(_));
        is_tls(&self.transport) || self.transport_matches.iter().any(|choice| is_tls(&choice.transport))
    }

    /// What connections to a host with these labels are made of.
    pub fn transport_for(&self, labels: &[(Arc<str>, Arc<str>)]) -> &TransportSocket {
        let fitting = self.transport_matches.iter().find(|m| m.labels.iter().all(|label| labels.contains(label)));
        fitting.map_or(&self.transport, |fitting| &fitting.transport)
    }
}

/// Where a cluster's hosts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// The endpoint discovery service, under this name.
    Eds { service_name: Arc<str> },
    /// The addresses in the resource.
    Static,
    /// DNS names, each resolved to all its addresses, refreshed after this time.
    StrictDns { refresh: Duration, family: DnsFamily },
    /// One DNS name; each new connection goes to the first address of the newest answer.
    LogicalDns { refresh: Duration, family: DnsFamily },
    /// The address the client connected to.
    OriginalDst {
        /// Take the address from the `x-envoy-original-dst-host` request header, if present.
        use_http_header: bool,
        /// Replaces the port of the address, if set.
        port_override: Option<u16>,
    },
    /// The host that a request, or a TLS client, names (Envoy's dynamic forward proxy).
    Named(Arc<NameCache>),
}

/// How names that requests bring along are looked up and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameCache {
    /// Clusters with the same name share one.
    pub name: Arc<str>,
    /// Which addresses are used.
    pub family: DnsFamily,
    /// A name is looked up again after this time, if it is still asked for.
    pub refresh: Duration,
    /// A name that nobody asks for is forgotten after this time.
    pub keep: Duration,
    /// A lookup that takes longer has failed.
    pub timeout: Duration,
    /// Names kept at a time, at least 1.
    pub max_hosts: u32,
    /// Requests waiting for lookups at a time.
    pub max_pending: u32,
}

/// Which addresses a DNS name may resolve to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// IPv4 if there is one, else IPv6.
    V4Preferred,
    /// IPv6 if there is one, else IPv4 (Envoy's AUTO).
    V6Preferred,
    /// Both.
    All,
}

impl DnsFamily {
    /// Those of a name's addresses that are used.
    pub fn of(self, addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> + '_ {
        let (v4, v6) = (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6));
        let (use_v4, use_v6) = match self {
            Self::V4 => (true, false),
            Self::V6 => (false, true),
            Self::V4Preferred => (true, !v4),
            Self::V6Preferred => (!v6, true),
            Self::All => (true, true),
        };
        addresses.iter().copied().filter(move |a| if a.is_ipv4() { use_v4 } else { use_v6 })
    }
}

/// Load-balancing policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbPolicy {
    /// Strict rotation, weighted.
    RoundRobin,
    /// Two or more random hosts, the one with fewer active requests.
    LeastRequest { choices: u32 },
    /// Uniformly random, whatever the weights.
    Random,
    /// Requests with the same hash go to the same host.
    Hash(Hashing),
    /// The discovery decides (original destination).
    ClusterProvided,
}

/// How hashes stand for hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashing {
    /// How hosts are spread over hashes.
    pub kind: HashTable,
    /// A host's place comes from its name, not its address.
    pub by_hostname: bool,
}

/// How hosts are spread over hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashTable {
    /// A ring with many places for each host. Envoy's defaults are 1024 and 8388608 places, and xxHash.
    Ring { minimum: u64, maximum: u64, function: HashFunction },
    /// Maglev's table; the size is prime. Envoy's default is 65537.
    Maglev { size: u32 },
}

/// What the places on a ring are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    /// 64-bit xxHash.
    XxHash,
    /// 64-bit MurmurHash2 of GNU's C++ library.
    Murmur2,
}

/// How the share of a new host grows (Envoy's "slow start mode").
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// Until a host has its whole share.
    pub window: Duration,
    /// 1 is a line; above, the share grows faster at first. Above 0.
    pub aggression: f64,
    /// The share at first, 0 to 1.
    pub least: f64,
}

impl SlowStart {
    /// The part of its weight that a host of this age has, 0 to 1.
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let time = age.max(Duration::from_millis(1)).as_secs_f64() / self.window.as_secs_f64();
        time.powf(1.0 / self.aggression).max(self.least).min(1.0)
    }
}

/// How many retries may be in flight, as a share of requests (Envoy's `RetryBudget`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Percent of the requests. Envoy's default is 20.
    pub percent: f64,
    /// The requests that began in this time before are meant, retries too; if absent those that are waiting or in flight.
    pub interval: Option<Duration>,
    /// So many are always allowed. Envoy's default is 3.
    pub min_concurrency: u32,
}

impl CircuitLimits {
    /// Retries allowed at once while `active` requests are waiting or in flight; `begun` tells how many began in a time
    /// before now.
    pub fn retries(&self, active: u32, begun: impl FnOnce(Duration) -> u32) -> u32 {
        match self.retry_budget {
            Some(budget) => {
                let requests = budget.interval.map_or(active, begun);
                // Saturates.
                ((budget.percent / 100.0 * f64::from(requests)) as u32).max(budget.min_concurrency)
            }
            None => self.max_retries,
        }
    }
}

/// Circuit-breaker limits; `u32::MAX` is no limit. Envoy's defaults are 1024, 1024, 1024 and 3.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitLimits {
    /// Connections to the whole cluster.
    pub max_connections: u32,
    /// Requests waiting for a connection.
    pub max_pending_requests: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Retries in flight, unless there is a budget.
    pub max_retries: u32,
    /// Retries in flight as a share of all requests, instead of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Statistics tell what is left of each limit.
    pub track_remaining: bool,
}

impl Default for CircuitLimits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// Which HTTP version is spoken upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the downstream connection speaks.
    Downstream,
}

impl UpstreamProtocol {
    /// Whether HTTP/2 is spoken for a request that came by `client`.
    pub fn is_http2(self, client: Protocol) -> bool {
        match self {
            Self::Http1 => false,
            Self::Http2 => true,
            Self::Downstream => client == Protocol::Http2,
        }
    }
}

/// HTTP/2 settings of upstream connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Upstream {
    /// Streams on one connection.
    pub max_concurrent_streams: u32,
    /// Bytes of flow-control window a stream.
    pub stream_window: u32,
    /// Bytes of flow-control window a connection.
    pub connection_window: u32,
    /// PINGs, if any.
    pub keepalive: Option<Http2Keepalive>,
}

impl Default for Http2Upstream {
    fn default() -> Self {
        Self { max_concurrent_streams: 1024, stream_window: 16 << 20, connection_window: 24 << 20, keepalive: None }
    }
}

/// PINGs that find out whether the peer of an HTTP/2 connection is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// Time between PINGs.
    pub interval: Duration,
    /// Random time added to each interval is below this. Envoy's default is 15 % of the interval.
    pub jitter: Duration,
    /// Time without anything from the peer after which an unanswered PING ends the connection.
    pub timeout: Duration,
}

/// How upstream sockets are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamBind {
    /// Source address; the port is chosen by the system when 0.
    pub source: Option<SocketAddr>,
    /// A further source address, used when the destination is of its family and not of `source`'s.
    pub source_other_family: Option<SocketAddr>,
    /// Socket options set before connecting.
    pub options: Vec<SocketOption>,
}

/// A raw socket option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// `setsockopt` level, for example 1 (`SOL_SOCKET`).
    pub level: i32,
    /// `setsockopt` name, for example 36 (`SO_MARK`).
    pub name: i32,
    /// The value as the kernel takes it.
    pub value: SocketOptionValue,
}

/// The value of a raw socket option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketOptionValue {
    /// A C `int`.
    Int(i32),
    /// Raw bytes.
    Bytes(Vec<u8>),
}

/// TCP keepalive settings; `None` leaves the system's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    /// Unanswered probes until the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// The hosts of a cluster, grouped by locality.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Endpoints {
    /// Localities in the order given.
    pub localities: Vec<LocalityEndpoints>,
    /// Hosts of one priority count this many times their share of health (Envoy's default 140, in percent).
    pub overprovisioning_factor: u32,
}

/// The hosts of one locality at one priority.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalityEndpoints {
    /// Where.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Weight of the locality, if locality weighting is on.
    pub weight: Option<u32>,
    /// The hosts.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// Region, zone and sub-zone; empty where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// For example `eu-central-1`.
    pub region: String,
    /// For example `eu-central-1a`.
    pub zone: String,
    /// For example a rack.
    pub sub_zone: String,
}

/// One host.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it is reached.
    pub address: EndpointAddress,
    /// Host name, used by automatic host rewrite; empty if unknown.
    pub hostname: Arc<str>,
    /// Relative share of the load, at least 1.
    pub weight: u32,
    /// Health as discovery tells it.
    pub health: Health,
    /// Stands for the address where hashes choose a host (metadata `envoy.lb`, `hash_key`), if set.
    pub hash_key: Option<Arc<str>>,
    /// Chooses what connections to it are made of, see [`ClusterSettings::transport_for`].
    pub transport_labels: TransportLabels,
    /// How active checks treat it, where not as its cluster says.
    pub checked_as: Option<Arc<CheckedAs>>,
}

/// What an endpoint says about its own active checks (Envoy's `Endpoint.HealthCheckConfig`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckedAs {
    /// It is not checked.
    pub never: bool,
    /// Checks go here instead of its address.
    pub address: Option<EndpointAddress>,
    /// Checks go to this port instead of its own.
    pub port: Option<u16>,
    /// Host name that checks ask for; empty for that of the check.
    pub hostname: Arc<str>,
}

/// The address of a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// Ready to connect to.
    Socket(SocketAddr),
    /// To be resolved first (DNS clusters).
    Dns { host: Arc<str>, port: u16 },
    /// A Unix domain socket.
    Pipe(Arc<str>),
}

impl EndpointAddress {
    /// The address from an IP and port.
    pub fn ip(ip: IpAddr, port: u16) -> Self {
        Self::Socket(SocketAddr::new(ip, port))
    }
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(a) => a.fmt(f),
            Self::Dns { host, port } => write!(f, "{host}:{port}"),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}

/// Health of a host as discovery tells it (Envoy's `HealthStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Takes requests (also Envoy's UNKNOWN).
    #[default]
    Healthy,
    /// Takes requests only when the healthy ones do not suffice.
    Degraded,
    /// Takes no new requests (also Envoy's TIMEOUT).
    Unhealthy,
    /// Finishes what it has, takes no new requests.
    Draining,
}
