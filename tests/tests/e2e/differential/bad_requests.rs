//! HTTP/1 requests that are malformed, ambiguous or merely odd.

use lateen_tests::bootstrap::{Layout, cluster, http, listener};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use serde_json::json;

fn resources(layout: &Layout) -> Resources {
    let routes = || {
        json!([{"name": "all", "domains": ["*"], "routes": [
            {"name": "all", "match": {"prefix": "/"}, "route": {"cluster": "up"}},
        ]}])
    };
    let listeners = vec![
        listener(layout, "main", http(layout, "main", routes(), json!({}))),
        listener(
            layout,
            "http10",
            http(
                layout,
                "http10",
                routes(),
                json!({
                    "http_protocol_options": {"accept_http_10": true, "default_host_for_http_10": "ten.test"},
                }),
            ),
        ),
        listener(
            layout,
            "underscore",
            http(
                layout,
                "underscore",
                routes(),
                json!({
                    "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
                }),
            ),
        ),
    ];
    (listeners, vec![cluster(layout, "up", &["up"], json!({}))])
}

/// 400 with the body every malformed request gets.
fn malformed(name: &str, request: impl AsRef<[u8]>) -> Case {
    Case::raw(name, request).seen(400, "DPE http1.codec_error").body("Bad Request")
}

const REQUEST_LINE: &str = "RFC 9112, 3: one blank between the parts; servers that take more read different requests";

const SMUGGLING: &str = "RFC 9112 allows to refuse it: request smuggling lives here";

