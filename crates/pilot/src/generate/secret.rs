//! Where proxies get certificates and authorities from.
//!
//! Source: Istio `pkg/model/xds.go` (ConstructSdsSecretConfig), `pilot/pkg/security/model/authentication.go`.

use super::wire;
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
    let agent = grpc_service::EnvoyGrpc { cluster_name: AGENT.to_owned(), ..Default::default() };
    let api = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![GrpcService {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(agent)),
            ..Default::default()
        }],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            initial_fetch_timeout: Some(wire::duration(Duration::ZERO)),
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(api)),
            ..Default::default()
        }),
    }
}

/// A Secret of the cluster, which the control plane tells. It is waited for as long as Envoy waits by default, so that one
/// that is missing does not keep the rest from working.
pub fn of_cluster(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: format!("kubernetes://{name}"),
        sds_config: Some(ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
            ..Default::default()
        }),
    }
}
