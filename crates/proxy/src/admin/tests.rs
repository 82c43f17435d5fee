use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lateen_traffic::cluster::{CircuitLimits, EndpointAddress, Health, Locality};
use lateen_traffic::outlier::SuccessRates;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::*;
use crate::logging::Level;

/// An admin interface on loopback, and the ends of what it holds.
struct Admin {
    address: SocketAddr,
    stats: Arc<Stats>,
    state: watch::Sender<ServerState>,
    health_failed: watch::Receiver<bool>,
    actions: mpsc::Receiver<Action>,
    logging: Logging,
    asked_for_endpoints: Arc<AtomicBool>,
    server: JoinHandle<()>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn reviews() -> ClusterView {
    let host = HostView {
        address: EndpointAddress::ip([10, 0, 0, 1].into(), 8080),
        hostname: "".into(),
        health: Health::Unhealthy,
        weight: 3,
        locality: Locality { region: "eu".into(), zone: "a".into(), sub_zone: String::new() },
        priority: 0,
        cx_active: 1,
        cx_connect_fail: 0,
        cx_total: 6,
        rq_active: 2,
        rq_error: 0,
        rq_success: 6,
        rq_timeout: 0,
        rq_total: 8,
        found: None,
        rates: SuccessRates::default(),
    };
    ClusterView {
        name: "outbound|80||reviews".into(),
        observability_name: "reviews;".into(),
        added_via_api: true,
        limits: CircuitLimits::default(),
        detects_outliers: false,
        eds_service_name: None,
        hosts: vec![host],
    }
}

async fn admin() -> Admin {
    let stats = Stats::new(1);
    let (state, state_seen) = watch::channel(ServerState::Live);
    let (health, health_failed) = watch::channel(false);
    let (act, actions) = mpsc::channel(4);
    let (_, logging) = Logging::filter::<tracing_subscriber::Registry>(Level::Info);
    let asked_for_endpoints = Arc::new(AtomicBool::new(false));
    let asked = asked_for_endpoints.clone();
    let admin = AdminState {
        stats: stats.clone(),
        config: Box::new(Arc::default),
        config_dump: Box::new(move |endpoints| {
            asked.store(endpoints, Relaxed);
            Ok(json!({"configs": [{"dynamic_listeners": [{"name": "l"}]}]}))
        }),
        cluster_facts: Box::new(|_| ClusterFacts::default()),
        clusters: Box::new(|| vec![reviews()]),
        listeners: Box::new(|| {
            let addresses = vec!["0.0.0.0:15001".parse().unwrap(), "[::]:15001".parse().unwrap()];
            vec![ListenerView { name: "virtualOutbound".into(), addresses }]
        }),
        logging: logging.clone(),
        log_files: LogFiles::new(stats.clone()),
        server: ServerFacts {
            version: version("abc"),
            node: json!({"id": "sidecar~1"}),
            command_line_options: json!({"concurrency": 1}),
        },
        state: state_seen,
        health_failed: health,
        actions: act,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, Arc::new(admin)));
    Admin { address, stats, state, health_failed, actions, logging, asked_for_endpoints, server }
}

