//! Our proxies and Envoys in one mesh that takes mutual TLS alone: every caller at every server, over HTTP/1.1, HTTP/2
//! and TCP, and the example that promises it.

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

/// The example, with an Envoy beside the workload that is named so.
fn example(text: &str, beside: &str) -> String {
    let labels = format!("      labels:\n        app: {beside}\n");
    assert_eq!(text.matches(&labels).count(), 1, "the pod template of {beside}");
    text.replace(&labels, &format!("      annotations:\n        sidecar.istio.io/proxyImage: envoy\n{labels}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_keeps_its_promise_with_an_envoy_at_either_end() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = Mesh::place(User::Invoker);
    let folder = dir.path().join("mtls");
    std::fs::create_dir(&folder).unwrap();
    std::fs::create_dir(dir.path().join("manifests")).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, &["--image", &format!("envoy={}", envoy())]);
    mesh.ready("istio-system", 1).await;
    let path = folder.to_str().unwrap();
    for beside in ["helloworld", "caller"] {
        for file in ["app.yaml", "routing.yaml", "test.yaml"] {
            let text = std::fs::read_to_string(peers::root().join("examples/mtls").join(file)).unwrap();
            let text = if file == "app.yaml" { example(&text, beside) } else { text };
            std::fs::write(folder.join(file), text).unwrap();
        }
        mesh.prints(&["apply", "-f", path, "--wait"]).await;
        assert_eq!(envoys(&mesh), 1, "beside {beside}: {:#?}", mesh.processes());
        let tested = mesh.run(&["test", "-f", path]).await;
        let said = format!("{}{}", String::from_utf8_lossy(&tested.stdout), String::from_utf8_lossy(&tested.stderr));
        assert!(tested.status.success(), "beside {beside}: {said}");
        mesh.prints(&["delete", "-f", path]).await;
        wait::until("its pods end", || async { (envoys(&mesh) == 0).then_some(()) }).await;
    }
    mesh.down().await;
}
