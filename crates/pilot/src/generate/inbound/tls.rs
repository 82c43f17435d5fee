//! Mutual TLS with peers of the mesh, as servers end it.
//!
//! Source: Istio `pilot/pkg/security/authn/utils/utils.go` (BuildInboundTLS), `pilot/pkg/security/model/authentication.go`
//! (ApplyToCommonTLSContext).

use crate::config::Config;
use crate::generate::{secret, transport, wire};
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher, TlsParameters,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use lateen_galley::ciphers;
use lateen_galley::mesh::{TlsConfig, TlsVersion};

/// Suites of TLS 1.2, if the mesh says nothing of them.
const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];
/// What is spoken inside. The names by which chains know the mesh's connections are not among them: one would be agreed
/// on in place of HTTP/2. Nor is `istio-peer-exchange`, whose filter no proxy is told to have.
const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// How mutual TLS is ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct InboundTls {
    /// Whose workloads are let in.
    pub trust_domains: Vec<String>,
    pub mesh: TlsConfig,
}

impl InboundTls {
    /// As the mesh has it.
    pub fn of_mesh(config: &Config) -> InboundTls {
        InboundTls { trust_domains: config.trust_domains_let_in(), mesh: config.mesh_mtls.clone() }
    }

    /// The socket of a chain.
    pub fn socket(&self) -> TransportSocket {
        let oldest = self.mesh.min_protocol_version;
        let suites = match self.mesh.cipher_suites.as_slice() {
            _ if oldest != TlsVersion::V1_2 => Vec::new(),
            [] => CIPHER_SUITES.map(str::to_owned).to_vec(),
            given => ciphers::spoken(given),
        };
        let peers = self.trust_domains.iter().map(|domain| SubjectAltNameMatcher {
            san_type: SanType::Uri.into(),
            matcher: Some(StringMatcher {
                match_pattern: Some(MatchPattern::Prefix(format!("spiffe://{domain}/"))),
                ..Default::default()
            }),
            ..Default::default()
        });
        let validation = CombinedCertificateValidationContext {
            default_validation_context: Some(CertificateValidationContext {
                match_typed_subject_alt_names: peers.collect(),
                ..Default::default()
            }),
            validation_context_sds_secret_config: Some(secret::of_agent(secret::AUTHORITIES)),
            ..Default::default()
        };
        let context = DownstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                tls_params: Some(TlsParameters { cipher_suites: suites, ..transport::versions_of_mesh(oldest) }),
                alpn_protocols: PROTOCOLS.map(str::to_owned).to_vec(),
                tls_certificate_sds_secret_configs: vec![secret::of_agent(secret::OWN)],
                validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
                ..Default::default()
            }),
            require_client_certificate: Some(wire::truth(true)),
            ..Default::default()
        };
        TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(wire::any(&context))),
        }
    }
}
