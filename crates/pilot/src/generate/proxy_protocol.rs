//! The PROXY protocol: expected of a gateway's clients, and spoken to services.
//!
//! Source: Istio `core/cluster_traffic_policy.go` (applyUpstreamProxyProtocol), `pilot/pkg/xds/filters`.

use super::{listener, transport, wire};
use envoy_types::pb::envoy::config::core::v3::{ProxyProtocolConfig, TransportSocket, proxy_protocol_config::Version};
use envoy_types::pb::envoy::config::listener::v3::ListenerFilter;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use lateen_galley::istio::destination_rule::ProxyProtocolVersion;

/// Takes the header that every connection of a client begins with.
pub fn filter() -> ListenerFilter {
    listener::listener_filter("envoy.filters.listener.proxy_protocol", wire::any(&ProxyProtocol::default()))
}

/// Connections that begin with a header, and go on as `inner` has it.
pub fn socket(version: ProxyProtocolVersion, inner: TransportSocket) -> TransportSocket {
    let version = match version {
        ProxyProtocolVersion::V1 => Version::V1,
        ProxyProtocolVersion::V2 => Version::V2,
    };
    let config = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig { version: version.into(), ..Default::default() }),
        transport_socket: Some(inner),
        ..Default::default()
    };
    transport::named("envoy.transport_sockets.upstream_proxy_protocol", wire::any(&config))
}
