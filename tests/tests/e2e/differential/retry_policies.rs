//! What else retry policies say: headers of answers and requests, idle tries, pauses that answers tell, other priorities.

use lateen_tests::bootstrap::{Layout, cluster, http, listener};
use lateen_tests::case::Case;
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, Script, answer, send};
use serde_json::{Value, json};

/// Retry policies by the path they are for; what is more is merged over the route.
fn policies() -> Vec<(&'static str, Value, Value)> {
    let exact = |name: &str, value: &str| json!({"name": name, "string_match": {"exact": value}});
    let told = |headers: Value| json!({"retry_on": "5xx", "rate_limited_retry_back_off": {"reset_headers": headers}});
    let seconds = || json!([{"name": "Retry-After", "format": "SECONDS"}]);
    let both = || json!([{"name": "retry-after"}, {"name": "x-reset", "format": "UNIX_TIMESTAMP"}]);
    let short = || json!({"timeout": "5s"});
    vec![
        (
            "answer",
            json!({"retry_on": "retriable-headers", "retriable_headers": [
                exact("x-again", "yes"), {"name": "x-invert", "present_match": true, "invert_match": false},
                {"name": ":status", "string_match": {"exact": "404"}}]}),
            json!({}),
        ),
        ("answer-off", json!({"retry_on": "reset", "retriable_headers": [exact("x-again", "yes")]}), json!({})),
        (
            "request",
            json!({"retry_on": "5xx", "retriable_request_headers": [exact(":method", "GET"), exact("x-may", "yes")]}),
            json!({}),
        ),
        (
            "edited",
            json!({"retry_on": "5xx", "retriable_request_headers": [exact("x-may", "yes")]}),
            json!({"request_headers_to_add": [{"header": {"key": "x-may", "value": "yes"}}]}),
        ),
        (
            "asking",
            json!({"retry_on": "connect-failure"}),
            json!({"request_headers_to_add": [{"header": {"key": "x-envoy-retry-on", "value": "5xx"}},
                {"header": {"key": "x-envoy-max-retries", "value": "2"}}]}),
        ),
        (
            "limited",
            json!({"retry_on": "5xx,retriable-4xx,gateway-error,retriable-status-codes",
            "retriable_status_codes": [429]}),
            json!({}),
        ),
        ("limited-too", json!({"retry_on": "envoy-ratelimited"}), json!({})),
        ("idle", json!({"retry_on": "5xx", "per_try_idle_timeout": "1.5s"}), json!({})),
        ("idle-off", json!({"retry_on": "connect-failure", "per_try_idle_timeout": "1.5s"}), json!({})),
        ("per-try", json!({"retry_on": "5xx", "per_try_timeout": "1.5s"}), short()),
        ("seconds", told(seconds()), json!({})),
        ("seconds-short", told(seconds()), short()),
        ("both", told(both()), json!({})),
        ("both-short", told(both()), short()),
    ]
}

fn to_priorities(every: u32) -> Value {
    json!({"cluster": "far", "retry_policy": {"retry_on": "5xx", "num_retries": 7,
        "retry_back_off": {"base_interval": "0.001s"},
        "retry_priority": {"name": "envoy.retry_priorities.previous_priorities", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            "update_frequency": every}}}})
}

