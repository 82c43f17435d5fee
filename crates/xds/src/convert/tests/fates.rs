//! What is refused, with the words, and what is noted.

use super::{cluster, endpoints, listener, manager, noted, routes};

#[test]
fn clusters_refused() {
    for (yaml, said) in [
        ("{name: ''}", "name: empty"),
        ("{name: a, connect_timeout: 0s}", "connect_timeout: must be above 0"),
        ("{name: a, connect_timeout: -1s}", "connect_timeout: -1 s 0 ns is no duration"),
        ("{name: a, type: EDS}", "eds_cluster_config: belongs to clusters of type EDS, and to those alone"),
        ("{name: a, type: EDS, eds_cluster_config: {}}", "eds_cluster_config.eds_config: missing"),
        (
            "{name: a, type: EDS, eds_cluster_config: {eds_config: {api_config_source: {}}}}",
            "eds_cluster_config.eds_config.api_config_source: not supported: use ads",
        ),
        (
            "{name: a, lb_policy: CLUSTER_PROVIDED}",
            "lb_policy: CLUSTER_PROVIDED is only for types that provide hosts themselves",
        ),
        ("{name: a, type: ORIGINAL_DST}", "lb_policy: must be CLUSTER_PROVIDED for clusters of this type"),
        (
            "{name: a, outlier_detection: {max_ejection_percent: 101}}",
            "outlier_detection.max_ejection_percent: 101 is no percentage",
        ),
        ("{name: a, outlier_detection: {interval: 0s}}", "outlier_detection.interval: must be above 0"),
        (
            "{name: a, outlier_detection: {base_ejection_time: 3s, max_ejection_time: 2s}}",
            "outlier_detection.max_ejection_time: is less than base_ejection_time",
        ),
        ("{name: a, outlier_detection: {monitors: [{name: x}]}}", "outlier_detection.monitors: not supported yet"),
        (
            "{name: a, outlier_detection: {detect_degraded_hosts: true}}",
            "outlier_detection.detect_degraded_hosts: not supported yet",
        ),
        ("{name: a, health_checks: [{timeout: 1s}]}", "health_checks[0].interval: missing"),
        (
            "{name: a, cluster_type: {name: envoy.clusters.redis}}",
            "cluster_type: \"envoy.clusters.redis\" is not supported yet",
        ),
        (
            "{name: a, transport_socket: {name: x, typed_config: {'@type': type.googleapis.com/envoy.config.core.v3.Node}}}",
            "transport_socket.typed_config: envoy.config.core.v3.Node is not supported yet",
        ),
        (
            "{name: a, transport_socket_matches: [{name: plain}, {name: tls, match: {x: 1}}]}",
            "transport_socket_matches[1].match.fields[\"x\"]: only strings are supported",
        ),
        (
            "{name: a, transport_socket_matches: [{name: plain}, {name: told, match: {x: y}, transport_socket: {name: p, \
             typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, \
             transport_socket: {name: r, typed_config: {'@type': \
             type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}}]}",
            "transport_socket_matches: not all begin with the same PROXY protocol header",
        ),
        (
            "{name: a, circuit_breakers: {thresholds: [{}, {retry_budget: {budget_interval: -10s}}]}}",
            "circuit_breakers.thresholds[1].retry_budget.budget_interval: -10 s 0 ns is no duration",
        ),
        (
            "{name: a, load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: \
             {socket_address: {address: b.test, port_value: 1}}}}]}]}}",
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP address: \
             b.test; only a cluster of type STRICT_DNS or LOGICAL_DNS resolves names",
        ),
        ("{name: a, type: LOGICAL_DNS}", "load_assignment: LOGICAL_DNS clusters must have a single endpoint"),
        (
            "{name: a, typed_extension_protocol_options: {x: {'@type': type.googleapis.com/envoy.config.core.v3.Node}}}",
            "typed_extension_protocol_options[\"x\"]: envoy.config.core.v3.Node is not supported yet",
        ),
        (
            "{name: a, common_lb_config: {healthy_panic_threshold: {value: 101}}}",
            "common_lb_config.healthy_panic_threshold: 101 is no percentage",
        ),
    ] {
        assert_eq!(cluster(yaml).expect_err(yaml).to_string(), said, "{yaml}");
    }
}

