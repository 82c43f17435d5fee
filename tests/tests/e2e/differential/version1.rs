//! Certificates of version 1, which have no extensions: whom they are shown to, and when they are believed.

use std::sync::OnceLock;

use base64::Engine as _;
use lateen_tests::bootstrap::{Layout, cluster, http, listener, merge};
use lateen_tests::case::Case;
use lateen_tests::differential::{Outcome, Resources, Source, World, play};
use lateen_tests::proxy::Kind;
use lateen_tests::tls::{Authority, Certified, downstream, upstream, version1};
use serde_json::{Value, json};

struct Pki {
    ours: Authority,
    /// One of version 1 that is trusted.
    old: Certified,
    /// What is shown, by name.
    shown: Vec<(&'static str, Certified)>,
}

/// With what was signed, or the signature, changed by one bit.
fn forged(certified: Certified, in_signature: bool) -> Certified {
    let mut der = certified.der.clone();
    // The subject's name is the last text of the certificate but for the key.
    let name = der.windows(6).rposition(|bytes| bytes == b"forged").expect("the name");
    let at = if in_signature { der.len() - 1 } else { name };
    der[at] ^= 1;
    let text = base64::engine::general_purpose::STANDARD.encode(&der);
    let certificate = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    Certified { certificate, der, ..certified }
}

fn pki() -> &'static Pki {
    static MADE: OnceLock<Pki> = OnceLock::new();
    MADE.get_or_init(|| {
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        // Called as ours is.
        let false_ours = Authority::new("ours");
        let old = version1(None, "old", 1, 30);
        let below = ours.intermediate("below");
        let by = |authority: &Authority, name: &str, serial, days| {
            version1(Some((&authority.pem, &authority.key)), name, serial, days)
        };
        let chained = |mut leaf: Certified, over: &str| {
            leaf.certificate.push_str(over);
            leaf
        };
        // It has a key, a certificate, and nothing that says that it may sign.
        let no_authority = by(&ours, "clerk", 5, 30);
        let clerk = (no_authority.certificate.as_str(), no_authority.key.as_str());
        let shown = vec![
            ("good", by(&ours, "good", 0, 30)),
            ("revoked", by(&ours, "revoked", 77, 30)),
            ("expired", by(&ours, "expired", 2, -1)),
            ("stranger", by(&theirs, "stranger", 3, 30)),
            ("namesake", by(&false_ours, "namesake", 4, 30)),
            ("below", chained(by(&below, "below-us", 6, 30), &below.pem)),
            ("gap", by(&below, "gap", 7, 30)),
            ("clerk", chained(version1(Some(clerk), "by-clerk", 8, 30), &no_authority.certificate)),
            ("old", version1(Some((&old.certificate, &old.key)), "old-leaf", 9, 30)),
            ("itself", version1(None, "itself", 10, 30)),
            ("forged", forged(by(&ours, "forged", 11, 30), false)),
            ("forged-signature", forged(by(&ours, "forged", 12, 30), true)),
        ];
        Pki { ours, old, shown }
    })
}

