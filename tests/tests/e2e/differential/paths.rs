//! Path normalization, and how gRPC clients are answered.

use lateen_tests::bootstrap::{Layout, cluster, http, listener};
use lateen_tests::case::Case;
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, answer};
use serde_json::{Value, json};

const LISTENERS: &[&str] = &["main", "normalize", "merge", "reject", "redirect", "forward", "keep"];

fn resources(layout: &Layout) -> Resources {
    let routes = || json!([{"name": "all", "domains": ["*"], "routes": [{"name": "all", "match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]);
    let settings = |name: &str| match name {
        "normalize" => json!({"normalize_path": true}),
        "merge" => json!({"normalize_path": true, "merge_slashes": true}),
        "keep" => {
            json!({"normalize_path": true, "merge_slashes": true, "path_with_escaped_slashes_action": "KEEP_UNCHANGED"})
        }
        "reject" => {
            json!({"normalize_path": true, "merge_slashes": true, "path_with_escaped_slashes_action": "REJECT_REQUEST"})
        }
        "redirect" => {
            json!({"normalize_path": true, "merge_slashes": true, "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT"})
        }
        "forward" => {
            json!({"normalize_path": true, "merge_slashes": true, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"})
        }
        _ => json!({}),
    };
    let listeners =
        LISTENERS.iter().map(|name| listener(layout, name, http(layout, name, routes(), settings(name)))).collect();
    (listeners, vec![cluster(layout, "up", &["up"], json!({}))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths() {
    let mut cases = Vec::new();
    for path in [
        "/",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a%5Cb",
        "/a/..%2fb",
        "/a\\b",
        "/a//b",
        "//a",
        "///",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a/.%2E/b",
        "/../x",
        "/a/..",
        "/a/.",
        "/a/./b",
        "/a/...",
        "/a/..b",
        "/a/b..",
        "/./",
        "/../..",
        "/a/../..",
        "/%61bc",
        "/%41",
        "/%7e",
        "/%2d%2D",
        "/a%20b",
        "/a%zz",
        "/a%",
        "/a%2",
        "/a%00b",
        "/a%25b",
        "/a%252fb",
        "/a%3fb",
        "/a%23b",
        "/%C3%A9",
        "/a/.;/b",
        "/a/..;/b",
        "/a/..;x=1/b",
        "/a;x/b",
        "/a;/../b",
        "/a/%2e%2e;/b",
        "/a/..%3b/b",
        "/a/...;/b",
        "/a/..;\\b",
        "/a\\..;/b",
        "/a%2f..;/b",
        "/a/..;x%2fy/b",
        "//..;/b",
        "/a/..;//b",
        "/..;?x",
        "/a?x=//b/../c%2f",
        "/a//b?x#y",
        "/a#b",
        "/#",
        "/a?b#c",
        "/a%2f..%2f..%2fb",
        "/a;b",
        "/a,b:c@d!$&'()*+=",
        "/a\"b",
        "/a<b>",
        "/a{b}|c^d`",
        "/a//../b",
        "/a/b//..//c",
        "/a%2f%2fb",
        "/%2e",
        "/%2e/",
        "/.a",
    ] {
        for listener in LISTENERS {
            let case = Case::get(&format!("{listener} {path}"), path).on(listener);
            // What is left of a path of slashes alone, once its dot segments are gone, Envoy merges to two.
            let slashes = matches!(path, "///") && !matches!(*listener, "main" | "normalize");
            cases.push(if slashes { case.better("merged slashes are one slash", 200) } else { case });
        }
    }
    let world = World {
        name: "paths",
        listeners: LISTENERS,
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases,
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}

fn grpc_resources(layout: &Layout) -> Resources {
    let direct = |status: u16| {
        json!({"name": status.to_string(), "match": {"prefix": format!("/{status}")},
            "direct_response": {"status": status, "body": {"inline_string": "why not"}}})
    };
    let mut routes: Vec<Value> =
        [200, 204, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504].into_iter().map(direct).collect();
    routes.push(json!({"match": {"prefix": "/moved"}, "redirect": {"path_redirect": "/x"}}));
    routes.push(json!({"match": {"prefix": "/nowhere"}, "route": {"cluster": "nowhere"}}));
    routes.push(json!({"match": {"prefix": "/empty"}, "route": {"cluster": "empty"}}));
    routes.push(json!({"match": {"prefix": "/refused"}, "route": {"cluster": "dead"}}));
    routes.push(json!({"match": {"prefix": "/late"}, "route": {"cluster": "up", "timeout": "0.3s"}}));
    routes.push(json!({"match": {"prefix": "/up"}, "route": {"cluster": "up"}}));
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    let clusters = vec![
        cluster(layout, "up", &["up"], json!({})),
        cluster(layout, "empty", &[], json!({})),
        cluster(layout, "dead", &["dead"], json!({})),
    ];
    (vec![listener(layout, "main", http(layout, "main", hosts, json!({})))], clusters)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_local_replies() {
    let call = |name: &str, path: &str, content: &str| {
        Case::raw(
            name,
            format!(
                "POST {path} HTTP/1.1\r\nhost: a.test\r\ncontent-type: {content}\r\n@@\r\ncontent-length: 0\r\n\r\n"
            ),
        )
    };
    let mut cases = Vec::new();
    for path in [
        "/200", "/204", "/400", "/401", "/403", "/404", "/418", "/429", "/500", "/502", "/503", "/504", "/moved",
        "/nowhere", "/empty", "/refused", "/none",
    ] {
        cases.push(call(&format!("grpc {path}"), path, "application/grpc"));
    }
    for content in [
        "application/grpc+proto",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpcx",
        "Application/grpc",
        "application/grpc;a=b",
    ] {
        cases.push(call(&format!("type {content}"), "/empty", content));
    }
    cases.push(call("grpc timeout", "/late", "application/grpc").upstream(vec![Act::Hang]));
    cases.push(call("upstream's 503", "/up", "application/grpc").upstream(vec![answer(
        "503 Service Unavailable",
        &[],
        b"mine",
    )]));
    cases.push(
        Case::get_with("GET as grpc", "/empty", &["content-type: application/grpc"])
            .seen(200, "UH no_healthy_upstream"),
    );
    let h2 = |name: &str, path: &str| {
        Case::h2(
            name,
            "POST",
            &format!("http://a.test{path}"),
            &[("content-type", "application/grpc"), ("te", "trailers")],
        )
    };
    for path in ["/503", "/nowhere", "/empty", "/none", "/moved", "/404"] {
        cases.push(h2(&format!("h2 grpc {path}"), path));
    }
    let world = World {
        name: "grpc local replies",
        listeners: &["main"],
        upstreams: &["up"],
        h2_upstreams: &[],
        resources: grpc_resources,
        cases,
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}
