//! Rounds about access alone: AuthorizationPolicies and RequestAuthentications, and callers that meet them at a workload
//! and at a gateway.

use serde_json::{Value, json};

use super::dice::Dice;
use super::tokens::{AUDIENCES, ISSUERS, ROLES, SUBJECTS, keys};
use crate::network;
use crate::stand::GATEWAY_PROBE;

/// Paths of rules.
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/b",
    "/a/*",
    "*",
    "/api/*",
    "*/users",
    "*.c",
    "/a%2fb",
    "/admin",
    "/Admin",
    "/a/{*}",
    "/a/{**}",
    "/{*}/b",
    "/{**}/users",
    "/api/{*}/users",
    "/{*}",
    "/{**}",
    "/a;x",
    "/a//b",
    "/a/{*}/{**}",
    "/a/{*}.c",
    "*/",
];
pub const HOSTS: &[&str] = &["client.shop", "client.shop.svc.cluster.local", "edge.test", "Edge.Test", "other.test"];
pub const METHODS: &[&str] = &["GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"];
/// Those of the workload, of nobody, of its services, and the gateway's.
const PORTS: &[&str] = &["8080", "8081", "8082", "8088", "9000", "9001", "80", "18080", "18090", "31400"];
const NAMESPACES: &[&str] = &["shop", "other", "istio-system", "sh*", "*p", "*", "nowhere"];
const ACCOUNTS: &[&str] = &["web", "shop/web", "other/web", "default", "other/default", "shop/default"];
const DOMAINS: &[&str] = &["cluster.local", "*", "cluster.*", "*.local", "old.test"];

/// Whoever is told of access, whatever it says of access the proxies' state is asked for and told.
pub fn spare_probe(rule: &mut Value) {
    if rule["kind"] != "AuthorizationPolicy" || rule.pointer("/spec/selector/matchLabels/app").is_some() {
        return;
    }
    let port = GATEWAY_PROBE.port().to_string();
    let spec = &mut rule["spec"];
    if spec["action"] != "DENY" {
        let own = json!({"to": [{"operation": {"ports": [port]}}]});
        match spec.get_mut("rules").and_then(Value::as_array_mut) {
            Some(rules) => rules.push(own),
            None => spec["rules"] = json!([own]),
        }
        return;
    }
    for rule in spec.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
        if rule.get("to").is_none() {
            rule["to"] = json!([{"operation": {}}]);
        }
        for to in rule["to"].as_array_mut().into_iter().flatten() {
            match to.pointer_mut("/operation/notPorts").and_then(Value::as_array_mut) {
                Some(ports) => ports.push(json!(port)),
                None => to["operation"]["notPorts"] = json!([port]),
            }
        }
    }
}

/// All rules of a round.
pub fn draw(dice: &mut Dice, round: u64) -> Vec<Value> {
    let mut rules = edge(dice);
    if !round.is_multiple_of(3) {
        // Who was of the mesh under its old name is so still.
        let mesh = json!({"trustDomainAliases": ["old.test"]}).to_string();
        rules.push(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": mesh}}));
    }
    let mut age = 0;
    let mut add = |kind: &str, name: String, namespace: &str, spec: Value, annotations: Value| {
        age += 1;
        rules.push(json!({
            "apiVersion": "security.istio.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations,
                "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")},
            "spec": spec,
        }));
    };
    for index in 0..dice.below(4) {
        let namespace = dice.word(&["shop", "shop", "istio-system", "other"]);
        let mut spec = json!({"jwtRules": (0..1 + dice.below(2)).map(|_| jwt_rule(dice)).collect::<Vec<_>>()});
        select(dice, &mut spec);
        add("RequestAuthentication", format!("tokens-{index}"), namespace, spec, json!({}));
    }
    for index in 0..1 + dice.below(5) {
        let namespace = dice.word(&["shop", "shop", "shop", "istio-system", "istio-system", "other"]);
        let action = dice.word(&["ALLOW", "ALLOW", "ALLOW", "DENY", "DENY", "AUDIT"]);
        let rules: Vec<Value> = (0..1 + dice.below(3)).map(|_| rule(dice, round)).collect();
        let mut spec = json!({"action": action, "rules": rules});
        match dice.below(30) {
            0 => spec["rules"] = json!([]),
            1 => spec["rules"] = json!([{}]),
            _ => {}
        }
        select(dice, &mut spec);
        let annotations = if dice.chance(15) { json!({"istio.io/dry-run": "true"}) } else { json!({}) };
        add("AuthorizationPolicy", format!("policy-{index}"), namespace, spec, annotations);
    }
    rules
}

fn select(dice: &mut Dice, spec: &mut Value) {
    let labels = match dice.below(10) {
        0..4 => json!({"app": "client"}),
        4..7 => json!({"istio": "ingressgateway"}),
        7 => json!({"team": "b"}),
        _ => return,
    };
    spec["selector"] = json!({"matchLabels": labels});
}

