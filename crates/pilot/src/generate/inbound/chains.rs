//! The filter chains of one port: which connections get in, what ends their TLS, and what they are taken for.
//!
//! Source: Istio `core/filterchain_options.go` (getFilterChainMatchOptions), `core/listener_inbound.go`
//! (inboundChainForOpts).

use super::tls::InboundTls;
use super::{InboundPort, bytes, chain_match, routes};
use crate::generate::http::{self, HttpSettings, Side};
use crate::generate::listener::{ChainMatch, RAW_BUFFER};
use crate::generate::wire;
use crate::names;
use crate::registry::Shape;
use crate::rules::{Access, PeerMode};
use envoy_types::pb::envoy::config::listener::v3::FilterChain;

/// Transport protocol of a connection that begins with a TLS hello.
const TLS: &str = "tls";
/// What sidecars offer (ALPN) for HTTP.
const MESH_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// What they offer for anything else.
const MESH_BYTES: [&str; 2] = ["istio-peer-exchange", "istio"];
/// Whatever they offer.
const MESH: [&str; 5] = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// One way in.
struct Way {
    matches: ChainMatch,
    ends_tls: bool,
    http: bool,
}

impl Way {
    fn tls(protocols: &[&'static str]) -> Way {
        let matches =
            ChainMatch { transport_protocol: TLS, application_protocols: protocols.to_vec(), ..ChainMatch::default() };
        Way { matches, ends_tls: true, http: false }
    }

    fn plain() -> Way {
        let matches = ChainMatch { transport_protocol: RAW_BUFFER, ..ChainMatch::default() };
        Way { matches, ends_tls: false, http: false }
    }

    fn plain_http() -> Way {
        Way { matches: ChainMatch::plaintext_http(), ends_tls: false, http: true }
    }

    fn http(self) -> Way {
        Way { http: true, ..self }
    }

    /// TLS that is not the mesh's, and goes to the workload as it is.
    fn through(self) -> Way {
        Way { ends_tls: false, ..self }
    }
}

/// The ways into a port of this shape. Where nothing fits, the connection is closed.
fn ways(shape: Shape, mode: PeerMode) -> Vec<Way> {
    match (shape, mode) {
        (Shape::Http, PeerMode::Disable) => vec![Way::plain().http()],
        (Shape::Http, PeerMode::Permissive) => vec![Way::tls(&MESH).http(), Way::plain().http()],
        (Shape::Http, PeerMode::Strict) => vec![Way::tls(&[]).http()],
        (Shape::Tcp, PeerMode::Disable) => vec![Way::plain()],
        (Shape::Tcp, PeerMode::Permissive) => vec![Way::tls(&MESH), Way::tls(&[]).through(), Way::plain()],
        (Shape::Tcp, PeerMode::Strict) => vec![Way::tls(&[])],
        (Shape::Auto, PeerMode::Disable) => vec![Way::plain_http(), Way::plain()],
        (Shape::Auto, PeerMode::Permissive) => vec![
            Way::tls(&MESH_HTTP).http(),
            Way::plain_http(),
            Way::tls(&MESH_BYTES),
            Way::plain(),
            Way::tls(&[]).through(),
        ],
        (Shape::Auto, PeerMode::Strict) => vec![Way::tls(&MESH_HTTP).http(), Way::tls(&[])],
    }
}

/// What all chains of a listener have in common.
pub struct Common<'a> {
    pub tls: &'a InboundTls,
    pub access: &'a Access,
    pub settings: &'a HttpSettings,
}

impl Common<'_> {
    /// The chains of a port that a service or a Sidecar speaks of.
    pub fn of_port(&self, port: &InboundPort) -> Vec<FilterChain> {
        let Some(shape) = port.protocol.shape() else { return Vec::new() };
        let cluster = names::inbound_cluster(port.port);
        let metadata = port.origin.as_deref().map(wire::config_metadata);
        let chain = |way: Way| {
            let filters = if way.http {
                let operation = names::trace_operation(&port.host, port.service_port);
                vec![http::with_routes(
                    Side::SidecarInbound { http2: port.protocol.is_http2() },
                    &format!("inbound_{}", port.name()),
                    routes(&cluster, port.service_port, &operation, !port.protocol.is_grpc()),
                    self.access,
                    self.settings,
                )]
            } else {
                bytes(&cluster, self.access, self.settings)
            };
            FilterChain {
                name: port.name(),
                filter_chain_match: Some(chain_match(Some(port.port), way.matches)),
                filters,
                transport_socket: way.ends_tls.then(|| self.tls.socket()),
                metadata: metadata.clone(),
                ..Default::default()
            }
        };
        ways(shape, port.mode).into_iter().map(chain).collect()
    }

    /// The chains of ports nobody speaks of, or of one that only a PeerAuthentication does.
    pub fn passing(&self, port: Option<u16>, mode: PeerMode) -> impl Iterator<Item = FilterChain> {
        let cluster = names::INBOUND_PASSTHROUGH_CLUSTER;
        ways(Shape::Auto, mode).into_iter().map(move |way| {
            let (name, filters) = if way.http {
                let side = Side::SidecarInbound { http2: false };
                let routes = routes(cluster, 0, ":0/*", true);
                let manager = http::with_routes(side, cluster, routes, self.access, self.settings);
                ("virtualInbound-catchall-http", vec![manager])
            } else {
                (names::VIRTUAL_INBOUND, bytes(cluster, self.access, self.settings))
            };
            FilterChain {
                name: name.to_owned(),
                filter_chain_match: Some(chain_match(port, way.matches)),
                filters,
                transport_socket: way.ends_tls.then(|| self.tls.socket()),
                ..Default::default()
            }
        })
    }
}
