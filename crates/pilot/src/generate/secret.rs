//! Where proxies get certificates and authorities from.
//!
//! Source: Istio `pkg/model/xds.go` (ConstructSdsSecretConfig), `pilot/pkg/security/model/authentication.go`.

use super::wire;
use crate::credentials;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, GrpcService, api_config_source::ApiType,
    config_source::ConfigSourceSpecifier, grpc_service,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig;
use std::time::Duration;

/// The workload's own certificate and key.
pub const OWN: &str = "default";
/// The mesh's authorities.
pub const AUTHORITIES: &str = "ROOTCA";
/// The bootstrap's name of the agent that tells them.
const AGENT: &str = "sds-grpc";

/// A secret that the agent beside the proxy tells; it is waited for.
pub fn of_agent(name: &str) -> SdsSecretConfig {
    let source = ConfigSource { initial_fetch_timeout: Some(wire::duration(Duration::ZERO)), ..agent() };
    SdsSecretConfig { name: name.to_owned(), sds_config: Some(source) }
}

/// Files of the pod, which the agent reads and follows. Like all that may be missing they are waited for as long as Envoy
/// waits by default, so that the rest works without them.
pub fn of_files(name: String) -> SdsSecretConfig {
    SdsSecretConfig { name, sds_config: Some(agent()) }
}

/// Authorities in a file of the pod, and what they revoked, if a file is named for that (`~` and its path: our agent's own
/// addition to Istio's names). Envoy would read a list that the context itself names once, and never again.
pub fn of_authority_files(authorities: &str, revoked: &str) -> SdsSecretConfig {
    let revoked = if revoked.is_empty() { String::new() } else { format!("~{revoked}") };
    of_files(format!("file-root:{authorities}{revoked}"))
}

/// A Secret of the cluster, which the control plane tells. It is waited for as long as Envoy waits by default, so that one
/// that is missing does not keep the rest from working.
pub fn of_cluster(name: &str) -> SdsSecretConfig {
    let source = source(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default()));
    SdsSecretConfig { name: credentials::resource_name(name), sds_config: Some(source) }
}

fn agent() -> ConfigSource {
    let agent = grpc_service::EnvoyGrpc { cluster_name: AGENT.to_owned(), ..Default::default() };
    source(ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![GrpcService {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(agent)),
            ..Default::default()
        }],
        set_node_on_first_message_only: true,
        ..Default::default()
    }))
}

fn source(specifier: ConfigSourceSpecifier) -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(specifier),
        ..Default::default()
    }
}
