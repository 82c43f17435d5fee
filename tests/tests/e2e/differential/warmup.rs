//! Warm-up (slow start): a host that has just come gets its share by and by.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_tests::ads::ControlPlane;
use lateen_tests::bootstrap::{self, Flavour, Layout, cluster, http, listener};
use lateen_tests::chance::fits;
use lateen_tests::message::{Reader, Side};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{Stage, serve};
use lateen_tests::wait;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const WINDOW: Duration = Duration::from_secs(2);
/// Of a host's weight at its first moment.
const LEAST: f64 = 0.1;

/// The largest share that a host of this age can have beside one that is warm.
fn share(age: Duration) -> f64 {
    let factor = (age.as_secs_f64() / WINDOW.as_secs_f64()).clamp(LEAST, 1.0);
    factor / (1.0 + factor)
}

fn resources(layout: &Layout, hosts: &[&str], policy: &str) -> (Vec<Value>, Vec<Value>) {
    let routes =
        json!([{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]);
    let slow_start = json!({"slow_start_config": {"slow_start_window": format!("{}s", WINDOW.as_secs())}});
    let config = format!("{}_lb_config", policy.to_lowercase());
    let up = cluster(layout, "up", hosts, json!({"lb_policy": policy, config: slow_start}));
    (vec![listener(layout, "main", http(layout, "main", routes, json!({})))], vec![up])
}

async fn warms_up(kind: Kind, policy: &str) {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    let mut upstreams = Vec::new();
    for name in ["one", "two"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        upstreams.push((name, listener.local_addr().unwrap().port()));
        serve(stage.clone(), name, listener);
    }
    let mut layout = Layout::new(dir.path(), &["main"], &upstreams);
    let (listeners, clusters) = resources(&layout, &["one"], policy);
    let control = ControlPlane::start(&listeners, &clusters).await;
    layout.ads = Some(control.port);
    let _proxy = Proxy::start(kind, &bootstrap::from_ads(&layout, Flavour::Delta), layout.admin, dir.path()).await;

    let address = ("127.0.0.1", layout.listener("main"));
    let stream = wait::until("the proxy listens", || async { TcpStream::connect(address).await.ok() }).await;
    let mut client = Reader::new(stream);
    let mut asked = 0;
    // One request after the other; whether the newcomer answered.
    let mut ask = async || {
        let case = format!("request {asked}");
        asked += 1;
        let request = format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-case: {case}\r\n\r\n");
        client.get_mut().write_all(request.as_bytes()).await.unwrap();
        let answer = client.message(Side::Response).await.expect("an answer");
        assert_eq!(answer.status(), 200, "{}", kind.name());
        stage.received(&case).last().is_some_and(|received| received.upstream == "two")
    };
    let first = Instant::now();
    while first.elapsed() <= WINDOW {
        assert!(!ask().await);
    }

    let told = Instant::now();
    let (listeners, clusters) = resources(&layout, &["one", "two"], policy);
    control.push("2", &listeners, &clusters);
    let mut most = 0.0;
    let (mut young, mut total) = (0.0, 0.0);
    while told.elapsed() < WINDOW.mul_f64(0.4) {
        young += f64::from(u8::from(ask().await));
        total += 1.0;
        // It came later than it was told of, and was asked earlier than now.
        most += share(told.elapsed());
    }
    assert!(
        young <= most + 5.5 * f64::sqrt(most) + 1.0,
        "{}, {policy}: {young} of {total}, at most {most}",
        kind.name()
    );

    // However late the proxy heard of it: who answers is known, and warm once so much time has passed.
    while !ask().await {}
    let known = Instant::now();
    while known.elapsed() <= WINDOW {
        ask().await;
    }
    let mut warm = 0;
    for _ in 0..400 {
        warm += usize::from(ask().await);
    }
    assert!(fits(warm, 400, 0.5), "{}, {policy}: {warm} of 400", kind.name());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_get_their_share_by_and_by() {
    for policy in ["ROUND_ROBIN", "LEAST_REQUEST"] {
        tokio::join!(warms_up(Kind::Envoy, policy), warms_up(Kind::Lateen, policy));
    }
}
