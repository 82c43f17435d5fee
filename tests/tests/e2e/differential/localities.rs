//! Which share of the requests each host gets, by locality, priority, health and weight.

use lateen_tests::bootstrap::{Layout, cluster, http, listener, merge};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::chance::fits;
use lateen_tests::differential::{Resources, Source, World, play};
use lateen_tests::proxy::Kind;
use serde_json::{Value, json};

const HOSTS: [&str; 5] = ["one", "two", "three", "four", "five"];

/// A host: name, locality, priority, health, weight.
type Placed = (&'static str, &'static str, u32, &'static str, u32);

/// A cluster, and the shares its hosts must get.
struct Spread {
    name: &'static str,
    hosts: &'static [Placed],
    /// Weights of localities that have one.
    weights: &'static [(&'static str, u32)],
    more: &'static str,
    shares: &'static [(&'static str, f64)],
}

const WEIGHTED: &str = r#"{"common_lb_config": {"locality_weighted_lb_config": {}}}"#;

/// Three hosts in one locality, one of them ill, and one host in another.
const HALF: [Placed; 4] = [
    ("one", "a", 0, "HEALTHY", 1),
    ("two", "a", 0, "UNHEALTHY", 1),
    ("three", "a", 0, "UNHEALTHY", 1),
    ("four", "b", 0, "HEALTHY", 1),
];

const SPREADS: [Spread; 13] = [
    Spread {
        name: "localities",
        hosts: &[("one", "a", 0, "HEALTHY", 1), ("two", "a", 0, "HEALTHY", 1), ("three", "b", 0, "HEALTHY", 1)],
        weights: &[("a", 80), ("b", 20)],
        more: WEIGHTED,
        shares: &[("one", 0.4), ("two", 0.4), ("three", 0.2)],
    },
    Spread {
        name: "localities-random",
        hosts: &[("one", "a", 0, "HEALTHY", 3), ("two", "a", 0, "HEALTHY", 1), ("three", "b", 0, "HEALTHY", 1)],
        weights: &[("a", 80), ("b", 20)],
        more: r#"{"lb_policy": "RANDOM", "common_lb_config": {"locality_weighted_lb_config": {}}}"#,
        // Weights of hosts do not count.
        shares: &[("one", 0.4), ("two", 0.4), ("three", 0.2)],
    },
    // A third is healthy: 90 × 1.4 / 3 against 10.
    Spread {
        name: "localities-ill",
        hosts: &HALF,
        weights: &[("a", 90), ("b", 10)],
        more: WEIGHTED,
        shares: &[("one", 42.0 / 52.0), ("two", 0.0), ("three", 0.0), ("four", 10.0 / 52.0)],
    },
    // Weights of localities count for nothing where they are not asked for.
    Spread {
        name: "localities-off",
        hosts: &HALF,
        weights: &[("a", 90), ("b", 10)],
        more: "{}",
        shares: &[("one", 0.5), ("four", 0.5)],
    },
    Spread {
        name: "locality-without-weight",
        hosts: &[("one", "a", 0, "HEALTHY", 1), ("two", "b", 0, "HEALTHY", 1)],
        weights: &[("a", 1)],
        more: WEIGHTED,
        shares: &[("one", 1.0), ("two", 0.0)],
    },
    Spread {
        name: "priorities",
        hosts: &[("one", "a", 0, "HEALTHY", 1), ("two", "b", 1, "HEALTHY", 1)],
        weights: &[],
        more: "{}",
        shares: &[("one", 1.0), ("two", 0.0)],
    },
    Spread {
        name: "priorities-ill",
        hosts: &[("one", "a", 0, "HEALTHY", 1), ("two", "a", 0, "UNHEALTHY", 1), ("three", "b", 1, "HEALTHY", 1)],
        weights: &[],
        more: "{}",
        shares: &[("one", 0.7), ("two", 0.0), ("three", 0.3)],
    },
    Spread {
        name: "priorities-dead",
        hosts: &[("one", "a", 0, "UNHEALTHY", 1), ("two", "b", 1, "HEALTHY", 1), ("three", "c", 2, "HEALTHY", 1)],
        weights: &[],
        more: "{}",
        shares: &[("one", 0.0), ("two", 1.0), ("three", 0.0)],
    },
    // A third is healthy: 46 percent.
    Spread {
        name: "priorities-scarce",
        hosts: &[
            ("one", "a", 0, "HEALTHY", 1),
            ("two", "a", 0, "UNHEALTHY", 1),
            ("three", "a", 0, "UNHEALTHY", 1),
            ("four", "b", 1, "HEALTHY", 1),
            ("five", "b", 1, "UNHEALTHY", 1),
        ],
        weights: &[],
        more: "{}",
        shares: &[("one", 0.46), ("four", 0.54), ("five", 0.0)],
    },
    Spread {
        name: "degraded",
        hosts: &[("one", "a", 0, "HEALTHY", 1), ("two", "a", 0, "DEGRADED", 1)],
        weights: &[],
        more: "{}",
        shares: &[("one", 0.7), ("two", 0.3)],
    },
    Spread {
        name: "panic",
        hosts: &[("one", "a", 0, "HEALTHY", 1), ("two", "a", 0, "UNHEALTHY", 1), ("three", "a", 0, "UNHEALTHY", 1)],
        weights: &[],
        more: r#"{"common_lb_config": {"healthy_panic_threshold": {"value": 50.0}}}"#,
        shares: &[("one", 1.0 / 3.0), ("two", 1.0 / 3.0), ("three", 1.0 / 3.0)],
    },
    Spread {
        name: "panic-everywhere",
        hosts: &[
            ("one", "a", 0, "UNHEALTHY", 1),
            ("two", "a", 0, "UNHEALTHY", 1),
            ("three", "a", 0, "UNHEALTHY", 1),
            ("four", "b", 1, "UNHEALTHY", 1),
        ],
        weights: &[],
        more: r#"{"common_lb_config": {"healthy_panic_threshold": {"value": 50.0}}}"#,
        shares: &[("one", 0.25), ("two", 0.25), ("three", 0.25), ("four", 0.25)],
    },
    Spread {
        name: "weights",
        hosts: &[("one", "a", 0, "HEALTHY", 1), ("two", "a", 0, "HEALTHY", 3)],
        weights: &[],
        more: "{}",
        shares: &[("one", 0.25), ("two", 0.75)],
    },
];

