//! HTTP/2 on either side, and what breaks it.

use lateen_tests::bootstrap::{Layout, cluster, http, http2_upstream, listener};
use lateen_tests::case::{Case, Do, Instead, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::h2_upstream::{H2Act, h2_answer};
use lateen_tests::upstream::{Act, answer, send};
use serde_json::{Value, json};

fn resources(layout: &Layout) -> Resources {
    let routes = || {
        json!([{"name": "all", "domains": ["*"], "routes": [
            {"name": "h1", "match": {"prefix": "/h1"}, "route": {"cluster": "h1"}},
            {"name": "late", "match": {"prefix": "/late"}, "route": {"cluster": "h1", "timeout": "0.3s"}},
            {"name": "direct", "match": {"prefix": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "direct"}}},
            {"name": "moved", "match": {"prefix": "/moved"}, "redirect": {"host_redirect": "b.test"}},
            {"name": "h2", "match": {"prefix": "/"}, "route": {"cluster": "h2"}},
        ]}])
    };
    let ends = |name: &str, options: Value| {
        let hcm = json!({"drain_timeout": "0.3s", "common_http_protocol_options": options});
        listener(layout, name, http(layout, name, routes(), hcm))
    };
    let listeners = vec![
        ends("idle", json!({"idle_timeout": "0.5s"})),
        ends("aged", json!({"max_connection_duration": "0.5s"})),
        ends("second-last", json!({"max_requests_per_connection": 2})),
        listener(layout, "main", http(layout, "main", routes(), json!({}))),
        listener(layout, "h2-only", http(layout, "h2-only", routes(), json!({"codec_type": "HTTP2"}))),
        listener(layout, "h1-only", http(layout, "h1-only", routes(), json!({"codec_type": "HTTP1"}))),
        listener(
            layout,
            "stream-errors",
            http(
                layout,
                "stream-errors",
                routes(),
                json!({
            "http2_protocol_options": {"override_stream_error_on_invalid_http_message": true}}),
            ),
        ),
        listener(
            layout,
            "edge",
            http(layout, "edge", routes(), json!({"use_remote_address": true, "normalize_path": true})),
        ),
    ];
    (listeners, vec![cluster(layout, "h1", &["h1"], json!({})), cluster(layout, "h2", &["h2"], http2_upstream())])
}

/// A header block without compression or indexing: literal names and values.
pub(super) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        out.push(0);
        for text in [name, value] {
            length(text.len(), &mut out);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// HPACK's integer with a prefix of 7 bits.
fn length(mut n: usize, out: &mut Vec<u8>) {
    if n < 127 {
        return out.push(n as u8);
    }
    out.push(127);
    n -= 127;
    while n >= 128 {
        out.push((n % 128) as u8 | 128);
        n /= 128;
    }
    out.push(n as u8);
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The preface, SETTINGS, then the given frames.
pub(super) fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend_from_slice(&frame(SETTINGS, 0, 0, &[]));
    out.extend_from_slice(&frames.concat());
    out
}

/// Asks for a sign of life, after all that went before.
pub(super) fn ping() -> Do {
    Do::Send(frame(PING, 0, 0, &[7; 8]))
}

/// A request's HEADERS frame(s), ending the stream.
pub(super) fn request(headers: &[(&str, &str)]) -> Vec<u8> {
    opened(headers, END_STREAM)
}

/// The same of any stream, for few headers.
fn request_on(stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(headers))
}

pub(super) fn opened(headers: &[(&str, &str)], end: u8) -> Vec<u8> {
    let block = block(headers);
    let mut chunks = block.chunks(16_000).peekable();
    let mut out = Vec::new();
    let mut kind = HEADERS;
    let mut flags = end;
    while let Some(chunk) = chunks.next() {
        if chunks.peek().is_none() {
            flags |= END_HEADERS;
        }
        out.extend_from_slice(&frame(kind, flags, 1, chunk));
        (kind, flags) = (9, 0);
    }
    out
}

pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/direct"), (":authority", "a.test")];

pub(super) fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut all = GET.to_vec();
    all.extend_from_slice(more);
    all
}

