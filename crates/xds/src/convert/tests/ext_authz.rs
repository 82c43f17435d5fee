//! Questions to authorization services: what settings mean, and what is refused of them.

use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::ext_authz::{AskedPath, BodySettings, ExtAuthz, Service};
use lateen_traffic::filter::FilterKind;
use lateen_traffic::filter::fault::Percentage;

use super::{manager, noted, routes};

const ROUTER: &str =
    "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";
const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3";

/// A service over HTTP, its settings beside its address.
fn over_http(more: &str) -> String {
    format!("http_service: {{server_uri: {{uri: u, cluster: auth, timeout: 1s}}, {more}}}")
}

fn fields(settings: &str) -> String {
    format!(
        "http_filters: [{{name: a, typed_config: {{'@type': {TYPE}.ExtAuthz, transport_api_version: V3, {settings}}}}}, {ROUTER}]"
    )
}

fn filter(settings: &str) -> (Arc<ExtAuthz>, Vec<&'static str>) {
    let (hcm, notes) = manager(&fields(settings)).unwrap();
    match &hcm.filters[0].kind {
        FilterKind::ExtAuthz(filter) => (filter.clone(), noted(&notes)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_said_is_as_in_envoy() {
    let (plain, notes) = filter(&over_http(""));
    assert!(notes.is_empty());
    assert_eq!(plain.when.share, Percentage { numerator: 100, denominator: 100 });
    assert!(plain.when.metadata.is_none() && !plain.when.refuses_others && plain.body.is_none());
    assert!(!plain.failure.allows && !plain.failure.tells && plain.failure.status == 403);
    assert!(plain.counts_refusals && plain.taken.metadata && !plain.taken.reroutes && !plain.taken.strictly);
    assert_eq!((&*plain.stat_prefix, plain.taken.most_body), ("", None));
    let only = plain.told.only.as_ref().unwrap();
    assert!(only.contain("authorization") && only.contain(":path") && !only.contain("cookie"));
    let Service::Http(service) = &*plain.service else { panic!() };
    assert_eq!((&*service.cluster, service.timeout), ("auth", Some(Duration::from_secs(1))));
    assert!(service.client.is_none() && service.upstream.0.is_empty());
    assert!(matches!(&service.path, AskedPath::Prefixed(prefix) if prefix.is_empty()));
    let (grpc, _) = filter("grpc_service: {envoy_grpc: {cluster_name: auth}}");
    assert!(grpc.told.only.is_none(), "all fields are told over gRPC");
    let Service::Grpc(service) = &*grpc.service else { panic!() };
    assert_eq!((&*service.authority, service.timeout), ("auth", Some(Duration::from_millis(200))));
}

#[test]
fn settings_mean_what_envoys_do() {
    let service = over_http(
        "path_prefix: /check, authorization_request: {headers_to_add: [{key: X-A, value: '%PROTOCOL%'}]}, \
         authorization_response: {allowed_client_headers: {patterns: [{prefix: x-}]}, \
         allowed_upstream_headers: {patterns: [{exact: X-User, ignore_case: true}]}}",
    );
    let (all, notes) = filter(&format!(
        "{service}, failure_mode_allow: true, failure_mode_allow_header_add: true, status_on_error: {{code: 503}}, \
         with_request_body: {{max_request_bytes: 9, allow_partial_message: true, pack_as_bytes: true}}, \
         clear_route_cache: true, validate_mutations: true, stat_prefix: waf, charge_cluster_response_stats: false, \
         filter_enabled: {{runtime_key: k, default_value: {{numerator: 5, denominator: MILLION}}}}, \
         deny_at_disable: {{runtime_key: k, default_value: true}}, max_denied_response_body_bytes: 7, \
         enable_dynamic_metadata_ingestion: false, metadata_context_namespaces: [jwt], include_peer_certificate: true, \
         include_tls_session: true, encode_raw_headers: true, disallowed_headers: {{patterns: [{{exact: x-secret}}]}}, \
         filter_enabled_metadata: {{filter: f, path: [{{key: k}}], value: {{string_match: {{prefix: p}}}}}}"
    ));
    assert_eq!(notes, ["ExtAuthz.deny_at_disable.runtime_key", "ExtAuthz.filter_enabled.runtime_key"]);
    assert!(all.failure.allows && all.failure.tells && all.failure.status == 503);
    assert_eq!(all.body, Some(BodySettings { most: 9, part: true, bytes: true }));
    assert!(all.taken.reroutes && all.taken.strictly && !all.taken.metadata && !all.counts_refusals);
    assert_eq!((&*all.stat_prefix, all.taken.most_body), ("waf.", Some(7)));
    assert_eq!(all.when.share, Percentage { numerator: 5, denominator: 1_000_000 });
    assert!(all.when.refuses_others && all.when.metadata.is_some());
    assert!(all.told.raw && all.told.certificate && all.told.server_name && all.told.but.contain("x-secret"));
    let Service::Http(service) = &*all.service else { panic!() };
    assert!(service.upstream.contain("x-user") && service.client.as_ref().unwrap().contain("x-why"));
    assert_eq!(&*service.adds.add[0].name, "x-a");
}

#[test]
fn what_cannot_work_is_refused() {
    let at = "http_filters[0].typed_config";
    let grpc = |more: &str| format!("grpc_service: {{envoy_grpc: {{cluster_name: a}}, {more}}}");
    for (settings, said) in [
        (String::new(), ": neither http_service nor grpc_service".to_owned()),
        ("http_service: {}".into(), ".http_service.server_uri: missing".into()),
        (
            "http_service: {server_uri: {uri: u, timeout: 1s}}".into(),
            ".http_service.server_uri.cluster: missing".into(),
        ),
        (over_http("path_prefix: x"), ".http_service.path_prefix: must begin with a slash".into()),
        (
            over_http("path_prefix: /x, path_override: /y"),
            ".http_service.path_override: both path_prefix and path_override are set".into(),
        ),
        (over_http("retry_policy: {num_retries: 1}"), ".http_service.retry_policy: not supported yet".into()),
        (
            over_http("authorization_response: {allowed_client_headers: {patterns: [{}]}}"),
            ".http_service.authorization_response.allowed_client_headers.patterns[0]: no pattern".into(),
        ),
        (grpc("retry_policy: {num_retries: 1}"), ".grpc_service.retry_policy: not supported yet".into()),
        (
            "grpc_service: {google_grpc: {target_uri: a}}".into(),
            ".grpc_service.google_grpc: not supported: use envoy_grpc".into(),
        ),
        (grpc("") + ", transport_api_version: V2", ".transport_api_version: must be V3".into()),
        (grpc("") + ", with_request_body: {}", ".with_request_body.max_request_bytes: must be above 0".into()),
        (grpc("") + ", shadow_mode: true", ".shadow_mode: not supported yet".into()),
        (
            grpc("") + ", route_metadata_context_namespaces: [a]",
            ".route_metadata_context_namespaces: not supported yet".into(),
        ),
        (grpc("") + ", decoder_header_mutation_rules: {}", ".decoder_header_mutation_rules: not supported yet".into()),
        (grpc("") + ", filter_enabled: {}", ".filter_enabled.default_value: missing".into()),
    ] {
        let fields = match settings.strip_suffix(", transport_api_version: V2") {
            Some(settings) => fields(settings).replace("transport_api_version: V3", "transport_api_version: V2"),
            None => fields(&settings),
        };
        let refusal = manager(&fields).expect_err(&fields).to_string();
        assert_eq!(refusal, format!("{}{at}{said}", refusal.split(at).next().unwrap()), "{settings}");
    }
}

#[test]
fn routes_say_whether_and_how() {
    let route = |said: &str| {
        routes(&format!(
            "{{virtual_hosts: [{{name: a, domains: ['*'], routes: [{{match: {{prefix: /}}, redirect: {{}}, \
             typed_per_filter_config: {{a: {{'@type': {TYPE}.ExtAuthzPerRoute, {said}}}}}}}]}}]}}"
        ))
        .map_err(|refusal| refusal.to_string())
    };
    for said in [
        "disabled: true",
        "disabled: false",
        "check_settings: {context_extensions: {a: b}, with_request_body: {max_request_bytes: 1}}",
        "check_settings: {disable_request_body_buffering: true, grpc_service: {envoy_grpc: {cluster_name: a}}}",
    ] {
        assert!(route(said).is_ok(), "{said}");
    }
    let at = "virtual_hosts[0].routes[0].typed_per_filter_config[\"a\"]";
    assert_eq!(route("").unwrap_err(), format!("{at}: neither disabled nor check_settings"));
    assert_eq!(
        route("check_settings: {disable_request_body_buffering: true, with_request_body: {max_request_bytes: 1}}")
            .unwrap_err(),
        format!(
            "{at}.check_settings.with_request_body: both disable_request_body_buffering and with_request_body are set"
        )
    );
}
