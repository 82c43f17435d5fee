//! Circuit breakers: so many requests at once as do not fit, held by the upstream until all of them have found their place.

use std::sync::Arc;

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener, merge};
use lateen_tests::case::Case;
use lateen_tests::client;
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{self, Act, Stage, answer};
use lateen_tests::{ports, wait};
use serde_json::{Value, json};

use super::scenes;

struct Scene {
    name: &'static str,
    hosts: usize,
    requests: usize,
    thresholds: Value,
    cluster: Value,
}

fn scene(name: &'static str, thresholds: Value) -> Scene {
    Scene { name, hosts: 1, requests: 4, thresholds, cluster: json!({}) }
}

fn one_request_a_connection() -> Value {
    json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"max_requests_per_connection": 1},
    }}})
}

fn scenes() -> Vec<Scene> {
    let example = json!({"max_connections": 1, "max_pending_requests": 1});
    vec![
        scene("one connection, one waits", example.clone()),
        Scene { cluster: one_request_a_connection(), ..scene("the same, one request a connection", example.clone()) },
        Scene { hosts: 2, requests: 5, ..scene("one connection to two hosts, one waits", example) },
        scene("one connection, all wait", json!({"max_connections": 1})),
        scene("no connection", json!({"max_connections": 0, "max_pending_requests": 2})),
        scene("nobody waits", json!({"max_pending_requests": 0})),
        scene("two requests", json!({"max_requests": 2})),
        scene("no request", json!({"max_requests": 0})),
        scene("two connections, two wait", json!({"max_connections": 2, "max_pending_requests": 2, "max_requests": 3})),
        scene("left is not told", json!({"max_connections": 2, "max_pending_requests": 1, "track_remaining": false})),
    ]
}

/// Where a request got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Upstream,
    Waiting,
    Answered,
}

async fn play(kind: Kind, scene: &Scene) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    let mut upstreams = vec![("dead", ports::free())];
    let names = &["a", "b"][..scene.hosts];
    for name in names {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        upstreams.push((name, socket.local_addr().unwrap().port()));
        upstream::serve(stage.clone(), name, socket);
    }
    let layout = Layout::new(dir.path(), &["main"], &upstreams);
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": "hosts", "timeout": "0s"}}]}]);
    let listeners = [listener(&layout, "main", http(&layout, "main", routes, json!({})))];
    let mut thresholds = json!({"track_remaining": true});
    merge(&mut thresholds, scene.thresholds.clone());
    let mut more = json!({"circuit_breakers": {"thresholds": [thresholds]}});
    merge(&mut more, scene.cluster.clone());
    let clusters = [cluster(&layout, "hosts", names, more)];
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &clusters), layout.admin, dir.path()).await;

    let cases: Vec<Case> = (0..scene.requests).map(|n| Case::get(&format!("case {n}"), "/")).collect();
    for case in &cases {
        stage.script(&case.name, vec![vec![Act::AwaitCue, answer("200 OK", &[], b"ok")]]);
    }
    let mut facts = Vec::new();
    let mut held = Vec::new();
    let mut places = Vec::new();
    for case in cases {
        let (port, stage) = (layout.listener("main"), stage.clone());
        let waiting = proxy.stat("cluster.hosts.upstream_rq_pending_active").await;
        let name = case.name.clone();
        let own = stage.clone();
        let request = tokio::spawn(async move {
            client::play(&case, [127, 0, 0, 1].into(), ([127, 0, 0, 1], port).into(), &own).await
        });
        let place = wait::until("the request's place", || async {
            if request.is_finished() {
                Some(Place::Answered)
            } else if !stage.received(&name).is_empty() {
                Some(Place::Upstream)
            } else if waits(&proxy, waiting).await && settled(&proxy).await && waits(&proxy, waiting).await {
                // It waited while nothing was under way: what has not arrived by now goes on waiting.
                stage.received(&name).is_empty().then_some(Place::Waiting)
            } else {
                None
            }
        })
        .await;
        places.push(place);
        held.push((name, request));
    }
    facts.push(format!("{places:?}"));
    facts.extend(numbers(&proxy).await.into_iter().map(|line| format!("held: {line}")));
    for (name, request) in held {
        stage.cue(&name);
        let answer = request.await.unwrap();
        let told = |line: &&String| {
            line.starts_with("< HTTP") || line.starts_with("< body") || line.starts_with("< x-envoy-overloaded")
        };
        facts.push(answer.iter().filter(told).cloned().collect::<Vec<_>>().join(" "));
    }
    wait::until("all is over", || async {
        (proxy.stat("cluster.hosts.upstream_rq_active").await == 0
            && proxy.stat("cluster.hosts.upstream_rq_pending_active").await == 0)
            .then_some(())
    })
    .await;
    // Connections that are to be closed are closed a moment later.
    if !scene.cluster.is_null() && scene.name.contains("a connection") {
        wait::until("no connection", || async {
            (proxy.stat("cluster.hosts.upstream_cx_active").await == 0).then_some(())
        })
        .await;
    }
    facts.extend(numbers(&proxy).await);
    let log = wait::until("the log", || async {
        let log = std::fs::read_to_string(layout.access_log()).unwrap_or_default();
        (log.lines().count() == scene.requests).then_some(log)
    })
    .await;
    let mut flags: Vec<String> = log
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let host = layout.nameless(fields[8]);
            format!("log: {} {} {}", fields[1], fields[2], if scene.hosts > 1 { "" } else { &host })
        })
        .collect();
    flags.sort();
    facts.extend(flags);
    facts
}

/// Whether more requests wait than before.
async fn waits(proxy: &Proxy, before: u64) -> bool {
    proxy.stat("cluster.hosts.upstream_rq_pending_active").await > before
}

/// Whether every connection that was begun is there: what waits then waits for another reason.
async fn settled(proxy: &Proxy) -> bool {
    let made = proxy.stat("cluster.hosts.upstream_cx_total").await;
    let text = proxy.admin("/stats?filter=upstream_cx_http1_total").await.text();
    let there: u64 = text.trim().rsplit_once(": ").and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
    made > 0 && made == there && proxy.stat("cluster.hosts.upstream_rq_active").await >= 1
}

async fn numbers(proxy: &Proxy) -> Vec<String> {
    let filter = "/stats?filter=circuit_breakers.default%7Cupstream_rq_(pending_%7Ctotal%7Cactive%24%7C5xx%7C2xx%7C503%7Ccompleted)%7C\
                  upstream_cx_(total%7Coverflow%7Cactive)";
    let text = proxy.admin(filter).await.text();
    // Pools are not limited, and requests that fail in pools are not told apart.
    let other = [".external.", "pool", "pending_failure", "active_overflow", "per_cx"];
    text.lines()
        .filter(|line| line.starts_with("cluster.hosts.") && !other.iter().any(|name| line.contains(name)))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits() {
    scenes::agree(&scenes(), |scene| scene.name, play).await;
}
