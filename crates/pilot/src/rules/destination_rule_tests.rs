use super::*;
use crate::rules::Balancing;
use serde_json::json;

fn rules(rules: &[(&str, &str, serde_json::Value)]) -> DestinationRules {
    let mut snapshot = Snapshot::default();
    for (age, (namespace, name, spec)) in rules.iter().enumerate() {
        let object = Object::decode(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {
                "name": name, "namespace": namespace,
                "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z"),
            },
            "spec": spec,
        }))
        .unwrap();
        snapshot.insert(Arc::new(object));
    }
    DestinationRules::new(&snapshot, &crate::Config::default())
}

fn find<'a>(rules: &'a DestinationRules, from: &str) -> Option<&'a str> {
    rules.find(from, &Labels::new(), "web.shop.svc.cluster.local", "shop").map(|rule| rule.name.as_str())
}

#[test]
fn the_clients_namespace_goes_before_the_services_and_that_before_the_root() {
    let all = rules(&[
        ("istio-system", "root", json!({"host": "*.local"})),
        ("shop", "of-service", json!({"host": "web"})),
        ("client", "of-client", json!({"host": "web.shop.svc.cluster.local"})),
    ]);
    assert_eq!(find(&all, "client"), Some("of-client"));
    assert_eq!(find(&all, "other"), Some("of-service"));
    assert_eq!(find(&all, "istio-system"), Some("of-service"));
    let root = rules(&[("istio-system", "root", json!({"host": "*.local"}))]);
    assert_eq!(find(&root, "other"), Some("root"));
}

#[test]
fn what_is_not_exported_is_not_found_elsewhere() {
    let all = rules(&[("shop", "own", json!({"host": "web", "exportTo": ["."]}))]);
    assert_eq!(find(&all, "shop"), Some("own"));
    assert_eq!(find(&all, "other"), None);
}

#[test]
fn the_most_specific_host_wins() {
    let all = rules(&[
        ("shop", "all", json!({"host": "*"})),
        ("shop", "domain", json!({"host": "*.shop.svc.cluster.local"})),
    ]);
    assert_eq!(find(&all, "shop"), Some("domain"));
}

#[test]
fn rules_for_one_host_are_merged_the_oldest_first() {
    let all = rules(&[
        ("shop", "b", json!({"host": "web", "subsets": [{"name": "v1", "labels": {"version": "1"}}]})),
        (
            "shop",
            "a",
            json!({
                "host": "web",
                "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}},
                "subsets": [{"name": "v1", "labels": {"version": "other"}}, {"name": "v2"}],
            }),
        ),
    ]);
    let merged = all.find("shop", &Labels::new(), "web.shop.svc.cluster.local", "shop").unwrap();
    assert_eq!(merged.name, "b");
    let subsets: Vec<_> = merged.subsets().map(|(name, labels)| (name, labels.get("version").cloned())).collect();
    assert_eq!(subsets, [("v1", Some("1".to_owned())), ("v2", None)]);
    assert_eq!(merged.policy("", 80).balancing, Balancing::Random);
}

#[test]
fn a_rule_for_chosen_workloads_goes_before_one_for_all() {
    let all = rules(&[
        ("shop", "for-all", json!({"host": "web"})),
        ("shop", "for-one", json!({"host": "web", "workloadSelector": {"matchLabels": {"app": "x"}}})),
    ]);
    let labels = Labels::from([("app".to_owned(), "x".to_owned())]);
    let found = all.find("shop", &labels, "web.shop.svc.cluster.local", "shop").unwrap();
    assert_eq!(found.name, "for-one");
    assert_eq!(find(&all, "shop"), Some("for-all"));
    assert_eq!(find(&all, "other"), Some("for-all"));
}

#[test]
fn a_private_rule_does_not_hide_an_exported_one() {
    let all = rules(&[
        ("shop", "private", json!({"host": "web", "exportTo": ["."]})),
        ("shop", "exported", json!({"host": "*.shop.svc.cluster.local"})),
    ]);
    assert_eq!(find(&all, "shop"), Some("private"));
    assert_eq!(find(&all, "other"), Some("exported"));
}

#[test]
fn in_the_root_namespace_only_private_rules_are_its_own() {
    let all = rules(&[
        ("istio-system", "own", json!({"host": "web.shop.svc.cluster.local", "exportTo": ["."]})),
        ("shop", "of-service", json!({"host": "web"})),
    ]);
    assert_eq!(find(&all, "istio-system"), Some("own"));
    assert_eq!(find(&all, "other"), Some("of-service"));
}
