//! Keys that the control plane fetches of an issuer inside the mesh: they come, are replaced, and outlive the issuer's
//! mistakes.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lateen_tests::mesh::{Mesh, User};
use lateen_tests::wait;
use serde_json::{Value, json};

const DISCOVERED: &str = "http://keys.shop.svc.cluster.local:8080";

/// A key by its name.
struct Signer {
    id: &'static str,
    key: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Signer {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer { id, key: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap() }
    }

    fn set(&self) -> String {
        let public = URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": public}]}).to_string()
    }

    fn token(&self, issuer: &str) -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({"alg": "EdDSA", "kid": self.id}));
        let signed = format!("{header}.{}", part(json!({"iss": issuer, "sub": "me", "exp": 4_102_444_800_u64})));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()).as_ref()))
    }
}

/// Status and body that the client gets with a token.
async fn answer(mesh: &Mesh, token: &str) -> String {
    let bearer = format!("authorization: Bearer {token}");
    let curl = ["curl", "-s", "-m", "5", "-w", " %{http_code}", "-H", &bearer, "http://web:8080/"];
    let command: Vec<&str> = ["exec", "-n", "shop", "client", "--"].into_iter().chain(curl).collect();
    String::from_utf8_lossy(&mesh.run(&command).await.stdout).into_owned()
}

async fn answers(mesh: &Mesh, token: &str, end: &str) {
    let wanted =
        wait::within(wait::PATIENCE, || async { answer(mesh, token).await.ends_with(end).then_some(()) }).await;
    assert!(wanted.is_some(), "no {end:?} but {:?}\n{}", answer(mesh, token).await, mesh.output());
}

/// How often the issuer was asked for its keys.
async fn asked(mesh: &Mesh) -> usize {
    let log = mesh.prints(&["logs", "keys", "-n", "shop"]).await;
    log.lines().filter(|line| line.contains("GET /keys ")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_issuer_in_the_mesh_are_fetched_and_followed() {
    let _alone = crate::one_mesh_at_a_time().await;
    let published = tempfile::tempdir().unwrap();
    let publish = |name: &str, text: &str| {
        let path = published.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Never half a file.
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    };
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let text = include_str!("issuers.yaml").replace("DIRECTORY", &published.path().display().to_string());
    std::fs::write(manifests.join("issuers.yaml"), text).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, &["--jwks-refresh", "100ms"]);
    mesh.ready("shop", 3).await;

    // No keys: no token is good, and nothing else is in the way.
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    answers(&mesh, &one.token("named"), "Jwks doesn't have key to match kid or alg from Jwt 401").await;
    publish("keys", &one.set());
    publish(".well-known/openid-configuration", &json!({"jwks_uri": format!("{DISCOVERED}/others")}).to_string());
    publish("others", &two.set());
    answers(&mesh, &one.token("named"), " 200").await;
    answers(&mesh, &two.token(DISCOVERED), " 200").await;
    assert!(answer(&mesh, &two.token("named")).await.ends_with(" 401"));
    assert!(answer(&mesh, &one.token(DISCOVERED)).await.ends_with(" 401"));

    // What the issuer breaks does not break what was good.
    publish("keys", "{\"keys\": [");
    let before = asked(&mesh).await;
    wait::until("the broken keys are read", || async { (asked(&mesh).await > before + 1).then_some(()) }).await;
    assert!(answer(&mesh, &one.token("named")).await.ends_with(" 200"));

    // The issuer changes its key.
    publish("keys", &two.set());
    answers(&mesh, &two.token("named"), " 200").await;
    answers(&mesh, &one.token("named"), " 401").await;
    mesh.down().await;
}
