//! What is counted of routes, retries and faults, after the same traffic through both proxies.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener, router};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::client;
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{self, Act, Script, Stage, answer};
use lateen_tests::{ports, wait};
use serde_json::{Value, json};

/// Statistics that are compared: those whose names begin so, but for histograms.
const COMPARED: [&str; 4] = ["vhost.", "cluster.up.upstream_rq_", "cluster.dead.upstream_rq_", "http.main.fault."];

/// What Envoy has besides, and is told nowhere else: what it does per worker or for features that are not there.
const LEFT_OUT: [&str; 13] = [
    "upstream_rq_rx_reset_no_error",
    "upstream_rq_active",
    "upstream_rq_cancelled",
    "upstream_rq_maintenance_mode",
    "upstream_rq_max_duration_reached",
    "upstream_rq_pending_active",
    "upstream_rq_pending_failure_eject",
    "upstream_rq_pending_overflow",
    "upstream_rq_pending_total",
    "upstream_rq_0rtt",
    "upstream_rq_active_overflow",
    "upstream_rq_drop_overload",
    "upstream_rq_dropped",
];

fn own(status: u16, headers: &[(&str, &str)]) -> Vec<Act> {
    vec![Act::ReadBody, answer(&format!("{status} X"), headers, b"own")]
}

fn traffic() -> Vec<Case> {
    let case = |name: &str, path: &str, script: Script| Case::get(name, path).tries(script);
    let mut cases: Vec<Case> = (0..3).map(|i| case(&format!("good {i}"), "/plain", vec![own(200, &[])])).collect();
    for status in [204, 301, 404, 500, 503] {
        cases.push(case(&format!("status {status}"), "/plain", vec![own(status, &[])]));
    }
    cases.push(case("no statistics", "/uncounted", vec![own(200, &[])]));
    cases.push(case("redirected", "/moved", vec![]));
    cases.push(case("answered", "/direct", vec![]));
    cases.push(case("refused", "/dead", vec![]));
    cases.push(case("nobody there", "/empty", vec![]));
    cases.push(case("no cluster", "/nowhere", vec![]));
    cases.push(case("second try", "/retried", vec![own(503, &[]), own(200, &[])]));
    cases.push(case("all tries", "/retried", vec![own(503, &[])]));
    cases.push(case("no room", "/no-room", vec![own(503, &[])]));
    cases.push(case("told", "/told", vec![own(503, &[("retry-after", "1")]), own(200, &[])]));
    cases.push(case("late", "/late", vec![vec![Act::ReadBody, Act::Hang]]));
    cases.push(case("tries late", "/tries-late", vec![vec![Act::ReadBody, Act::Hang]]));
    cases.push(case("tries idle", "/tries-idle", vec![vec![Act::ReadBody, Act::Hang]]));
    cases.push(case("reset", "/plain", vec![vec![Act::ReadBody, Act::Reset]]));
    cases.push(case("aborted", "/abort", vec![]));
    cases.push(case("delayed", "/delay", vec![own(200, &[])]));
    let upgrade = "GET /chat HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n@@\r\n\r\n";
    cases.push(Case::of("upgraded").client(vec![say(upgrade), Do::Interim, Do::FinishWriting, Do::End]).upstream(
        vec![
            lateen_tests::upstream::send(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            ),
            Act::EchoRaw,
        ],
    ));
    cases
}

