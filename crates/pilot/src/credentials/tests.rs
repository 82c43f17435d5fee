use super::*;
use crate::Config;
use crate::push::{Pending, State};
use crate::testing::{self, Cluster, Connected, GATEWAY};
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret as Message, secret::Type};
use k8s_openapi::ByteString;
use prost::Message as _;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const ACCOUNT: &str = "spiffe://cluster.local/ns/istio-system/sa/ingress";

const MESH: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: ingress, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {serviceAccountName: ingress, containers: [{name: istio-proxy, image: auto, args: [proxy, router]}]}
status: {podIP: 10.244.0.2, podIPs: [{ip: 10.244.0.2}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: istio-system}
spec: {serviceAccountName: web, containers: [{name: istio-proxy, image: auto, args: [proxy, sidecar]}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: a, protocol: HTTPS}
    tls: {mode: MUTUAL, credentialName: own}
    hosts: [a.test]
  - port: {number: 443, name: b, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: shop/other}
    hosts: [b.test]
"#;

fn secret(namespace: &str, name: &str, data: &[(&str, &str)]) -> String {
    let data: serde_json::Map<String, Value> =
        data.iter().map(|(key, text)| ((*key).to_owned(), json!(ByteString(text.as_bytes().to_vec())))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data})
        .to_string()
}

/// Certificate and key.
fn certificate() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    (
        rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem(),
        key.serialize_pem(),
    )
}

fn gateway(state: &mut State, identity: &str) -> Connected {
    let mut node = Node::parse(&testing::node(GATEWAY, &[])).unwrap();
    node.prove(identity).unwrap();
    testing::add_node(state, node)
}

/// Names of the secrets told, and which of them are certificates.
fn told(proxy: &Connected) -> Vec<(String, bool)> {
    let resources = proxy.resources.borrow();
    let secrets = resources.of_type(&ResourceType::Secret);
    let of_kind = |body: &[u8]| matches!(Message::decode(body).unwrap().r#type, Some(Type::TlsCertificate(_)));
    secrets.map(|secret| (secret.name().to_string(), of_kind(secret.body()))).collect()
}

fn chain(proxy: &Connected) -> String {
    let resources = proxy.resources.borrow();
    let secret = Message::decode(resources.get(&ResourceType::Secret, "kubernetes://own").unwrap().body().as_ref());
    let Some(Type::TlsCertificate(pair)) = secret.unwrap().r#type else { panic!("no certificate") };
    let Some(Specifier::InlineBytes(bytes)) = pair.certificate_chain.unwrap().specifier else { panic!("no bytes") };
    String::from_utf8(bytes).unwrap()
}

fn problems(state: &State) -> Vec<String> {
    state.proxies().flat_map(|proxy| proxy.problems().collect::<Vec<_>>()).collect()
}

const BOTH: [(&str, bool); 2] = [("kubernetes://own", true), ("kubernetes://own-cacert", false)];

fn both() -> Vec<(String, bool)> {
    BOTH.map(|(name, pair)| (name.to_owned(), pair)).to_vec()
}

#[test]
fn a_gateway_is_told_what_its_servers_name_of_its_own_namespace() {
    let (chain, key) = certificate();
    let mut cluster = Cluster::read(MESH);
    let generic = [("cert", chain.as_str()), ("key", &key), ("cacert", &chain)];
    for (namespace, name) in [("istio-system", "own"), ("istio-system", "unnamed"), ("shop", "other")] {
        cluster.apply(&secret(namespace, name, &generic));
    }
    let mut state = cluster.state(Config::default());
    let proxy = gateway(&mut state, ACCOUNT);
    assert_eq!(told(&proxy), both());
    assert_eq!(problems(&state), ["Secret shop/other is of another namespace than the proxy"]);

    // By Kubernetes' own keys, too; a Secret of authorities alone goes before the one they are in.
    let mut cluster = Cluster::read(MESH);
    cluster.apply(&secret(
        "istio-system",
        "own",
        &[("tls.crt", &chain), ("tls.key", &key), ("ca.crt", "not asked for")],
    ));
    cluster.apply(&secret("istio-system", "own-cacert", &[("ca.crt", &chain)]));
    let mut state = cluster.state(Config::default());
    assert_eq!(told(&gateway(&mut state, ACCOUNT)), both());
}

#[test]
fn keys_are_for_service_accounts_that_may_have_them() {
    let (chain, key) = certificate();
    let mut cluster = Cluster::read(MESH);
    cluster.apply(&secret("istio-system", "own", &[("cert", &chain), ("key", &key), ("cacert", &chain)]));
    let mut state = cluster.state(Config::default());
    let authorities = [("kubernetes://own-cacert".to_owned(), false)];
    let sidecar = gateway(&mut state, "spiffe://cluster.local/ns/istio-system/sa/web");
    assert_eq!(told(&sidecar), authorities);
    assert!(problems(&state).contains(&"Secret istio-system/own is not for the service account web".to_owned()));
    let nobody = testing::add(&mut state, &testing::node(GATEWAY, &[]));
    assert_eq!(told(&nobody), authorities);
    // A service account may name Secrets of its own.
    cluster.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: istio-system}, secrets: [{name: own}]}");
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    assert_eq!(told(&sidecar), both());
}

