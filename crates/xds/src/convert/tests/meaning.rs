//! What is carried out means the same as before, defaults included.

use std::time::Duration;

use lateen_traffic::ResponseHead;
use lateen_traffic::access_log::{LogFilter, LogFormat, Sink};
use lateen_traffic::cluster::{
    Discovery, DnsFamily, EndpointAddress, Health, LbPolicy, SocketOptionValue, UpstreamProtocol,
};
use lateen_traffic::hcm::{ForwardClientCert, Hcm, HeaderCase, RouteSource, Underscores};
use lateen_traffic::listener::{ConnectionFacts, Direction, Terminal, TransportProtocol};
use lateen_traffic::outlier::{Enforcing, OutlierDetection};
use lateen_traffic::path::EscapedSlashes;
use lateen_traffic::record::Flags;
use lateen_traffic::route::{Action, HostRewrite, PathMatch, PathRewrite, RequireTls, Target};
use lateen_traffic::tcp::TcpTarget;

use super::{cluster, endpoints, listener, manager, routes};

#[test]
fn a_bare_cluster_has_envoys_defaults() {
    let (converted, notes) = cluster("{name: a}").unwrap();
    let settings = converted.settings;
    assert_eq!(settings.discovery, Discovery::Static);
    assert_eq!(settings.lb, LbPolicy::RoundRobin);
    assert_eq!(settings.connect_timeout, Duration::from_secs(5));
    assert_eq!(settings.limits.max_retries, 3);
    assert_eq!(settings.limits.max_connections, 1024);
    assert_eq!(settings.protocol, UpstreamProtocol::Http1);
    assert_eq!(settings.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(settings.panic_threshold, 50.0);
    assert_eq!(notes.iter().count(), 0);
    assert!(converted.endpoints.unwrap().localities.is_empty());
}

#[test]
fn outlier_detection_has_envoys_defaults_and_istios_settings() {
    let outlier = |yaml: &str| cluster(yaml).unwrap().0.settings;
    assert_eq!(*outlier("{name: a, outlier_detection: {}}").outlier.unwrap(), OutlierDetection::default());
    let settings = outlier(
        "
name: a
common_lb_config: {update_merge_window: 0s}
outlier_detection: {enforcing_success_rate: 0, consecutive_5xx: 0, enforcing_consecutive_5xx: 0,
                    consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100, interval: 1s,
                    base_ejection_time: 600s, max_ejection_percent: 100, split_external_local_origin_errors: true,
                    consecutive_local_origin_failure: 3, enforcing_local_origin_success_rate: 0}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http_protocol_options: {}}
    outlier_detection:
      error_matcher:
        or_match:
          rules:
          - http_response_headers_match: {headers: [{name: ':status', string_match: {exact: '429'}}]}
          - http_response_headers_match: {headers: [{name: ':status', string_match: {exact: '500'}}]}
",
    );
    assert_eq!(settings.update_merge_window, Duration::ZERO);
    let errors = settings.outlier_errors.unwrap();
    let judged = |status| errors.judge(&ResponseHead::new(status), status);
    assert_eq!([429, 500, 503].map(judged), [500, 500, 200]);
    let defaults = OutlierDetection::default();
    let expected = OutlierDetection {
        consecutive_5xx: 0,
        consecutive_gateway_failure: 2,
        split_local_origin: true,
        consecutive_local_origin_failure: 3,
        interval: Duration::from_secs(1),
        base_ejection_time: Duration::from_secs(600),
        max_ejection_time: Duration::from_secs(600),
        max_ejection_percent: 100,
        enforcing: Enforcing {
            consecutive_5xx: 0,
            consecutive_gateway_failure: 100,
            success_rate: 0,
            local_origin_success_rate: 0,
            ..defaults.enforcing
        },
        ..defaults
    };
    assert_eq!(*settings.outlier.unwrap(), expected);
}

#[test]
fn a_cluster_as_istio_writes_it() {
    let (converted, _) = cluster(
        "
name: outbound|80|v1|reviews.default.svc.cluster.local
type: EDS
connect_timeout: 10s
lb_policy: LEAST_REQUEST
eds_cluster_config:
  eds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
  service_name: outbound|80|v1|reviews.default.svc.cluster.local
circuit_breakers:
  thresholds: [{max_connections: 4294967295, max_pending_requests: 4294967295, max_requests: 4294967295,
                max_retries: 4294967295, track_remaining: true}]
common_lb_config: {healthy_panic_threshold: {}}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 7}}
    common_http_protocol_options: {idle_timeout: 0s}
