//! Servers that speak first behind a port whose protocol is looked for in what clients say.

use std::time::{Duration, Instant};

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener, merge, tcp};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::wait;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long the proxy looks for HTTP before it connects to the server; `0` is for ever.
async fn greeted_after(kind: Kind, look: &str) -> Duration {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path(), &["main"], &[("database", server.local_addr().unwrap().port())]);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let _ = stream.write_all(b"5.7-ready\n").await;
            let mut query = [0; 5];
            if stream.read_exact(&mut query).await.is_ok() {
                let _ = stream.write_all(&query).await;
            }
        }
    });
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]);
    let mut sniffing = listener(&layout, "main", http(&layout, "main", routes, json!({})));
    sniffing["filter_chains"][0]["filter_chain_match"] = json!({"application_protocols": ["http/1.1", "h2c"]});
    let rest = json!({
        "default_filter_chain": {"filters": [tcp(&layout, "tcp", json!({"cluster": "database"}))]},
        "listener_filters_timeout": look, "continue_on_listener_filters_timeout": true,
        "listener_filters": [{"name": "envoy.filters.listener.http_inspector", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"}}],
    });
    merge(&mut sniffing, rest);
    let config = bootstrap::fixed(&layout, &[sniffing], &[cluster(&layout, "database", &["database"], json!({}))]);
    let _proxy = Proxy::start(kind, &config, layout.admin, dir.path()).await;

    let begun = Instant::now();
    let mut client = TcpStream::connect(("127.0.0.1", layout.listener("main"))).await.unwrap();
    let mut greeting = [0; 10];
    tokio::time::timeout(wait::PATIENCE, client.read_exact(&mut greeting)).await.expect("a greeting").unwrap();
    let took = begun.elapsed();
    assert_eq!(&greeting, b"5.7-ready\n");
    client.write_all(b"query").await.unwrap();
    let mut echo = [0; 5];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"query");
    took
}

/// Envoy hears the server once it has looked long enough, we hear it however long we would look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_speaks_first_is_heard() {
    // Envoy counts from when its loop last looked at the clock, which may have been before the client came.
    assert!(greeted_after(Kind::Envoy, "2s").await > Duration::from_secs(1));
    greeted_after(Kind::Lateen, "2s").await;
    greeted_after(Kind::Lateen, "0s").await;
}
