//! Questions about connections of bytes: what the service is told, what becomes of what it says, and what is counted.
#![allow(deprecated)] // Envoy's deprecated fields are fields all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_tests::bootstrap::{
    self, LOG_FORMAT, Layout, cluster, file_log, http, http2_upstream, listener, merge, tcp,
};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::check::{answer, framed, grpc};
use lateen_tests::client;
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::h2_upstream::{self, H2Act, H2Scripts};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::tls::{downstream, upstream as tls_to};
use lateen_tests::upstream::{self, Act, Stage};
use lateen_tests::{ports, wait};
use lateen_xds::pb::envoy::service::auth::v3::check_response::HttpResponse;
use lateen_xds::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use serde_json::{Value, json};

use super::super::counters::statistics;
use super::grpc::{pki, status, texts};

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";
const ECHO: &str = "echo";

/// How what ends a connection follows what is asked about it.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    Tcp,
    Http,
}

/// A listener of its own, as nothing in a connection's first bytes could tell the service which case it is.
struct Row {
    name: &'static str,
    filter: Value,
    /// The service is asked, and does this.
    act: Option<H2Act>,
    ends: Ends,
    tls: bool,
}

fn row(name: &'static str, filter: Value, act: H2Act) -> Row {
    Row { name, filter, act: Some(act), ends: Ends::Tcp, tls: false }
}

fn not_asked(name: &'static str, filter: Value) -> Row {
    Row { name, filter, act: None, ends: Ends::Tcp, tls: false }
}

fn says(code: i32) -> H2Act {
    answer(&CheckResponse { status: status(code), ..CheckResponse::default() })
}