fn spread(layout: &Layout, spread: &Spread) -> Value {
    let mut groups: Vec<(&str, u32, Vec<Value>)> = Vec::new();
    for (host, zone, priority, health, weight) in spread.hosts {
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": layout.upstream(host)}});
        let endpoint =
            json!({"endpoint": {"address": address}, "health_status": health, "load_balancing_weight": weight});
        match groups.iter_mut().find(|(known, at, _)| known == zone && at == priority) {
            Some((_, _, hosts)) => hosts.push(endpoint),
            None => groups.push((zone, *priority, vec![endpoint])),
        }
    }
    let endpoints: Vec<Value> = groups
        .into_iter()
        .map(|(zone, priority, hosts)| {
            let mut group = json!({"locality": {"zone": zone}, "priority": priority, "lb_endpoints": hosts});
            if let Some((_, weight)) = spread.weights.iter().find(|(known, _)| *known == zone) {
                merge(&mut group, json!({"load_balancing_weight": weight}));
            }
            group
        })
        .collect();
    let mut made = cluster(layout, spread.name, &[], serde_json::from_str(spread.more).expect("JSON"));
    made["load_assignment"]["endpoints"] = Value::from(endpoints);
    made
}

fn resources(layout: &Layout) -> Resources {
    let routes: Vec<Value> = SPREADS
        .iter()
        .map(|spread| json!({"match": {"prefix": format!("/{}/", spread.name)}, "route": {"cluster": spread.name}}))
        .collect();
    let virtual_hosts = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    let listeners = vec![listener(layout, "main", http(layout, "main", virtual_hosts, json!({})))];
    (listeners, SPREADS.iter().map(|one| spread(layout, one)).collect())
}

/// Shares hold, for both proxies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares() {
    const EACH: usize = 40;
    const PER_CASE: usize = 25;
    let repeated = |path: &str| {
        let ask = || [say(format!("GET /{path}/ HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n")), Do::Answer];
        (0..PER_CASE).flat_map(|_| ask()).collect::<Vec<_>>()
    };
    let cases = SPREADS
        .iter()
        .flat_map(|spread| (0..EACH).map(move |i| (spread.name, i)))
        .map(|(name, i)| Case::of(&format!("{name} {i}")).client(repeated(name)))
        .collect();
    let world = World {
        name: "localities",
        listeners: &["main"],
        upstreams: &HOSTS,
        h2_upstreams: &[],
        resources,
        cases,
        h2_scripts: vec![],
    };
    let mut wrong = Vec::new();
    for kind in [Kind::Envoy, Kind::Lateen] {
        let outcomes = play(&world, kind, Source::File).await;
        for spread in &SPREADS {
            let own = format!("{} ", spread.name);
            let seen: Vec<&String> = outcomes
                .iter()
                .filter(|(name, _)| name.starts_with(&own))
                .flat_map(|(_, outcome)| outcome.upstream.iter().filter(|line| line.starts_with("at ")))
                .collect();
            let n = EACH * PER_CASE;
            assert_eq!(seen.len(), n, "{}: requests of {}", kind.name(), spread.name);
            for (host, share) in spread.shares {
                let got = seen.iter().filter(|line| line[3..] == **host).count();
                if !fits(got, n, *share) {
                    wrong.push(format!(
                        "{}: {}: {host} got {got} of {n} where {share} was meant",
                        kind.name(),
                        spread.name
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
