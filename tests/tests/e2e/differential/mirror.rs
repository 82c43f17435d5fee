//! Copies of requests, and what becomes of them.

use lateen_tests::bootstrap::{Layout, cluster, http, http2_upstream, listener, merge};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, Script, answer};
use serde_json::{Value, json};

/// As Istio writes it: the Host stays.
fn to(cluster: &str) -> Value {
    json!({"cluster": cluster, "trace_sampled": false, "disable_shadow_host_suffix_append": true})
}

fn resources(layout: &Layout) -> Resources {
    let with = |mut mirror: Value, more: Value| {
        merge(&mut mirror, more);
        mirror
    };
    let route = |path: &str, cluster: &str, mirrors: Value, more: Value| {
        let mut action = json!({"cluster": cluster, "request_mirror_policies": mirrors});
        merge(&mut action, more);
        json!({"name": path, "match": {"path_separated_prefix": path}, "route": action})
    };
    let plain = |path: &str, cluster: &str, mirrors: Value| route(path, cluster, mirrors, json!({}));
    let million = |n: u32| json!({"runtime_fraction": {"default_value": {"numerator": n, "denominator": "MILLION"}}});
    let routes = json!([
        plain("/one", "up", json!([to("shadow")])),
        plain("/two", "up", json!([to("shadow"), to("other")])),
        plain("/suffix", "up", json!([{"cluster": "shadow"}])),
        plain("/h2", "up", json!([to("h2shadow")])),
        plain("/h2-to-h1", "h2", json!([to("shadow")])),
        plain("/as-client", "up", json!([to("as-client")])),
        plain("/dead", "up", json!([to("dead")])),
        plain("/unknown", "up", json!([to("nowhere")])),
        plain("/no-host", "empty", json!([to("shadow")])),
        plain("/refused", "dead", json!([to("shadow")])),
        plain("/full", "shut", json!([to("shadow")])),
        plain("/never", "up", json!([with(to("shadow"), million(0))])),
        plain("/always", "up", json!([with(to("shadow"), million(1_000_000))])),
        plain("/header", "up", json!([{"cluster_header": "x-shadow", "disable_shadow_host_suffix_append": true}])),
        plain("/literal", "up", json!([{"cluster": "shadow", "host_rewrite_literal": "copy.test"}])),
        plain(
            "/mutated",
            "up",
            json!([with(
                to("shadow"),
                json!({"request_headers_mutations": [
                    {"append": {"header": {"key": "x-added", "value": "a"}}},
                    {"append": {"header": {"key": "x-set", "value": "%REQ(:path)%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}},
                    {"remove": "x-gone"},
                ]})
            )])
        ),
        route("/retried", "up", json!([to("shadow")]), json!({"retry_policy": {"retry_on": "5xx", "num_retries": 2}})),
        route("/timed", "up", json!([to("shadow")]), json!({"timeout": "20s"})),
        route("/untimed", "up", json!([to("shadow")]), json!({"timeout": "0s"})),
        route(
            "/try",
            "up",
            json!([to("shadow")]),
            json!({"timeout": "9s", "retry_policy": {"retry_on": "5xx", "per_try_timeout": "4s"}})
        ),
        route(
            "/only-try",
            "up",
            json!([to("shadow")]),
            json!({"timeout": "0s", "retry_policy": {"retry_on": "5xx", "per_try_timeout": "4s"}})
        ),
        route(
            "/rewritten",
            "up",
            json!([to("shadow")]),
            json!({"prefix_rewrite": "/new", "host_rewrite_literal": "new.test"})
        ),
    ]);
    let hosts = json!([
        {"name": "all", "domains": ["*"], "routes": routes, "include_request_attempt_count": true,
            "request_headers_to_add": [{"header": {"key": "x-host", "value": "h"}}]},
        {"name": "host", "domains": ["host.test"], "request_mirror_policies": [to("shadow")], "routes": [
            {"match": {"prefix": "/own"}, "route": {"cluster": "up", "request_mirror_policies": [to("other")]}},
            {"match": {"prefix": "/"}, "route": {"cluster": "up"}}]},
        {"name": "none", "domains": ["config.test"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]},
    ]);
    let listeners = vec![
        listener(
            layout,
            "main",
            http(
                layout,
                "main",
                hosts.clone(),
                json!({
            "route_config": {"request_mirror_policies": [to("other")]}}),
            ),
        ),
        listener(layout, "edge", http(layout, "edge", hosts, json!({"use_remote_address": true}))),
    ];
    let roomy = || json!({"circuit_breakers": {"thresholds": [{"max_retries": 1000}]}});
    let clusters = vec![
        cluster(layout, "up", &["up"], roomy()),
        cluster(layout, "shadow", &["shadow"], json!({})),
        cluster(layout, "other", &["other"], json!({})),
        cluster(
            layout,
            "as-client",
            &["shadow"],
            json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}}}),
        ),
        cluster(layout, "dead", &["dead"], json!({})),
        cluster(layout, "empty", &[], json!({})),
        cluster(layout, "shut", &["up"], json!({"circuit_breakers": {"thresholds": [{"max_requests": 0}]}})),
        cluster(layout, "h2", &["h2"], http2_upstream()),
        cluster(layout, "h2shadow", &["h2shadow"], http2_upstream()),
    ];
    (listeners, clusters)
}

