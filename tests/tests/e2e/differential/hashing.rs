//! Hashes choose hosts: the same ones as in Envoy.

use std::sync::Arc;

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener, merge, tcp};
use lateen_tests::case::{Case, Do, Instead, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::message::{Reader, Side};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{Stage, answer, serve};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const HOSTS: [&str; 5] = ["one", "two", "three", "four", "five"];

/// How the hosts of a cluster differ from healthy ones of weight 1.
#[derive(Default)]
struct Odd<'a> {
    weights: &'a [u32],
    unhealthy: &'a [&'a str],
    /// Locality, weight and priority, instead of one locality for all.
    localities: &'a [(&'a str, u32, u32)],
    /// The host's port stands in its key, not its name.
    by_address: bool,
}

/// A cluster over these hosts, with keys that do not depend on ports.
fn hosts(layout: &Layout, name: &str, upstreams: &[&str], odd: &Odd<'_>, more: Value) -> Value {
    let endpoint = |at: usize, upstream: &str| {
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": layout.upstream(upstream)}});
        let mut endpoint = json!({
            "endpoint": {"address": address},
            "load_balancing_weight": odd.weights.get(at).copied().unwrap_or(1),
            "health_status": if odd.unhealthy.contains(&upstream) { "UNHEALTHY" } else { "HEALTHY" },
        });
        if !odd.by_address {
            merge(&mut endpoint, json!({"metadata": {"filter_metadata": {"envoy.lb": {"hash_key": upstream}}}}));
        }
        endpoint
    };
    let all: Vec<Value> = upstreams.iter().enumerate().map(|(at, upstream)| endpoint(at, upstream)).collect();
    let groups: Vec<Value> = match odd.localities {
        [] => vec![json!({"lb_endpoints": all})],
        // Hosts are dealt out to localities in turn.
        localities => localities
            .iter()
            .enumerate()
            .map(|(at, (zone, weight, priority))| {
                let own: Vec<&Value> = all.iter().skip(at).step_by(localities.len()).collect();
                json!({"locality": {"region": "r", "zone": zone}, "load_balancing_weight": weight, "priority": priority,
                    "lb_endpoints": own})
            })
            .collect(),
    };
    // The default of three retries at a time would be used up by the suite itself.
    let more = with(json!({"circuit_breakers": {"thresholds": [{"max_retries": 1000}]}}), more);
    let mut made = cluster(layout, name, &[], more);
    made["load_assignment"]["endpoints"] = Value::from(groups);
    made
}

