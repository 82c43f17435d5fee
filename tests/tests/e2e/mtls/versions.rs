//! Workloads speak TLS 1.3 with each other, and 1.2 only where the mesh allows it.

use serde_json::{Value, json};

use super::shown::{REQUEST, Shown};
use super::{HTTP, KINDS, SHOP, caller, mode, server};

/// The mesh's settings.
fn mesh(text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": text}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_version_is_spoken_where_the_mesh_allows_it() {
    let _alone = crate::one_mesh_at_a_time().await;
    let mut shown = Shown::up(vec![mode("STRICT")]).await;
    for (settings, allowed) in [("{}", false), ("meshMTLS: {minProtocolVersion: TLSV1_2}", true)] {
        shown.stand.put(&[mesh(settings)]).await;
        for to in KINDS.map(server) {
            let address = shown.stand.address(&to).await;
            let asked = format!("outbound_.{HTTP}_._.{to}.{SHOP}.svc.cluster.local");
            for (newest, version, comes) in [("TLSv1_3", "TLSv1.3", true), ("TLSv1_2", "TLSv1.2", allowed)] {
                let outcomes = shown.says_in(newest, &address, HTTP, &["istio", REQUEST, &asked]).await;
                let answer = outcomes[0]["answer"].as_str().unwrap_or_default();
                assert_eq!(answer.starts_with("HTTP/1.1 200 OK"), comes, "{to} {settings}: {outcomes:?}");
                let spoken = outcomes[0].get("tls").and_then(Value::as_str);
                assert_eq!(spoken, comes.then_some(version), "{to} {settings}: {outcomes:?}");
            }
            for from in KINDS.map(caller) {
                let (status, body) = shown.stand.ask(&from, &[], &format!("http://{to}:{HTTP}/")).await;
                assert_eq!(status, "200", "{from} to {to} {settings}: {body}");
            }
        }
    }
    shown.stand.mesh.down().await;
}
