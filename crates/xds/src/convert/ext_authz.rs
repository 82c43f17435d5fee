//! Questions to authorization services.
//!
//! - reject: services other than over Envoy's own HTTP and gRPC, repeated questions, rules for edits and their number,
//!   typed metadata, metadata of routes, labels of the proxy, answers that are only tried
//! - note: runtime keys (there is no runtime), spans, metadata and statistics for logs, statistics of connections

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    self as core, ApiVersion, HttpUri, RuntimeFeatureFlag, RuntimeFractionalPercent, grpc_service::EnvoyGrpc,
    grpc_service::TargetSpecifier, http_uri::HttpUpstreamType,
};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    self as pb, check_settings::ServiceOverride, ext_authz::Services, ext_authz_per_route,
};
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as NetworkExtAuthz;
use envoy_types::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;
use lateen_traffic::edit::{AddAction, HeaderAdd, HeaderEdits};
use lateen_traffic::ext_authz::{
    AskedPath, BodySettings, CheckSettings, ConnectionAuthz, ExtAuthz, GrpcService, HttpService, Names, OnFailure,
    Service, Taken, Told, When,
};
use lateen_traffic::filter::Override;
use lateen_traffic::filter::fault::Percentage;
use lateen_traffic::format::Format;
use lateen_traffic::matcher::StringMatcher;

use super::address::duration;
use super::fault::share;
use super::matcher::{field_name, string};
use super::metadata::metadata;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};

/// How long an answer may take unless it is said.
const TIMEOUT: Duration = Duration::from_millis(200);

/// What a service is told of a request over HTTP, whatever else.
const ALWAYS_TOLD: [&str; 4] = ["authorization", ":method", ":path", ":authority"];

/// The filter of a connection manager.
pub(super) fn http(value: pb::ExtAuthz, notes: &mut Notes) -> Result<ExtAuthz, Reject> {
    let pb::ExtAuthz {
        transport_api_version,
        failure_mode_allow,
        failure_mode_allow_header_add,
        with_request_body,
        clear_route_cache,
        status_on_error,
        validate_mutations,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        route_metadata_context_namespaces,
        route_typed_metadata_context_namespaces,
        filter_enabled,
        filter_enabled_metadata,
        deny_at_disable,
        include_peer_certificate,
        stat_prefix,
        bootstrap_metadata_labels_key,
        allowed_headers,
        disallowed_headers,
        include_tls_session,
        charge_cluster_response_stats,
        encode_raw_headers,
        decoder_header_mutation_rules,
        enable_dynamic_metadata_ingestion,
        filter_metadata,
        emit_filter_state_stats,
        max_denied_response_body_bytes,
        enforce_response_header_limits,
        shadow_mode,
        emit_client_span,
        services,
    } = value;
    reject_if_set!(
        typed_metadata_context_namespaces,
        route_metadata_context_namespaces,
        route_typed_metadata_context_namespaces,
        bootstrap_metadata_labels_key,
        decoder_header_mutation_rules,
        enforce_response_header_limits,
        shadow_mode,
    );
    note_if_set!(notes, "ExtAuthz": filter_metadata, emit_filter_state_stats, emit_client_span);
    version(transport_api_version)?;
    let (service, only_over_http) = match services {
        Some(Services::HttpService(service)) => {
            let (service, only) = http_service(service).at("http_service")?;
            (Service::Http(service), Some(only))
        }
        Some(Services::GrpcService(service)) => (Service::Grpc(grpc_service(service).at("grpc_service")?), None),
        None => return Err(Reject::new("neither http_service nor grpc_service")),
    };
    let allowed_headers = allowed_headers.map(names).transpose().at("allowed_headers")?;
    Ok(ExtAuthz {
        when: When {
            share: filter_enabled.map(|value| enabled(value, notes)).transpose().at("filter_enabled")?.unwrap_or(ALL),
            metadata: filter_enabled_metadata.map(metadata).transpose().at("filter_enabled_metadata")?,
            refuses_others: deny_at_disable.map(|flag| flagged(flag, notes)).transpose().at("deny_at_disable")?
                == Some(true),
        },
        body: with_request_body.map(body).transpose().at("with_request_body")?,
        told: Told {
            only: match only_over_http {
                Some(Some(_)) if allowed_headers.is_some() => {
                    let reason = "the service has some too, in authorization_request";
                    return Err(Reject::field("allowed_headers", reason));
                }
                Some(only) => Some(always_told(only.or(allowed_headers).unwrap_or_default())),
                None => allowed_headers,
            },
            but: disallowed_headers.map(names).transpose().at("disallowed_headers")?.unwrap_or_default(),
            raw: encode_raw_headers,
            certificate: include_peer_certificate,
            server_name: include_tls_session,
            metadata: metadata_context_namespaces.into_iter().map(Into::into).collect(),
        },
        failure: OnFailure {
            allows: failure_mode_allow,
            tells: failure_mode_allow_header_add,
            status: status(status_on_error),
        },
        taken: Taken {
            strictly: validate_mutations,
            metadata: enable_dynamic_metadata_ingestion.is_none_or(|on| on.value),
            reroutes: clear_route_cache,
            most_body: usize::try_from(max_denied_response_body_bytes).ok().filter(|most| *most > 0),
        },
        stat_prefix: if stat_prefix.is_empty() { "".into() } else { format!("{stat_prefix}.").into() },
        counts_refusals: charge_cluster_response_stats.is_none_or(|on| on.value),
        service: Arc::new(service),
    })
}

