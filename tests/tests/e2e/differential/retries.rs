//! What is tried again, and what is not.

use lateen_tests::bootstrap::{Layout, cluster, http, http2_upstream, listener, merge};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::h2_upstream::{H2Act, h2_answer};
use lateen_tests::upstream::{Act, answer, send};
use serde_json::{Value, json};

/// One column of the notes' table each.
const CONDITIONS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "envoy-ratelimited",
    "retriable-status-codes",
    "cancelled",
    "unavailable",
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
];

fn resources(layout: &Layout) -> Resources {
    let mut routes: Vec<Value> = Vec::new();
    for cluster in ["up", "dead", "full", "h2", "mixed"] {
        for condition in CONDITIONS {
            let mut policy = json!({"retry_on": condition, "num_retries": 2, "per_try_timeout": "1s"});
            if *condition == "retriable-status-codes" {
                merge(&mut policy, json!({"retriable_status_codes": [503, 418]}));
            }
            if cluster == "mixed" {
                merge(
                    &mut policy,
                    json!({
                        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
                        "host_selection_retry_max_attempts": "5",
                    }),
                );
            }
            routes.push(json!({
                "name": format!("{cluster} {condition}"),
                "match": {"prefix": format!("/{cluster}/{condition}/")},
                "route": {"cluster": cluster, "retry_policy": policy},
            }));
        }
    }
    routes.push(json!({"match": {"prefix": "/none"}, "route": {"cluster": "up"}}));
    routes.push(json!({"match": {"prefix": "/one"}, "route": {"cluster": "up", "retry_policy": {"retry_on": "5xx"}}}));
    routes.push(json!({"match": {"prefix": "/zero"}, "route": {"cluster": "up", "retry_policy": {"retry_on": "5xx", "num_retries": 0}}}));
    let hosts = json!([
        {"name": "all", "domains": ["a.test"], "include_request_attempt_count": true, "include_attempt_count_in_response": true, "routes": routes},
        {"name": "host policy", "domains": ["host.test"], "include_request_attempt_count": true,
            "retry_policy": {"retry_on": "5xx", "num_retries": 1},
            "routes": [
                {"match": {"prefix": "/own"}, "route": {"cluster": "up", "retry_policy": {"retry_on": "connect-failure"}}},
                {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
            ]},
    ]);
    let internal = json!({"use_remote_address": true, "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}});
    let listeners = vec![
        listener(layout, "main", http(layout, "main", hosts.clone(), json!({}))),
        listener(layout, "internal", http(layout, "internal", hosts, internal)),
    ];
    // The default budget of three retries at a time would be used up by the suite itself.
    let roomy = || json!({"circuit_breakers": {"thresholds": [{"max_retries": 1000}]}});
    let with_room = |mut more: Value| {
        merge(&mut more, roomy());
        more
    };
    let clusters = vec![
        cluster(layout, "up", &["up"], roomy()),
        cluster(layout, "dead", &["dead"], roomy()),
        cluster(layout, "full", &["full"], with_room(json!({"connect_timeout": "0.2s"}))),
        cluster(layout, "h2", &["h2"], with_room(http2_upstream())),
        cluster(layout, "mixed", &["dead", "up"], roomy()),
    ];
    (listeners, clusters)
}

fn cases() -> Vec<Case> {
    let own = |code: u16| vec![Act::ReadBody, answer(&format!("{code} X"), &[], b"own")];
    let ok = || vec![Act::ReadBody, answer("200 OK", &[], b"ok")];
    let first: &[(&str, Vec<Act>)] = &[
        ("500", own(500)),
        ("501", own(501)),
        ("502", own(502)),
        ("503", own(503)),
        ("504", own(504)),
        ("409", own(409)),
        ("418", own(418)),
        ("429", own(429)),
        ("429 ratelimited", vec![Act::ReadBody, answer("429 X", &[("x-envoy-ratelimited", "true")], b"own")]),
        (
            "grpc 1 in headers",
            vec![Act::ReadBody, answer("200 OK", &[("content-type", "application/grpc"), ("grpc-status", "1")], b"")],
        ),
        (
            "grpc 14 in headers",
            vec![Act::ReadBody, answer("200 OK", &[("content-type", "application/grpc"), ("grpc-status", "14")], b"")],
        ),
        ("RST", vec![Act::ReadBody, Act::Reset]),
        ("FIN", vec![Act::ReadBody, Act::Fin]),
        ("garbage", vec![Act::ReadBody, send("hello\r\n\r\n")]),
        ("no answer", vec![Act::ReadBody, Act::Hang]),
        ("cut answer", vec![Act::ReadBody, send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"), Act::Fin]),
    ];
    let mut cases = Vec::new();
    for condition in CONDITIONS {
        for (name, acts) in first {
            let path = format!("/up/{condition}/");
            cases.push(Case::get(&format!("{condition}: {name}"), &path).tries(vec![acts.clone(), ok()]));
        }
        cases.push(Case::get(&format!("{condition}: refused"), &format!("/dead/{condition}/")));
        cases.push(Case::get(&format!("{condition}: connect timeout"), &format!("/full/{condition}/")));
        for reset in [0, 1, 2, 7, 8, 11] {
            cases.push(Case::get(&format!("{condition}: h2 reset {reset}"), &format!("/h2/{condition}/")));
        }
        cases.push(Case::get(&format!("{condition}: h2 grpc 14 in trailers"), &format!("/h2/{condition}/")));
    }
    for i in 0..8 {
        cases.push(Case::get(&format!("other host {i}"), "/mixed/connect-failure/x").by_chance());
    }
    cases.push(Case::get("three tries", "/up/5xx/x").tries(vec![own(500), own(502), ok()]));
    cases.push(Case::get("all tries fail", "/up/5xx/x").tries(vec![own(500), own(502), own(503)]));
    cases.push(Case::get("no policy", "/none").tries(vec![own(503), ok()]));
    cases.push(Case::get("one retry by default", "/one").tries(vec![own(503)]));
    cases.push(Case::get("no retries", "/zero").tries(vec![own(503)]));
    cases.push(
        Case::raw("policy of the host", "GET / HTTP/1.1\r\nhost: host.test\r\n@@\r\n\r\n").tries(vec![own(503), ok()]),
    );
    cases.push(
        Case::raw("policy of the route instead", "GET /own HTTP/1.1\r\nhost: host.test\r\n@@\r\n\r\n")
            .tries(vec![own(503), ok()]),
    );
    let body = "x".repeat(600_000);
    let post = |name: &str, path: &str, body: &str| {
        Case::raw(
            name,
            format!("POST {path} HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        )
    };
    cases.push(post("small body", "/up/5xx/x", "abc").tries(vec![own(503), ok()]));
    cases.push(post("600 KB body", "/up/5xx/x", &body).tries(vec![own(503), ok()]));
    cases.push(post("2 MiB body", "/up/5xx/x", &"x".repeat(2 << 20)).tries(vec![own(503), ok()]));
    cases.push(
        Case::raw(
            "chunked body",
            "POST /up/5xx/x HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
        .tries(vec![own(503), ok()]),
    );
    cases.push(
        Case::of("failure before the body is read")
            .client(vec![
                say("POST /up/5xx/x HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 6\r\n\r\nabc"),
                Do::Arrival(1),
                say("def"),
                Do::Answer,
            ])
            .tries(vec![vec![answer("503 X", &[("connection", "close")], b""), Act::Fin], ok()])
            .ignore_upstream_body(),
    );
    let asked: &[(&str, &str)] = &[
        ("retry-on", "x-envoy-retry-on: 5xx\r\n"),
        ("retry-on, max 3", "x-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 3\r\n"),
        ("retry-on, max 0", "x-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 0\r\n"),
        ("codes", "x-envoy-retry-on: retriable-status-codes\r\nx-envoy-retriable-status-codes: 500\r\n"),
    ];
    for (name, lines) in asked {
        for path in ["/none", "/one", "/up/5xx/x", "/up/connect-failure/x"] {
            for on in ["main", "internal"] {
                let request = format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{lines}@@\r\n\r\n");
                cases.push(Case::raw(&format!("{on} asks {path}: {name}"), request).on(on).tries(vec![own(500)]));
            }
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries() {
    let mut names: Vec<(String, Vec<H2Act>)> = Vec::new();
    for condition in CONDITIONS {
        for reset in [0, 1, 2, 7, 8, 11] {
            names.push((
                format!("{condition}: h2 reset {reset}"),
                vec![H2Act::Reset(reset), h2_answer(200, &[], "ok", &[])],
            ));
        }
        names.push((
            format!("{condition}: h2 grpc 14 in trailers"),
            vec![
                h2_answer(200, &[("content-type", "application/grpc")], "", &[("grpc-status", "14")]),
                h2_answer(200, &[], "ok", &[]),
            ],
        ));
    }
    let world = World {
        name: "retries",
        listeners: &["main", "internal"],
        upstreams: &["up"],
        h2_upstreams: &["h2"],
        resources,
        cases: cases(),
        h2_scripts: names,
    };
    compare(&world, Source::File).await;
}