upstream_bind_config:
  source_address: {address: 127.0.0.6, port_value: 0}
  extra_source_addresses: [{address: {address: '::6', port_value: 0}}]
  socket_options: [{level: 1, name: 36, int_value: 1337}]
upstream_connection_options: {tcp_keepalive: {keepalive_time: 300}}
metadata: {filter_metadata: {istio: {subset: v1}}}
",
    )
    .unwrap();
    let settings = converted.settings;
    assert!(converted.endpoints.is_none());
    assert_eq!(settings.discovery, Discovery::Eds { service_name: settings.name.clone() });
    assert_eq!(settings.lb, LbPolicy::LeastRequest { choices: 2 });
    assert_eq!(settings.limits.max_retries, u32::MAX);
    assert_eq!(settings.protocol, UpstreamProtocol::Http2);
    assert_eq!(settings.http2.max_concurrent_streams, 7);
    assert_eq!(settings.idle_timeout, None, "0s switches it off");
    assert_eq!(settings.panic_threshold, 0.0);
    let bind = settings.bind.unwrap();
    assert_eq!(bind.source, Some("127.0.0.6:0".parse().unwrap()));
    assert_eq!(bind.source_other_family, Some("[::6]:0".parse().unwrap()));
    assert_eq!((bind.options[0].level, bind.options[0].name), (1, 36));
    assert_eq!(bind.options[0].value, SocketOptionValue::Int(1337));
    assert_eq!(settings.tcp_keepalive.unwrap().time, Some(Duration::from_secs(300)));
}

#[test]
fn hosts_that_requests_name() {
    let (dynamic, _) = cluster(
        "{name: d, lb_policy: CLUSTER_PROVIDED, cluster_type: {name: envoy.clusters.dynamic_forward_proxy, typed_config: \
         {'@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, \
         dns_cache_config: {name: c, dns_lookup_family: V4_ONLY, max_hosts: 3, host_ttl: 9s}}}}",
    )
    .unwrap();
    let Discovery::Named(cache) = &dynamic.settings.discovery else { panic!("{dynamic:?}") };
    let seconds = Duration::from_secs;
    assert_eq!((&*cache.name, cache.family, cache.max_hosts, cache.max_pending), ("c", DnsFamily::V4, 3, 1024));
    assert_eq!((cache.refresh, cache.keep, cache.timeout), (seconds(60), seconds(9), seconds(5)));
}

#[test]
fn other_kinds_of_clusters() {
    let (passthrough, _) = cluster(
        "{name: P, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, original_dst_lb_config: {use_http_header: true, \
         upstream_port_override: 8}}",
    )
    .unwrap();
    let expected = Discovery::OriginalDst { use_http_header: true, port_override: Some(8) };
    assert_eq!(passthrough.settings.discovery, expected);
    let (dns, _) = cluster(
        "{name: d, type: STRICT_DNS, dns_lookup_family: V4_ONLY, dns_refresh_rate: 60s, load_assignment: {cluster_name: d, \
         endpoints: [{lb_endpoints: [{endpoint: {hostname: h, address: {socket_address: {address: b.test, port_value: 443}}}}]}]}}",
    )
    .unwrap();
    let expected = Discovery::StrictDns { refresh: Duration::from_secs(60), family: DnsFamily::V4 };
    assert_eq!(dns.settings.discovery, expected);
    let endpoints = dns.endpoints.unwrap();
    let endpoint = &endpoints.localities[0].endpoints[0];
    assert_eq!(endpoint.address, EndpointAddress::Dns { host: "b.test".into(), port: 443 });
    assert_eq!(&*endpoint.hostname, "h");
    let (legacy, _) = cluster("{name: x, http2_protocol_options: {}, max_requests_per_connection: 5}").unwrap();
    assert_eq!(legacy.settings.protocol, UpstreamProtocol::Http2);
    assert_eq!(legacy.settings.max_requests_per_connection, Some(5));
    let policy = "typed_extension_config: {name: p, typed_config: {'@type': type.googleapis.com/envoy.extensions";
    let (newer, _) = cluster(&format!(
        "{{name: x, load_balancing_policy: {{policies: [{{{policy}.transport_sockets.raw_buffer.v3.RawBuffer}}}}}}, \
         {{{policy}.load_balancing_policies.least_request.v3.LeastRequest, choice_count: 5}}}}}}]}}}}"
    ))
    .unwrap();
    assert_eq!(newer.settings.lb, LbPolicy::LeastRequest { choices: 5 }, "the first that is known");
}