#[test]
fn endpoints_refused() {
    let one = |endpoint: &str| {
        let yaml = format!("{{cluster_name: a, endpoints: [{{lb_endpoints: [{endpoint}]}}]}}");
        endpoints(&yaml).expect_err(&yaml).to_string()
    };
    assert_eq!(one("{}"), "endpoints[0].lb_endpoints[0].endpoint: missing");
    assert_eq!(one("{endpoint: {}}"), "endpoints[0].lb_endpoints[0].endpoint.address: missing");
    let address = "endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}";
    assert_eq!(
        one(&format!("{{load_balancing_weight: 0, {address}}}")),
        "endpoints[0].lb_endpoints[0].load_balancing_weight: must be at least 1"
    );
    assert_eq!(
        one("{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 65536}}}}"),
        "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: 65536 is no port"
    );
    let drop = "{cluster_name: a, policy: {drop_overloads: [{category: x}]}}";
    assert_eq!(endpoints(drop).unwrap_err().to_string(), "policy.drop_overloads: not supported yet");
}

#[test]
fn routes_refused() {
    let action = |fields: &str| {
        format!("{{virtual_hosts: [{{name: a, domains: ['*'], routes: [{{match: {{prefix: /}}, {fields}}}]}}]}}")
    };
    let matching = |fields: &str| {
        format!("{{virtual_hosts: [{{name: a, domains: ['*'], routes: [{{match: {{{fields}}}, redirect: {{}}}}]}}]}}")
    };
    let at = "virtual_hosts[0].routes[0]";
    for (yaml, said) in [
        ("{virtual_hosts: [{name: a}]}".to_owned(), "virtual_hosts[0].domains: empty".to_owned()),
        (
            "{virtual_hosts: [{name: a, domains: [x]}, {name: b, domains: [X]}]}".to_owned(),
            "virtual_hosts: domain \"x\" is in both \"a\" and \"b\"".to_owned(),
        ),
        (
            "{virtual_hosts: [{name: a, domains: [x]}, {name: a, domains: [y]}]}".to_owned(),
            "virtual_hosts[1].name: a second virtual host \"a\"".to_owned(),
        ),
        (action(""), format!("{at}: no action")),
        (action("route: {}"), format!("{at}.route: no cluster")),
        (
            action("route: {weighted_clusters: {clusters: [{name: a, weight: 0}, {name: b, weight: 0}]}}"),
            format!("{at}.route.weighted_clusters: Sum of weights in the weighted_cluster must be greater than 0."),
        ),
        (
            action("route: {cluster: c, request_mirror_policies: [{cluster: d}, {runtime_fraction: {}}]}"),
            format!("{at}.route.request_mirror_policies[1]: no cluster"),
        ),
        (
            action("route: {cluster: c, request_mirror_policies: [{cluster: d, cluster_header: x}]}"),
            format!("{at}.route.request_mirror_policies[0].cluster_header: cluster is set too"),
        ),
        (action("route: {cluster: c, priority: HIGH}"), format!("{at}.route.priority: only DEFAULT is supported")),
        (action("direct_response: {status: 199}"), format!("{at}.direct_response.status: 199 is not in 200..600")),
        (
            action(&format!("direct_response: {{status: 200, body: {{inline_string: '{}'}}}}", "x".repeat(4097))),
            format!("{at}.direct_response.body: response body size is 4097 bytes; maximum is 4096"),
        ),
        (
            action(
                "redirect: {}, typed_per_filter_config: {envoy.filters.http.fault: {'@type': \
                 type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: {http_status: 600}}}",
            ),
            format!(
                "{at}.typed_per_filter_config[\"envoy.filters.http.fault\"].abort.http_status: 600 is not in 200..600"
            ),
        ),
        (
            action(
                "redirect: {}, typed_per_filter_config: {x: {'@type': \
                 type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute, rbac: {matcher: {}}}}",
            ),
            format!("{at}.typed_per_filter_config[\"x\"].rbac.matcher: not supported yet"),
        ),
        (
            action(
                "redirect: {}, typed_per_filter_config: {x: {'@type': type.googleapis.com/\
                 envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: x}}",
            ),
            format!(
                "{at}.typed_per_filter_config[\"x\"]: \
                 envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit is not supported yet"
            ),
        ),
        (
            action("redirect: {}, request_headers_to_add: [{header: {key: x}}, {header: {key: ':path', value: y}}]"),
            format!("{at}.request_headers_to_add[1].header.key: :-prefixed or host headers may not be modified"),
        ),
        (
            action("redirect: {}, response_headers_to_add: [{header: {key: x, value: '%NO_SUCH%'}}]"),
            format!("{at}.response_headers_to_add[0].header.value: operator %NO_SUCH% is not known"),
        ),
        (
            action("redirect: {}, request_headers_to_remove: [Host]"),
            format!("{at}.request_headers_to_remove[0]: :-prefixed or host headers may not be removed"),
        ),
        (matching(""), format!("{at}.match: no path specifier")),
        (matching("prefix: /, cookies: [{name: x}]"), format!("{at}.match.cookies: not supported yet")),
        (
            matching("path_separated_prefix: /a/"),
            format!("{at}.match.path_separated_prefix: \"/a/\" is no path of segments"),
        ),
        (
            matching("prefix: /, headers: [{name: 'a b', present_match: true}]"),
            format!("{at}.match.headers[0].name: \"a b\" is no header name"),
        ),
        (
            matching("prefix: /, headers: [{name: a, string_match: {}}]"),
            format!("{at}.match.headers[0].string_match: no pattern"),
        ),
    ] {
        assert_eq!(routes(&yaml).expect_err(&yaml).to_string(), said, "{yaml}");
    }
    let regex = routes(&matching("safe_regex: {regex: '('}")).unwrap_err().to_string();
    assert!(
        regex.starts_with("virtual_hosts[0].routes[0].match.safe_regex.regex: invalid regular expression"),
        "{regex}"
    );
}

