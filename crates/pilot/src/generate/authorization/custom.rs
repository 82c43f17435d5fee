//! Policies of action CUSTOM: rules that only find out which requests they are for, and a filter that asks a provider about
//! those.
//!
//! Source: Istio `pilot/pkg/security/authz/builder/extauthz.go`.

use super::named;
use crate::generate::wire;
use crate::names;
use crate::rules::{Access, Provider};
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, GrpcService, HeaderValue, HttpUri, grpc_service::EnvoyGrpc, grpc_service::TargetSpecifier,
    http_uri::HttpUpstreamType,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, filter::ConfigType};
use envoy_types::pb::envoy::config::rbac::v3::{Rbac, rbac::Action as Does};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService, ext_authz::Services,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as NetworkExtAuthz;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListStringMatcher, MetadataMatcher, StringMatcher, ValueMatcher, metadata_matcher::PathSegment,
    metadata_matcher::path_segment::Segment, string_matcher::MatchPattern, value_matcher::MatchPattern as ValuePattern,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Any, Duration as ProtoDuration};
use lateen_galley::mesh::{ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider, RequestBody};
use std::time::Duration;

const HTTP_RBAC: &str = "envoy.filters.http.rbac";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
/// Statistics and keys of rules that only find out.
const SHADOW: &str = "istio_ext_authz_";
/// Where it is told which of these rules matched.
const MATCHED: &str = "istio_ext_authz_shadow_effective_policy_id";
/// How their names begin.
const RULE: &str = "istio-ext-authz";
/// How those end that deny for want of a provider.
const BAD: &str = "-deny-due-to-bad-CUSTOM-action";
/// How long an answer may take unless the provider says so.
const PATIENCE: Duration = Duration::from_secs(600);

/// The rules, and who is asked about what they match. `None`: there is nobody to ask, so it is denied.
struct Custom<'a> {
    rules: Rbac,
    provider: Option<&'a Provider>,
}

fn custom(access: &Access, tcp: bool) -> Option<Custom<'_>> {
    access.custom().next()?;
    let provider = access.provider();
    let named = access.custom().flat_map(|policy| named(policy, access, tcp, &format!("{RULE}-{}-", policy.provider)));
    let named = named.map(|(name, rule)| (if provider.is_some() { name } else { format!("{name}{BAD}") }, rule));
    Some(Custom {
        rules: Rbac { action: Does::Deny.into(), policies: named.collect(), ..Default::default() },
        provider,
    })
}

/// The filters of an HTTP chain.
pub fn http_filters(access: &Access) -> Vec<HttpFilter> {
    let filter = |name: &str, config: Any| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    let Some(Custom { rules, provider }) = custom(access, false) else { return Vec::new() };
    let Some((provider, asks)) = provider.and_then(|provider| Some((provider, over_http(provider)?))) else {
        let denies = HttpRbac { rules: Some(rules), track_per_rule_stats: true, ..Default::default() };
        return vec![filter(HTTP_RBAC, wire::any(&denies))];
    };
    let finds_out =
        HttpRbac { shadow_rules: Some(rules), shadow_rules_stat_prefix: SHADOW.to_owned(), ..Default::default() };
    let asks = ExtAuthz {
        transport_api_version: ApiVersion::V3.into(),
        filter_enabled_metadata: Some(matched(HTTP_RBAC, provider)),
        ..asks
    };
    vec![filter(HTTP_RBAC, wire::any(&finds_out)), filter("envoy.filters.http.ext_authz", wire::any(&asks))]
}

/// The filters of a chain of bytes, about which only providers over gRPC can be asked.
pub fn network_filters(access: &Access) -> Vec<Filter> {
    let filter =
        |name: &str, config: Any| Filter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)) };
    let rbac = |rbac: NetworkRbac| NetworkRbac { stat_prefix: "tcp.".to_owned(), ..rbac };
    let Some(Custom { rules, provider }) = custom(access, true) else { return Vec::new() };
    let Some(provider) = provider else {
        let denies = rbac(NetworkRbac { rules: Some(rules), ..Default::default() });
        return vec![filter(NETWORK_RBAC, wire::any(&denies))];
    };
    let Some(grpc) = &provider.settings.envoy_ext_authz_grpc else { return Vec::new() };
    let finds_out = rbac(NetworkRbac {
        shadow_rules: Some(rules),
        shadow_rules_stat_prefix: SHADOW.to_owned(),
        ..Default::default()
    });
    let asks = NetworkExtAuthz {
        stat_prefix: "tcp.".to_owned(),
        grpc_service: Some(grpc_service(provider, grpc)),
        failure_mode_allow: grpc.fail_open,
        transport_api_version: ApiVersion::V3.into(),
        filter_enabled_metadata: Some(matched(NETWORK_RBAC, provider)),
        ..Default::default()
    };
    vec![filter(NETWORK_RBAC, wire::any(&finds_out)), filter("envoy.filters.network.ext_authz", wire::any(&asks))]
}