#[test]
fn endpoints_keep_place_weight_and_health() {
    let all = endpoints(
        "
cluster_name: a
policy: {overprovisioning_factor: 200}
endpoints:
- locality: {region: r, zone: z, sub_zone: s}
  priority: 1
  load_balancing_weight: 9
  lb_endpoints:
  - {load_balancing_weight: 3, health_status: DRAINING, endpoint: {address: {socket_address: {address: '10.0.0.1', port_value: 80}}}}
  - {health_status: TIMEOUT, endpoint: {address: {pipe: {path: /run/x}}}}
",
    )
    .unwrap();
    assert_eq!(all.overprovisioning_factor, 200);
    let group = &all.localities[0];
    assert_eq!((group.priority, group.weight, group.locality.zone.as_str()), (1, Some(9), "z"));
    assert_eq!((group.endpoints[0].weight, group.endpoints[0].health), (3, Health::Draining));
    assert_eq!((group.endpoints[1].weight, group.endpoints[1].health), (1, Health::Unhealthy));
    assert_eq!(group.endpoints[1].address, EndpointAddress::Pipe("/run/x".into()));
}

#[test]
fn a_bare_connection_manager_has_envoys_defaults() {
    let (converted, notes) = manager("").unwrap();
    let defaults = Hcm::default();
    assert_eq!(converted.timeouts, defaults.timeouts);
    assert_eq!(converted.limits, defaults.limits);
    assert_eq!(converted.http1, defaults.http1);
    assert_eq!(converted.http2.max_concurrent_streams, defaults.http2.max_concurrent_streams);
    assert_eq!(converted.path, defaults.path);
    assert_eq!(&*converted.server_name, "envoy");
    assert!(converted.edge.generate_request_id && !converted.edge.use_remote_address);
    assert_eq!(notes.iter().count(), 0);
}

#[test]
fn a_connection_manager_with_everything() {
    let (converted, _) = manager(
        "
rds: {config_source: {ads: {}}, route_config_name: '80'},
common_http_protocol_options: {idle_timeout: 0s, max_headers_count: 7, headers_with_underscores_action: REJECT_REQUEST,
  max_requests_per_connection: 3, max_stream_duration: 9s},
http_protocol_options: {accept_http_10: true, default_host_for_http_10: h, header_key_format: {proper_case_words: {}}},
http2_protocol_options: {allow_connect: true},
server_name: istio-envoy, stream_idle_timeout: 0s, request_timeout: 4s, request_headers_timeout: 5s, drain_timeout: 6s,
delayed_close_timeout: 0s, use_remote_address: true, xff_num_trusted_hops: 2, skip_xff_append: true,
internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}, via: me, generate_request_id: false,
forward_client_cert_details: SANITIZE_SET, proxy_100_continue: true, normalize_path: true, merge_slashes: true,
path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT, strip_matching_host_port: true,
upgrade_configs: [{upgrade_type: WebSocket}, {upgrade_type: CONNECT, enabled: false}], max_request_headers_kb: 96,
tracing: {random_sampling: {value: 5}},
access_log: [{name: f, filter: {response_flag_filter: {flags: [NR]}}, typed_config: {'@type':
  type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout,
  log_format: {json_format: {b: '%PROTOCOL%', a: {c: x}}}}}]
",
    )
    .unwrap();
    assert!(matches!(&converted.routes, RouteSource::Named(name) if &**name == "80"));
    assert_eq!(converted.timeouts.idle, None);
    assert_eq!(converted.timeouts.stream_idle, None);
    assert_eq!(converted.timeouts.request, Some(Duration::from_secs(4)));
    assert_eq!(converted.timeouts.request_headers, Some(Duration::from_secs(5)));
    assert_eq!(converted.timeouts.drain, Duration::from_secs(6));
    assert_eq!(converted.timeouts.delayed_close, Duration::ZERO);
    assert_eq!(converted.timeouts.max_stream_duration, Some(Duration::from_secs(9)));
    assert_eq!((converted.limits.max_headers, converted.limits.max_head_bytes), (7, 96 * 1024));
    assert_eq!(converted.limits.underscores, Underscores::Reject);
    assert_eq!(converted.limits.max_requests_per_connection, Some(3));
    assert!(converted.http1.accept_http_10 && converted.http2.allow_connect);
    assert_eq!(converted.http1.header_case, HeaderCase::ProperWords);
    assert_eq!(&*converted.server_name, "istio-envoy");
    let edge = &converted.edge;
    assert!(edge.use_remote_address && edge.skip_xff_append && !edge.generate_request_id);
    assert_eq!((edge.xff_num_trusted_hops, edge.internal_ranges.len()), (2, 1));
    assert_eq!(edge.client_cert, ForwardClientCert::SanitizeSet);
    assert!(converted.path.normalize && converted.path.merge_slashes);
    assert_eq!(converted.path.escaped_slashes, EscapedSlashes::UnescapeAndRedirect);
    assert_eq!(converted.host.strip_port, Some(Some(8080)), "the listener's port");
    assert_eq!(converted.upgrades, ["websocket".into()]);
    assert_eq!(converted.tracing.unwrap().random_sampling, 5.0);
    let log = &converted.access_log[0];
    assert_eq!(log.sink, Sink::Stdout);
    assert_eq!(log.filter, LogFilter::ResponseFlags(Flags::from_short("NR").unwrap()));
    let LogFormat::Json(fields) = &log.format else { panic!("not JSON") };
    assert_eq!(fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"], "sorted");
}

