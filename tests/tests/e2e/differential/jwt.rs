//! Tokens: which are good, what is said of those that are not, and what becomes of them. The tokens are written down; the
//! keys that signed them were thrown away.

use std::sync::OnceLock;

use lateen_tests::bootstrap::{LOG_FORMAT, Layout, cluster, file_log, http, listener, merge, router};
use lateen_tests::case::Case;
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::answer;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const SEED: u64 = 20_261_124;
const REQUESTS: usize = 1_200;

fn tokens() -> &'static Value {
    static TOKENS: OnceLock<Value> = OnceLock::new();
    TOKENS.get_or_init(|| serde_json::from_str(include_str!("tokens.json")).expect("tokens"))
}

fn token(name: &str) -> &'static str {
    tokens()["tokens"][name].as_str().unwrap_or_else(|| panic!("no token {name}"))
}

fn names() -> Vec<&'static str> {
    let all = tokens()["tokens"].as_object().expect("tokens");
    all.keys().map(String::as_str).collect()
}

fn provider(issuer: &str, more: Value) -> Value {
    let mut provider = json!({"issuer": issuer, "payload_in_metadata": "payload",
        "local_jwks": {"inline_string": tokens()["keys"].to_string()}});
    merge(&mut provider, more);
    provider
}

fn providers() -> Value {
    json!({
        "plain": provider("a", json!({})),
        "rich": provider("a", json!({"audiences": ["web"], "forward": true, "forward_payload_header": "x-payload",
            "header_in_metadata": "header", "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "sub"]},
            "claim_to_headers": [{"header_name": "x-sub", "claim_name": "sub"}, {"header_name": "x-level", "claim_name": "level"},
                {"header_name": "x-share", "claim_name": "share"}, {"header_name": "x-admin", "claim_name": "admin"},
                {"header_name": "x-roles", "claim_name": "roles"}, {"header_name": "x-deep", "claim_name": "deep.er"},
                {"header_name": "x-none", "claim_name": "none"}]})),
        "placed": provider("a", json!({"from_headers": [{"name": "x-token", "value_prefix": "Token "}, {"name": "x-bare"}],
            "from_params": ["t"], "from_cookies": ["c"]})),
        "b": provider("b", json!({"pad_forward_payload_header": true, "forward_payload_header": "x-payload"})),
        "anybody": provider("", json!({"audiences": ["other"]})),
        "other keys": {"issuer": "c", "local_jwks": {"inline_string":
            json!({"keys": [tokens()["keys"]["keys"][1]]}).to_string()}},
        "strict": provider("a", json!({"require_expiration": true, "clock_skew_seconds": 1})),
        "reroutes": provider("a", json!({"clear_route_cache": true})),
    })
}

const REQUIREMENTS: &[&str] = &[
    "plain",
    "rich",
    "placed",
    "b",
    "anybody",
    "other keys",
    "strict",
    "optional",
    "either",
    "both",
    "failed",
    "audience",
    "istio",
    "nothing",
];

fn requirements() -> Value {
    let of = |name: &str| json!({"provider_name": name});
    let any = |all: Value| json!({"requires_any": {"requirements": all}});
    let all = |all: Value| json!({"requires_all": {"requirements": all}});
    let missing = || json!({"allow_missing": {}});
    let mut map = json!({
        "optional": any(json!([of("plain"), missing()])),
        "either": any(json!([of("plain"), of("b")])),
        "both": all(json!([of("rich"), of("anybody")])),
        "failed": any(json!([of("plain"), {"allow_missing_or_failed": {}}])),
        "audience": {"provider_and_audiences": {"provider_name": "rich", "audiences": ["other"]}},
        "istio": any(json!([of("rich"), of("b"), all(json!([any(json!([of("rich"), missing()])), any(json!([of("b"), missing()]))]))])),
        "nothing": {},
    });
    for name in &REQUIREMENTS[..7] {
        map[*name] = of(name);
    }
    map
}

