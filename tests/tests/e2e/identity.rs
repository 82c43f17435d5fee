//! A workload's certificate in the hands of the real Envoy: it takes what the agent tells by SDS, proves itself with it,
//! and goes on while certificates are renewed and their root is followed by another.

use std::path::Path;
use std::time::{Duration, SystemTime};

use lateen_citadel::agent::{Agent, Options};
use lateen_citadel::authority::Issuer;
use lateen_citadel::key::KeyType;
use lateen_tests::agent;
use lateen_tests::bootstrap::{self, Layout, http, listener, merge};
use lateen_tests::load::Target;
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::wait;
use serde_json::{Value, json};

const ROOT_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Of certificates: renewed after six of it, so that a slow machine has time.
const LIFE: Duration = Duration::from_secs(16);
const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// `plain` sends to `secure`, which answers, over mutual TLS: both are the workload.
fn file(layout: &Layout, options: &Options) -> Value {
    let secret = |name: &str| {
        json!({"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": {
            "api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
        }}})
    };
    let peer = json!({"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": IDENTITY}}]});
    let own = json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [secret("default")],
        "combined_validation_context": {
            "default_validation_context": peer, "validation_context_sds_secret_config": secret("ROOTCA"),
        },
    });
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
    let downstream = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{tls}.DownstreamTlsContext"), "common_tls_context": own, "require_client_certificate": true,
    }});
    let upstream = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{tls}.UpstreamTlsContext"), "common_tls_context": own,
    }});
    let header = |name: &str, value: &str| json!({"header": {"key": name, "value": value}});
    let answer = json!([{"name": "secure", "domains": ["*"], "routes": [{
        "match": {"prefix": "/"}, "direct_response": {"status": 200},
        "response_headers_to_add": [
            header("x-peer", "%DOWNSTREAM_PEER_URI_SAN%"), header("x-serial", "%DOWNSTREAM_PEER_SERIAL%"),
            header("x-issuer", "%DOWNSTREAM_PEER_ISSUER%"),
        ],
    }]}]);
    let pass = json!([{"name": "plain", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": "secure"}},
    ]}]);
    let mut secure = listener(layout, "secure", http(layout, "secure", answer, json!({})));
    merge(&mut secure["filter_chains"][0], json!({"transport_socket": downstream}));
    let once = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"max_requests_per_connection": 1},
        "explicit_http_config": {"http_protocol_options": {}},
    }});
    let secure_at = json!({"socket_address": {"address": "127.0.0.1", "port_value": layout.listener("secure")}});
    let onward = json!({"name": "secure", "type": "STATIC", "transport_socket": upstream,
    "typed_extension_protocol_options": once,
    "load_assignment": {"cluster_name": "secure", "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": secure_at}},
    ]}]}});
    let plain = listener(layout, "plain", http(layout, "plain", pass, json!({})));
    bootstrap::fixed(layout, &[secure, plain], &[onward, agent::cluster(&options.secrets_socket)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_takes_certificates_as_they_come() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, options) = agent::begin(directory.path(), IDENTITY, LIFE, None).await;
    let layout = Layout::new(directory.path(), &["plain", "secure"], &[]);
    let file = file(&layout, &options);
    let agent = Agent::start(options).unwrap();
    tokio::spawn(agent.run());
    let mut proxy = Proxy::start(Kind::Envoy, &file, layout.admin, directory.path()).await;
    let target = Target::new(([127, 0, 0, 1], layout.listener("plain")).into(), "web", "/");
    let ask = || async {
        let answer = target.ask().await.unwrap();
        let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        (answer.status(), header("x-peer"), header("x-serial"), header("x-issuer"), answer.text())
    };
    // Envoy is live before its secrets are there.
    let first = wait::within(wait::PATIENCE, || async { Some(ask().await).filter(|answer| answer.0 == 200) }).await;
    let (_, _, mut serial, old_root, _) = first.unwrap_or_else(|| panic!("{}", proxy.process.output()));
    let mut renewals = 0;
    let mut followed = false;
    while !followed || renewals < 4 {
        let (status, peer, now, root, text) = ask().await;
        if (status, peer.as_str()) != (200, IDENTITY) {
            let log = std::fs::read_to_string(layout.access_log()).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(6).collect();
            panic!("{status} {peer}: {text}\n{}\n{}", last.join("\n"), proxy.process.output());
        }
        if now != serial {
            (serial, renewals) = (now, renewals + 1);
            if renewals == 1 {
                // The file of roots says nothing of it: the authority does.
                let next =
                    Issuer::self_signed(&agent::domain(), KeyType::EcdsaP256, ROOT_LIFE, SystemTime::now()).unwrap();
                assert!(ca.follow(&next.to_files()).unwrap());
            }
            assert!(renewals < 20, "the new root signs long before");
        }
        followed |= root != old_root;
    }
    assert!(proxy.process.ended().is_none());
}

/// A list of the authority's, in PEM, of one revoked certificate.
fn revoked(directory: &Path, serial: &str) -> String {
    let read = |name: &str| std::fs::read_to_string(directory.join("ca").join(name)).unwrap();
    let key = rcgen::KeyPair::from_pem(&read("ca-key.pem")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca-cert.pem"), key).unwrap();
    let bytes: Vec<u8> =
        (0..serial.len()).step_by(2).map(|at| u8::from_str_radix(&serial[at..at + 2], 16).unwrap()).collect();
    let now = SystemTime::now();
    let revoked = rcgen::RevokedCertParams {
        serial_number: rcgen::SerialNumber::from_slice(&bytes),
        revocation_time: now.into(),
        reason_code: Some(rcgen::RevocationReason::KeyCompromise),
        invalidity_date: None,
    };
    let list = rcgen::CertificateRevocationListParams {
        this_update: (now - Duration::from_secs(60)).into(),
        next_update: (now + Duration::from_secs(3600)).into(),
        crl_number: rcgen::SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().pem().unwrap()
}

/// A peer whose certificate is revoked is refused as soon as the list is there, and no other is.
async fn a_revoked_peer_is_refused(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let (_ca, options) = agent::begin(directory.path(), IDENTITY, Duration::from_secs(3600), None).await;
    let layout = Layout::new(directory.path(), &["plain", "secure"], &[]);
    let (file, lists) = (file(&layout, &options), options.revocations.clone());
    tokio::spawn(Agent::start(options).unwrap().run());
    let proxy = Proxy::start(kind, &file, layout.admin, directory.path()).await;
    let target = Target::new(([127, 0, 0, 1], layout.listener("plain")).into(), "web", "/");
    let answers = |wanted: u16| {
        let (target, proxy) = (&target, &proxy);
        async move {
            let answer = wait::within(wait::PATIENCE, || async {
                target.ask().await.ok().filter(|answer| answer.status() == wanted)
            });
            answer.await.unwrap_or_else(|| panic!("{kind:?} never answers {wanted}: {}", proxy.process.output()))
        }
    };
    let serial = answers(200).await.header("x-serial").unwrap().to_owned();
    std::fs::write(&lists, revoked(directory.path(), &serial)).unwrap();
    let refused = answers(503).await;
    assert!(!refused.text().is_empty());
    std::fs::write(&lists, revoked(directory.path(), "4711")).unwrap();
    assert_eq!(answers(200).await.header("x-serial"), Some(serial.as_str()), "not because it has another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_peer_is_refused_by_ours() {
    a_revoked_peer_is_refused(Kind::Lateen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_peer_is_refused_by_envoy() {
    a_revoked_peer_is_refused(Kind::Envoy).await;
}
