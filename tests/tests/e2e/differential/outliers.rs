//! Outlier detection: upstreams that fail in their own way, asked until one is ejected, and what both proxies say then.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener, merge, tcp};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::client;
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{self, Act, Script, Stage, answer};
use lateen_tests::{ports, wait};
use serde_json::{Value, json};

use super::scenes;

/// Requests after which a host should long be ejected.
const ENOUGH: usize = 2000;

/// What is played, with clusters of hosts `a`, `b` and `c`, of which so many are there.
struct Scene {
    name: &'static str,
    hosts: usize,
    /// What `a`, `b` and `c` do with every request.
    acts: [Vec<Act>; 3],
    /// In place of `a`: nobody listens.
    dead: bool,
    cluster: Value,
    route: Value,
    headers: &'static [&'static str],
    tcp: bool,
    /// Ejections to wait for; the requests that led to them are counted.
    ejections: u64,
    /// Wait until all are back before the end.
    back: bool,
}

fn scene(name: &'static str, outlier: Value) -> Scene {
    let mut detection = json!({"max_ejection_percent": 100, "interval": "300s", "enforcing_success_rate": 0});
    merge(&mut detection, outlier);
    Scene {
        name,
        hosts: 2,
        acts: [vec![failing("500 X")], Vec::new(), Vec::new()],
        dead: false,
        cluster: json!({"outlier_detection": detection}),
        route: json!({}),
        headers: &[],
        tcp: false,
        ejections: 1,
        back: false,
    }
}

fn failing(status: &str) -> Act {
    answer(status, &[], b"bad")
}

