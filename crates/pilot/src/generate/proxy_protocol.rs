//! The PROXY protocol: expected of a gateway's clients, and spoken to services.
//!
//! Source: Istio `core/cluster_traffic_policy.go` (applyUpstreamProxyProtocol), `pilot/pkg/xds/filters`.

use super::{listener, wire};
use envoy_types::pb::envoy::config::core::v3::{
    ProxyProtocolConfig, TransportSocket, proxy_protocol_config::Version, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::config::listener::v3::ListenerFilter;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::{
    proxy_protocol::v3::ProxyProtocolUpstreamTransport, raw_buffer::v3::RawBuffer,
};
use envoy_types::pb::google::protobuf::Any;
use lateen_galley::istio::destination_rule::ProxyProtocolVersion;

/// Takes the header that every connection of a client begins with.
pub fn filter() -> ListenerFilter {
    listener::listener_filter("envoy.filters.listener.proxy_protocol", wire::any(&ProxyProtocol::default()))
}

/// Plain connections that begin with a header.
pub fn socket(version: ProxyProtocolVersion) -> TransportSocket {
    let version = match version {
        ProxyProtocolVersion::V1 => Version::V1,
        ProxyProtocolVersion::V2 => Version::V2,
    };
    let config = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig { version: version.into(), ..Default::default() }),
        transport_socket: Some(named("envoy.transport_sockets.raw_buffer", wire::any(&RawBuffer::default()))),
        ..Default::default()
    };
    named("envoy.transport_sockets.upstream_proxy_protocol", wire::any(&config))
}

fn named(name: &str, config: Any) -> TransportSocket {
    TransportSocket { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)) }
}
