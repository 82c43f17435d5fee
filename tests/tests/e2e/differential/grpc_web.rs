//! gRPC for browsers: what becomes of requests and answers of gRPC-Web.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_tests::bootstrap::{Layout, cluster, http, http2_upstream, listener, router};
use lateen_tests::case::Case;
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::h2_upstream::{H2Act, h2_answer};
use lateen_tests::upstream::{Act, answer, send};
use serde_json::{Value, json};

fn filter(name: &str) -> Value {
    let message = match name {
        "grpc_web" => "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
        _ => "envoy.extensions.filters.http.cors.v3.Cors",
    };
    json!({"name": format!("envoy.filters.http.{name}"), "typed_config": {"@type": format!("type.googleapis.com/{message}")}})
}

fn resources(layout: &Layout) -> Resources {
    let cors = json!({"envoy.filters.http.cors": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": "http://shop.test"}], "allow_methods": "POST",
        "allow_headers": "content-type,x-grpc-web", "expose_headers": "grpc-status,grpc-message"}});
    let hosts = json!([{"name": "all", "domains": ["a.test"], "typed_per_filter_config": cors, "routes": [
        {"match": {"prefix": "/h1/"}, "route": {"cluster": "up"}},
        {"match": {"prefix": "/dead/"}, "route": {"cluster": "dead"}},
        {"match": {"prefix": "/nowhere/"}, "route": {"cluster": "nowhere"}},
        {"match": {"prefix": "/direct/"}, "direct_response": {"status": 418, "body": {"inline_string": "tea"}}},
        {"match": {"prefix": "/moved/"}, "redirect": {"path_redirect": "/x"}},
        {"match": {"prefix": "/late/"}, "route": {"cluster": "up", "timeout": "0.2s"}},
        {"match": {"prefix": "/again/"}, "route": {"cluster": "up", "retry_policy": {"retry_on": "5xx,unavailable"}}},
        {"match": {"prefix": "/only/", "grpc": {}}, "route": {"cluster": "h2"}},
        {"match": {"prefix": "/s."}, "route": {"cluster": "h2"}},
    ]}]);
    let chain = json!({"http_filters": [filter("grpc_web"), filter("cors"), router()]});
    let listeners = vec![listener(layout, "main", http(layout, "main", hosts, chain))];
    let clusters = vec![
        cluster(layout, "up", &["up"], json!({})),
        cluster(layout, "dead", &["dead"], json!({})),
        cluster(layout, "h2", &["h2"], http2_upstream()),
    ];
    (listeners, clusters)
}

/// Two frames.
const FRAMES: &str = "\0\0\0\0\u{3}abc\0\0\0\0\u{2}de";

fn post(name: &str, path: &str, fields: &[&str], body: &[u8]) -> Case {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let head = format!("POST {path} HTTP/1.1\r\nhost: a.test\r\n@@\r\n{fields}content-length: {}\r\n\r\n", body.len());
    Case::raw(name, [head.as_bytes(), body].concat())
}