#[test]
fn listeners_refused() {
    let with = |fields: &str| {
        let yaml = format!("{{name: l, address: {{socket_address: {{address: 0.0.0.0, port_value: 80}}}}, {fields}}}");
        listener(&yaml).expect_err(&yaml).to_string()
    };
    let tcp = "filters: [{name: t, typed_config: {'@type': \
               type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c}}]";
    assert_eq!(with(""), "filter_chains: no filter chains specified");
    assert_eq!(listener("{name: l}").unwrap_err().to_string(), "address: missing");
    assert_eq!(with("filter_chains: [{}]"), "filter_chains[0].filters: empty");
    assert_eq!(
        with(&format!("filter_chains: [{{{tcp}}}, {{{tcp}, name: x}}]")),
        "filter_chains: [1] has matching rules that overlap with those of [0]"
    );
    let named = |names: &str| format!("{{{tcp}, filter_chain_match: {{server_names: [{names}]}}}}");
    assert_eq!(
        with(&format!("filter_chains: [{}, {}, {}]", named("a.test"), named("'*.test'"), named("b.test, A.test"))),
        "filter_chains: [2] has matching rules that overlap with those of [0]"
    );
    assert_eq!(
        with(&format!("default_filter_chain: {{{tcp}, filter_chain_match: {{server_names: ['*w.test']}}}}")),
        "default_filter_chain.filter_chain_match.server_names[0]: \"*w.test\": partial wildcards are not supported in server_names"
    );
    assert_eq!(
        with(&format!(
            "filter_chains: [{{{tcp}, transport_socket: {{name: tls, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext}}}}}}]"
        )),
        "filter_chains[0].transport_socket.typed_config.common_tls_context: no TLS certificates found for a server context"
    );
    assert_eq!(with(&format!("transparent: true, filter_chains: [{{{tcp}}}]")), "transparent: not supported yet");
    assert_eq!(
        with(&format!(
            "listener_filters: [{{name: p, typed_config: {{'@type': \
             type.googleapis.com/envoy.config.core.v3.Node}}}}], \
             filter_chains: [{{{tcp}}}]"
        )),
        "listener_filters[0].typed_config: envoy.config.core.v3.Node \
         is not supported yet"
    );
    assert_eq!(
        with(
            "filter_chains: [{filters: [{name: t, typed_config: {'@type': \
              type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, \
              weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 0}]}}}]}]"
        ),
        "filter_chains[0].filters[0].typed_config.weighted_clusters.clusters[1].weight: must be at least 1"
    );
}

