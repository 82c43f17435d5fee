//! Injected faults: delays, aborts, whom they hit.

use lateen_tests::bootstrap::{Layout, cluster, http, http2_upstream, listener, router};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::chance::fits;
use lateen_tests::differential::{Resources, Source, World, compare, play};
use lateen_tests::proxy::Kind;
use lateen_tests::upstream::{Act, answer};
use serde_json::{Value, json};

const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

fn merged(mut base: Value, more: Value) -> Value {
    lateen_tests::bootstrap::merge(&mut base, more);
    base
}

fn fault(settings: Value) -> Value {
    merged(json!({"@type": FAULT}), settings)
}

fn filters(base: Value) -> Value {
    json!({"http_filters": [{"name": "envoy.filters.http.fault", "typed_config": fault(base)}, router()]})
}

fn always(status: u16) -> Value {
    json!({"abort": {"http_status": status, "percentage": {"numerator": 100}}})
}

fn delay(time: &str) -> Value {
    json!({"delay": {"fixed_delay": time, "percentage": {"numerator": 100}}})
}

fn with(setting: Value) -> Value {
    json!({"typed_per_filter_config": {"envoy.filters.http.fault": setting}})
}

fn route(path: &str, setting: Value, more: Value) -> Value {
    let base = json!({"name": path, "match": {"prefix": path}, "route": {"cluster": "up"}});
    merged(merged(base, with(fault(setting))), more)
}