fn resources(layout: &Layout) -> Resources {
    let typed = |more: Value| {
        let mut typed = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": providers(), "requirement_map": requirements()});
        merge(&mut typed, more);
        json!({"name": "envoy.filters.http.jwt_authn", "typed_config": typed})
    };
    let mut rules: Vec<Value> = REQUIREMENTS
        .iter()
        .map(|name| {
            let header = json!({"name": "x-rule", "string_match": {"exact": name}});
            json!({"match": {"prefix": "/", "headers": [header]}, "requirement_name": name})
        })
        .collect();
    rules.push(json!({"match": {"prefix": "/claims"}, "requires": {"provider_name": "reroutes"}}));
    let claim = |path: &[&str], value: Value| {
        let keys: Vec<Value> = ["payload"].iter().chain(path).map(|key| json!({"key": key})).collect();
        json!([{"filter": "envoy.filters.http.jwt_authn", "path": keys, "value": value}])
    };
    let exact = |text: &str| json!({"string_match": {"exact": text}});
    let per_route = |said: Value| {
        let mut of = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"});
        merge(&mut of, said);
        json!({"envoy.filters.http.jwt_authn": of})
    };
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": [
        {"name": "admin", "match": {"prefix": "/claims", "dynamic_metadata": claim(&["roles"], json!({"list_match": {"one_of": exact("ops")}}))},
            "direct_response": {"status": 200, "body": {"inline_string": "ops"}}},
        {"name": "b", "match": {"prefix": "/claims", "dynamic_metadata": claim(&["iss"], exact("b"))},
            "direct_response": {"status": 200, "body": {"inline_string": "b"}}},
        {"match": {"path": "/free"}, "route": {"cluster": "up"}, "typed_per_filter_config": per_route(json!({"disabled": true}))},
        {"match": {"path": "/named"}, "route": {"cluster": "up"}, "typed_per_filter_config": per_route(json!({"requirement_name": "b"}))},
        {"match": {"path": "/wrong"}, "route": {"cluster": "up"}, "typed_per_filter_config": per_route(json!({"requirement_name": "x"}))},
        {"match": {"path": "/redirect"}, "redirect": {"path_redirect": "/x"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
    ]}]);
    let told = "\t%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:sub)%\
        \t%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:scope)%\
        \t%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:header:alg)%\n";
    let log = file_log(&layout.access_log(), &format!("{}{told}", LOG_FORMAT.trim_end()));
    let main = json!({"http_filters": [typed(json!({"rules": rules, "bypass_cors_preflight": true})), router()], "access_log": log});
    let silent = json!({"http_filters": [typed(json!({"strip_failure_response": true,
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "plain"}}]})), router()]});
    let listeners = vec![
        listener(layout, "main", http(layout, "main", hosts.clone(), main)),
        listener(layout, "silent", http(layout, "silent", hosts, silent)),
    ];
    (listeners, vec![cluster(layout, "up", &["up"], json!({}))])
}

/// Where a token goes: a header line, or part of the query.
fn placed(place: usize, token: &str) -> (String, String) {
    let line = |line: String| (format!("{line}\r\n"), String::new());
    match place {
        0 | 1 => line(format!("authorization: Bearer {token}")),
        2 => line(format!("authorization: bearer {token}")),
        3 => line(format!("x-token: Token {token}")),
        4 => line(format!("x-bare: {token}")),
        5 => line(format!("cookie: a=b; c={token}; d=e")),
        6 => (String::new(), format!("access_token={token}")),
        7 => (String::new(), format!("t={token}")),
        8 => line(format!("Authorization: Basic {token}")),
        _ => line(format!("authorization: Bearer  {token}")),
    }
}