#[test]
fn connection_managers_refused() {
    let at = "filter_chains[0].filters[0].typed_config";
    let router =
        "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";
    let fault =
        "{name: fault, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
    for (fields, said) in [
        ("codec_type: HTTP3".to_owned(), "codec_type: not supported yet"),
        ("rds: {route_config_name: x}".to_owned(), "rds.config_source: missing"),
        ("rds: {config_source: {ads: {}}}".to_owned(), "rds.route_config_name: empty"),
        ("append_x_forwarded_port: true".to_owned(), "append_x_forwarded_port: not supported yet"),
        ("local_reply_config: {mappers: [{}]}".to_owned(), "local_reply_config.mappers: not supported yet"),
        ("http_filters: []".to_owned(), "http_filters: empty"),
        (format!("http_filters: [{router}, {fault}}}}}]"), "http_filters[0]: the router must be the last filter"),
        (
            format!("http_filters: [{fault}, response_rate_limit: {{fixed_limit: {{limit_kbps: 1}}}}}}}}, {router}]"),
            "http_filters[0].typed_config.response_rate_limit: not supported yet",
        ),
        (
            format!(
                "http_filters: [{{name: m, disabled: true, typed_config: {{'@type': \
                 type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit}}}}, {router}]"
            ),
            "http_filters[0].typed_config: filter \"m\" of type \
             envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit is not supported yet",
        ),
        (
            format!(
                "http_filters: [{{name: rbac, typed_config: {{'@type': \
                 type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {{policies: {{p: {{\
                 permissions: [{{any: true}}], principals: [{{or_ids: {{ids: [{{any: false}}]}}}}]}}}}}}}}}}, {router}]"
            ),
            "http_filters[0].typed_config.rules.policies[\"p\"].principals[0].or_ids.ids[0].any: must be true",
        ),
        (
            // Keys are fetched by control planes; whose own does not is told so.
            format!(
                "http_filters: [{{name: jwt, typed_config: {{'@type': \
                 type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, providers: {{p: {{\
                 issuer: a, remote_jwks: {{http_uri: {{uri: 'https://a.test/keys', cluster: a, timeout: 1s}}, \
                 cache_duration: 300s, async_fetch: {{}}}}}}}}}}}}, {router}]"
            ),
            "http_filters[0].typed_config.providers[\"p\"].remote_jwks: not supported yet",
        ),
        (
            "http2_protocol_options: {initial_stream_window_size: 1}".to_owned(),
            "http2_protocol_options.initial_stream_window_size: 1 is not in 65535..=2147483647",
        ),
        (
            "http_protocol_options: {allow_chunked_length: true}".to_owned(),
            "http_protocol_options.allow_chunked_length: not supported yet",
        ),
        (
            "access_log: [{name: f, filter: {duration_filter: {}}, typed_config: {'@type': \
             type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout}}]"
                .to_owned(),
            "access_log[0].filter: only response_flag_filter is supported",
        ),
    ] {
        assert_eq!(manager(&fields).expect_err(&fields).to_string(), format!("{at}.{said}"), "{fields}");
    }
}

#[test]
fn what_istio_sends_and_changes_nothing_is_noted() {
    let router =
        "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";
    let empty = |name: &str| {
        format!("{{name: {name}, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.{name}}}}}")
    };
    let filters: Vec<String> = [
        "grpc_stats.v3.FilterConfig",
        "fault.v3.HTTPFault",
        "cors.v3.Cors",
        "rbac.v3.RBAC",
        "jwt_authn.v3.JwtAuthentication",
    ]
    .map(empty)
    .into();
    let (_, notes) = manager(&format!(
        "http_filters: [{}, {router}], set_current_client_cert_details: {{dns: true}}",
        filters.join(", ")
    ))
    .unwrap();
    assert_eq!(noted(&notes), ["HttpFilter.grpc_stats"]);

    let (_, notes) = manager(&format!(
        "http_filters: [{{name: m, is_optional: true, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit}}}}, {router}]"
    ))
    .unwrap();
    assert_eq!(noted(&notes), ["HttpFilter.is_optional"]);
    let (_, notes) = cluster("{name: a, metadata: {filter_metadata: {istio: {}}}, respect_dns_ttl: true}").unwrap();
    assert_eq!(noted(&notes), ["Cluster.metadata", "Cluster.respect_dns_ttl"]);
    assert_eq!(notes.iter().map(|(_, count)| count).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn an_unknown_action_costs_its_route_alone() {
    use lateen_traffic::route::Action;
    let (config, notes) = routes(
        "{virtual_hosts: [{name: a, domains: ['*'], routes: [
            {match: {prefix: /a}, non_forwarding_action: {}}, {match: {prefix: /}, route: {cluster: c}}]}]}",
    )
    .unwrap();
    let routes = &config.virtual_hosts[0].routes;
    let Action::Direct(answer) = &routes[0].action else { panic!("not degraded") };
    assert_eq!(answer.status, 500);
    assert!(matches!(routes[1].action, Action::Forward(_)));
    assert_eq!(noted(&notes), ["Route.action"]);
}
