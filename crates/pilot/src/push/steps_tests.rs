//! What a state comes to step by step is what it would be made at once, whatever the steps.

use super::*;
use crate::testing::{self, Cluster};
use lateen_galley::Object;
use proptest::prelude::*;
use serde_json::{Value, json};

const NAMESPACES: [&str; 2] = ["one", "two"];
const PROXIES: [(&str, &[(&str, &str)]); 4] = [
    ("sidecar~10.0.0.1~n0.one~one.svc.cluster.local", &[("app", "a")]),
    ("sidecar~10.0.0.2~n1.two~two.svc.cluster.local", &[("app", "b")]),
    ("sidecar~10.0.0.9~elsewhere.two~two.svc.cluster.local", &[]),
    ("router~10.0.0.8~gateway.one~one.svc.cluster.local", &[("istio", "ingress")]),
];

/// Kind, which of its names, in which namespace, and what it says; `None` takes it out.
type Edit = (usize, usize, usize, Option<(u8, bool, u8)>);

fn object((kind, name, namespace, content): &Edit) -> Value {
    let namespace = NAMESPACES[*namespace];
    let (number, flag, other) = content.unwrap_or_default();
    let ip = format!("10.0.0.{}", number % 5);
    let app = ["a", "b", "c"][usize::from(other % 3)];
    let service = ["a", "b"][name % 2];
    let host = ["x.test", "y.test", "b.one.svc.cluster.local"][name % 3];
    let named = |name: String| json!({"name": name, "namespace": namespace, "labels": {"app": app}});
    let istio = |kind: &str, name: String, spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": named(name), "spec": spec});
    match kind {
        0..=2 => json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("n{name}"), "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
            "endpoints": [{"addresses": [ip], "conditions": {"ready": flag}}, {"addresses": ["10.0.0.3"]}],
            "ports": [{"name": "http", "port": 8080 + u32::from(other % 2)}, {"name": "tcp", "port": 9000}],
        }),
        3 | 4 => json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("n{name}"), "namespace": namespace, "labels": {
                "app": app, "security.istio.io/tlsMode": if flag { "istio" } else { "disabled" },
            }},
            "spec": {"serviceAccountName": format!("s{}", number % 2), "nodeName": format!("m{}", other % 2), "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 8000 + u32::from(number)}]}]},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": if flag { "True" } else { "False" }}]},
        }),
        5 => json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": service, "namespace": namespace},
            "spec": {
                "clusterIP": if flag { "None".to_owned() } else { format!("10.96.0.{}", name + 1) }, "selector": {"app": app},
                "internalTrafficPolicy": if number == 4 { "Local" } else { "Cluster" },
                "ports": [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "tcp", "port": 90 + u32::from(other % 2)}, {"name": "any", "port": 70}],
            },
        }),
        6 => istio(
            "ServiceEntry",
            format!("e{name}"),
            json!({
                "hosts": [host],
                "resolution": if flag { "DNS" } else { "STATIC" },
                "ports": [{"number": 81 + u32::from(other % 2), "name": "http", "protocol": "HTTP"}],
                "workloadSelector": if flag { Value::Null } else { json!({"labels": {"app": app}}) },
            }),
        ),
        7 => istio("WorkloadEntry", format!("w{name}"), json!({"address": ip, "weight": u32::from(flag) + 1})),
        8 | 11 | 14..=15 => istio("DestinationRule", format!("d{name}"), destination_rule(*name, number, flag, app)),
        9 | 12 | 16..=17 => istio("VirtualService", format!("v{name}"), virtual_service(*name, number, flag, other)),
        13 => istio(
            "Gateway",
            "gateway".to_owned(),
            json!({
                "selector": if flag { json!({"istio": "ingress"}) } else { json!({"app": "none"}) },
                "servers": [
                    {"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]},
                    {"port": {"number": 9090, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]},
                    {"port": {"number": 8443, "name": "tls", "protocol": "TLS"}, "hosts": ["*"], "tls": {
                        "mode": if number > 2 { "AUTO_PASSTHROUGH" } else { "PASSTHROUGH" },
                    }},
                ],
            }),
        ),
        _ => istio(
            "Sidecar",
            "default".to_owned(),
            match number {
                // Of two services of one name, each listener reaches another.
                0 | 1 => json!({"egress": [
                    {"hosts": ["one/*"], "port": {"number": 81 + u32::from(number), "name": "http", "protocol": "HTTP"}},
                    {"hosts": [if flag { "two/*" } else { "*/*" }]},
                ]}),
                _ => json!({"egress": [{"hosts": [if flag { "./*" } else { "one/*" }, "istio-system/*"]}]}),
            },
        ),
    }
}

