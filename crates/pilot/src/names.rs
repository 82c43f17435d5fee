//! The names Istio gives to clusters, listeners and routes, which people and tools recognise.
//!
//! Knows nothing of what the named things contain. Source: Istio `pilot/pkg/model/push_context.go`
//! (BuildSubsetKey), `pilot/pkg/networking/core/listener.go` (getListenerName).

use std::net::IpAddr;

/// Cluster that forwards to the connection's original destination.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// Cluster without endpoints: whatever is sent there is refused.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
/// Inbound twin of [`PASSTHROUGH_CLUSTER`], for ports no service declares.
pub const INBOUND_PASSTHROUGH_CLUSTER: &str = "InboundPassthroughCluster";
/// Cluster name written where a route's destination has no host; no such cluster is ever sent.
pub const UNKNOWN_SERVICE: &str = "UnknownService";
/// Listener on 15001, which hands connections over by original destination.
pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// Listener on 15006, which takes all inbound traffic.
pub const VIRTUAL_INBOUND: &str = "virtualInbound";
/// Chain for TCP no other chain of a shared outbound listener takes.
pub const PASSTHROUGH_FILTER_CHAIN: &str = "PassthroughFilterChain";
/// Catch-all virtual host when unknown hosts are allowed.
pub const ALLOW_ANY: &str = "allow_any";
/// Catch-all virtual host when only registered hosts are allowed.
pub const BLOCK_ALL: &str = "block_all";
/// The gateway name that stands for all sidecars.
pub const MESH_GATEWAY: &str = "mesh";

/// `outbound|PORT|SUBSET|HOST`; `subset` is empty for the whole service.
pub fn outbound_cluster(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// The server name that the mesh's TLS asks for; a client may so say where it goes to a gateway that passes TLS on.
pub fn server_name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// `inbound|PORT||`, PORT being the workload's port.
pub fn inbound_cluster(port: u16) -> String {
    format!("inbound|{port}||")
}

/// `ADDRESS_PORT`.
pub fn listener(bind: IpAddr, port: u16) -> String {
    format!("{bind}_{port}")
}

/// The wildcard listener a statistics prefix or inbound chain is named after: `0.0.0.0_PORT`.
pub fn wildcard_listener(port: u16) -> String {
    format!("0.0.0.0_{port}")
}

/// `HOST:PORT`, with an IPv6 host in brackets.
pub fn host_port(host: &str, port: u16) -> String {
    format!("{}:{port}", bracketed(host))
}

/// An IPv6 address in brackets, anything else as it is.
pub fn bracketed(host: &str) -> String {
    if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

/// `HOST:PORT/*`, the operation a default route's span is named after.
pub fn trace_operation(host: &str, port: u16) -> String {
    format!("{host}:{port}/*")
}

/// Path of the resource a piece of configuration came from, as `istio.config` metadata carries it.
/// `kind` is kebab-case: `virtual-service`, `destination-rule`.
pub fn config_path(kind: &str, namespace: &str, name: &str) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{kind}/{name}")
}
