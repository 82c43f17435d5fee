//! Bytes in motion: bodies both ways with back-pressure, upgrades, CONNECT, TCP.

use lateen_tests::bootstrap::{Layout, cluster, http, listener, tcp};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, answer, send};
use serde_json::json;

const LISTENERS: &[&str] = &[
    "main",
    "tcp",
    "tcp-dead",
    "tcp-full",
    "tcp-empty",
    "tcp-nowhere",
    "tcp-idle",
    "tcp-duration",
    "tcp-attempts",
    "tcp-weighted",
    "no-chain",
];

fn resources(layout: &Layout) -> Resources {
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [
        {"name": "connect", "match": {"connect_matcher": {}}, "route": {"cluster": "up",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}},
        {"name": "ws off", "match": {"prefix": "/ws-off"}, "route": {"cluster": "up",
            "upgrade_configs": [{"upgrade_type": "websocket", "enabled": false}]}},
        {"name": "ws late", "match": {"prefix": "/ws-late"}, "route": {"cluster": "up", "timeout": "3s"}},
        {"name": "foo on", "match": {"prefix": "/foo-on"}, "route": {"cluster": "up", "upgrade_configs": [{"upgrade_type": "foo"}]}},
        {"name": "pinned", "match": {"prefix": "/pinned"}, "route": {"cluster": "up", "timeout": "0s"}},
        {"name": "dead", "match": {"prefix": "/dead"}, "route": {"cluster": "dead"}},
        {"name": "direct", "match": {"prefix": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "direct"}}},
        {"name": "all", "match": {"prefix": "/"}, "route": {"cluster": "up"}},
    ]}]);
    let to = |name: &str, cluster: &str| listener(layout, name, tcp(layout, name, json!({"cluster": cluster})));
    let mut no_chain = to("no-chain", "up");
    no_chain["filter_chains"][0]["filter_chain_match"] = json!({"destination_port": 1});
    no_chain["access_log"] =
        lateen_tests::bootstrap::file_log(&layout.access_log(), lateen_tests::bootstrap::LOG_FORMAT);
    let listeners = vec![
        listener(
            layout,
            "main",
            http(layout, "main", routes, json!({"upgrade_configs": [{"upgrade_type": "websocket"}]})),
        ),
        to("tcp", "up"),
        to("tcp-dead", "dead"),
        to("tcp-full", "full"),
        to("tcp-empty", "empty"),
        to("tcp-nowhere", "nowhere"),
        listener(layout, "tcp-idle", tcp(layout, "tcp-idle", json!({"cluster": "up", "idle_timeout": "1s"}))),
        listener(
            layout,
            "tcp-duration",
            tcp(layout, "tcp-duration", json!({"cluster": "up", "max_downstream_connection_duration": "1s"})),
        ),
        listener(
            layout,
            "tcp-attempts",
            tcp(layout, "tcp-attempts", json!({"cluster": "dead", "max_connect_attempts": 3})),
        ),
        listener(
            layout,
            "tcp-weighted",
            tcp(layout, "tcp-weighted", json!({"weighted_clusters": {"clusters": [{"name": "up", "weight": 1}]}})),
        ),
        no_chain,
    ];
    let clusters = vec![
        cluster(layout, "up", &["up"], json!({})),
        cluster(layout, "dead", &["dead"], json!({})),
        cluster(layout, "full", &["full"], json!({"connect_timeout": "0.3s"})),
        cluster(layout, "empty", &[], json!({})),
    ];
    (listeners, clusters)
}

