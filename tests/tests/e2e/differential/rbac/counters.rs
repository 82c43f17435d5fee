//! What is counted of rules and of single policies, and who is told of refusals, after the same requests to both proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener, router, tcp};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{self, Stage};
use lateen_tests::{client, wait};
use serde_json::{Value, json};

use super::super::counters::statistics;
use super::{filter, per_route, policy};

fn path(prefix: &str) -> Value {
    policy(json!({"url_path": {"path": {"prefix": prefix}}}))
}

/// Names as Istio's control plane gives them.
fn rule(of: &str) -> String {
    format!("ns[shop]-policy[{of}]-rule[0]")
}

fn filters() -> Vec<Value> {
    vec![
        filter(json!({"track_per_rule_stats": true, "rules_stat_prefix": "audit_",
            "rules": {"action": "LOG", "policies": {rule("audit"): path("/logged")}}})),
        // As a policy is carried out whose provider does not answer.
        filter(json!({"shadow_rules": {"action": "DENY", "policies": {rule("asked"): path("/asked")}},
            "shadow_rules_stat_prefix": "istio_ext_authz_"})),
        json!({"name": "envoy.filters.http.ext_authz", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "http_service": {"server_uri": {"uri": "http://nobody.test", "cluster": "nobody", "timeout": "1s"}},
            "filter_enabled_metadata": {"filter": "envoy.filters.http.rbac",
                "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
                "value": {"string_match": {"prefix": "ns["}}}}}),
        filter(json!({"track_per_rule_stats": true,
            "rules": {"action": "DENY", "policies": {rule("no"): path("/no"), "odd a: b": path("/odd")}},
            "shadow_rules": {"action": "DENY", "policies": {rule("no"): path("/no"), rule("tried"): path("/tried")}},
            "shadow_rules_stat_prefix": "istio_dry_run_deny_"})),
        filter(json!({"track_per_rule_stats": true, "rules_stat_prefix": "dotted.",
            "rules": {"policies": {rule("yes"): path("/yes"), rule("logged"): path("/logged")}}})),
        filter(json!({"rules": {"policies": {"all": policy(json!({"any": true}))}}})),
        router(),
    ]
}

fn resources(layout: &Layout) -> (Vec<Value>, Vec<Value>) {
    let direct = |prefix: &str, rules: Option<Value>| {
        let mut route = json!({"match": {"prefix": prefix}, "direct_response": {"status": 200}});
        if let Some(rules) = rules {
            bootstrap::merge(&mut route, per_route(rules));
        }
        route
    };
    let of_route = |tracked: bool, name: &str| json!({"rules": {"policies": {name: path("/yes")}}, "rules_stat_prefix": "own_", "track_per_rule_stats": tracked});
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": [
        direct("/yes/counted", Some(of_route(true, "counted"))),
        direct("/yes/quiet", Some(of_route(false, "quiet"))),
        direct("/", None),
    ]}]);
    let mut stream = listener(layout, "stream", tcp(layout, "stream", json!({"cluster": "up"})));
    let network = json!({"name": "envoy.filters.network.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "tcp.",
        "rules": {"action": "DENY", "policies": {rule("bytes"): policy(json!({"any": true}))}},
        "shadow_rules": {"policies": {rule("tried"): policy(json!({"any": true}))}},
        "shadow_rules_stat_prefix": "istio_dry_run_allow_"}});
    stream["filter_chains"][0]["filters"].as_array_mut().expect("filters").insert(0, network);
    let main = http(layout, "main", hosts, json!({"http_filters": filters(), "access_log": []}));
    let clusters = vec![cluster(layout, "up", &["up"], json!({})), cluster(layout, "nobody", &[], json!({}))];
    (vec![listener(layout, "main", main), stream], clusters)
}

fn traffic() -> Vec<Case> {
    let paths = [
        "/asked",
        "/no",
        "/no?token=secret",
        "/odd",
        "/tried",
        "/yes",
        "/logged",
        "/yes/counted",
        "/yes/quiet",
        "/else",
    ];
    let mut all: Vec<Case> = paths.into_iter().map(|path| Case::get(path, path)).collect();
    all.push(Case::of("bytes").on("stream").client(vec![say("hello @@"), Do::End]));
    all
}

