//! Shares of traffic.

use lateen_tests::bootstrap::{Layout, cluster, http, listener};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::chance::fits;
use lateen_tests::differential::{Resources, Source, World, play};
use lateen_tests::proxy::Kind;
use serde_json::json;

fn weighted(layout: &Layout) -> Resources {
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/split"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "one", "weight": 90, "request_headers_to_add": [{"header": {"key": "x-side", "value": "one"}}],
             "response_headers_to_add": [{"header": {"key": "y-side", "value": "one"}}]},
            {"name": "two", "weight": 10},
        ]}}},
        {"match": {"prefix": "/all"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "one", "weight": 0}, {"name": "two", "weight": 1},
        ]}}},
        {"match": {"prefix": "/fraction", "runtime_fraction": {"default_value": {"numerator": 30}}}, "route": {"cluster": "one"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "two"}},
    ]}]);
    let listeners = vec![listener(layout, "main", http(layout, "main", routes, json!({})))];
    (listeners, vec![cluster(layout, "one", &["one"], json!({})), cluster(layout, "two", &["two"], json!({}))])
}

/// Weights and fractions hold, for both proxies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights() {
    const EACH: usize = 200;
    const PER_CASE: usize = 10;
    let repeated = |path: &str| {
        let mut acts = Vec::new();
        for _ in 0..PER_CASE {
            acts.push(say(format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n")));
            acts.push(Do::Answer);
        }
        acts
    };
    let paths = ["/split", "/all", "/fraction"];
    let cases = paths
        .iter()
        .flat_map(|path| (0..EACH).map(move |i| (path, i)))
        .map(|(path, i)| Case::of(&format!("{path} {i}")).client(repeated(path)))
        .collect();
    let world = World {
        name: "weights",
        listeners: &["main"],
        upstreams: &["one", "two"],
        h2_upstreams: &[],
        resources: weighted,
        cases,
        h2_scripts: vec![],
    };
    for kind in [Kind::Envoy, Kind::Lateen] {
        let outcomes = play(&world, kind, Source::File).await;
        for (path, share) in [("/split", 0.9), ("/all", 0.0), ("/fraction", 0.3)] {
            let mut one = 0;
            let mut total = 0;
            for outcome in outcomes.iter().filter(|(name, _)| name.starts_with(path)).map(|(_, o)| o) {
                one += outcome.upstream.iter().filter(|line| *line == "at one").count();
                total += outcome.upstream.iter().filter(|line| line.starts_with("at ")).count();
                if path == "/split" {
                    let sides = |mark: &str, lines: &[String]| lines.iter().filter(|line| line.contains(mark)).count();
                    assert_eq!(sides("x-side: one", &outcome.upstream), sides("at one", &outcome.upstream));
                    assert_eq!(sides("y-side: one", &outcome.client), sides("at one", &outcome.upstream));
                }
            }
            assert_eq!(total, EACH * PER_CASE, "{}: requests of {path}", kind.name());
            assert!(fits(one, total, share), "{}: {path}: {one} of {total} where {share} was asked", kind.name());
        }
    }
}
