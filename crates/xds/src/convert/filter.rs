//! HTTP filters of a connection manager.
//!
//! - reject: every filter not named here, unless it is optional; a chain that does not end in the router
//! - note: gRPC statistics, compression; optional filters left out; the router's own logs and statistics

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::FilterConfig as DynamicForwardProxy;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::google::protobuf::Any;
use lateen_traffic::filter::{Filter, FilterKind};

use super::address::{type_name, unpack};
use super::alpn;
use super::dynamic_forward_proxy;
use super::ext_authz;
use super::fault::fault;
use super::jwt;
use super::rbac;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};
use crate::istio::AlpnFilterConfig;

/// What a connection manager's filters say.
pub(super) struct HttpFilters {
    /// Those before the router that do anything.
    pub filters: Vec<Filter>,
    /// The router's setting.
    pub suppress_envoy_headers: bool,
}

/// One filter of a chain.
enum Converted {
    /// Carried out before the router.
    Before(Filter),
    /// Nothing to carry out.
    Nothing,
    /// The router.
    Router { suppress_envoy_headers: bool },
}

/// Goes through the filters of a chain. The router is last, as Envoy demands of a terminal filter.
pub(super) fn http_filters(filters: Vec<HttpFilter>, notes: &mut Notes) -> Result<HttpFilters, Reject> {
    let last = filters.len().checked_sub(1).ok_or_else(|| Reject::field("http_filters", "empty"))?;
    let mut before = Vec::new();
    let mut router = None;
    let mut at = 0;
    each("http_filters", filters, |filter| {
        let converted = http_filter(filter, notes)?;
        if matches!(converted, Converted::Router { .. }) != (at == last) {
            return Err(Reject::new("the router must be the last filter"));
        }
        at += 1;
        match converted {
            Converted::Before(filter) => before.push(filter),
            Converted::Nothing => {}
            Converted::Router { suppress_envoy_headers } => router = Some(suppress_envoy_headers),
        }
        Ok(())
    })?;
    let suppress_envoy_headers =
        router.ok_or_else(|| Reject::field("http_filters", "the router must be the last filter"))?;
    Ok(HttpFilters { filters: before, suppress_envoy_headers })
}

fn http_filter(filter: HttpFilter, notes: &mut Notes) -> Result<Converted, Reject> {
    let HttpFilter { name, is_optional, disabled, config_type } = filter;
    let any = match config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => any,
        Some(http_filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(Reject::field("config_discovery", "not supported yet"));
        }
        None => return Err(Reject::field("typed_config", format_args!("missing for {name:?}"))),
    };
    if let Some(router) = unpack::<Router>(&any).at("typed_config")? {
        return self::router(router, notes).at("typed_config");
    }
    let kind = if let Some(settings) = unpack::<HttpFault>(&any).at("typed_config")? {
        Some(FilterKind::Fault(Arc::new(fault(settings, notes).at("typed_config")?)))
    } else if let Some(GrpcWeb {}) = unpack::<GrpcWeb>(&any).at("typed_config")? {
        Some(FilterKind::GrpcWeb)
    } else if let Some(Cors {}) = unpack::<Cors>(&any).at("typed_config")? {
        Some(FilterKind::Cors)
    } else if let Some(rbac) = unpack::<Rbac>(&any).at("typed_config")? {
        // A filter without rules still names the place where a route's rules act.
        let rbac = rbac::http(rbac).at("typed_config")?;
        Some(FilterKind::Rbac(Arc::new(rbac)))
    } else if let Some(jwt) = unpack::<JwtAuthentication>(&any).at("typed_config")? {
        Some(FilterKind::Jwt(Arc::new(jwt::jwt_authn(jwt, notes).at("typed_config")?)))
    } else if let Some(config) = unpack::<AlpnFilterConfig>(&any).at("typed_config")? {
        Some(FilterKind::Alpn(Arc::new(alpn::alpn(config).at("typed_config")?)))
    } else if let Some(settings) = unpack::<ExtAuthz>(&any).at("typed_config")? {
        Some(FilterKind::ExtAuthz(Arc::new(ext_authz::http(settings, notes).at("typed_config")?)))
    } else {
        None
    };
    if let Some(kind) = kind {
        return Ok(Converted::Before(Filter { name: name.into(), disabled, kind }));
    }
    if carried_out(&any, notes).at("typed_config")? {
        return Ok(Converted::Nothing);
    }
    if is_optional {
        notes.add("HttpFilter.is_optional");
        return Ok(Converted::Nothing);
    }
    // Also if it is disabled: a route could enable it.
    let reason = format_args!("filter {name:?} of type {} is not supported yet", type_name(&any.type_url));
    Err(Reject::field("typed_config", reason))
}

/// Whether leaving the filter out changes nothing but statistics.
fn carried_out(any: &Any, notes: &mut Notes) -> Result<bool, Reject> {
    match type_name(&any.type_url) {
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {
            notes.add("HttpFilter.grpc_stats");
            Ok(true)
        }
        // A client that asks for compression must take an answer without it (RFC 9110 section 12.5.3).
        "envoy.extensions.filters.http.compressor.v3.Compressor" => {
            notes.add("HttpFilter.compressor");
            Ok(true)
        }
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig" => {
            let Some(config) = unpack::<DynamicForwardProxy>(any)? else { return Ok(false) };
            dynamic_forward_proxy::http_filter(config, notes)?;
            notes.add("HttpFilter.dynamic_forward_proxy");
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn router(router: Router, notes: &mut Notes) -> Result<Converted, Reject> {
    let Router {
        dynamic_stats,
        start_child_span,
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats,
        upstream_http_filters,
        reject_connect_request_early_data,
    } = router;
    reject_if_set!(strict_check_headers, respect_expected_rq_timeout, upstream_http_filters);
    note_if_set!(notes, "Router":
        dynamic_stats, start_child_span, upstream_log, upstream_log_options,
        suppress_grpc_request_failure_code_stats, reject_connect_request_early_data);
    Ok(Converted::Router { suppress_envoy_headers })
}
