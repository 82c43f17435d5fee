//! A client on the proxy's own machine, wherever it comes to: those further on are told an address that they can use.

use std::net::Ipv4Addr;

use lateen_tests::bootstrap::{self, Layout, http, listener};
use lateen_tests::load::Target;
use lateen_tests::proxy::{Kind, Proxy};
use serde_json::json;

/// From where to where clients come.
const WAYS: [(Ipv4Addr, Ipv4Addr); 3] = [
    (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST),
    (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 11)),
    (Ipv4Addr::new(127, 0, 0, 5), Ipv4Addr::new(127, 0, 0, 11)),
];

/// What `x-forwarded-for` says of each.
async fn told(kind: Kind) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path(), &["edge"], &[]);
    let routes = json!([{"name": "all", "domains": ["*"],
        "response_headers_to_add": [{"header": {"key": "x-told", "value": "%REQ(x-forwarded-for)%"}}],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]);
    let mut edge = listener(&layout, "edge", http(&layout, "edge", routes, json!({"use_remote_address": true})));
    edge["address"]["socket_address"]["address"] = json!("0.0.0.0");
    let _proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &[edge], &[]), layout.admin, dir.path()).await;
    let mut told = Vec::new();
    for (from, to) in WAYS {
        let target = Target::new((to, layout.listener("edge")).into(), "a.test", "/").from(from);
        let answer = target.ask().await.expect("an answer");
        told.push(answer.header("x-told").expect("what is told").to_owned());
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_on_the_same_machine_has_the_proxys_address() {
    let theirs = told(Kind::Envoy).await;
    assert_eq!(theirs, told(Kind::Lateen).await);
    assert!(!theirs.contains(&"127.0.0.11".to_owned()) && theirs[2] == "127.0.0.5", "{theirs:?}");
}
