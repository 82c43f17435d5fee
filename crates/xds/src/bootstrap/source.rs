//! Where a bootstrap says that resources come from.

use envoy_types::pb::envoy::config::core::v3::{
    self as core, api_config_source::ApiType, config_source::ConfigSourceSpecifier, grpc_service,
};

use super::{Ads, ResourceSource};
use crate::ads::Protocol;
use crate::convert::{At as _, Notes, Reject, note_if_set, reject_if_set};

/// The ADS server of `ads_config`.
pub(crate) fn ads(config: core::ApiConfigSource, notes: &mut Notes) -> Result<Ads, Reject> {
    let core::ApiConfigSource {
        api_type,
        transport_api_version,
        cluster_names,
        mut grpc_services,
        refresh_delay,
        request_timeout,
        rate_limit_settings,
        // The node is sent on the first message only, whichever is asked: streams know their client after it.
        set_node_on_first_message_only: _,
        config_validators,
    } = config;
    reject_if_set!(cluster_names, config_validators);
    note_if_set!(notes, "ApiConfigSource": refresh_delay, request_timeout, rate_limit_settings);
    if transport_api_version == core::ApiVersion::V2 as i32 {
        return Err(Reject::new("V2 is not supported")).at("transport_api_version");
    }
    let protocol = match ApiType::try_from(api_type) {
        Ok(ApiType::Grpc) => Protocol::StateOfTheWorld,
        Ok(ApiType::DeltaGrpc) => Protocol::Delta,
        _ => return Err(Reject::new("only GRPC and DELTA_GRPC are supported")).at("api_type"),
    };
    if grpc_services.len() != 1 {
        return Err(Reject::new("exactly one service is needed")).at("grpc_services");
    }
    let service = grpc_services.remove(0);
    let (cluster, authority) = grpc_service(service, notes).at("[0]").at("grpc_services")?;
    Ok(Ads { cluster: cluster.into(), protocol, authority })
}

fn grpc_service(service: core::GrpcService, notes: &mut Notes) -> Result<(String, Option<String>), Reject> {
    let core::GrpcService { timeout, initial_metadata, retry_policy, target_specifier } = service;
    reject_if_set!(initial_metadata);
    note_if_set!(notes, "GrpcService": timeout, retry_policy);
    match target_specifier {
        Some(grpc_service::TargetSpecifier::EnvoyGrpc(target)) => {
            let grpc_service::EnvoyGrpc {
                cluster_name,
                authority,
                retry_policy,
                max_receive_message_length,
                skip_envoy_headers,
            } = target;
            note_if_set!(notes, "EnvoyGrpc": retry_policy, max_receive_message_length, skip_envoy_headers);
            if cluster_name.is_empty() {
                return Err(Reject::new("empty")).at("envoy_grpc.cluster_name");
            }
            Ok((cluster_name, Some(authority).filter(|authority| !authority.is_empty())))
        }
        Some(grpc_service::TargetSpecifier::GoogleGrpc(_)) => {
            Err(Reject::new("not supported: use envoy_grpc")).at("google_grpc")
        }
        None => Err(Reject::new("missing")).at("envoy_grpc"),
    }
}

/// Where listeners or clusters come from.
pub(super) fn resources(config: core::ConfigSource, notes: &mut Notes) -> Result<ResourceSource, Reject> {
    let core::ConfigSource { authorities, initial_fetch_timeout, resource_api_version, config_source_specifier } =
        config;
    reject_if_set!(authorities);
    let waits_for_ever = initial_fetch_timeout.is_none_or(|timeout| timeout.seconds == 0 && timeout.nanos == 0);
    notes.add_if(!waits_for_ever, "ConfigSource.initial_fetch_timeout");
    if resource_api_version == core::ApiVersion::V2 as i32 {
        return Err(Reject::new("V2 is not supported")).at("resource_api_version");
    }
    match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(ResourceSource::Ads),
        Some(ConfigSourceSpecifier::Path(path)) => Ok(ResourceSource::File(path.into())),
        Some(ConfigSourceSpecifier::PathConfigSource(source)) => {
            let core::PathConfigSource { path, watched_directory, poll_interval } = source;
            // The file is looked at again and again, wherever a change of it comes from.
            note_if_set!(notes, "PathConfigSource": watched_directory, poll_interval);
            Ok(ResourceSource::File(path.into()))
        }
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => {
            Err(Reject::new("not supported: use ads")).at("api_config_source")
        }
        None => Err(Reject::new("no config source")),
    }
}
