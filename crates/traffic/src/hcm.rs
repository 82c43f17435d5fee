//! The HTTP connection manager's settings (Envoy's `HttpConnectionManager`).

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::cluster::Http2Keepalive;
use crate::filter::Filter;
use crate::message::RequestHead;
use crate::path::PathSettings;
use crate::route::RouteConfig;

/// How HTTP is served on a filter chain. Defaults are Envoy's.
#[derive(Debug, Clone)]
pub struct Hcm {
    /// Prefix of its statistics, for example `outbound_0.0.0.0_80;`.
    pub stat_prefix: Arc<str>,
    /// Which HTTP version the client speaks.
    pub codec: Codec,
    /// The routes.
    pub routes: RouteSource,
    /// HTTP filters before the router, in order.
    pub filters: Box<[Filter]>,
    /// Name in the `server` response header. Default `envoy`.
    pub server_name: Arc<str>,
    /// What is done with the upstream's `server` header.
    pub server_header: ServerHeader,
    /// How the client's address and identity headers are treated.
    pub edge: Edge,
    /// Path normalisation.
    pub path: PathSettings,
    /// Removal of the port and trailing dot from the authority.
    pub host: HostSettings,
    /// Upgrades allowed, lower case, for example `websocket`, `connect`.
    pub upgrades: Vec<Arc<str>>,
    /// Limits on what a client may send.
    pub limits: RequestLimits,
    /// Timeouts.
    pub timeouts: HcmTimeouts,
    /// HTTP/1 settings.
    pub http1: Http1Settings,
    /// HTTP/2 settings.
    pub http2: Http2Settings,
    /// Logs written when a request ends.
    pub access_log: Vec<AccessLog>,
    /// Forward `100-continue` answers of the upstream instead of answering at once.
    pub proxy_100_continue: bool,
    /// Add no `x-envoy-*` headers to requests and responses (router setting).
    pub suppress_envoy_headers: bool,
    /// The `via` entry added to both directions, if set.
    pub via: Option<Arc<str>>,
    /// Tracing decides whether a request id is marked as sampled, and adds the route's decorator; `None` is off.
    pub tracing: Option<Tracing>,
}

impl Default for Hcm {
    fn default() -> Self {
        Self {
            stat_prefix: "".into(),
            codec: Codec::Auto,
            routes: RouteSource::Inline(Arc::default()),
            filters: Box::default(),
            server_name: "envoy".into(),
            server_header: ServerHeader::Overwrite,
            edge: Edge::default(),
            path: PathSettings::default(),
            host: HostSettings::default(),
            upgrades: Vec::new(),
            limits: RequestLimits::default(),
            timeouts: HcmTimeouts::default(),
            http1: Http1Settings::default(),
            http2: Http2Settings::default(),
            access_log: Vec::new(),
            proxy_100_continue: false,
            suppress_envoy_headers: false,
            via: None,
            tracing: None,
        }
    }
}

/// Which HTTP version a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// By ALPN, else by the connection's first bytes.
    #[default]
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// Where a connection manager's routes are.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// Inside the listener.
    Inline(Arc<RouteConfig>),
    /// In [`crate::Config::routes`] under this name, looked up for each request.
    Named(Arc<str>),
}

/// Treatment of the `server` response header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHeader {
    /// Always our name.
    #[default]
    Overwrite,
    /// Our name if the upstream gave none.
    AppendIfAbsent,
    /// The upstream's, or none.
    PassThrough,
}

/// Headers by which a proxy says who the client is.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The peer is the client: set `x-forwarded-for` and `x-forwarded-proto`, trust no `x-request-id`.
    pub use_remote_address: bool,
    /// Trusted proxies in front.
    pub xff_num_trusted_hops: u32,
    /// Leave `x-forwarded-for` as it is, even with `use_remote_address`.
    pub skip_xff_append: bool,
    /// Address ranges that count as internal; empty: nobody.
    pub internal_ranges: Vec<crate::matcher::Cidr>,
    /// Treatment of `x-forwarded-client-cert`.
    pub client_cert: ForwardClientCert,
    /// What it says of a client's certificate, besides whose it is and its hash.
    pub client_cert_details: ClientCertDetails,
    /// Make an `x-request-id` where there is none. Default true.
    pub generate_request_id: bool,
    /// Keep an external client's `x-request-id`.
    pub preserve_external_request_id: bool,
    /// Put `x-request-id` on the response too.
    pub request_id_in_response: bool,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            use_remote_address: false,
            xff_num_trusted_hops: 0,
            skip_xff_append: false,
            internal_ranges: Vec::new(),
            client_cert: ForwardClientCert::Sanitize,
            client_cert_details: ClientCertDetails::default(),
            generate_request_id: true,
            preserve_external_request_id: false,
            request_id_in_response: false,
        }
    }
}

