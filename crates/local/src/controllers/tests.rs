use std::sync::Arc;

use lateen_galley::{Change, Kind, Object, Snapshot, Store, StoreSettings};
use serde_json::{Value, json};
use std::time::SystemTime;

use super::{addresses, behind, deployments, endpoints, garbage, views, write_status};
use crate::admission::Admission;
use crate::dns::Found;
use crate::hosts::{Endpoint, ServicePort};

fn cluster() -> Admission {
    let admission = Admission::new(Store::new(StoreSettings::default()));
    put(&admission, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    admission
}

fn put(admission: &Admission, raw: Value) {
    admission.write(Change::Upsert(Object::decode(raw).unwrap())).unwrap();
}

fn snapshot(admission: &Admission) -> Snapshot {
    admission.store().snapshot()
}

fn deployment(version: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web", "version": version}},
                "spec": {"containers": [{"name": "web", "image": version, "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}

fn pods(admission: &Admission) -> Vec<Arc<Object>> {
    snapshot(admission).objects(Kind::Pod).cloned().collect()
}

/// Does the kubelet's part: every pod of a version gets an address and is ready, deleted ones go.
fn kubelet(admission: &Admission, ready: bool) {
    for (index, pod) in pods(admission).into_iter().enumerate() {
        if pod.metadata().deletion_timestamp.is_some() {
            let mut raw = pod.raw().clone();
            raw["metadata"]["finalizers"] = json!([]);
            admission.store().write(Change::Update(Object::decode(raw).unwrap()), SystemTime::now()).unwrap();
            continue;
        }
        let status = json!({
            "phase": "Running", "podIP": format!("10.244.0.{}", index + 2),
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        });
        write_status(admission.store(), &pod, status);
    }
}

fn versions(admission: &Admission) -> Vec<String> {
    let alive = pods(admission).into_iter().filter(|pod| pod.metadata().deletion_timestamp.is_none());
    let mut versions: Vec<String> = alive.map(|pod| pod.label("version").unwrap().to_owned()).collect();
    versions.sort();
    versions
}

#[test]
fn a_deployment_rolls_to_its_new_template_without_a_gap() {
    let admission = cluster();
    put(&admission, deployment("v1", 2));
    deployments::reconcile(&admission, &snapshot(&admission));
    assert_eq!(versions(&admission), ["v1", "v1"]);
    kubelet(&admission, true);
    deployments::reconcile(&admission, &snapshot(&admission));
    let status = snapshot(&admission).find(Kind::Deployment, "shop", "web").unwrap().raw()["status"].clone();
    assert_eq!((&status["readyReplicas"], &status["updatedReplicas"]), (&json!(2), &json!(2)));
    put(&admission, deployment("v2", 2));
    for _ in 0..8 {
        deployments::reconcile(&admission, &snapshot(&admission));
        let ready = pods(&admission).iter().filter(|pod| pod.raw()["status"]["podIP"].is_string()).count();
        assert!(ready >= 2, "at every step two pods can serve");
        kubelet(&admission, true);
    }
    assert_eq!(versions(&admission), ["v2", "v2"]);
    let pod = pods(&admission).remove(0);
    let parts: Vec<&str> = pod.name().split('-').collect();
    assert_eq!((parts[0], parts[1].len(), parts[2].len()), ("web", 10, 5));
}

#[test]
fn slices_follow_pods_and_named_ports() {
    let admission = cluster();
    put(&admission, deployment("v1", 1));
    put(
        &admission,
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        }),
    );
    deployments::reconcile(&admission, &snapshot(&admission));
    kubelet(&admission, false);
    endpoints::reconcile(&admission, &snapshot(&admission));
    let slice =
        |admission: &Admission| snapshot(admission).find(Kind::EndpointSlice, "shop", "web-0").unwrap().raw().clone();
    assert_eq!(slice(&admission)["endpoints"][0]["conditions"]["ready"], false);
    assert_eq!(slice(&admission)["ports"][0]["port"], 8080);
    kubelet(&admission, true);
    let said = behind(&snapshot(&admission)).expect("a pod is ready, and no slice says so");
    assert!(said.contains("shop/web-0"), "{said}");
    endpoints::reconcile(&admission, &snapshot(&admission));
    assert_eq!(slice(&admission)["endpoints"][0]["conditions"]["ready"], true);
    let revision = admission.store().revision();
    assert_eq!(behind(&snapshot(&admission)), None);
    endpoints::reconcile(&admission, &snapshot(&admission));
    assert_eq!(admission.store().revision(), revision, "nothing is written when nothing changed");

    let port = ServicePort { namespace: "shop".to_owned(), service: "web".to_owned(), port: 80 };
    let backends = views::backends(&snapshot(&admission));
    assert_eq!(backends.of(&port), [Endpoint::Address("10.244.0.2:8080".parse().unwrap())]);
    let zone = views::zone(&snapshot(&admission));
    assert!(matches!(zone.find("web.shop.svc.cluster.local"), Found::Records(records) if records.v4.len() == 1));

    admission.write(Change::delete(lateen_galley::Key::new(Kind::Service, "shop", "web"))).unwrap();
    endpoints::reconcile(&admission, &snapshot(&admission));
    assert_eq!(snapshot(&admission).count(Kind::EndpointSlice), 0);
}

#[test]
fn endpoints_written_by_hand_serve_a_service_without_selector() {
    let admission = cluster();
    put(
        &admission,
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop"},
            "spec": {"ports": [{"name": "sql", "port": 5432}]},
        }),
    );
    put(
        &admission,
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db", "namespace": "shop"},
            "subsets": [{"addresses": [{"ip": "192.0.2.5"}], "notReadyAddresses": [{"ip": "192.0.2.6"}], "ports": [{"name": "sql", "port": 5433}]}],
        }),
    );
    endpoints::reconcile(&admission, &snapshot(&admission));
    let port = ServicePort { namespace: "shop".to_owned(), service: "db".to_owned(), port: 5432 };
    let backends = views::backends(&snapshot(&admission));
    assert_eq!(backends.of(&port), [Endpoint::Address("192.0.2.5:5433".parse().unwrap())]);
    admission.write(Change::delete(lateen_galley::Key::new(Kind::Endpoints, "shop", "db"))).unwrap();
    endpoints::reconcile(&admission, &snapshot(&admission));
    assert_eq!(snapshot(&admission).count(Kind::EndpointSlice), 0);
}