fn rows() -> Vec<Row> {
    let with = |http: HttpResponse, code| {
        answer(&CheckResponse { status: status(code), http_response: Some(http), ..CheckResponse::default() })
    };
    let told = |code| {
        answer(&CheckResponse {
            status: status(code),
            dynamic_metadata: texts(&[("told", "by the service")]),
            ..CheckResponse::default()
        })
    };
    let trailers = |code: &str| vec![("grpc-status".to_owned(), code.to_owned())];
    let good = framed(&CheckResponse { status: status(0), ..CheckResponse::default() });
    let failed = || H2Act::Answer(200, grpc(), vec![], trailers("13"));
    let open = || json!({"failure_mode_allow": true});
    let to = |cluster: &str| json!({"grpc_service": {"envoy_grpc": {"cluster_name": cluster}}});
    let and_open = |mut filter: Value| {
        merge(&mut filter, open());
        filter
    };
    let only = |value: &str| {
        json!({"filter_enabled_metadata": {"filter": "envoy.filters.network.rbac",
        "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}], "value": {"string_match": {"prefix": value}}}})
    };
    let mut rows = vec![
        row("allowed", json!({}), says(0)),
        row("no status", json!({}), answer(&CheckResponse::default())),
        row("allowed with fields", json!({}), with(HttpResponse::OkResponse(OkHttpResponse::default()), 0)),
        row("denied", json!({}), says(7)),
        row("denied openly", open(), says(7)),
        row("denied otherwise", json!({}), says(16)),
        row("unknown status", json!({}), says(99)),
        row(
            "denied with a body",
            json!({}),
            with(HttpResponse::DeniedResponse(DeniedHttpResponse { body: "no".into(), ..Default::default() }), 7),
        ),
        row("denied and allowed", json!({}), with(HttpResponse::OkResponse(OkHttpResponse::default()), 7)),
        row("an error", json!({}), with(HttpResponse::ErrorResponse(DeniedHttpResponse::default()), 13)),
        row("an error openly", open(), with(HttpResponse::ErrorResponse(DeniedHttpResponse::default()), 13)),
        row("failed", json!({}), failed()),
        row("failed openly", open(), failed()),
        row("503", json!({}), H2Act::Answer(503, vec![], b"no".to_vec(), vec![])),
        row("nonsense", json!({}), H2Act::Answer(200, grpc(), vec![0, 0, 0, 0, 2, 255, 255], trailers("0"))),
        row("no trailers", json!({}), H2Act::Answer(200, grpc(), good, vec![])),
        row("a reset", json!({}), H2Act::Reset(2)),
        row("a reset openly", open(), H2Act::Reset(2)),
        not_asked("dead", to("dead")),
        not_asked("dead openly", and_open(to("dead"))),
        not_asked("nowhere", to("nowhere")),
        not_asked("nowhere openly", and_open(to("nowhere"))),
        not_asked("not matched", only("another")),
        row("matched", only("istio-ext-authz"), says(0)),
        row("matched and denied", only("istio-ext-authz"), says(7)),
        row("context", json!({"metadata_context_namespaces": ["envoy.filters.network.rbac", "none"]}), says(0)),
        row(
            "other service",
            json!({"grpc_service": {"envoy_grpc": {"authority": "auth.test", "skip_envoy_headers": true}}}),
            says(0),
        ),
        row("tells", json!({}), told(0)),
        row("tells and denies", json!({}), told(7)),
        row("bare", json!({"include_peer_certificate": true, "include_tls_session": true}), says(0)),
    ];
    for (name, filter) in [
        ("secure", json!({"include_peer_certificate": true, "include_tls_session": true})),
        ("secure quiet", json!({})),
    ] {
        rows.push(Row { tls: true, ..row(name, filter, says(0)) });
    }
    for (name, code) in [("http allowed", 0), ("http denied", 7)] {
        rows.push(Row { ends: Ends::Http, ..row(name, json!({}), says(code)) });
    }
    rows
}

fn listen(layout: &Layout, row: &Row) -> Value {
    let shadow = json!({"name": "envoy.filters.network.rbac", "typed_config": {
        "@type": format!("{NETWORK}.rbac.v3.RBAC"), "stat_prefix": "tcp.", "shadow_rules_stat_prefix": "istio_ext_authz_",
        "shadow_rules": {"action": "DENY", "policies": {"istio-ext-authz-p": {
            "permissions": [{"any": true}], "principals": [{"any": true}]}}}}});
    let told = json!([{"key": "x-case", "value": row.name}]);
    let mut asks = json!({"@type": format!("{NETWORK}.ext_authz.v3.ExtAuthz"), "stat_prefix": row.name,
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "auth"}, "timeout": "10s", "initial_metadata": told}});
    merge(&mut asks, row.filter.clone());
    let asks = json!({"name": "envoy.filters.network.ext_authz", "typed_config": asks});
    let format = format!("{}\t%DYNAMIC_METADATA(envoy.filters.network.ext_authz:told)%\n", LOG_FORMAT.trim_end());
    let log = json!({"access_log": file_log(&layout.access_log(), &format)});
    let end = match row.ends {
        Ends::Tcp => {
            let mut settings = json!({"cluster": ECHO});
            merge(&mut settings, log);
            tcp(layout, row.name, settings)
        }
        Ends::Http => {
            let direct = json!([{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]);
            http(layout, row.name, direct, log)
        }
    };
    let mut all = listener(layout, row.name, end);
    let chain = &mut all["filter_chains"][0];
    let filters = chain["filters"].as_array_mut().expect("filters");
    filters.insert(0, asks);
    filters.insert(0, shadow);
    if row.tls {
        chain["transport_socket"] = downstream(json!({"common_tls_context": {
            "tls_certificates": [pki().server.json()],
            "validation_context": {"trusted_ca": {"inline_string": pki().authority.pem}}}}));
    }
    all
}

/// The listener through which a row is reached: connections to one with TLS come from one without.
fn way(row: &Row) -> &'static str {
    match row.name {
        "secure" => "to secure",
        "secure quiet" => "to secure quiet",
        name => name,
    }
}

fn resources(layout: &Layout) -> Resources {
    let mut clusters = vec![cluster(layout, ECHO, &[ECHO], json!({}))];
    clusters.extend(["auth", "dead"].map(|name| cluster(layout, name, &[name], http2_upstream())));
    let mut listeners = Vec::new();
    for row in rows() {
        listeners.push(listen(layout, &row));
        if row.tls {
            let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": layout.listener(row.name)}});
            let mut to = cluster(layout, row.name, &[], json!({}));
            to["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
            to["transport_socket"] =
                tls_to(json!({"sni": "sni.test", "common_tls_context": {"tls_certificates": [pki().client.json()]}}));
            clusters.push(to);
            let through = tcp(layout, way(&row), json!({"cluster": row.name, "access_log": []}));
            listeners.push(listener(layout, way(&row), through));
        }
    }
    (listeners, clusters)
}

fn case(row: &Row) -> Case {
    let client = match row.ends {
        Ends::Tcp => vec![say("TCP / HTTP/1.1\r\n@@\r\n\r\nhello"), Do::FinishWriting, Do::End],
        Ends::Http => {
            vec![say("GET / HTTP/1.1\r\nhost: a.test\r\n@@\r\nconnection: close\r\n\r\n"), Do::Answer, Do::End]
        }
    };
    let case = Case::of(row.name).on(way(row)).client(client);
    case.at(ECHO, vec![vec![Act::EchoRaw]]).unordered("auth")
}

fn listener_names() -> Vec<&'static str> {
    let rows = rows();
    let names: BTreeSet<&'static str> = rows.iter().flat_map(|row| [row.name, way(row)]).collect();
    names.into_iter().collect()
}

fn scripts() -> Vec<(String, Vec<H2Act>)> {
    rows().into_iter().filter_map(|row| Some((row.name.to_owned(), vec![row.act?]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_bytes() {
    let world = World {
        name: "ext authz of connections",
        listeners: listener_names().leak(),
        upstreams: &[ECHO],
        h2_upstreams: &["auth"],
        resources,
        cases: rows().iter().map(case).collect(),
        h2_scripts: scripts(),
    };
    compare(&world, Source::File).await;
}

async fn counted(kind: Kind) -> BTreeMap<String, u64> {
    let dir = tempfile::tempdir().unwrap();
    let (stage, h2_scripts) = (Arc::new(Stage::default()), Arc::new(H2Scripts::default()));
    let socket = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (echo, auth) = (socket(), socket());
    let port = |socket: &std::net::TcpListener| socket.local_addr().unwrap().port();
    let layout = Layout::new(
        dir.path(),
        &listener_names(),
        &[(ECHO, port(&echo)), ("auth", port(&auth)), ("dead", ports::free())],
    );
    upstream::serve(stage.clone(), ECHO, echo);
    h2_upstream::serve(stage.clone(), h2_scripts.clone(), "auth", auth);
    scripts().into_iter().for_each(|(case, acts)| h2_scripts.script(&case, acts));
    let (listeners, clusters) = resources(&layout);
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &clusters), layout.admin, dir.path()).await;
    let rows = rows();
    for row in &rows {
        let case = case(row);
        for (upstream, script) in &case.apart {
            stage.script_at(&case.name, upstream, script.clone());
        }
        let to = ([127, 0, 0, 1], layout.listener(case.listener)).into();
        client::play(&case, [127, 0, 0, 1].into(), to, &stage).await;
    }
    wait::until("all is counted", || async {
        let now = statistics(&proxy.admin("/stats").await.text());
        let sum = |end: &str| -> u64 {
            now.iter().filter(|(name, _)| name.starts_with("ext_authz.") && name.ends_with(end)).map(|(_, n)| n).sum()
        };
        (sum(".active") == 0 && sum(".ok") + sum(".denied") + sum(".error") == rows.len() as u64 - 1).then_some(())
    })
    .await;
    let all = statistics(&proxy.admin("/stats").await.text());
    all.into_iter().filter(|(name, _)| name.starts_with("ext_authz.")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_bytes_counted() {
    let (mut theirs, mut ours) = (counted(Kind::Envoy).await, counted(Kind::Lateen).await);
    assert_eq!(theirs.get("ext_authz.failed openly.failure_mode_allowed"), Some(&1), "{theirs:#?}");
    // Envoy counts each time that bytes come, we count connections.
    for all in [&mut theirs, &mut ours] {
        let disabled = all.remove("ext_authz.not matched.disabled");
        assert!(disabled.is_some_and(|count| count > 0), "{all:#?}");
    }
    assert_eq!(theirs, ours);
}
