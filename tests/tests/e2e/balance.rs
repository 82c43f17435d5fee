//! Session affinity, sticky weights, strict turns, localities and nodes, in a mesh of our proxies and one of Envoys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::message::{Message, Reader, Side};
use lateen_tests::wait;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn up(options: &[&str]) -> Mesh {
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("balance.yaml"), include_str!("balance.yaml")).unwrap();
    Mesh::up(dir, User::Invoker, options)
}

/// The pod and the version that answered.
fn answered(answer: &Message) -> (String, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()));
    let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (field("pod"), field("version"))
}

/// One request to the gateway on a connection of its own; `headers` are lines.
async fn ask(gateway: SocketAddr, path: &str, headers: &str) -> Message {
    let mut reader = Reader::new(TcpStream::connect(gateway).await.unwrap());
    let request = format!("GET {path} HTTP/1.1\r\nhost: any.test\r\nconnection: close\r\n{headers}\r\n");
    reader.get_mut().write_all(request.as_bytes()).await.unwrap();
    let answer = reader.message(Side::Response).await.unwrap();
    assert_eq!(answer.status(), 200, "{path} {headers:?}: {}", answer.text());
    answer
}

/// Pods that answer the client's requests to a service, through its own sidecar.
async fn from_client(mesh: &Mesh, service: &str) -> BTreeMap<String, usize> {
    let client = mesh.pod("shop", "client-").await;
    let url = format!("http://{service}:8080/");
    let mut pods = BTreeMap::new();
    for _ in 0..12 {
        let text = mesh.prints(&["exec", "-n", "shop", &client, "--", "curl", "-s", "-S", "--fail", &url]).await;
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{service}: {error}: {text}"));
        *pods.entry(body["pod"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    pods
}

fn of_version(pods: &BTreeMap<String, usize>, version: &str) -> bool {
    pods.len() == 2 && pods.keys().all(|pod| pod.starts_with(&format!("{version}-")))
}

/// What holds whoever carries it out.
async fn holds(mesh: &Mesh) {
    mesh.ready("shop", 7).await;
    mesh.answers("any.test", "/").await;
    let gateway = mesh.ingress().await;
    wait::until("every pod is known", || async {
        let mut pods = BTreeSet::new();
        for _ in 0..8 {
            pods.insert(answered(&ask(gateway, "/turns", "").await).0);
        }
        (pods.len() == 4).then_some(())
    })
    .await;

    // A client that keeps its cookie stays with its pod.
    let mut pods = BTreeSet::new();
    for _ in 0..16 {
        let first = ask(gateway, "/", "").await;
        let cookie = first.header("set-cookie").expect("a cookie").to_owned();
        assert!(cookie.ends_with("; Max-Age=3600; Path=/; HttpOnly"), "{cookie}");
        let sent = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
        for _ in 0..3 {
            let again = ask(gateway, "/", &sent).await;
            assert_eq!((answered(&again), again.header("set-cookie")), (answered(&first), None));
        }
        pods.insert(answered(&first).0);
    }
    assert!(pods.len() > 1, "16 clients are all at {pods:?}");

    // A user stays with a version; about half of them with each.
    let mut versions = BTreeMap::new();
    for user in 0..32 {
        let headers = format!("x-user: {user}\r\n");
        let (_, version) = answered(&ask(gateway, "/sticky", &headers).await);
        for _ in 0..3 {
            assert_eq!(answered(&ask(gateway, "/sticky", &headers).await).1, version, "user {user}");
        }
        *versions.entry(version).or_insert(0) += 1;
    }
    assert!(versions.len() == 2 && versions.values().all(|users| *users >= 5), "{versions:?}");

    // Pods in turn: each as often as the others.
    let mut turns = BTreeMap::new();
    for _ in 0..40 {
        *turns.entry(answered(&ask(gateway, "/turns", "").await).0).or_insert(0) += 1;
    }
    assert!(turns.len() == 4 && turns.values().all(|turns| *turns == 10), "{turns:?}");

    for path in ["/maglev", "/affine"] {
        let same = async || answered(&ask(gateway, path, "x-user: me\r\n").await).0;
        let first = same().await;
        for _ in 0..5 {
            assert_eq!(same().await, first, "{path}");
        }
    }

    let near = from_client(mesh, "near").await;
    assert!(of_version(&near, "v2"), "the client's zone alone: {near:?}");
    let here = from_client(mesh, "here").await;
    assert!(of_version(&here, "v1"), "the client's node alone: {here:?}");
    let affine = from_client(mesh, "affine").await;
    assert_eq!(affine.len(), 1, "one pod for one client: {affine:?}");
    // Where the client meant to go: whoever serves the Service's address chooses.
    let addressed = from_client(mesh, "addressed").await;
    assert_eq!(addressed.values().sum::<usize>(), 12, "{addressed:?}");
    fails_over(mesh).await;
}

/// The nearest endpoint takes everything until it is found out to fail; then the next nearest does.
async fn fails_over(mesh: &Mesh) {
    let client = mesh.pod("shop", "client-").await;
    let asked = async || {
        let status = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://mixed:8080/"];
        mesh.prints(&[["exec", "-n", "shop", &client, "--"].as_slice(), &status].concat()).await
    };
    for _ in 0..3 {
        assert_eq!(asked().await, "503", "the near one is asked first");
    }
    wait::until("the far one is asked", || async { (asked().await == "200").then_some(()) }).await;
    for _ in 0..12 {
        assert_eq!(asked().await, "200", "the near one is left out");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_our_proxies() {
    let _alone = crate::one_mesh_at_a_time().await;
    let mut mesh = up(&[]);
    holds(&mesh).await;
    mesh.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_envoys() {
    let _alone = crate::one_mesh_at_a_time().await;
    let mut mesh = up(&["--image", &format!("auto={}", crate::real_envoy::envoy())]);
    holds(&mesh).await;
    crate::real_envoy::acknowledged(&mesh, 8).await;
    mesh.down().await;
}
