//! How a gateway's server speaks TLS: the transport socket of its filter chain.
//!
//! Source: Istio `core/listener.go` (BuildListenerTLSContext), `pilot/pkg/security/model/authentication.go`.

use super::{secret, transport, wire};
use crate::credentials;
use envoy_types::pb::envoy::config::core::v3::TransportSocket;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters,
    certificate_validation_context::TrustChainVerification,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    tls_parameters,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use lateen_galley::ciphers;
use lateen_galley::istio::gateway::{ServerTlsMode, ServerTlsSettings, TlsProtocol};
use lateen_galley::mesh::{TlsConfig, TlsVersion};
use std::sync::Arc;

/// TLS of a server that ends it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerTls {
    pub settings: Arc<ServerTlsSettings>,
    /// What holds where the server does not say.
    pub defaults: TlsConfig,
    /// The oldest version that the mesh allows of its own TLS.
    pub oldest_of_mesh: TlsVersion,
    /// What is inside is HTTP.
    pub http: bool,
}

impl ServerTls {
    /// Names of the secrets that the control plane is asked for.
    pub fn credentials(&self) -> Vec<String> {
        let mut names = self.certificates();
        names.extend(self.authorities().filter(|_| self.settings.mode.looks_at_clients()));
        names
    }

    /// The transport socket.
    pub fn socket(&self) -> TransportSocket {
        let mode = self.settings.mode;
        let mut application_protocols = vec!["h2".to_owned(), "http/1.1".to_owned()];
        if mode == ServerTlsMode::IstioMutual && !self.http {
            application_protocols.insert(0, "istio-peer-exchange".to_owned());
        }
        let (certificates, authorities) = self.secrets();
        let context = DownstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                tls_params: self.parameters(),
                alpn_protocols: application_protocols,
                tls_certificate_sds_secret_configs: certificates,
                validation_context_type: authorities.filter(|_| mode.looks_at_clients()).map(|authorities| {
                    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                        default_validation_context: Some(self.validation()),
                        validation_context_sds_secret_config: Some(authorities),
                        ..Default::default()
                    })
                }),
                ..Default::default()
            }),
            require_client_certificate: Some(wire::truth(matches!(
                mode,
                ServerTlsMode::Mutual | ServerTlsMode::IstioMutual
            ))),
            ..Default::default()
        };
        transport::named("envoy.transport_sockets.tls", wire::any(&context))
    }

    fn certificates(&self) -> Vec<String> {
        let ServerTlsSettings { credential_name, credential_names, .. } = &*self.settings;
        let one = Some(credential_name).filter(|name| !name.is_empty());
        let all = if credential_names.is_empty() {
            one.into_iter().collect()
        } else {
            credential_names.iter().collect::<Vec<_>>()
        };
        all.into_iter().map(|name| credentials::resource_name(name)).collect()
    }

    /// Authorities by which clients are checked; of several certificates the first one's Secret has them.
    fn authorities(&self) -> Option<String> {
        match self.settings.ca_cert_credential_name.as_str() {
            "" => self.certificates().first().map(|name| credentials::authorities_name(name)),
            name => Some(credentials::authorities_name(name)),
        }
    }

    fn secrets(&self) -> (Vec<SdsSecretConfig>, Option<SdsSecretConfig>) {
        let settings = &self.settings;
        if settings.mode == ServerTlsMode::IstioMutual {
            return (vec![secret::of_agent(secret::OWN)], Some(secret::of_agent(secret::AUTHORITIES)));
        }
        let certificates = self.certificates();
        if !certificates.is_empty() {
            let certificates = certificates.iter().map(|name| secret::of_cluster(name)).collect();
            return (certificates, self.authorities().map(|name| secret::of_cluster(&name)));
        }
        let file = |certificate: &str, key: &str| secret::of_files(format!("file-cert:{certificate}~{key}"));
        let certificates = if settings.tls_certificates.is_empty() {
            vec![file(&settings.server_certificate, &settings.private_key)]
        } else {
            settings.tls_certificates.iter().map(|pair| file(&pair.server_certificate, &pair.private_key)).collect()
        };
        (certificates, Some(secret::of_authority_files(&settings.ca_certificates, &settings.ca_crl)))
    }

    /// What is asked of clients' certificates beside their authorities.
    // The newer field for names asks for their kind, and Gateways do not say it.
    #[allow(deprecated)]
    fn validation(&self) -> CertificateValidationContext {
        let ServerTlsSettings {
            subject_alt_names,
            verify_certificate_spki,
            verify_certificate_hash,
            insecure_skip_verify,
            ..
        } = &*self.settings;
        let exactly = |name: &String| StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.clone())),
            ..Default::default()
        };
        CertificateValidationContext {
            match_subject_alt_names: subject_alt_names.iter().map(exactly).collect(),
            verify_certificate_spki: verify_certificate_spki.clone(),
            verify_certificate_hash: verify_certificate_hash.clone(),
            trust_chain_verification: match insecure_skip_verify {
                Some(true) => TrustChainVerification::AcceptUntrusted,
                _ => TrustChainVerification::VerifyTrustChain,
            }
            .into(),
            ..Default::default()
        }
    }

    /// Versions, ciphers and groups, if anybody says anything of them. The mesh's own TLS is not up to the server.
    fn parameters(&self) -> Option<TlsParameters> {
        let (settings, defaults) = (&self.settings, &self.defaults);
        if settings.mode == ServerTlsMode::IstioMutual {
            return Some(transport::versions_of_mesh(self.oldest_of_mesh));
        }
        let min = match (settings.min_protocol_version, defaults.min_protocol_version) {
            (TlsProtocol::Auto, TlsVersion::Auto) => TlsProtocol::Auto,
            (TlsProtocol::Auto, TlsVersion::V1_2) => TlsProtocol::V1_2,
            (TlsProtocol::Auto, TlsVersion::V1_3) => TlsProtocol::V1_3,
            (min, _) => min,
        };
        let of = |own: &[String], default: &[String]| if own.is_empty() { default.to_vec() } else { own.to_vec() };
        let parameters = TlsParameters {
            tls_minimum_protocol_version: version(min).into(),
            tls_maximum_protocol_version: version(settings.max_protocol_version).into(),
            cipher_suites: ciphers::spoken(&of(&settings.cipher_suites, &defaults.cipher_suites)),
            ecdh_curves: of(&settings.ecdh_curves, &defaults.ecdh_curves),
            ..Default::default()
        };
        (parameters != TlsParameters::default()).then_some(parameters)
    }
}

fn version(protocol: TlsProtocol) -> tls_parameters::TlsProtocol {
    match protocol {
        TlsProtocol::Auto => tls_parameters::TlsProtocol::TlsAuto,
        TlsProtocol::V1_0 => tls_parameters::TlsProtocol::TlSv10,
        TlsProtocol::V1_1 => tls_parameters::TlsProtocol::TlSv11,
        TlsProtocol::V1_2 => tls_parameters::TlsProtocol::TlSv12,
        TlsProtocol::V1_3 => tls_parameters::TlsProtocol::TlSv13,
    }
}