/// An answer: status, head in lower case, body.
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Admin {
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // It may also close before all is written.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        // A server that refuses a request may reset the connection after its answer.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn ask(&self, method: &str, path: &str) -> Got {
        // HTTP/1.0, so that the body ends with the connection and is not chunked.
        let answer = self.raw(format!("{method} {path} HTTP/1.0\r\nhost: a\r\n\r\n").as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Got { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Got {
        self.ask("GET", path).await
    }

    async fn post(&self, path: &str) -> Got {
        self.ask("POST", path).await
    }
}

#[tokio::test]
async fn ready_follows_the_state() {
    let admin = admin().await;
    let got = admin.get("/ready").await;
    assert_eq!((got.status, got.body.as_str()), (200, "LIVE\n"));
    assert!(got.head.contains("cache-control: no-cache, max-age=0") && got.head.contains("nosniff"), "{}", got.head);
    for state in [ServerState::PreInitializing, ServerState::Initializing, ServerState::Draining] {
        admin.state.send_replace(state);
        let got = admin.get("/ready").await;
        assert_eq!((got.status, got.body), (503, format!("{}\n", state.as_str())));
    }
    assert_eq!(admin.get("/server_info").await.json()["state"], "DRAINING");
}

#[tokio::test]
async fn health_can_be_failed() {
    let admin = admin().await;
    assert_eq!(admin.post("/healthcheck/fail").await.body, "OK\n");
    assert!(*admin.health_failed.borrow());
    let got = admin.get("/ready").await;
    assert_eq!((got.status, got.body.as_str()), (503, "DRAINING\n"));
    assert!(admin.get("/stats?filter=server.(live|state)").await.body.contains("server.live: 0\nserver.state: 1\n"));
    assert_eq!(admin.post("/healthcheck/ok").await.status, 200);
    assert_eq!(admin.get("/ready").await.status, 200);
    assert!(admin.get("/stats?filter=server.(live|state)").await.body.contains("server.live: 1\nserver.state: 0\n"));
}

#[tokio::test]
async fn changes_need_post() {
    let mut admin = admin().await;
    for path in ["/healthcheck/fail", "/quitquitquit", "/drain_listeners", "/reset_counters", "/reopen_logs"] {
        let got = admin.get(path).await;
        assert_eq!((got.status, got.body.as_str()), (405, "Method GET not allowed, POST required."), "{path}");
    }
    assert_eq!(admin.get("/logging?level=debug").await.status, 405);
    assert!(admin.actions.try_recv().is_err() && !*admin.health_failed.borrow());
    assert_eq!(admin.ask("DELETE", "/stats").await.status, 405);
}

#[tokio::test]
async fn actions_are_passed_on() {
    let mut admin = admin().await;
    assert_eq!(admin.post("/drain_listeners?graceful&inboundonly").await.body, "OK\n");
    let drain = Action::DrainListeners { graceful: true, inbound_only: true, skip_exit: false };
    assert_eq!(admin.actions.recv().await, Some(drain));
    assert_eq!(admin.post("/quitquitquit").await.body, "OK\n");
    assert_eq!(admin.actions.recv().await, Some(Action::Quit));
    // Who does not listen any more is not said to have heard.
    admin.actions.close();
    assert_eq!(admin.post("/quitquitquit").await.status, 503);
}

#[tokio::test]
async fn statistics_are_shown_in_all_forms() {
    let admin = admin().await;
    let cluster = admin.stats.worker(0).cluster(&"a".into());
    cluster.upstream_rq_total.add(2);
    cluster.upstream_rq_time.record(Duration::from_millis(3));
    let line = "cluster.a.upstream_rq_total: 2\n";
    assert_eq!(admin.get("/stats?filter=%5Ecluster%5C.a%5C.upstream_rq_total$").await.body, line);
    assert!(admin.get("/stats").await.body.contains("cluster.a.upstream_rq_retry: 0\n"));
    let used = admin.get("/stats?usedonly").await.body;
    assert!(used.contains(line) && !used.contains("upstream_rq_retry") && used.contains("upstream_rq_time: P0("));
    let rest = admin.get("/stats?filter=upstream&invert_filter").await.body;
    assert!(!rest.contains("upstream") && rest.contains("server.uptime"));
    let json = admin.get("/stats?format=json&filter=upstream_rq_total").await;
    assert!(json.head.contains("content-type: application/json"));
    assert_eq!(json.json(), json!({"stats": [{"name": "cluster.a.upstream_rq_total", "value": 2}]}));
    for path in ["/stats/prometheus?usedonly", "/stats?format=prometheus&usedonly"] {
        let got = admin.get(path).await;
        assert!(got.head.contains("text/plain; version=0.0.4"), "{}", got.head);
        assert!(got.body.contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"a\"} 2\n"));
    }
    let buckets = admin.get("/stats?filter=rq_time&histogram_buckets=cumulative&usedonly").await.body;
    assert!(buckets.starts_with("cluster.a.upstream_rq_time: B0.5(0,0) B1(0,0) B5(0,1)"), "{buckets}");
    let counters = admin.get("/stats?type=Counters&usedonly&filter=cluster.a").await.body;
    assert_eq!(counters, line);
    assert_eq!(admin.post("/reset_counters").await.body, "OK\n");
    assert_eq!(admin.get("/stats?filter=upstream_rq_total").await.body, "cluster.a.upstream_rq_total: 0\n");
}

#[tokio::test]
async fn wrong_parameters_are_refused() {
    let admin = admin().await;
    for path in [
        "/stats?filter=(",
        "/stats?format=html",
        "/stats?type=foo",
        "/stats?histogram_buckets=foo",
        "/clusters?filter=(",
        "/config_dump?mask=x",
        "/config_dump?name_regex=(",
        // A pattern that would need hundreds of megabytes.
        "/stats?filter=((a%7B1000%7D)%7B1000%7D)%7B1000%7D",
    ] {
        let got = admin.get(path).await;
        assert_eq!(got.status, 400, "{path}: {}", got.body);
        assert!(!got.body.is_empty());
    }
}

#[tokio::test]
async fn clusters_read_as_envoys() {
    let admin = admin().await;
    let text = admin.get("/clusters").await.body;
    for line in [
        "outbound|80||reviews::observability_name::reviews;",
        "outbound|80||reviews::default_priority::max_retries::3",
        "outbound|80||reviews::added_via_api::true",
        "outbound|80||reviews::10.0.0.1:8080::cx_total::6",
        "outbound|80||reviews::10.0.0.1:8080::rq_active::2",
        "outbound|80||reviews::10.0.0.1:8080::health_flags::/failed_eds_health",
        "outbound|80||reviews::10.0.0.1:8080::weight::3",
        "outbound|80||reviews::10.0.0.1:8080::zone::a",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    assert_eq!(admin.get("/clusters?filter=nothing").await.body, "");
    let json = admin.get("/clusters?format=json").await.json();
    let cluster = &json["cluster_statuses"][0];
    assert_eq!((&cluster["name"], &cluster["added_via_api"]), (&json!("outbound|80||reviews"), &json!(true)));
    let host = &cluster["host_statuses"][0];
    assert_eq!(host["address"], json!({"socket_address": {"address": "10.0.0.1", "port_value": 8080}}));
    assert_eq!(host["health_status"], json!({"eds_health_status": "UNHEALTHY"}));
    assert_eq!(host["stats"][0], json!({"name": "cx_connect_fail"}));
    assert_eq!(host["stats"][7], json!({"type": "GAUGE", "value": "2", "name": "rq_active"}));
    assert_eq!(host["locality"], json!({"region": "eu", "zone": "a"}));
}

#[tokio::test]
async fn listeners_read_as_envoys() {
    let admin = admin().await;
    let text = admin.get("/listeners").await.body;
    assert_eq!(text, "virtualOutbound::0.0.0.0:15001\nvirtualOutbound::[::]:15001\n");
    let address = |host: &str| json!({"socket_address": {"address": host, "port_value": 15001}});
    assert_eq!(
        admin.get("/listeners?format=json").await.json(),
        json!({"listener_statuses": [{
            "name": "virtualOutbound",
            "local_address": address("0.0.0.0"),
            "additional_local_addresses": [address("::")],
        }]})
    );
}

#[tokio::test]
async fn configuration_is_dumped() {
    let admin = admin().await;
    let got = admin.get("/config_dump").await;
    assert_eq!(got.json(), json!({"configs": [{"dynamic_listeners": [{"name": "l"}]}]}));
    assert!(got.body.starts_with("{\n \"configs\": [\n  {"), "{}", got.body);
    assert!(!admin.asked_for_endpoints.load(Relaxed));
    let picked = admin.get("/config_dump?resource=dynamic_listeners&include_eds").await.json();
    assert_eq!(picked["configs"][0]["name"], "l");
    assert!(admin.asked_for_endpoints.load(Relaxed));
    let got = admin.get("/config_dump?resource=nope").await;
    assert_eq!((got.status, got.body.as_str()), (404, "nope not found in config dump\n"));
}

#[tokio::test]
async fn log_levels_are_shown_and_changed() {
    let admin = admin().await;
    assert!(admin.get("/logging").await.body.starts_with("active loggers:\n  admin: info\n"));
    let got = admin.post("/logging?paths=http:debug,router:trace").await;
    assert!(got.body.contains("  http: debug\n") && got.body.contains("  router: trace\n"), "{}", got.body);
    assert!(admin.post("/logging?dns=off").await.body.contains("  dns: off\n"));
    assert!(admin.post("/logging?level=warning").await.body.contains("  http: warning\n"));
    for path in ["/logging?level=loud", "/logging?paths=nope:debug", "/logging?paths=http", "/logging?a=debug&b=info"] {
        let got = admin.post(path).await;
        assert_eq!(got.status, 400, "{path}");
        assert!(got.body.starts_with("error: ") && got.body.contains("levels: trace debug info warning"));
    }
    assert!(admin.logging.levels().all(|(_, level)| level == Level::Warning));
}

#[tokio::test]
async fn facts_of_the_server_are_shown() {
    let admin = admin().await;
    let info = admin.get("/server_info").await.json();
    assert!(
        info["version"].as_str().unwrap().starts_with("abc/0.")
            && info["version"].as_str().unwrap().contains("/lateen/")
    );
    assert_eq!((&info["node"]["id"], &info["command_line_options"]["concurrency"]), (&json!("sidecar~1"), &json!(1)));
    assert!(info["uptime_current_epoch"].as_str().unwrap().ends_with('s'));
    let memory = admin.get("/memory").await.json();
    assert!(memory["total_physical_bytes"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(admin.get("/certs").await.json(), json!({"certificates": []}));
}

#[tokio::test]
async fn the_way_is_shown() {
    let admin = admin().await;
    let home = admin.get("/").await;
    assert!(home.head.contains("text/html") && home.body.contains("<a href='stats/prometheus'>"));
    assert!(home.body.contains("<form action='quitquitquit' method='post'>"));
    assert!(admin.get("/help").await.body.starts_with("admin commands are:\n  /: Admin home page\n"));
    let lost = admin.get("/nope").await;
    assert_eq!(lost.status, 404);
    assert!(lost.body.starts_with("invalid path. admin commands are:\n"));
    let head = admin.ask("HEAD", "/ready").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn requests_are_bounded() {
    let admin = admin().await;
    let long = format!("GET /ready HTTP/1.0\r\nx: {}\r\n\r\n", "a".repeat(2 * HEAD));
    assert!(!admin.raw(long.as_bytes()).await.contains(" 200 "));
    let fields = "x: a\r\n".repeat(FIELDS + 1);
    assert!(!admin.raw(format!("GET /ready HTTP/1.0\r\n{fields}\r\n").as_bytes()).await.contains(" 200 "));
    assert!(!admin.raw(b"\x16\x03\x01 what\r\n\r\n").await.contains(" 200 "));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let admin = admin().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut first = [0; 15];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        held.push(stream);
    }
    // One more is accepted by the kernel and served as soon as a place is free.
    let mut waiting = TcpStream::connect(admin.address).await.unwrap();
    waiting.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), waiting.readable()).await;
    assert!(early.is_err(), "served although all places are taken");
    held.pop();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 200 OK"));
}