const RING: fn() -> Value = || json!({"lb_policy": "RING_HASH"});
const MAGLEV: fn() -> Value = || json!({"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 1009}});

fn with(mut base: Value, more: Value) -> Value {
    merge(&mut base, more);
    base
}

fn resources(layout: &Layout) -> Resources {
    let key = || json!([{"header": {"header_name": "x-key"}}]);
    let previous = json!({
        "retry_on": "5xx", "num_retries": 3, "host_selection_retry_max_attempts": "3",
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
    });
    let route = |path: &str, cluster: &str, policies: Value| {
        json!({
            "match": {"prefix": format!("/{path}/")}, "route": {"cluster": cluster, "hash_policy": policies},
        })
    };
    let mut routes = vec![
        route(
            "rewritten-header",
            "ring",
            json!([{"header": {"header_name": "x-key",
            "regex_rewrite": {"pattern": {"regex": "-[0-9]+"}, "substitution": "_"}}}]),
        ),
        route("authority", "ring", json!([{"header": {"header_name": ":authority"}}])),
        route("path", "ring", json!([{"header": {"header_name": ":path"}}])),
        route("query", "ring", json!([{"query_parameter": {"name": "k"}}])),
        route("address", "ring", json!([{"connection_properties": {"source_ip": true}}])),
        route("cookie", "ring", json!([{"cookie": {"name": "user"}}])),
        route(
            "several",
            "ring",
            json!([{"header": {"header_name": "x-key"}}, {"cookie": {"name": "user"}},
            {"query_parameter": {"name": "k"}}]),
        ),
        route(
            "terminal",
            "ring",
            json!([{"header": {"header_name": "x-key"}, "terminal": true},
            {"connection_properties": {"source_ip": true}}]),
        ),
        route("nothing", "lone", json!([{"connection_properties": {"source_ip": false}}])),
        json!({"match": {"prefix": "/edited/"},
            "request_headers_to_add": [{"header": {"key": "x-key", "value": "other"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
            "route": {"cluster": "ring", "prefix_rewrite": "/new/", "hash_policy": [
                {"header": {"header_name": "x-key"}}, {"header": {"header_name": ":path"}}]}}),
        // One host alone: which one a cookie made for the connection stands for, nobody can know.
        json!({"match": {"prefix": "/made/"},
            "response_headers_to_add": [{"header": {"key": "x-after", "value": "%RESP(set-cookie)%"}}],
            "route": {"cluster": "lone", "hash_policy": [{"cookie": {"name": "user", "ttl": "60s", "path": "/p"}}]}}),
        json!({"match": {"prefix": "/again/made/"}, "route": {"cluster": "lone", "retry_policy": {"retry_on": "5xx"},
            "hash_policy": [{"cookie": {"name": "user", "ttl": "60s"}}]}}),
        route("session", "lone", json!([{"cookie": {"name": "user", "ttl": "0s"}}])),
        route(
            "attributes",
            "lone",
            json!([{"cookie": {"name": "user", "ttl": "0.5s", "path": "/", "attributes": [
            {"name": "SameSite", "value": "Strict"}, {"name": "Secure"}]}}]),
        ),
        route(
            "two-cookies",
            "lone",
            json!([{"cookie": {"name": "a", "ttl": "1s"}}, {"cookie": {"name": "b", "ttl": "2s"}}]),
        ),
        route("no-hashing", "plain", json!([{"cookie": {"name": "user", "ttl": "60s"}}])),
        route("refused", "dead", json!([{"cookie": {"name": "user", "ttl": "60s"}}])),
        route("nobody", "empty", json!([{"cookie": {"name": "user", "ttl": "60s"}}])),
        json!({"match": {"prefix": "/split/"}, "route": {"hash_policy": key(), "weighted_clusters": {"use_hash_policy": true,
            "clusters": [{"name": "ring", "weight": 30}, {"name": "lone", "weight": 50}, {"name": "maglev", "weight": 20}]}}}),
        json!({"match": {"prefix": "/split-by-number/"}, "route": {"hash_policy": key(), "weighted_clusters": {"header_name": "x-number",
            "clusters": [{"name": "ring", "weight": 3}, {"name": "lone", "weight": 5}]}}}),
        json!({"match": {"prefix": "/again/ring/"}, "route": {"cluster": "ring", "hash_policy": key(), "retry_policy": previous}}),
        json!({"match": {"prefix": "/again/maglev/"}, "route": {"cluster": "maglev", "hash_policy": key(), "retry_policy": previous}}),
        json!({"match": {"prefix": "/same/ring/"}, "route": {"cluster": "ring", "hash_policy": key(),
            "retry_policy": {"retry_on": "5xx", "num_retries": 2}}}),
    ];
    let even = Odd::default();
    let weights = Odd { weights: &[1, 2, 3, 5, 8], ..Odd::default() };
    let sick = Odd { unhealthy: &["two", "five"], ..Odd::default() };
    let far = Odd { unhealthy: &["one", "three"], localities: &[("a", 1, 0), ("b", 1, 1)], ..Odd::default() };
    let zones = Odd { unhealthy: &["one"], localities: &[("a", 80, 0), ("b", 20, 0)], ..Odd::default() };
    let all_sick = Odd { unhealthy: &HOSTS, ..Odd::default() };
    let by_zone = || json!({"common_lb_config": {"locality_weighted_lb_config": {}}});
    let panic = || json!({"common_lb_config": {"healthy_panic_threshold": {"value": 50.0}}});
    let murmur = || json!({"ring_hash_lb_config": {"hash_function": "MURMUR_HASH_2", "minimum_ring_size": 300}});
    let typed = |name: &str, config: Value| {
        let url = format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}");
        json!({"load_balancing_policy": {"policies": [
            {"typed_extension_config": {"name": "x", "typed_config": with(json!({"@type": url}), config)}}]}})
    };
    let mut clusters = vec![
        hosts(layout, "lone", &["one"], &even, RING()),
        cluster(layout, "plain", &["one"], json!({})),
        hosts(layout, "dead", &["dead"], &even, RING()),
        hosts(layout, "empty", &[], &even, MAGLEV()),
    ];
    // Those that many keys are tried on.
    for (name, odd, more) in [
        ("ring", &even, RING()),
        ("ring-murmur", &even, with(RING(), murmur())),
        (
            "ring-small",
            &even,
            with(RING(), json!({"ring_hash_lb_config": {"minimum_ring_size": 7, "maximum_ring_size": 9}})),
        ),
        ("ring-weights", &weights, RING()),
        ("ring-sick", &sick, RING()),
        ("ring-priorities", &far, RING()),
        ("ring-zones", &zones, with(RING(), by_zone())),
        ("ring-panic", &all_sick, with(RING(), panic())),
        (
            "ring-typed",
            &weights,
            typed("ring_hash.v3.RingHash", json!({"minimum_ring_size": 100, "hash_function": "MURMUR_HASH_2"})),
        ),
        ("maglev", &even, MAGLEV()),
        ("maglev-default", &even, json!({"lb_policy": "MAGLEV"})),
        ("maglev-weights", &weights, MAGLEV()),
        ("maglev-sick", &sick, MAGLEV()),
        ("maglev-priorities", &far, MAGLEV()),
        ("maglev-zones", &zones, with(MAGLEV(), by_zone())),
        ("maglev-typed", &weights, typed("maglev.v3.Maglev", json!({"table_size": 503}))),
    ] {
        clusters.push(hosts(layout, name, &HOSTS, odd, more));
        routes.push(route(&format!("key/{name}"), name, key()));
    }
    let virtual_hosts = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    let tcp_proxy = json!({"cluster": "ring", "hash_policy": [{"source_ip": {}}]});
    let listeners = vec![
        listener(layout, "main", http(layout, "main", virtual_hosts, json!({}))),
        listener(layout, "tcp", tcp(layout, "tcp", tcp_proxy)),
    ];
    (listeners, clusters)
}

/// The clusters that `/key/NAME/` leads to.
const KEYED: [&str; 16] = [
    "ring",
    "ring-murmur",
    "ring-small",
    "ring-weights",
    "ring-sick",
    "ring-priorities",
    "ring-zones",
    "ring-panic",
    "ring-typed",
    "maglev",
    "maglev-default",
    "maglev-weights",
    "maglev-sick",
    "maglev-priorities",
    "maglev-zones",
    "maglev-typed",
];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in KEYED {
        for i in 0..12 {
            let path = format!("/key/{name}/");
            cases.push(Case::get_with(&format!("{name} {i}"), &path, &[&format!("x-key: value {i}")]));
        }
    }
    for i in 0..8 {
        let n = |what: &str| format!("{what} {i}");
        let get = |what: &str, path: &str, headers: &[&str]| Case::get_with(&n(what), path, headers);
        cases.extend([
            get("two values", "/key/ring/", &[&format!("x-key: b{i}"), &format!("x-key: a{i}"), "x-key: c"]),
            get("empty value", "/key/ring/", &["x-key:"]),
            get("rewritten", "/rewritten-header/", &[&format!("x-key: v{i}-77-3")]),
            get("rewritten values", "/rewritten-header/", &[&format!("x-key: v{i}-77"), "x-key: a-1"]),
            Case::raw(&n("authority"), format!("GET /authority/ HTTP/1.1\r\nhost: a{i}.test\r\n@@\r\n\r\n")),
            get("path", &format!("/path/{i}?q"), &[]),
            get("query", &format!("/query/?a=1&k=v%20{i}&k=w"), &[]),
            get("address", "/address/", &[]),
            get("cookie", "/cookie/", &[&format!("cookie: a=1; user=u{i}; user=other")]),
            get("quoted cookie", "/cookie/", &[&format!("cookie: user=\"u{i}\"")]),
            get(
                "cookie in a later header",
                "/cookie/",
                &["cookie: a=1", &format!("cookie: user=u{i}"), "cookie: user=x"],
            ),
            get("several", "/several/?k=2", &[&format!("x-key: {i}"), "cookie: user=1"]),
            get("several, some", "/several/?k=2", &[&format!("x-key: {i}")]),
            get("terminal", "/terminal/", &[&format!("x-key: {i}")]),
            get("terminal without", "/terminal/", &[]),
            get("edited", &format!("/edited/{i}"), &["x-key: mine"]),
            get("split", "/split/", &[&format!("x-key: {i}")]),
            get(
                "split by number",
                "/split-by-number/",
                &[&format!("x-key: {i}"), &format!("x-number: {}", i * 1_000_003)],
            ),
        ]);
        let down = || answer("503 Service Unavailable", &[], b"down");
        for path in ["again/ring", "again/maglev", "same/ring"] {
            let case = get(path, &format!("/{path}/"), &[&format!("x-key: {i}")]);
            cases.push(case.tries(vec![vec![down()], vec![down()], vec![down()], vec![answer("200 OK", &[], b"up")]]));
        }
        let text = format!("x-case: tcp {i}\r\n\r\n");
        let acts = vec![say(text), Do::FinishWriting, Do::End];
        cases.push(Case::of(&n("tcp")).on("tcp").client(acts).upstream(vec![answer("200 OK", &[], b"ok")]));
    }
    for path in ["made", "session", "attributes", "two-cookies", "no-hashing", "refused", "nobody", "nothing"] {
        cases.push(Case::get(path, &format!("/{path}/")));
    }
    let down = || answer("503 Service Unavailable", &[], b"down");
    let again =
        Case::get("made, second try", "/again/made/").tries(vec![vec![down()], vec![answer("200 OK", &[], b"up")]]);
    let once = [
        "< HTTP/1.1 200 OK",
        "< content-length: 2",
        "< x-envoy-upstream-service-time: <ms>",
        "< set-cookie: user=\"<hash>\"; Max-Age=60; HttpOnly",
        "< date: <date>",
        "< server: envoy",
        "< body by length: (2) \"up\"",
        "end: open",
    ];
    let once = once.map(str::to_owned).to_vec();
    cases.push(again.instead("Envoy sends the cookie once for each try", Instead::Facts(once)));
    cases.push(Case::get_with("made, sent already", "/made/", &["cookie: user=known"]));
    cases.push(Case::get_with("made, sent empty", "/made/", &["cookie: user="]));
    // The same connection gets the same cookie.
    let twice = Case::of("made twice").client(vec![
        say("GET /session/ HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        Do::Answer,
        say("GET /session/ HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        Do::Answer,
    ]);
    cases.push(twice);
    cases
}

/// What is hashed, what is found, which cookies are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashing() {
    let world = World {
        name: "hashing",
        listeners: &["main", "tcp"],
        upstreams: &HOSTS,
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}

/// Which host answers each of many keys, by a proxy whose hosts are known by their addresses.
async fn chosen(kind: Kind, stage: &Arc<Stage>, upstreams: &[(&'static str, u16)], keys: usize) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let layout = Layout::new(dir.path(), &["main"], upstreams);
    let odd = Odd { weights: &[3, 1, 4, 1, 5], by_address: true, ..Odd::default() };
    let panic = json!({"common_lb_config": {"healthy_panic_threshold": {"value": 50.0}}});
    let clusters = vec![
        hosts(&layout, "ring", &HOSTS, &Odd { by_address: true, ..Odd::default() }, RING()),
        hosts(&layout, "maglev", &HOSTS, &odd, json!({"lb_policy": "MAGLEV"})),
        hosts(&layout, "panic", &["one"], &Odd { unhealthy: &["one"], ..Odd::default() }, panic),
    ];
    let routes: Vec<Value> = ["ring", "maglev", "panic"]
        .iter()
        .map(|name| {
            json!({"match": {"prefix": format!("/{name}")},
            "route": {"cluster": name, "hash_policy": [{"header": {"header_name": "x-key"}}]}})
        })
        .collect();
    let virtual_hosts = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    let listeners = [listener(&layout, "main", http(&layout, "main", virtual_hosts, json!({})))];
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &clusters), layout.admin, dir.path()).await;
    let stream = TcpStream::connect(("127.0.0.1", layout.listener("main"))).await.expect("a connection");
    let mut reader = Reader::new(stream);
    let mut chosen = Vec::new();
    for (cluster, keys) in [("ring", keys), ("maglev", keys), ("panic", 7)] {
        for key in 0..keys {
            let case = format!("{} {cluster} {key}", kind.name());
            let request =
                format!("GET /{cluster} HTTP/1.1\r\nhost: a.test\r\nx-key: key-{key}\r\nx-case: {case}\r\n\r\n");
            reader.get_mut().write_all(request.as_bytes()).await.expect("a proxy that listens");
            let answer = reader.message(Side::Response).await.expect("an answer");
            assert_eq!(answer.status(), 200);
            chosen.extend(stage.received(&case).into_iter().map(|received| received.upstream));
        }
    }
    assert_eq!(chosen.len(), 2 * keys + 7);
    // What is said of the tables must be the same too.
    let stats = proxy.admin("/stats").await.text();
    let told = ["ring_hash_lb.", "maglev_lb.", "lb_healthy_panic"];
    chosen.extend(stats.lines().filter(|line| told.iter().any(|name| line.contains(name))).map(str::to_owned));
    assert!(chosen.iter().any(|line| line == "cluster.panic.lb_healthy_panic: 7"), "{stats}");
    chosen
}

/// Two thousand keys each find the same host in both proxies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys() {
    const KEYS: usize = 1000;
    let stage = Arc::new(Stage::default());
    let upstreams: Vec<(&'static str, u16)> = HOSTS
        .iter()
        .map(|name| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("its address").port();
            serve(stage.clone(), name, listener);
            (*name, port)
        })
        .collect();
    let envoy = chosen(Kind::Envoy, &stage, &upstreams, KEYS).await;
    let lateen = chosen(Kind::Lateen, &stage, &upstreams, KEYS).await;
    let different: Vec<_> = envoy.iter().zip(&lateen).filter(|(theirs, ours)| theirs != ours).collect();
    assert!(
        different.is_empty() && envoy.len() == lateen.len(),
        "{} of {}: {different:#?}",
        different.len(),
        envoy.len()
    );
    for host in HOSTS {
        assert!(envoy.iter().filter(|chosen| *chosen == host).count() > KEYS / 20, "{host} is never chosen");
    }
}
