//! A gateway that passes the mesh's TLS on by the server name that sidecars ask for (`AUTO_PASSTHROUGH`), and sees
//! nothing of it: ours and an Envoy.

use lateen_tests::proxy::Kind;
use serde_json::{Value, json};

use super::shown::{FRIEND, REQUEST, Shown};
use super::{HTTP, KINDS, SHOP, TCP, identity, mode, server};

fn gateway(kind: Kind) -> String {
    format!("pass-{}", kind.name())
}

/// A gateway that passes on to one of the servers.
fn workload(kind: Kind) -> [Value; 3] {
    let name = gateway(kind);
    let annotations = match kind {
        Kind::Lateen => json!({}),
        Kind::Envoy => json!({"sidecar.istio.io/proxyImage": "envoy"}),
    };
    let hosts: Vec<String> = KINDS.map(|kind| format!("{}.{SHOP}.svc.cluster.local", server(kind))).into();
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": SHOP},
            "spec": {"selector": {"istio": name}, "ports": [{"name": "tls", "port": 15443}]}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata":
            {"name": name, "namespace": SHOP, "labels": {"istio": name}, "annotations": annotations},
            "spec": {"containers": [{"name": "istio-proxy", "image": "auto", "args": ["proxy", "router"],
                "ports": [{"containerPort": 15443}]}]}}),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": name, "namespace": SHOP},
            "spec": {"selector": {"istio": name}, "servers": [
                {"port": {"number": 15443, "name": "tls", "protocol": "TLS"}, "hosts": hosts,
                    "tls": {"mode": "AUTO_PASSTHROUGH"}}]}}),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_meshs_tls_is_passed_on_by_its_server_name() {
    let _alone = crate::one_mesh_at_a_time().await;
    let mut more = vec![mode("STRICT")];
    more.extend(KINDS.map(workload).into_iter().flatten());
    more.extend(KINDS.map(|kind| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": server(kind), "namespace": SHOP},
            "spec": {"host": server(kind), "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}})
    }));
    let mut shown = Shown::up(more).await;
    for (by, to) in KINDS.iter().flat_map(|by| KINDS.map(|to| (gateway(*by), server(to)))) {
        let name = |port: u16, subset: &str| format!("outbound_.{port}_.{subset}_.{to}.{SHOP}.svc.cluster.local");
        let place = format!("{to} by {by}");
        let asked = [
            name(HTTP, ""),
            name(HTTP, "v1"),
            name(HTTP, "v2"),
            name(1, ""),
            format!("{to}.{SHOP}.svc.cluster.local"),
            name(HTTP, "").replace("server", "caller"),
            String::new(),
        ];
        let asked = asked.each_ref().map(String::as_str);
        let outcomes = shown.says(&by, 15443, "istio", REQUEST, &asked).await;
        for outcome in &outcomes[..2] {
            // The server itself proves who it is, and knows who came.
            assert_eq!(outcome["names"], json!([["URI", identity(&to)]]), "{place}: {outcome}");
            let answer = outcome["answer"].as_str().unwrap_or_default();
            let told = format!("\"By={};Hash=", identity(&to));
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(&told), "{place}: {outcome}");
            assert!(answer.contains(&format!("URI={}\"", identity(FRIEND))), "{place}: {outcome}");
        }
        // A subset, a port, and a host that there are not, a name of another form, and none.
        for outcome in &outcomes[2..] {
            assert!(outcome.get("tls").is_none(), "{place}: {outcome}");
        }
        let bytes = shown.says(&by, 15443, "istio", "no protocol", &[&name(TCP, "")]).await;
        assert_eq!(bytes[0]["answer"], "no protocol", "{place}: {bytes:?}");
        // Who is not of the mesh is not passed on.
        let others = shown.says(&by, 15443, "http/1.1", REQUEST, &[&name(HTTP, "")]).await;
        assert!(others[0].get("tls").is_none(), "{place}: {others:?}");
    }
    shown.stand.mesh.down().await;
}