#[test]
fn the_external_addresses_of_a_service_are_served_like_its_own() {
    let admission = cluster();
    let db = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.7", "externalIPs": ["198.51.100.7"], "ports": [{"port": 80}]},
    });
    put(&admission, db);
    let backends = views::backends(&snapshot(&admission));
    let port = ServicePort { namespace: "shop".to_owned(), service: "db".to_owned(), port: 80 };
    for (address, behind) in
        [("10.96.0.7:80", Some(&port)), ("198.51.100.7:80", Some(&port)), ("198.51.100.7:81", None)]
    {
        assert_eq!(backends.behind(address.parse().unwrap()), behind, "{address}");
    }
    let zone = views::zone(&snapshot(&admission));
    assert!(matches!(zone.find("db.shop.svc.cluster.local"), Found::Records(records) if records.v4.len() == 1));
}

#[test]
fn what_a_deleted_deployment_owned_goes_with_it() {
    let admission = cluster();
    put(&admission, deployment("v1", 2));
    deployments::reconcile(&admission, &snapshot(&admission));
    admission.write(Change::delete(lateen_galley::Key::new(Kind::Deployment, "shop", "web"))).unwrap();
    garbage::reconcile(&admission, &snapshot(&admission));
    assert!(versions(&admission).is_empty());
    kubelet(&admission, true);
    assert!(pods(&admission).is_empty());
}

