//! Headers a proxy adds, removes and rewrites between the two sides.

use lateen_tests::bootstrap::{Layout, cluster, http, listener};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, answer, send};
use serde_json::json;

const LISTENERS: &[&str] =
    &["main", "edge", "edge-internal", "hop", "trusted", "inner", "pass-through", "if-absent", "istio", "via", "no-id"];

fn resources(layout: &Layout) -> Resources {
    let routes = || {
        json!([{"name": "all", "domains": ["*"], "include_request_attempt_count": true, "routes": [
            {"name": "rewritten", "match": {"prefix": "/rewritten"}, "route": {"cluster": "up", "prefix_rewrite": "/"}},
            {"name": "all", "match": {"prefix": "/"}, "route": {"cluster": "up"}},
        ]}])
    };
    let loopback = json!({"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]});
    let settings = |name: &str| match name {
        "edge" => json!({"use_remote_address": true}),
        "edge-internal" => json!({"use_remote_address": true, "internal_address_config": loopback}),
        "inner" => {
            json!({"internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}})
        }
        "hop" => json!({"use_remote_address": true, "xff_num_trusted_hops": 1}),
        "trusted" => json!({"use_remote_address": false, "xff_num_trusted_hops": 1}),
        "pass-through" => json!({"server_header_transformation": "PASS_THROUGH"}),
        "if-absent" => json!({"server_header_transformation": "APPEND_IF_ABSENT"}),
        "istio" => json!({"server_name": "istio-envoy", "use_remote_address": true, "skip_xff_append": true,
            "forward_client_cert_details": "SANITIZE_SET", "preserve_external_request_id": true}),
        "via" => json!({"via": "1.1 me", "server_name": "me"}),
        "no-id" => json!({"generate_request_id": false, "always_set_request_id_in_response": true}),
        _ => json!({}),
    };
    let listeners =
        LISTENERS.iter().map(|name| listener(layout, name, http(layout, name, routes(), settings(name)))).collect();
    (listeners, vec![cluster(layout, "up", &["up"], json!({}))])
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let client_sent: &[(&str, &str)] = &[
        ("plain", ""),
        ("upper case", "X-Upper: V\r\nACCEPT: */*\r\n"),
        ("blanks", "a:   x  \r\nb:\ty\t\r\nc:\r\nd: x  y\r\n"),
        ("accept twice", "accept: a\r\nb: 2\r\naccept: b\r\n"),
        ("same name twice", "a: 1\r\nb: 2\r\na: 3\r\n"),
        ("cookies", "cookie: a=1\r\ncookie: b=2\r\n"),
        ("connection names one", "connection: x-hop\r\nx-hop: 1\r\nx-kept: 1\r\n"),
        ("connection keep-alive", "connection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\n"),
        ("connection close", "connection: close\r\n"),
        ("connection Close", "Connection: Close\r\n"),
        ("connection with quotes", "connection: \"a\", ,b;c\r\na: 1\r\nb: 1\r\n"),
        ("connection names host", "connection: host\r\n"),
        ("connection names x-forwarded-proto", "connection: x-forwarded-proto\r\nx-forwarded-proto: http\r\n"),
        ("connection names te", "connection: te\r\nte: trailers\r\n"),
        ("proxy-connection", "proxy-connection: keep-alive\r\n"),
        ("upgrade alone", "upgrade: websocket\r\n"),
        (
            "upgrade h2c",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        ),
        (
            "upgrade websocket",
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        ("te gzip", "te: gzip\r\n"),
        ("te trailers, gzip", "te: trailers, gzip\r\n"),
        ("te with weight", "te: gzip;q=0.5, trailers;q=0.5\r\n"),
        ("proxy-authorization", "proxy-authorization: Basic x\r\nproxy-authenticate: y\r\n"),
        ("trailer", "trailer: t\r\n"),
        ("forwarded for", "x-forwarded-for: 1.2.3.4\r\n"),
        ("forwarded for two", "x-forwarded-for: 1.2.3.4, 5.6.7.8\r\n"),
        ("forwarded for, twice", "x-forwarded-for: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8\r\n"),
        ("forwarded for internal", "x-forwarded-for: 10.1.2.3\r\n"),
        ("forwarded for IPv6", "x-forwarded-for: 2001:db8::1\r\n"),
        ("forwarded for junk", "x-forwarded-for: nobody\r\n"),
        ("proto https", "x-forwarded-proto: https\r\n"),
        ("proto junk", "x-forwarded-proto: gopher\r\n"),
        ("proto empty", "x-forwarded-proto:\r\n"),
        ("request id", "x-request-id: mine\r\n"),
        ("request id empty", "x-request-id:\r\n"),
        ("forwarded host", "x-forwarded-host: h\r\nx-forwarded-port: 81\r\nforwarded: for=1.2.3.4\r\n"),
        ("external address", "x-envoy-external-address: 1.2.3.4\r\n"),
        ("internal", "x-envoy-internal: true\r\n"),
        (
            "timeouts",
            "x-envoy-upstream-rq-timeout-ms: 100\r\nx-envoy-upstream-rq-per-try-timeout-ms: 50\r\nx-envoy-expected-rq-timeout-ms: 7\r\n",
        ),
        (
            "retries",
            "x-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 5\r\nx-envoy-retry-grpc-on: cancelled\r\nx-envoy-retriable-status-codes: 418\r\nx-envoy-retriable-header-names: x\r\n",
        ),
        (
            "hedge and kin",
            "x-envoy-hedge-on-per-try-timeout: true\r\nx-envoy-upstream-alt-stat-name: x\r\nx-envoy-force-trace: 1\r\nx-envoy-ip-tags: t\r\nx-envoy-upstream-stream-duration-ms: 9\r\n",
        ),
        ("attempt count", "x-envoy-attempt-count: 9\r\nx-envoy-is-timeout-retry: true\r\n"),
        ("original path", "x-envoy-original-path: /secret\r\nx-envoy-original-host: h\r\nx-envoy-original-url: u\r\n"),
        (
            "decorator",
            "x-envoy-decorator-operation: op\r\nx-envoy-downstream-service-cluster: c\r\nx-envoy-downstream-service-node: n\r\n",
        ),
        ("unknown x-envoy", "x-envoy-unknown: 1\r\nx-envoy-peer-metadata: p\r\nx-envoy-peer-metadata-id: i\r\n"),
        ("client certificate", "x-forwarded-client-cert: By=spiffe://x\r\n"),
        ("via", "via: 1.0 x\r\n"),
        (
            "trace headers",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx-b3-traceid: 1\r\n",
        ),
        ("content length 0", "content-length: 0\r\n"),
        ("date and server", "date: x\r\nserver: y\r\n"),
        ("authorization", "authorization: Bearer x\r\nuser-agent: me/1\r\n"),
        ("http2-settings alone", "http2-settings: x\r\n"),
        ("colon in value", "a: b:c: d\r\n"),
        ("empty value twice", "a:\r\na:\r\n"),
    ];
    for (name, lines) in client_sent {
        for listener in LISTENERS {
            let path = if *name == "original path" { "/rewritten/x?y" } else { "/x" };
            let request = format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{lines}@@\r\n\r\n");
            let case = Case::raw(&format!("{listener}, {name}"), request).on(listener);
            let trusted = !matches!(*listener, "edge" | "edge-internal" | "istio");
            cases.push(match *name {
                "proto empty" if trusted => case.better("an empty scheme is a hop's mistake, not a missing route", 200),
                "hedge and kin" if *listener == "edge-internal" => {
                    case.better("forcing a trace is for tracing to answer", 200)
                }
                _ => case,
            });
        }
    }
    let upstream_sent: &[(&str, &[(&str, &str)])] = &[
        ("upper case", &[("X-Upper", "V")]),
        ("date and server", &[("date", "Mon, 01 Jan 2024 00:00:00 GMT"), ("server", "own")]),
        (
            "connection names one",
            &[("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5"), ("proxy-connection", "x")],
        ),
        ("upgrade and te", &[("upgrade", "foo"), ("te", "trailers"), ("trailer", "t")]),
        ("via", &[("via", "1.0 x")]),
        ("cookies", &[("set-cookie", "a=1"), ("x", "1"), ("set-cookie", "b=2")]),
        (
            "x-envoy",
            &[
                ("x-envoy-overloaded", "true"),
                ("x-envoy-ratelimited", "true"),
                ("x-envoy-decorator-operation", "op"),
                ("x-envoy-immediate-health-check-fail", "1"),
                ("x-envoy-unknown", "1"),
                ("x-envoy-upstream-service-time", "9999"),
                ("x-envoy-attempt-count", "3"),
                ("x-envoy-upstream-healthchecked-cluster", "c"),
                ("x-envoy-degraded", "1"),
            ],
        ),
        ("request id", &[("x-request-id", "theirs")]),
        ("blanks", &[("a", "  x  "), ("b", "")]),
        (
            "content type",
            &[
                ("content-type", "application/json"),
                ("content-encoding", "gzip"),
                ("alt-svc", "h3"),
                ("strict-transport-security", "x"),
            ],
        ),
        ("location", &[("location", "http://127.0.0.1/x")]),
        ("status", &[(":status", "201")]),
    ];
    for (name, headers) in upstream_sent {
        for listener in ["main", "edge", "pass-through", "if-absent", "via", "istio"] {
            let case = Case::get(&format!("answer on {listener}, {name}"), "/x");
            cases.push(case.on(listener).upstream(vec![Act::ReadBody, answer("200 OK", headers, b"ok")]));
        }
    }
    cases.push(
        Case::get("high byte and tab in an answer", "/x")
            .upstream(vec![send(b"HTTP/1.1 200 OK\r\na: x\xe9\ty\r\ncontent-length: 0\r\n\r\n")]),
    );
    cases.push(
        Case::of("HEAD")
            .client(vec![say("HEAD /x HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::AnswerToHead])
            .upstream(vec![Act::ReadBody, send("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: x\r\n\r\n")]),
    );
    cases.push(
        Case::of("HEAD, chunked")
            .client(vec![say("HEAD /x HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::AnswerToHead])
            .upstream(vec![Act::ReadBody, send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")]),
    );
    cases.push(
        Case::of("HEAD, nothing")
            .client(vec![say("HEAD /x HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::AnswerToHead])
            .upstream(vec![Act::ReadBody, send("HTTP/1.1 200 OK\r\n\r\n")]),
    );
    for (name, body) in [
        ("length", "content-length: 3\r\n\r\nabc"),
        ("chunked", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ("nothing", "\r\n"),
    ] {
        for method in ["POST", "PUT", "DELETE", "GET", "OPTIONS"] {
            cases.push(Case::raw(
                &format!("{method} with {name}"),
                format!("{method} /x HTTP/1.1\r\nhost: a.test\r\n@@\r\n{body}"),
            ));
        }
    }
    cases
}

pub fn world() -> World {
    World {
        name: "headers",
        listeners: LISTENERS,
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers() {
    compare(&world(), Source::File).await;
}
