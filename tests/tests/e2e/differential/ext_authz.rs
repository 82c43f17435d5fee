//! Questions to an authorization service: what it is told, what becomes of what it says, and what is counted.

use lateen_tests::bootstrap::{LOG_FORMAT, Layout, cluster, file_log, http, listener, merge, router};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, Script, answer, send};
use serde_json::{Value, json};

mod connections;
mod counters;
mod grpc;

const FILTER: &str = "envoy.filters.http.ext_authz";
const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3";

fn exact(names: &[&str]) -> Value {
    let all: Vec<Value> = names.iter().map(|name| json!({"exact": name})).collect();
    json!({"patterns": all})
}

fn uri(cluster: &str, timeout: &str) -> Value {
    json!({"uri": "http://auth.test/x", "cluster": cluster, "timeout": timeout})
}

/// The filter asking `auth` over HTTP, which is told the case's name; `more` is merged over it.
fn filter(more: Value) -> Value {
    let mut filter = json!({"@type": format!("{TYPE}.ExtAuthz"), "transport_api_version": "V3",
        "allowed_headers": exact(&["x-case"]), "http_service": {"server_uri": uri("auth", "10s")}});
    merge(&mut filter, more);
    json!({"name": FILTER, "typed_config": filter})
}

fn service(more: Value) -> Value {
    filter(json!({"http_service": more}))
}

fn asks_and_answers(request: Value, response: Value) -> Value {
    service(json!({"authorization_request": request, "authorization_response": response}))
}

/// Listeners by name, each with the filters before its router.
fn listeners() -> Vec<(&'static str, Vec<Value>)> {
    let body = |more: Value| {
        let mut settings = json!({"max_request_bytes": 16});
        merge(&mut settings, more);
        filter(json!({"with_request_body": settings}))
    };
    let metadata = |value: &str, invert: bool| {
        json!({"filter": "envoy.filters.http.rbac", "invert": invert,
            "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}], "value": {"string_match": {"prefix": value}}})
    };
    let shadow = json!({"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "shadow_rules_stat_prefix": "istio_ext_authz_",
        "shadow_rules": {"action": "DENY", "policies": {"istio-ext-authz-p-ns[a]-policy[b]-rule[0]": {
            "permissions": [{"url_path": {"path": {"prefix": "/asked"}}}], "principals": [{"any": true}]}}}}});
    let forbidden = json!({"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": "DENY", "policies": {"told": {"permissions": [{"header": {"name": "x-user", "string_match": {"exact": "bad"}}}],
            "principals": [{"any": true}]}}}}});
    let cors = json!({"name": "envoy.filters.http.cors", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}});
    let never = json!({"default_value": {"numerator": 0, "denominator": "HUNDRED"}});
    let many = json!({
        "allowed_upstream_headers": {"patterns": [{"exact": "x-user"}, {"prefix": "x-up-"}, {"exact": "host"}]},
        "allowed_upstream_headers_to_append": exact(&["x-more", "x-user2"]),
        "allowed_client_headers": exact(&["x-why", "set-cookie"]),
        "allowed_client_headers_on_success": {"patterns": [{"exact": "set-cookie"}, {"prefix": "X-GOOD", "ignore_case": true}]},
        "dynamic_metadata_from_headers": exact(&["x-told"])});
    let mut old_told = asks_and_answers(json!({"allowed_headers": exact(&["x-case", "x-a"])}), json!({}));
    old_told["typed_config"].as_object_mut().expect("a filter").remove("allowed_headers");
    vec![
        ("main", vec![filter(json!({}))]),
        ("lists", vec![asks_and_answers(json!({}), many.clone())]),
        (
            "reroutes",
            vec![filter(json!({"clear_route_cache": true, "http_service": {"authorization_response": many.clone()}}))],
        ),
        (
            "told",
            vec![filter(json!({
                "allowed_headers": {"patterns": [{"exact": "x-case"}, {"prefix": "x-"}, {"exact": "cookie"}, {"exact": "te"}]},
                "disallowed_headers": exact(&["x-secret", "x-forwarded-proto"]),
                "http_service": {"authorization_request": {"headers_to_add": [
                    {"key": "x-added", "value": "%PROTOCOL%"}, {"key": "x-a", "value": "set"}, {"key": "x-none", "value": "%REQ(x-nothing)%"}, {"key": "x-copied", "value": "%REQ(x-secret)%"}]}}}))],
        ),
        ("old-told", vec![old_told]),
        ("raw", vec![filter(json!({"encode_raw_headers": true, "allowed_headers": {"patterns": [{"prefix": "x-"}]}}))]),
        ("prefix", vec![service(json!({"path_prefix": "/check"}))]),
        ("override", vec![service(json!({"path_override": "/decide?a=b"}))]),
        ("body", vec![body(json!({}))]),
        ("part", vec![body(json!({"allow_partial_message": true}))]),
        ("fails", vec![service(json!({"server_uri": uri("dead", "10s")}))]),
        ("late", vec![service(json!({"server_uri": uri("auth", "0.3s")}))]),
        ("nowhere", vec![service(json!({"server_uri": uri("nowhere", "10s")}))]),
        ("empty", vec![service(json!({"server_uri": uri("empty", "10s")}))]),
        ("teapot", vec![filter(json!({"status_on_error": {"code": 503}}))]),
        ("open", vec![filter(json!({"failure_mode_allow": true}))]),
        ("open-told", vec![filter(json!({"failure_mode_allow": true, "failure_mode_allow_header_add": true}))]),
        (
            "open-body",
            vec![filter(json!({"failure_mode_allow": true, "with_request_body": {"max_request_bytes": 16}}))],
        ),
        ("short", vec![filter(json!({"max_denied_response_body_bytes": 5}))]),
        ("never", vec![filter(json!({"filter_enabled": never}))]),
        (
            "refuses",
            vec![filter(
                json!({"filter_enabled": never, "deny_at_disable": {"default_value": true, "runtime_key": "k"}}),
            )],
        ),
        (
            "shadowed",
            vec![shadow.clone(), filter(json!({"filter_enabled_metadata": metadata("istio-ext-authz-p", false)}))],
        ),
        ("shadowed-not", vec![shadow, filter(json!({"filter_enabled_metadata": metadata("istio-ext-authz-p", true)}))]),
        ("then-rbac", vec![asks_and_answers(json!({}), many.clone()), forbidden]),
        ("then-cors", vec![asks_and_answers(json!({}), many), cors]),
        (
            "twice",
            vec![
                filter(json!({"stat_prefix": "first"})),
                filter(json!({"stat_prefix": "second", "http_service": {"path_prefix": "/again"}})),
            ],
        ),
        ("uncounted", vec![filter(json!({"charge_cluster_response_stats": false}))]),
    ]
}