fn resources(layout: &Layout) -> Resources {
    let mut routes: Vec<Value> = Vec::new();
    for (path, policy, more) in policies() {
        let mut action = json!({"cluster": "up", "retry_policy": policy});
        let mut route = json!({"name": path, "match": {"prefix": format!("/{path}/")}});
        for (key, value) in more.as_object().unwrap() {
            match key.as_str() {
                "timeout" => action[key] = value.clone(),
                _ => route[key] = value.clone(),
            }
        }
        route["route"] = action;
        routes.push(route);
    }
    for every in [1, 2, 3] {
        routes.push(json!({"match": {"prefix": format!("/far/{every}")}, "route": to_priorities(every)}));
    }
    routes.push(json!({"match": {"prefix": "/slow-connect"}, "route": {"cluster": "full",
        "retry_policy": {"retry_on": "gateway-error", "num_retries": 1, "per_try_timeout": "0.2s"}}}));
    let many = json!({"retry_on": "5xx", "num_retries": 3});
    routes.push(json!({"match": {"prefix": "/single"}, "route": {"cluster": "single", "retry_policy": many}}));
    routes.push(json!({"match": {"prefix": "/bad"}, "route": {"cluster": "bad", "retry_policy": many}}));
    routes.push(json!({"match": {"prefix": "/none"}, "route": {"cluster": "up"}}));
    let hosts = json!([{"name": "all", "domains": ["*"], "include_request_attempt_count": true,
        "include_attempt_count_in_response": true, "routes": routes}]);
    let internal = json!({"use_remote_address": true,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}});
    let listeners = vec![
        listener(layout, "main", http(layout, "main", hosts.clone(), json!({}))),
        listener(layout, "internal", http(layout, "internal", hosts, internal)),
    ];
    let room = |retries: u32| json!({"circuit_breakers": {"thresholds": [{"max_retries": retries}]}});
    let full = json!({"connect_timeout": "0.6s", "circuit_breakers": {"thresholds": [{"max_retries": 1000}]}});
    let mut far = cluster(layout, "far", &["near", "middle", "far"], room(1000));
    let hosts = far["load_assignment"]["endpoints"][0]["lb_endpoints"].take();
    let levels = hosts.as_array().unwrap().iter().enumerate();
    let levels = levels.map(|(priority, host)| json!({"priority": priority, "lb_endpoints": [host]}));
    far["load_assignment"]["endpoints"] = levels.collect();
    let clusters = vec![
        cluster(layout, "up", &["up"], room(1000)),
        cluster(layout, "full", &["full"], full),
        cluster(layout, "single", &["up"], room(1)),
        cluster(layout, "bad", &["dead"], room(1)),
        far,
    ];
    (listeners, clusters)
}

fn own(status: u16, headers: &[(&str, &str)]) -> Vec<Act> {
    vec![Act::ReadBody, answer(&format!("{status} X"), headers, b"own")]
}

/// What comes first, then an answer that nobody wants to have again.
fn then_good(first: Vec<Act>) -> Script {
    vec![first, vec![Act::ReadBody, answer("200 OK", &[], b"ok")]]
}

