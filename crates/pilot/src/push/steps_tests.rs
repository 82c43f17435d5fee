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
                "ports": [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "tcp", "port": 90 + u32::from(other % 2)}],
            },
        }),
        6 => istio(
            "ServiceEntry",
            format!("e{name}"),
            json!({
                "hosts": [host],
                "resolution": if flag { "DNS" } else { "STATIC" },
                "ports": [{"number": 81, "name": "http", "protocol": "HTTP"}],
                "workloadSelector": if flag { Value::Null } else { json!({"labels": {"app": app}}) },
            }),
        ),
        7 => istio("WorkloadEntry", format!("w{name}"), json!({"address": ip, "weight": u32::from(flag) + 1})),
        8 => istio(
            "DestinationRule",
            service.to_owned(),
            json!({
                "host": service, "subsets": [{"name": "v", "labels": {"app": app}}],
                "trafficPolicy": if flag { json!({"outlierDetection": {"minHealthPercent": 50}}) } else { Value::Null },
            }),
        ),
        9 => istio(
            "VirtualService",
            service.to_owned(),
            json!({
                "hosts": [service],
                "http": [{"route": [{"destination": {"host": service, "subset": if flag { "v" } else { "" }}}], "timeout": format!("{}s", number + 1)}],
            }),
        ),
        _ => istio(
            "Sidecar",
            "default".to_owned(),
            json!({
                "egress": [{"hosts": [if flag { "./*" } else { "one/*" }, "istio-system/*"]}],
            }),
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_as_good_as_at_once(
        rounds in prop::collection::vec(
            (
                prop::collection::vec(
                    (0..11usize, 0..3usize, 0..2usize, prop::option::weighted(0.8, (0..5u8, any::<bool>(), 0..3u8))), 1..4,
                ),
                any::<bool>(),
            ),
            1..25,
        )
    ) {
        let mut cluster = Cluster::default();
        for (service, namespace) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            cluster.0.insert(Arc::new(Object::decode(object(&(5, service, namespace, Some((1, false, 0))))).unwrap()));
        }
        let config = Config { automatic_mutual_tls: true, ..Config::default() };
        let mut state = cluster.state(config.clone());
        let nodes = PROXIES.map(|(id, labels)| testing::node(id, labels));
        let mut proxies: Vec<_> = nodes.iter().map(|node| testing::add(&mut state, node)).collect();
        let mut unpushed = false;
        for (edits, settles) in rounds {
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
                let last = proxies.pop();
                drop(last);
                if std::mem::take(&mut unpushed) {
                    state.push();
                }
                proxies.push(testing::add(&mut state, &nodes[PROXIES.len() - 1]));
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
    }
}
