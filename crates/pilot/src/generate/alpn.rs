//! Saying by ALPN that HTTP comes: so a server's sidecar takes it as HTTP where a port does not say what it serves.
//!
//! Source: Istio `core/listener_builder.go`, `xdsfilters/filters.go` (Alpn). Clusters with TLS of their own keep the filter off.

use super::wire;
use envoy_types::pb::google::protobuf::Any;
use lateen_xds::istio::{AlpnFilterConfig, AlpnOverride, AlpnProtocol};

pub const FILTER: &str = "istio.alpn";

/// What is offered to servers, by the version of HTTP they are spoken to.
pub fn config() -> Any {
    let offer = |version: AlpnProtocol, names: [&str; 3]| AlpnOverride {
        upstream_protocol: version.into(),
        alpn_override: names.map(str::to_owned).into(),
    };
    wire::any(&AlpnFilterConfig {
        alpn_override: vec![
            offer(AlpnProtocol::Http10, ["istio-http/1.0", "istio", "http/1.0"]),
            offer(AlpnProtocol::Http11, ["istio-http/1.1", "istio", "http/1.1"]),
            offer(AlpnProtocol::Http2, ["istio-h2", "istio", "h2"]),
        ],
    })
}