#[test]
fn listeners_and_their_chains() {
    let tcp = "filters: [{name: t, typed_config: {'@type': \
               type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster";
    let (converted, _) = listener(&format!(
        "
name: virtualInbound
address: {{socket_address: {{address: 0.0.0.0, port_value: 15006}}}}
additional_addresses: [{{address: {{socket_address: {{address: '::', port_value: 15006}}}}}}]
traffic_direction: INBOUND
bind_to_port: false
use_original_dst: true
listener_filters_timeout: 0s
continue_on_listener_filters_timeout: true
per_connection_buffer_limit_bytes: 32768
listener_filters:
- {{name: o, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}}}
- name: t
  filter_disabled: {{or_match: {{rules: [{{destination_port_range: {{start: 80, end: 81}}}},
                                         {{destination_port_range: {{start: 90, end: 100}}}}]}}}}
  typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}
- {{name: h, filter_disabled: {{not_match: {{or_match: {{rules: [{{destination_port_range: {{start: 80, end: 81}}}},
                                         {{destination_port_range: {{start: 65535, end: 65536}}}}]}}}}}}, typed_config:
     {{'@type': type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}}}
filter_chains:
- {{name: one, filter_chain_match: {{destination_port: 8080, transport_protocol: raw_buffer, application_protocols: [h2c],
     prefix_ranges: [{{address_prefix: 10.0.0.0, prefix_len: 8}}], server_names: ['*.Test']}}, {tcp}: c}}}}]}}
- {{name: two, {tcp}: d, idle_timeout: 0s, max_connect_attempts: 3}}}}]}}
",
    ))
    .unwrap();
    assert_eq!(converted.addresses, ["0.0.0.0:15006".parse().unwrap(), "[::]:15006".parse().unwrap()]);
    assert_eq!(converted.direction, Direction::Inbound);
    assert!(!converted.bind_to_port && converted.use_original_dst && converted.original_dst);
    assert_eq!(converted.inspect_timeout, None);
    assert!(converted.continue_on_inspect_timeout);
    let tls = converted.tls_inspector.as_ref().unwrap();
    assert_eq!([79, 80, 81, 90, 99, 100].map(|port| tls.runs_for(port)), [true, false, true, false, false, true]);
    let http = converted.http_inspector.as_ref().unwrap();
    assert_eq!([0, 79, 80, 81, 65534, 65535].map(|port| http.runs_for(port)), [false, false, true, false, false, true]);
    let one = &converted.chains[0].matches;
    assert_eq!(one.server_names, ["*.test"]);
    assert_eq!(one.transport_protocol, Some(TransportProtocol::RawBuffer));
    let chain = converted.find_chain(&ConnectionFacts::default()).unwrap();
    let Terminal::Tcp(proxy) = &chain.terminal else { panic!("not TCP") };
    assert_eq!((proxy.idle_timeout, proxy.max_connect_attempts), (None, 3));
    assert!(matches!(&proxy.target, TcpTarget::Cluster(name) if &**name == "d"));
    assert_eq!(converted.per_connection_buffer, 32768);
}

