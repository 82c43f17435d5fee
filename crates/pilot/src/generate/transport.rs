//! What connections to a service's endpoints are made of: plain bytes, the mesh's mutual TLS, or TLS as a rule says.
//!
//! Source: Istio `core/cluster_tls.go`, `core/cluster_traffic_policy.go` (applyUpstreamProxyProtocol).

use super::{proxy_protocol, secret, wire};
use crate::credentials;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster::TransportSocketMatch};
use envoy_types::pb::envoy::config::core::v3::{
    TransportSocket, UpstreamHttpProtocolOptions, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, TlsParameters, UpstreamTlsContext,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    tls_parameters::TlsProtocol,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{Any, Struct};
use lateen_galley::ciphers;
use lateen_galley::istio::destination_rule::{ClientTlsMode, ClientTlsSettings, ProxyProtocolVersion};
use lateen_galley::mesh::{TlsConfig, TlsVersion};
use std::sync::Arc;

/// Metadata of endpoints by which connections to them are chosen, and what it says of those that speak the mesh's TLS.
pub const CHOICE: &str = "envoy.transport_socket_match";
pub const TLS_MODE: &str = "tlsMode";
pub const MESH: &str = "istio";

/// What connections to endpoints are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Bytes as they are.
    #[default]
    Plain,
    /// The mesh's mutual TLS.
    Mesh(MeshTls),
    /// The mesh's mutual TLS with endpoints that are marked as speaking it, bytes as they are with others.
    MeshWhereSpoken(MeshTls),
    /// TLS as a rule says.
    Own(Arc<OwnTls>),
}

/// The mesh's mutual TLS with a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MeshTls {
    pub server_name: String,
    /// Identities that endpoints may have; any of the mesh if empty.
    pub names: Arc<[String]>,
    /// The oldest version that the mesh allows.
    pub oldest: TlsVersion,
}

/// TLS as a rule says: SIMPLE or MUTUAL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnTls {
    pub settings: ClientTlsSettings,
    /// What the mesh says of all TLS that is not its own. Of the version it says nothing to clients.
    pub defaults: TlsConfig,
    /// Names that the server's certificate must have one of.
    pub names: Vec<String>,
    /// The host that requests name is verified even if a server name is given.
    pub hosts_named_by_requests: bool,
}

impl OwnTls {
    /// Whether the server's certificate may be anybody's.
    pub fn trusts_anybody(&self) -> bool {
        self.settings.insecure_skip_verify == Some(true)
    }
}

impl Transport {
    /// Writes it into a cluster. `http2`: nothing else is spoken to its endpoints.
    pub fn apply(&self, cluster: &mut Cluster, http2: bool, proxy_protocol: Option<ProxyProtocolVersion>) {
        let wrapped = |socket| match proxy_protocol {
            Some(version) => proxy_protocol::socket(version, socket),
            None => socket,
        };
        match self {
            Transport::Plain => {
                cluster.transport_socket = proxy_protocol.map(|version| proxy_protocol::socket(version, plain()));
            }
            Transport::Mesh(mesh) => cluster.transport_socket = Some(wrapped(tls(&mesh.context(http2)))),
            Transport::MeshWhereSpoken(mesh) => {
                let choice = |name: &str, labels, socket| TransportSocketMatch {
                    name: name.to_owned(),
                    r#match: Some(labels),
                    transport_socket: Some(wrapped(socket)),
                };
                cluster.transport_socket_matches = vec![
                    choice("tlsMode-istio", spoken(), tls(&mesh.context(http2))),
                    choice("tlsMode-disabled", Struct::default(), plain()),
                ];
            }
            Transport::Own(own) => cluster.transport_socket = Some(wrapped(tls(&own.context(http2)))),
        }
    }

    /// Names of the secrets that the control plane is asked for.
    pub fn credentials(&self) -> impl Iterator<Item = String> {
        let own = match self {
            Transport::Own(own) if !own.settings.credential_name.is_empty() => Some(own),
            _ => None,
        };
        own.into_iter().flat_map(|own| {
            let name = credentials::resource_name(&own.settings.credential_name);
            let authorities = (!own.trusts_anybody()).then(|| credentials::authorities_name(&name));
            let certificate = (own.settings.mode == ClientTlsMode::Mutual).then_some(name);
            certificate.into_iter().chain(authorities)
        })
    }

