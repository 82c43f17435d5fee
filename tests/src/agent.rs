//! A workload's agent, and an authority of its own behind it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_citadel::agent::{Address, Agent, Options, Server};
use lateen_citadel::authority::{Files, Settings};
use lateen_citadel::key::KeyType;
use lateen_citadel::serve::{AUDIENCE, Ca, Review, Reviewer, SERVER_NAMES, serve};
use lateen_citadel::spiffe::TrustDomain;
use lateen_citadel::store::Store;
use lateen_pilot::{Config, Pilot};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::bootstrap;

/// The mesh's trust domain.
///
/// # Panics
/// Never.
pub fn domain() -> TrustDomain {
    "cluster.local".parse().expect("a trust domain")
}

/// An authority that keeps its files in `directory`, whose certificates live for `life`, and what an agent of
/// `spiffe://cluster.local/ns/NAMESPACE/sa/ACCOUNT` needs to have one of them. It signs with what is `brought`, if
/// something is.
///
/// # Panics
/// When there is no port for the authority, or no place for its files.
pub async fn begin(directory: &Path, identity: &str, life: Duration, brought: Option<&Files>) -> (Arc<Ca>, Options) {
    let settings = Settings { default_ttl: life, max_ttl: life, announce: life * 5 / 8, ..Settings::default() };
    let store = Store::at(directory.join("ca")).expect("a directory");
    let authority = store.load(settings, brought, SystemTime::now()).expect("an authority");
    let ca = Ca::new(authority, store);
    tokio::spawn(Arc::clone(&ca).tend());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = Address::Socket(listener.local_addr().expect("an address"));
    let server = Server { address, name: SERVER_NAMES[0].to_owned() };
    let identity: lateen_citadel::spiffe::Identity = identity.parse().expect("an identity");
    let owner = format!("system:serviceaccount:{}:{}", identity.namespace(), identity.service_account());
    let reviewer: Reviewer = Arc::new(move |token| {
        let user = (token == "the token").then(|| owner.clone()).ok_or_else(|| "not known".to_owned());
        Box::pin(async move { Ok(Review { user, audiences: vec![AUDIENCE.to_owned()] }) })
    });
    let pilot = Arc::new(Pilot::new(Config::default()).expect("a pilot"));
    tokio::spawn(serve(listener, Arc::clone(&ca), reviewer, pilot, std::future::pending()));
    std::fs::write(directory.join("roots.pem"), &**ca.bundle().borrow()).expect("a file");
    std::fs::write(directory.join("token"), "the token").expect("a file");
    let options = Options {
        identity,
        authority: server.clone(),
        discovery: server,
        roots: directory.join("roots.pem"),
        federated: directory.join("federated.pem"),
        revocations: directory.join("crl.pem"),
        token: directory.join("token"),
        secrets_socket: directory.join("sds"),
        discovery_socket: directory.join("ads"),
        ttl: None,
        key_type: KeyType::EcdsaP256,
        mark: None,
    };
    (ca, options)
}

/// Starts an agent of this identity, with an authority whose certificates outlive any test, and which signs with what is
/// `brought`. Its socket for secrets is `directory`'s `sds`.
///
/// # Panics
/// When it does not start.
pub async fn start(directory: &Path, identity: &str, brought: Option<&Files>) {
    let (_, options) = begin(directory, identity, Duration::from_secs(24 * 3600), brought).await;
    tokio::spawn(Agent::start(options).expect("an agent").run());
}

/// The cluster by which a proxy reaches its agent's secrets.
pub fn cluster(socket: &Path) -> Value {
    let mut cluster = json!({"name": "sds-grpc", "type": "STATIC",
    "load_assignment": {"cluster_name": "sds-grpc", "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": {"pipe": {"path": socket}}}},
    ]}]}});
    bootstrap::merge(&mut cluster, bootstrap::http2_upstream());
    cluster
}
