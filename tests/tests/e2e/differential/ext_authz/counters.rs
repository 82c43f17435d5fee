//! What is counted of questions, after the same ones through both proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener, router};
use lateen_tests::case::Case;
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{self, Act, Script, Stage};
use lateen_tests::{client, ports, wait};
use serde_json::{Value, json};

use super::{FILTER, TYPE, filter, says, uri};

fn traffic() -> Vec<Case> {
    let case =
        |name: &str, path: &str, on: &'static str, script: Script| Case::get(name, path).on(on).at("auth", script);
    let ok = || says("200 OK", &[], "");
    let refused = |status: &str| says(status, &[("x-told", "why")], "no");
    let mut all = vec![
        case("allowed", "/", "main", ok()),
        case("allowed again", "/", "main", ok()),
        case("allowed elsewhere", "/direct", "main", ok()),
        case("refused", "/", "main", refused("403 X")),
        case("refused otherwise", "/", "main", refused("401 X")),
        case("refused elsewhere", "/direct", "main", refused("403 X")),
        case("failed", "/", "main", refused("500 X")),
        case("off", "/off", "main", ok()),
        case("refused, not counted", "/", "uncounted", refused("403 X")),
        case("failed openly", "/", "open", refused("503 X")),
        case("nobody there", "/", "open", vec![vec![Act::ReadBody, Act::Reset]]),
        case("disabled", "/", "never", ok()),
        case("disabled and refused", "/", "refuses", ok()),
        case("late", "/", "late", vec![vec![Act::ReadBody, Act::Hang]]),
        case("unreachable", "/", "dead", ok()),
        case("deaf", "/", "deaf", says("200 OK", &[("x-told", "why")], "")),
    ];
    let long = "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 20\r\n\r\n01234567890123456789";
    all.push(Case::raw("too long", long).on("body"));
    all
}

const LISTENERS: [&str; 9] = ["main", "uncounted", "open", "never", "refuses", "late", "dead", "deaf", "body"];

fn filters(listener: &str) -> Value {
    let never = json!({"default_value": {"numerator": 0}});
    filter(match listener {
        "uncounted" => json!({"charge_cluster_response_stats": false, "stat_prefix": "waf"}),
        "open" => json!({"failure_mode_allow": true}),
        "never" => json!({"filter_enabled": never}),
        "refuses" => json!({"filter_enabled": never, "deny_at_disable": {"default_value": true, "runtime_key": "k"}}),
        "late" => json!({"http_service": {"server_uri": uri("auth", "0.3s")}}),
        "dead" => json!({"http_service": {"server_uri": uri("dead", "10s")}}),
        "deaf" => json!({"enable_dynamic_metadata_ingestion": false, "http_service": {"authorization_response": {
            "dynamic_metadata_from_headers": {"patterns": [{"exact": "x-told"}]}}}}),
        "body" => json!({"with_request_body": {"max_request_bytes": 4}}),
        _ => json!({}),
    })
}

/// What a proxy has counted once all is over.
async fn counted(kind: Kind) -> BTreeMap<String, u64> {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    let mut upstreams = vec![("dead", ports::free())];
    for name in ["up", "auth"] {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        upstreams.push((name, socket.local_addr().unwrap().port()));
        upstream::serve(stage.clone(), name, socket);
    }
    let layout = Layout::new(dir.path(), &LISTENERS, &upstreams);
    let off = json!({FILTER: {"@type": format!("{TYPE}.ExtAuthzPerRoute"), "disabled": true}});
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 200}},
        {"match": {"prefix": "/off"}, "route": {"cluster": "up"}, "typed_per_filter_config": off},
        {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
    ]}]);
    let listeners = LISTENERS.map(|name| {
        let more = json!({"http_filters": [filters(name), router()]});
        listener(&layout, name, http(&layout, name, hosts.clone(), more))
    });
    let clusters = ["up", "auth", "dead"].map(|name| cluster(&layout, name, &[name], json!({})));
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &clusters), layout.admin, dir.path()).await;
    let cases = traffic();
    for case in &cases {
        for (upstream, script) in &case.apart {
            stage.script_at(&case.name, upstream, script.clone());
        }
        let to = ([127, 0, 0, 1], layout.listener(case.listener)).into();
        client::play(case, [127, 0, 0, 1].into(), to, &stage).await;
    }
    let total = |all: &BTreeMap<String, u64>, what: &str| {
        LISTENERS.iter().filter_map(|name| all.get(&format!("http.{name}.downstream_rq_{what}"))).sum::<u64>()
    };
    wait::within(Duration::from_secs(10), || async {
        let now = statistics(&proxy.admin("/stats").await.text());
        (total(&now, "active") == 0 && total(&now, "total") == cases.len() as u64).then_some(())
    })
    .await;
    statistics(&proxy.admin("/stats").await.text())
}

fn statistics(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.rsplit_once(": "));
    lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// Those of questions, and what else tells of them. Whether requests came from within is counted nowhere else either.
fn is_compared(name: &str) -> bool {
    if name.contains(".internal.") || name.contains(".external.") {
        return false;
    }
    let clusters = ["upstream_rq_total", "upstream_rq_completed", "upstream_rq_timeout"];
    let of_cluster = name.starts_with("cluster.")
        && (clusters.iter().any(|end| name.ends_with(end))
            || name.rsplit_once("upstream_rq_").is_some_and(|(_, code)| code.len() == 3));
    name.contains(".ext_authz.") || name.ends_with("downstream_rq_too_large") || of_cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters() {
    let (theirs, ours) = (counted(Kind::Envoy).await, counted(Kind::Lateen).await);
    assert_eq!(theirs.get("http.main.ext_authz.ok"), Some(&3), "{theirs:#?}");
    let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).filter(|name| is_compared(name)).collect();
    let different: Vec<String> = names
        .into_iter()
        // Envoy has some that count what is not there, from the beginning.
        .filter(|name| theirs.get(*name).unwrap_or(&0) != ours.get(*name).unwrap_or(&0))
        .map(|name| format!("{name}: Envoy {:?}, ours {:?}", theirs.get(name), ours.get(name)))
        .collect();
    assert!(different.is_empty(), "{} are different:\n{}", different.len(), different.join("\n"));
}
