//! Cross-origin requests: preflights, what other answers say, and whose policy counts.

use lateen_tests::bootstrap::{Layout, cluster, http, listener, merge, router};
use lateen_tests::case::Case;
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::answer;
use serde_json::{Value, json};

fn with(policy: Value) -> Value {
    let mut typed = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy"});
    merge(&mut typed, policy);
    json!({"typed_per_filter_config": {"envoy.filters.http.cors": typed}})
}

fn route(path: &str, policy: Value) -> Value {
    let mut route = json!({"name": path, "match": {"prefix": path}, "route": {"cluster": "up"}});
    merge(&mut route, with(policy));
    route
}

fn origins(patterns: Value) -> Value {
    json!({"allow_origin_string_match": patterns})
}

fn and(mut policy: Value, more: Value) -> Value {
    merge(&mut policy, more);
    policy
}

fn resources(layout: &Layout) -> Resources {
    let a = || origins(json!([{"exact": "http://a"}]));
    let full = json!({"allow_methods": "GET,PUT", "allow_headers": "x-a,x-b", "expose_headers": "x-c", "max_age": "60",
        "allow_credentials": true});
    let mut host = json!({"name": "a", "domains": ["a.test"],
    "response_headers_to_add": [{"header": {"key": "x-vhost", "value": "1"}}],
    "routes": [
        route("/bare", a()),
        route("/full", and(a(), full)),
        route("/wild", and(a(), json!({"allow_methods": "*", "allow_headers": "*"}))),
        route("/any", origins(json!([{"exact": "*"}]))),
        route("/prefix", origins(json!([{"prefix": "http://a"}]))),
        route("/regex", origins(json!([{"safe_regex": {"regex": "http://[ab]"}}]))),
        route("/ignore", and(a(), json!({"forward_not_matching_preflights": false, "allow_methods": "GET"}))),
        route("/off", and(a(), json!({"filter_enabled": {"default_value": {"numerator": 0}}}))),
        route("/shadow", and(a(), json!({"filter_enabled": {"default_value": {"numerator": 0}},
            "shadow_enabled": {"default_value": {"numerator": 100}}}))),
        route("/private", and(a(), json!({"allow_private_network_access": true}))),
        route("/merged", json!({"allow_methods": "POST"})),
        and(with(a()), json!({"match": {"prefix": "/redirect"}, "redirect": {"path_redirect": "/x"}})),
        and(route("/nowhere", a()), json!({"route": {"cluster": "nowhere"}})),
        {"match": {"prefix": "/host"}, "route": {"cluster": "up"}},
    ]});
    merge(&mut host, with(and(origins(json!([{"exact": "http://h"}])), json!({"max_age": "7"}))));
    let cors = json!({"http_filters": [{"name": "envoy.filters.http.cors", "typed_config":
        {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}}, router()]});
    let listeners = vec![listener(layout, "main", http(layout, "main", json!([host]), cors))];
    (listeners, vec![cluster(layout, "up", &["up"], json!({}))])
}

fn cases() -> Vec<Case> {
    let ok = || vec![answer("200 OK", &[("access-control-allow-origin", "upstream's")], b"ok")];
    let mut cases = Vec::new();
    for path in [
        "/bare",
        "/full",
        "/wild",
        "/any",
        "/prefix",
        "/regex",
        "/ignore",
        "/off",
        "/shadow",
        "/private",
        "/merged",
        "/redirect",
        "/nowhere",
        "/host",
    ] {
        for origin in ["http://a", "http://ab", "http://h", ""] {
            let origin_line = format!("origin: {origin}\r\n");
            let plain = format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{origin_line}@@\r\n\r\n");
            cases.push(Case::raw(&format!("GET {path} from {origin:?}"), plain).upstream(ok()));
            let asked = "access-control-request-method: PUT\r\naccess-control-request-headers: x-z\r\n\
                         access-control-request-private-network: true\r\n";
            let preflight = format!("OPTIONS {path} HTTP/1.1\r\nhost: a.test\r\n{origin_line}{asked}@@\r\n\r\n");
            cases.push(Case::raw(&format!("preflight {path} from {origin:?}"), preflight).upstream(ok()));
        }
        let grpc = format!(
            "OPTIONS {path} HTTP/1.1\r\nhost: a.test\r\norigin: http://a\r\naccess-control-request-method: PUT\r\n\
             content-type: application/grpc\r\n@@\r\n\r\n"
        );
        cases.push(Case::raw(&format!("preflight {path} of a gRPC client"), grpc).upstream(ok()));
        let options = format!("OPTIONS {path} HTTP/1.1\r\nhost: a.test\r\norigin: http://a\r\n@@\r\n\r\n");
        cases.push(Case::raw(&format!("OPTIONS {path} without a method"), options).upstream(ok()));
        cases.push(Case::get(&format!("GET {path} without origin"), path).upstream(ok()));
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cors() {
    let world = World {
        name: "cors",
        listeners: &["main"],
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}
