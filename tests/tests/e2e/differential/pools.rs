//! Connections to upstreams: their limits, their ends, and how many retries they carry.

use lateen_tests::bootstrap::{Layout, cluster, http, http2_upstream, listener, merge};
use lateen_tests::case::{Case, Do};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, Script, answer, send};
use serde_json::{Value, json};

const GOING: &[&str] = &["goaway-0", "goaway-0-plain", "goaway-2", "goaway-after"];

/// Budgets that count requests which are over, and percents with which two are too few for a retry, or enough.
const LATELY: &[(&str, f64)] = &[("lately-too-few", 49.0), ("lately-enough", 50.0)];

/// How an upstream fails, and the budget its requests have: each a cluster of its own, since all requests of a cluster
/// count. Name, percent, and how many at least.
fn budgets() -> impl Iterator<Item = (String, f64, u32)> {
    let budgets = [("none", 0.0, 0), ("least", 0.0, 1), ("most", 99.0, 0), ("all", 100.0, 0)];
    budgets.into_iter().flat_map(|(budget, percent, least)| {
        ["body", "bare", "reset"].map(|failure| (format!("{budget}-{failure}"), percent, least))
    })
}

fn resources(layout: &Layout) -> Resources {
    let route = |path: &str, cluster: &str, retry_on: &str| {
        let mut action = json!({"cluster": cluster});
        if !retry_on.is_empty() {
            merge(&mut action, json!({"retry_policy": {"retry_on": retry_on, "num_retries": 3}}));
        }
        json!({"name": path, "match": {"path_separated_prefix": path}, "route": action})
    };
    let mut routes: Vec<Value> = budgets().map(|(name, ..)| route(&format!("/{name}"), &name, "5xx")).collect();
    for (name, _) in LATELY {
        routes.push(route(&format!("/{name}"), name, "5xx"));
    }
    routes.push(route("/refused-none", "refused-none", "5xx"));
    routes.push(route("/refused-all", "refused-all", "5xx"));
    for name in GOING {
        routes.push(route(&format!("/{name}"), name, if name.ends_with("plain") { "" } else { "refused-stream" }));
    }
    routes.push(route("/mute", "mute", ""));
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": routes, "include_attempt_count_in_response": true}]);
    let listeners = vec![listener(layout, "main", http(layout, "main", hosts, json!({})))];
    let budget = |name: &str, upstream: &str, percent: f64, least: u32| {
        let threshold = json!({"max_retries": 0, "retry_budget": {
            "budget_percent": {"value": percent}, "min_retry_concurrency": least}});
        cluster(layout, name, &[upstream], json!({"circuit_breakers": {"thresholds": [threshold]}}))
    };
    let mut clusters = vec![budget("refused-none", "dead", 0.0, 0), budget("refused-all", "dead", 100.0, 0)];
    clusters.extend(budgets().map(|(name, percent, least)| budget(&name, "up", percent, least)));
    for (name, percent) in LATELY {
        let threshold = json!({"max_retries": 0, "retry_budget": {
            "budget_percent": {"value": percent}, "min_retry_concurrency": 0, "budget_interval": "1000s"}});
        clusters.push(cluster(layout, name, &["up"], json!({"circuit_breakers": {"thresholds": [threshold]}})));
    }
    for name in GOING {
        clusters.push(cluster(layout, name, &[name], http2_upstream()));
    }
    let pinging = json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {
            "connection_keepalive": {"interval": "0.1s", "timeout": "0.1s"}}}}}});
    clusters.push(cluster(layout, "mute", &["mute"], pinging));
    (listeners, clusters)
}

fn cases() -> Vec<Case> {
    let failing: Script =
        vec![vec![Act::ReadBody, answer("503 X", &[], b"own")], vec![Act::ReadBody, answer("200 OK", &[], b"ok")]];
    let bare: Script =
        vec![vec![Act::ReadBody, send("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")], failing[1].clone()];
    let reset: Script = vec![vec![Act::ReadBody, Act::Reset], failing[1].clone()];
    let mut cases: Vec<Case> = budgets()
        .map(|(name, ..)| {
            let script = match name.rsplit_once('-') {
                Some((_, "body")) => failing.clone(),
                Some((_, "bare")) => bare.clone(),
                _ => reset.clone(),
            };
            Case::get(&name, &format!("/{name}")).tries(script)
        })
        .collect();
    for (name, _) in LATELY {
        let get = format!("GET /{name} HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").into_bytes();
        let twice = vec![Do::Send(get.clone()), Do::Answer, Do::Send(get), Do::Answer];
        let script = vec![failing[1].clone(), failing[0].clone(), failing[0].clone(), failing[1].clone()];
        cases.push(Case::of(name).client(twice).tries(script));
    }
    cases.push(Case::get("refused, no budget", "/refused-none"));
    cases.push(Case::get("refused, budget", "/refused-all"));
    for name in GOING {
        cases.push(Case::get(name, &format!("/{name}")));
    }
    cases.push(Case::get("mute", "/mute"));
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools() {
    let world = World {
        name: "pools",
        listeners: &["main"],
        upstreams: &["up"],
        h2_upstreams: &["goaway-0", "goaway-0-plain", "goaway-2", "goaway-after", "mute"],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}
