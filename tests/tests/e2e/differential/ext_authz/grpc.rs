//! Questions over gRPC: all that a service is told, and all that it can answer.
#![allow(deprecated)] // Envoy's deprecated fields are fields all the same.

use lateen_tests::bootstrap::{
    LOG_FORMAT, Layout, cluster, file_log, http, http2_upstream, listener, merge, router, tcp,
};
use lateen_tests::case::Case;
use lateen_tests::check::{answer, framed, grpc, option};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::h2_upstream::H2Act;
use lateen_tests::tls::{Authority, Certified, downstream, upstream};
use lateen_tests::upstream::{self, Act};
use lateen_xds::pb::envoy::config::core::v3::{HeaderValueOption, QueryParameter};
use lateen_xds::pb::envoy::service::auth::v3::check_response::HttpResponse;
use lateen_xds::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use lateen_xds::pb::envoy::r#type::v3::HttpStatus;
use lateen_xds::pb::google::protobuf::value::Kind;
use lateen_xds::pb::google::protobuf::{Struct, Value as ProtoValue};
use lateen_xds::pb::google::rpc::Status;
use serde_json::{Value, json};

use super::{FILTER, TYPE, exact};

pub(super) struct Pki {
    pub(super) authority: Authority,
    pub(super) server: Certified,
    pub(super) client: Certified,
    nameless: Certified,
}

pub(super) fn pki() -> &'static Pki {
    static MADE: std::sync::OnceLock<Pki> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let authority = Authority::new("ours");
        Pki {
            server: authority.sign("a.test", "spiffe://mesh.test/ns/x/sa/server"),
            client: authority.sign("c.test", "spiffe://mesh.test/ns/x/sa/client"),
            nameless: authority.sign("", ""),
            authority,
        }
    })
}

fn service(more: Value) -> Value {
    let told = json!({"key": "x-case", "value": "%REQ(x-case)%"});
    let mut service = json!({"envoy_grpc": {"cluster_name": "auth"}, "timeout": "10s", "initial_metadata": [told]});
    merge(&mut service, more);
    service
}

/// The filter asking `auth` over gRPC; `more` is merged over it.
fn filter(more: Value) -> Value {
    let mut filter =
        json!({"@type": format!("{TYPE}.ExtAuthz"), "transport_api_version": "V3", "grpc_service": service(json!({}))});
    merge(&mut filter, more);
    json!({"name": FILTER, "typed_config": filter})
}

fn listeners() -> Vec<(&'static str, Vec<Value>)> {
    let body = |more: Value| {
        let mut settings = json!({"max_request_bytes": 16});
        merge(&mut settings, more);
        filter(json!({"with_request_body": settings}))
    };
    let shadow = json!({"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "shadow_rules_stat_prefix": "istio_ext_authz_",
        "shadow_rules": {"action": "DENY", "policies": {"p": {
            "permissions": [{"any": true}], "principals": [{"any": true}]}}}}});
    vec![
        ("main", vec![filter(json!({}))]),
        (
            "lists",
            vec![filter(
                json!({"allowed_headers": {"patterns": [{"prefix": "x-"}, {"exact": ":path"}, {"exact": "host"}]},
                "disallowed_headers": exact(&["x-secret"])}),
            )],
        ),
        ("raw", vec![filter(json!({"encode_raw_headers": true}))]),
        ("body", vec![body(json!({}))]),
        ("part", vec![body(json!({"allow_partial_message": true}))]),
        ("bytes", vec![body(json!({"pack_as_bytes": true, "allow_partial_message": true}))]),
        ("open", vec![filter(json!({"failure_mode_allow": true, "failure_mode_allow_header_add": true}))]),
        ("strict", vec![filter(json!({"validate_mutations": true}))]),
        ("reroutes", vec![filter(json!({"clear_route_cache": true}))]),
        ("deaf", vec![filter(json!({"enable_dynamic_metadata_ingestion": false}))]),
        ("context", vec![shadow, filter(json!({"metadata_context_namespaces": ["envoy.filters.http.rbac", "none"]}))]),
        (
            "other",
            vec![filter(json!({"grpc_service": {"envoy_grpc": {"authority": "auth.test"}, "initial_metadata": [
            {"key": "x-case", "value": "%REQ(x-case)%"}, {"key": "x-fixed", "value": "1"}]}}))],
        ),
        ("silent", vec![filter(json!({"grpc_service": {"envoy_grpc": {"skip_envoy_headers": true}}}))]),
        ("dead", vec![filter(json!({"grpc_service": {"envoy_grpc": {"cluster_name": "dead"}}}))]),
        (
            "nowhere",
            vec![filter(
                json!({"grpc_service": {"envoy_grpc": {"cluster_name": "nowhere"}}, "status_on_error": {"code": 500}}),
            )],
        ),
        ("small", vec![filter(json!({"grpc_service": {"envoy_grpc": {"max_receive_message_length": 20}}}))]),
        ("secure", vec![filter(json!({"include_peer_certificate": true, "include_tls_session": true}))]),
        ("secure-quiet", vec![filter(json!({}))]),
        ("session", vec![filter(json!({"include_tls_session": true, "include_peer_certificate": true}))]),
    ]
}