pub(super) fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    GET.into_iter().filter(|(n, _)| *n != name).collect()
}

fn replaced(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GET.into_iter().map(|(n, v)| (n, if n == name { value } else { v })).collect()
}

/// Frames that break the rules, on a connection that Envoy ends.
fn broken() -> Vec<(String, Vec<u8>)> {
    let mut out: Vec<(String, Vec<u8>)> = [
        ("upper-case name", request(&with(&[("A", "b")]))),
        ("connection header", request(&with(&[("connection", "close")]))),
        ("keep-alive header", request(&with(&[("keep-alive", "x")]))),
        ("upgrade header", request(&with(&[("upgrade", "x")]))),
        ("transfer-encoding header", request(&with(&[("transfer-encoding", "chunked")]))),
        ("te gzip", request(&with(&[("te", "gzip")]))),
        ("control char in value", request(&with(&[("a", "x\u{1}")]))),
        ("newline in value", request(&with(&[("a", "x\ny")]))),
        ("blank in name", request(&with(&[("a b", "x")]))),
        ("empty name", request(&with(&[("", "x")]))),
        ("blank in path", request(&replaced(":path", "/a b"))),
        ("blank in method", request(&replaced(":method", "G T"))),
        ("no path", request(&without(":path"))),
        ("no method", request(&without(":method"))),
        ("no scheme", request(&without(":scheme"))),
        ("no authority", request(&without(":authority"))),
        ("empty path", request(&replaced(":path", ""))),
        ("path without slash", request(&replaced(":path", "direct"))),
        ("path star", request(&replaced(":path", "*"))),
        ("unknown pseudo header", request(&with(&[(":foo", "x")]))),
        ("pseudo header twice", request(&with(&[(":path", "/direct")]))),
        ("pseudo header late", request(&[("a", "b"), GET[0], GET[1], GET[2], GET[3]])),
        ("extended CONNECT", request(&[(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], GET[3]])),
        ("scheme ftp", request(&replaced(":scheme", "ftp"))),
        ("underscore", request(&with(&[("a_b", "x")]))),
        ("host beside authority", request(&with(&[("host", "b.test")]))),
    ]
    .into_iter()
    .map(|(name, frames)| (name.to_owned(), connection(&[frames])))
    .collect();
    let longer = opened(&with(&[("content-length", "3")]), 0);
    out.push((
        "content-length too small".to_owned(),
        connection(&[longer.clone(), frame(DATA, END_STREAM, 1, b"abcd")]),
    ));
    out.push(("content-length too big".to_owned(), connection(&[longer, frame(DATA, END_STREAM, 1, b"ab")])));
    out.push(("DATA on stream 0".to_owned(), connection(&[frame(DATA, 0, 0, b"x")])));
    out.push(("HEADERS on stream 2".to_owned(), connection(&[frame(HEADERS, 5, 2, &block(&GET))])));
    out.push(("DATA on idle stream".to_owned(), connection(&[frame(DATA, 1, 5, b"x")])));
    out.push(("WINDOW_UPDATE of 0".to_owned(), connection(&[frame(WINDOW_UPDATE, 0, 0, &[0; 4])])));
    out.push(("SETTINGS of wrong size".to_owned(), connection(&[frame(SETTINGS, 0, 0, &[0; 5])])));
    out.push(("frame too large".to_owned(), connection(&[frame(DATA, 0, 1, &vec![0; 17_000])])));
    out.push(("header block that is no HPACK".to_owned(), connection(&[frame(HEADERS, 5, 1, &[0xff; 20])])));
    out.push(("preface broken".to_owned(), b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()));
    out
}