/// The upstreams take the case's requests apart from each other.
fn mirrored(case: Case) -> Case {
    let plain: Script = vec![vec![Act::ReadBody, answer("200 OK", &[], b"main")]];
    let copy: Script = vec![vec![Act::ReadBody, answer("500 X", &[("x-copy", "1")], b"from the copy")]];
    case.at("up", plain).at("shadow", copy.clone()).at("other", copy)
}

fn get(name: &str, path: &str, arrivals: usize) -> Case {
    mirrored(Case::get(name, path)).then(vec![Do::Whole(arrivals)])
}

fn post(name: &str, path: &str, body: &str, arrivals: usize) -> Case {
    let request = format!("POST {path} HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    mirrored(Case::raw(name, request)).then(vec![Do::Whole(arrivals)])
}

fn cases() -> Vec<Case> {
    let own = |code: u16| vec![Act::ReadBody, answer(&format!("{code} X"), &[], b"own")];
    let mut cases = vec![
        get("GET", "/one?q=1", 2),
        get("two", "/two", 3),
        get("suffix", "/suffix", 2),
        get("h2 shadow", "/h2", 2),
        get("dead", "/dead", 1),
        get("unknown", "/unknown", 1),
        get("no host", "/no-host", 0),
        get("refused", "/refused", 1),
        get("full", "/full", 1),
        get("never", "/never", 1),
        get("always", "/always", 2),
        get("rewritten", "/rewritten/x", 2),
        get("timed", "/timed", 2),
        get("untimed", "/untimed", 2),
        get("timed for each try", "/try", 2),
        get("timed for each try alone", "/only-try", 2),
        get("literal", "/literal", 2),
        get("mutated", "/mutated", 2),
        post("mutated POST", "/mutated", "abc", 2),
        post("POST", "/one", "abc", 2),
        post("empty POST", "/one", "", 2),
        post("big POST", "/one", &"x".repeat(600_000), 2),
        post("POST to two", "/two", "abc", 3),
        post("POST to h2", "/h2", "abc", 2),
        mirrored(Case::raw("HEAD", "HEAD /one HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"))
            .client(vec![say("HEAD /one HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::AnswerToHead, Do::Whole(2)])
            .at(
                "up",
                vec![vec![Act::ReadBody, lateen_tests::upstream::send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")]],
            )
            .at(
                "shadow",
                vec![vec![Act::ReadBody, lateen_tests::upstream::send("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n")]],
            ),
        mirrored(Case::raw(
            "chunked",
            "POST /one HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ))
        .then(vec![Do::Whole(2)]),
        mirrored(Case::raw("port in host", "GET /suffix HTTP/1.1\r\nhost: a.test:8080\r\n@@\r\n\r\n"))
            .then(vec![Do::Whole(2)]),
        mirrored(Case::get_with(
            "client's headers",
            "/one",
            &["x-forwarded-for: 1.2.3.4", "x-request-id: mine", "x-a: 1", "te: trailers"],
        ))
        .then(vec![Do::Whole(2)]),
        mirrored(Case::get_with("edge", "/one", &["x-forwarded-for: 1.2.3.4", "x-gone: 1"]))
            .on("edge")
            .then(vec![Do::Whole(2)]),
        mirrored(Case::get_with("by header", "/header", &["x-shadow: shadow"])).then(vec![Do::Whole(2)]),
        mirrored(Case::get_with("by unknown header", "/header", &["x-shadow: nowhere"])).then(vec![Do::Whole(1)]),
        get("by no header", "/header", 1),
        mirrored(Case::raw("policy of the host", "GET / HTTP/1.1\r\nhost: host.test\r\n@@\r\n\r\n"))
            .then(vec![Do::Whole(2)]),
        mirrored(Case::raw("policy of the route instead", "GET /own HTTP/1.1\r\nhost: host.test\r\n@@\r\n\r\n"))
            .then(vec![Do::Whole(2)]),
        mirrored(Case::raw("policy of the configuration", "GET /own HTTP/1.1\r\nhost: config.test\r\n@@\r\n\r\n"))
            .then(vec![Do::Whole(2)]),
        get("retried", "/retried", 3)
            .at("up", vec![own(503), vec![Act::ReadBody, answer("200 OK", &[], b"ok")]])
            .at("shadow", vec![own(503)]),
        post("retried with a body", "/retried", "abc", 3)
            .at("up", vec![own(503), vec![Act::ReadBody, answer("200 OK", &[], b"ok")]])
            .at("shadow", vec![own(503)]),
        get("slow shadow", "/one", 2).at("shadow", vec![vec![Act::ReadBody, Act::Hang]]),
        get("shadow resets", "/one", 2).at("shadow", vec![vec![Act::ReadBody, Act::Reset]]),
        get("shadow babbles", "/one", 2)
            .at("shadow", vec![vec![Act::ReadBody, lateen_tests::upstream::send("nonsense\r\n\r\n")]]),
        Case::of("body in pieces")
            .client(vec![
                say("POST /one HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 6\r\n\r\nabc"),
                Do::Arrival(2),
                say("def"),
                Do::Answer,
                Do::Whole(2),
            ])
            .at("up", vec![own(200)])
            .at("shadow", vec![own(500)]),
        Case::of("client leaves in the body")
            .client(vec![
                say("POST /one HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 6\r\n\r\nabc"),
                Do::Arrival(2),
                Do::Reset,
            ])
            .at("up", vec![vec![Act::ReadBody]])
            .at("shadow", vec![vec![Act::ReadBody]])
            .ignore_upstream_body()
            .ignore_bytes(),
    ];
    for (path, shadow) in [("/one", "shadow"), ("/h2", "h2shadow"), ("/h2-to-h1", "shadow"), ("/as-client", "shadow")] {
        let uri = format!("http://a.test{path}");
        let grpc: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];
        let copies = |case: Case| mirrored(case).at(shadow, vec![vec![Act::ReadBody, answer("200 OK", &[], b"x")]]);
        cases.push(copies(Case::h2(&format!("h2 GET {path}"), "GET", &uri, &[])));
        cases.push(copies(Case::h2(&format!("h2 POST {path}"), "POST", &uri, &[]).h2_body(b"abc", &[])));
        cases.push(copies(Case::h2(&format!("gRPC {path}"), "POST", &uri, grpc).h2_body(b"\0\0\0\0\0", &[])));
        cases.push(copies(Case::h2(&format!("trailers {path}"), "POST", &uri, grpc).h2_body(b"abc", &[("x-t", "1")])));
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirror() {
    let world = World {
        name: "mirror",
        listeners: &["main", "edge"],
        upstreams: &["up", "shadow", "other"],
        h2_upstreams: &["h2", "h2shadow"],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}