#[test]
fn routes_mean_the_same() {
    let (config, _) = routes(
        "
name: '80'
ignore_port_in_host_matching: true
max_direct_response_body_size_bytes: 1048576
virtual_hosts:
- name: a
  domains: [a.test, '*.A.test']
  require_tls: EXTERNAL_ONLY
  include_request_attempt_count: true
  routes:
  - match: {path_separated_prefix: /api, case_sensitive: false, headers: [{name: X-End, string_match: {suffix: z, ignore_case: true},
      invert_match: true, treat_missing_header_as_empty: true}, {name: n, range_match: {start: 1, end: 3}}],
      query_parameters: [{name: q, present_match: true}], runtime_fraction: {default_value: {numerator: 25}}}
    decorator: {operation: op}
    route:
      weighted_clusters: {clusters: [{name: v1, weight: 90, request_headers_to_add: [{header: {key: V, value: '1'},
        append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}, {name: v2, weight: 10}]}
      timeout: 0s
      max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0s}
      prefix_rewrite: /v2
      host_rewrite_literal: b.test
      cluster_not_found_response_code: INTERNAL_SERVER_ERROR
      retry_policy: {retry_on: 'connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes', num_retries: 2,
        host_selection_retry_max_attempts: 5, retriable_status_codes: [503], retry_host_predicate: [{name: p, typed_config:
        {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}],
        retry_back_off: {base_interval: 0.1s}}
  - match: {connect_matcher: {}}
    route: {cluster: c, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}], idle_timeout: 0s}
  - match: {safe_regex: {regex: '/x[0-9]+'}}
    redirect: {https_redirect: true, response_code: PERMANENT_REDIRECT, port_redirect: 8443, regex_rewrite:
      {pattern: {regex: '^/x(.)'}, substitution: '/y\\1'}}
  - match: {path: /d}
    direct_response: {status: 418, body: {inline_string: tea}}
    response_headers_to_remove: [X-A]
    response_headers_to_add: [{header: {key: X-B, value: '%PROTOCOL%'}, append: false, keep_empty_value: true}]
  - match: {prefix: /}
    route: {cluster_header: X-Cluster}
",
    )
    .unwrap();
    assert!(config.ignore_port);
    let host = config.virtual_host("b.a.test").unwrap();
    assert_eq!((host.require_tls, host.attempt_count_in_request), (RequireTls::ExternalOnly, true));
    let [weighted, connect, redirect, direct, header] = host.routes.as_slice() else { panic!("five routes") };

    assert!(matches!(&weighted.matches.path, PathMatch::SegmentPrefix(p) if p == "/api"));
    assert!(!weighted.matches.case_sensitive);
    assert_eq!(&*weighted.matches.headers[0].name, "x-end");
    assert!(weighted.matches.headers[0].invert && weighted.matches.headers[0].missing_as_empty);
    assert_eq!(weighted.matches.fraction, Some(250_000));
    assert_eq!(weighted.decorator.as_deref(), Some("op"));
    let Action::Forward(forward) = &weighted.action else { panic!("not forwarded") };
    let Target::Weighted(clusters) = &forward.target else { panic!("not weighted") };
    assert_eq!(clusters.iter().map(|c| (&*c.name, c.weight)).collect::<Vec<_>>(), [("v1", 90), ("v2", 10)]);
    assert_eq!(&*clusters[0].request_edits.add[0].name, "v");
    assert_eq!(forward.timeout, None, "0s switches Envoy's 15 s off");
    assert_eq!((forward.max_stream_duration, forward.max_grpc_timeout), (Some(None), Some(Duration::ZERO)));
    assert!(matches!(&forward.path_rewrite, PathRewrite::Prefix(p) if p == "/v2"));
    assert!(matches!(&forward.host_rewrite, HostRewrite::Literal(h) if &**h == "b.test"));
    assert_eq!(forward.cluster_not_found_status, 500);
    let retry = forward.retry.as_ref().unwrap();
    assert!(
        retry.on.connect_failure && retry.on.refused_stream && retry.on.retriable_status_codes && !retry.on.five_xx
    );
    assert_eq!((retry.num_retries, retry.host_selection_attempts, retry.avoid_previous_hosts), (2, 5, true));
    assert_eq!((retry.base_interval, retry.max_interval), (Duration::from_millis(100), Duration::from_secs(1)));

    let Action::Forward(forward) = &connect.action else { panic!("not forwarded") };
    assert!(forward.terminate_connect && matches!(connect.matches.path, PathMatch::Connect));
    assert_eq!((forward.timeout, forward.idle_timeout), (Some(Duration::from_secs(15)), Some(None)));
    assert!(connect.matches.case_sensitive);

    let Action::Redirect(redirect) = &redirect.action else { panic!("not redirected") };
    assert_eq!((redirect.status, redirect.scheme.as_deref(), redirect.port), (308, Some("https"), Some(8443)));
    assert!(matches!(&redirect.path_rewrite, PathRewrite::Regex { substitution, .. } if substitution == "/y\\1"));

    let Action::Direct(answer) = &direct.action else { panic!("not answered") };
    assert_eq!((answer.status, &answer.body[..]), (418, &b"tea"[..]));
    assert_eq!(direct.response_edits.remove, ["x-a".into()]);
    assert!(direct.response_edits.add[0].keep_empty);
    let Action::Forward(forward) = &header.action else { panic!("not forwarded") };
    assert!(matches!(&forward.target, Target::Header(name) if &**name == "x-cluster"));
}
