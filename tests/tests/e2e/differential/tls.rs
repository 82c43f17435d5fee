//! TLS between two listeners of one proxy: what a handshake comes to, and what is said of it.

use std::sync::OnceLock;

use base64::Engine as _;
use lateen_tests::bootstrap::{Layout, cluster, http, http2_upstream, listener, merge, router, tcp};
use lateen_tests::case::Case;
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::tls::{Authority, Certified, downstream, upstream};
use serde_json::{Value, json};

struct Pki {
    ours: Authority,
    theirs: Authority,
    server: Certified,
    client: Certified,
    revoked: Certified,
    expired: Certified,
    stranger: Certified,
    foreign: Certified,
}

fn pki() -> &'static Pki {
    static MADE: OnceLock<Pki> = OnceLock::new();
    MADE.get_or_init(|| {
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        Pki {
            server: ours.sign("a.test", "spiffe://mesh.test/ns/x/sa/server"),
            client: ours.sign("c.test", "spiffe://mesh.test/ns/x/sa/client"),
            revoked: ours
                .sign_with("c.test", "spiffe://mesh.test/ns/x/sa/revoked", |p| p.serial_number = Some(77.into())),
            expired: ours.sign_with("c.test", "spiffe://mesh.test/ns/x/sa/expired", |p| {
                p.not_after = rcgen::date_time_ymd(2020, 1, 1);
            }),
            stranger: theirs.sign("c.test", "spiffe://mesh.test/ns/x/sa/client"),
            foreign: ours.sign("c.test", "spiffe://other.test/ns/x/sa/client"),
            ours,
            theirs,
        }
    })
}

