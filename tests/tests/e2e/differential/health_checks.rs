//! Active health checks: a host that answers its checks by a script, and what both proxies asked, counted, show and do.
//!
//! After the last answer of its script the host says nothing any more, and a check waits for ever: so whatever is
//! compared stands still. The host beside it is not checked and well.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_tests::bootstrap::{self, Layout, cluster, http, http2_upstream, listener, merge, tcp};
use lateen_tests::case::Case;
use lateen_tests::client;
use lateen_tests::h2_upstream::{self, H2Act, H2Scripts, h2_answer};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{self, Act, Received, Stage, answer, send};
use lateen_tests::{ports, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::scenes;

/// Requests by which every host that serves is found: 0.7 to the power of it is nothing.
const ROUND: usize = 40;

/// What a scene's checks are filed under.
const CASE: &str = "check";

struct Scene {
    name: &'static str,
    /// What the host does with its first check, its second, …
    acts: Vec<Vec<Act>>,
    /// The same, of a host that speaks HTTP/2: then it is asked only once.
    h2: Option<H2Act>,
    /// Nobody listens.
    dead: bool,
    /// The rest of the `HealthCheck`.
    check: Value,
    /// The rest of the cluster.
    cluster: Value,
    /// The rest of the host.
    endpoint: Value,
    /// There is another host, which is well.
    beside: bool,
    /// How the host answers a request.
    serves: Vec<Act>,
    /// Checks through, the one that waits for ever not counted.
    through: usize,
}

fn scene(name: &'static str, acts: Vec<Act>, check: Value) -> Scene {
    let through = acts.len();
    let acts: Vec<Vec<Act>> = acts.into_iter().map(|act| vec![Act::ReadBody, act]).collect();
    Scene {
        name,
        acts,
        h2: None,
        dead: false,
        check,
        cluster: json!({}),
        endpoint: json!({}),
        beside: true,
        serves: Vec::new(),
        through,
    }
}

fn good() -> Act {
    answer("200 OK", &[], b"alive")
}

fn bad() -> Act {
    answer("500 X", &[], b"bad")
}

fn scenes() -> Vec<Scene> {
    let http = |more: Value| {
        let mut check = json!({"http_health_check": {
            "path": "/healthz?full",
            "request_headers_to_add": [{"header": {"key": "x-case", "value": CASE}}],
        }});
        merge(&mut check["http_health_check"], more);
        check
    };
    let with = |more: Value| {
        let mut check = http(json!({}));
        merge(&mut check, more);
        check
    };
    let plain = || http(json!({}));
    let retriable = || http(json!({"retriable_statuses": [{"start": 500, "end": 501}]}));
    let three = json!({"unhealthy_threshold": 3, "healthy_threshold": 3});
    let say = |text: &str| json!({"text": hex(text)});
    let raw = |send: Value, receive: Value| json!({"tcp_health_check": {"send": send, "receive": receive}});
    let asks = || raw(say(&format!("x-case: {CASE}\r\n\r\n")), json!([say("al"), say("ve")]));
    let mut many = retriable();
    merge(&mut many, three.clone());
    let mut scenes = vec![
        scene("well", vec![good()], plain()),
        scene("well, and well again", vec![good(), good(), good()], plain()),
        scene("not well from the start", vec![bad()], plain()),
        scene("fails at once", vec![good(), bad()], with(three.clone())),
        scene("fails and recovers", vec![good(), bad(), good(), good()], plain()),
        scene("recovers too slowly", vec![bad(), good(), good(), bad(), good(), good()], with(three.clone())),
        scene("fails once, which may be", vec![good(), bad(), bad(), good(), bad(), bad()], many.clone()),
        scene("fails often, which may not be", vec![good(), bad(), bad(), bad()], many),
        scene("204 is not 200", vec![answer("204 X", &[], b"")], plain()),
        scene(
            "204 is expected",
            vec![answer("204 X", &[], b"")],
            http(json!({"expected_statuses": [{"start": 201, "end": 300}]})),
        ),
        scene(
            "expected wins over retriable",
            vec![good()],
            http(json!({"retriable_statuses": [{"start": 200, "end": 201}]})),
        ),
        scene("degraded", vec![answer("200 OK", &[("x-envoy-degraded", "yes")], b"")], plain()),
        scene("degraded no longer", vec![answer("200 OK", &[("x-envoy-degraded", "")], b""), good()], plain()),
        scene("closes after each answer", vec![answer("200 OK", &[("connection", "close")], b""); 3], plain()),
        scene("connections are not kept", vec![good(), good(), good()], with(json!({"reuse_connection": false}))),
        scene("resets", vec![good(), Act::Reset, Act::Reset], plain()),
        scene("closes instead", vec![Act::Fin, Act::Fin], plain()),
        scene("speaks nonsense", vec![send("nonsense\r\n\r\n")], plain()),
        Scene {
            through: 3,
            ..scene(
                "cuts its answer",
                vec![good(), send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")],
                with(json!({"timeout": "0.2s"})),
            )
        },
        scene(
            "continue first",
            vec![send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")],
            plain(),
        ),
        scene("all of the body counts", vec![good()], http(json!({"receive": [say("al"), say("ve")]}))),
        scene("the body is another", vec![good()], http(json!({"receive": [say("ve"), say("al")]}))),
        scene(
            "beyond what is looked at",
            vec![good()],
            http(json!({"receive": [say("ve")], "response_buffer_size": 4})),
        ),
        scene(
            "another request",
            vec![good()],
            http(json!({
                "host": "health.test:99", "method": "POST", "send": say("how are you"),
                "request_headers_to_remove": ["user-agent"],
                "request_headers_to_add": [
                    {"header": {"key": "x-case", "value": CASE}},
                    {"header": {"key": "x-host", "value": "%UPSTREAM_HOST% %PROTOCOL% %DOWNSTREAM_REMOTE_ADDRESS%"}},
                ],
            })),
        ),
        scene("POST without a body", vec![good()], http(json!({"method": "POST"}))),
        scene("HEAD", vec![send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")], http(json!({"method": "HEAD"}))),
        Scene {
            endpoint: json!({"health_check_config": {"hostname": "endpoint.test"}}),
            ..scene("the endpoint's name", vec![good()], http(json!({"host": "health.test"})))
        },
        scene(
            "the service's name",
            vec![answer("200 OK", &[("x-envoy-upstream-healthchecked-cluster", "shop-1")], b"")],
            http(json!({"service_name_matcher": {"prefix": "shop"}})),
        ),
        scene("no service's name", vec![good()], http(json!({"service_name_matcher": {"prefix": "shop"}}))),
        Scene { dead: true, through: 2, ..scene("nobody is there", Vec::new(), with(json!({"timeout": "10s"}))) },
        Scene { beside: false, ..scene("the only one fails", vec![good(), bad()], plain()) },
        Scene {
            beside: false,
            cluster: json!({"common_lb_config": {"healthy_panic_threshold": {"value": 50.0}}}),
            ..scene("the only one fails, in panic", vec![good(), bad()], plain())
        },
        Scene {
            cluster: json!({"common_lb_config": {"ignore_new_hosts_until_first_hc": true}}),
            ..scene("new hosts are ignored", vec![bad()], plain())
        },
        scene(
            "asks to be left alone by its check",
            vec![good(), answer("503 X", &[("x-envoy-immediate-health-check-fail", "true")], b"")],
            plain(),
        ),
        Scene {
            serves: vec![answer("200 OK", &[("x-envoy-immediate-health-check-fail", "true")], b"leave me")],
            ..scene("asks to be left alone by an answer", vec![good()], plain())
        },
        scene("tcp", vec![good()], asks()),
        scene("tcp, and again", vec![good(), good()], asks()),
        scene("tcp, bit by bit", vec![send("a"), send("l")], with_timeout(asks())),
        scene("tcp closes", vec![good(), Act::Fin], asks()),
        Scene { dead: true, through: 2, ..scene("tcp, nobody there", Vec::new(), raw(json!(null), json!([]))) },
    ];
    let grpc = |more: Value| json!({"grpc_health_check": more, "no_traffic_interval": "300s"});
    let metadata = || json!({"initial_metadata": [{"header": {"key": "x-case", "value": CASE}}]});
    let serving = |status: u8| {
        let body = String::from_utf8(vec![0, 0, 0, 0, 2, 8, status]).unwrap();
        h2_answer(200, &[("content-type", "application/grpc")], &body, &[("grpc-status", "0")])
    };
    let over_h2 = |name, act: H2Act, check: Value| Scene {
        h2: Some(act),
        through: 1,
        cluster: http2_upstream(),
        ..scene(name, Vec::new(), check)
    };
    let mut asked = metadata();
    merge(&mut asked, json!({"service_name": "shop", "authority": "grpc.test"}));
    scenes.extend([
        over_h2("grpc serves", serving(1), grpc(metadata())),
        over_h2("grpc does not serve", serving(2), grpc(metadata())),
        over_h2("grpc, of a service", serving(1), grpc(asked)),
        over_h2(
            "grpc, not implemented",
            h2_answer(200, &[("content-type", "application/grpc"), ("grpc-status", "12")], "", &[]),
            grpc(metadata()),
        ),
        over_h2("grpc, no grpc", h2_answer(200, &[], "ok", &[]), grpc(metadata())),
        over_h2("grpc, 503", h2_answer(503, &[], "", &[]), grpc(metadata())),
        over_h2("grpc, reset", H2Act::Reset(7), grpc(metadata())),
        over_h2("http/2", h2_answer(200, &[], "ok", &[]), {
            let mut check = http(json!({"codec_client_type": "HTTP2", "method": "POST", "send": say("hello")}));
            check["no_traffic_interval"] = json!("300s");
            check
        }),
    ]);
    scenes
}

fn with_timeout(mut check: Value) -> Value {
    merge(&mut check, json!({"timeout": "0.1s"}));
    check
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// All facts of a scene.
async fn play(kind: Kind, scene: &Scene) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    let mut script = scene.acts.clone();
    // What can be answered by silence is.
    script.push(vec![Act::Hang]);
    stage.script_at(CASE, "a", script);
    if !scene.serves.is_empty() {
        stage.script_at("x", "a", vec![scene.serves.clone()]);
    }
    let h2 = Arc::new(H2Scripts::default());
    let mut upstreams = vec![("dead", ports::free())];
    for name in ["a", "b"] {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        upstreams.push((name, socket.local_addr().unwrap().port()));
        match &scene.h2 {
            Some(act) => {
                h2.script(CASE, vec![act.clone()]);
                h2_upstream::serve(stage.clone(), h2.clone(), name, socket);
            }
            None => upstream::serve(stage.clone(), name, socket),
        }
    }
    let layout = Layout::new(dir.path(), &["main"], &upstreams);
    let mut check = json!({
        "timeout": "300s", "interval": "0.03s", "no_traffic_interval": "0.03s",
        "unhealthy_threshold": 2, "healthy_threshold": 2,
    });
    merge(&mut check, scene.check.clone());
    let mut hosts = cluster(
        &layout,
        "hosts",
        &[if scene.dead { "dead" } else { "a" }, "b"],
        json!({"health_checks": [check], "common_lb_config": {"update_merge_window": "0s"}}),
    );
    merge(&mut hosts, scene.cluster.clone());
    let endpoints = hosts["load_assignment"]["endpoints"][0]["lb_endpoints"].as_array_mut().unwrap();
    merge(&mut endpoints[0]["endpoint"], scene.endpoint.clone());
    merge(&mut endpoints[1]["endpoint"], json!({"health_check_config": {"disable_active_health_check": true}}));
    endpoints.truncate(if scene.beside { 2 } else { 1 });
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "hosts"}}]}]);
    let file =
        bootstrap::fixed(&layout, &[listener(&layout, "main", http(&layout, "main", routes, json!({})))], &[hosts]);
    let proxy = Proxy::start(kind, &file, layout.admin, dir.path()).await;
    let stats = async || {
        let text =
            proxy.admin("/stats?filter=health_check%7Cmembership_(healthy%7Cdegraded%7Cexcluded%7Ctotal)").await.text();
        let values = text.lines().filter_map(|line| line.strip_prefix("cluster.hosts.")?.split_once(": "));
        values.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>()
    };
    // The scripts are through, and the last check waits.
    let waits = !scene.dead && scene.h2.is_none() && scene.check.get("timeout").is_none();
    let attempts = if waits { scene.through + 1 } else { scene.through };
    wait::until(&format!("{kind:?}, {}: all checks are through", scene.name), || async {
        let count = async |name| proxy.stat(&format!("cluster.hosts.health_check.{name}")).await;
        let (attempt, done) = (count("attempt").await, count("success").await + count("failure").await);
        (attempt >= attempts as u64 && done >= scene.through as u64).then_some(())
    })
    .await;
    let case = Case::get_with("", "/", &["x-case: x"]);
    let nobody = Stage::default();
    let ask = async || {
        let facts =
            client::play(&case, [127, 0, 0, 1].into(), ([127, 0, 0, 1], layout.listener("main")).into(), &nobody).await;
        let told = |line: &&String| line.starts_with("< HTTP") || line.starts_with("< body");
        facts.iter().filter(told).cloned().collect::<Vec<_>>().join(" ")
    };
    let mut facts = Vec::new();
    if !scene.serves.is_empty() {
        wait::until(&format!("{kind:?}: the host is left alone"), || async {
            ask().await;
            (proxy.stat("cluster.hosts.health_check.passive_failure").await == 1).then_some(())
        })
        .await;
    }
    let checks: Vec<Received> = stage.received(CASE);
    if let Some(first) = checks.first() {
        client::describe(&first.message, ">", false, &mut facts);
        facts.iter_mut().for_each(|fact| *fact = layout.nameless(fact));
    }
    let frozen = waits || scene.h2.is_some();
    if frozen {
        facts.push(format!("asked {} times", checks.len()));
    }
    for (name, value) in stats().await {
        // How often is a matter of time where nothing stands still.
        let exact =
            frozen || !matches!(name.rsplit('.').next(), Some("attempt" | "failure" | "network_failure" | "success"));
        if name == "health_check.degraded" && scene.name == "degraded no longer" {
            // Envoy counts up and never down.
            continue;
        }
        facts.push(if exact { format!("{name}: {value}") } else { format!("{name}: {}", value != "0") });
    }
    let clusters = layout.nameless(&proxy.admin("/clusters").await.text());
    facts.extend(clusters.lines().filter(|line| line.contains("health_flags")).map(str::to_owned));
    let json: Value = serde_json::from_str(&proxy.admin("/clusters?format=json").await.text()).unwrap();
    let statuses = json["cluster_statuses"].as_array().into_iter().flatten();
    let hosts = statuses.filter(|one| one["name"] == "hosts").flat_map(|one| one["host_statuses"].as_array().unwrap());
    facts.extend(hosts.map(|host| host["health_status"].to_string()));
    // Workers learn of it within a moment. Then dice are thrown: a host that asks for less load beside one that is well
    // takes three requests of ten.
    let before = std::cell::Cell::new(Vec::new());
    let served = wait::until(&format!("{kind:?}, {}: the same hosts serve twice", scene.name), || async {
        let mut round = Vec::new();
        for _ in 0..ROUND {
            let asked = stage.received("x").len();
            let answer = ask().await;
            round.push(stage.received("x").get(asked).map_or(answer, |request| request.upstream.clone()));
        }
        round.sort();
        round.dedup();
        (before.replace(round.clone()) == round).then_some(round)
    })
    .await;
    facts.push(format!("served by {served:?}"));
    facts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks() {
    scenes::agree(&scenes(), |scene| scene.name, play).await;
}