/// A gateway and its routes, some for certain tokens only.
fn edge(dice: &mut Dice) -> Vec<Value> {
    // Paths are made plain, and clients known by their addresses, as by default: other settings are not drawn yet.
    let _ = (dice.word(&[""; 6]), dice.below(3));
    let of_claim = |dice: &mut Dice| {
        let name = dice.word(&["roles", "sub", "scope", "deep.er", "[group.s]", "[deep][er]", "iss"]);
        let name = if name.starts_with('[') { name.to_owned() } else { format!(".{name}") };
        let value = match dice.below(4) {
            0 => json!({"prefix": dice.word(&["a", "d", "m"])}),
            1 => json!({"regex": dice.word(&["a.*|ops", "m."])}),
            _ => json!({"exact": dice.word(&["dev", "ops", "me", "a", "read"])}),
        };
        json!({format!("@request.auth.claims{name}"): value})
    };
    let mut http: Vec<Value> = Vec::new();
    for index in 0..dice.below(3) {
        let claims = of_claim(dice);
        let mut matching = json!({"headers": claims});
        if dice.chance(25) {
            matching = json!({"withoutHeaders": claims});
        }
        http.push(json!({"name": format!("claims-{index}"), "match": [matching],
            "directResponse": {"status": 200 + index, "body": {"string": format!("claims {index}")}}}));
    }
    http.push(json!({"name": "rest", "route": [{"destination": {"host": "client.shop.svc.cluster.local", "port": {"number": 80}}}]}));
    vec![
        json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "shop"},
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
                {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]},
                {"port": {"number": 31400, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]}]}}),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "edge", "namespace": "shop"},
            "spec": {"hosts": ["*"], "gateways": ["edge"], "http": http,
                "tcp": [{"match": [{"port": 31400}], "route": [{"destination": {"host": "client.shop.svc.cluster.local", "port": {"number": 9000}}}]}]}}),
    ]
}

fn jwt_rule(dice: &mut Dice) -> Value {
    let issuer = dice.word(&ISSUERS[..3]);
    let mut rule = json!({"issuer": issuer, "jwks": keys(issuer)});
    if dice.chance(25) {
        rule["audiences"] = json!([dice.word(&AUDIENCES), dice.word(&AUDIENCES)]);
    }
    if dice.chance(25) {
        rule["fromHeaders"] = json!([{"name": "x-token", "prefix": dice.word(&["Token ", ""])}]);
    }
    if dice.chance(20) {
        rule["fromParams"] = json!(["t"]);
    }
    if dice.chance(15) {
        rule["fromCookies"] = json!(["c"]);
    }
    if dice.chance(30) {
        rule["forwardOriginalToken"] = json!(true);
    }
    if dice.chance(20) {
        rule["outputPayloadToHeader"] = json!("x-payload");
    }
    if dice.chance(30) {
        rule["outputClaimToHeaders"] = json!([{"header": "x-sub", "claim": "sub"}, {"header": "x-role", "claim": dice.word(&["roles", "deep.er", "scope"])}]);
    }
    if dice.chance(15) {
        rule["spaceDelimitedClaims"] = json!(["azp"]);
    }
    rule
}

/// A rule with each part at times.
fn rule(dice: &mut Dice, round: u64) -> Value {
    let mut rule = json!({});
    if dice.chance(60) {
        rule["from"] =
            json!((0..1 + dice.below(2)).map(|_| json!({"source": source(dice, round)})).collect::<Vec<_>>());
    }
    if dice.chance(70) {
        rule["to"] = json!((0..1 + dice.below(2)).map(|_| json!({"operation": operation(dice)})).collect::<Vec<_>>());
    }
    if dice.chance(40) {
        rule["when"] = json!((0..1 + dice.below(2)).map(|_| condition(dice, round)).collect::<Vec<_>>());
    }
    rule
}

fn words(dice: &mut Dice, from: &[&str]) -> Value {
    json!((0..1 + dice.below(3)).map(|_| dice.word(from).to_owned()).collect::<Vec<_>>())
}

/// Fills a list of a name, or its opposite, or both.
fn fill(dice: &mut Dice, of: &mut Value, name: &str, not_name: &str, mut values: impl FnMut(&mut Dice) -> Value) {
    match dice.below(10) {
        0..6 => of[name] = values(dice),
        6..9 => of[not_name] = values(dice),
        _ => {
            of[name] = values(dice);
            of[not_name] = values(dice);
        }
    }
}

fn source(dice: &mut Dice, round: u64) -> Value {
    let mut source = json!({});
    for _ in 0..1 + dice.below(2) {
        let (name, not_name) = *dice.pick(&[
            ("principals", "notPrincipals"),
            ("principals", "notPrincipals"),
            ("requestPrincipals", "notRequestPrincipals"),
            ("requestPrincipals", "notRequestPrincipals"),
            ("namespaces", "notNamespaces"),
            ("serviceAccounts", "notServiceAccounts"),
            ("trustDomains", "notTrustDomains"),
            ("ipBlocks", "notIpBlocks"),
            ("ipBlocks", "notIpBlocks"),
            ("remoteIpBlocks", "notRemoteIpBlocks"),
        ]);
        fill(dice, &mut source, name, not_name, |dice| match name {
            "principals" => list(dice, principal),
            "requestPrincipals" => list(dice, request_principal),
            "namespaces" => words(dice, NAMESPACES),
            "serviceAccounts" => words(dice, ACCOUNTS),
            "trustDomains" => words(dice, DOMAINS),
            "ipBlocks" => list(dice, |dice| block(dice, round)),
            _ => list(dice, |dice| remote_block(dice, round)),
        });
    }
    source
}