    /// What HTTP has to do with it: the server is asked for, and verified to be, the host that each request names, where
    /// the rule does not say.
    pub fn http_options(&self) -> Option<UpstreamHttpProtocolOptions> {
        let Transport::Own(own) = self else { return None };
        let auto_sni = own.settings.sni.is_empty();
        let unnamed = auto_sni && own.settings.subject_alt_names.is_empty();
        let auto_san_validation = (unnamed || own.hosts_named_by_requests) && !own.trusts_anybody();
        (auto_sni || auto_san_validation).then(|| UpstreamHttpProtocolOptions {
            auto_sni,
            auto_san_validation,
            ..Default::default()
        })
    }
}

/// What marks an endpoint that speaks the mesh's TLS.
pub fn spoken() -> Struct {
    wire::structure([(TLS_MODE, wire::text(MESH))])
}

impl MeshTls {
    fn context(&self, http2: bool) -> UpstreamTlsContext {
        let protocols: &[&str] = if http2 { &["istio", "h2"] } else { &["istio"] };
        UpstreamTlsContext {
            sni: self.server_name.clone(),
            common_tls_context: Some(CommonTlsContext {
                tls_params: Some(versions_of_mesh(self.oldest)),
                alpn_protocols: protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
                tls_certificate_sds_secret_configs: vec![secret::of_agent(secret::OWN)],
                validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                    CombinedCertificateValidationContext {
                        default_validation_context: Some(of_names(&self.names)),
                        validation_context_sds_secret_config: Some(secret::of_agent(secret::AUTHORITIES)),
                        ..Default::default()
                    },
                )),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

impl OwnTls {
    fn context(&self, http2: bool) -> UpstreamTlsContext {
        let settings = &self.settings;
        let shows_certificate = settings.mode == ClientTlsMode::Mutual;
        let (certificate, authorities) = match settings.credential_name.as_str() {
            "" => {
                let (certificate, key) = (&settings.client_certificate, &settings.private_key);
                let authorities = match settings.ca_certificates.as_str() {
                    "" => "system",
                    file => file,
                };
                (
                    secret::of_files(format!("file-cert:{certificate}~{key}")),
                    secret::of_authority_files(authorities, &settings.ca_crl),
                )
            }
            name => (secret::of_cluster(name), secret::of_cluster(&credentials::authorities_name(name))),
        };
        let verified = || {
            ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(of_names(&self.names)),
                validation_context_sds_secret_config: Some(authorities),
                ..Default::default()
            })
        };
        UpstreamTlsContext {
            sni: settings.sni.clone(),
            common_tls_context: Some(CommonTlsContext {
                tls_params: Some(TlsParameters {
                    cipher_suites: ciphers::spoken(&self.defaults.cipher_suites),
                    ecdh_curves: self.defaults.ecdh_curves.clone(),
                    ..versions()
                }),
                alpn_protocols: if http2 { vec!["h2".to_owned()] } else { Vec::new() },
                tls_certificate_sds_secret_configs: if shows_certificate { vec![certificate] } else { Vec::new() },
                validation_context_type: (!self.trusts_anybody()).then(verified),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// Envoy's own limit for clients is TLS 1.2.
fn versions() -> TlsParameters {
    TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        ..Default::default()
    }
}

/// Versions of the mesh's own TLS: 1.3, and 1.2 as well where the mesh says so.
pub fn versions_of_mesh(oldest: TlsVersion) -> TlsParameters {
    let minimum = match oldest {
        TlsVersion::V1_2 => TlsProtocol::TlSv12,
        TlsVersion::Auto | TlsVersion::V1_3 => TlsProtocol::TlSv13,
    };
    TlsParameters { tls_minimum_protocol_version: minimum.into(), ..versions() }
}

/// A certificate with one of these names, or any if there are none.
// The field that is not deprecated wants the kind of each name, which rules do not tell.
#[allow(deprecated)]
fn of_names(names: &[String]) -> CertificateValidationContext {
    let exactly =
        |name: &String| StringMatcher { match_pattern: Some(MatchPattern::Exact(name.clone())), ..Default::default() };
    CertificateValidationContext { match_subject_alt_names: names.iter().map(exactly).collect(), ..Default::default() }
}

fn tls(context: &UpstreamTlsContext) -> TransportSocket {
    named("envoy.transport_sockets.tls", wire::any(context))
}

fn plain() -> TransportSocket {
    named("envoy.transport_sockets.raw_buffer", wire::any(&RawBuffer::default()))
}

/// A transport socket of this name.
pub fn named(name: &str, config: Any) -> TransportSocket {
    TransportSocket { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)) }
}
