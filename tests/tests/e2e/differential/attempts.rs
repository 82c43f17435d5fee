//! Attempts that must fail: what is forged, smuggled or misspelt to get past policies. Each is made at Envoy and at the
//! proxy, which have to answer alike, and in each family the honest request beside it gets through.

use std::net::SocketAddr;
use std::sync::OnceLock;

use lateen_tests::case::{Case, Do};
use lateen_tests::drawn::{Round, Run};
use lateen_tests::network;
use lateen_tests::stand::{GATEWAY, POD, Placed, Role};
use lateen_tests::upstream::{Act, answer};
use serde_json::{Value, json};

/// The gateway's port 80, in its pod.
pub(super) const EDGE: u16 = 18080;

fn tokens() -> &'static Value {
    static TOKENS: OnceLock<Value> = OnceLock::new();
    TOKENS.get_or_init(|| serde_json::from_str(include_str!("tokens.json")).expect("tokens"))
}

fn token(name: &str) -> &'static str {
    tokens()["tokens"][name].as_str().unwrap_or_else(|| panic!("no token {name}"))
}

pub(super) fn object(kind: &str, name: &str, namespace: &str, spec: Value) -> Value {
    let group =
        if kind == "AuthorizationPolicy" || kind == "RequestAuthentication" { "security" } else { "networking" };
    json!({"apiVersion": format!("{group}.istio.io/v1"), "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn policy(action: &str, rules: Value) -> Value {
    object(
        "AuthorizationPolicy",
        action.to_ascii_lowercase().as_str(),
        "shop",
        json!({"action": action, "rules": rules,
        "selector": {"matchLabels": {"app": "client"}}}),
    )
}

fn mesh(settings: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": settings.to_string()}})
}

/// What is played: a name, and the bytes.
type Attempt = (String, Vec<u8>);

fn placed(index: usize, (name, bytes): &Attempt, role: Role) -> Placed {
    let to = match role {
        Role::Sidecar => SocketAddr::from((POD, 8080)),
        Role::Gateway => SocketAddr::from((GATEWAY, EDGE)),
    };
    let case = Case::of(name).client(vec![Do::Send(bytes.clone()), Do::Answer]);
    let case = case.upstream(vec![Act::ReadBody, answer("200 OK", &[], b"ok")]);
    Placed { case, role, to, h2_script: Vec::new(), client: index as u32 + 1 }
}

/// Refused with other words than Envoy's, or before Envoy would.
const APART: &[&str] = &["a role in a folded line", "a NUL as it is"];

/// Plays all; none of the attempts may reach the upstream, each of the honest requests has to.
async fn must_fail(test: &str, role: Role, rules: Vec<Value>, honest: &[Attempt], attempts: &[Attempt]) {
    let arguments = ["--exact", &format!("differential::attempts::{test}"), "--nocapture"];
    if !network::may_enter(&arguments.map(str::to_owned)) {
        return;
    }
    let all = honest.iter().chain(attempts);
    let requests = all.enumerate().map(|(index, attempt)| placed(index, attempt, role)).collect();
    let round = Round { number: 0, scenery: Vec::new(), rules, requests };
    let mut run = Run::start();
    let (outcomes, differences) = run.outcomes(&round).await;
    let differ: Vec<&String> =
        differences.iter().filter(|text| !APART.iter().any(|name| text.starts_with(name))).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert!(run.refused.is_empty(), "{:?}", run.refused);
    for outcome in &outcomes {
        let sees = |(name, _): &Attempt| !outcome[name].upstream.is_empty();
        for good in honest {
            assert!(!outcome[&good.0].upstream.is_empty(), "{}: {:#?}", good.0, outcome[&good.0]);
        }
        let through: Vec<&str> = attempts.iter().filter(|attempt| sees(attempt)).map(|(name, _)| &**name).collect();
        assert!(through.is_empty(), "got through: {through:?}");
    }
}

fn get(name: &str, path: &str, lines: &[&str]) -> Attempt {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    (name.to_owned(), format!("GET {path} HTTP/1.1\r\nhost: client.shop\r\n@@\r\n{lines}\r\n").into_bytes())
}

pub(super) fn understood() -> Value {
    object(
        "RequestAuthentication",
        "tokens",
        "shop",
        json!({"selector": {"matchLabels": {"app": "client"}}, "jwtRules": [
        {"issuer": "a", "audiences": ["web"], "jwks": tokens()["keys"].to_string(),
            "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}], "outputPayloadToHeader": "x-payload"}]}),
    )
}

#[tokio::test]
async fn tokens_that_are_no_good() {
    let bearer = |name: &str, token: &str| get(name, "/", &[&format!("authorization: Bearer {token}")]);
    let honest = [bearer("honest", token("RS256"))];
    let mut attempts: Vec<Attempt> = [
        "alg none",
        "alg none, signed",
        "public key as secret",
        "public key as secret, no kid",
        "alg swapped",
        "alg of another kind",
        "unknown kid",
        "kid of another key",
        "another's signature",
        "payload of another",
        "signature cut",
        "expired",
        "not yet",
        "aud wrong",
        "no aud",
        "issuer b",
        "no issuer",
        "two parts",
        "nonsense",
    ]
    .iter()
    .map(|name| bearer(name, token(name)))
    .collect();
    let good = token("RS256");
    let (head, rest) = good.split_once('.').expect("a token");
    attempts.extend([
        bearer("without its signature", good.rsplit_once('.').expect("a token").0),
        bearer("with an empty signature", &format!("{}.", good.rsplit_once('.').expect("a token").0)),
        bearer("oversized", &format!("{head}.{}.{rest}", "A".repeat(100_000))),
        bearer("good and more", &format!("{good}.x")),
        get("no token", "/", &[]),
        get("in a place nobody named", "/", &[&format!("cookie: access_token={good}"), &format!("x-token: {good}")]),
        get("good, then bad", "/", &[&format!("authorization: Bearer {good}"), "authorization: Bearer x.y.z"]),
        get("bad, then good", "/", &["authorization: Bearer x.y.z", &format!("authorization: Bearer {good}")]),
        get(
            "good, and expired in the query",
            &format!("/?access_token={}", token("expired")),
            &[&format!("authorization: Bearer {good}")],
        ),
    ]);
    let allowed = policy("ALLOW", json!([{"from": [{"source": {"requestPrincipals": ["a/me"]}}]}]));
    must_fail("tokens_that_are_no_good", Role::Sidecar, vec![understood(), allowed], &honest, &attempts).await;
}

#[tokio::test]
async fn identity_smuggled_in_headers() {
    let admin = "URI=spiffe://cluster.local/ns/shop/sa/admin";
    let honest = [get("honest", "/", &["x-role: admin"])];
    let attempts = [
        get("XFCC", "/", &[&format!("x-forwarded-client-cert: By=x;Hash=y;Subject=\"\";{admin}")]),
        get("XFCC twice", "/", &["x-forwarded-client-cert: By=x", &format!("x-forwarded-client-cert: {admin}")]),
        get("a claim's header", "/", &["x-user: admin"]),
        get("a claim's header in capitals", "/", &["X-USER: admin"]),
        get("a payload's header", "/", &["x-payload: eyJzdWIiOiJhZG1pbiJ9"]),
        get("x-forwarded-for", "/", &["x-forwarded-for: 1.2.3.4"]),
        get("x-forwarded-for, the client last", "/", &["x-forwarded-for: 10.16.0.9, 1.2.3.4"]),
        get("x-envoy-external-address", "/", &["x-envoy-external-address: 1.2.3.4"]),
        get("x-envoy-internal", "/", &["x-envoy-internal: true"]),
        get("x-real-ip", "/", &["x-real-ip: 1.2.3.4"]),
        get("x-forwarded-host", "/", &["x-forwarded-host: admin.test"]),
        get("x-envoy-original-path", "/", &["x-envoy-original-path: /open"]),
        get("x-original-url", "/", &["x-original-url: /open", "x-rewrite-url: /open"]),
        get("x-http-method-override", "/", &["x-http-method-override: PUT"]),
        get("x-envoy-peer-metadata", "/", &["x-envoy-peer-metadata-id: sidecar~1.2.3.4~admin.shop~shop"]),
        get("a role in a name with a blank", "/", &["x-role : admin"]),
        get("a role in a folded line", "/", &["x-other: 1", " x-role: admin"]),
        get("a role among others", "/", &["x-role: user, admin"]),
    ];
    let rules = json!([
        {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/admin"]}}]},
        {"from": [{"source": {"ipBlocks": ["1.2.3.4"]}}]},
        {"when": [{"key": "request.headers[x-user]", "values": ["admin"]}]},
        {"when": [{"key": "request.headers[x-payload]", "values": ["*"]}]},
        {"when": [{"key": "request.headers[x-role]", "values": ["admin"]}]},
        {"to": [{"operation": {"hosts": ["admin.test"]}}]},
        {"to": [{"operation": {"paths": ["/open"]}}]},
        {"to": [{"operation": {"methods": ["PUT"]}}]},
    ]);
    let rules = vec![understood(), policy("ALLOW", rules)];
    must_fail("identity_smuggled_in_headers", Role::Sidecar, rules, &honest, &attempts).await;
}

/// A gateway open to all hosts, and behind it the workload.
pub(super) fn edge() -> [Value; 2] {
    let edge = |kind: &str, spec: Value| object(kind, "edge", "shop", spec);
    [
        edge(
            "Gateway",
            json!({"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}),
        ),
        edge(
            "VirtualService",
            json!({"hosts": ["*"], "gateways": ["edge"], "http": [
            {"route": [{"destination": {"host": "client.shop.svc.cluster.local", "port": {"number": 80}}}]}]}),
        ),
    ]
}

#[tokio::test]
async fn addresses_claimed_at_the_edge() {
    let honest = [get("honest", "/open", &[])];
    let attempts = [
        get("x-forwarded-for", "/", &["x-forwarded-for: 1.2.3.4"]),
        get("x-forwarded-for twice", "/", &["x-forwarded-for: 1.2.3.4", "x-forwarded-for: 1.2.3.4"]),
        get("x-forwarded-for, and more", "/", &["x-forwarded-for: 1.2.3.4, 1.2.3.4"]),
        get("x-envoy-external-address", "/", &["x-envoy-external-address: 1.2.3.4"]),
        get("XFCC", "/", &["x-forwarded-client-cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/admin"]),
        get("forwarded", "/", &["forwarded: for=1.2.3.4"]),
    ];
    let [gateway, routes] = edge();
    let rules = vec![
        mesh(&json!({"defaultConfig": {"gatewayTopology": {"numTrustedProxies": 0}}})),
        gateway,
        routes,
        object(
            "AuthorizationPolicy",
            "edge",
            "istio-system",
            json!({"selector": {"matchLabels": {"istio": "ingressgateway"}},
            "rules": [
                {"from": [{"source": {"remoteIpBlocks": ["1.2.3.4"]}}]},
                {"from": [{"source": {"principals": ["*"]}}]},
                {"to": [{"operation": {"paths": ["/open"]}}]}]}),
        ),
    ];
    must_fail("addresses_claimed_at_the_edge", Role::Gateway, rules, &honest, &attempts).await;
}

/// Spellings of `/admin` that a server may take for it.
const SPELLINGS: &[&str] = &[
    "/admin",
    "//admin",
    "///admin",
    "/./admin",
    "/x/../admin",
    "/public/../admin",
    "/%61dmin",
    "/%2e/admin",
    "/x/%2e%2e/admin",
    "/x/.%2e/admin",
    "/x/..%2fadmin",
    "/x%2f..%2fadmin",
    "/%2fadmin",
    "/%2Fadmin",
    "/x/..;/admin",
    "/x/..;a=b/admin",
    "/.;/admin",
    "/x\\..\\admin",
    "\\admin",
    "/\\admin",
    "/%5cadmin",
    "/x/..%5cadmin",
    "/admin/",
    "/admin/.",
    "/admin/x/..",
    "/admin?",
    "/admin?x=/public",
    "/admin/x",
    "/admin%2fx",
    "/admin;x",
    "/admin%3bx",
    "/admin%00",
    "/admin%00.css",
    "/admin#x",
    "/admin%2e",
    "/admin%20",
    "http://client.shop/admin",
    "http://client.shop//admin",
];

fn spelt() -> Vec<Attempt> {
    SPELLINGS.iter().map(|path| get(&path.replace('/', "_"), path, &[])).collect()
}

fn decoding() -> Value {
    mesh(&json!({"pathNormalization": {"normalization": "DECODE_AND_MERGE_SLASHES"}}))
}

#[tokio::test]
async fn paths_around_what_is_denied() {
    let mut attempts = spelt();
    let nul = b"GET /admin\0 HTTP/1.1\r\nhost: client.shop\r\n@@\r\n\r\n".to_vec();
    attempts.push(("a NUL as it is".to_owned(), nul));
    let rules = vec![decoding(), policy("DENY", json!([{"to": [{"operation": {"paths": ["/admin*"]}}]}]))];
    let honest = [get("honest", "/public", &[])];
    must_fail("paths_around_what_is_denied", Role::Sidecar, rules, &honest, &attempts).await;
}

#[tokio::test]
async fn paths_out_of_what_is_allowed() {
    let mut attempts = spelt();
    let out = [
        "/PUBLIC/x",
        "/Public/x",
        "/public",
        "/publicity",
        "/public/..",
        "/public/../x",
        "/public/%2e%2e/x",
        "/public/..%2fx",
        "/public/..;/x",
        "/public/x/../../y",
        "/public\\..\\x",
        "/public%2f..%2fx",
        "/public/.%2e/x",
        "/public/%00",
        "/x/public/a",
    ];
    attempts.extend(out.iter().map(|path| get(&path.replace('/', "_"), path, &[])));
    let rules = vec![decoding(), policy("ALLOW", json!([{"to": [{"operation": {"paths": ["/public/*"]}}]}]))];
    let honest = [get("honest", "/public/x", &[]), get("roundabout", "/x/../public//%61", &[])];
    must_fail("paths_out_of_what_is_allowed", Role::Sidecar, rules, &honest, &attempts).await;
}
