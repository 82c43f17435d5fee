//! What connections to hosts offer by ALPN: the server chooses its filter chain by it, and says which it was.

use std::path::Path;

use lateen_tests::bootstrap::{Layout, cluster, http, http2_upstream, listener, merge, router};
use lateen_tests::proxy::{Kind, admin};
use lateen_tests::tls::{Authority, upstream};
use serde_json::{Value, json};

use super::named_chains::{self, Running, start};

/// Chains of the server, by what they are chosen by.
const CHAINS: [&str; 5] = ["istio-http/1.1", "istio-h2", "istio", "http/1.1", "h2"];

/// A server whose chains are chosen by what is offered.
async fn server(kind: Kind, dir: &Path) -> Running {
    let certified = Authority::new("ours").sign("a.test", "spiffe://mesh.test/ns/x/sa/server");
    let common = json!({"tls_certificates": [certified.json()], "alpn_protocols": ["h2", "http/1.1"]});
    named_chains::server(kind, dir, &CHAINS, "application_protocols", common).await
}

/// Clusters of one server: name, what its transport offers, whether it is spoken to in HTTP/2, more.
fn clusters(layout: &Layout) -> Vec<Value> {
    let istio = json!({"metadata": {"filter_metadata": {"istio": {"alpn_override": "false"}}}});
    let not_really = json!({"metadata": {"filter_metadata": {"istio": {"alpn_override": false}}}});
    let all = [
        ("bare", vec![], false, json!({})),
        ("bare-h2", vec![], true, json!({})),
        ("mesh", vec!["istio-peer-exchange", "istio"], false, json!({})),
        ("mesh-h2", vec!["istio-peer-exchange", "istio", "h2"], true, json!({})),
        ("kept", vec!["istio"], false, istio),
        ("not-kept", vec!["istio"], false, not_really),
    ];
    let made = all.into_iter().map(|(name, offers, http2, more)| {
        let mut made = cluster(layout, name, &["in"], more);
        let context = json!({"common_tls_context": {"alpn_protocols": offers}, "sni": "a.test"});
        made["transport_socket"] = upstream(context);
        if http2 {
            merge(&mut made, http2_upstream());
        }
        made
    });
    made.collect()
}

/// What overrides it: Istio's filter as Istio sets it up.
fn istio_alpn() -> Value {
    json!({"name": "istio.alpn", "typed_config": {
    "@type": "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
    "alpn_override": [
        {"alpn_override": ["istio-http/1.0", "istio", "http/1.0"]},
        {"upstream_protocol": "HTTP11", "alpn_override": ["istio-http/1.1", "istio", "http/1.1"]},
        {"upstream_protocol": "HTTP2", "alpn_override": ["istio-h2", "istio", "h2"]},
    ]}})
}

/// Goes to clusters by the path's name; on `filtered` with the filter.
async fn client(kind: Kind, dir: &Path, server: &Running, filter: bool) -> Running {
    let layout = Layout::new(dir, &["main", "filtered"], &[("in", server.layout.listener("in"))]);
    let clusters = clusters(&layout);
    let names = clusters.iter().filter_map(|cluster| cluster["name"].as_str());
    let routes = names.map(|name| json!({"match": {"path": format!("/{name}")}, "route": {"cluster": name}}));
    let routes = json!([{"name": "all", "domains": ["*"], "routes": routes.collect::<Vec<_>>()}]);
    let mut listeners = vec![listener(&layout, "main", http(&layout, "main", routes.clone(), json!({})))];
    if filter {
        let more = json!({"http_filters": [istio_alpn(), router()]});
        listeners.push(listener(&layout, "filtered", http(&layout, "filtered", routes, more)));
    }
    start(kind, dir, layout, &listeners, &clusters).await
}

/// The chains by which requests to all clusters came.
async fn came_by(client: &Running, listener: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for name in ["bare", "bare-h2", "mesh", "mesh-h2", "kept", "not-kept"] {
        let answer = admin(client.layout.listener(listener), "GET", &format!("/{name}")).await.expect("an answer");
        all.push((name.to_owned(), answer.text()));
    }
    all
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, chain)| ((*name).to_owned(), (*chain).to_owned())).collect()
}

const OF_CLUSTERS: [(&str, &str); 6] = [
    ("bare", "http/1.1"),
    ("bare-h2", "h2"),
    ("mesh", "istio"),
    ("mesh-h2", "istio"),
    ("kept", "istio"),
    ("not-kept", "istio"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clusters_offer_by_alpn() {
    let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let server = server(Kind::Envoy, dir.path()).await;
    for kind in [Kind::Envoy, Kind::Lateen] {
        let client = client(kind, other.path(), &server, false).await;
        assert_eq!(came_by(&client, "main").await, pairs(&OF_CLUSTERS), "{}", kind.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istio_alpn_says_that_http_comes() {
    let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    for kind in [Kind::Envoy, Kind::Lateen] {
        let server = server(kind, dir.path()).await;
        let client = client(Kind::Lateen, other.path(), &server, true).await;
        let filtered = pairs(&[
            ("bare", "istio-http/1.1"),
            ("bare-h2", "istio-h2"),
            ("mesh", "istio-http/1.1"),
            ("mesh-h2", "istio-h2"),
            ("kept", "istio"),
            ("not-kept", "istio-http/1.1"),
        ]);
        // A connection that offered the one is not used for what is to offer the other.
        for _ in 0..2 {
            assert_eq!(came_by(&client, "filtered").await, filtered, "{}", kind.name());
            assert_eq!(came_by(&client, "main").await, pairs(&OF_CLUSTERS), "{}", kind.name());
        }
    }
}
