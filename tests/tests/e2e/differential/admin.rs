//! The admin page and the statistics, after the same traffic through both proxies.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener, tcp};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::client;
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{self, Act, Stage, answer};
use lateen_tests::{ports, wait};
use serde_json::{Value, json};

/// Statistics whose values must be Envoy's. Histograms and times are left to each.
const COUNTED: &[&str] = &[
    "http.main.downstream_cx_total",
    "http.main.downstream_cx_active",
    "http.main.downstream_rq_total",
    "http.main.downstream_rq_active",
    "http.main.downstream_rq_completed",
    "http.main.downstream_rq_1xx",
    "http.main.downstream_rq_2xx",
    "http.main.downstream_rq_3xx",
    "http.main.downstream_rq_4xx",
    "http.main.downstream_rq_5xx",
    "http.main.downstream_rq_timeout",
    "http.main.no_route",
    "http.main.no_cluster",
    "cluster.up.upstream_cx_total",
    "cluster.up.upstream_cx_active",
    "cluster.up.upstream_rq_total",
    "cluster.up.upstream_rq_active",
    "cluster.up.upstream_rq_completed",
    "cluster.up.upstream_rq_2xx",
    "cluster.up.upstream_rq_5xx",
    "cluster.up.upstream_rq_200",
    "cluster.up.upstream_rq_500",
    "cluster.up.upstream_rq_retry",
    "cluster.up.upstream_rq_retry_success",
    "cluster.up.upstream_rq_timeout",
    "cluster.up.membership_total",
    "cluster.up.membership_healthy",
    "cluster.dead.upstream_cx_connect_fail",
    "cluster.dead.upstream_rq_total",
    "cluster.dead.upstream_rq_503",
    "cluster.dead.upstream_rq_5xx",
    "cluster.empty.upstream_cx_none_healthy",
    "cluster.empty.membership_total",
    "tcp.stream.downstream_cx_total",
    "tcp.stream.downstream_cx_rx_bytes_total",
    "tcp.stream.downstream_cx_tx_bytes_total",
    "cluster_manager.active_clusters",
    "listener_manager.total_listeners_active",
    "server.live",
    "server.concurrency",
];

fn traffic() -> Vec<Case> {
    let mut cases: Vec<Case> = (0..5).map(|i| Case::get(&format!("good {i}"), "/up")).collect();
    cases.push(Case::get("no route", "/none"));
    cases.push(Case::get("no cluster", "/nowhere"));
    cases.push(Case::get("refused", "/dead"));
    cases.push(Case::get("no endpoint", "/empty"));
    cases.push(Case::get("moved", "/moved"));
    cases.push(Case::get("late", "/late").upstream(vec![Act::Hang]));
    cases.push(Case::get("failing", "/up").upstream(vec![answer("500 X", &[], b"")]));
    cases.push(
        Case::get("second try", "/retried")
            .tries(vec![vec![answer("503 X", &[], b"")], vec![answer("200 OK", &[], b"ok")]]),
    );
    cases.push(Case::raw("malformed", "nonsense\r\n\r\n"));
    cases.push(
        Case::of("streamed")
            .on("stream")
            .client(vec![say("x-case: streamed\r\n\r\nhello"), Do::Exactly(5), Do::FinishWriting, Do::End])
            .upstream(vec![Act::EchoRaw]),
    );
    cases
}

/// A proxy after the traffic, with what its admin page says.
struct Told {
    stats: BTreeMap<String, u64>,
    prometheus: String,
    pages: BTreeMap<&'static str, (u16, String, String)>,
}

