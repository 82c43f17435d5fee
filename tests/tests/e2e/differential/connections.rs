//! How many connections clients may have at once.

use lateen_tests::bootstrap::{self, Layout, http, listener, merge};
use lateen_tests::message::{Reader, Side};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::wait;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A connection that was answered; `None` if it was closed unheard.
async fn open(port: u16) -> Option<Reader<TcpStream>> {
    let mut reader = Reader::new(TcpStream::connect(("127.0.0.1", port)).await.expect("a connection"));
    // It may be closed already.
    reader.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.ok()?;
    let answer = reader.message(Side::Response).await?;
    assert_eq!(answer.status(), 200);
    Some(reader)
}

/// What the statistics of these names say.
async fn counted(proxy: &Proxy, layout: &Layout, names: &[&str]) -> Vec<Option<u64>> {
    let scope = format!("listener.127.0.0.1_{}.", layout.listener("main"));
    let page = proxy.admin("/stats").await.text();
    let value = |name: &&str| {
        let name = name.replace("main.", &scope);
        page.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))?.parse().ok())
    };
    names.iter().map(value).collect()
}

async fn play(kind: Kind) -> Vec<Option<u64>> {
    let dir = tempfile::tempdir().expect("a directory");
    let layout = Layout::new(dir.path(), &["main", "free"], &[]);
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]);
    let listeners = ["main", "free"].map(|name| {
        let mut made = listener(&layout, name, http(&layout, name, routes.clone(), json!({})));
        merge(&mut made, json!({"ignore_global_conn_limit": name == "free"}));
        made
    });
    let mut config = bootstrap::fixed(&layout, &listeners, &[]);
    let monitor = json!({
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": 2,
        },
    });
    let limit: Value = json!({
        "admin": {"ignore_global_conn_limit": true},
        "overload_manager": {"resource_monitors": [monitor]},
    });
    merge(&mut config, limit);
    let proxy = Proxy::start(kind, &config, layout.admin, dir.path()).await;
    let main = layout.listener("main");
    let first = open(main).await.expect("the first is let in");
    let _second = open(main).await.expect("the second is let in");
    assert!(open(main).await.is_none(), "{}: a third is let in", kind.name());
    assert!(open(layout.listener("free")).await.is_some(), "{}: the limit is not of this listener", kind.name());
    let names =
        ["main.downstream_global_cx_overflow", "main.downstream_cx_overflow", "main.downstream_cx_overload_reject"];
    let seen = counted(&proxy, &layout, &[&names[..], &["main.downstream_cx_total"]].concat()).await;
    drop(first);
    wait::until("a place", || open(main)).await;
    // Envoy looks at certificates every five seconds.
    let days = ["server.days_until_first_cert_expiring"];
    let days = wait::until("the days", || async {
        Some(counted(&proxy, &layout, &days).await).filter(|days| days[0] != Some(0))
    });
    [seen, days.await].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_closed_and_counted() {
    let theirs = play(Kind::Envoy).await;
    assert_eq!(theirs, [Some(1), Some(0), Some(0), Some(2), Some(u64::from(u32::MAX))]);
    assert_eq!(play(Kind::Lateen).await, theirs);
}