fn resources(layout: &Layout) -> Resources {
    let both = merged(delay("0.3s"), always(503));
    let percent = |numerator: u32, denominator: &str| json!({"abort": {"http_status": 503, "percentage": {"numerator": numerator, "denominator": denominator}}});
    let weighted = |path: &str, setting: Value| {
        json!({"match": {"prefix": path}, "route": {"weighted_clusters": {"clusters": [
            merged(json!({"name": "up", "weight": 1}), with(setting))]}}})
    };
    let main = json!([
        {"name": "a", "domains": ["a.test"], "include_request_attempt_count": true,
         "include_attempt_count_in_response": true,
         "response_headers_to_add": [{"header": {"key": "x-vhost", "value": "1"}}], "routes": [
            route("/abort", always(503), json!({})),
            route("/418", always(418), json!({})),
            route("/400", always(400), json!({})),
            route("/204", always(204), json!({})),
            route("/body", json!({"abort": {"http_status": 503, "percentage": {"numerator": 100}}}), json!({})),
            route("/grpc", json!({"abort": {"grpc_status": 14, "percentage": {"numerator": 100}}}), json!({})),
            route("/nowhere", always(500), json!({"route": {"cluster": "nowhere"}})),
            route("/retried", always(503), json!({"route": {"retry_policy": {"retry_on": "5xx"}}})),
            route("/delay", delay("0.3s"), json!({})),
            route("/timeout", delay("4s"), json!({"route": {"timeout": "3s"}})),
            route("/idle", delay("5s"), json!({"route": {"idle_timeout": "0.3s"}})),
            route("/long", delay("60s"), json!({})),
            route("/both", both, json!({})),
            route("/unset", json!({"abort": {"http_status": 503}, "delay": {"fixed_delay": "1s"}}), json!({})),
            route("/zero", percent(0, "HUNDRED"), json!({})),
            route("/hundred", percent(10_000, "TEN_THOUSAND"), json!({})),
            route("/over", percent(2_000_000, "MILLION"), json!({})),
            route("/to-up", merged(always(503), json!({"upstream_cluster": "up"})), json!({})),
            route("/to-other", merged(always(503), json!({"upstream_cluster": "other"})), json!({})),
            weighted("/to-weighted", fault(merged(always(503), json!({"upstream_cluster": "up"})))),
            route("/headers", merged(always(503), json!({"headers": [
                {"name": "x-a", "string_match": {"exact": "1"}}, {"name": "x-b", "present_match": true}]})), json!({})),
            route("/nodes", merged(always(503), json!({"downstream_nodes": ["n1", "n2"]})), json!({})),
            route("/by-header", json!({
                "delay": {"header_delay": {}, "percentage": {"numerator": 100}},
                "abort": {"header_abort": {}, "percentage": {"numerator": 100}}}), json!({})),
            route("/spared", merged(always(503), json!({"max_active_faults": 0})), json!({})),
            merged(json!({"match": {"prefix": "/redirect"}, "redirect": {"path_redirect": "/x"}}), with(fault(always(503)))),
            merged(json!({"match": {"prefix": "/direct"}, "direct_response": {"status": 200}}), with(fault(always(503)))),
            {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
        ]},
    ]);
    // Every level says something of the filter; the most specific counts, as a whole.
    let off = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
    let wrapped =
        json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": fault(always(504))});
    let levels = json!([
        merged(json!({"name": "a", "domains": ["a.test"], "routes": [
            route("/route", always(503), json!({})),
            route("/delay-only", delay("0.2s"), json!({})),
            merged(json!({"match": {"prefix": "/off"}, "route": {"cluster": "up"}}), with(off)),
            merged(json!({"match": {"prefix": "/wrapped"}, "route": {"cluster": "up"}}), with(wrapped)),
            weighted("/weighted", fault(always(505))),
            {"match": {"prefix": "/vhost"}, "route": {"cluster": "up"}},
        ]}), with(fault(always(502)))),
        {"name": "b", "domains": ["b.test"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]},
    ]);
    let disabled = json!({"http_filters": [
        {"name": "envoy.filters.http.fault", "disabled": true, "typed_config": fault(always(501))}, router()]});
    let few = json!([{"name": "all", "domains": ["*"], "routes": [
        merged(json!({"match": {"prefix": "/on"}, "route": {"cluster": "up"}}), with(fault(always(503)))),
        {"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]);
    let listeners = vec![
        listener(layout, "main", http(layout, "main", main, filters(json!({})))),
        listener(layout, "levels", http(layout, "levels", levels, filters(always(501)))),
        listener(layout, "disabled", http(layout, "disabled", few, disabled)),
    ];
    (listeners, vec![cluster(layout, "up", &["up"], json!({})), cluster(layout, "h2", &["up"], http2_upstream())])
}

const ABORTED: &str = "FI fault_filter_abort";

fn cases() -> Vec<Case> {
    let ok = || vec![answer("200 OK", &[], b"ok")];
    let on_a = |name: &str, path: &str| Case::get(name, path).on("levels");
    let mut cases = vec![
        Case::get("abort", "/abort").seen(503, ABORTED).body("fault filter abort"),
        Case::get("abort 418", "/418").seen(418, ABORTED),
        Case::get("abort 400", "/400").seen(400, ABORTED),
        Case::get("abort 204", "/204").better("a 204 has no body (RFC 9110, 15.3.5)", 204),
        Case::raw("abort HEAD", "")
            .client(vec![say("HEAD /abort HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::AnswerToHead]),
        Case::raw("abort POST", "POST /abort HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\n\r\nabc")
            .seen(503, ABORTED),
        Case::raw("two aborts on one connection", "").client(vec![
            say("GET /abort HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
            Do::Answer,
            say("GET /418 HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
            Do::Answer,
        ]),
        Case::get_with("abort of a gRPC request", "/abort", &["content-type: application/grpc"]),
        Case::get("gRPC abort of a plain request", "/grpc").seen(200, ABORTED).body("fault filter abort"),
        Case::get_with("gRPC abort", "/grpc", &["content-type: application/grpc+proto"]).seen(200, ABORTED).body(""),
        Case::h2("gRPC abort over HTTP/2", "POST", "http://a.test/grpc", &[("content-type", "application/grpc")])
            .h2_body(b"\0\0\0\0\0", &[]),
        Case::h2("abort over HTTP/2", "GET", "http://a.test/abort", &[]),
        Case::get("abort wins over an unknown cluster", "/nowhere").seen(500, ABORTED),
        Case::get("abort is not retried", "/retried").seen(503, ABORTED),
        Case::get("abort of a redirect", "/redirect").seen(503, ABORTED),
        Case::get("abort of a direct response", "/direct").seen(503, ABORTED),
        Case::get("delay", "/delay").upstream(ok()).seen(200, "DI via_upstream"),
        Case::raw("delay of a POST", "POST /delay HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\n\r\nabc")
            .upstream(vec![Act::ReadBody, answer("200 OK", &[], b"ok")])
            .seen(200, "DI via_upstream"),
        Case::h2("delay over HTTP/2", "POST", "http://a.test/delay", &[])
            .h2_body(b"abc", &[])
            .upstream(vec![Act::ReadBody, answer("200 OK", &[], b"ok")]),
        Case::get("the timeout starts after the delay", "/timeout").upstream(ok()).seen(200, "DI via_upstream"),
        Case::get("a delay is idle time", "/idle").seen(504, "DI,SI stream_idle_timeout"),
        Case::of("client gone in the delay")
            .client(vec![say("GET /long HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::Reset])
            .seen(0, "DI,DC downstream_remote_disconnect"),
        Case::of("client of a POST gone in the delay")
            .client(vec![
                say("POST /long HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 9\r\n\r\nabc"),
                Do::FinishWriting,
                Do::End,
            ])
            .ignore_bytes(),
        Case::get("delay and abort", "/both").seen(503, "DI,FI fault_filter_abort"),
        Case::get("percentage unset", "/unset").upstream(ok()).seen(200, "- via_upstream"),
        Case::get("percentage 0", "/zero").upstream(ok()).seen(200, "- via_upstream"),
        Case::get("percentage 100", "/hundred").seen(503, ABORTED),
        Case::get("percentage above 100", "/over").seen(503, ABORTED),
        Case::get("for this cluster", "/to-up").seen(503, ABORTED),
        Case::get("for another cluster", "/to-other").upstream(ok()).seen(200, "- via_upstream"),
        Case::get("for a weighted cluster", "/to-weighted").seen(503, ABORTED),
        Case::get_with("headers match", "/headers", &["x-a: 1", "x-b: 2"]).seen(503, ABORTED),
        Case::get_with("a header is missing", "/headers", &["x-a: 1"]).upstream(ok()).seen(200, "- via_upstream"),
        Case::get_with("for this node", "/nodes", &["x-envoy-downstream-service-node: n2"]).seen(503, ABORTED),
        Case::get("for no known node", "/nodes").upstream(ok()),
        Case::get("no active fault allowed", "/spared").upstream(ok()).seen(200, "- via_upstream"),
        Case::get("no route", "/none").seen(200, "- via_upstream").upstream(ok()),
        Case::raw("no virtual host", "GET /abort HTTP/1.1\r\nhost: x.test\r\n@@\r\n\r\n")
            .seen(404, "NR route_not_found"),
        on_a("of the route", "/route").seen(503, ABORTED),
        on_a("of the virtual host", "/vhost").seen(502, ABORTED),
        on_a("of the weighted cluster", "/weighted").seen(505, ABORTED),
        on_a("off", "/off").upstream(ok()).seen(200, "- via_upstream"),
        on_a("wrapped", "/wrapped").seen(504, ABORTED),
        on_a("a delay replaces the abort", "/delay-only").upstream(ok()).seen(200, "DI via_upstream"),
        Case::raw("of the connection manager", "GET / HTTP/1.1\r\nhost: b.test\r\n@@\r\n\r\n")
            .on("levels")
            .seen(501, ABORTED),
        Case::raw("of the connection manager without a route", "GET / HTTP/1.1\r\nhost: c.test\r\n@@\r\n\r\n")
            .on("levels")
            .seen(501, ABORTED),
        on_a("disabled", "/").on("disabled").upstream(ok()).seen(200, "- via_upstream"),
        on_a("disabled, enabled by the route", "/on").on("disabled").seen(503, ABORTED),
    ];
    let by_header = [
        ("nothing asked", &[][..]),
        ("delay asked", &["x-envoy-fault-delay-request: 100"]),
        ("no number", &["x-envoy-fault-delay-request: soon"]),
        ("delay asked for none", &["x-envoy-fault-delay-request: 100", "x-envoy-fault-delay-request-percentage: 0"]),
        ("abort asked", &["x-envoy-fault-abort-request: 418"]),
        ("abort with no status", &["x-envoy-fault-abort-request: 999"]),
        ("abort asked for none", &["x-envoy-fault-abort-request: 418", "x-envoy-fault-abort-request-percentage: 0"]),
        ("gRPC abort asked", &["x-envoy-fault-abort-grpc-request: 5", "content-type: application/grpc"]),
        (
            "all asked",
            &[
                "x-envoy-fault-delay-request: 100",
                "x-envoy-fault-abort-request: 418",
                "x-envoy-fault-abort-grpc-request: 5",
            ],
        ),
    ];
    for (name, headers) in by_header {
        cases.push(Case::get_with(&format!("by header: {name}"), "/by-header", headers).upstream(ok()));
        cases.push(Case::get_with(&format!("headers without effect: {name}"), "/zero", headers).upstream(ok()));
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults() {
    let world = World {
        name: "faults",
        listeners: &["main", "levels", "disabled"],
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}

fn shares(layout: &Layout) -> Resources {
    let half = json!({"abort": {"http_status": 503, "percentage": {"numerator": 30}},
        "delay": {"fixed_delay": "0.001s", "percentage": {"numerator": 200_000, "denominator": "MILLION"}}});
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [route("/", half, json!({}))]}]);
    let listeners = vec![listener(layout, "main", http(layout, "main", routes, filters(json!({}))))];
    (listeners, vec![cluster(layout, "up", &["up"], json!({}))])
}

/// Shares of faults hold, for both proxies; delay and abort are independent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_of_faults() {
    const EACH: usize = 200;
    const PER_CASE: usize = 10;
    let acts = || {
        let one = || [say("GET / HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::Answer];
        (0..PER_CASE).flat_map(|_| one()).collect::<Vec<_>>()
    };
    let world = World {
        name: "shares of faults",
        listeners: &["main"],
        upstreams: &["up"],
        h2_upstreams: &[],
        resources: shares,
        cases: (0..EACH).map(|i| Case::of(&format!("{i}")).client(acts())).collect(),
        h2_scripts: vec![],
    };
    for kind in [Kind::Envoy, Kind::Lateen] {
        let outcomes = play(&world, kind, Source::File).await;
        let lines: Vec<&String> = outcomes.values().flat_map(|o| &o.log).collect();
        let seen = |what: fn(&str) -> bool| lines.iter().filter(|line| what(line)).count();
        let total = EACH * PER_CASE;
        for (what, count, share) in [
            ("delayed", seen(|l| l.contains("DI")), 0.2),
            ("aborted", seen(|l| l.contains("FI")), 0.3),
            ("both", seen(|l| l.contains("DI,FI")), 0.06),
        ] {
            assert!(fits(count, total, share), "{}: {count} of {total} {what}", kind.name());
        }
    }
}