fn cases() -> Vec<Case> {
    let get = |line: &str| format!("GET / HTTP/1.1\r\nhost: a.test\r\n{line}\r\n@@\r\n\r\n");
    let mut cases = vec![
        Case::get("plain", "/").seen(200, "- via_upstream").body("ok"),
        malformed("method lower case", "get / HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        malformed("method unknown", "FOO / HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        malformed("method with bad char", "G(T / HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        malformed("not HTTP", "hello there\r\n\r\n"),
        malformed("TLS bytes", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        malformed("name with bracket", get("a(b: c")),
        malformed("empty name", get(": c")),
        malformed("no colon", get("nothing")),
        malformed("blank before colon", get("a : c")),
        malformed("blank first line", " \r\nGET / HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        malformed("path without slash", "GET foo HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        malformed("path of query only", "GET ?a HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        malformed("path with high byte", b"GET /\xe9 HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        malformed("length +3", get("content-length: +3") + "abc"),
        malformed("length -1", get("content-length: -1")),
        malformed("length list", get("content-length: 3, 3") + "abc"),
        malformed("length huge", get("content-length: 99999999999999999999999")),
        malformed("two lengths, equal", get("content-length: 3\r\ncontent-length: 3") + "abc"),
        malformed("two lengths", get("content-length: 3\r\ncontent-length: 4") + "abc"),
        Case::raw("0x01 in value", get("a: x\u{1}y")).seen(400, "DPE http1.invalid_characters").body("Bad Request"),
        Case::raw("NUL in value", get("a: x\0y")).seen(400, "DPE http1.invalid_characters").body("Bad Request"),
        Case::raw("DEL in value", get("a: x\u{7f}y")).seen(400, "DPE http1.invalid_characters").body("Bad Request"),
        Case::raw("tab in value", get("a: x\ty")).seen(200, "- via_upstream"),
        Case::raw("high byte in value", b"GET / HTTP/1.1\r\nhost: a.test\r\na: x\xe9y\r\n@@\r\n\r\n").seen(200, "- via_upstream"),
        Case::raw("bare CR in value", get("a: x\ry"))
            .seen(200, "- via_upstream")
            .better("a bare CR ends a line for some servers (RFC 9112, 2.2)", 400),
        Case::raw("length and chunked", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .seen(400, "DPE http1.content_length_and_chunked_not_allowed"),
        Case::raw("coding gzip", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: gzip\r\n\r\n")
            .seen(501, "DPE http1.invalid_transfer_encoding")
            .body("Not Implemented"),
        Case::raw("coding gzip, chunked", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
            .seen(501, "DPE http1.invalid_transfer_encoding"),
        Case::raw("coding chunked, chunked", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n")
            .seen(501, "DPE http1.invalid_transfer_encoding"),
        Case::raw("coding twice", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        Case::raw("coding identity", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: identity\r\n\r\n"),
        Case::raw("coding Chunked", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .seen(200, "- via_upstream"),
        Case::raw("obs-fold", get("a: x\r\n y")).seen(200, "- via_upstream").better(SMUGGLING, 400),
        Case::raw("LF-only head", "GET / HTTP/1.1\nhost: a.test\n@@\n\n").seen(200, "- via_upstream"),
        Case::raw("leading CRLF", "\r\nGET / HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(200, "- via_upstream"),
        Case::raw("two blanks in line", "GET  /  HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(200, "- via_upstream"),
        Case::raw("trailing blank in line", "GET / HTTP/1.1 \r\nhost: a.test\r\n@@\r\n\r\n").seen(200, "- via_upstream")
            .better(REQUEST_LINE, 400),
        Case::raw("tabs in line", "GET\t/\tHTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(200, "- via_upstream")
            .better(REQUEST_LINE, 400),
        Case::raw("chunk extension", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n")
            .seen(200, "- via_upstream"),
        Case::raw("trailers", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n")
            .seen(200, "- via_upstream"),
        Case::raw("no host", "GET / HTTP/1.1\r\n@@\r\n\r\n").seen(400, "- missing_host_header").body(""),
        Case::raw("host empty", "GET / HTTP/1.1\r\nhost:\r\n@@\r\n\r\n").seen(200, "- via_upstream"),
        Case::raw("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n@@\r\n\r\n")
            .better("RFC 9112, 3.2: more than one Host is answered with 400", 400),
        Case::raw("host with user", "GET / HTTP/1.1\r\nhost: u@a\r\n@@\r\n\r\n").seen(200, "- via_upstream"),
        Case::raw("host with blank", "GET / HTTP/1.1\r\nhost: a b\r\n@@\r\n\r\n").seen(400, "DPE http.invalid_authority").body("Bad Request"),
        Case::raw("host with slash", "GET / HTTP/1.1\r\nhost: a/b\r\n@@\r\n\r\n"),
        Case::raw("absolute form", "GET http://b.test/x?y HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(200, "- via_upstream"),
        Case::raw("absolute form without path", "GET http://b.test HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(200, "- via_upstream"),
        Case::raw("absolute form https", "GET https://b.test/ HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(200, "- via_upstream"),
        Case::raw("absolute form with port", "GET http://b.test:8080/x HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        Case::raw("absolute form ftp", "GET ftp://b.test/ HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(400, "DPE http1.invalid_scheme"),
        Case::raw("GET *", "GET * HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(400, "DPE http1.invalid_url"),
        Case::raw("OPTIONS *", "OPTIONS * HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(404, "- absolute_path_rejected"),
        Case::raw("underscore", get("a_b: c")).seen(200, "- via_upstream"),
        Case::raw("underscore rejected", get("a_b: c")).on("underscore").seen(400, "DPE http1.unexpected_underscore"),
        Case::raw("TRACE", "TRACE / HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n").seen(200, "- via_upstream"),
        Case::raw("GET with body", "GET / HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\n\r\nabc").seen(200, "- via_upstream"),
        Case::raw("expect foo", get("expect: foo")).seen(200, "- via_upstream"),
        Case::raw("expect 100", "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
            .client(vec![
                say("POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"),
                Do::Interim,
                say("abc"),
                Do::Answer,
            ])
            .seen(200, "- via_upstream"),
        Case::of("pipelining").client(vec![
            say("GET /1 HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\nPOST /2 HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 1\r\n\r\nxGET /3 HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
            Do::Answer,
            Do::Answer,
            Do::Answer,
        ]),
        Case::of("garbage after a good request").client(vec![
            say("GET /1 HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n\u{1}\u{2}\r\n\r\n"),
            Do::Answer,
            Do::Answer,
        ]),
        Case::raw("HTTP/1.0 accepted", "GET / HTTP/1.0\r\nhost: a.test\r\n@@\r\n\r\n").on("http10").seen(200, "- via_upstream"),
        Case::raw("HTTP/1.0 without host", "GET / HTTP/1.0\r\n@@\r\n\r\n").on("http10").seen(200, "- via_upstream"),
        Case::raw("HTTP/1.0 keep-alive", "GET / HTTP/1.0\r\nhost: a.test\r\nconnection: keep-alive\r\n@@\r\n\r\n").on("http10"),
        Case::raw("HTTP/1.0 chunked answer", "GET / HTTP/1.0\r\nhost: a.test\r\n@@\r\n\r\n")
            .on("http10")
            .upstream(vec![lateen_tests::upstream::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")]),
    ];
    for version in ["0.9", "1.0", "1.2", "2.0"] {
        cases.push(
            Case::raw(&format!("version {version}"), format!("GET / HTTP/{version}\r\nhost: a.test\r\n@@\r\n\r\n"))
                .seen(426, "DPE low_version")
                .body("Upgrade Required"),
        );
    }
    let big = "v".repeat(62 * 1024);
    cases.push(
        Case::raw("big head", get(&format!("big: {big}")))
            .seen(431, "DPE http1.headers_too_large")
            .body("Request Header Fields Too Large"),
    );
    cases.push(Case::get("big URL", &format!("/{big}")).seen(431, "DPE http1.headers_too_large"));
    let many: Vec<String> = (0..101).map(|i| format!("h{i}: v")).collect();
    cases.push(Case::raw("many headers", get(&many.join("\r\n"))).seen(431, "DPE http1.too_many_headers"));
    let fewer: Vec<String> = (0..97).map(|i| format!("h{i}: v")).collect();
    cases.push(Case::raw("as many headers as may be", get(&fewer.join("\r\n"))));
    for (name, body) in [
        ("LF-only chunks", "3\nabc\n0\n\n"),
        ("chunk size zz", "zz\r\nabc\r\n0\r\n\r\n"),
        ("chunk size 0x3", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("chunk size 17 digits", "11111111111111111\r\nabc\r\n0\r\n\r\n"),
    ] {
        cases.push(
            malformed(
                name,
                format!("POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked\r\n\r\n{body}"),
            )
            .ignore_upstream_body(),
        );
    }
    cases.push(
        Case::raw(
            "junk after chunk data",
            "POST / HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcJUNK\r\n0\r\n\r\n",
        )
        .seen(200, "- via_upstream")
        .better("junk between chunk data and CRLF is bad chunking", 400),
    );
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests() {
    let world = World {
        name: "bad requests",
        listeners: &["main", "http10", "underscore"],
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}