/// The filter of connections.
pub(super) fn network(value: NetworkExtAuthz) -> Result<ConnectionAuthz, Reject> {
    let NetworkExtAuthz {
        stat_prefix,
        grpc_service,
        failure_mode_allow,
        include_peer_certificate,
        transport_api_version,
        filter_enabled_metadata,
        bootstrap_metadata_labels_key,
        include_tls_session,
        send_tls_alert_on_denial,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        shadow_mode,
    } = value;
    reject_if_set!(
        bootstrap_metadata_labels_key,
        send_tls_alert_on_denial,
        typed_metadata_context_namespaces,
        shadow_mode,
    );
    if stat_prefix.is_empty() {
        return Err(Reject::field("stat_prefix", "empty"));
    }
    version(transport_api_version)?;
    let service = grpc_service.ok_or_else(|| Reject::field("grpc_service", "missing"))?;
    Ok(ConnectionAuthz {
        service: self::grpc_service(service).at("grpc_service")?,
        metadata: filter_enabled_metadata.map(metadata).transpose().at("filter_enabled_metadata")?,
        failure_allows: failure_mode_allow,
        told: Told {
            certificate: include_peer_certificate,
            server_name: include_tls_session,
            metadata: metadata_context_namespaces.into_iter().map(Into::into).collect(),
            ..Told::default()
        },
        stat_scope: format!("ext_authz.{stat_prefix}").into(),
    })
}

/// What a route says of the filter.
pub(super) fn per_route(value: pb::ExtAuthzPerRoute, notes: &mut Notes) -> Result<Override, Reject> {
    let pb::ExtAuthzPerRoute { r#override } = value;
    match r#override {
        Some(ext_authz_per_route::Override::Disabled(true)) => Ok(Override::Off),
        Some(ext_authz_per_route::Override::Disabled(false)) => Ok(Override::On),
        Some(ext_authz_per_route::Override::CheckSettings(settings)) => {
            let settings = check_settings(settings, notes).at("check_settings")?;
            Ok(Override::ExtAuthz(Arc::new(settings)))
        }
        None => Err(Reject::new("neither disabled nor check_settings")),
    }
}

fn check_settings(value: pb::CheckSettings, notes: &mut Notes) -> Result<CheckSettings, Reject> {
    let pb::CheckSettings {
        context_extensions,
        disable_request_body_buffering,
        with_request_body,
        emit_client_span,
        service_override,
    } = value;
    note_if_set!(notes, "CheckSettings": emit_client_span);
    if disable_request_body_buffering && with_request_body.is_some() {
        let reason = "both disable_request_body_buffering and with_request_body are set";
        return Err(Reject::field("with_request_body", reason));
    }
    let service = match service_override {
        // What the service is told is the filter's to say.
        Some(ServiceOverride::HttpService(service)) => Some(Service::Http(http_service(service).at("http_service")?.0)),
        Some(ServiceOverride::GrpcService(service)) => Some(Service::Grpc(grpc_service(service).at("grpc_service")?)),
        None => None,
    };
    Ok(CheckSettings {
        context: sorted(context_extensions),
        body: with_request_body.map(body).transpose().at("with_request_body")?,
        no_body: disable_request_body_buffering,
        service: service.map(Arc::new),
    })
}