/// What a proxy has counted once all is over.
async fn counted(kind: Kind) -> BTreeMap<String, u64> {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let up = socket.local_addr().unwrap().port();
    upstream::serve(stage.clone(), "up", socket);
    let layout = Layout::new(dir.path(), &["main"], &[("up", up), ("dead", ports::free())]);
    let route = |path: &str, prefix: &str, action: Value| {
        let mut route = json!({"match": {"prefix": path}, "stat_prefix": prefix});
        route.as_object_mut().unwrap().extend(action.as_object().unwrap().clone());
        route
    };
    let to = |cluster: &str| json!({"route": {"cluster": cluster}});
    let again = |policy: Value| json!({"route": {"cluster": "up", "retry_policy": policy}});
    let fault = |fault: Value| {
        let mut fault = fault;
        fault["@type"] = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault".into();
        json!({"route": {"cluster": "up"}, "typed_per_filter_config": {"fault": fault}})
    };
    let always = || json!({"numerator": 100});
    let mut no_room = again(json!({"retry_on": "5xx"}));
    no_room["route"]["cluster"] = "no-room".into();
    let routes = json!([
        {"name": "shop.test:80", "domains": ["*"], "routes": [
            route("/plain", "plain", to("up")),
            route("/uncounted", "", to("up")),
            route("/moved", "moved", json!({"redirect": {"path_redirect": "/x"}})),
            route("/direct", "direct", json!({"direct_response": {"status": 200}})),
            route("/dead", "dead", to("dead")),
            route("/empty", "empty", to("empty")),
            route("/nowhere", "nowhere", to("nowhere")),
            route("/retried", "retried.often", again(json!({"retry_on": "5xx"}))),
            route("/no-room", "no-room", no_room),
            route("/told", "told", again(json!({"retry_on": "5xx",
                "rate_limited_retry_back_off": {"reset_headers": [{"name": "retry-after"}]}}))),
            route("/late", "late", json!({"route": {"cluster": "up", "timeout": "1s"}})),
            route("/tries-late", "tries-late", again(json!({"retry_on": "5xx", "per_try_timeout": "0.5s"}))),
            route("/tries-idle", "tries-idle", again(json!({"retry_on": "5xx", "per_try_idle_timeout": "0.5s"}))),
            route("/abort", "abort", fault(json!({"abort": {"http_status": 503, "percentage": always()}}))),
            route("/delay", "delay", fault(json!({"delay": {"fixed_delay": "0.05s", "percentage": always()}}))),
            route("/chat", "chat", to("up")),
        ]},
        {"name": "unused", "domains": ["unused.test"], "routes": [route("/", "never", to("up"))]},
    ]);
    let faults = json!({"name": "fault", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}});
    let more = json!({"http_filters": [faults, router()], "upgrade_configs": [{"upgrade_type": "websocket"}]});
    let listeners = [listener(&layout, "main", http(&layout, "main", routes, more))];
    let clusters = [
        cluster(&layout, "up", &["up"], json!({})),
        cluster(&layout, "dead", &["dead"], json!({})),
        cluster(&layout, "empty", &[], json!({})),
        cluster(&layout, "no-room", &["up"], json!({"circuit_breakers": {"thresholds": [{"max_retries": 0}]}})),
    ];
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &clusters), layout.admin, dir.path()).await;
    let cases = traffic();
    for case in &cases {
        stage.script(&case.name, case.script.clone());
        client::play(case, [127, 0, 0, 1].into(), ([127, 0, 0, 1], layout.listener(case.listener)).into(), &stage)
            .await;
    }
    wait::until("all is counted", || async {
        let now = statistics(&proxy.admin("/stats").await.text());
        let settled = now.get("http.main.downstream_rq_active") == Some(&0)
            && now.get("http.main.downstream_rq_total") == Some(&(cases.len() as u64));
        settled.then_some(())
    })
    .await;
    statistics(&proxy.admin("/stats").await.text())
}

pub(super) fn statistics(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.rsplit_once(": "));
    lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

fn compared(all: &BTreeMap<String, u64>) -> BTreeMap<&str, u64> {
    all.iter()
        .map(|(name, value)| (name.as_str(), *value))
        .filter(|(name, _)| COMPARED.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|(name, _)| !LEFT_OUT.iter().any(|end| name.ends_with(end)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters() {
    let (theirs, ours) = (counted(Kind::Envoy).await, counted(Kind::Lateen).await);
    let (theirs, ours) = (compared(&theirs), compared(&ours));
    assert!(theirs.contains_key("vhost.shop.test:80.route.plain.upstream_rq_total"), "{theirs:#?}");
    let names: std::collections::BTreeSet<&str> = theirs.keys().chain(ours.keys()).copied().collect();
    let different: Vec<String> = names
        .into_iter()
        .filter(|name| theirs.get(name) != ours.get(name))
        .map(|name| format!("{name}: Envoy {:?}, ours {:?}", theirs.get(name), ours.get(name)))
        .collect();
    assert!(different.is_empty(), "{} of {} are different:\n{}", different.len(), theirs.len(), different.join("\n"));
}