fn request(name: &str, rule: &str, method: &str, path: &str, given: &[(String, String)], more: &str) -> Case {
    let lines: String = given.iter().map(|(line, _)| line.as_str()).collect();
    let query: Vec<&str> = given.iter().map(|(_, query)| query.as_str()).filter(|query| !query.is_empty()).collect();
    let mut path = path.to_owned();
    if !query.is_empty() {
        path = format!("{path}{}{}", if path.contains('?') { "&" } else { "?" }, query.join("&"));
    }
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: a.test\r\nx-rule: {rule}\r\n@@\r\nx-sub: forged\r\n{lines}{more}content-length: 0\r\n\r\n"
    );
    Case::raw(name, head).upstream(vec![answer("200 OK", &[], b"ok")])
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Each token at each provider that might take it.
    for name in names() {
        for rule in ["plain", "rich"] {
            cases.push(request(&format!("{name} at {rule}"), rule, "GET", "/x", &[placed(0, token(name))], ""));
        }
    }
    let good = || placed(0, token("RS256"));
    let bad = || placed(0, token("expired"));
    for rule in REQUIREMENTS {
        cases.push(request(&format!("nothing at {rule}"), rule, "GET", "/x?y=1", &[], ""));
        cases.push(request(&format!("good and bad at {rule}"), rule, "GET", "/x", &[good(), bad()], ""));
        cases.push(request(
            &format!("bad and good at {rule}"),
            rule,
            "GET",
            "/x",
            &[bad(), placed(6, token("RS256"))],
            "",
        ));
        let preflight = "origin: http://a\r\naccess-control-request-method: GET\r\n";
        cases.push(request(&format!("preflight at {rule}"), rule, "OPTIONS", "/x", &[], preflight));
    }
    for (name, path, given) in [
        ("claims of operators", "/claims", "RS256"),
        ("claims of b", "/claims", "issuer b"),
        ("claims of nobody", "/claims", "expired"),
        ("free", "/free", "expired"),
        ("named", "/named", "issuer b"),
        ("named, another's", "/named", "RS256"),
        ("wrong name", "/wrong", "RS256"),
        ("redirect", "/redirect", "RS256"),
    ] {
        cases.push(request(name, "none", "GET", path, &[placed(0, token(given))], ""));
    }
    for (name, path) in [
        ("a token in the query", "/x?a=1&access_token=@&b=2"),
        ("a token alone in the query", "/x?access_token=@"),
        ("a token last in the query", "/x?a=1&access_token=@"),
        ("two tokens in the query", "/x?access_token=@&access_token=y"),
        ("an encoded name in the query", "/x?acces%73_token=@"),
        ("a long path", &format!("/{}?access_token=@", "x".repeat(300))),
    ] {
        let path = path.replace('@', token("RS256"));
        cases.push(request(name, "plain", "GET", &path, &[], ""));
    }
    for path in ["/x?a&access_token=@", "/x?b=%20&access_token=@"] {
        let case = request(path, "plain", "GET", &path.replace('@', token("RS256")), &[], "");
        cases.push(case.better("the rest of the query stays as it was", 200));
    }
    cases.push(request("an original path", "plain", "GET", "/x", &[], "x-envoy-original-path: /before\r\n"));
    cases.push(request("silent", "plain", "GET", "/x", &[bad()], "").on("silent"));
    cases.push(request("gRPC", "plain", "POST", "/x", &[bad()], "content-type: application/grpc\r\n"));
    cases
}

fn drawn() -> Vec<Case> {
    let mut dice = SmallRng::seed_from_u64(SEED);
    let names = names();
    let draw = |index: usize| {
        let rule = REQUIREMENTS.choose(&mut dice).copied().unwrap_or("plain");
        let mut given = Vec::new();
        let mut said = Vec::new();
        for _ in 0..[1, 1, 1, 1, 2, 0][dice.random_range(0..6)] {
            let good = ["RS256", "ES256", "EdDSA", "issuer b", "no kid", "aud a text"];
            let name = if dice.random_bool(0.5) { good.choose(&mut dice) } else { names.choose(&mut dice) };
            let name = name.copied().unwrap_or("RS256");
            let place = dice.random_range(0..10);
            said.push(format!("{name} {place}"));
            given.push(placed(place, token(name)));
        }
        let path = ["/x", "/x?a=1&b=2", "/y/"].choose(&mut dice).copied().unwrap_or("/x");
        request(&format!("{index} {rule} {path}: {}", said.join(", ")), rule, "GET", path, &given, "")
    };
    (0..REQUESTS).map(draw).collect()
}

fn world(name: &'static str, cases: Vec<Case>) -> World {
    World {
        name,
        listeners: &["main", "silent"],
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases,
        h2_scripts: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows() {
    compare(&world("jwt", cases()), Source::File).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drawn_tokens() {
    compare(&world("jwt drawn", drawn()), Source::File).await;
}