fn list(dice: &mut Dice, mut one: impl FnMut(&mut Dice) -> String) -> Value {
    json!((0..1 + dice.below(3)).map(|_| one(dice)).collect::<Vec<_>>())
}

fn principal(dice: &mut Dice) -> String {
    match dice.below(8) {
        0 => "*".to_owned(),
        1 => "cluster.local/*".to_owned(),
        2 => format!("*/sa/{}", dice.word(&["web", "default"])),
        3 => format!("cluster.local/ns/{}/*", dice.word(&["shop", "other"])),
        _ => {
            let domain = dice.word(&["cluster.local", "cluster.local", "old.test"]);
            format!("{domain}/ns/{}/sa/{}", dice.word(&["shop", "other"]), dice.word(&["web", "default"]))
        }
    }
}

fn request_principal(dice: &mut Dice) -> String {
    let (issuer, subject) = (dice.word(&ISSUERS), dice.word(&SUBJECTS));
    match dice.below(8) {
        0 | 1 => "*".to_owned(),
        2 => format!("{issuer}/*"),
        3 => format!("*/{subject}"),
        4 => format!("{issuer}/{}*", &subject[..1]),
        5 => format!("*{}", &subject[1..]),
        _ => format!("{issuer}/{subject}"),
    }
}

/// Some of a round's clients.
fn block(dice: &mut Dice, round: u64) -> String {
    let client = network::client(round as u32 * super::ROUND as u32 + dice.below(super::ROUND) as u32);
    match dice.below(10) {
        0 => "10.16.0.0/12".to_owned(),
        1 => "0.0.0.0/0".to_owned(),
        2 => "::/0".to_owned(),
        3 => client.to_string(),
        _ => format!("{client}/{}", 25 + dice.below(4)),
    }
}

fn remote_block(dice: &mut Dice, round: u64) -> String {
    match dice.below(4) {
        0 => "1.2.3.4".to_owned(),
        1 => "1.2.0.0/16".to_owned(),
        2 => "9.0.0.0/8".to_owned(),
        _ => block(dice, round),
    }
}

fn operation(dice: &mut Dice) -> Value {
    let mut operation = json!({});
    for _ in 0..1 + dice.below(2) {
        let (name, not_name, from) = *dice.pick(&[
            ("paths", "notPaths", PATHS),
            ("paths", "notPaths", PATHS),
            ("methods", "notMethods", &["GET", "POST", "P*", "*T", "*", "get"][..]),
            ("hosts", "notHosts", &["client.shop", "edge.test", "*.test", "CLIENT*", "*", "client.shop:80"][..]),
            ("ports", "notPorts", PORTS),
        ]);
        fill(dice, &mut operation, name, not_name, |dice| words(dice, from));
    }
    operation
}

fn condition(dice: &mut Dice, round: u64) -> Value {
    let key = dice.word(&[
        "request.headers[x-a]",
        "request.headers[x-a]",
        "request.headers[X-B]",
        "request.headers[:method]",
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.principal",
        "source.serviceAccount",
        "source.trustDomain",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[roles]",
        "request.auth.claims[roles]",
        "request.auth.claims[scope]",
        "request.auth.claims[deep][er]",
        "request.auth.claims[group.s]",
        "request.auth.claims[sub]",
        "destination.ip",
        "destination.port",
        "connection.sni",
        "experimental.envoy.filters.network.mysql_proxy[a.b]",
    ]);
    let mut condition = json!({"key": key});
    fill(dice, &mut condition, "values", "notValues", |dice| match key {
        "request.headers[:method]" => words(dice, METHODS),
        "source.ip" => list(dice, |dice| block(dice, round)),
        "remote.ip" => list(dice, |dice| remote_block(dice, round)),
        "source.namespace" => words(dice, NAMESPACES),
        "source.principal" => list(dice, principal),
        "source.serviceAccount" => words(dice, ACCOUNTS),
        "source.trustDomain" => words(dice, DOMAINS),
        "request.auth.principal" => list(dice, request_principal),
        "request.auth.audiences" => words(dice, &AUDIENCES),
        "request.auth.presenter" | "request.auth.claims[sub]" => words(dice, &SUBJECTS),
        "destination.ip" => words(dice, &["10.244.0.5", "10.244.0.0/30", "10.244.0.2", "::1"]),
        "destination.port" => words(dice, PORTS),
        "connection.sni" => words(dice, &["edge.test", "*.test", "*"]),
        "experimental.envoy.filters.network.mysql_proxy[a.b]" => words(dice, &["[insert]", "x*", "*"]),
        key if key.starts_with("request.headers") => words(dice, &["1", "a", "a*", "*b", "*", "a,b"]),
        _ => words(dice, &[&ROLES[..], &["a*", "*s", "*"]].concat()),
    });
    condition
}