fn scenes() -> Vec<Scene> {
    let at_once = json!({"common_lb_config": {"update_merge_window": "0s"}});
    let gateway = json!({"consecutive_gateway_failure": 2, "enforcing_consecutive_gateway_failure": 100});
    let split = json!({"split_external_local_origin_errors": true, "consecutive_local_origin_failure": 2});
    let gone = |acts: Act| [vec![acts], Vec::new(), Vec::new()];
    let mut scenes = vec![
        scene("5xx in a row", json!({"consecutive_5xx": 3})),
        Scene { acts: gone(failing("503 X")), ..scene("gateway errors in a row", gateway.clone()) },
        Scene {
            ejections: 0,
            ..scene("500 is no gateway error", json!({"consecutive_5xx": 0, "consecutive_gateway_failure": 2}))
        },
        Scene {
            ejections: 0,
            acts: gone(failing("404 X")),
            ..scene("404 is no failure", json!({"consecutive_5xx": 1}))
        },
        Scene { acts: gone(Act::Reset), ..scene("reset", json!({"consecutive_5xx": 2})) },
        Scene { acts: gone(Act::Fin), ..scene("closed", gateway.clone()) },
        Scene { dead: true, ..scene("refused", gateway) },
        Scene { dead: true, ..scene("refused counts apart", split.clone()) },
        Scene {
            ejections: 0,
            ..scene(
                "5xx when nothing of our own failed",
                json!({"split_external_local_origin_errors": true, "consecutive_5xx": 0, "consecutive_local_origin_failure": 1}),
            )
        },
        Scene {
            acts: gone(Act::Hang),
            route: json!({"timeout": "1s"}),
            ..scene("timeout", json!({"consecutive_5xx": 2}))
        },
        // Every connection that is made starts the row over.
        Scene {
            ejections: 0,
            acts: gone(Act::Hang),
            route: json!({"timeout": "1s"}),
            ..scene("timeout counts apart", split)
        },
        Scene { hosts: 1, ..scene("the only one", json!({"consecutive_5xx": 2})) },
        Scene {
            hosts: 1,
            ejections: 0,
            ..scene("one of one is more than half", json!({"consecutive_5xx": 2, "max_ejection_percent": 50}))
        },
        Scene {
            hosts: 1,
            ..scene(
                "one may always be out",
                json!({"consecutive_5xx": 2, "max_ejection_percent": 10, "always_eject_one_host": true}),
            )
        },
        Scene {
            acts: [
                vec![answer("200 OK", &[("content-type", "application/grpc"), ("grpc-status", "14")], b"")],
                Vec::new(),
                Vec::new(),
            ],
            headers: &["content-type: application/grpc"],
            ..scene("grpc-status 14", json!({"consecutive_5xx": 2}))
        },
        Scene {
            acts: [vec![answer("200 OK", &[("grpc-status", "14")], b"")], Vec::new(), Vec::new()],
            ejections: 0,
            ..scene("grpc-status without gRPC", json!({"consecutive_5xx": 2}))
        },
        Scene {
            acts: [
                vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec()), Act::Fin],
                Vec::new(),
                Vec::new(),
            ],
            ejections: 0,
            ..scene("cut answers, between the good ones they begin as", json!({"consecutive_5xx": 2}))
        },
        Scene {
            tcp: true,
            dead: true,
            acts: [Vec::new(), vec![failing("TCP"), Act::Fin], Vec::new()],
            ..scene("tcp refused", json!({"consecutive_5xx": 2}))
        },
        Scene {
            back: true,
            ..scene(
                "back after a while",
                json!({"consecutive_5xx": 2, "interval": "0.2s", "base_ejection_time": "0.3s"}),
            )
        },
        Scene {
            acts: [vec![failing("500 X")], Vec::new(), Vec::new()],
            ..scene(
                "too large a share of failures",
                json!({"consecutive_5xx": 0, "interval": "0.1s", "enforcing_failure_percentage": 100, "failure_percentage_minimum_hosts": 2, "failure_percentage_request_volume": 1}),
            )
        },
    ];
    let both = || [vec![failing("500 X")], vec![failing("500 X")], Vec::new()];
    let mut all_out = Scene { acts: both(), ejections: 2, ..scene("all of two", json!({"consecutive_5xx": 2})) };
    merge(&mut all_out.cluster, at_once.clone());
    let mut panic =
        Scene { acts: both(), ejections: 2, ..scene("all of two, in panic", json!({"consecutive_5xx": 2})) };
    merge(
        &mut panic.cluster,
        json!({"common_lb_config": {"update_merge_window": "0s", "healthy_panic_threshold": {"value": 50.0}}}),
    );
    let mut held =
        Scene { acts: both(), ejections: 2, ..scene("the second ejection shows later", json!({"consecutive_5xx": 2})) };
    merge(&mut held.cluster, json!({"common_lb_config": {"update_merge_window": "300s"}}));
    let mut third = Scene {
        hosts: 3,
        acts: both(),
        ..scene("one of three", json!({"consecutive_5xx": 2, "max_ejection_percent": 50}))
    };
    merge(&mut third.cluster, at_once);
    let options = |matcher: Value| {
        json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            "outlier_detection": {"error_matcher": matcher},
        }}})
    };
    let status = |code: &str| json!({"http_response_headers_match": {"headers": [{"name": ":status", "string_match": {"exact": code}}]}});
    let matched = |name, said: &str, ejections| {
        let mut scene = Scene { acts: gone(failing(said)), ejections, ..scene(name, json!({"consecutive_5xx": 2})) };
        merge(&mut scene.cluster, options(json!({"or_match": {"rules": [status("429"), status("503")]}})));
        scene
    };
    scenes.extend([all_out, panic, held, third]);
    scenes.push(matched("429 said to be a failure", "429 X", 1));
    scenes.push(matched("500 not said to be one", "500 X", 0));
    scenes
}