fn sorted(map: HashMap<String, String>) -> Vec<(Arc<str>, Arc<str>)> {
    let mut all: Vec<(Arc<str>, Arc<str>)> = map.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    all.sort();
    all
}

/// The service, and the fields it is told if it says so itself.
fn http_service(value: pb::HttpService) -> Result<(HttpService, Option<Names>), Reject> {
    let pb::HttpService {
        server_uri,
        path_prefix,
        path_override,
        authorization_request,
        authorization_response,
        retry_policy,
    } = value;
    reject_if_set!(retry_policy);
    let server_uri = server_uri.ok_or_else(|| Reject::field("server_uri", "missing"))?;
    let (cluster, timeout) = self::server_uri(server_uri).at("server_uri")?;
    let path = match (path_prefix.as_str(), path_override.as_str()) {
        ("", path) if path.starts_with('/') => AskedPath::Instead(path_override.into()),
        (prefix, "") if prefix.is_empty() || prefix.starts_with('/') => AskedPath::Prefixed(path_prefix.into()),
        ("", _) => return Err(Reject::field("path_override", "must begin with a slash")),
        (_, "") => return Err(Reject::field("path_prefix", "must begin with a slash")),
        _ => return Err(Reject::field("path_override", "both path_prefix and path_override are set")),
    };
    let pb::AuthorizationRequest { allowed_headers, headers_to_add } = authorization_request.unwrap_or_default();
    let only = allowed_headers.map(names).transpose().at("allowed_headers").at("authorization_request")?;
    let pb::AuthorizationResponse {
        allowed_upstream_headers,
        allowed_upstream_headers_to_append,
        allowed_client_headers,
        allowed_client_headers_on_success,
        dynamic_metadata_from_headers,
    } = authorization_response.unwrap_or_default();
    let list = |field: &str, list: Option<ListStringMatcher>| {
        list.map(names).transpose().at(field).at("authorization_response").map(Option::unwrap_or_default)
    };
    let client = list("allowed_client_headers", allowed_client_headers)?;
    let service = HttpService {
        cluster,
        timeout,
        path,
        adds: set_fields("headers_to_add", headers_to_add).at("authorization_request")?,
        upstream: list("allowed_upstream_headers", allowed_upstream_headers)?,
        upstream_added: list("allowed_upstream_headers_to_append", allowed_upstream_headers_to_append)?,
        client: (!client.0.is_empty()).then_some(client),
        client_on_success: list("allowed_client_headers_on_success", allowed_client_headers_on_success)?,
        metadata: list("dynamic_metadata_from_headers", dynamic_metadata_from_headers)?,
    };
    Ok((service, only))
}

fn grpc_service(value: core::GrpcService) -> Result<GrpcService, Reject> {
    let core::GrpcService { timeout, initial_metadata, retry_policy, target_specifier } = value;
    reject_if_set!(retry_policy);
    let envoy = match target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(envoy)) => envoy,
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            return Err(Reject::field("google_grpc", "not supported: use envoy_grpc"));
        }
        None => return Err(Reject::field("envoy_grpc", "missing")),
    };
    let (cluster, authority, most, silent) = (|| {
        let EnvoyGrpc { cluster_name, authority, retry_policy, max_receive_message_length, skip_envoy_headers } = envoy;
        reject_if_set!(retry_policy);
        if cluster_name.is_empty() {
            return Err(Reject::field("cluster_name", "empty"));
        }
        let authority = if authority.is_empty() { cluster_name.clone() } else { authority };
        let most = max_receive_message_length.and_then(|most| usize::try_from(most.value).ok());
        Ok((cluster_name, authority, most, skip_envoy_headers))
    })()
    .at("envoy_grpc")?;
    Ok(GrpcService {
        cluster: cluster.into(),
        authority: authority.into(),
        timeout: answer_time("timeout", timeout)?,
        adds: set_fields("initial_metadata", initial_metadata)?,
        most,
        silent,
    })
}

