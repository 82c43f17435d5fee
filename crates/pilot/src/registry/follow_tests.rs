use super::*;
use lateen_galley::Object;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NAMESPACES: [&str; 2] = ["one", "two"];

fn services() -> Vec<Value> {
    let mut all = Vec::new();
    for namespace in NAMESPACES {
        for (name, selector) in [("a", json!({"app": "a"})), ("b", json!(null))] {
            all.push(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": "10.96.0.1", "selector": selector, "ports": [{"name": "http", "port": 80}]},
            }));
        }
        let entry = |name: &str, host: &str, spec: Value| {
            let mut object = json!({
                "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"hosts": [host, "other.test"], "resolution": "STATIC", "ports": [{"number": 81, "name": "tcp", "protocol": "TCP"}]},
            });
            for (key, value) in spec.as_object().unwrap() {
                object["spec"][key] = value.clone();
            }
            object
        };
        all.push(entry("selects", "selects.test", json!({"workloadSelector": {"labels": {"app": "a"}}})));
        all.push(entry(
            "more",
            &format!("b.{namespace}.svc.cluster.local"),
            json!({"workloadSelector": {"labels": {"app": "b"}}}),
        ));
        all.push(entry("lists", "lists.test", json!({"endpoints": [{"address": "10.0.0.1"}]})));
    }
    all
}

/// Kind, which of its names, and what it says; `None` takes it out.
type Edit = (usize, usize, usize, Option<(u8, bool, u8)>);

fn object((kind, name, namespace, content): &Edit) -> (Value, bool) {
    let namespace = NAMESPACES[*namespace];
    let (address, flag, label) = content.unwrap_or_default();
    let ip = format!("10.0.0.{}", address % 5);
    let app = ["a", "b", "c"][usize::from(label % 3)];
    let metadata = json!({"name": format!("n{name}"), "namespace": namespace, "labels": {"app": app}});
    let slice_of = ["a", "b"][name % 2];
    let value = match kind {
        0 => json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"hostNetwork": address == 4, "containers": [{"name": "c", "image": "i"}]},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": if flag { "True" } else { "False" }}]},
        }),
        1 => json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": metadata,
            "spec": {"address": ip, "weight": u32::from(flag) + 1},
        }),
        2 => json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("n{name}"), "namespace": namespace, "labels": {"kubernetes.io/service-name": slice_of}},
            "endpoints": [{"addresses": [ip], "conditions": {"ready": flag}}, {"addresses": ["10.0.0.3"]}],
            "ports": [{"name": "http", "port": 8080}],
        }),
        _ => json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": slice_of, "namespace": namespace},
            "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "http", "port": 8080}]}],
        }),
    };
    (value, content.is_some())
}

/// All that can be asked of a registry.
fn everything(registry: &Registry) -> impl PartialEq + std::fmt::Debug + use<> {
    let endpoints: BTreeMap<_, _> = registry
        .entries
        .iter()
        .map(|(key, entry)| (key.clone(), (entry.service.clone(), entry.endpoints.clone())))
        .collect();
    let at: BTreeMap<_, _> = registry.at_address.iter().map(|(ip, keys)| (*ip, keys.clone())).collect();
    let known: Vec<_> = (0..6).map(|n| registry.workloads.at(IpAddr::from([10, 0, 0, n])).cloned()).collect();
    let named: Vec<Vec<_>> =
        NAMESPACES.iter().map(|namespace| registry.workloads.of_namespace(namespace).cloned().collect()).collect();
    (endpoints, at, known, named)
}

proptest! {
    #[test]
    fn following_is_as_good_as_reading_anew(
        rounds in prop::collection::vec(
            prop::collection::vec(
                (0..4usize, 0..3usize, 0..2usize, prop::option::weighted(0.8, (0..5u8, any::<bool>(), 0..3u8))), 1..5,
            ),
            1..8,
        )
    ) {
        let mut before = Snapshot::default();
        for service in services() {
            before.insert(Arc::new(Object::decode(service).unwrap()));
        }
        let mut registry = Registry::new(&before, &crate::Config::default(), &Registry::default());
        for round in rounds {
            let mut now = before.clone();
            for (value, stays) in round.iter().map(object) {
                let object = Object::decode(value).unwrap();
                match stays {
                    true => drop(now.insert(Arc::new(object))),
                    false => drop(now.remove(&object.key())),
                }
            }
            let followed = registry.follow(&before, &now, &crate::Config::default());
            let anew = Registry::new(&now, &crate::Config::default(), &registry);
            prop_assert_eq!(everything(&followed), everything(&anew));
            (registry, before) = (followed, now);
        }
    }
}
