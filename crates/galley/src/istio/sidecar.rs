//! `Sidecar`: what the proxies next to workloads serve and reach.
//! Schema: istio/api `networking/v1alpha3/sidecar.proto`.

use serde::{Deserialize, Serialize};

use super::destination_rule::ConnectionPoolSettings;
use super::gateway::ServerTlsSettings;
use super::service_entry::WorkloadSelector;
use super::virtual_service::Destination;

/// What proxies of one namespace, or of chosen workloads in it, serve and reach.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sidecar {
    /// Workloads this applies to; absent is all of the namespace, or of the mesh in the root namespace.
    pub workload_selector: Option<WorkloadSelector>,
    /// What is listened for on behalf of the workload; empty is the ports of its services.
    pub ingress: Vec<IngressListener>,
    /// What the workload reaches; empty is everything it may see.
    pub egress: Vec<EgressListener>,
    /// Limits of connections to the workload, unless an ingress listener has its own.
    pub inbound_connection_pool: Option<ConnectionPoolSettings>,
    /// What is done with traffic to unknown hosts; absent is what the mesh does.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

/// A port on which a proxy listens for its workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IngressListener {
    /// Required.
    pub port: Option<SidecarPort>,
    /// IP address; empty is the workload's.
    pub bind: String,
    /// How traffic comes to the listener.
    pub capture_mode: CaptureMode,
    /// Where the workload serves it: `127.0.0.1:PORT`, `0.0.0.0:PORT` (the workload's address), `unix://PATH`. Empty is
    /// where the client was going.
    pub default_endpoint: String,
    /// TLS ended by the proxy, for ports without the mesh's own.
    pub tls: Option<ServerTlsSettings>,
    /// Limits of connections to the workload at this port.
    pub connection_pool: Option<ConnectionPoolSettings>,
}

/// Services a workload reaches, at one port or at all that no other listener has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EgressListener {
    /// Absent is every port; such a listener is the last.
    pub port: Option<SidecarPort>,
    /// IP address, or `unix://PATH` with port 0; empty is each service's own address.
    pub bind: String,
    /// How traffic comes to the listener.
    pub capture_mode: CaptureMode,
    /// `namespace/host`: the namespace may be `.`, `*`, or `~` (nothing; before a name: all but that); the host may be
    /// `*` or `*.suffix`. At least one.
    pub hosts: Vec<String>,
}

/// A port of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SidecarPort {
    /// 1 to 65535; 0 with a unix socket.
    pub number: u32,
    /// HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP, TLS, HTTP_PROXY.
    pub protocol: String,
    /// For statistics.
    pub name: String,
    /// Deprecated, and not carried out by Istio.
    pub target_port: u32,
}

/// How traffic comes to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    /// As the workload's proxy does it.
    #[default]
    Default,
    /// By redirect rules.
    Iptables,
    /// The workload connects to the proxy.
    None,
}

/// What is done with traffic to hosts nobody declared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OutboundTrafficPolicy {
    /// Whether it goes on.
    pub mode: OutboundMode,
    /// Where it goes in place of where it was going.
    pub egress_proxy: Option<Destination>,
}

/// Whether traffic to hosts nobody declared goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundMode {
    /// It does not.
    #[default]
    RegistryOnly,
    /// To where it was going.
    AllowAny,
    /// HTTP to the host it names; mesh-wide only.
    AllowAnyDynamicDns,
}
