//! `VirtualService`: where requests for a host go.
//! Schema: istio/api `networking/v1alpha3/virtual_service.proto`.

mod delegation;
mod http;
mod oneof;
mod policy;
mod sticky;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PortSelector;
pub use delegation::{Delegated, delegated};
pub use http::{
    Body, Delegate, HeaderOperations, Headers, HttpDirectResponse, HttpMatchRequest, HttpRedirect, HttpRetry,
    HttpRewrite, HttpRoute, HttpRouteDestination, RedirectPort, RedirectPortSelection, RegexRewrite,
};
pub use policy::{
    Abort, AbortError, CorsPolicy, Delay, DelayKind, HttpFaultInjection, HttpMirrorPolicy, UnmatchedPreflights,
    grpc_status,
};
pub use sticky::{STICKY_WEIGHTS, StickyWeights};

/// Routes for one or more hosts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualService {
    /// Hosts this applies to: names (short ones belong to the object's namespace), `*.suffix`, `*`, or IP addresses.
    /// None: its routes are for others to delegate to.
    pub hosts: Vec<String>,
    /// `name` or `namespace/name` of Gateways, or `mesh` for all sidecars. Empty means `mesh`.
    pub gateways: Vec<String>,
    /// Tried in order; the first that matches wins.
    pub http: Vec<HttpRoute>,
    /// For TLS connections that are passed through, by server name.
    pub tls: Vec<TlsRoute>,
    /// For opaque TCP connections.
    pub tcp: Vec<TcpRoute>,
    /// Namespaces that see this: `*`, `.` (its own), or names. Empty means the mesh's default, `*`.
    pub export_to: Vec<String>,
}

/// A service, or a subset of one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Destination {
    /// A name of the service registry; short names belong to the VirtualService's namespace.
    pub host: String,
    /// A subset of the host's DestinationRule; empty for all of it.
    pub subset: String,
    /// Needed only when the service has several ports.
    pub port: Option<PortSelector>,
}

/// One rule for TLS connections.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsRoute {
    /// Any of these suffices.
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatchAttributes>,
    /// Where connections go, by weight.
    pub route: Vec<RouteDestination>,
}

/// One rule for TCP connections.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpRoute {
    /// Any of these suffices; empty matches every connection.
    #[serde(rename = "match")]
    pub matches: Vec<L4MatchAttributes>,
    /// Where connections go, by weight.
    pub route: Vec<RouteDestination>,
}

/// A weighted destination of connections.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteDestination {
    /// Required.
    pub destination: Option<Destination>,
    /// Relative to the sum of its siblings'.
    pub weight: i32,
}

/// All that is given must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct L4MatchAttributes {
    /// IP addresses or CIDR blocks of the original destination.
    pub destination_subnets: Vec<String>,
    /// The port addressed; 0 is any.
    pub port: u32,
    /// IP address or CIDR block of the client (not carried out by Istio either).
    pub source_subnet: String,
    /// Labels the client's workload must have.
    pub source_labels: BTreeMap<String, String>,
    /// Overrides the VirtualService's own list.
    pub gateways: Vec<String>,
    /// The client workload's namespace.
    pub source_namespace: String,
}

/// All that is given must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsMatchAttributes {
    /// Server names: exact or `*.suffix`; required, and each within the VirtualService's hosts.
    pub sni_hosts: Vec<String>,
    /// IP addresses or CIDR blocks of the original destination.
    pub destination_subnets: Vec<String>,
    /// The port addressed; 0 is any.
    pub port: u32,
    /// Labels the client's workload must have.
    pub source_labels: BTreeMap<String, String>,
    /// Overrides the VirtualService's own list.
    pub gateways: Vec<String>,
    /// The client workload's namespace.
    pub source_namespace: String,
}
