//! What is counted of HTTP/2 that breaks the rules, after the same frames to both proxies.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_tests::bootstrap::{self, Layout, http, listener};
use lateen_tests::case::{Case, Do};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::Stage;
use lateen_tests::{client, wait};
use serde_json::json;

use super::counters::statistics;
use super::http2::{GET, RST_STREAM, connection, frame, opened, request, with, without};

/// Statistics that are compared. Envoy resets no stream of a connection that it ends, so `http2.tx_reset` is not.
const COMPARED: [&str; 7] = [
    "http.main.downstream_cx_protocol_error",
    "http.main.downstream_rq_completed",
    "http.main.downstream_rq_rx_reset",
    "http.main.downstream_rq_total",
    "http2.header_overflow",
    "http2.rx_messaging_error",
    "http2.rx_reset",
];

/// One connection each.
fn connections() -> Vec<(&'static str, Vec<u8>)> {
    let names: Vec<String> = (0..101).map(|i| format!("h{i}")).collect();
    let many: Vec<(&str, &str)> = GET.into_iter().chain(names.iter().map(|name| (name.as_str(), "v"))).collect();
    vec![
        ("good", request(&GET)),
        ("upper-case name", request(&with(&[("A", "b")]))),
        ("connection header", request(&with(&[("connection", "close")]))),
        ("no path", request(&without(":path"))),
        ("no authority", request(&without(":authority"))),
        ("many headers", request(&many)),
        ("DATA on stream 0", frame(0, 0, 0, b"x")),
        ("WINDOW_UPDATE of 0", frame(8, 0, 0, &[0; 4])),
        ("reset", [opened(&GET, 0), frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())].concat()),
    ]
}

/// What each connection adds.
async fn counted(kind: Kind) -> BTreeMap<&'static str, BTreeMap<String, u64>> {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path(), &["main"], &[]);
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]);
    let listeners = [listener(&layout, "main", http(&layout, "main", routes, json!({})))];
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &[]), layout.admin, dir.path()).await;
    let stage = Arc::new(Stage::default());
    let mut before = statistics(&proxy.admin("/stats").await.text());
    let mut out = BTreeMap::new();
    for (index, (name, frames)) in connections().into_iter().enumerate() {
        let ping = frame(6, 0, 0, &[7; 8]);
        let case = Case::of(name).client(vec![Do::Send(connection(&[frames])), Do::Send(ping), Do::Frames]);
        let to = ([127, 0, 0, 1], layout.listener("main")).into();
        client::play(&case, [127, 0, 0, 1].into(), to, &stage).await;
        let now = wait::until("the connection is over", || async {
            let now = statistics(&proxy.admin("/stats").await.text());
            (now.get("http.main.downstream_cx_destroy") == Some(&(index as u64 + 1))).then_some(now)
        })
        .await;
        let of = |all: &BTreeMap<String, u64>, name: &str| all.get(name).copied().unwrap_or_default();
        let added = COMPARED.map(|name| (name.to_owned(), of(&now, name) - of(&before, name)));
        out.insert(name, added.into_iter().filter(|(_, added)| *added > 0).collect());
        before = now;
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_http2_is_counted() {
    let (theirs, ours) = (counted(Kind::Envoy).await, counted(Kind::Lateen).await);
    assert_eq!(theirs["upper-case name"]["http2.rx_messaging_error"], 1, "{theirs:#?}");
    assert_eq!(theirs, ours);
}