/// What `x-forwarded-client-cert` says of a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    /// The certificate itself.
    pub cert: bool,
    /// It and those that vouch for it.
    pub chain: bool,
    /// Its subject.
    pub subject: bool,
    /// Its names of kind URI.
    pub uri: bool,
    /// Its names of kind DNS.
    pub dns: bool,
}

/// Treatment of `x-forwarded-client-cert` (XFCC). Without a client's certificate there is none to tell of, so only
/// [`Self::AlwaysForwardOnly`] lets the header pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardClientCert {
    /// Remove it.
    #[default]
    Sanitize,
    /// Keep it when the connection is mutual TLS, else remove it.
    ForwardOnly,
    /// Append to it when the connection is mutual TLS, else remove it.
    AppendForward,
    /// Replace it when the connection is mutual TLS, else remove it.
    SanitizeSet,
    /// Keep it always.
    AlwaysForwardOnly,
}

/// What is removed from the authority before routing (and upstream).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostSettings {
    /// Remove this port; any port if `Some(None)`.
    pub strip_port: Option<Option<u16>>,
    /// Remove a trailing dot.
    pub strip_trailing_dot: bool,
}

/// Limits on request heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes of request line and headers. Default 60 KiB.
    pub max_head_bytes: usize,
    /// Header fields. Default 100.
    pub max_headers: usize,
    /// Header names with an underscore.
    pub underscores: Underscores,
    /// Requests on one connection; `None` is no limit.
    pub max_requests_per_connection: Option<u32>,
    /// Bytes buffered for a request that may be retried. Default 1 MiB.
    pub per_request_buffer: usize,
    /// Bytes buffered a connection in each direction before reading stops. Default 1 MiB.
    pub per_connection_buffer: usize,
}

impl RequestLimits {
    /// Whether a head is larger than they allow.
    pub fn exceeded_by(&self, request: &RequestHead) -> bool {
        request.headers.len() > self.max_headers || request.headers.byte_size() > self.max_head_bytes
    }
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_head_bytes: 60 * 1024,
            max_headers: 100,
            underscores: Underscores::Allow,
            max_requests_per_connection: None,
            per_request_buffer: 1 << 20,
            per_connection_buffer: 1 << 20,
        }
    }
}

/// Treatment of header names with an underscore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    /// Pass.
    #[default]
    Allow,
    /// Answer 400 (HTTP/2: reset the stream).
    Reject,
    /// Drop the header.
    Drop,
}

/// Timeouts of connections and streams; `None` is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HcmTimeouts {
    /// A connection without a stream. Default one hour.
    pub idle: Option<Duration>,
    /// A connection is drained at this age.
    pub max_connection_duration: Option<Duration>,
    /// A stream ends at this age.
    pub max_stream_duration: Option<Duration>,
    /// A stream without activity. Default five minutes.
    pub stream_idle: Option<Duration>,
    /// Time in which a whole request must have arrived.
    pub request: Option<Duration>,
    /// Time in which a request's headers must have arrived.
    pub request_headers: Option<Duration>,
    /// Time between the first and the last GOAWAY. Default 5 s.
    pub drain: Duration,
    /// Time given to the client to close after a final response. Default 1 s.
    pub delayed_close: Duration,
}

impl Default for HcmTimeouts {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_stream_duration: None,
            stream_idle: Some(Duration::from_secs(300)),
            request: None,
            request_headers: None,
            drain: Duration::from_secs(5),
            delayed_close: Duration::from_secs(1),
        }
    }
}

/// HTTP/1 settings of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http1Settings {
    /// Serve HTTP/1.0; else 426.
    pub accept_http_10: bool,
    /// Host of HTTP/1.0 requests without one.
    pub default_host: Option<Arc<str>>,
    /// Letter case of header names in answers.
    pub header_case: HeaderCase,
}

/// Letter case of HTTP/1 header names on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderCase {
    /// Lower case.
    #[default]
    Lower,
    /// `Proper-Case-Words`.
    ProperWords,
}

/// HTTP/2 settings of a listener. Defaults are Envoy 1.40's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Settings {
    /// Streams on one connection.
    pub max_concurrent_streams: u32,
    /// Bytes of flow-control window a stream.
    pub stream_window: u32,
    /// Bytes of flow-control window a connection.
    pub connection_window: u32,
    /// Accept extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// A request against the rules of HTTP messaging ends its stream, not the connection.
    pub override_stream_error: bool,
    /// PINGs, if any.
    pub keepalive: Option<Http2Keepalive>,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            stream_window: 16 << 20,
            connection_window: 24 << 20,
            allow_connect: false,
            override_stream_error: false,
            keepalive: None,
        }
    }
}

/// Sampling of requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tracing {
    /// Requests sampled at random, in percent.
    pub random_sampling: f64,
}