fn resources(layout: &Layout) -> Resources {
    let said =
        |settings: Value| json!({FILTER: {"@type": format!("{TYPE}.ExtAuthzPerRoute"), "check_settings": settings}});
    let hosts = json!([
        {"name": "all", "domains": ["*"], "typed_per_filter_config": said(json!({"context_extensions": {"a": "host", "b": "host"}})),
            "response_headers_to_add": [{"header": {"key": "x-answer", "value": "route"}}],
            "routes": [
            {"name": "mine", "match": {"prefix": "/user", "headers": [{"name": "x-user", "string_match": {"exact": "me"}}]},
                "direct_response": {"status": 200, "body": {"inline_string": "mine"}}},
            {"name": "queried", "match": {"prefix": "/user", "query_parameters": [{"name": "q", "string_match": {"exact": "1"}}]},
                "direct_response": {"status": 200, "body": {"inline_string": "queried"}}},
            {"match": {"prefix": "/told"}, "route": {"cluster": "up"},
                "typed_per_filter_config": said(json!({"context_extensions": {"a": "route", "c": "route"}}))},
            {"match": {"prefix": "/over-http"}, "route": {"cluster": "up"}, "typed_per_filter_config": said(json!({"http_service":
                {"server_uri": {"uri": "http://a", "cluster": "auth-http", "timeout": "10s"}}}))},
            {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
        ]},
    ]);
    let log =
        file_log(&layout.access_log(), &format!("{}\t%DYNAMIC_METADATA({FILTER}:told)%\n", LOG_FORMAT.trim_end()));
    let mut out = Vec::new();
    for (name, mut filters) in listeners() {
        filters.push(router());
        let more = json!({"http_filters": filters, "access_log": log, "generate_request_id": false});
        let mut one = listener(layout, name, http(layout, name, hosts.clone(), more));
        if name.starts_with("secure") {
            one["filter_chains"][0]["transport_socket"] = downstream(json!({"common_tls_context": {
                "tls_certificates": [pki().server.json()],
                "validation_context": {"trusted_ca": {"inline_string": pki().authority.pem}}}}));
        }
        out.push(one);
    }
    let mut clusters =
        vec![cluster(layout, "up", &["up"], json!({})), cluster(layout, "auth-http", &["auth-http"], json!({}))];
    clusters.extend(["auth", "dead"].map(|name| cluster(layout, name, &[name], http2_upstream())));
    for (name, target, certificate) in [
        ("to-secure", "secure", Some(&pki().client)),
        ("to-secure-nameless", "secure", Some(&pki().nameless)),
        ("to-secure-bare", "secure", None),
        ("to-secure-quiet", "secure-quiet", Some(&pki().client)),
    ] {
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": layout.listener(target)}});
        let mut to = cluster(layout, name, &[], json!({}));
        to["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
        let certificates: Vec<Value> = certificate.iter().map(|one| one.json()).collect();
        to["transport_socket"] =
            upstream(json!({"sni": "sni.test", "common_tls_context": {"tls_certificates": certificates}}));
        clusters.push(to);
        out.push(listener(
            layout,
            name.to_owned().leak(),
            tcp(layout, name, json!({"cluster": name, "access_log": []})),
        ));
    }
    (out, clusters)
}

pub(super) fn status(code: i32) -> Option<Status> {
    Some(Status { code, ..Status::default() })
}

fn ok(ok: OkHttpResponse) -> H2Act {
    let http_response = Some(HttpResponse::OkResponse(ok));
    answer(&CheckResponse { status: status(0), http_response, ..CheckResponse::default() })
}

fn denied(code: i32, denied: DeniedHttpResponse) -> H2Act {
    let http_response = Some(HttpResponse::DeniedResponse(denied));
    answer(&CheckResponse { status: status(code), http_response, ..CheckResponse::default() })
}

fn edits(headers: Vec<HeaderValueOption>) -> H2Act {
    ok(OkHttpResponse { headers, ..OkHttpResponse::default() })
}

pub(super) fn texts(fields: &[(&str, &str)]) -> Option<Struct> {
    let value = |text: &str| ProtoValue { kind: Some(Kind::StringValue(text.to_owned())) };
    Some(Struct { fields: fields.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect() })
}

/// Cases with what the service answers to each.
fn rows() -> Vec<(Case, H2Act)> {
    let mut rows = Vec::new();
    let up = || vec![vec![Act::ReadBody, upstream::answer("200 OK", &[("x-from", "up"), ("x-from", "up2")], b"ok")]];
    let case = move |case: Case| case.at("up", up()).unordered("auth");
    let sent =
        "x-a: 1\r\nx-b: 2\r\nx-a: 3\r\nx-secret: s\r\ncookie: a=b\r\nx-envoy-downstream-service-cluster: web\r\n";
    let request = |name: &str, line: &str, more: &str, body: &str| {
        let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        case(Case::raw(name, format!("{line} HTTP/1.1\r\nhost: a.test\r\n@@\r\n{more}{length}\r\n{body}")))
    };
    let mut row = |case: Case, act: H2Act| rows.push((case, act));
    let fine = || ok(OkHttpResponse::default());
    // What it is told.
    for on in ["main", "lists", "raw", "body", "part", "bytes", "context", "other", "silent", "session"] {
        row(request(&format!("told on {on}"), "GET /p/q?a=1&b=%20", sent, "").on(on), fine());
        row(request(&format!("told of a body on {on}"), "POST /told", sent, "0123456789").on(on), fine());
        row(request(&format!("told of a long body on {on}"), "POST /told", "", "0123456789abcdefghij").on(on), fine());
        row(request(&format!("told of no text on {on}"), "POST /", "x-bin: a\u{e9}\r\n", "a\u{e9}").on(on), fine());
    }
    row(
        case(Case::h2("over HTTP/2", "POST", "http://a.test/p?q", &[("x-a", "1")]).h2_body(b"body", &[])).on("bytes"),
        fine(),
    );
    for on in ["to-secure", "to-secure-nameless", "to-secure-bare", "to-secure-quiet"] {
        row(request(&format!("through {on}"), "GET /p", "", "").on(on), fine());
    }
    // What it allows, and how.
    row(request("no answer in the answer", "GET /p", "", ""), answer(&CheckResponse::default()));
    row(
        request("only a status", "GET /p", "", ""),
        answer(&CheckResponse { status: status(0), ..CheckResponse::default() }),
    );
    for (how, append, action) in [
        ("unsaid", None, 0),
        ("append", Some(true), 0),
        ("no append", Some(false), 0),
        ("if absent", None, 1),
        ("overwrite", None, 2),
        ("overwrite if there", None, 3),
        ("unknown", None, 77),
    ] {
        for (on, there) in [("main", true), ("main", false), ("strict", true)] {
            let more = if there { sent } else { "" };
            let edit = vec![
                option("X-A", "new", append, action),
                option("x-new", "", append, action),
                option("x-a", "newer", append, action),
            ];
            row(request(&format!("{how} of {there} on {on}"), "GET /p", more, "").on(on), edits(edit));
            let response = vec![
                option("x-from", "1", append, action),
                option("x-new", "2", append, action),
                option("x-answer", "3", append, action),
            ];
            let act = ok(OkHttpResponse { response_headers_to_add: response, ..OkHttpResponse::default() });
            row(request(&format!("answer {how} of {there} on {on}"), "GET /p", more, "").on(on), act);
            let refusal = vec![
                option("x-why", "1", append, action),
                option("X-Why", "2", append, action),
                option("x-answer", "3", append, action),
            ];
            let act = denied(7, DeniedHttpResponse { headers: refusal, ..DeniedHttpResponse::default() });
            row(request(&format!("refusal {how} of {there} on {on}"), "GET /p", more, "").on(on), act);
        }
    }
    for (name, value) in
        [(":path", "/other"), (":authority", "b.test"), ("host", "b.test"), (":method", "PUT"), ("authorization", "x")]
    {
        for on in ["main", "reroutes", "strict"] {
            row(
                request(&format!("{name} on {on}"), "GET /p", "", "").on(on),
                edits(vec![option(name, value, Some(false), 0)]),
            );
        }
    }
    for (what, name, value) in [("a value", "x-a", "a\nb"), ("a name", "x a", "b")] {
        row(
            request(&format!("not sound: {what}"), "GET /p", "", "").on("strict"),
            edits(vec![option(name, value, Some(false), 0)]),
        );
        let bad =
            DeniedHttpResponse { headers: vec![option(name, value, Some(false), 0)], ..DeniedHttpResponse::default() };
        row(request(&format!("not sound to the client: {what}"), "GET /p", "", "").on("strict"), denied(7, bad));
        let bad = OkHttpResponse {
            response_headers_to_add: vec![option(name, value, Some(false), 0)],
            ..OkHttpResponse::default()
        };
        row(request(&format!("not sound later: {what}"), "GET /p", "", "").on("strict"), ok(bad));
    }
    let remove = |names: &[&str]| OkHttpResponse {
        headers_to_remove: names.iter().map(|n| (*n).to_owned()).collect(),
        ..OkHttpResponse::default()
    };
    row(request("removal", "GET /p", sent, ""), ok(remove(&["X-A", "cookie", ":path", "host", "x-none"])));
    row(
        request("removal for another route", "GET /user", "x-user: me\r\n", "").on("reroutes"),
        ok(remove(&["x-user"])),
    );
    row(
        request("an edit for another route", "GET /user", "", "").on("reroutes"),
        edits(vec![option("x-user", "me", Some(false), 0)]),
    );
    row(
        request("an addition for another route", "GET /user", "", "").on("reroutes"),
        edits(vec![option("x-user", "me", None, 0)]),
    );
    for (what, path) in [("", "/user"), (" of some", "/user?b=2&a=1&b=3&q=0&c"), (" of odd ones", "/user?&&b&=x&q")] {
        let query = |set: &[(&str, &str)], remove: &[&str]| OkHttpResponse {
            query_parameters_to_set: set
                .iter()
                .map(|(k, v)| QueryParameter { key: (*k).into(), value: (*v).into() })
                .collect(),
            query_parameters_to_remove: remove.iter().map(|name| (*name).to_owned()).collect(),
            ..OkHttpResponse::default()
        };
        for on in ["main", "reroutes", "strict"] {
            row(
                request(&format!("query set{what} on {on}"), &format!("GET {path}"), "", "").on(on),
                ok(query(&[("q", "1"), ("z", "a-b.c_d")], &[])),
            );
            row(
                request(&format!("query removed{what} on {on}"), &format!("GET {path}"), "", "").on(on),
                ok(query(&[], &["b", "none"])),
            );
            row(
                request(&format!("query both{what} on {on}"), &format!("GET {path}"), "", "").on(on),
                ok(query(&[("b", "9")], &["q", "a"])),
            );
        }
        for odd in ["a(b", "%20", "a+b", "a~b", "a/b"] {
            row(
                request(&format!("query with {odd}{what}"), &format!("GET {path}"), "", "").on("strict"),
                ok(query(&[("q", odd)], &[])),
            );
        }
    }
    for on in ["main", "deaf"] {
        let outer = CheckResponse {
            status: status(0),
            dynamic_metadata: texts(&[("told", "outer")]),
            ..CheckResponse::default()
        };
        row(request(&format!("metadata on {on}"), "GET /p", "", "").on(on), answer(&outer));
        let inner = OkHttpResponse { dynamic_metadata: texts(&[("told", "inner")]), ..OkHttpResponse::default() };
        let both = CheckResponse { http_response: Some(HttpResponse::OkResponse(inner)), ..outer.clone() };
        row(request(&format!("metadata twice on {on}"), "GET /p", "", "").on(on), answer(&both));
        row(
            request(&format!("metadata of a refusal on {on}"), "GET /p", "", "").on(on),
            answer(&CheckResponse { status: status(7), ..outer }),
        );
    }
    // What it refuses.
    for code in [1, 5, 7, 14, 16, 99] {
        row(
            request(&format!("status {code}"), "GET /p", "", ""),
            answer(&CheckResponse { status: status(code), ..CheckResponse::default() }),
        );
    }
    for code in [0, 200, 302, 401, 404, 429, 500, 503, 599] {
        let act = |body: &str| DeniedHttpResponse {
            status: Some(HttpStatus { code }),
            headers: vec![
                option("location", "http://b/", Some(false), 0),
                option("content-type", "text/html", Some(false), 0),
                option("set-cookie", "a=b", None, 0),
                option("set-cookie", "c=d", None, 0),
                option("content-length", "77", None, 0),
            ],
            body: body.to_owned(),
        };
        row(request(&format!("refused with {code}"), "GET /p", "", ""), denied(7, act("the reason")));
        row(request(&format!("refused with {code}, no body"), "GET /p", "", ""), denied(7, act("")));
        let error = HttpResponse::ErrorResponse(act("an error"));
        let failed =
            answer(&CheckResponse { status: status(13), http_response: Some(error), ..CheckResponse::default() });
        row(request(&format!("failed with {code}"), "GET /p", "", ""), failed.clone());
        row(request(&format!("failed openly with {code}"), "GET /p", "", "").on("open"), failed);
    }
    row(
        request("gRPC refused", "GET /p", "content-type: application/grpc\r\n", ""),
        denied(
            7,
            DeniedHttpResponse {
                status: Some(HttpStatus { code: 401 }),
                body: "no".into(),
                ..DeniedHttpResponse::default()
            },
        ),
    );
    row(request("refused as allowed", "GET /p", "", ""), {
        let http_response = Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![option("x-a", "1", None, 0)],
            ..OkHttpResponse::default()
        }));
        answer(&CheckResponse { status: status(7), http_response, ..CheckResponse::default() })
    });
    row(
        request("allowed as refused", "GET /p", "", ""),
        denied(0, DeniedHttpResponse { body: "no".into(), ..DeniedHttpResponse::default() }),
    );
    // What is no answer.
    let good = framed(&CheckResponse::default());
    let trailers = |status: &str| vec![("grpc-status".to_owned(), status.to_owned())];
    let only_head = |status: &str| grpc().into_iter().chain(trailers(status)).collect::<Vec<_>>();
    for on in ["main", "open"] {
        for (name, act) in [
            ("a failed call", H2Act::Answer(200, grpc(), good.clone(), trailers("7"))),
            ("a failed call, no body", H2Act::Answer(200, grpc(), vec![], trailers("13"))),
            ("a failed call, all in its head", H2Act::Answer(200, only_head("14"), vec![], vec![])),
            ("nothing, all in its head", H2Act::Answer(200, only_head("0"), vec![], vec![])),
            ("503", H2Act::Answer(503, vec![], b"no".to_vec(), vec![])),
            ("401", H2Act::Answer(401, grpc(), good.clone(), trailers("0"))),
            ("no trailers", H2Act::Answer(200, grpc(), good.clone(), vec![])),
            ("no message", H2Act::Answer(200, grpc(), vec![], trailers("0"))),
            ("two messages", H2Act::Answer(200, grpc(), [&good[..], &good].concat(), trailers("0"))),
            ("half a message", H2Act::Answer(200, grpc(), vec![0, 0, 0, 0, 9, 1], trailers("0"))),
            ("a compressed message", H2Act::Answer(200, grpc(), vec![1, 0, 0, 0, 0], trailers("0"))),
            ("nonsense", H2Act::Answer(200, grpc(), vec![0, 0, 0, 0, 2, 255, 255], trailers("0"))),
            (
                "another type",
                H2Act::Answer(200, vec![("content-type".into(), "text/plain".into())], good.clone(), trailers("0")),
            ),
            ("a reset", H2Act::Reset(2)),
            ("a refusal to begin", H2Act::Reset(7)),
        ] {
            row(request(&format!("{name} on {on}"), "GET /p", "", "").on(on), act);
        }
    }
    row(
        request("too long an answer", "GET /p", "", "").on("small"),
        edits(vec![option("x-a", "a long enough value", None, 0)]),
    );
    for on in ["dead", "nowhere"] {
        row(request(&format!("on {on}"), "GET /p", "", "").on(on), fine());
    }
    row(request("a long body where none may be", "POST /p", "", "0123456789abcdefghij").on("body"), fine());
    row(
        request("over HTTP on a route", "GET /over-http", sent, "")
            .at("auth-http", vec![vec![Act::ReadBody, upstream::answer("200 OK", &[], b"")]])
            .unordered("auth-http"),
        fine(),
    );
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc() {
    let mut names: Vec<&'static str> = listeners().into_iter().map(|(name, _)| name).collect();
    names.extend(["to-secure", "to-secure-nameless", "to-secure-bare", "to-secure-quiet"]);
    let (cases, scripts) = rows().into_iter().map(|(case, act)| (case.clone(), (case.name, vec![act]))).unzip();
    let world = World {
        name: "ext authz over grpc",
        listeners: names.leak(),
        upstreams: &["up", "auth-http"],
        h2_upstreams: &["auth"],
        resources,
        cases,
        h2_scripts: scripts,
    };
    compare(&world, Source::File).await;
}
