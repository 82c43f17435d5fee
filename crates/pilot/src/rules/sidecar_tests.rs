use super::*;
use serde_json::json;

fn sidecars(all: &[(&str, &str, serde_json::Value)]) -> Sidecars {
    let mut snapshot = Snapshot::default();
    for (age, (namespace, name, labels)) in all.iter().enumerate() {
        let mut spec = json!({"egress": [{"hosts": ["./*"]}]});
        if !labels.is_null() {
            spec["workloadSelector"] = json!({"labels": labels});
        }
        let object = Object::decode(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {
                "name": name, "namespace": namespace,
                "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z"),
            },
            "spec": spec,
        }))
        .unwrap();
        snapshot.insert(Arc::new(object));
    }
    Sidecars::new(&snapshot, "istio-system")
}

#[test]
fn a_selector_goes_before_the_namespace_and_that_before_the_root() {
    let all = sidecars(&[
        ("shop", "b-default", json!(null)),
        ("shop", "a-younger-default", json!(null)),
        ("shop", "chosen", json!({"app": "web"})),
        ("istio-system", "chosen-in-root", json!({"app": "web"})),
        ("istio-system", "root", json!(null)),
    ]);
    let web = Labels::from([("app".to_owned(), "web".to_owned())]);
    let name = |namespace: &str, labels: &Labels| all.find(namespace, labels).map(|rule| rule.name().to_owned());
    assert_eq!(name("shop", &web).as_deref(), Some("chosen"));
    assert_eq!(name("shop", &Labels::new()).as_deref(), Some("b-default"));
    assert_eq!(name("other", &web).as_deref(), Some("root"));
    assert_eq!(sidecars(&[("shop", "x", json!({"a": "b"}))]).find("shop", &web), None);
}

#[test]
fn imports_by_namespace_and_host() {
    let hosts: Vec<String> = ["./*", "prod/Web.prod.svc.cluster.local", "*/*.example.com", "~/*.secret.example.com"]
        .map(str::to_owned)
        .into();
    let imports = Imports::new(&hosts, "shop");
    for (namespace, host, imported) in [
        ("shop", "a.shop.svc.cluster.local", true),
        ("prod", "web.prod.svc.cluster.local", true),
        ("prod", "other.prod.svc.cluster.local", false),
        ("test", "web.prod.svc.cluster.local", false),
        ("any", "a.example.com", true),
        ("any", "*.example.com", true),
        ("any", "*.com", false),
        ("any", "a.secret.example.com", false),
        ("shop", "*.secret.example.com", false),
    ] {
        assert_eq!(imports.service(namespace, host), imported, "{namespace}/{host}");
    }
    // Rules for more hosts than are imported are imported too.
    assert!(imports.rule("any", "*.com") && imports.rule("prod", "*.prod.svc.cluster.local"));
    assert!(!imports.rule("prod", "*.test.svc.cluster.local"));
}

#[test]
fn nothing_at_all() {
    let hosts = ["~/*".to_owned()];
    let imports = Imports::new(&hosts, "shop");
    assert!(!imports.service("shop", "a.com") && !imports.rule("shop", "a.com"));
}