#[test]
fn a_secret_is_told_when_it_comes_and_changes_and_a_broken_one_is_not() {
    let mut cluster = Cluster::read(MESH);
    let mut state = cluster.state(Config::default());
    let proxy = gateway(&mut state, ACCOUNT);
    assert_eq!(told(&proxy), []);
    assert!(problems(&state).contains(&"Secret istio-system/own is not there".to_owned()));

    let (first, key) = certificate();
    cluster.apply(&secret("istio-system", "own", &[("cert", &first), ("key", &key), ("cacert", &first)]));
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    assert_eq!((told(&proxy), chain(&proxy)), (both(), first.clone()));
    let pushes = state.counts.full_pushes;

    // Another one's key; a key that somebody pasted on one line.
    let (second, other) = certificate();
    for (bad, reason) in
        [(&key, "not the key of the certificate"), (&other.replace('\n', " "), "no private key in PEM")]
    {
        cluster.apply(&secret("istio-system", "own", &[("cert", &second), ("key", bad), ("cacert", &second)]));
        assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
        let said = problems(&state).join("; ");
        assert!(said.contains("Secret istio-system/own cannot be used: ") && said.contains(reason), "{said}");
        assert!(!said.contains(other.lines().nth(1).unwrap()), "the key is told: {said}");
        assert_eq!(chain(&proxy), first, "the last good one stays");
    }
    cluster.apply(&secret("istio-system", "own", &[("cert", &second), ("key", &other), ("cacert", &second)]));
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    assert_eq!(chain(&proxy), second);

    cluster.apply(&secret("istio-system", "own", &[("password", "x"), ("cacert", "")]));
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    let said = problems(&state).join("; ");
    assert!(said.contains("it has neither tls.crt and tls.key nor cert and key, but cacert, password"), "{said}");
    assert_eq!(state.counts.full_pushes, pushes);

    assert!(cluster.0.remove(&lateen_galley::Key::new(Kind::Secret, "istio-system".to_owned(), "own")).is_some());
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    assert_eq!(told(&proxy), []);
}

/// A certificate that is good from one second to another, and its key.
fn good(seconds: std::ops::Range<i64>) -> (String, String) {
    use rcgen::date_time_ymd;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
    let time = |second| date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(second as u64);
    (params.not_before, params.not_after) = (time(seconds.start), time(seconds.end));
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn what_is_good_no_more_or_not_yet_is_told_and_said() {
    let mut cluster = Cluster::read(MESH);
    let ((early, _), (late, key)) = (good(0..1000), good(2000..3000));
    let both = early.clone() + &late;
    cluster.apply(&secret("istio-system", "own", &[("cert", &late), ("key", &key), ("cacert", &both)]));
    let mut state = cluster.state(Config::default());
    let proxy = gateway(&mut state, ACCOUNT);
    assert_eq!(told(&proxy), self::both());
    let at = |second: u64| -> Vec<String> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        state.proxies().flat_map(|proxy| proxy.out_of_date(now).collect::<Vec<_>>()).collect()
    };
    let own = "Secret istio-system/own";
    assert_eq!(at(1999), [format!("{own} is not yet valid: it will be good from 1970-01-01T00:33:20Z on")]);
    assert_eq!(at(2500), [""; 0]);
    assert_eq!(at(3000), [""; 0], "the last second counts");
    let expired = |which: &str| format!("{own}{which} has expired: it was good until 1970-01-01T00:50:00Z");
    assert_eq!(at(3001), [expired(""), expired("-cacert")], "authorities are good as long as one of them is");
}

#[test]
fn authorities_may_be_in_a_config_map() {
    let (chain, key) = certificate();
    let mesh =
        MESH.replace("credentialName: own", "credentialName: own, caCertCredentialName: \"configmap://shop/roots\"");
    let mut cluster = Cluster::read(&mesh);
    cluster.apply(&secret("istio-system", "own", &[("cert", &chain), ("key", &key)]));
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots", "namespace": "shop"},
        "data": {"ca.crt": chain}});
    cluster.apply(&map.to_string());
    let mut state = cluster.state(Config::default());
    let expected = [("configmap://shop/roots".to_owned(), false), ("kubernetes://own".to_owned(), true)];
    assert_eq!(told(&gateway(&mut state, ACCOUNT)), expected);
}
