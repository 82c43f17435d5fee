//! HTTP filters of connection managers, and what routes say of them.

use std::time::Duration;

use lateen_traffic::filter::cors::CorsPolicy;
use lateen_traffic::filter::fault::{AbortWith, Fault, Percentage};
use lateen_traffic::filter::{Asked, FilterKind, Step, Walk};
use lateen_traffic::metadata::Metadata;
use lateen_traffic::rbac::Peer;
use lateen_traffic::route::{RouteConfig, Target};
use lateen_traffic::{RequestHead, route};

use super::{manager, noted, routes};

const ROUTER: &str =
    "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";
const FAULT: &str = "'@type': type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const CORS: &str = "'@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";
const WRAPPED: &str = "'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig";

fn base_fault(fields: &str) -> Fault {
    let (hcm, _) = manager(&format!(
        "http_filters: [{{name: cors, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}}}, \
         {{name: f, disabled: true, typed_config: {{{FAULT}, {fields}}}}}, {ROUTER}]"
    ))
    .unwrap();
    let [cors, fault] = &hcm.filters[..] else { panic!("{:?}", hcm.filters) };
    assert!(matches!(cors.kind, FilterKind::Cors) && !cors.disabled);
    assert!(fault.disabled && *fault.name == *"f");
    let FilterKind::Fault(fault) = &fault.kind else { panic!("{fault:?}") };
    (**fault).clone()
}

#[test]
fn faults_mean_what_envoys_do() {
    let fault = base_fault(
        "delay: {fixed_delay: 1.5s, percentage: {numerator: 1, denominator: MILLION}}, \
         abort: {grpc_status: 14}, upstream_cluster: u, headers: [{name: X-A, present_match: true}], \
         downstream_nodes: [n], max_active_faults: 3",
    );
    let delay = fault.delay.unwrap();
    assert_eq!(delay.fixed, Some(Duration::from_millis(1500)));
    assert_eq!(delay.percentage, Percentage { numerator: 1, denominator: 1_000_000 });
    let abort = fault.abort.unwrap();
    assert_eq!(abort.with, AbortWith::Grpc(14));
    assert_eq!(abort.percentage.numerator, 0, "none given is never");
    assert_eq!(abort.body, "fault filter abort");
    assert_eq!(fault.upstream_cluster.as_deref(), Some("u"));
    assert_eq!(&*fault.headers[0].name, "x-a");
    assert_eq!((fault.downstream_nodes.len(), fault.max_active), (1, Some(3)));
    let by_header = base_fault("delay: {header_delay: {}}, abort: {header_abort: {}}");
    assert_eq!(by_header.delay.unwrap().fixed, None);
    assert_eq!(by_header.abort.unwrap().with, AbortWith::Header);
}

/// The status with which a request to the path is aborted.
fn aborted(config: &RouteConfig, path: &str) -> Option<u16> {
    let (hcm, _) = manager(&format!("http_filters: [{{name: f, typed_config: {{{FAULT}}}}}, {ROUTER}]")).unwrap();
    let request = RequestHead { path: path.into(), authority: "a".into(), ..RequestHead::default() };
    let mut dice = || 0;
    let mut routed = config.route(&request, false, false, &mut dice).unwrap();
    if let route::Action::Forward(forward) = &routed.route.action
        && let Target::Weighted(clusters) = &forward.target
    {
        routed.weighted = forward.pick_weighted(clusters, &request, None, &mut dice);
    }
    let peer = Peer {
        source: [10, 0, 0, 1].into(),
        direct: [10, 0, 0, 1].into(),
        remote: [10, 0, 0, 1].into(),
        local: ([10, 0, 0, 2], 80).into(),
        server_name: None,
        tls: None,
    };
    let asked = Asked { request: &request, peer, routes: config, routed: Some(routed), active_faults: &|| 0 };
    match Walk::new(&hcm.filters).next(&asked, &mut Metadata::default(), &mut dice) {
        Step::Abort(reply) => Some(reply.status),
        _ => None,
    }
}

#[test]
fn each_level_speaks_of_filters() {
    let abort = |status: u16| {
        format!(
            "typed_per_filter_config: {{f: {{{FAULT}, abort: {{http_status: {status}, percentage: {{numerator: 100}}}}}}}}"
        )
    };
    let (config, _) = routes(&format!(
        "{{virtual_hosts: [{{name: a, domains: ['*'], {}, routes: [
           {{match: {{path: /off}}, route: {{cluster: c}}, typed_per_filter_config: {{f: {{{WRAPPED}, disabled: true}}}}}},
           {{match: {{path: /empty}}, redirect: {{}}, typed_per_filter_config: {{f: {{{WRAPPED}, config: {{{FAULT}}}}}}}}},
           {{match: {{path: /weighted}}, {}, route: {{weighted_clusters: {{clusters: [
             {{name: w, weight: 1, {}}}]}}}}}},
           {{match: {{path: /route}}, {}, route: {{cluster: c}}}},
           {{match: {{prefix: /}}, route: {{cluster: c}}}}]}}], {}}}",
        abort(502),
        abort(503),
        abort(504),
        abort(503),
        abort(501),
    ))
    .unwrap();
    let seen = ["/off", "/empty", "/weighted", "/route", "/"].map(|path| aborted(&config, path));
    assert_eq!(seen, [None, None, Some(504), Some(503), Some(502)]);
    let route::Action::Forward(forward) = &config.virtual_hosts[0].routes[2].action else { panic!() };
    assert!(matches!(forward.target, Target::Weighted(_)));
}

