use super::*;
use crate::state::State;

fn parse(text: &str) -> Result<Bootstrap, BootstrapError> {
    Bootstrap::parse(text, &Schema::load().unwrap())
}

/// In YAML, with anchors, comments, both spellings of field names, and everything a sidecar has.
const SIDECAR: &str = "
# who we are
node:
  id: sidecar~10.1.1.1~a-1.default~default.svc.cluster.local
  cluster: a.default
  locality: {region: r, zone: z}
  metadata: {NAMESPACE: default, LABELS: {app: a}}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
cluster_manager:
  upstream_bind_config:
    source_address: {address: 0.0.0.0, port_value: 0}
    socket_options: [{description: mark, level: 1, name: 36, int_value: 1337, state: STATE_PREBIND}]
dynamicResources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{envoy_grpc: {cluster_name: xds-grpc, authority: istiod}}]
  ldsConfig: &ads {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}
  cds_config: *ads
stats_config: {use_all_default_tags: false}
bootstrap_extensions:
- name: metadata_discovery
  typed_config: {'@type': type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/x, value: {a: [1]}}
overload_manager:
  resource_monitors:
  - name: connections
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 2147483647
tracing: {http: {name: z, typed_config: {'@type': type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: z}}}
static_resources:
  clusters:
  - name: xds-grpc
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: xds-grpc
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.244.0.1, port_value: 15010}}}}]}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
  listeners:
  - name: ready
    address: {socket_address: {address: 0.0.0.0, port_value: 15021}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ready
          route_config: {virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
";

#[test]
fn a_sidecars_bootstrap() {
    let bootstrap = parse(SIDECAR).unwrap();
    assert_eq!(bootstrap.node.id, "sidecar~10.1.1.1~a-1.default~default.svc.cluster.local");
    assert_eq!(bootstrap.node.locality.as_ref().unwrap().zone, "z");
    assert!(bootstrap.node.metadata.as_ref().unwrap().fields.contains_key("LABELS"));
    assert_eq!(bootstrap.admin, Some("127.0.0.1:15000".parse().unwrap()));
    let ads = Ads { cluster: "xds-grpc".into(), protocol: Protocol::Delta, authority: Some("istiod".into()) };
    assert_eq!(bootstrap.ads, Some(ads));
    assert_eq!(bootstrap.listener_source, Some(ResourceSource::Ads));
    assert_eq!(bootstrap.cluster_source, Some(ResourceSource::Ads));
    let bind = bootstrap.upstream_bind.as_ref().unwrap();
    assert_eq!((bind.options[0].level, bind.options[0].name), (1, 36));
    let noted = ["bootstrap_extensions", "stats_config", "tracing"].map(|f| format!("Bootstrap.{f}"));
    assert_eq!(bootstrap.notes.iter().map(|(field, _)| field).collect::<Vec<_>>(), noted);

    assert_eq!(bootstrap.max_connections, Some(2_147_483_647));

    let mut state = State::new(&bootstrap, Box::new(|_| Ok(Box::new(()))), std::time::SystemTime::UNIX_EPOCH).unwrap();
    let config = state.config();
    assert_eq!(config.listeners["ready"].addresses, ["0.0.0.0:15021".parse().unwrap()]);
    let xds = &config.clusters["xds-grpc"];
    assert_eq!(xds.endpoints.localities[0].endpoints[0].address.to_string(), "10.244.0.1:15010");
    assert_eq!(xds.settings.protocol, lateen_traffic::cluster::UpstreamProtocol::Http2);
}

#[test]
fn of_overload_the_limit_of_connections_is_carried_out() {
    let monitors = |monitors: &str| {
        parse(&format!("overload_manager: {{resource_monitors: [{monitors}], actions: [{{name: a}}]}}"))
    };
    let connections = |most: i64| {
        format!(
            "{{name: c, typed_config: {{'@type': type.googleapis.com/envoy.extensions.resource_monitors\
             .downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: {most}}}}}"
        )
    };
    let heap = "{name: h, typed_config: {'@type': type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap\
                .v3.FixedHeapConfig, max_heap_size_bytes: 1}}";
    let both = monitors(&format!("{heap}, {}", connections(7))).unwrap();
    assert_eq!(both.max_connections, Some(7));
    let noted: Vec<_> = both.notes.iter().map(|(field, _)| field).collect();
    assert_eq!(noted, ["OverloadManager.actions", "OverloadManager.resource_monitors"]);
    assert_eq!(monitors(heap).unwrap().max_connections, None);
    let refused = monitors(&connections(0)).unwrap_err().to_string();
    assert!(refused.ends_with("max_active_downstream_connections: has to be greater than 0"), "{refused}");
}

#[test]
fn json_is_read_and_its_dump_reads_the_same() {
    let schema = Schema::load().unwrap();
    let bootstrap = parse(SIDECAR).unwrap();
    let json = schema.to_json(&bootstrap.raw).unwrap().to_string();
    assert!(json.starts_with('{'));
    assert_eq!(parse(&json).unwrap().raw, bootstrap.raw);
}

#[test]
fn files_can_be_the_source() {
    let bootstrap = parse(
        "{dynamic_resources: {lds_config: {path_config_source: {path: /etc/lds.yaml}}, cds_config: {path: /etc/cds.json}}}",
    )
    .unwrap();
    assert_eq!(bootstrap.listener_source, Some(ResourceSource::File("/etc/lds.yaml".into())));
    assert_eq!(bootstrap.cluster_source, Some(ResourceSource::File("/etc/cds.json".into())));
    assert_eq!(bootstrap.ads, None);
}

#[test]
fn what_cannot_be_used_is_said_with_its_place() {
    for (text, said) in [
        ("node: {id: a, idd: b}", "node.idd: no such field in envoy.config.core.v3.Node"),
        ("{node: [}", "neither YAML nor JSON: "),
        (
            "admin: {address: {socket_address: {address: here, port_value: 1}}}",
            "admin.address.socket_address.address: \"here\" is no IP address",
        ),
        ("admin: {address: {pipe: {path: /x}}}", "admin.address.pipe: not supported here"),
        (
            "dynamic_resources: {cds_config: {ads: {}}}",
            "dynamic_resources.cds_config: ads is asked for, but there is no ads_config",
        ),
        (
            "dynamic_resources: {ads_config: {api_type: DELTA_GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}",
            "dynamic_resources.ads_config.grpc_services: cluster \"x\" is not among the static clusters",
        ),
        (
            "dynamic_resources: {ads_config: {api_type: REST, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}",
            "dynamic_resources.ads_config.api_type: only GRPC and DELTA_GRPC are supported",
        ),
        (
            "dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{google_grpc: {target_uri: x}}]}}",
            "dynamic_resources.ads_config.grpc_services[0].google_grpc: not supported: use envoy_grpc",
        ),
        (
            "cluster_manager: {upstream_bind_config: {socket_options: [{level: 1, name: 2}]}}",
            "cluster_manager.upstream_bind_config.socket_options[0].int_value: missing",
        ),
        ("header_prefix: x-mine", "header_prefix: only x-envoy is supported"),
        ("hds_config: {}", "hds_config: not supported yet"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(said), "{text}\n{error}");
    }
}

#[test]
fn static_resources_are_refused_with_their_place() {
    let refused = |text: &str| {
        let bootstrap = parse(text).unwrap();
        State::new(&bootstrap, Box::new(|_| Ok(Box::new(()))), std::time::SystemTime::UNIX_EPOCH)
            .expect_err(text)
            .to_string()
    };
    assert_eq!(
        refused("static_resources: {clusters: [{name: a}, {name: b, lb_policy: LOAD_BALANCING_POLICY_CONFIG}]}"),
        "static_resources.clusters[1].lb_policy: LOAD_BALANCING_POLICY_CONFIG without one"
    );
    assert_eq!(
        refused("static_resources: {clusters: [{name: a}, {name: a}]}"),
        "static_resources.clusters[1]: a second cluster \"a\""
    );
    assert_eq!(refused("static_resources: {listeners: [{name: l}]}"), "static_resources.listeners[0].address: missing");
}