fn cases() -> (Vec<Case>, Vec<(String, Vec<H2Act>)>) {
    let mut cases = Vec::new();
    let mut scripts = Vec::new();
    let good = || {
        h2_answer(
            200,
            &[("content-type", "application/grpc"), ("x-own", "1")],
            FRAMES,
            &[("grpc-status", "0"), ("grpc-message", "fine"), ("x-last", "of all")],
        )
    };
    let text = STANDARD.encode(FRAMES);
    let bodies: [(&str, &[u8]); 2] = [("binary", FRAMES.as_bytes()), ("text", text.as_bytes())];
    for content_type in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/grpc-web-text+proto",
        "application/grpc-web+json",
        "application/grpc-web; charset=utf-8",
        "Application/Grpc-Web",
        "application/grpc",
    ] {
        for accept in [None, Some("application/grpc-web-text"), Some("application/grpc-web-text+proto"), Some("*/*")] {
            let (_, body) = bodies[usize::from(content_type.contains("-text"))];
            let name = format!("{content_type}, {accept:?}");
            let mut fields = vec![format!("content-type: {content_type}")];
            fields.extend(accept.map(|accept| format!("accept: {accept}")));
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            cases.push(post(&name, "/s.S/M", &fields, body));
            scripts.push((name, vec![good()]));
        }
    }
    let web = "content-type: application/grpc-web";
    let web_text = "content-type: application/grpc-web-text";
    let ask_text = "accept: application/grpc-web-text";
    let long = "x".repeat(20_000);
    let answers: Vec<(&str, H2Act)> = vec![
        ("no trailers", h2_answer(200, &[("content-type", "application/grpc")], FRAMES, &[])),
        ("trailers only", h2_answer(200, &[("content-type", "application/grpc"), ("grpc-status", "5")], "", &[])),
        (
            "trailers after nothing",
            h2_answer(200, &[("content-type", "application/grpc")], "", &[("grpc-status", "5")]),
        ),
        ("gRPC of JSON", h2_answer(200, &[("content-type", "application/grpc+json")], FRAMES, &[("grpc-status", "0")])),
        ("already gRPC-Web", h2_answer(200, &[("content-type", "application/grpc-web+proto")], FRAMES, &[])),
        ("HTML", h2_answer(200, &[("content-type", "text/html")], "<p>50% ~ ok</p>\n", &[])),
        ("503", h2_answer(503, &[("content-type", "text/plain")], "out of order", &[])),
        ("503 of gRPC", h2_answer(503, &[("content-type", "application/grpc")], "abc", &[("grpc-status", "0")])),
        ("404 without a body", h2_answer(404, &[], "", &[])),
        ("401 with trailers", h2_answer(401, &[], "who", &[("grpc-status", "16")])),
        ("reset", H2Act::Reset(2)),
    ];
    for (name, act) in &answers {
        for (how, fields, body) in
            [("binary", vec![web], FRAMES.as_bytes()), ("text", vec![web_text, ask_text], text.as_bytes())]
        {
            let name = format!("{how}: {name}");
            cases.push(post(&name, "/s.S/M", &fields, body));
            scripts.push((name, vec![act.clone()]));
        }
    }
    for (name, body) in [
        ("not base64", "****"),
        ("cut base64", "AAAAAANhYmM"),
        ("cut after a whole part", "AAAAAANhYmM=AAA"),
        ("empty text", ""),
        ("second part bad", "AAAAAANhYmM=====AAAA"),
    ] {
        // Whether the head goes up before the end is seen depends on timing.
        let case = post(name, "/s.S/M", &[web_text], body.as_bytes());
        cases.push(if body.is_empty() { case } else { case.ignore_upstream() });
        scripts.push((name.to_owned(), vec![good()]));
    }
    cases.push(Case::raw(
        "chunked text",
        format!(
            "POST /s.S/M HTTP/1.1\r\nhost: a.test\r\n@@\r\n{web_text}\r\ntransfer-encoding: chunked\r\n\r\n\
                2\r\n{}\r\n3\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            &text[..2],
            &text[2..5],
            text.len() - 5,
            &text[5..]
        ),
    ));
    scripts.push(("chunked text".to_owned(), vec![good()]));
    for (path, name) in [
        ("/none", "no route"),
        ("/nowhere/", "no cluster"),
        ("/dead/", "refused"),
        ("/direct/", "direct"),
        ("/moved/", "moved"),
        ("/only/x", "route for gRPC alone"),
    ] {
        cases.push(post(name, path, &[web], b""));
        cases.push(post(&format!("{name}, text"), path, &[web_text, ask_text], text.as_bytes()));
    }
    cases.push(post("late", "/late/", &[web], b"").upstream(vec![Act::ReadBody, Act::Hang]));
    let unavailable = || vec![Act::ReadBody, answer("503 X", &[("content-type", "text/plain")], b"busy")];
    let of_grpc = answer("200 OK", &[("content-type", "application/grpc"), ("grpc-status", "0")], FRAMES.as_bytes());
    for fields in [vec![web], vec![web_text, ask_text]] {
        let name = |what: &str| format!("over HTTP/1, {} fields: {what}", fields.len());
        cases.push(post(&name("503"), "/h1/", &fields, text.as_bytes()).upstream(unavailable()));
        cases.push(
            post(&name("long"), "/h1/", &fields, b"")
                .upstream(vec![Act::ReadBody, answer("500 X", &[], long.as_bytes())]),
        );
        cases.push(post(&name("cut"), "/h1/", &fields, b"").upstream(vec![
            Act::ReadBody,
            send("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 30\r\n\r\n"),
            send(FRAMES),
            Act::Fin,
        ]));
    }
    // In base64 Envoy never ends an answer whose last part comes without data: one over HTTP/1, which has no trailers.
    let of_grpc = vec![Act::ReadBody, of_grpc];
    cases.push(post("over HTTP/1: gRPC", "/h1/", &[web], text.as_bytes()).upstream(of_grpc.clone()));
    let tries = vec![unavailable(), of_grpc];
    cases.push(post("over HTTP/1: second try", "/again/", &[web], text.as_bytes()).tries(tries));
    let origin = "origin: http://shop.test";
    cases.push(Case::raw(
        "preflight",
        format!(
            "OPTIONS /s.S/M HTTP/1.1\r\nhost: a.test\r\n{origin}\r\naccess-control-request-method: POST\r\n@@\r\n\r\n"
        ),
    ));
    cases.push(post(
        "from another origin",
        "/s.S/M",
        &[web, origin, "x-grpc-web: 1", "te: gzip", "grpc-accept-encoding: gzip"],
        FRAMES.as_bytes(),
    ));
    scripts.push(("from another origin".to_owned(), vec![good()]));
    cases.push(post("from another origin, refused", "/dead/", &[web, origin], b""));
    for (name, content_type, body) in [
        ("HTTP/2, binary", "application/grpc-web", FRAMES.as_bytes()),
        ("HTTP/2, text", "application/grpc-web-text", text.as_bytes()),
        ("HTTP/2, bad text", "application/grpc-web-text", b"****"),
    ] {
        let fields = [("content-type", content_type), ("accept", content_type)];
        let case = Case::h2(name, "POST", "http://a.test/s.S/M", &fields).h2_body(body, &[]);
        cases.push(if body == b"****" { case.ignore_upstream() } else { case });
        scripts.push((name.to_owned(), vec![good()]));
    }
    (cases, scripts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_web() {
    let (cases, h2_scripts) = cases();
    let world = World {
        name: "grpc web",
        listeners: &["main"],
        upstreams: &["up"],
        h2_upstreams: &["h2"],
        resources,
        cases,
        h2_scripts,
    };
    compare(&world, Source::File).await;
}