#[test]
fn wrapped_settings_may_be_optional_or_wrong() {
    let with = |setting: &str| {
        routes(&format!(
            "{{virtual_hosts: [{{name: a, domains: ['*'], typed_per_filter_config: {{f: {{{WRAPPED}, {setting}}}}}}}]}}"
        ))
    };
    let unknown = "config: {'@type': type.googleapis.com/envoy.config.core.v3.Node, id: x}";
    let (_, notes) = with(&format!("is_optional: true, {unknown}")).unwrap();
    assert_eq!(noted(&notes), ["FilterConfig.is_optional"]);
    let at = "virtual_hosts[0].typed_per_filter_config[\"f\"].config";
    assert_eq!(with(unknown).unwrap_err().to_string(), format!("{at}: envoy.config.core.v3.Node is not supported yet"));
    assert_eq!(with("is_optional: true").unwrap_err().to_string(), format!("{at}: missing"));
}

#[test]
fn cors_policies_mean_what_envoys_do() {
    let (config, _) = routes(&format!(
        "{{virtual_hosts: [{{name: a, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: c}}, \
         typed_per_filter_config: {{c: {{{CORS}, allow_origin_string_match: [{{prefix: 'http://'}}], allow_methods: 'GET', \
         allow_headers: '*', expose_headers: 'x-a', max_age: '10', allow_credentials: true, \
         forward_not_matching_preflights: false, filter_enabled: {{default_value: {{numerator: 100}}}}}}}}}}]}}]}}"
    ))
    .unwrap();
    let overrides = format!("{:?}", config.virtual_hosts[0].routes[0].filters);
    let policy = CorsPolicy {
        allow_methods: "GET".into(),
        allow_headers: "*".into(),
        expose_headers: "x-a".into(),
        max_age: "10".into(),
        allow_credentials: Some(true),
        forward_unmatched_preflights: Some(false),
        enabled: Some(Percentage { numerator: 100, denominator: 100 }),
        ..CorsPolicy::default()
    };
    let tail = format!("{policy:?}");
    let (_, after_origins) = tail.split_once("allow_methods").unwrap();
    assert!(overrides.contains(after_origins), "{overrides}");
    assert!(overrides.contains("Prefix(\"http://\")"), "{overrides}");
}

#[test]
fn grpc_web_is_carried_out() {
    let grpc_web =
        "{name: w, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb}}";
    let (hcm, notes) = manager(&format!("http_filters: [{grpc_web}, {ROUTER}]")).unwrap();
    assert!(matches!(hcm.filters[0].kind, FilterKind::GrpcWeb) && noted(&notes).is_empty());
}

#[test]
fn istios_alpn_is_by_the_upstreams_protocol() {
    let filter = |overrides: &str| {
        manager(&format!(
            "http_filters: [{{name: istio.alpn, typed_config: {{'@type': \
             type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig, \
             alpn_override: {overrides}}}}}, {ROUTER}]"
        ))
    };
    let (hcm, notes) = filter(
        "[{alpn_override: [old]}, {upstream_protocol: HTTP11, alpn_override: [istio-http/1.1, istio]}, \
          {upstream_protocol: HTTP11, alpn_override: [later]}, {upstream_protocol: HTTP2, alpn_override: []}]",
    )
    .unwrap();
    let FilterKind::Alpn(alpn) = &hcm.filters[0].kind else { panic!("{:?}", hcm.filters) };
    let names = |http2| alpn.of(http2).map(|names| names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
    assert_eq!(names(false), Some(vec!["istio-http/1.1".to_owned(), "istio".to_owned()]));
    assert_eq!(names(true), None, "what is empty leaves it to the cluster");
    assert!(noted(&notes).is_empty());
    let refused = filter("[{upstream_protocol: 9}]").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.alpn_override[0].upstream_protocol: \
         9 is not known"
    );
    let refused = filter("[{alpn_override: ['']}]").unwrap_err();
    assert!(refused.to_string().ends_with("alpn_override[0].alpn_override[0]: must have 1 to 255 bytes"), "{refused}");
}