fn cases() -> Vec<Case> {
    let get = |name: &str, path: &str, first: Vec<Act>| Case::get(name, path).tries(then_good(first));
    let mut cases = Vec::new();
    for path in ["/answer/x", "/answer-off/x"] {
        for (name, status, header) in [
            ("wanted", 200, ("x-again", "yes")),
            ("other value", 200, ("x-again", "no")),
            ("there", 200, ("x-invert", "")),
            ("by status", 404, ("x-other", "1")),
            ("none", 503, ("x-other", "1")),
            ("rate-limited too", 200, ("x-envoy-ratelimited", "true")),
        ] {
            cases.push(get(&format!("{path}: {name}"), path, own(status, &[header, ("x-again", "never")])));
        }
        cases.push(get(&format!("{path}: second value"), path, own(200, &[("x-again", "no"), ("x-again", "yes")])));
    }
    for (name, lines) in [
        ("names", "x-envoy-retry-on: retriable-headers\r\nx-envoy-retriable-header-names: X-Again, x-b\r\n"),
        ("names without the word", "x-envoy-retriable-header-names: x-again\r\n"),
        ("words of gRPC as HTTP's", "x-envoy-retry-on: unavailable\r\n"),
        ("words of gRPC", "x-envoy-retry-grpc-on: unavailable\r\n"),
        ("codes", "x-envoy-retry-on: retriable-status-codes\r\nx-envoy-retriable-status-codes: 500, 418\r\n"),
        ("per-try", "x-envoy-upstream-rq-per-try-timeout-ms: 5000\r\n"),
    ] {
        for on in ["main", "internal"] {
            for path in ["/none", "/answer/x", "/request/x"] {
                let request = format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{lines}@@\r\n\r\n");
                let first = own(418, &[("x-again", "perhaps"), ("grpc-status", "14")]);
                cases.push(Case::raw(&format!("{on} asks {path}: {name}"), request).on(on).tries(then_good(first)));
            }
        }
    }
    for (name, request) in [
        ("by method", "GET /request/x HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        ("by header", "PUT /request/x HTTP/1.1\r\nhost: a.test\r\nx-may: yes\r\ncontent-length: 0\r\n@@\r\n\r\n"),
        ("neither", "PUT /request/x HTTP/1.1\r\nhost: a.test\r\nx-may: no\r\ncontent-length: 0\r\n@@\r\n\r\n"),
        ("by an edit", "GET /edited/x HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
    ] {
        cases.push(Case::raw(&format!("request {name}"), request).tries(then_good(own(503, &[]))));
        cases.push(Case::raw(&format!("request {name}, twice"), request).tries(vec![own(503, &[])]));
    }
    cases.push(Case::get("the route asks", "/asking/x").tries(vec![own(503, &[])]));
    for path in ["/limited/x", "/limited-too/x"] {
        for status in [200, 409, 429, 503] {
            for header in ["x-envoy-ratelimited", "x-other"] {
                let name = format!("{path}: {status} {header}");
                cases.push(get(&name, path, own(status, &[(header, "true")])));
            }
        }
    }
    let begun = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
    let pause = Act::Pause(std::time::Duration::from_millis(400));
    for path in ["/idle/x", "/idle-off/x", "/per-try/x"] {
        cases.push(get(&format!("{path}: no answer"), path, vec![Act::ReadBody, Act::Hang]));
        cases.push(Case::get(&format!("{path}: never an answer"), path).upstream(vec![Act::ReadBody, Act::Hang]));
        cases.push(get(&format!("{path}: stops"), path, vec![Act::ReadBody, send(format!("{begun}abc")), Act::Hang]));
        let mut moving = vec![Act::ReadBody, send(begun)];
        moving.extend("abcdefghi".bytes().flat_map(|byte| [pause.clone(), send([byte])]));
        if path.starts_with("/idle") {
            cases.push(get(&format!("{path}: goes on"), path, moving));
        }
    }
    cases.push(Case::get("connecting takes longer than a try", "/slow-connect"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (name, path, headers) in [
        ("longer than the route's time", "/seconds-short/x", vec![("retry-after", "50".to_owned())]),
        ("longer than taken notice of", "/seconds/x", vec![("retry-after", "400".to_owned())]),
        ("no number", "/seconds/x", vec![("retry-after", "soon".to_owned())]),
        ("none", "/seconds/x", vec![]),
        ("second header", "/both-short/x", vec![("x-reset", (now + 250).to_string())]),
        ("second header, past", "/both/x", vec![("x-reset", (now - 60).to_string())]),
        (
            "first too long",
            "/both-short/x",
            vec![("retry-after", "301".to_owned()), ("x-reset", (now + 250).to_string())],
        ),
    ] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        cases.push(get(&format!("told pause: {name}"), path, own(503, &headers)));
    }
    for every in [1, 2, 3] {
        cases.push(
            Case::get(&format!("other priorities after {every}"), &format!("/far/{every}")).tries(vec![own(503, &[])]),
        );
    }
    cases.push(Case::get("one retry at a time: answers", "/single").tries(vec![own(503, &[])]));
    cases.push(Case::get("one retry at a time: refused", "/bad"));
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_policies() {
    let world = World {
        name: "retry policies",
        listeners: &["main", "internal"],
        upstreams: &["up", "near", "middle", "far"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: Vec::new(),
    };
    compare(&world, Source::File).await;
}