/// All facts of a scene that do not depend on whose turn it was first.
async fn play(kind: Kind, scene: &Scene) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut stages = BTreeMap::new();
    let mut upstreams = vec![("dead", ports::free())];
    for (name, acts) in ["a", "b", "c"].into_iter().zip(&scene.acts) {
        let stage = Arc::new(Stage::default());
        let script: Script = if acts.is_empty() { Vec::new() } else { vec![acts.clone()] };
        stage.script("x", script);
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        upstreams.push((name, socket.local_addr().unwrap().port()));
        upstream::serve(stage.clone(), name, socket);
        stages.insert(name, stage);
    }
    let layout = Layout::new(dir.path(), &["main"], &upstreams);
    let hosts: Vec<&str> = [if scene.dead { "dead" } else { "a" }, "b", "c"].into_iter().take(scene.hosts).collect();
    let mut route = json!({"cluster": "hosts"});
    merge(&mut route, scene.route.clone());
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]);
    let filter = if scene.tcp {
        tcp(&layout, "main", json!({"cluster": "hosts"}))
    } else {
        http(&layout, "main", routes, json!({}))
    };
    let clusters = [cluster(&layout, "hosts", &hosts, scene.cluster.clone())];
    let file = bootstrap::fixed(&layout, &[listener(&layout, "main", filter)], &clusters);
    let proxy = Proxy::start(kind, &file, layout.admin, dir.path()).await;

    let mut lines = scene.headers.to_vec();
    lines.push("x-case: x");
    let case = if scene.tcp {
        Case::of("x").client(vec![say("x-case: x\r\n\r\n"), Do::End])
    } else {
        Case::get_with("", "/", &lines)
    };
    let nobody = Stage::default();
    let ask = async || {
        let facts =
            client::play(&case, [127, 0, 0, 1].into(), ([127, 0, 0, 1], layout.listener("main")).into(), &nobody).await;
        let told = |line: &&String| line.starts_with("< HTTP") || line.starts_with("< body") || line.starts_with("end");
        facts.iter().filter(told).cloned().collect::<Vec<_>>().join(" ")
    };
    let mut facts = Vec::new();
    // Until the ejections are there; where none is to come, for a while.
    let mut asked = 0;
    while asked < ENOUGH
        && proxy.stat("cluster.hosts.outlier_detection.ejections_enforced_total").await < scene.ejections
        || asked < 12 && scene.ejections == 0
    {
        ask().await;
        asked += 1;
    }
    if !scene.tcp {
        let failures: Vec<usize> = hosts
            .iter()
            .zip(&scene.acts)
            .filter(|(_, acts)| !acts.is_empty())
            .filter_map(|(name, _)| Some(stages.get(name)?.received("x").len()))
            .collect();
        // With one that fails, it took so many; a sweep comes when it comes.
        if scene.ejections == 1 && failures.len() == 1 && !scene.name.starts_with("too large") {
            facts.push(format!("failures: {failures:?}"));
        }
    }
    if scene.back {
        wait::until("all are back", || async {
            let all = proxy.admin("/stats?filter=membership_healthy").await.text();
            all.contains(&format!(": {}", scene.hosts)).then_some(())
        })
        .await;
    }
    if !scene.back {
        let mut then: Vec<String> = Vec::new();
        for _ in 0..6 {
            then.push(ask().await);
        }
        then.sort();
        then.dedup();
        facts.push(format!("then: {then:?}"));
        let stats = proxy.admin("/stats?filter=outlier_detection%7Cmembership_(healthy%7Ctotal)").await.text();
        let uncounted = ["_overflow", "detected_", "_total", "ejections_consecutive_5xx"];
        // How often a host that may not be ejected was found out depends on whose turn it was.
        let exact = scene.ejections > 0 && scene.hosts < 3;
        let kept = |line: &&str| exact || !uncounted.iter().any(|part| line.contains(part) && line.contains("outlier"));
        // What degrades hosts is not carried out.
        facts.extend(stats.lines().filter(kept).filter(|line| !line.contains("degradation")).map(str::to_owned));
    }
    let clusters = layout.nameless(&proxy.admin("/clusters").await.text());
    let flags = clusters.lines().filter(|line| line.contains("health_flags"));
    let mut flags: Vec<String> = flags.map(str::to_owned).collect();
    if scene.hosts == 3 {
        // One of the two that fail.
        flags = vec![format!("{} out", flags.iter().filter(|line| line.ends_with("/failed_outlier_check")).count())];
    }
    facts.extend(flags);
    facts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ejections() {
    scenes::agree(&scenes(), |scene| scene.name, play).await;
}