/// Where what is refused is refused otherwise. By default Envoy ends a connection for one bad request on it; the
/// RFC asks for the end of the stream.
fn refused(name: &str, case: Case) -> Case {
    let stream = || Instead::Told(vec!["< RST_STREAM 1".to_owned(), "end: open".to_owned()]);
    let connection = |code| Instead::Told(vec![format!("< GOAWAY {code}"), "end: closed".to_owned()]);
    match name {
        "connection header"
        | "keep-alive header"
        | "upgrade header"
        | "transfer-encoding header"
        | "te gzip"
        | "upper-case name"
        | "control char in value"
        | "newline in value"
        | "blank in name"
        | "empty name"
        | "unknown pseudo header"
        | "blank in method"
        | "blank in path"
        | "no path"
        | "no method"
        | "no scheme"
        | "no authority"
        | "empty path"
        | "path without slash"
        | "pseudo header twice"
        | "pseudo header late"
        | "extended CONNECT" => {
            case.instead("RFC 9113, 8.1.1: a malformed request is an error of its stream", stream())
        }
        "content-length too small" | "content-length too big" => {
            let cut = Instead::Facts(vec!["< RST_STREAM 1".to_owned(), "end: open".to_owned()]);
            case.instead("what was answered before the length was found wrong is logged as cut", cut)
        }
        "header block that is no HPACK" => case.instead(
            "RFC 9113, 4.3: a header block that cannot be decoded ends the connection, which is told; Envoy's word for it is an accident",
            Instead::Facts(vec!["< GOAWAY 9".to_owned(), "end: closed".to_owned()]),
        ),
        "HEADERS on stream 2" | "WINDOW_UPDATE of 0" => {
            case.instead("RFC 9113, 5.4.1: a connection error is told by GOAWAY", connection(1))
        }
        "SETTINGS of wrong size" => case.instead("the same, and RFC 9113, 6.5: FRAME_SIZE_ERROR", connection(6)),
        "path star" => {
            let answered = Instead::Facts(vec!["< HEADERS 0x8d".to_owned(), "end: open".to_owned()]);
            case.instead("answered 404, as over HTTP/1", answered)
        }
        "preface broken" => {
            case.instead("logged like every malformed request", Instead::Facts(vec!["end: closed".to_owned()]))
        }
        _ => case,
    }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::h2("h2 to h2", "GET", "http://a.test/x?y", &[("a", "b")]).seen(200, "- via_upstream"),
        Case::h2("h2 to h1", "GET", "http://a.test/h1", &[("a", "b")]).seen(200, "- via_upstream"),
        Case::get("h1 to h2", "/x"),
        Case::raw("h1 to h2, body", "POST /x HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\n\r\nabc"),
        Case::raw(
            "h1 to h2, chunked with trailers",
            "POST /x HTTP/1.1\r\nhost: a.test\r\n@@\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n",
        ),
        Case::raw(
            "h1 to h2, te and connection",
            "GET /x HTTP/1.1\r\nhost: a.test\r\nte: trailers\r\nconnection: te, x\r\nx: 1\r\nkeep-alive: 1\r\n@@\r\n\r\n",
        ),
        Case::raw("h1 to h2, upper case", "GET /x HTTP/1.1\r\nHost: a.test\r\nX-UPPER: V\r\n@@\r\n\r\n"),
        Case::h2("h2 body", "POST", "http://a.test/x", &[]).h2_body(b"abc", &[]),
        Case::h2("h2 body with length", "POST", "http://a.test/x", &[("content-length", "3")]).h2_body(b"abc", &[]),
        Case::h2("h2 body to h1", "POST", "http://a.test/h1", &[]).h2_body(b"abc", &[]),
        Case::h2("h2 body with length to h1", "POST", "http://a.test/h1", &[("content-length", "3")])
            .h2_body(b"abc", &[]),
        Case::h2("h2 trailers", "POST", "http://a.test/x", &[("te", "trailers")]).h2_body(b"abc", &[("t", "1")]),
        Case::h2("h2 trailers to h1", "POST", "http://a.test/h1", &[]).h2_body(b"abc", &[("t", "1")]),
        Case::h2("h2 big body", "POST", "http://a.test/x", &[]).h2_body(&[b'x'; 60_000], &[]),
        Case::h2("trailers of the answer", "GET", "http://a.test/x", &[]),
        Case::h2(
            "trailers alone",
            "POST",
            "http://a.test/x",
            &[("content-type", "application/grpc"), ("te", "trailers")],
        ),
        Case::get("trailers of the answer to h1", "/x"),
        Case::h2("trailers of an h1 answer", "GET", "http://a.test/h1", &[])
            .upstream(vec![send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nt: 1\r\n\r\n")]),
        Case::h2("h1 answer until close", "GET", "http://a.test/h1", &[])
            .upstream(vec![send("HTTP/1.1 200 OK\r\n\r\nabc"), Act::Fin]),
        Case::h2("h1 answer with hop-by-hop", "GET", "http://a.test/h1", &[]).upstream(vec![answer(
            "200 OK",
            &[("connection", "x"), ("x", "1"), ("keep-alive", "1"), ("upgrade", "foo")],
            b"ok",
        )]),
        Case::h2("204", "GET", "http://a.test/x", &[]),
        Case::h2("HEAD", "HEAD", "http://a.test/x", &[]),
        Case::h2("HEAD to h1", "HEAD", "http://a.test/h1", &[])
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")]),
        Case::h2("direct", "GET", "http://a.test/direct", &[]),
        Case::h2("direct to HEAD", "HEAD", "http://a.test/direct", &[]),
        Case::h2("moved", "GET", "http://a.test/moved?x", &[]),
        Case::h2("cookies", "GET", "http://a.test/x", &[("cookie", "a=1"), ("b", "1"), ("cookie", "b=2")]),
        Case::h2("cookies to h1", "GET", "http://a.test/h1", &[("cookie", "a=1"), ("b", "1"), ("cookie", "b=2")]),
        Case::h2("te trailers to h1", "GET", "http://a.test/h1", &[("te", "trailers")]),
        Case::h2("scheme https", "GET", "https://a.test/h1", &[]),
        Case::h2("scheme https to edge", "GET", "https://a.test/h1", &[]).on("edge"),
        Case::h2("path normalized", "GET", "http://a.test/h1/../h1/%41", &[]).on("edge"),
        Case::h2("authority with port", "GET", "http://a.test:81/h1", &[]),
        Case::h2("on a listener for it", "GET", "http://a.test/direct", &[]).on("h2-only"),
        Case::get("HTTP/1 on a listener for HTTP/2", "/direct")
            .on("h2-only")
            .client(vec![say("GET /direct HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::Frames]),
        Case::of("HTTP/2 on a listener for HTTP/1")
            .on("h1-only")
            .client(vec![Do::Send(connection(&[request(&GET)])), Do::Answer]),
        Case::h2("FIN before an h1 answer", "GET", "http://a.test/h1", &[]).upstream(vec![Act::Fin]),
        Case::h2("FIN in an h1 body", "GET", "http://a.test/h1", &[])
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"), Act::Fin]),
        Case::h2("route timeout", "GET", "http://a.test/late", &[]).upstream(vec![Act::Hang]),
        Case::h2("route timeout after the head", "GET", "http://a.test/late", &[])
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"), Act::Hang]),
        Case::of("reset after the head").client(vec![
            say("GET /x HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
            Do::Head,
            Do::Exactly(10),
            Do::Cue,
            Do::End,
        ]),
        Case::h2("reset after the head, h2", "GET", "http://a.test/x", &[]),
    ];
    for reset in [0, 1, 2, 7, 8, 11] {
        cases.push(Case::get(&format!("reset {reset}"), "/x"));
        cases.push(Case::h2(&format!("reset {reset}, h2"), "GET", "http://a.test/x", &[]));
    }
    for (name, bytes) in broken() {
        for on in ["main", "stream-errors"] {
            let case = Case::of(&format!("{on}: {name}"));
            let acts = vec![Do::Send(bytes.clone()), Do::Stream, ping(), Do::Frames];
            cases.push(refused(&name, case.on(on).client(acts)));
        }
    }
    let big = "v".repeat(62 * 1024);
    let told = |facts: [&str; 2]| Instead::Facts(facts.map(str::to_owned).to_vec());
    let acts = vec![
        Do::Send(connection(&[request(&[GET[0], GET[1], GET[2], GET[3], ("big", &big)])])),
        Do::Stream,
        ping(),
        Do::Frames,
    ];
    cases.push(
        Case::of("big head").client(acts).instead("told by 431, as over HTTP/1", told(["< HEADERS 0x48", "end: open"])),
    );
    let names: Vec<String> = (0..101).map(|i| format!("h{i}")).collect();
    let mut many = GET.to_vec();
    many.extend(names.iter().map(|name| (name.as_str(), "v")));
    let acts = vec![Do::Send(connection(&[request(&many)])), Do::Stream, ping(), Do::Frames];
    cases.push(Case::of("many headers").client(acts));
    cases.push(
        Case::of("client resets")
            .client(vec![
                Do::Send(connection(&[opened(
                    &[
                        (":method", "POST"),
                        (":scheme", "http"),
                        (":path", "/h1"),
                        (":authority", "a.test"),
                        ("x-case", "client resets"),
                    ],
                    0,
                )])),
                Do::Arrival(1),
                Do::Send(frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())),
                ping(),
                Do::Frames,
            ])
            .upstream(vec![Act::Hang])
            .ignore_upstream_body(),
    );
    // Of a request that has ended, too.
    cases.push(
        Case::of("client resets what it has asked for")
            .client(vec![
                Do::Send(connection(&[request(&[
                    GET[0],
                    GET[1],
                    (":path", "/h1"),
                    GET[3],
                    ("x-case", "client resets what it has asked for"),
                ])])),
                Do::Arrival(1),
                Do::Send(frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())),
                ping(),
                Do::Frames,
            ])
            .upstream(vec![Act::Hang]),
    );
    for (on, requests) in [("idle", 1), ("aged", 1), ("second-last", 2)] {
        let asked = (0..requests).map(|n| request_on(1 + 2 * n, &GET)).collect::<Vec<_>>();
        // The client never answers the PING that asks whether it has heard that we leave.
        let mut acts = vec![Do::Send(connection(&asked))];
        acts.extend((0..requests).map(|_| Do::Stream));
        let case = Case::of(&format!("{on}, after it was used")).on(on).client([acts, vec![Do::Frames]].concat());
        cases.push(match on {
            "second-last" => {
                let first =
                    ["< GOAWAY 0", "< HEADERS 0x88", "< DATA", "< HEADERS 0x88", "< DATA", "< GOAWAY 0", "end: closed"];
                case.instead("told at once, not with the last answer", Instead::Told(first.map(str::to_owned).to_vec()))
            }
            _ => case,
        });
    }
    cases.push(
        Case::of("client says GOAWAY")
            .client(vec![Do::Send(connection(&[request(&GET), frame(GOAWAY, 0, 0, &[0; 8])])), Do::Stream]),
    );
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2() {
    let mut scripts: Vec<(String, Vec<H2Act>)> = vec![
        ("trailers of the answer".to_owned(), vec![h2_answer(200, &[("a", "b")], "ok", &[("t", "1")])]),
        ("trailers of the answer to h1".to_owned(), vec![h2_answer(200, &[("a", "b")], "ok", &[("t", "1")])]),
        ("trailers alone".to_owned(), vec![h2_answer(200, &[("grpc-status", "5"), ("grpc-message", "x")], "", &[])]),
        ("204".to_owned(), vec![h2_answer(204, &[], "", &[])]),
        ("HEAD".to_owned(), vec![h2_answer(200, &[("content-length", "9")], "", &[])]),
        ("reset after the head".to_owned(), vec![H2Act::ResetAfterHead(2)]),
        ("reset after the head, h2".to_owned(), vec![H2Act::ResetAfterHead(2)]),
    ];
    for reset in [0, 1, 2, 7, 8, 11] {
        scripts.push((format!("reset {reset}"), vec![H2Act::Reset(reset)]));
        scripts.push((format!("reset {reset}, h2"), vec![H2Act::Reset(reset)]));
    }
    let world = World {
        name: "http2",
        listeners: &["main", "h2-only", "h1-only", "stream-errors", "edge", "idle", "aged", "second-last"],
        upstreams: &["h1"],
        h2_upstreams: &["h2"],
        resources,
        cases: cases(),
        h2_scripts: scripts,
    };
    compare(&world, Source::File).await;
}
