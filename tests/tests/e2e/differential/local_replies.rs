//! Answers the proxy gives itself, and what it does when the upstream fails.

use lateen_tests::bootstrap::{Layout, cluster, http, listener};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, answer, send};
use serde_json::{Value, json};

fn resources(layout: &Layout) -> Resources {
    let route = |path: &str, route: Value| json!({"name": path, "match": {"prefix": path}, "route": route});
    let main = json!([
        {"name": "a", "domains": ["a.test"], "include_request_attempt_count": true, "routes": [
            route("/unknown-cluster", json!({"cluster": "nowhere"})),
            route("/unknown-500", json!({"cluster": "nowhere", "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR"})),
            route("/unknown-404", json!({"cluster": "nowhere", "cluster_not_found_response_code": "NOT_FOUND"})),
            route("/unknown-weighted", json!({"weighted_clusters": {"clusters": [{"name": "nowhere", "weight": 1}]}})),
            route("/no-endpoint", json!({"cluster": "empty"})),
            route("/refused", json!({"cluster": "dead"})),
            route("/connect-timeout", json!({"cluster": "full"})),
            route("/route-timeout", json!({"cluster": "up", "timeout": "2s"})),
            route("/per-try-timeout", json!({"cluster": "up", "timeout": "5s",
                "retry_policy": {"retry_on": "connect-failure", "num_retries": 1, "per_try_timeout": "2s"}})),
            route("/per-try-used-up", json!({"cluster": "up", "timeout": "5s",
                "retry_policy": {"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "2s"}})),
            route("/per-try-above", json!({"cluster": "up", "timeout": "2s",
                "retry_policy": {"retry_on": "connect-failure", "num_retries": 1, "per_try_timeout": "5s"}})),
            route("/idle", json!({"cluster": "up", "timeout": "0s", "idle_timeout": "2s"})),
            route("/used-up", json!({"cluster": "up", "retry_policy": {"retry_on": "5xx", "num_retries": 1}})),
            route("/budget", json!({"cluster": "no-retries", "retry_policy": {"retry_on": "5xx", "num_retries": 1}})),
            route("/pinned", json!({"cluster": "up", "timeout": "0s"})),
            {"name": "direct", "match": {"prefix": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "direct"}}},
            {"name": "teapot", "match": {"prefix": "/teapot"}, "direct_response": {"status": 418}},
            {"name": "odd", "match": {"prefix": "/odd"}, "direct_response": {"status": 499, "body": {"inline_string": "odd"}}},
            {"name": "bad", "match": {"prefix": "/400"}, "direct_response": {"status": 400, "body": {"inline_string": "no"}}},
            {"name": "204", "match": {"prefix": "/204"}, "direct_response": {"status": 204, "body": {"inline_string": "body"}}},
            {"name": "503", "match": {"prefix": "/503"}, "direct_response": {"status": 503}},
            {"name": "201", "match": {"prefix": "/201"}, "direct_response": {"status": 201, "body": {"inline_string": "made"}}},
            {"name": "302", "match": {"prefix": "/302"}, "direct_response": {"status": 302}},
            {"name": "filter", "match": {"prefix": "/edited"}, "direct_response": {"status": 200, "body": {"inline_string": "x"}},
                "response_headers_to_add": [{"header": {"key": "content-type", "value": "text/html"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
                    {"header": {"key": "x-more", "value": "1"}}]},
            {"name": "up", "match": {"prefix": "/up"}, "route": {"cluster": "up"}},
        ]},
    ]);
    let all = json!([{"name": "all", "domains": ["*"], "routes": [route("/", json!({"cluster": "up"}))]}]);
    let listeners = vec![
        listener(layout, "main", http(layout, "main", main, json!({}))),
        listener(
            layout,
            "headers-timeout",
            http(layout, "headers-timeout", all.clone(), json!({"request_headers_timeout": "0.5s"})),
        ),
        listener(
            layout,
            "request-timeout",
            http(layout, "request-timeout", all.clone(), json!({"request_timeout": "0.5s"})),
        ),
        listener(
            layout,
            "max-duration",
            http(layout, "max-duration", all, json!({"common_http_protocol_options": {"max_stream_duration": "2s"}})),
        ),
    ];
    let clusters = vec![
        cluster(layout, "up", &["up"], json!({})),
        cluster(layout, "empty", &[], json!({})),
        cluster(layout, "dead", &["dead"], json!({})),
        cluster(layout, "full", &["full"], json!({"connect_timeout": "0.3s"})),
        cluster(layout, "no-retries", &["up"], json!({"circuit_breakers": {"thresholds": [{"max_retries": 0}]}})),
    ];
    (listeners, clusters)
}

/// The body of a reply to an upstream failure.
fn reset(reason: &str) -> String {
    format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}")
}

const TERMINATED: &str = "UC upstream_reset_before_response_started{connection_termination}";
const PROTOCOL: &str = "UPE upstream_reset_before_response_started{protocol_error}";

fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::get("no route", "/none").seen(404, "NR route_not_found").body(""),
        Case::raw("no host", "GET / HTTP/1.1\r\nhost: b.test\r\n@@\r\n\r\n").seen(404, "NR route_not_found"),
        Case::raw("no route, HEAD", "HEAD /none HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n")
            .client(vec![say("HEAD /none HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::AnswerToHead]),
        Case::raw("no route, client closes", "GET /none HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n@@\r\n\r\n"),
        Case::raw("no route, POST", "POST /none HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\n\r\nabc"),
        Case::get("unknown cluster", "/unknown-cluster").seen(503, "NC cluster_not_found").body(""),
        Case::get("unknown cluster as 500", "/unknown-500").seen(500, "NC cluster_not_found"),
        Case::get("unknown cluster as 404", "/unknown-404").seen(404, "NC cluster_not_found"),
        Case::get("unknown weighted cluster", "/unknown-weighted").seen(503, "NC cluster_not_found"),
        Case::get("no endpoint", "/no-endpoint").seen(503, "UH no_healthy_upstream").body("no healthy upstream"),
        Case::get("refused", "/refused")
            .seen(503, "UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}")
            .body(&reset("remote connection failure")),
        Case::get("connect timeout", "/connect-timeout")
            .seen(503, "UF upstream_reset_before_response_started{connection_timeout}")
            .body(&reset("connection timeout")),
        Case::get("RST before the answer", "/up").upstream(vec![Act::Reset]).seen(503, TERMINATED).body(&reset("connection termination")),
        Case::get("FIN before the answer", "/up").upstream(vec![Act::Fin]).seen(503, TERMINATED),
        Case::raw("RST before the answer, HEAD", "")
            .upstream(vec![Act::Reset])
            .client(vec![say("HEAD /up HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::AnswerToHead]),
        Case::get("FIN in the head", "/up").upstream(vec![send("HTTP/1.1 200 OK\r\na: b"), Act::Fin]).seen(502, PROTOCOL).body(&reset("protocol error")),
        Case::get("FIN after the status line", "/up").upstream(vec![send("HTTP/1.1 200 OK\r\n"), Act::Fin]).seen(502, PROTOCOL),
        Case::get("answer is not HTTP", "/up").upstream(vec![send("hello\r\n\r\n")]).seen(502, PROTOCOL),
        Case::get("answer with length and chunked", "/up")
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")])
            .seen(502, PROTOCOL),
        Case::get("answer with two lengths", "/up")
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd")]),
        Case::get("204 with length", "/up").upstream(vec![send("HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc")]).seen(502, PROTOCOL),
        Case::get("204 with length 0", "/up").upstream(vec![send("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")]),
        Case::get("204", "/up").upstream(vec![send("HTTP/1.1 204 No Content\r\nx: y\r\n\r\n")]).seen(204, "- via_upstream"),
        Case::get("304 with length", "/up").upstream(vec![send("HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n")]).seen(304, "- via_upstream"),
        Case::get("head of 70 KB", "/up").upstream(vec![answer("200 OK", &[("big", &"v".repeat(70_000))], b"ok")]).seen(200, "- via_upstream"),
        Case::get("head of 90 KB", "/up").upstream(vec![answer("200 OK", &[("big", &"v".repeat(90_000))], b"ok")]).seen(502, PROTOCOL),
        Case::get("FIN in the body", "/up")
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), Act::Fin])
            .seen(200, "UPE upstream_reset_after_response_started{protocol_error}"),
        Case::get("RST in the body", "/up")
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), Act::AwaitCue, Act::Reset])
            .client(vec![
                say("GET /up HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
                Do::Arrival(1),
                Do::Head, Do::Exactly(3),
                Do::Cue,
                Do::End,
            ])
            .ignore_body(),
        Case::get("FIN in a chunked body", "/up")
            .upstream(vec![send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"), Act::Fin])
            .seen(200, "UPE upstream_reset_after_response_started{protocol_error}"),
        Case::get("bad chunk in the answer", "/up")
            .upstream(vec![send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")])
            .ignore_body(),
        Case::get("until close", "/up").upstream(vec![send("HTTP/1.1 200 OK\r\n\r\nabc"), Act::Fin]).seen(200, "- via_upstream"),
        Case::get("more than the length", "/up").upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcdef")]).seen(200, "- via_upstream"),
        Case::get("100 from upstream", "/up").upstream(vec![send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")]),
        Case::get("103 from upstream", "/up")
            .upstream(vec![send("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")])
            .seen(200, "- via_upstream"),
        Case::get("101 without being asked", "/up").upstream(vec![send("HTTP/1.1 101 Switching Protocols\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\n")]).better("nobody asked to switch protocols", 502),
        Case::get("HTTP/1.0 answer", "/up").upstream(vec![send("HTTP/1.0 200 OK\r\n\r\nabc"), Act::Fin]),
        Case::get("answer with status 600", "/up").upstream(vec![send("HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n")]),
        Case::get("answer without reason", "/up").upstream(vec![send("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n")]),
        Case::get("answer with own reason", "/up").upstream(vec![send("HTTP/1.1 200 Fine\r\ncontent-length: 0\r\n\r\n")]),
        Case::get("answer with obs-fold", "/up").upstream(vec![send("HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n")])
            .better("obs-fold in an answer is as ambiguous as in a request", 502),
        Case::get("answer with LF only", "/up").upstream(vec![send("HTTP/1.1 200 OK\ncontent-length: 2\n\nok")]),
        Case::get("answer with trailers", "/up")
            .upstream(vec![send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: t\r\n\r\n2\r\nok\r\n0\r\nt: 1\r\n\r\n")]),
        Case::get("upstream closes after the answer", "/up")
            .upstream(vec![send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"), Act::Fin]),
        Case::get("route timeout", "/route-timeout")
            .upstream(vec![Act::Hang])
            .seen(504, "UT response_timeout")
            .body("upstream request timeout"),
        Case::get("route timeout after the head", "/route-timeout")
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), Act::Hang])
            .seen(200, "UT response_timeout"),
        Case::get("per-try timeout", "/per-try-timeout").upstream(vec![Act::Hang]).seen(504, "UT upstream_per_try_timeout"),
        Case::get("per-try timeout, retries used up", "/per-try-used-up").upstream(vec![Act::Hang]).seen(504, "URX,UT upstream_per_try_timeout"),
        Case::get("per-try timeout above the timeout", "/per-try-above").upstream(vec![Act::Hang]).seen(504, "UT response_timeout"),
        Case::get("idle waiting for the answer", "/idle").upstream(vec![Act::Hang]).seen(504, "SI stream_idle_timeout").body("stream timeout"),
        Case::raw("idle waiting for the request body", "POST /idle HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\n\r\n")
            .upstream(vec![Act::Hang])
            .seen(408, "SI stream_idle_timeout")
            .body("stream timeout")
            .ignore_upstream_body(),
        Case::get("idle after the head", "/idle")
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), Act::Hang])
            .seen(200, "SI stream_idle_timeout"),
        Case::raw("request headers timeout", "GET / HTTP/1.1\r\nhost: a")
            .on("headers-timeout")
            .seen(408, "- request_header_timeout")
            .body("request header timeout"),
        Case::raw("request timeout", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\n\r\n")
            .on("request-timeout")
            .upstream(vec![Act::Hang])
            .seen(408, "- request_overall_timeout")
            .body("request timeout")
            .ignore_upstream_body(),
        Case::get("request timeout does not cover the answer", "/")
            .on("request-timeout")
            .client(vec![say("GET / HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::Arrival(1), Do::Cue, Do::Answer])
            .upstream(vec![Act::AwaitCue, answer("200 OK", &[], b"ok")]),
        Case::get("longest duration", "/")
            .on("max-duration")
            .upstream(vec![Act::Hang])
            .seen(504, "- max_duration_timeout")
            .body("downstream duration timeout"),
        Case::get("own 503, retries used up", "/used-up")
            .upstream(vec![answer("503 Service Unavailable", &[], b"mine")])
            .seen(503, "URX via_upstream")
            .body("mine"),
        Case::get("retry budget full", "/budget")
            .upstream(vec![answer("503 Service Unavailable", &[], b"mine")])
            .seen(503, "UO via_upstream")
            .body("mine"),
        Case::get("direct response", "/direct").seen(200, "- direct_response").body("direct"),
        Case::raw("direct response to HEAD", "")
            .client(vec![say("HEAD /direct HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::AnswerToHead]),
        Case::raw("direct response to POST", "POST /direct HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\n\r\nabc"),
        Case::get("teapot", "/teapot").seen(418, "- direct_response"),
        Case::get("unknown code", "/odd").seen(499, "- direct_response"),
        Case::get("direct 400", "/400").seen(400, "- direct_response"),
        Case::get("direct 204 with body", "/204").seen(204, "- direct_response").better("a 204 has no body (RFC 9110, 15.3.5)", 204),
        Case::get("direct 503", "/503"),
        Case::get("direct 201", "/201?a=b").seen(201, "- direct_response"),
        Case::get_with("direct 302", "/302", &["x-forwarded-proto: https"]).seen(302, "- direct_response"),
        Case::get("direct response edited", "/edited"),
        Case::of("client gone while waiting")
            .client(vec![say("GET /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::Arrival(1), Do::Reset])
            .upstream(vec![Act::Hang])
            .seen(0, "DC downstream_remote_disconnect"),
        Case::of("client ends its side while waiting")
            .client(vec![say("GET /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::Arrival(1), Do::FinishWriting, Do::End])
            .upstream(vec![Act::Hang]),
    ];
    for code in [400, 401, 403, 404, 405, 408, 413, 429, 500, 501, 502, 503, 504] {
        cases.push(
            Case::get(&format!("upstream's {code}"), "/up")
                .upstream(vec![Act::ReadBody, answer(&format!("{code} X"), &[], b"own")]),
        );
    }
    cases
}

pub fn world() -> World {
    World {
        name: "local replies",
        listeners: &["main", "headers-timeout", "request-timeout", "max-duration"],
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_replies() {
    compare(&world(), Source::File).await;
}