fn server_uri(value: HttpUri) -> Result<(Arc<str>, Option<Duration>), Reject> {
    // Where the service is, its cluster says.
    let HttpUri { uri, timeout, http_upstream_type } = value;
    if uri.is_empty() {
        return Err(Reject::field("uri", "empty"));
    }
    let timeout = timeout.ok_or_else(|| Reject::field("timeout", "missing"))?;
    match http_upstream_type {
        Some(HttpUpstreamType::Cluster(name)) if !name.is_empty() => {
            Ok((name.into(), answer_time("timeout", Some(timeout))?))
        }
        Some(HttpUpstreamType::Cluster(_)) | None => Err(Reject::field("cluster", "missing")),
    }
}

/// How long an answer may take; zero is for ever.
fn answer_time(field: &str, value: Option<ProtoDuration>) -> Result<Option<Duration>, Reject> {
    let time = value.map(|value| duration(field, value)).transpose()?.unwrap_or(TIMEOUT);
    Ok(Some(time).filter(|time| !time.is_zero()))
}

/// Fields that are set, in place of others of the name.
fn set_fields(field: &str, values: Vec<core::HeaderValue>) -> Result<HeaderEdits, Reject> {
    let add = each(field, values, |value| {
        let core::HeaderValue { key, value, raw_value } = value;
        reject_if_set!(raw_value);
        let value = Format::parse(&value).map_err(|e| Reject::field("value", e))?;
        let name = field_name(&key).at("key")?;
        Ok(HeaderAdd { name, value, action: AddAction::OverwriteIfExistsOrAdd, keep_empty: false })
    })?;
    Ok(HeaderEdits { remove: Vec::new(), add })
}

fn names(value: ListStringMatcher) -> Result<Names, Reject> {
    let ListStringMatcher { patterns } = value;
    Ok(Names(each("patterns", patterns, string)?.into()))
}

fn always_told(names: Names) -> Names {
    Names(names.0.into_iter().chain(ALWAYS_TOLD.map(StringMatcher::exact)).collect())
}

fn body(value: pb::BufferSettings) -> Result<BodySettings, Reject> {
    let pb::BufferSettings { max_request_bytes, allow_partial_message, pack_as_bytes } = value;
    match usize::try_from(max_request_bytes) {
        Ok(most) if most > 0 => Ok(BodySettings { most, part: allow_partial_message, bytes: pack_as_bytes }),
        _ => Err(Reject::field("max_request_bytes", "must be above 0")),
    }
}

/// As in Envoy, what is no status is 403.
fn status(value: Option<HttpStatus>) -> u16 {
    let code = value.and_then(|HttpStatus { code }| u16::try_from(code).ok());
    code.filter(|code| (100..=511).contains(code)).unwrap_or(403)
}

const ALL: Percentage = Percentage { numerator: 100, denominator: 100 };

fn enabled(value: RuntimeFractionalPercent, notes: &mut Notes) -> Result<Percentage, Reject> {
    let RuntimeFractionalPercent { default_value, runtime_key } = value;
    note_if_set!(notes, "ExtAuthz.filter_enabled": runtime_key);
    if default_value.is_none() {
        return Err(Reject::field("default_value", "missing"));
    }
    share(default_value).at("default_value")
}

fn flagged(value: RuntimeFeatureFlag, notes: &mut Notes) -> Result<bool, Reject> {
    let RuntimeFeatureFlag { default_value, runtime_key } = value;
    note_if_set!(notes, "ExtAuthz.deny_at_disable": runtime_key);
    default_value.map(|value| value.value).ok_or_else(|| Reject::field("default_value", "missing"))
}

/// Refuses versions of the service's messages that are not spoken.
fn version(value: i32) -> Result<(), Reject> {
    match ApiVersion::try_from(value) {
        Ok(ApiVersion::V3) => Ok(()),
        _ => Err(Reject::field("transport_api_version", "must be V3")),
    }
}