/// What becomes of connections when the host fails its check and comes back.
async fn connections(kind: Kind, close: bool) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    let then = |act: Act| vec![Act::ReadBody, act];
    let fail = vec![Act::ReadBody, Act::AwaitCue, bad()];
    stage.script(CASE, vec![then(good()), fail, then(good()), then(good()), vec![Act::Hang]]);
    stage.script("raw", vec![vec![send("hello"), Act::EchoRaw]]);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let layout = Layout::new(dir.path(), &["main", "raw"], &[("a", socket.local_addr().unwrap().port())]);
    upstream::serve(stage.clone(), "a", socket);
    let check = json!({
        "timeout": "300s", "interval": "0.03s", "no_traffic_interval": "0.03s",
        "unhealthy_threshold": 2, "healthy_threshold": 2,
        "http_health_check": {
            "path": "/", "request_headers_to_add": [{"header": {"key": "x-case", "value": CASE}}],
        },
    });
    let hosts = cluster(
        &layout,
        "hosts",
        &["a"],
        json!({
            "health_checks": [check],
            "common_lb_config": {"update_merge_window": "0s"},
            "close_connections_on_host_health_failure": close,
        }),
    );
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "hosts"}}]}]);
    let listeners = [
        listener(&layout, "main", http(&layout, "main", routes, json!({}))),
        listener(&layout, "raw", tcp(&layout, "raw", json!({"cluster": "hosts"}))),
    ];
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &[hosts]), layout.admin, dir.path()).await;
    let case = Case::get_with("", "/", &["x-case: x"]);
    let nobody = Stage::default();
    let address = ([127, 0, 0, 1], layout.listener("main")).into();
    let ask = async || client::play(&case, [127, 0, 0, 1].into(), address, &nobody).await;
    let mut facts = Vec::new();
    ask().await;
    ask().await;
    facts.push(format!("connections at first: {}", stage.connections("a")));
    let mut raw = tokio::net::TcpStream::connect(("127.0.0.1", layout.listener("raw"))).await.unwrap();
    raw.write_all(b"x-case: raw\r\n\r\n").await.unwrap();
    let mut hello = [0; 5];
    raw.read_exact(&mut hello).await.unwrap();
    stage.cue(CASE);
    wait::until("the host is back", || async {
        (proxy.stat("cluster.hosts.health_check.success").await == 3).then_some(())
    })
    .await;
    facts.push(if close {
        format!("then: {:?}", raw.read(&mut hello).await.map_err(|error| error.kind()))
    } else {
        raw.write_all(b"again").await.unwrap();
        format!("then: {:?}", raw.read_exact(&mut hello).await.map_err(|error| error.kind()))
    });
    wait::until("the host serves again", || async {
        ask().await.iter().any(|fact| fact.starts_with("< HTTP/1.1 200")).then_some(())
    })
    .await;
    facts.push(format!("connections at last: {}", stage.connections("a")));
    facts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_host_that_fails() {
    for close in [false, true] {
        let (theirs, ours) = (connections(Kind::Envoy, close).await, connections(Kind::Lateen, close).await);
        assert_eq!(theirs, ours, "close: {close}");
    }
}