const ASK: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn upgrades() -> Vec<Case> {
    let ask = |path: &str| say(format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{ASK}@@\r\n\r\n"));
    let mut cases = Vec::new();
    cases.push(
        Case::of("websocket, client ends")
            .client(vec![
                ask("/ws"),
                Do::Interim,
                say("hello"),
                Do::Exactly(5),
                say("again"),
                Do::Exactly(5),
                Do::FinishWriting,
                Do::End,
            ])
            .upstream(vec![send(GRANT), Act::EchoRaw]),
    );
    cases.push(
        Case::of("websocket, upstream ends")
            .client(vec![ask("/ws"), Do::Interim, Do::Exactly(5), Do::End])
            .upstream(vec![send(GRANT), send("hello"), Act::Fin])
            .seen(101, "UC upstream_reset_after_response_started{connection_termination}"),
    );
    cases.push(
        Case::of("websocket, data with the answer")
            .client(vec![ask("/ws"), Do::Interim, Do::Exactly(5), Do::FinishWriting, Do::End])
            .upstream(vec![send(format!("{GRANT}hello")), Act::EchoRaw]),
    );
    cases.push(
        Case::of("websocket, longer than the route timeout")
            .client(vec![ask("/ws-late"), Do::Interim, say("hello"), Do::FinishWriting, Do::End])
            .upstream(vec![send(GRANT), Act::ReadToEnd]),
    );
    cases.push(Case::of("websocket refused").client(vec![ask("/ws"), Do::Answer]).upstream(vec![answer(
        "403 Forbidden",
        &[],
        b"no",
    )]));
    cases.push(
        Case::of("websocket ignored")
            .client(vec![ask("/ws"), Do::Answer])
            .upstream(vec![answer("200 OK", &[("content-type", "text/html"), ("x", "y")], b"hello")])
            .seen(200, "- websocket_handshake_unsuccessful"),
    );
    cases.push(
        Case::of("websocket off").client(vec![ask("/ws-off"), Do::Answer]).seen(403, "- upgrade_failed").body(""),
    );
    cases.push(Case::of("websocket to a dead upstream").client(vec![ask("/dead"), Do::Answer]));
    cases.push(Case::of("websocket to a direct response").client(vec![ask("/direct"), Do::Answer]));
    cases.push(
        Case::of("upgrade nobody configured")
            .client(vec![
                say("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: foo\r\n@@\r\n\r\n"),
                Do::Answer,
            ])
            .seen(403, "- upgrade_failed"),
    );
    cases.push(
        Case::of("upgrade the route configured")
            .client(vec![
                say("GET /foo-on HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: foo\r\n@@\r\n\r\n"),
                Do::Interim,
                say("hello"),
                Do::Exactly(5),
                Do::FinishWriting,
                Do::End,
            ])
            .upstream(vec![
                send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n"),
                Act::EchoRaw,
            ]),
    );
    cases.push(
        Case::of("upgrade in upper case")
            .client(vec![say("GET /ws HTTP/1.1\r\nhost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n@@\r\n\r\n"), Do::Interim, Do::FinishWriting, Do::End])
            .upstream(vec![send(GRANT), Act::EchoRaw]),
    );
    cases.push(
        Case::of("upgrade with a body")
            .client(vec![
                say(format!("POST /ws HTTP/1.1\r\nhost: a.test\r\n{ASK}@@\r\ncontent-length: 3\r\n\r\nabc")),
                Do::Interim,
                Do::Exactly(3),
                Do::FinishWriting,
                Do::End,
            ])
            .upstream(vec![send(GRANT), Act::EchoRaw]),
    );
    cases.push(
        Case::of("CONNECT")
            .client(vec![
                say("CONNECT a.test:80 HTTP/1.1\r\nhost: a.test:80\r\n@@\r\n\r\n"),
                Do::Head,
                say("x-case: CONNECT\r\n\r\n"),
                say("hello"),
                Do::Exactly(5),
                Do::FinishWriting,
                Do::End,
            ])
            .upstream(vec![Act::EchoRaw]),
    );
    cases
}

fn bodies() -> Vec<Case> {
    const MANY: usize = 8 << 20;
    let get = |path: &str| say(format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"));
    vec![
        Case::of("big answer")
            .client(vec![get("/pinned"), Do::Answer])
            .upstream(vec![send(format!("HTTP/1.1 200 OK\r\ncontent-length: {MANY}\r\n\r\n")), Act::Fill(MANY)]),
        Case::of("big answer until close")
            .client(vec![get("/pinned"), Do::Answer])
            .upstream(vec![send("HTTP/1.1 200 OK\r\n\r\n"), Act::Fill(MANY), Act::Fin])
            .ignore_bytes(),
        Case::of("big request").client(vec![
            say(format!("POST /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: {MANY}\r\n\r\n")),
            Do::Fill(MANY),
            Do::Answer,
        ]),
        Case::of("big request, upstream reads late")
            .client(vec![
                say(format!("POST /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: {}\r\n\r\n", 64 << 10)),
                Do::Arrival(1),
                Do::Fill(64 << 10),
                Do::Cue,
                Do::Answer,
            ])
            .upstream(vec![Act::AwaitCue, Act::ReadBody, answer("200 OK", &[], b"ok")]),
        Case::of("answer in pieces")
            .client(vec![get("/pinned"), Do::Head, Do::Exactly(3), Do::Cue, Do::Exactly(3)])
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc"), Act::AwaitCue, send("def")]),
        Case::of("chunks in pieces")
            .client(vec![get("/pinned"), Do::Head, Do::Exactly(8), Do::Cue, Do::Exactly(13)])
            .upstream(vec![
                send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
                Act::AwaitCue,
                send("3\r\ndef\r\n0\r\n\r\n"),
            ]),
        Case::of("answer while the request still comes")
            .client(vec![
                say("POST /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 6\r\n\r\nabc"),
                Do::Head,
                Do::Exactly(3),
                say("def"),
                Do::Exactly(3),
            ])
            .upstream(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc"), Act::ReadBody, send("def")]),
        Case::of("whole answer before the request's end")
            .client(vec![
                say("POST /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 6\r\n\r\nabc"),
                Do::Answer,
            ])
            .upstream(vec![answer("200 OK", &[], b"early"), Act::ReadBody])
            .ignore_upstream_body()
            .ignore_bytes(),
        Case::of("whole refusal before the request's end")
            .client(vec![
                say("POST /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 6\r\n\r\nabc"),
                Do::Answer,
                Do::End,
            ])
            .upstream(vec![answer("413 X", &[("connection", "close")], b"early"), Act::Fin])
            .ignore_upstream_body()
            .ignore_bytes(),
        Case::of("request cut")
            .client(vec![
                say("POST /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 6\r\n\r\nabc"),
                Do::Arrival(1),
                Do::FinishWriting,
                Do::End,
            ])
            .ignore_upstream_body(),
        Case::of("request reset")
            .client(vec![
                say("POST /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 6\r\n\r\nabc"),
                Do::Arrival(1),
                Do::Reset,
            ])
            .ignore_upstream_body()
            .ignore_bytes(),
        Case::of("head in pieces").client(vec![
            say("GET /pin"),
            say("ned HTTP/1.1\r\nhost: a.te"),
            say("st\r\n@@\r"),
            say("\n\r"),
            say("\n"),
            Do::Answer,
        ]),
        Case::of("expect, refused by the upstream")
            .client(vec![
                say("POST /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"),
                Do::Interim,
                Do::Answer,
            ])
            .upstream(vec![answer("417 X", &[], b"")])
            .ignore_upstream_body()
            .ignore_bytes(),
        Case::of("expect with the body at once").client(vec![
            say("POST /pinned HTTP/1.1\r\nhost: a.test\r\n@@\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc"),
            Do::Answer,
        ]),
        Case::of("expect on a direct response").client(vec![
            say("POST /direct HTTP/1.1\r\nhost: a.test\r\n@@\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"),
            Do::Answer,
        ]),
        Case::of("keep-alive, many").client(
            (0..20)
                .flat_map(|i| [say(format!("GET /{i} HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n")), Do::Answer])
                .collect(),
        ),
        Case::of("keep-alive, then close").client(vec![
            get("/1"),
            Do::Answer,
            say("GET /2 HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n@@\r\n\r\n"),
            Do::Answer,
        ]),
        Case::of("nothing sent").client(vec![Do::FinishWriting, Do::End]),
    ]
}

fn tcp_cases() -> Vec<Case> {
    let hello = |name: &str| say(format!("x-case: {name}\r\n\r\nhello"));
    // Nothing is sent where the connection is reset: the error would be told to the writer, not the reader.
    let plain = |name: &str, on: &'static str| Case::of(name).on(on).client(vec![Do::End]).exact_end().ignore_bytes();
    let mut cases = vec![
        Case::of("tcp echo")
            .on("tcp")
            .client(vec![hello("tcp echo"), Do::Exactly(5), Do::FinishWriting, Do::End])
            .upstream(vec![Act::EchoRaw])
            .exact_end(),
        Case::of("tcp half close")
            .on("tcp")
            .client(vec![hello("tcp half close"), Do::FinishWriting, Do::End])
            .upstream(vec![Act::ReadToEnd, send("after the end"), Act::Fin])
            .exact_end(),
        Case::of("tcp upstream ends")
            .on("tcp")
            .client(vec![hello("tcp upstream ends"), Do::End])
            .upstream(vec![send("bye"), Act::Fin])
            .exact_end(),
        Case::of("tcp upstream resets")
            .on("tcp")
            .client(vec![hello("tcp upstream resets"), Do::Arrival(1), Do::End])
            .upstream(vec![Act::Reset])
            .exact_end()
            .ignore_bytes(),
        Case::of("tcp client resets")
            .on("tcp")
            .client(vec![hello("tcp client resets"), Do::Arrival(1), Do::Reset])
            .upstream(vec![Act::Hang])
            .ignore_bytes(),
        Case::of("tcp weighted")
            .on("tcp-weighted")
            .client(vec![hello("tcp weighted"), Do::Exactly(5), Do::FinishWriting, Do::End])
            .upstream(vec![Act::EchoRaw])
            .exact_end(),
        Case::of("tcp big")
            .on("tcp")
            .client(vec![say("x-case: tcp big\r\n\r\n"), Do::Fill(4 << 20), Do::FinishWriting, Do::End])
            .upstream(vec![Act::ReadToEnd, Act::Fill(4 << 20), Act::Fin])
            .exact_end(),
        Case::of("tcp server speaks first").on("tcp").client(vec![Do::FinishWriting, Do::End]),
        plain("tcp refused", "tcp-dead"),
        plain("tcp connect timeout", "tcp-full"),
        plain("tcp no endpoint", "tcp-empty"),
        plain("tcp unknown cluster", "tcp-nowhere"),
        plain("tcp three attempts", "tcp-attempts"),
        plain("tcp no chain", "no-chain"),
        Case::of("tcp idle")
            .on("tcp-idle")
            .client(vec![hello("tcp idle"), Do::End])
            .exact_end()
            .upstream(vec![Act::Hang]),
        Case::of("tcp too long")
            .on("tcp-duration")
            .client(vec![hello("tcp too long"), Do::End])
            .exact_end()
            .upstream(vec![Act::Hang]),
    ];
    for name in ["tcp refused", "tcp connect timeout"] {
        let case = cases.iter_mut().find(|case| case.name == name);
        case.unwrap().seen.log = Some("UF,URX -".to_owned());
    }
    cases
}

pub fn world() -> World {
    let cases = [upgrades(), bodies(), tcp_cases()].concat();
    World {
        name: "streams",
        listeners: LISTENERS,
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases,
        h2_scripts: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams() {
    compare(&world(), Source::File).await;
}