async fn told(kind: Kind) -> Told {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let up = socket.local_addr().unwrap().port();
    upstream::serve(stage.clone(), "up", socket);
    let layout = Layout::new(dir.path(), &["main", "stream"], &[("up", up), ("dead", ports::free())]);
    let to = |path: &str, route: Value| json!({"match": {"prefix": path}, "route": route});
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [
        to("/up", json!({"cluster": "up"})),
        to("/retried", json!({"cluster": "up", "retry_policy": {"retry_on": "5xx"}})),
        to("/late", json!({"cluster": "up", "timeout": "0.2s"})),
        to("/dead", json!({"cluster": "dead"})),
        to("/empty", json!({"cluster": "empty"})),
        to("/nowhere", json!({"cluster": "nowhere"})),
        {"match": {"prefix": "/moved"}, "redirect": {"path_redirect": "/x"}},
    ]}]);
    let listeners = [
        listener(&layout, "main", http(&layout, "main", routes, json!({}))),
        listener(&layout, "stream", tcp(&layout, "stream", json!({"cluster": "up"}))),
    ];
    let clusters = [
        cluster(&layout, "up", &["up"], json!({})),
        cluster(&layout, "dead", &["dead"], json!({})),
        cluster(&layout, "empty", &[], json!({})),
    ];
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &clusters), layout.admin, dir.path()).await;
    for case in traffic() {
        stage.script(&case.name, case.script.clone());
        client::play(&case, [127, 0, 0, 1].into(), ([127, 0, 0, 1], layout.listener(case.listener)).into(), &stage)
            .await;
    }
    wait::until("all is counted", || async {
        let now = statistics(&proxy.admin("/stats").await.text());
        let settled = now.get("http.main.downstream_cx_active") == Some(&0)
            && now.get("http.main.downstream_rq_completed").is_some_and(|completed| *completed >= 13);
        settled.then_some(())
    })
    .await;
    let stats = statistics(&proxy.admin("/stats").await.text());
    let mut pages = BTreeMap::new();
    for path in [
        "/ready",
        "/listeners",
        "/clusters",
        "/server_info",
        "/config_dump",
        "/stats",
        "/stats?format=json",
        "/stats/prometheus",
        "/nothing-here",
    ] {
        let page = proxy.admin(path).await;
        let kind = page.header("content-type").unwrap_or("").to_owned();
        pages.insert(path, (page.status(), kind, layout.nameless(&page.text())));
    }
    Told { stats, prometheus: proxy.admin("/stats/prometheus").await.text(), pages }
}

fn statistics(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_and_pages() {
    let theirs = told(Kind::Envoy).await;
    let ours = told(Kind::Lateen).await;
    let mut wrong = Vec::new();
    for name in COUNTED {
        let (envoy, lateen) = (theirs.stats.get(*name), ours.stats.get(*name));
        assert!(envoy.is_some(), "Envoy has no statistic {name}");
        if envoy != lateen {
            wrong.push(format!("{name}: Envoy {envoy:?}, ours {lateen:?}"));
        }
    }
    // Names in Prometheus' form, whatever their labels' order.
    for name in [
        "envoy_http_downstream_rq_xx",
        "envoy_cluster_upstream_rq_xx",
        "envoy_cluster_upstream_cx_total",
        "envoy_http_downstream_rq_time_bucket",
    ] {
        let has = |text: &str| text.lines().any(|line| line.starts_with(&format!("{name}{{")));
        assert!(has(&theirs.prometheus), "Envoy has no {name}");
        if !has(&ours.prometheus) {
            wrong.push(format!("/stats/prometheus has no {name}"));
        }
    }
    for (path, (status, kind, _)) in &theirs.pages {
        let (our_status, our_kind, _) = &ours.pages[path];
        // Prometheus' own format version may be said.
        if (status, kind) != (our_status, &our_kind.replace("version=0.0.4; ", "")) {
            wrong.push(format!("{path}: Envoy {status} {kind:?}, ours {our_status} {our_kind:?}"));
        }
    }
    for path in ["/ready", "/listeners"] {
        let (envoy, lateen) = (&theirs.pages[path].2, &ours.pages[path].2);
        if envoy != lateen {
            wrong.push(format!("{path}: Envoy {envoy:?}, ours {lateen:?}"));
        }
    }
    let hosts = |told: &Told| -> Vec<String> {
        let mut found: Vec<String> = told.pages["/clusters"]
            .2
            .lines()
            .filter(|line| line.ends_with("::health_flags::healthy"))
            .map(str::to_owned)
            .collect();
        found.sort();
        found
    };
    if hosts(&theirs) != hosts(&ours) {
        wrong.push(format!("/clusters: Envoy {:?}, ours {:?}", hosts(&theirs), hosts(&ours)));
    }
    let dumped = |told: &Told| -> Vec<String> {
        let dump: Value = serde_json::from_str(&told.pages["/config_dump"].2).expect("/config_dump is JSON");
        let configs = dump["configs"].as_array().cloned().unwrap_or_default();
        let kinds = configs.iter().filter_map(|config| config["@type"].as_str()?.rsplit('.').next().map(str::to_owned));
        kinds.filter(|kind| kind != "ScopedRoutesConfigDump").collect()
    };
    if dumped(&theirs) != dumped(&ours) {
        wrong.push(format!("/config_dump: Envoy {:?}, ours {:?}", dumped(&theirs), dumped(&ours)));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