/// What is demanded of who shows one, by name.
fn demands() -> Vec<(&'static str, Value)> {
    let p = pki();
    let trusted = json!({"inline_string": format!("{}{}", p.ours.pem, p.old.certificate)});
    let good = &p.shown[0].1;
    let hash = |bytes: &[u8]| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec();
    let hexadecimal: String = hash(&good.der).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = base64::engine::general_purpose::STANDARD.encode(hash(&good.public_key));
    let of = |more: Value| {
        let mut rules = json!({"trusted_ca": trusted});
        merge(&mut rules, more);
        rules
    };
    vec![
        ("chain", of(json!({}))),
        ("crl", of(json!({"crl": {"inline_string": p.ours.revoke(77u64)}, "only_verify_leaf_cert_crl": true}))),
        ("name", of(json!({"match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "good"}}]}))),
        ("pin", of(json!({"verify_certificate_hash": [hexadecimal]}))),
        ("key-pin", of(json!({"verify_certificate_spki": [key]}))),
        ("late", of(json!({"allow_expired_certificate": true}))),
        ("untrusted", of(json!({"trust_chain_verification": "ACCEPT_UNTRUSTED"}))),
        ("anybody", json!({})),
        ("only-itself", json!({"trusted_ca": {"inline_string": p.shown[9].1.certificate}})),
    ]
}

const VERSIONS: [&str; 2] = ["TLSv1_2", "TLSv1_3"];

fn resources(layout: &Layout) -> Resources {
    let p = pki();
    let about = [
        ("x-subject", "%DOWNSTREAM_PEER_SUBJECT%"),
        ("x-issuer", "%DOWNSTREAM_PEER_ISSUER%"),
        ("x-serial", "%DOWNSTREAM_PEER_SERIAL%"),
        ("x-until", "%DOWNSTREAM_PEER_CERT_V_END%"),
        ("x-validated", "%DOWNSTREAM_PEER_FINGERPRINT_256%"),
    ]
    .map(|(name, value)| json!({"header": {"key": name, "value": value}}));
    let ends = |name: &str, context: Value| {
        let routes = json!([{"name": "all", "domains": ["*"], "request_headers_to_add": about,
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]);
        let xfcc = json!({"forward_client_cert_details": "SANITIZE_SET", "generate_request_id": false,
            "set_current_client_cert_details": {"subject": true, "uri": true, "dns": true}});
        let mut one = listener(layout, name, http(layout, name, routes, xfcc));
        one["filter_chains"][0]["transport_socket"] = downstream(context);
        one
    };
    let server = |shown: &Certified| json!({"common_tls_context": {"tls_certificates": [shown.json()]}});
    let mut listeners: Vec<Value> = demands()
        .into_iter()
        .map(|(name, rules)| {
            let mut context = server(&p.shown[0].1);
            merge(
                &mut context,
                json!({"common_tls_context": {"validation_context": rules}, "require_client_certificate": true}),
            );
            ends(&format!("asks-{name}"), context)
        })
        .collect();
    listeners.extend(p.shown.iter().map(|(name, shown)| ends(&format!("shows-{name}"), server(shown))));
    let mut clusters = vec![cluster(layout, "up", &["up"], json!({}))];
    let mut routes = Vec::new();
    let mut add = |name: String, target: &str, common: Value| {
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": layout.listener(target)}});
        let mut one = cluster(layout, &name, &[], json!({}));
        one["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
        one["transport_socket"] = upstream(json!({"common_tls_context": common, "sni": "good"}));
        routes.push(json!({"match": {"path": format!("/{name}")}, "route": {"cluster": name}}));
        clusters.push(one);
    };
    for (demand, rules) in demands() {
        for (who, shown) in &p.shown {
            for version in VERSIONS {
                let version = json!({"tls_maximum_protocol_version": version});
                let name = format!("{demand}-of-client-{who}-{}", version_of(&version));
                let common = json!({"tls_certificates": [shown.json()], "tls_params": version});
                add(name, &format!("asks-{demand}"), common);
                let name = format!("{demand}-of-server-{who}-{}", version_of(&version));
                add(name, &format!("shows-{who}"), json!({"validation_context": rules, "tls_params": version}));
            }
        }
    }
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    listeners.push(listener(layout, "main", http(layout, "main", hosts, json!({}))));
    (listeners, clusters)
}

fn version_of(parameters: &Value) -> &str {
    parameters["tls_maximum_protocol_version"].as_str().expect("a version")
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (demand, _) in demands() {
        for (who, _) in &pki().shown {
            for (side, version) in ["client", "server"].into_iter().flat_map(|side| VERSIONS.map(|v| (side, v))) {
                // Its dates are the wrong way round, as openssl lets them be: no time is good. Envoy asks no client for a
                // certificate of which nothing is demanded.
                if (demand, *who) != ("late", "expired") && (demand, side) != ("anybody", "client") {
                    let name = format!("{demand}-of-{side}-{who}-{version}");
                    all.push(Case::get(&name, &format!("/{name}")));
                }
            }
        }
    }
    all
}

/// What came of a case; why it was refused is said in other words.
fn without_reason(outcome: &Outcome) -> (&[String], &[String]) {
    (&outcome.client, &outcome.upstream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_version_1() {
    let listeners = &[
        "asks-chain",
        "asks-crl",
        "asks-name",
        "asks-pin",
        "asks-key-pin",
        "asks-late",
        "asks-untrusted",
        "asks-anybody",
        "asks-only-itself",
        "shows-good",
        "shows-revoked",
        "shows-expired",
        "shows-stranger",
        "shows-namesake",
        "shows-below",
        "shows-gap",
        "shows-clerk",
        "shows-old",
        "shows-itself",
        "shows-forged",
        "shows-forged-signature",
        "main",
    ];
    let world = World {
        name: "version1",
        listeners,
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    let theirs = play(&world, Kind::Envoy, Source::File).await;
    let ours = play(&world, Kind::Lateen, Source::File).await;
    let served = |outcome: &Outcome| outcome.client.iter().any(|line| line.starts_with("< HTTP/1.1 200"));
    let mut different = Vec::new();
    for (name, theirs) in &theirs {
        let ours = &ours[name];
        // A wrong signature that is accepted all the same stays in BoringSSL's list of errors, where the next step of
        // the handshake finds it.
        let left_over = name.starts_with("untrusted-of-server-") && name.ends_with("TLSv1_2") && !served(theirs);
        if left_over && ["namesake", "forged"].iter().any(|who| name.contains(who)) {
            assert!(served(ours), "{name}: {ours:?}");
        } else if without_reason(theirs) != without_reason(ours) {
            different.push(format!("{name}\n  {theirs:?}\n  {ours:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    let believed: Vec<&str> = pki()
        .shown
        .iter()
        .map(|(who, _)| *who)
        .filter(|who| ["client", "server"].iter().any(|side| served(&ours[&format!("chain-of-{side}-{who}-TLSv1_3")])))
        .collect();
    assert_eq!(believed, ["good", "revoked", "below", "old"]);
}
