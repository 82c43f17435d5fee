//! Our proxies and Envoys in one mesh that takes mutual TLS alone: every caller at every server, over HTTP/1.1, HTTP/2
//! and TCP, and the examples about identity with an Envoy in each place.

use std::path::Path;

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::proxy::Kind;
use lateen_tests::{peers, wait};
use serde_json::json;

use super::{HTTP, HTTP2, KINDS, SHOP, Stand, caller, identity, mode, names, server, told, workload};
use crate::real_envoy::envoy;

/// Neither has rights: one has another service account, one has no proxy.
const OTHER: &str = "other";
const STRANGER: &str = "stranger";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_is_known_at_every_server() {
    let _alone = crate::one_mesh_at_a_time().await;
    // By whom bytes without a protocol come is known by who is let in.
    let callers: Vec<String> = KINDS.map(|kind| identity(&caller(kind)).replace("spiffe://", "")).into();
    let mut more = vec![mode("STRICT")];
    for kind in KINDS {
        more.push(json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": server(kind), "namespace": SHOP},
            "spec": {"selector": {"matchLabels": {"app": server(kind)}},
                "rules": [{"from": [{"source": {"principals": callers}}]}]}}));
    }
    more.extend(workload(OTHER, Some(Kind::Lateen)));
    more.extend(workload(STRANGER, None));
    let mut stand = Stand::up(more).await;
    assert_eq!(envoys(&stand.mesh), 2, "a server and a caller have Envoys: {:#?}", stand.mesh.processes());

    for (from, to) in KINDS.iter().flat_map(|from| KINDS.map(|to| (caller(*from), server(to)))) {
        let place = format!("from {from} to {to}");
        let cases = [
            ("--http1.1", HTTP, "HTTP/1.1"),
            ("--http1.1", HTTP2, "HTTP/2"),
            ("--http2-prior-knowledge", HTTP2, "HTTP/2"),
        ];
        for (client, port, spoken) in cases {
            let forged = format!("x-forwarded-client-cert: By={};URI={}", identity(&to), identity("admin"));
            let url = format!("http://{to}:{port}/");
            let (status, body) = stand.ask(&from, &[client, "-H", &forged], &url).await;
            assert_eq!(status, "200", "{place}, {client} {port}: {body}");
            assert!(names(told(&body), &from, &to), "{place}, {client} {port}: {body}");
            assert_eq!(body["protocol"], spoken, "{place}, {client} {port}: {body}");
        }
        assert_eq!(stand.echo(&from, &to, "no protocol").await, "no protocol", "{place}");
    }
    for to in KINDS.map(server) {
        let url = format!("http://{to}:{HTTP}/");
        let (status, body) = stand.ask(OTHER, &[], &url).await;
        assert_eq!((status.as_str(), body), ("403", json!("RBAC: access denied")), "{to}");
        assert_eq!(stand.ask(STRANGER, &[], &url).await.0, "000", "{to}");
        for from in [OTHER, STRANGER] {
            let echoed = stand.echo(from, &to, "no protocol").await;
            assert!(!echoed.contains("no protocol"), "from {from} to {to}: {echoed}");
        }
    }
    stand.mesh.down().await;
}

/// How many Envoys run.
fn envoys(mesh: &Mesh) -> usize {
    let program = peers::envoy().display().to_string();
    mesh.processes().values().filter(|process| process.line.starts_with(&program)).count()
}

/// The examples about identity, each with the workloads beside which an Envoy stands in turn.
const EXAMPLES: [(&str, &[&str]); 6] = [
    ("authorization", &["helloworld"]),
    ("egress-tls", &["client", "way-out"]),
    ("external-authorization", &["helloworld", "ext-authz"]),
    ("gateway-tls", &["helloworld"]),
    ("jwt", &["helloworld"]),
    ("mtls", &["helloworld", "caller"]),
];

/// Manifests with an Envoy as the gateway, or beside the workload, that is named so.
fn with_envoy(text: &str, name: &str) -> String {
    let label = format!("\n        app: {name}\n");
    let mut changed = 0;
    let documents = text.split("\n---\n").map(|document| {
        if !document.contains("\nkind: Deployment\n") || !document.contains(&label) {
            return document.to_owned();
        }
        changed += 1;
        if document.contains("image: auto") {
            return document.replace("image: auto", "image: envoy");
        }
        let chosen = "\n        sidecar.istio.io/proxyImage: envoy";
        let (before, template) = document.split_once("\n  template:").expect("a template");
        let template = match template.contains("\n      annotations:") {
            true => template.replacen("\n      annotations:", &format!("\n      annotations:{chosen}"), 1),
            false => template.replacen("\n    metadata:", &format!("\n    metadata:\n      annotations:{chosen}"), 1),
        };
        format!("{before}\n  template:{template}")
    });
    let text = documents.collect::<Vec<_>>().join("\n---\n");
    assert_eq!(changed, 1, "deployments of {name}");
    text
}

/// Plays an example with an Envoy in the place that is named, if one is, or with one that is there already.
async fn keeps_its_promise(mesh: &Mesh, folder: &Path, name: &str, beside: Option<&str>) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir(folder).unwrap();
    for file in ["app.yaml", "routing.yaml", "test.yaml"] {
        let text = std::fs::read_to_string(peers::root().join("examples").join(name).join(file)).unwrap();
        let text = beside.filter(|_| file == "app.yaml").map_or(text.clone(), |beside| with_envoy(&text, beside));
        std::fs::write(folder.join(file), text).unwrap();
    }
    let path = folder.to_str().unwrap();
    mesh.prints(&["apply", "-f", path, "--wait"]).await;
    assert_eq!(envoys(mesh), 1, "{name}, {beside:?}: {:#?}", mesh.processes());
    let tested = mesh.run(&["test", "-f", path]).await;
    mesh.prints(&["delete", "-f", path]).await;
    if tested.status.success() {
        return Ok(());
    }
    let said = [tested.stdout, tested.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    Err(format!("{name}, an Envoy in the place of {}:\n{}", beside.unwrap_or("the gateway"), said.concat()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_keep_their_promises_with_an_envoy_in_any_place() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = Mesh::place(User::Invoker);
    let folder = dir.path().join("example");
    let gateway = dir.path().join("gateway.json");
    std::fs::create_dir(dir.path().join("manifests")).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, &["--image", &format!("envoy={}", envoy())]);
    mesh.ready("istio-system", 1).await;
    let mut broken = Vec::new();
    for (name, places) in EXAMPLES {
        for beside in places {
            broken.extend(keeps_its_promise(&mesh, &folder, name, Some(beside)).await.err());
            wait::until("its pods end", || async { (envoys(&mesh) == 0).then_some(()) }).await;
        }
    }
    // And as the gateway of all.
    let deployment = ["get", "deployment", "istio-ingressgateway", "-n", "istio-system", "-o", "json"];
    let text = mesh.prints(&deployment).await.replace("\"auto\"", "\"envoy\"");
    std::fs::write(&gateway, text).unwrap();
    mesh.prints(&["apply", "-f", gateway.to_str().unwrap(), "--wait"]).await;
    wait::until("the gateway is an Envoy", || async { (envoys(&mesh) == 1).then_some(()) }).await;
    for (name, _) in EXAMPLES {
        broken.extend(keeps_its_promise(&mesh, &folder, name, None).await.err());
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    mesh.down().await;
}