/// What a provider is asked about requests, and how.
fn over_http(provider: &Provider) -> Option<ExtAuthz> {
    let ExtensionProvider { name: _, envoy_ext_authz_http, envoy_ext_authz_grpc } = &*provider.settings;
    if let Some(http) = envoy_ext_authz_http {
        let told = match http.include_request_headers_in_check.as_slice() {
            [] => &http.include_headers_in_check,
            told => told,
        };
        return Some(ExtAuthz {
            services: Some(Services::HttpService(http_service(provider, http))),
            allowed_headers: names_of(told),
            failure_mode_allow: http.fail_open,
            status_on_error: status(&http.status_on_error),
            with_request_body: http.include_request_body_in_check.map(body),
            clear_route_cache: http.clear_route_cache,
            ..Default::default()
        });
    }
    let grpc = envoy_ext_authz_grpc.as_ref()?;
    Some(ExtAuthz {
        services: Some(Services::GrpcService(grpc_service(provider, grpc))),
        failure_mode_allow: grpc.fail_open,
        status_on_error: status(&grpc.status_on_error),
        with_request_body: grpc.include_request_body_in_check.map(body),
        clear_route_cache: grpc.clear_route_cache,
        ..Default::default()
    })
}

fn http_service(provider: &Provider, http: &ExtAuthzHttp) -> HttpService {
    let adds = http.include_additional_headers_in_check.iter().map(|(key, value)| HeaderValue {
        key: key.clone(),
        value: value.clone(),
        ..Default::default()
    });
    let adds: Vec<HeaderValue> = adds.collect();
    let response = AuthorizationResponse {
        allowed_upstream_headers: names_of(&http.headers_to_upstream_on_allow),
        allowed_client_headers: names_of(&http.headers_to_downstream_on_deny),
        allowed_client_headers_on_success: names_of(&http.headers_to_downstream_on_allow),
        ..Default::default()
    };
    HttpService {
        path_prefix: http.path_prefix.clone(),
        server_uri: Some(HttpUri {
            uri: format!("http://{}", provider.host),
            timeout: timeout(http.timeout),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster(provider))),
        }),
        authorization_request: (!adds.is_empty())
            .then(|| AuthorizationRequest { headers_to_add: adds, ..Default::default() }),
        authorization_response: (response != AuthorizationResponse::default()).then_some(response),
        ..Default::default()
    }
}

fn grpc_service(provider: &Provider, grpc: &ExtAuthzGrpc) -> GrpcService {
    let envoy =
        EnvoyGrpc { authority: provider.host.to_string(), cluster_name: cluster(provider), ..Default::default() };
    GrpcService {
        timeout: timeout(grpc.timeout),
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)),
        ..Default::default()
    }
}

fn cluster(provider: &Provider) -> String {
    names::outbound_cluster(provider.port, "", &provider.host)
}

fn timeout(given: Option<lateen_galley::istio::Duration>) -> Option<ProtoDuration> {
    Some(wire::duration(given.map_or(PATIENCE, |given| given.get())))
}

/// What of the rules have to have found out.
fn matched(filter: &str, provider: &Provider) -> MetadataMatcher {
    let prefix = format!("{RULE}-{}", provider.settings.name);
    let value = StringMatcher { match_pattern: Some(MatchPattern::Prefix(prefix)), ..Default::default() };
    MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![PathSegment { segment: Some(Segment::Key(MATCHED.to_owned())) }],
        value: Some(ValueMatcher { match_pattern: Some(ValuePattern::StringMatch(value)) }),
        ..Default::default()
    }
}

/// Names of header fields, in whatever case.
fn names_of(names: &[String]) -> Option<ListStringMatcher> {
    let patterns = names.iter().map(|name| {
        let pattern = match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (Some(end), _) => MatchPattern::Suffix(end.to_owned()),
            (None, Some(start)) => MatchPattern::Prefix(start.to_owned()),
            (None, None) => MatchPattern::Exact(name.clone()),
        };
        StringMatcher { ignore_case: true, match_pattern: Some(pattern) }
    });
    (!names.is_empty()).then(|| ListStringMatcher { patterns: patterns.collect() })
}

fn status(text: &str) -> Option<HttpStatus> {
    text.parse().ok().map(|code| HttpStatus { code })
}

fn body(given: RequestBody) -> BufferSettings {
    let RequestBody { max_request_bytes, allow_partial_message, pack_as_bytes } = given;
    BufferSettings { max_request_bytes, allow_partial_message, pack_as_bytes }
}
