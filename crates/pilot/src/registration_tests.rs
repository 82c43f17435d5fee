use super::*;
use crate::registry::Workloads;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::{self as pb, value::Kind as Pb};
use std::sync::Arc;

fn value(kind: Pb) -> pb::Value {
    pb::Value { kind: Some(kind) }
}

fn text(text: &str) -> pb::Value {
    value(Pb::StringValue(text.to_owned()))
}

fn map(fields: Vec<(&str, pb::Value)>) -> pb::Struct {
    pb::Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}

fn node(group: &str, probe: bool) -> Node {
    let fields_of = |fields| value(Pb::StructValue(map(fields)));
    let mut fields = vec![
        ("INSTANCE_IPS", text("10.0.0.7")),
        ("NAMESPACE", text("shop")),
        ("AUTO_REGISTER_GROUP", text(group)),
        ("LABELS", fields_of(vec![("version", text("v2"))])),
    ];
    if probe {
        let tcp = fields_of(vec![("port", value(Pb::NumberValue(8080.0)))]);
        let probe = fields_of(vec![("tcpSocket", tcp)]);
        fields.push(("PROXY_CONFIG", fields_of(vec![("readinessProbe", probe)])));
    }
    Node::parse(&core::Node {
        id: "sidecar~10.0.0.7~vm1.shop~shop.svc.cluster.local".to_owned(),
        metadata: Some(map(fields)),
        ..Default::default()
    })
    .unwrap()
}

fn group() -> Object {
    Object::decode(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup",
        "metadata": {"name": "machines", "namespace": "shop", "uid": "u-1"},
        "spec": {
            "metadata": {"labels": {"app": "old", "version": "v1"}, "annotations": {"note": "x"}},
            "template": {"ports": {"http": 8080}, "labels": {"app": "older", "tier": "back"}, "serviceAccount": "vm"},
        },
    }))
    .unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
}

#[test]
fn an_entry_is_made_of_the_template_the_group_and_the_proxy() {
    let node = node("machines", true);
    let member = Member::of(&node).unwrap();
    assert_eq!(member.entry, "machines-10.0.0.7");
    let entry = member.new_entry(&node, &group(), at(0));
    let labels = json!({"app": "old", "tier": "back", "version": "v2"});
    assert_eq!(
        entry["spec"],
        json!({
            "address": "10.0.0.7", "ports": {"http": 8080}, "labels": labels, "serviceAccount": "vm",
        })
    );
    assert_eq!(entry["metadata"]["labels"], labels);
    assert_eq!(
        entry["metadata"]["annotations"],
        json!({
            "istio.io/autoRegistrationGroup": "machines", "istio.io/workloadController": "lateen",
            "istio.io/connectedAt": "1970-01-01T00:00:00Z", "proxy.istio.io/health-checks-enabled": "true", "note": "x",
        })
    );
    assert_eq!(entry["metadata"]["ownerReferences"][0]["uid"], "u-1");
    assert!(is_registered(&Object::decode(entry).unwrap()));
}

#[test]
fn other_proxies_are_not_registered() {
    assert!(Member::of(&node("", false)).is_none());
}

#[test]
fn an_entry_that_is_probed_serves_once_it_is_told_to_be_healthy() {
    let healthy = |entry: Value| {
        let mut snapshot = lateen_galley::Snapshot::default();
        snapshot.insert(Arc::new(Object::decode(entry).unwrap()));
        let workloads = Workloads::new(&snapshot);
        workloads.at("10.0.0.7".parse().unwrap()).unwrap().ready
    };
    let (probed, plain) = (node("machines", true), node("machines", false));
    let entry = |node: &Node| Member::of(node).unwrap().new_entry(node, &group(), at(0));
    assert!(healthy(entry(&plain)));
    let mut entry = entry(&probed);
    assert!(!healthy(entry.clone()));
    entry["status"] = json!({"conditions": [{"type": "Other", "status": "True"}]});
    let told = health(&entry, &WorkloadHealth::Healthy, at(1));
    entry["status"] = told["status"].clone();
    assert_eq!(entry["status"]["conditions"].as_array().unwrap().len(), 2);
    assert!(healthy(entry.clone()));
    let told = health(&entry, &WorkloadHealth::Unhealthy("refused".to_owned()), at(2));
    entry["status"] = told["status"].clone();
    assert_eq!(entry["status"]["conditions"][1]["message"], "refused");
    assert!(!healthy(entry));
}
