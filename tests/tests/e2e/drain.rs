//! A proxy that ends, or loses a listener, finishes what it has begun.

use std::sync::Arc;

use lateen_tests::ads::ControlPlane;
use lateen_tests::bootstrap::{self, Flavour, Layout, cluster, http, listener};
use lateen_tests::message::{Reader, Side};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{self, Act, Stage, answer};
use lateen_tests::wait;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

struct Begun {
    dir: tempfile::TempDir,
    stage: Arc<Stage>,
    layout: Layout,
}

impl Begun {
    fn new() -> Begun {
        let dir = tempfile::tempdir().unwrap();
        let stage = Arc::new(Stage::default());
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let up = socket.local_addr().unwrap().port();
        upstream::serve(stage.clone(), "up", socket);
        let layout = Layout::new(dir.path(), &["main", "other"], &[("up", up)]);
        Begun { dir, stage, layout }
    }

    fn listeners(&self, names: &[&str]) -> Vec<Value> {
        let routes = json!([{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}]}]);
        names
            .iter()
            .map(|name| listener(&self.layout, name, http(&self.layout, name, routes.clone(), json!({}))))
            .collect()
    }

    fn clusters(&self) -> Vec<Value> {
        vec![cluster(&self.layout, "up", &["up"], json!({}))]
    }

    /// A request that has reached the upstream, whose answer waits for a cue.
    async fn request(&self, name: &str) -> Reader<TcpStream> {
        self.stage.script(name, vec![vec![Act::AwaitCue, answer("200 OK", &[], b"finished")]]);
        let mut stream = TcpStream::connect(("127.0.0.1", self.layout.listener("main"))).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-case: {name}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        wait::until("the request reaches the upstream", || async { self.stage.received(name).pop() }).await;
        Reader::new(stream)
    }

    async fn refused(&self, listener: &str) {
        let port = self.layout.listener(listener);
        wait::until(
            "new connections are refused",
            || async move { TcpStream::connect(("127.0.0.1", port)).await.err() },
        )
        .await;
    }

    /// Lets the request be answered, and sees that it is, whole, as the last one of its connection.
    async fn finishes(&self, name: &str, mut reader: Reader<TcpStream>) {
        self.stage.cue(name);
        let message = reader.message(Side::Response).await.expect("an answer");
        assert_eq!((message.status(), message.text().as_str(), message.cut), (200, "finished", false), "{message:?}");
        assert!(message.says_close(), "the client is told that the connection ends: {message:?}");
        assert_eq!(reader.rest().await, b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sigterm() {
    let begun = Begun::new();
    let file = bootstrap::fixed(&begun.layout, &begun.listeners(&["main"]), &begun.clusters());
    let mut proxy = Proxy::start(Kind::Lateen, &file, begun.layout.admin, begun.dir.path()).await;
    let idle = TcpStream::connect(("127.0.0.1", begun.layout.listener("main"))).await.unwrap();
    let request = begun.request("in flight").await;
    proxy.process.signal(libc::SIGTERM);
    begun.refused("main").await;
    let mut idle = Reader::new(idle);
    let ended = tokio::time::timeout(wait::PATIENCE, idle.rest()).await;
    assert_eq!(ended.as_deref(), Ok(&b""[..]), "an idle connection is ended without a word");
    assert!(proxy.process.ended().is_none(), "a request is in flight");
    begun.finishes("in flight", request).await;
    let status = proxy.process.exit().await;
    assert!(status.success(), "{status}: {}", proxy.process.output());
}

async fn removed_listener(kind: Kind) {
    let mut begun = Begun::new();
    let control = ControlPlane::start(&begun.listeners(&["main", "other"]), &begun.clusters()).await;
    begun.layout.ads = Some(control.port);
    let file = bootstrap::from_ads(&begun.layout, Flavour::Delta);
    let proxy = Proxy::start(kind, &file, begun.layout.admin, begun.dir.path()).await;
    let name = "under a removed listener";
    let request = begun.request(name).await;
    control.push("2", &begun.listeners(&["other"]), &begun.clusters());
    begun.refused("main").await;
    begun.finishes(name, request).await;
    assert!(
        TcpStream::connect(("127.0.0.1", begun.layout.listener("other"))).await.is_ok(),
        "the other listener stays"
    );
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_listener_that_goes() {
    removed_listener(Kind::Lateen).await;
}