fn resources(layout: &Layout) -> Resources {
    let said = |said: Value| {
        let mut of = json!({"@type": format!("{TYPE}.ExtAuthzPerRoute")});
        merge(&mut of, said);
        json!({FILTER: of})
    };
    let per_route = |path: &str, of: Value| json!({"match": {"prefix": path}, "route": {"cluster": "up"}, "typed_per_filter_config": said(of)});
    let check = |settings: Value| json!({"check_settings": settings});
    let hosts = json!([
        {"name": "off", "domains": ["off.test"], "typed_per_filter_config": said(json!({"disabled": true})),
            "routes": [per_route("/on", json!({"disabled": false})), {"match": {"prefix": "/"}, "route": {"cluster": "up"}}]},
        {"name": "strict", "domains": ["strict.test"], "routes": [{"match": {"prefix": "/only"}, "route": {"cluster": "up"}}]},
        {"name": "cors", "domains": ["cors.test"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}],
            "typed_per_filter_config": {"envoy.filters.http.cors": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
                "allow_origin_string_match": [{"exact": "http://o"}]}}},
        {"name": "all", "domains": ["*"],
            "request_headers_to_add": [{"header": {"key": "x-route", "value": "1"}}],
            "response_headers_to_add": [{"header": {"key": "x-answer", "value": "%RESPONSE_CODE%"}}, {"header": {"key": "x-why", "value": "route"}}],
            "routes": [
                {"name": "mine", "match": {"prefix": "/user", "headers": [{"name": "x-user", "string_match": {"exact": "me"}}]},
                    "direct_response": {"status": 200, "body": {"inline_string": "mine"}}},
                {"name": "gone", "match": {"prefix": "/user", "headers": [{"name": "x-gone", "present_match": false}]}, "route": {"cluster": "up"}},
                {"name": "unchanged", "match": {"prefix": "/user"}, "route": {"cluster": "up"}},
                per_route("/free", json!({"disabled": true})),
                per_route("/no-body", check(json!({"disable_request_body_buffering": true}))),
                per_route("/other-body", check(json!({"with_request_body": {"max_request_bytes": 4, "allow_partial_message": true}}))),
                per_route("/other-service", check(json!({"http_service": {"server_uri": uri("auth2", "10s"), "path_prefix": "/other"}}))),
                {"match": {"path": "/moved"}, "redirect": {"path_redirect": "/x"}},
                {"match": {"path": "/direct"}, "direct_response": {"status": 202, "body": {"inline_string": "direct"}}},
                {"match": {"path": "/no-cluster"}, "route": {"cluster": "nowhere"}},
                {"match": {"path": "/retried"}, "route": {"cluster": "up", "retry_policy": {"retry_on": "5xx"}}},
                {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
            ]},
    ]);
    let log =
        file_log(&layout.access_log(), &format!("{}\t%DYNAMIC_METADATA({FILTER}:x-told)%\n", LOG_FORMAT.trim_end()));
    let mut out = Vec::new();
    for (name, mut filters) in listeners() {
        filters.push(router());
        let more = json!({"http_filters": filters, "access_log": log, "generate_request_id": false,
            "upgrade_configs": [{"upgrade_type": "websocket"}]});
        out.push(listener(layout, name, http(layout, name, hosts.clone(), more)));
    }
    let mut empty = cluster(layout, "empty", &["up"], json!({}));
    empty["load_assignment"]["endpoints"] = json!([]);
    let clusters = ["up", "auth", "auth2", "dead"].map(|name| cluster(layout, name, &[name], json!({})));
    (out, clusters.into_iter().chain([empty]).collect())
}