struct Counted {
    statistics: BTreeMap<String, u64>,
    /// Name and labels, these sorted.
    metrics: BTreeMap<(String, BTreeSet<String>), String>,
    refusals: Value,
    port: u16,
}

async fn counted(kind: Kind) -> Counted {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let up = socket.local_addr().unwrap().port();
    upstream::serve(stage.clone(), "up", socket);
    let layout = Layout::new(dir.path(), &["main", "stream"], &[("up", up)]);
    let (listeners, clusters) = resources(&layout);
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &clusters), layout.admin, dir.path()).await;
    let cases = traffic();
    for case in &cases {
        let to = ([127, 0, 0, 1], layout.listener(case.listener)).into();
        client::play(case, [127, 0, 0, 1].into(), to, &stage).await;
    }
    wait::until("all is counted", || async {
        let now = statistics(&proxy.admin("/stats").await.text());
        let settled = now.get("http.main.downstream_rq_active") == Some(&0)
            && now.get("http.main.downstream_rq_total") == Some(&(cases.len() as u64 - 1))
            && now.get("tcp.rbac.denied") == Some(&1);
        settled.then_some(())
    })
    .await;
    let metrics = proxy.admin("/stats/prometheus").await.text();
    let metrics = metrics.lines().filter(|line| line.starts_with("envoy_http_rbac")).map(|line| {
        let (name, rest) = line.split_once('{').expect("labels");
        let (labels, value) = rest.rsplit_once("} ").expect("a value");
        ((name.to_owned(), labels.split("\",").map(|l| l.trim_end_matches('"').to_owned()).collect()), value.to_owned())
    });
    let metrics = metrics.filter(|(_, value)| value != "0").collect();
    let refusals = match kind {
        Kind::Envoy => Value::Null,
        Kind::Lateen => serde_json::from_str(&proxy.admin("/refusals?format=json").await.text()).expect("JSON"),
    };
    let statistics = statistics(&proxy.admin("/stats").await.text());
    Counted { statistics, metrics, refusals, port: layout.listener("main") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_counted_and_refusals_are_told() {
    let (theirs, ours) = (counted(Kind::Envoy).await, counted(Kind::Lateen).await);
    let denied = format!("http.main.rbac.policy.{}.denied", rule("no"));
    assert_eq!(theirs.statistics.get(&denied), Some(&2), "{:#?}", theirs.statistics);
    // Of connections Envoy cannot count single policies, and some it counts from the beginning that there never were.
    let own = [
        format!("tcp.rbac.policy.{}.denied", rule("bytes")),
        format!("tcp.rbac.istio_dry_run_allow_.policy.{}.shadow_allowed", rule("tried")),
    ];
    let names: BTreeSet<&String> = theirs.statistics.keys().chain(ours.statistics.keys()).collect();
    let different: Vec<String> = names
        .into_iter()
        .filter(|name| name.contains("rbac.") && !own.contains(name))
        .filter(|name| theirs.statistics.get(*name).unwrap_or(&0) != ours.statistics.get(*name).unwrap_or(&0))
        .map(|name| format!("{name}: Envoy {:?}, ours {:?}", theirs.statistics.get(name), ours.statistics.get(name)))
        .collect();
    assert!(different.is_empty(), "{} are different:\n{}", different.len(), different.join("\n"));
    for name in &own {
        assert_eq!(ours.statistics.get(name), Some(&1), "{name} of {:#?}", ours.statistics);
    }
    assert_eq!(theirs.metrics, ours.metrics);
    let refusals = ours.refusals["refusals"].as_array().expect("a list");
    let told: Vec<String> = refusals
        .iter()
        .map(|one| {
            format!("{} {}", one["request"]["path"].as_str().unwrap_or("bytes"), one["policy"].as_str().unwrap_or(""))
        })
        .collect();
    let (no, bytes, asked) = (rule("no"), rule("bytes"), rule("asked"));
    let expected = [
        format!("bytes {bytes}"),
        "/else none".to_owned(),
        "/tried none".to_owned(),
        "/odd odd a: b".to_owned(),
        format!("/no {no}"),
        format!("/no {no}"),
        format!("/asked {asked}"),
    ];
    assert_eq!(told, expected);
    assert_eq!(refusals[1]["client"], "127.0.0.1");
    assert_eq!(refusals[1]["local"], format!("127.0.0.1:{}", ours.port));
}
