//! Which route a request takes, and what the route does to it.

use lateen_tests::bootstrap::{Layout, cluster, http, listener, merge};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, answer};
use serde_json::{Value, json};

/// A route that answers with its own name.
fn told(name: &str, matching: Value) -> Value {
    json!({"name": name, "match": matching, "direct_response": {"status": 200, "body": {"inline_string": name}}})
}

/// A route to the cluster `up`, with more of `route` and of the route entry.
fn routed(name: &str, prefix: &str, route: Value, more: Value) -> Value {
    let mut action = json!({"cluster": "up"});
    merge(&mut action, route);
    let mut entry = json!({"name": name, "match": {"prefix": prefix}, "route": action});
    merge(&mut entry, more);
    entry
}

fn string(matcher: Value) -> Value {
    json!({"string_match": matcher})
}

fn header(name: &str, more: Value) -> Value {
    let mut out = json!({"name": name});
    merge(&mut out, more);
    json!({"prefix": "/", "headers": [out]})
}

fn query(name: &str, more: Value) -> Value {
    let mut out = json!({"name": name});
    merge(&mut out, more);
    json!({"prefix": "/", "query_parameters": [out]})
}

fn rewrites() -> Value {
    let add = |key: &str, value: &str| json!({"header": {"key": key, "value": value}});
    let with =
        |key: &str, value: &str, action: &str| json!({"header": {"key": key, "value": value}, "append_action": action});
    json!([
        routed("prefix", "/old/", json!({"prefix_rewrite": "/new/"}), json!({})),
        routed("prefix to root", "/cut", json!({"prefix_rewrite": "/"}), json!({})),
        routed(
            "regex",
            "/rx/",
            json!({"regex_rewrite": {"pattern": {"regex": "^/rx/([^/]+)/(.*)$"}, "substitution": "/\\2/by/\\1"}}),
            json!({})
        ),
        routed("host", "/host", json!({"host_rewrite_literal": "other.test"}), json!({})),
        routed(
            "host and xfh",
            "/xfh",
            json!({"host_rewrite_literal": "other.test", "append_x_forwarded_host": true}),
            json!({})
        ),
        routed("host from header", "/from-header", json!({"host_rewrite_header": "x-host"}), json!({})),
        routed("host auto", "/auto", json!({"auto_host_rewrite": true}), json!({})),
        routed(
            "headers",
            "/headers",
            json!({}),
            json!({
                "request_headers_to_add": [
                    add("x-appended", "new"),
                    with("x-absent", "new", "ADD_IF_ABSENT"),
                    with("x-over", "new", "OVERWRITE_IF_EXISTS_OR_ADD"),
                    with("x-only-over", "new", "OVERWRITE_IF_EXISTS"),
                    add("x-empty", ""),
                    add("x-percent", "100%%"),
                    add("x-peer", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
                    add("x-copy", "%REQ(x-over)%"),
                    add("x-proto", "%PROTOCOL%"),
                ],
                "request_headers_to_remove": ["x-gone", "x-gone-too"],
                "response_headers_to_add": [
                    add("y-appended", "new"),
                    with("y-absent", "new", "ADD_IF_ABSENT"),
                    with("y-over", "new", "OVERWRITE_IF_EXISTS_OR_ADD"),
                    add("y-code", "%RESPONSE_CODE%"),
                    add("y-req", "%REQ(x-over)%"),
                ],
                "response_headers_to_remove": ["y-gone", "server"],
            })
        ),
        routed("timeout", "/timeout", json!({"timeout": "7s"}), json!({})),
        routed("no timeout", "/no-timeout", json!({"timeout": "0s"}), json!({})),
    ])
}

fn redirects() -> Value {
    let to = |name: &str, redirect: Value| json!({"name": name, "match": {"prefix": name}, "redirect": redirect});
    json!([
        to("/https", json!({"https_redirect": true})),
        to("/scheme", json!({"scheme_redirect": "https"})),
        to("/plain", json!({"scheme_redirect": "http"})),
        to("/path", json!({"path_redirect": "/new"})),
        to("/query", json!({"path_redirect": "/new?z=9"})),
        to("/strip", json!({"path_redirect": "/new", "strip_query": true})),
        to("/port80", json!({"port_redirect": 80})),
        to("/port443", json!({"https_redirect": true, "port_redirect": 443})),
        to("/port8443", json!({"https_redirect": true, "port_redirect": 8443})),
        to("/host", json!({"host_redirect": "new.test"})),
        to("/host-port", json!({"host_redirect": "new.test", "port_redirect": 81})),
        to("/prefix", json!({"prefix_rewrite": "/fresh"})),
        to("/regex", json!({"regex_rewrite": {"pattern": {"regex": "^/regex/(.*)$"}, "substitution": "/\\1/x"}})),
        to("/302", json!({"response_code": "FOUND", "path_redirect": "/x"})),
        to("/303", json!({"response_code": "SEE_OTHER", "path_redirect": "/x"})),
        to("/307", json!({"response_code": "TEMPORARY_REDIRECT", "path_redirect": "/x"})),
        to("/308", json!({"response_code": "PERMANENT_REDIRECT", "path_redirect": "/x"})),
    ])
}

fn matches() -> Value {
    json!([
        told("exact", json!({"path": "/exact"})),
        told("exact, any case", json!({"path": "/Any-Case", "case_sensitive": false})),
        told("prefix, any case", json!({"prefix": "/Any-Prefix", "case_sensitive": false})),
        told("segment", json!({"path_separated_prefix": "/seg"})),
        told("regex", json!({"safe_regex": {"regex": "/r[0-9]+/(a|b)"}})),
        told("prefix", json!({"prefix": "/pre"})),
        told(
            "method",
            json!({"prefix": "/method", "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]})
        ),
        told(
            "authority",
            json!({"prefix": "/authority", "headers": [{"name": ":authority", "string_match": {"prefix": "a"}}]})
        ),
        told(
            "two headers",
            json!({"prefix": "/", "headers": [{"name": "h1", "string_match": {"exact": "1"}}, {"name": "h2", "string_match": {"exact": "2"}}]})
        ),
        told("header exact", header("h-exact", string(json!({"exact": "yes"})))),
        told("header any case", header("h-case", string(json!({"exact": "yes", "ignore_case": true})))),
        told("header prefix", header("h-prefix", string(json!({"prefix": "ye"})))),
        told("header suffix", header("h-suffix", string(json!({"suffix": "es"})))),
        told("header contains", header("h-contains", string(json!({"contains": "es"})))),
        told("header regex", header("h-regex", string(json!({"safe_regex": {"regex": "y.s"}})))),
        told("header present", header("h-present", json!({"present_match": true}))),
        told("header range", header("h-range", json!({"range_match": {"start": "-5", "end": "10"}}))),
        told(
            "header inverted",
            json!({"prefix": "/inverted", "headers": [{"name": "h-not", "invert_match": true, "string_match": {"exact": "no"}}]})
        ),
        told(
            "header inverted, missing is empty",
            json!({"prefix": "/inverted-empty", "headers": [
            {"name": "h-not", "invert_match": true, "treat_missing_header_as_empty": true, "string_match": {"exact": "no"}}]})
        ),
        told(
            "header absent",
            json!({"prefix": "/absent", "headers": [{"name": "h-not", "present_match": true, "invert_match": true}]})
        ),
        told("query exact", query("q", string(json!({"exact": "1"})))),
        told("query regex", query("q", string(json!({"safe_regex": {"regex": "[x-z]+"}})))),
        told("query present", query("present", json!({"present_match": true}))),
        told("grpc", json!({"prefix": "/grpc", "grpc": {}})),
    ])
}

fn hosts() -> Vec<Value> {
    let host = |name: &str, domains: &[&str]| json!({"name": name, "domains": domains, "routes": [told(name, json!({"prefix": "/"}))]});
    vec![
        host("exact", &["b.test"]),
        host("exact with port", &["c.test:8080"]),
        host("suffix", &["*.wild.test"]),
        host("longer suffix", &["*.long.wild.test"]),
        host("suffix within label", &["*-x.wild.test"]),
        host("prefix", &["pre.*"]),
        host("longer prefix", &["pre.fix.*"]),
        host("upper case", &["Upper.Test"]),
        host("IPv6", &["[::1]"]),
    ]
}

fn resources(layout: &Layout) -> Resources {
    let mut main = hosts();
    main.push(json!({"name": "a", "domains": ["a.test"], "routes": matches()}));
    main.push(json!({"name": "rewrites", "domains": ["rewrites.test"], "routes": rewrites(),
        "request_headers_to_add": [{"header": {"key": "x-host-level", "value": "h"}}, {"header": {"key": "x-appended", "value": "host"}}],
        "response_headers_to_add": [{"header": {"key": "y-host-level", "value": "h"}}],
        "include_request_attempt_count": true, "include_attempt_count_in_response": true}));
    main.push(json!({"name": "redirects", "domains": ["redirects.test", "redirects.test:*", "redirects.test:80", "redirects.test:443", "redirects.test:8080"],
        "routes": redirects()}));
    main.push(json!({"name": "tls", "domains": ["tls.test"], "require_tls": "ALL", "routes": [told("tls", json!({"prefix": "/"}))]}));
    let config = json!({"route_config": {
        "request_headers_to_add": [{"header": {"key": "x-config-level", "value": "c"}}],
        "response_headers_to_add": [{"header": {"key": "y-config-level", "value": "c"}}],
        "request_headers_to_remove": ["x-config-gone"],
    }});
    let with_star = |mut list: Vec<Value>| {
        list.push(json!({"name": "star", "domains": ["*"], "routes": [told("star", json!({"prefix": "/"}))]}));
        json!(list)
    };
    let listeners = vec![
        listener(layout, "main", http(layout, "main", json!(main), config)),
        listener(layout, "hosts", http(layout, "hosts", with_star(hosts()), json!({}))),
        listener(
            layout,
            "ignore-port",
            http(
                layout,
                "ignore-port",
                with_star(hosts()),
                json!({"route_config": {"ignore_port_in_host_matching": true}}),
            ),
        ),
        listener(
            layout,
            "strip-port",
            http(
                layout,
                "strip-port",
                json!([{"name": "b", "domains": ["b.test"], "routes": [routed("b", "/", json!({}), json!({}))]}]),
                json!({"strip_any_host_port": true, "strip_trailing_host_dot": true}),
            ),
        ),
    ];
    (listeners, vec![cluster(layout, "up", &["up"], json!({}))])
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in [
        "/exact",
        "/exact?q=2",
        "/exact/",
        "/exac",
        "/EXACT",
        "/any-case",
        "/ANY-CASE",
        "/any-prefix/x",
        "/seg",
        "/seg/",
        "/seg/x",
        "/segx",
        "/seg?x",
        "/r1/a",
        "/r12/b?x=/",
        "/r1/c",
        "/r1/a/",
        "/xr1/a",
        "/pre",
        "/prefix",
        "/pr",
        "/method",
        "/authority",
        "/inverted",
        "/inverted-empty",
        "/absent",
        "/?q=1",
        "/?q=2",
        "/?q=xyz",
        "/?q=xyzz1",
        "/?q=2&q=1",
        "/?Q=1",
        "/?q=%31",
        "/?present",
        "/?present=",
        "/?x=1&present",
        "/?xpresent",
        "/?q",
        "/?q=1#f",
        "/?",
        "/?&&q=1",
        "/grpc",
        "/?a=b=c&q=1",
        "/?q=1=1",
    ] {
        cases.push(Case::get(&format!("path {path}"), path));
    }
    for line in [
        "h-exact: yes",
        "h-exact: YES",
        "h-exact: yes ",
        "h-exact: yesyes",
        "H-Exact: yes",
        "h-case: YES",
        "h-prefix: yes",
        "h-prefix: no",
        "h-suffix: yes",
        "h-contains: xesx",
        "h-regex: yes",
        "h-regex: xyes",
        "h-regex: yesx",
        "h-present: ",
        "h-present: x",
        "h-range: 5",
        "h-range: 10",
        "h-range: -5",
        "h-range: x",
        "h-range: 5x",
        "h1: 1",
        "h1: 1\r\nh2: 2",
        "h2: 2\r\nh1: 1",
        "h-exact: no\r\nh-exact: yes",
        "h-exact: yes,no",
        "h-exact: yes, no",
        "h-contains: a\r\nh-contains: yes",
    ] {
        cases.push(Case::get_with(&format!("header {line:?}"), "/", &[line]));
    }
    for line in ["h-not: no", "h-not: yes", "h-not:", "h-not: yes\r\nh-not: no", "h-not: no\r\nh-not: yes"] {
        for path in ["/inverted", "/inverted-empty", "/absent"] {
            cases.push(Case::get_with(&format!("{path} {line:?}"), path, &[line]));
        }
    }
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "PURGE"] {
        let request = format!("{method} /method HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n");
        let read = if method == "HEAD" { Do::AnswerToHead } else { Do::Answer };
        cases.push(Case::of(&format!("method {method}")).client(vec![say(request), read]));
    }
    for content in
        ["application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpcx", "application/json"]
    {
        cases.push(Case::raw(
            &format!("grpc {content}"),
            format!(
                "POST /grpc HTTP/1.1\r\nhost: a.test\r\ncontent-type: {content}\r\n@@\r\ncontent-length: 0\r\n\r\n"
            ),
        ));
    }
    for host in [
        "b.test",
        "B.Test",
        "b.test.",
        "b.test:80",
        "c.test",
        "c.test:8080",
        "x.wild.test",
        "y.x.wild.test",
        "wild.test",
        ".wild.test",
        "x.long.wild.test",
        "a-x.wild.test",
        "-x.wild.test",
        "x.WILD.test",
        "pre.",
        "pre.a",
        "pre.fix.a",
        "pre",
        "upper.test",
        "UPPER.TEST",
        "[::1]",
        "[::1]:80",
        "x.wild.test:80",
        "",
        "127.0.0.1",
    ] {
        for listener in ["hosts", "ignore-port"] {
            cases.push(
                Case::raw(
                    &format!("host {host:?} on {listener}"),
                    format!("GET / HTTP/1.1\r\nhost: {host}\r\n@@\r\n\r\n"),
                )
                .on(listener),
            );
        }
    }
    for host in ["b.test:80", "b.test.", "b.test.:80", "b.test:x", "b.test:99999"] {
        cases.push(
            Case::raw(&format!("strip {host}"), format!("GET / HTTP/1.1\r\nhost: {host}\r\n@@\r\n\r\n"))
                .on("strip-port"),
        );
    }
    let rewrites = |name: &str, path: &str, lines: &str| {
        Case::raw(name, format!("GET {path} HTTP/1.1\r\nhost: rewrites.test\r\n{lines}@@\r\n\r\n")).upstream(vec![
            Act::ReadBody,
            answer(
                "200 OK",
                &[("y-appended", "old"), ("y-absent", "old"), ("y-over", "old"), ("y-gone", "1"), ("z", "1")],
                b"ok",
            ),
        ])
    };
    for path in [
        "/old/x?q=1",
        "/old/",
        "/old/a%20b",
        "/cut",
        "/cutx",
        "/cut/x",
        "/cut?q",
        "/rx/one/two/three?q=/rx/",
        "/rx/one",
        "/host",
        "/xfh",
        "/from-header",
        "/auto",
        "/headers",
        "/timeout",
        "/no-timeout",
    ] {
        cases.push(rewrites(&format!("rewrite {path}"), path, ""));
    }
    cases.push(rewrites("rewrite host from header", "/from-header", "x-host: wanted.test\r\n"));
    cases.push(rewrites("forwarded host is kept", "/xfh", "x-forwarded-host: first.test\r\n"));
    cases.push(rewrites(
        "header edits",
        "/headers",
        "x-appended: old\r\nx-absent: old\r\nx-over: old\r\nx-only-over: old\r\nx-gone: 1\r\nX-Gone-Too: 1\r\nx-config-gone: 1\r\nx-empty: old\r\n",
    ));
    cases.push(rewrites(
        "header edits, values twice",
        "/headers",
        "x-over: 1\r\nx-over: 2\r\nx-absent: 1\r\nx-appended: 1\r\nx-appended: 2\r\n",
    ));
    for path in [
        "/https",
        "/https?q=1",
        "/scheme/x",
        "/plain",
        "/path",
        "/path/x?q=1",
        "/query",
        "/query?q=1",
        "/strip?q=1",
        "/port80/x?q",
        "/port443",
        "/port8443",
        "/host/x?q=1",
        "/host-port",
        "/prefix/x?q=1",
        "/prefixed",
        "/regex/a/b?q=1",
        "/302",
        "/303",
        "/307",
        "/308",
    ] {
        for host in ["redirects.test", "redirects.test:80", "redirects.test:8080", "redirects.test:443"] {
            cases.push(Case::raw(
                &format!("redirect {host}{path}"),
                format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n@@\r\n\r\n"),
            ));
        }
    }
    cases.push(
        Case::raw("tls required", "GET /x?y HTTP/1.1\r\nhost: tls.test\r\n@@\r\n\r\n").seen(301, "- direct_response"),
    );
    cases.push(Case::raw(
        "tls required, told so",
        "GET /x HTTP/1.1\r\nhost: tls.test\r\nx-forwarded-proto: https\r\n@@\r\n\r\n",
    ));
    cases.push(Case::raw(
        "redirect when told https",
        "GET /plain HTTP/1.1\r\nhost: redirects.test:443\r\nx-forwarded-proto: https\r\n@@\r\n\r\n",
    ));
    cases.push(Case::raw(
        "redirect to https when told https",
        "GET /https HTTP/1.1\r\nhost: redirects.test\r\nx-forwarded-proto: https\r\n@@\r\n\r\n",
    ));
    cases
}

pub fn world() -> World {
    World {
        name: "routing",
        listeners: &["main", "hosts", "ignore-port", "strip-port"],
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing() {
    compare(&world(), Source::File).await;
}