/// What the authorization service does with each question.
fn says(status: &str, headers: &[(&str, &str)], body: &str) -> Script {
    vec![vec![Act::ReadBody, answer(status, headers, body.as_bytes())]]
}

fn ok() -> Script {
    says("200 OK", &[], "")
}

fn request(name: &str, line: &str, more: &str, body: &str, script: Script) -> Case {
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let host = if more.contains("host: ") { "" } else { "host: a.test\r\n" };
    let head = format!("{line} HTTP/1.1\r\n{host}@@\r\n{more}{length}\r\n{body}");
    case(Case::raw(name, head), script)
}

fn case(case: Case, script: Script) -> Case {
    let up = vec![vec![Act::ReadBody, answer("200 OK", &[("x-from", "up")], b"ok")]];
    case.at("auth", script.clone()).at("auth2", script).at("up", up).unordered("auth").unordered("auth2")
}

fn get(name: &str, path: &str, more: &str, script: Script) -> Case {
    request(name, &format!("GET {path}"), more, "", script)
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"] {
        let mut asked = request(
            &format!("{method} may"),
            &format!("{method} /x?a=b"),
            "authorization: me\r\nx-other: 1\r\n",
            "",
            ok(),
        );
        let mut not = request(
            &format!("{method} may not"),
            &format!("{method} /x"),
            "",
            "",
            says("403 Forbidden", &[("x-why", "no")], "denied"),
        );
        if method == "HEAD" {
            for case in [&mut asked, &mut not] {
                case.client.pop();
                case.client.push(Do::AnswerToHead);
            }
        }
        cases.extend([asked, not]);
    }
    for status in [
        "100 X",
        "201 Created",
        "202 X",
        "204 No Content",
        "206 X",
        "301 Moved",
        "302 Found",
        "304 X",
        "400 Bad",
        "401 X",
        "404 X",
        "407 X",
        "418 X",
        "429 X",
        "499 X",
        "500 X",
        "501 X",
        "503 X",
        "599 X",
    ] {
        if status.starts_with('1') {
            continue;
        }
        let headers = [
            ("location", "http://else.test/"),
            ("www-authenticate", "Basic"),
            ("x-why", "a"),
            ("x-why", "b"),
            ("server", "auth"),
            ("date", "never"),
            ("set-cookie", "a=b"),
            ("set-cookie", "c=d"),
        ];
        for on in ["main", "lists", "open", "open-told", "teapot"] {
            let bodiless = status.starts_with("204") || status.starts_with("304");
            let acts = if bodiless {
                vec![Act::ReadBody, send(format!("HTTP/1.1 {status}\r\nx-why: bodiless\r\n\r\n"))]
            } else {
                vec![Act::ReadBody, answer(status, &headers, b"the reason")]
            };
            cases.push(get(&format!("{status} on {on}"), "/x", "", vec![acts]).on(on));
        }
    }
    // What is told.
    let fields = "x-a: 1\r\nx-b: 2\r\nx-a: 3\r\nx-secret: s\r\ncookie: a=b\r\ncookie: c=d\r\nx-envoy-auth-partial-body: forged\r\n\
        x-envoy-internal: true\r\nx-forwarded-for: 9.9.9.9\r\nte: trailers\r\naccept: text/html\r\nuser-agent: me\r\n";
    for on in ["main", "told", "old-told", "raw", "prefix", "override", "body", "twice"] {
        cases.push(get(&format!("told on {on}"), "/p/q?a=1&b=%20", fields, ok()).on(on));
        cases.push(request(&format!("told of a body on {on}"), "POST /p", fields, "0123456789", ok()).on(on));
    }
    cases.push(get("not text", "/p", "x-bin: a\u{e9}b\r\n", ok()).on("told"));
    cases.push(get("an absolute target", "http://b.test:81/p?x", "", ok()));
    // What is taken of a good answer.
    let good = [
        ("x-user", "me"),
        ("x-up-a", "1"),
        ("x-up-a", "2"),
        ("x-more", "3"),
        ("x-more", "4"),
        ("set-cookie", "s=1"),
        ("x-good-a", "5"),
        ("x-why", "6"),
        ("x-told", "told"),
        ("x-envoy-auth-headers-to-remove", "x-gone, X-Gone2 ,host,:path, content-type"),
        ("x-ignored", "7"),
    ];
    let sent = "x-user: forged\r\nx-user: forged too\r\nx-up-a: 0\r\nx-more: 0\r\nx-gone: 1\r\nx-gone2: 1\r\ncontent-type: text/x\r\nx-told: 0\r\n";
    for on in ["lists", "reroutes", "main", "then-rbac", "then-cors"] {
        for path in ["/x", "/user", "/moved", "/direct", "/no-cluster"] {
            cases.push(
                get(&format!("a good answer for {path} on {on}"), path, sent, says("200 OK", &good, "body")).on(on),
            );
        }
        cases.push(get(&format!("nothing to change on {on}"), "/user", sent, ok()).on(on));
        cases.push(
            get(
                &format!("only removal on {on}"),
                "/user",
                sent,
                says("200 OK", &[("x-envoy-auth-headers-to-remove", "x-gone")], ""),
            )
            .on(on),
        );
        cases.push(
            get(&format!("only an addition on {on}"), "/user", sent, says("200 OK", &[("x-user2", "more")], "")).on(on),
        );
        cases.push(
            get(
                &format!("bad for later on {on}"),
                "/x",
                "",
                says("200 OK", &[("x-user", "bad"), ("set-cookie", "a=b")], ""),
            )
            .on(on),
        );
        cases.push(
            get(
                &format!("of another origin on {on}"),
                "/x",
                "host: cors.test\r\norigin: http://o\r\n",
                says("200 OK", &good, ""),
            )
            .on(on),
        );
        cases.push(get(&format!("told of a refusal on {on}"), "/x", "", says("403 X", &[("x-told", "no")], "")).on(on));
    }
    // Bodies.
    for (name, size) in [("none", 0), ("one", 1), ("below", 15), ("just", 16), ("above", 17), ("more", 40)] {
        let body = "0123456789abcdefghijklmnopqrstuvwxyzABCD"[..size].to_owned();
        for on in ["body", "part", "open-body"] {
            for path in ["/x", "/no-body", "/other-body", "/retried"] {
                cases.push(
                    request(&format!("{name} of {path} on {on}"), &format!("POST {path}"), "", &body, ok()).on(on),
                );
            }
            let chunks = format!("{size:x}\r\n{body}\r\n0\r\n\r\n");
            if size > 0 {
                let chunked =
                    format!("POST /x HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
                cases.push(case(Case::raw(&format!("{name} in chunks on {on}"), chunked), ok()).on(on));
            }
        }
    }
    for on in ["body", "part"] {
        let long = "z".repeat(100_000);
        cases.push(request(&format!("long on {on}"), "POST /x", "", &long, ok()).on(on).ignore_bytes());
        let slow = Case::of(&format!("bit by bit on {on}")).client(vec![
            say("POST /x HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 12\r\n\r\n0123"),
            say("4567"),
            say("89ab"),
            Do::Answer,
        ]);
        cases.push(case(slow, ok()).on(on));
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
        cases.push(get(&format!("an upgrade refused on {on}"), "/x", upgrade, says("403 X", &[], "no")).on(on));
    }
    // No answer.
    let reset: Script = vec![vec![Act::ReadBody, Act::Reset]];
    let nonsense: Script = vec![vec![Act::ReadBody, send("nonsense\r\n\r\n"), Act::Fin]];
    for (name, script) in [("reset", reset), ("nonsense", nonsense)] {
        for on in ["main", "open", "open-told", "teapot"] {
            cases.push(get(&format!("{name} on {on}"), "/x", "", script.clone()).on(on));
        }
    }
    for on in ["fails", "nowhere", "empty"] {
        cases.push(get(&format!("on {on}"), "/x", "", ok()).on(on));
        cases.push(get(&format!("gRPC on {on}"), "/x", "content-type: application/grpc\r\n", ok()).on(on));
    }
    cases.push(get("late", "/x", "", vec![vec![Act::ReadBody, Act::Hang]]).on("late"));
    cases.push(get(
        "gRPC refused",
        "/x",
        "content-type: application/grpc\r\n",
        says("401 X", &[("x-why", "no")], "no"),
    ));
    // Whether it is asked at all.
    for on in ["main", "never", "refuses", "shadowed", "shadowed-not"] {
        for path in ["/asked", "/other", "/free"] {
            cases.push(get(&format!("{path} on {on}"), path, "", says("403 X", &[], "no")).on(on));
        }
    }
    cases.push(get("off for a host", "/x", "host: off.test\r\n", says("403 X", &[], "no")));
    cases.push(get("on again for a route", "/on", "host: off.test\r\n", says("403 X", &[], "no")));
    cases.push(get("no route", "/x", "host: strict.test\r\n", says("403 X", &[], "no")));
    cases.push(get("another service", "/other-service", "", says("200 OK", &[], "")));
    cases.push(get("another service refuses", "/other-service", "", says("403 X", &[("x-why", "2")], "no")));
    cases.push(get("a short refusal", "/x", "", says("403 X", &[], "0123456789")).on("short"));
    cases.push(get("uncounted", "/x", "", says("403 X", &[], "no")).on("uncounted"));
    let second =
        vec![vec![Act::ReadBody, answer("200 OK", &[], b"")], vec![Act::ReadBody, answer("403 X", &[], b"no")]];
    cases.push(get("the second refuses", "/x", "", second).on("twice"));
    // The connection goes on.
    let two = Case::of("two requests").client(vec![
        say("POST /x HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 4\r\n\r\nbody"),
        Do::Answer,
        say("GET /y HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        Do::Answer,
    ]);
    let both = vec![vec![Act::ReadBody, answer("403 X", &[], b"no")], vec![Act::ReadBody, answer("200 OK", &[], b"")]];
    cases.push(case(two, both));
    let gone = Case::of("the client goes").client(vec![
        say("GET /x HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        Do::Arrival(1),
        Do::Reset,
    ]);
    cases.push(case(gone, vec![vec![Act::ReadBody, Act::Hang]]));
    cases.push(
        case(Case::h2("over HTTP/2", "POST", "http://a.test/p?q", &[("x-a", "1")]).h2_body(b"body", &[]), ok())
            .on("body"),
    );
    cases.push(case(
        Case::h2("over HTTP/2 refused", "GET", "http://a.test/p", &[]),
        says("403 X", &[("x-why", "no")], "no"),
    ));
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http() {
    let names: Vec<&'static str> = listeners().into_iter().map(|(name, _)| name).collect();
    let world = World {
        name: "ext authz",
        listeners: names.leak(),
        upstreams: &["up", "auth", "auth2"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}