fn entry(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

#[test]
fn service_entries_without_address_get_one_and_keep_it() {
    let admission = cluster();
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    put(
        &admission,
        entry(
            "a",
            json!({"hosts": ["a.example.com", "*.example.org"], "ports": ports, "resolution": "DNS",
        "endpoints": [{"address": "a.example.com"}]}),
        ),
    );
    put(&admission, entry("b", json!({"hosts": ["b.example.com"], "ports": ports, "resolution": "NONE"})));
    put(
        &admission,
        entry(
            "c",
            json!({"hosts": ["c.example.com"], "ports": ports, "resolution": "STATIC", "endpoints": [{"address": "192.0.2.1"}]}),
        ),
    );
    addresses::reconcile(admission.store(), &snapshot(&admission));
    let given = |name: &str| {
        snapshot(&admission).find(Kind::ServiceEntry, "shop", name).unwrap().raw()["status"]["addresses"].clone()
    };
    assert_eq!(given("a"), json!([{"value": "240.240.0.2", "host": "a.example.com"}]));
    assert_eq!(given("b"), Value::Null);
    assert_eq!(given("c"), json!([{"value": "240.240.0.3", "host": "c.example.com"}]));
    let before = given("c");
    addresses::reconcile(admission.store(), &snapshot(&admission));
    assert_eq!(given("c"), before);

    let zone = views::zone(&snapshot(&admission));
    assert!(
        matches!(zone.find("a.example.com"), Found::Records(records) if records.v4.contains(&"240.240.0.2".parse().unwrap()))
    );
    assert!(matches!(zone.find("b.example.com"), Found::Elsewhere));
    let backends = views::backends(&snapshot(&admission));
    let behind = backends.behind("240.240.0.3:80".parse().unwrap()).unwrap();
    assert_eq!(backends.of(behind), [Endpoint::Address("192.0.2.1:80".parse().unwrap())]);
}

#[test]
fn an_entry_for_the_host_of_a_service_leaves_its_name_to_the_service() {
    let admission = cluster();
    let web = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]},
    });
    put(&admission, web);
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    let hosts = json!(["web.shop.svc.cluster.local", "other.shop.svc.cluster.local"]);
    put(&admission, entry("web", json!({"hosts": hosts, "ports": ports, "resolution": "DNS"})));
    addresses::reconcile(admission.store(), &snapshot(&admission));
    let zone = views::zone(&snapshot(&admission));
    let answer = |name: &str| match zone.find(name) {
        Found::Records(records) => records.v4.iter().map(ToString::to_string).collect::<Vec<_>>(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(answer("web.shop.svc.cluster.local"), ["10.96.0.7"]);
    assert_eq!(answer("other.shop.svc.cluster.local"), ["240.240.0.3"]);
}

#[test]
fn an_address_that_is_to_be_reached_itself_is_nobodys_virtual_address() {
    let admission = cluster();
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    let spec = |resolution: &str, address: &str| json!({"hosts": [format!("{resolution}.test").to_lowercase()], "addresses": [address], "ports": ports, "resolution": resolution});
    put(&admission, entry("itself", spec("NONE", "192.0.2.7")));
    put(&admission, entry("stands-for-another", spec("DNS", "192.0.2.8")));
    let snapshot = snapshot(&admission);
    let backends = views::backends(&snapshot);
    assert_eq!(backends.behind("192.0.2.7:80".parse().unwrap()), None);
    let port = backends.behind("192.0.2.8:80".parse().unwrap()).unwrap();
    assert_eq!(backends.of(port), [Endpoint::Name("dns.test".to_owned(), 80)]);
    let zone = views::zone(&snapshot);
    assert!(
        matches!(zone.find("none.test"), Found::Records(records) if records.v4.contains(&"192.0.2.7".parse().unwrap()))
    );
}

#[tokio::test]
async fn ports_that_belong_to_somebody_else_are_told_of_and_taken_when_free() {
    let admission = cluster();
    // Whatever port is free here is most likely no node port: the range is checked where objects are admitted, not here.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let raw = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": port}]},
    });
    admission.store().write(Change::Create(Object::decode(raw).unwrap()), SystemTime::now()).unwrap();
    let (_sender, backends) = tokio::sync::watch::channel(Arc::default());
    let relay = crate::hosts::Relay::new(backends, crate::hosts::Dialer::host_only());
    let listeners = Arc::new(std::sync::Mutex::new(crate::hosts::HostListeners::new(relay)));
    let mut balancers = super::LoadBalancers::new(admission.store().clone(), listeners);
    balancers.reconcile(&snapshot(&admission));
    let conditions = || {
        let service = snapshot(&admission).find(Kind::Service, "shop", "web").cloned().unwrap();
        service.raw()["status"]["conditions"].clone()
    };
    assert!(balancers.wants_retry());
    assert_eq!(conditions()[0]["type"], super::HOST_PORTS_BOUND);
    assert!(conditions()[0]["message"].as_str().unwrap().starts_with(&format!("127.0.0.1:{port}: ")));
    let service = snapshot(&admission).find(Kind::Service, "shop", "web").cloned().unwrap();
    assert!(super::unbound(service.raw(), &format!("127.0.0.1:{port}")).unwrap().contains("in use"));
    assert_eq!(super::unbound(service.raw(), "127.0.0.1:1"), None);
    drop(other);
    balancers.reconcile(&snapshot(&admission));
    assert!(!balancers.wants_retry());
    assert_eq!(conditions(), Value::Null);
}
