use super::*;
use crate::traffic_test::kind;
use serde_json::json;

fn who() -> Who {
    let pod = |name: &str, owner: &str| {
        json!({"metadata": {"name": name, "namespace": "shop",
            "ownerReferences": [{"name": owner, "controller": true}]}})
    };
    Who::new(&[pod("a-1", "a"), pod("a-2", "a"), pod("b-1", "b")], [])
}

/// Requests answered by these pods, with 200; an empty name is a proxy's own 503.
fn outcomes(pods: &[&str]) -> Outcomes {
    let one = |(number, pod): (usize, &&str)| Outcome {
        number: number as u64,
        client: number as u64 % 2,
        latency: Duration::from_millis(number as u64 + 1),
        status: Some(if pod.is_empty() { 503 } else { 200 }),
        headers: vec![("x-version".to_owned(), "v1".to_owned())],
        body: json!({"pod": pod, "path": "/x", "call": number}).to_string(),
        pod: (*pod).to_owned(),
        ..Outcome::default()
    };
    Outcomes { requests: pods.iter().enumerate().map(one).collect(), received: BTreeMap::new() }
}

/// `what` of the expectations that failed.
fn failed(expect: &str, outcomes: &Outcomes) -> Vec<String> {
    let text = format!(
        "apiVersion: {}\nkind: {}\nmetadata: {{name: t, namespace: shop}}\nspec: {{steps: [{{name: s, send: {{url: \"http://a\"}}, expect: {expect}}}]}}",
        kind::API_VERSION,
        kind::KIND
    );
    let tests = kind::read("t", text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
    let verdicts = judge(&tests[0].test.spec.steps[0].expect, outcomes, &who(), "shop");
    assert!(!verdicts.is_empty());
    verdicts.into_iter().filter(|verdict| !verdict.passed).map(|verdict| verdict.what).collect()
}

#[test]
fn statuses() {
    let seen = outcomes(&["a-1", "a-1", "", "b-1"]);
    assert_eq!(failed("{status: 200}", &seen), ["status 200"]);
    assert_eq!(failed("{status: {200: 3, 503: 1, 5xx: 25%..25%, none: none}}", &seen), [""; 0]);
    assert_eq!(failed("{status: {200: 2, 404: some}}", &seen), ["status 200", "status 404"]);
}

#[test]
fn who_answers() {
    let seen = outcomes(&["a-1", "a-2", "", "b-1"]);
    assert_eq!(failed("{answeredBy: {a: 2, b-1: 1, nobody: 1}}", &seen), [""; 0]);
    assert_eq!(failed("{answeredBy: {a: all}}", &seen), ["answeredBy a"]);
    assert_eq!(failed("{answeredBy: {c: all}}", &seen), ["answeredBy c"]);
    // Shares that make up the whole leave nothing for the proxy's own answer.
    assert_eq!(failed("{answeredBy: {a: 50%, b: 50%}}", &seen), ["answeredBy others"]);
}

#[test]
fn order_and_faithfulness() {
    let turns = outcomes(&["a-1", "a-2", "b-1", "a-1", "a-2", "b-1"]);
    assert_eq!(failed("{alternating: true, pods: 3}", &turns), [""; 0]);
    assert_eq!(failed("{alternating: true}", &outcomes(&["a-1", "b-1", "b-1", "a-1"])), ["alternating"]);
    assert_eq!(failed("{alternating: true}", &outcomes(&["a-1", "a-1"])), ["alternating"]);
    assert_eq!(failed("{samePod: client}", &outcomes(&["a-1", "b-1", "a-1", "b-1"])), [""; 0]);
    assert_eq!(failed("{samePod: all}", &outcomes(&["a-1", "b-1"])), ["samePod all"]);
    assert_eq!(failed("{samePod: all, pods: 1}", &outcomes(&["a-1", "a-1"])), [""; 0]);
    assert_eq!(failed("{samePod: client}", &outcomes(&["a-1", "b-1", "a-2"])), ["samePod client"]);
    assert_eq!(failed("{samePod: all}", &outcomes(&["a-1", ""])), ["samePod all"]);
}

#[test]
fn texts_of_every_answer() {
    let seen = outcomes(&["a-1", "a-1"]);
    let all = "{headers: {X-Version: v1, x-none: {present: false}}, body: {contains: a-1}, json: {/path: /x}}";
    assert_eq!(failed(all, &seen), [""; 0]);
    assert_eq!(failed("{json: {/call: 0, /none: {present: false}}}", &seen), ["json /call"]);
    assert_eq!(failed("{headers: {x-version: v2}, body: a-1}", &seen), ["header x-version", "body"]);
}

#[test]
fn latencies() {
    let seen = outcomes(&["a-1"; 100]);
    assert_eq!(failed("{latency: {min: 1ms..1ms, p50: 50ms..50ms, p99: <= 99ms, max: \">= 100ms\"}}", &seen), [""; 0]);
    assert_eq!(failed("{latency: {p50: < 50ms, mean: 50ms..51ms}}", &seen), ["latency p50"]);
}

#[test]
fn who_receives() {
    let mut seen = outcomes(&["a-1", "a-1"]);
    seen.received = BTreeMap::from([("a-1".to_owned(), 2), ("b-1".to_owned(), 2)]);
    assert_eq!(failed("{received: {a: all, b: 100%}}", &seen), [""; 0]);
    assert_eq!(failed("{received: {b: none}}", &seen), ["received b"]);
}