fn destination_rule(name: usize, number: u8, flag: bool, app: &str) -> Value {
    let policy = match number {
        0 => json!({"loadBalancer": {"consistentHash": {"httpHeaderName": "x"}}}),
        1 => json!({"tunnel": {"targetHost": "t.test", "targetPort": 1}}),
        2 => json!({"portLevelSettings": [{"port": {"number": 90}, "connectionPool": {"tcp": {"idleTimeout": "5s"}}}]}),
        3 => json!({"tls": {"mode": "SIMPLE", "credentialName": "c"}}),
        _ => json!({"connectionPool": {"http": {"http2MaxRequests": 7}}}),
    };
    let host = ["a", "b", "*.svc.cluster.local"][name];
    json!({
        "host": host,
        "subsets": [{"name": if number == 4 { "w" } else { "v" }, "labels": {"app": app}}],
        "trafficPolicy": if number.is_multiple_of(2) || flag { policy } else { Value::Null },
        "exportTo": if flag { json!(["."]) } else { Value::Null },
    })
}

fn virtual_service(name: usize, number: u8, flag: bool, other: u8) -> Value {
    let host = ["a", "b", "*.one.svc.cluster.local"][name];
    let to = |host: &str| json!([{"destination": {"host": host, "subset": if flag { "v" } else { "" }}}]);
    let gateways: &[&str] = [["mesh"].as_slice(), &["mesh", "one/gateway"], &["one/gateway"]][usize::from(other)];
    let mut spec = json!({
        "hosts": if number == 4 { json!([host, "x.test"]) } else { json!([host]) },
        "gateways": gateways,
        "exportTo": if number == 3 { json!(["."]) } else { Value::Null },
    });
    match number {
        0 => spec["tcp"] = json!([{"route": to("b")}]),
        1 => spec["tls"] = json!([{"match": [{"sniHosts": ["a.test"]}], "route": to("a.one.svc.cluster.local")}]),
        _ => {
            spec["http"] = json!([{"route": to(["a", "b.two.svc.cluster.local"][usize::from(flag)]), "timeout": format!("{number}s")}])
        }
    }
    spec
}

/// Takes edits, pushing after those that settle; what proxies have must be what a new one gets.
fn steps(rounds: Vec<(Vec<Edit>, bool)>) -> Result<(), TestCaseError> {
    let mut cluster = Cluster::default();
    for (service, namespace) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        cluster.0.insert(Arc::new(Object::decode(object(&(5, service, namespace, Some((1, false, 0))))).unwrap()));
    }
    cluster.0.insert(Arc::new(Object::decode(object(&(13, 0, 0, Some((4, true, 0))))).unwrap()));
    let config = Config { automatic_mutual_tls: true, ..Config::default() };
    let mut state = cluster.state(config.clone());
    let nodes = PROXIES.map(|(id, labels)| testing::node(id, labels));
    let mut proxies: Vec<_> = nodes.iter().map(|node| testing::add(&mut state, node)).collect();
    let mut unpushed = false;
    for (round, (edits, settles)) in rounds.into_iter().enumerate() {
        for edit in &edits {
            let decoded = Object::decode(object(edit)).unwrap();
            match edit.3 {
                Some(_) => drop(cluster.0.insert(Arc::new(decoded))),
                None => drop(cluster.0.remove(&decoded.key())),
            }
        }
        unpushed |= state.take(cluster.snapshot()) == Pending::WhenQuiet;
        if settles {
            // One of them comes anew.
            let anew = round % PROXIES.len();
            drop(proxies.remove(anew));
            if std::mem::take(&mut unpushed) {
                state.push();
            }
            proxies.insert(anew, testing::add(&mut state, &nodes[anew]));
        }
        if unpushed {
            continue;
        }
        let mut fresh = cluster.state(config.clone());
        for (node, proxy) in nodes.iter().zip(&proxies) {
            let at_once = testing::add(&mut fresh, node);
            for kind in ResourceType::CORE {
                let (now, anew) = (proxy.resources.borrow().all_of(&kind), at_once.resources.borrow().all_of(&kind));
                let differs: Vec<_> = now.diff(&anew, |a, b| a == b).map(|(name, _, _)| name.clone()).collect();
                prop_assert!(differs.is_empty(), "{} {kind}: {differs:?}", node.id);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_as_good_as_at_once(
        rounds in prop::collection::vec(
            (
                prop::collection::vec(
                    (0..18usize, 0..3usize, 0..2usize, prop::option::weighted(0.8, (0..5u8, any::<bool>(), 0..3u8))), 1..4,
                ),
                any::<bool>(),
            ),
            1..25,
        )
    ) {
        steps(rounds)?;
    }
}

/// Egress listeners of one Sidecar that reach different services of one name: a rule for it is part of both's routes.
#[test]
fn every_egress_listener_follows_a_rule() {
    let services = [(6, 0, 0, Some((2, false, 0))), (6, 0, 1, Some((2, false, 1)))];
    let sidecars = [(10, 0, 0, Some((0, true, 0))), (10, 0, 1, Some((0, true, 0)))];
    let rule = |flag| vec![(9, 0, 1, Some((4, flag, 0)))];
    let before = [services, sidecars].concat();
    steps(vec![(before, true), (rule(false), true), (rule(true), true), (rule(false), true)]).unwrap();
}
