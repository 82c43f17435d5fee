//! What our proxy does beyond Envoy in choosing hosts.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener};
use lateen_tests::message::{Message, Reader, Side};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{Stage, serve};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Upstreams that answer 200.
fn upstreams(stage: &Arc<Stage>, names: &[&'static str]) -> Vec<(&'static str, u16)> {
    let one = |name: &&'static str| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        serve(stage.clone(), name, listener);
        (*name, port)
    };
    names.iter().map(one).collect()
}

fn everything_to(layout: &Layout, action: Value) -> Value {
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}]);
    listener(layout, "main", http(layout, "main", routes, json!({})))
}

/// One request on a connection of its own: who answered, and how.
async fn ask(layout: &Layout, stage: &Stage, case: &str, headers: &str) -> (String, Message) {
    let stream = TcpStream::connect(("127.0.0.1", layout.listener("main"))).await.expect("a connection");
    let mut reader = Reader::new(stream);
    let request = format!("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\nx-case: {case}\r\n{headers}\r\n");
    reader.get_mut().write_all(request.as_bytes()).await.expect("a proxy that listens");
    let answer = reader.message(Side::Response).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let received = stage.received(case);
    (received.last().expect("a request that arrived").upstream.clone(), answer)
}

/// However many workers there are: requests one after another go to the hosts in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_alternates_over_all_workers() {
    let stage = Arc::new(Stage::default());
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path(), &["main"], &upstreams(&stage, &["one", "two"]));
    let clusters = [cluster(&layout, "up", &["one", "two"], json!({"lb_policy": "ROUND_ROBIN"}))];
    let config = bootstrap::fixed(&layout, &[everything_to(&layout, json!({"cluster": "up"}))], &clusters);
    let mut proxy = Proxy::spawn_workers(Kind::Lateen, &config, layout.admin, dir.path(), 4);
    proxy.ready().await;
    let mut last = String::new();
    for i in 0..200 {
        let (host, _) = ask(&layout, &stage, &format!("turn {i}"), "").await;
        assert_ne!(host, last, "request {i}");
        last = host;
    }
}

/// A cookie that is made decides about the weighted destination too, so that the client stays where it first was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cookie_decides_at_once() {
    let stage = Arc::new(Stage::default());
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path(), &["main"], &upstreams(&stage, &["one", "two"]));
    let ring = || json!({"lb_policy": "RING_HASH"});
    let clusters = [cluster(&layout, "one", &["one"], ring()), cluster(&layout, "two", &["two"], ring())];
    let action = json!({
        "hash_policy": [{"cookie": {"name": "user", "ttl": "0s"}}],
        "weighted_clusters": {"use_hash_policy": true, "clusters": [{"name": "one", "weight": 1}, {"name": "two", "weight": 1}]},
    });
    let config = bootstrap::fixed(&layout, &[everything_to(&layout, action)], &clusters);
    let _proxy = Proxy::start(Kind::Lateen, &config, layout.admin, dir.path()).await;
    let mut seen = BTreeSet::new();
    for i in 0..64 {
        let (first, answer) = ask(&layout, &stage, &format!("first {i}"), "").await;
        let made = answer.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie");
        let (second, answer) = ask(&layout, &stage, &format!("second {i}"), &format!("cookie: {made}\r\n")).await;
        assert_eq!((first.as_str(), answer.header("set-cookie")), (second.as_str(), None));
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "64 clients are all alike");
}