/// Contexts of listeners that end TLS.
fn servers() -> Vec<(&'static str, Value)> {
    let p = pki();
    let ca = |ca: &str| json!({"trusted_ca": {"inline_string": ca}});
    let san = json!({"match_typed_subject_alt_names": [
        {"san_type": "URI", "matcher": {"prefix": "spiffe://mesh.test/"}}]});
    let with = |validation: Value, required: bool| {
        json!({"common_tls_context": {
            "tls_certificates": [p.server.json()],
            "alpn_protocols": ["h2", "http/1.1"],
            "validation_context": validation,
        }, "require_client_certificate": required})
    };
    let both = |more: Value| {
        let mut all = ca(&p.ours.pem);
        merge(&mut all, san.clone());
        merge(&mut all, more);
        all
    };
    vec![
        ("in-simple", json!({"common_tls_context": {"tls_certificates": [p.server.json()]}})),
        ("in-mutual", with(both(json!({})), true)),
        ("in-optional", with(both(json!({})), false)),
        ("in-untrusted", with(both(json!({"trust_chain_verification": "ACCEPT_UNTRUSTED"})), true)),
        ("in-crl", with(both(json!({"crl": {"inline_string": p.ours.revoke(77u64)}})), true)),
        ("in-tls12", {
            let mut context = with(both(json!({})), true);
            merge(
                &mut context,
                json!({"common_tls_context": {"tls_params": {"tls_maximum_protocol_version": "TLSv1_2"}}}),
            );
            context
        }),
    ]
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

/// Hosts' contexts: cluster, listener it leads to, context.
fn clients() -> Vec<(String, &'static str, Value)> {
    let p = pki();
    let own = |pair: &Certified| {
        json!({"common_tls_context": {
        "tls_certificates": [pair.json()],
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
    }, "sni": "a.test"})
    };
    let checks = |rules: Value| {
        let mut context = json!({"common_tls_context": {"validation_context": rules}});
        merge(&mut context, own(&p.client));
        context
    };
    let ca = |more: Value| {
        let mut rules = json!({"trusted_ca": {"inline_string": p.ours.pem}});
        merge(&mut rules, more);
        checks(rules)
    };
    let san = |kind: &str, matcher: Value| {
        ca(json!({"match_typed_subject_alt_names": [{"san_type": kind, "matcher": matcher}]}))
    };
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let newest = json!({"tls_params": {"tls_maximum_protocol_version": "TLSv1_3"}});
    let bare = json!({"common_tls_context": newest, "sni": "a.test"});
    let nameless = json!({"common_tls_context": newest});
    let mut all: Vec<(String, &'static str, Value)> = Vec::new();
    let mut add = |name: &str, to: &'static str, context: Value| all.push((name.to_owned(), to, context));
    add("bare", "in-simple", bare.clone());
    add("no-sni", "in-simple", nameless);
    add("ca", "in-simple", ca(json!({})));
    add("other-ca", "in-simple", checks(json!({"trusted_ca": {"inline_string": p.theirs.pem}})));
    add("san-uri", "in-simple", san("URI", json!({"exact": "spiffe://mesh.test/ns/x/sa/server"})));
    add("san-uri-suffix", "in-simple", san("URI", json!({"suffix": "/sa/server"})));
    add("san-uri-regex", "in-simple", san("URI", json!({"safe_regex": {"regex": "spiffe://[a-z.]+/ns/x/sa/server"}})));
    add("san-uri-wrong", "in-simple", san("URI", json!({"exact": "spiffe://mesh.test/ns/x/sa/other"})));
    add("san-dns", "in-simple", san("DNS", json!({"exact": "a.test"})));
    add("san-dns-wrong", "in-simple", san("DNS", json!({"exact": "b.test"})));
    add("san-kind-wrong", "in-simple", san("DNS", json!({"exact": "spiffe://mesh.test/ns/x/sa/server"})));
    add("pin", "in-simple", ca(json!({"verify_certificate_hash": [hex(&hash(&p.server.der))]})));
    add("pin-wrong", "in-simple", ca(json!({"verify_certificate_hash": [hex(&hash(b"x"))]})));
    add("key-pin", "in-simple", ca(json!({"verify_certificate_spki": [base64(&hash(&p.server.public_key))]})));
    add("key-pin-wrong", "in-simple", ca(json!({"verify_certificate_spki": [base64(&hash(b"x"))]})));
    add(
        "accept-untrusted",
        "in-simple",
        checks(json!({
        "trusted_ca": {"inline_string": p.theirs.pem}, "trust_chain_verification": "ACCEPT_UNTRUSTED"})),
    );
    add("mutual", "in-mutual", own(&p.client));
    add("mutual-expired", "in-mutual", own(&p.expired));
    add("mutual-stranger", "in-mutual", own(&p.stranger));
    add("mutual-foreign", "in-mutual", own(&p.foreign));
    add("mutual-none", "in-mutual", bare.clone());
    add("optional-none", "in-optional", bare.clone());
    add("optional", "in-optional", own(&p.client));
    add("optional-stranger", "in-optional", own(&p.stranger));
    add("untrusted", "in-untrusted", own(&p.stranger));
    add("crl", "in-crl", own(&p.client));
    add("crl-revoked", "in-crl", own(&p.revoked));
    add("tls12", "in-tls12", own(&p.client));
    add("tls12-none", "in-tls12", bare.clone());
    add("tls12-stranger", "in-tls12", own(&p.stranger));
    add(
        "too-new",
        "in-tls12",
        json!({"common_tls_context": {"tls_params": {
        "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}}, "sni": "a.test"}),
    );
    add("to-plain", "in-plain", bare);
    all
}

/// What becomes of the header that tells of the client's certificate: listener, mode, what is told.
const XFCC: [(&str, &str, &[&str]); 8] = [
    ("in-sanitize", "SANITIZE", &["subject", "uri"]),
    ("in-forward", "FORWARD_ONLY", &["subject", "uri"]),
    ("in-append", "APPEND_FORWARD", &["subject", "uri", "dns"]),
    ("in-append-all", "APPEND_FORWARD", &["subject", "cert", "chain", "uri", "dns"]),
    ("in-append-none", "APPEND_FORWARD", &[]),
    ("in-set", "SANITIZE_SET", &["subject", "cert", "uri", "dns"]),
    ("in-set-chain", "SANITIZE_SET", &["chain"]),
    ("in-always", "ALWAYS_FORWARD_ONLY", &["subject", "uri"]),
];

/// Names that policies ask for, by the path that they are about.
const ASKED: [(&str, &str); 6] = [
    ("/rbac-uri", "spiffe://mesh.test/ns/x/sa/client"),
    ("/rbac-dns", "c.test"),
    ("/rbac-subject", "O=Lateen\\, t\\C3\\A9sts"),
    ("/rbac-issuer", "CN=ours"),
    ("/rbac-wrong", "spiffe://mesh.test/ns/x/sa/other"),
    ("/rbac-empty", ""),
];

/// Policies by who is authenticated.
fn rbac() -> Value {
    let policy = |(path, name): (&str, &str)| {
        (
            path.to_owned(),
            json!({
                "permissions": [{"url_path": {"path": {"exact": path}}}],
                "principals": [{"authenticated": {"principal_name": {"exact": name}}}],
            }),
        )
    };
    let mut policies: serde_json::Map<String, Value> = ASKED.into_iter().map(policy).collect();
    policies.insert(
        "/rbac-any".to_owned(),
        json!({
        "permissions": [{"url_path": {"path": {"exact": "/rbac-any"}}}], "principals": [{"authenticated": {}}]}),
    );
    json!({"name": "rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": "ALLOW", "policies": policies}}})
}

const ABOUT_PEER: &[(&str, &str)] = &[
    ("x-uri", "%DOWNSTREAM_PEER_URI_SAN%"),
    ("x-dns", "%DOWNSTREAM_PEER_DNS_SAN%"),
    ("x-subject", "%DOWNSTREAM_PEER_SUBJECT%"),
    ("x-issuer", "%DOWNSTREAM_PEER_ISSUER%"),
    ("x-serial", "%DOWNSTREAM_PEER_SERIAL%"),
    ("x-fingerprint", "%DOWNSTREAM_PEER_FINGERPRINT_256%"),
    ("x-local-uri", "%DOWNSTREAM_LOCAL_URI_SAN%"),
    ("x-local-subject", "%DOWNSTREAM_LOCAL_SUBJECT%"),
    ("x-version", "%DOWNSTREAM_TLS_VERSION%"),
    ("x-sni", "%REQUESTED_SERVER_NAME%"),
];

fn resources(layout: &Layout) -> Resources {
    let peer: Vec<Value> =
        ABOUT_PEER.iter().map(|(name, value)| json!({"header": {"key": name, "value": value}})).collect();
    let inner = |name: &str| {
        let routes = json!([{"name": "all", "domains": ["*"], "request_headers_to_add": peer,
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]);
        let xfcc = json!({
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"subject": true, "uri": true, "dns": true},
            "generate_request_id": false,
        });
        listener(layout, name, http(layout, name, routes, xfcc))
    };
    let mut listeners = vec![inner("in-plain")];
    for (name, context) in servers() {
        let mut one = inner(name);
        one["filter_chains"][0]["transport_socket"] = downstream(context);
        listeners.push(one);
    }
    let optional = |name: &str| servers().into_iter().find(|(known, _)| *known == name).expect("a context").1;
    for (name, mode, told) in XFCC {
        let told: serde_json::Map<String, Value> = told.iter().map(|what| ((*what).to_owned(), true.into())).collect();
        let xfcc = json!({"forward_client_cert_details": mode, "set_current_client_cert_details": told,
            "generate_request_id": false});
        let routes = json!([{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]);
        let mut one = listener(layout, name, http(layout, name, routes, xfcc));
        one["filter_chains"][0]["transport_socket"] = downstream(optional("in-optional"));
        listeners.push(one);
    }
    let routes = json!([{"name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]);
    let filters = json!({"http_filters": [rbac(), router()]});
    let mut ruled = listener(layout, "in-rbac", http(layout, "in-rbac", routes, filters));
    ruled["filter_chains"][0]["transport_socket"] = downstream(optional("in-optional"));
    listeners.push(ruled);
    let mut echo = listener(layout, "in-tcp", tcp(layout, "in-tcp", json!({"cluster": "up"})));
    echo["filter_chains"][0]["transport_socket"] =
        downstream(json!({"common_tls_context": {"tls_certificates": [pki().server.json()]}}));
    listeners.push(echo);
    let own = |name: &str, target: &str, context: Option<Value>, more: Value| {
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": layout.listener(target)}});
        let mut out = cluster(layout, name, &[], more);
        out["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
        if let Some(context) = context {
            out["transport_socket"] = upstream(context);
        }
        out
    };
    let mut clusters = vec![cluster(layout, "up", &["up"], json!({}))];
    let mut routes = Vec::new();
    for (name, to, context) in clients() {
        routes.push(json!({"match": {"path": format!("/{name}")}, "route": {"cluster": name}}));
        clusters.push(own(&name, to, Some(context), json!({})));
    }
    routes.push(json!({"match": {"path": "/from-plain"}, "route": {"cluster": "from-plain"}}));
    clusters.push(own("from-plain", "in-simple", None, json!({})));
    let mut h2 = clients().into_iter().find(|(name, ..)| name == "mutual").expect("mutual").2;
    merge(&mut h2, json!({"common_tls_context": {"alpn_protocols": ["h2"]}}));
    routes.push(json!({"match": {"path": "/h2"}, "route": {"cluster": "h2"}}));
    clusters.push(own("h2", "in-mutual", Some(h2), http2_upstream()));
    let known = clients().into_iter().find(|(name, ..)| name == "mutual").expect("mutual").2;
    let unknown = clients().into_iter().find(|(name, ..)| name == "bare").expect("bare").2;
    for (listener, ..) in XFCC {
        for (who, context) in [("known", &known), ("unknown", &unknown)] {
            let name = format!("{listener}-{who}");
            routes.push(json!({"match": {"path": format!("/{name}")}, "route": {"cluster": name}}));
            clusters.push(own(&name, listener, Some(context.clone()), json!({})));
        }
    }
    for (who, context) in [("known", known), ("unknown", unknown)] {
        let name = format!("rbac-{who}");
        routes.push(json!({"match": {"prefix": "/rbac-",
            "headers": [{"name": "x-who", "string_match": {"exact": who}}]}, "route": {"cluster": name}}));
        clusters.push(own(&name, "in-rbac", Some(context), json!({})));
    }
    let simple = json!({"common_tls_context": {}, "sni": "a.test"});
    clusters.push(own("tcp", "in-tcp", Some(simple), json!({})));
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    listeners.push(listener(layout, "main", http(layout, "main", hosts, json!({}))));
    listeners.push(listener(layout, "out-tcp", tcp(layout, "out-tcp", json!({"cluster": "tcp"}))));
    (listeners, clusters)
}

fn cases() -> Vec<Case> {
    let mut names: Vec<String> = clients().into_iter().map(|(name, ..)| name).collect();
    names.extend(["from-plain".to_owned(), "h2".to_owned()]);
    let forged = "x-forwarded-client-cert: By=spiffe://x;Hash=00;URI=spiffe://mesh.test/ns/x/sa/admin";
    let mut cases: Vec<Case> = names.iter().map(|name| Case::get_with(name, &format!("/{name}"), &[forged])).collect();
    // Who lacks a certificate in TLS 1.2 is told so by another alert, which nobody but the log tells apart.
    for (listener, ..) in XFCC {
        for who in ["known", "unknown"] {
            let path = format!("/{listener}-{who}");
            cases.push(Case::get_with(&format!("{listener} {who} forged"), &path, &[forged]));
            cases.push(Case::get(&format!("{listener} {who}"), &path));
        }
    }
    for who in ["known", "unknown"] {
        for path in ASKED.iter().map(|(path, _)| *path).chain(["/rbac-any", "/rbac-other"]) {
            cases.push(Case::get_with(&format!("{path} {who}"), path, &[&format!("x-who: {who}")]));
        }
    }
    cases.iter_mut().filter(|case| case.name == "tls12-none").for_each(|case| case.by_chance = true);
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls() {
    let listeners = &[
        "in-plain",
        "in-simple",
        "in-mutual",
        "in-optional",
        "in-untrusted",
        "in-crl",
        "in-tls12",
        "in-tcp",
        "in-sanitize",
        "in-forward",
        "in-append",
        "in-append-all",
        "in-append-none",
        "in-set",
        "in-set-chain",
        "in-always",
        "in-rbac",
        "main",
        "out-tcp",
    ];
    let world = World {
        name: "tls",
        listeners,
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}
