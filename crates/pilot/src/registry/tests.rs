use super::*;
use lateen_galley::Object;
use serde_json::{Value, json};

fn snapshot(objects: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for object in objects {
        snapshot.insert(Arc::new(Object::decode(object.clone()).unwrap()));
    }
    snapshot
}

fn registry(objects: &[Value]) -> Registry {
    Registry::new(&snapshot(objects), &crate::Config::default(), &Registry::default())
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn web() -> Value {
    service(
        "web",
        json!({
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "main"}, {"name": "tcp-admin", "port": 81, "targetPort": 8081}],
        }),
    )
}

fn pod(name: &str, ip: &str, ready: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web", "version": name}},
        "spec": {
            "serviceAccountName": "web",
            "containers": [{"name": "c", "image": "i", "ports": [{"name": "main", "containerPort": 8080}]}],
        },
        "status": {"podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn slice(endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}, {"name": "tcp-admin", "port": 8081}],
    })
}

fn endpoint(ip: &str, pod: &str, conditions: Value) -> Value {
    json!({
        "addresses": [ip], "conditions": conditions,
        "targetRef": {"kind": "Pod", "name": pod, "namespace": "shop"},
    })
}

fn addresses(registry: &Registry, host: &str, port: u16) -> Vec<(String, u16, bool)> {
    let entry = registry.get(&host.into(), "shop").unwrap();
    entry.endpoints[&port]
        .iter()
        .map(|endpoint| {
            let address = match &endpoint.address {
                EndpointAddress::Ip(ip) => ip.to_string(),
                EndpointAddress::Name(name) => name.clone(),
                EndpointAddress::Pipe(path) => format!("unix:{path}"),
            };
            (address, endpoint.port, endpoint.healthy)
        })
        .collect()
}

#[test]
fn slices_give_endpoints_and_pods_their_labels() {
    let registry = registry(&[
        web(),
        pod("v1", "10.244.0.5", "True"),
        slice(json!([
            endpoint("10.244.0.6", "v2", json!({"ready": false})),
            endpoint("10.244.0.5", "v1", json!({"ready": true})),
            endpoint("10.244.0.7", "v3", json!({"ready": false, "terminating": true})),
        ])),
    ]);
    let host = "web.shop.svc.cluster.local";
    assert_eq!(
        addresses(&registry, host, 80),
        [("10.244.0.5".to_owned(), 8080, true), ("10.244.0.6".to_owned(), 8080, false)]
    );
    let entry = registry.get(&host.into(), "shop").unwrap();
    assert_eq!(entry.endpoints[&80][0].labels.get("version").map(String::as_str), Some("v1"));
    assert_eq!(entry.endpoints[&80][0].workload.service_account, "web");
    assert_eq!(entry.service.ports[1].protocol, Protocol::Tcp);
}

#[test]
fn endpoints_serve_where_there_is_no_slice() {
    let registry = registry(&[
        web(),
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "shop"},
            "subsets": [{
                "addresses": [{"ip": "10.244.0.5"}], "notReadyAddresses": [{"ip": "10.244.0.6"}],
                "ports": [{"name": "http", "port": 8080}],
            }],
        }),
    ]);
    let host = "web.shop.svc.cluster.local";
    assert_eq!(
        addresses(&registry, host, 80),
        [("10.244.0.5".to_owned(), 8080, true), ("10.244.0.6".to_owned(), 8080, false)]
    );
    assert_eq!(addresses(&registry, host, 81), []);
}

#[test]
fn what_did_not_change_is_shared_and_endpoint_changes_are_told_apart() {
    let ready = |ready: bool| slice(json!([endpoint("10.244.0.5", "v1", json!({"ready": ready}))]));
    let other = service("other", json!({"clusterIP": "10.96.0.8", "ports": [{"port": 80}]}));
    let first = registry(&[web(), other.clone(), ready(true)]);
    let second = Registry::new(&snapshot(&[web(), other.clone(), ready(false)]), &crate::Config::default(), &first);
    let third = Registry::new(&snapshot(&[web(), ready(false)]), &crate::Config::default(), &second);
    let hosts = |change: Option<EndpointChange>| change.map(|change| change.hosts);
    assert_eq!(hosts(second.endpoint_changes(&first)), Some(vec!["web.shop.svc.cluster.local".into()]));
    assert_eq!(second.endpoint_changes(&second), Some(EndpointChange::default()));
    assert_eq!(third.endpoint_changes(&second), None);
}

#[test]
fn the_ports_of_a_pod_are_known_by_labels_and_container_port_names() {
    let registry = registry(&[web(), pod("v1", "10.244.0.5", "False")]);
    let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
    let found = registry.instances("shop", &["10.244.0.5".parse().unwrap()], &labels);
    let ports: Vec<(u16, u16)> = found.iter().map(|instance| (instance.port.number, instance.target)).collect();
    assert_eq!(ports, [(80, 8080), (81, 8081)]);
    assert!(registry.instances("other", &["10.244.0.5".parse().unwrap()], &labels).is_empty());
}

#[test]
fn a_name_for_another_service_becomes_its_alias() {
    let alias = |name: &str, of: &str| service(name, json!({"type": "ExternalName", "externalName": of}));
    let registry = registry(&[
        web(),
        alias("shop-front", "web.shop.svc.cluster.local"),
        alias("front", "shop-front.shop.svc.cluster.local"),
        alias("a", "b.shop.svc.cluster.local"),
        alias("b", "a.shop.svc.cluster.local"),
    ]);
    let entry = registry.get(&"web.shop.svc.cluster.local".into(), "shop").unwrap();
    let aliases: Vec<&str> = entry.service.aliases.iter().map(|alias| &**alias).collect();
    assert_eq!(aliases, ["front.shop.svc.cluster.local", "shop-front.shop.svc.cluster.local"]);
}

fn service_entry(name: &str, spec: Value, status: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec, "status": status,
    })
}

#[test]
fn service_entries_of_every_resolution() {
    let ports = json!([{"number": 443, "name": "tls", "protocol": "TLS", "targetPort": 8443}]);
    let registry = registry(&[
        service_entry("dns", json!({"hosts": ["A.com"], "ports": ports, "resolution": "DNS"}), json!({})),
        service_entry(
            "static",
            json!({
                "hosts": ["b.com"], "ports": ports, "resolution": "STATIC", "location": "MESH_INTERNAL",
                "endpoints": [
                    {"address": "2.2.2.2", "ports": {"tls": 9443}, "weight": 5},
                    {"address": "1.1.1.1"},
                    {"address": "not-an-address.com"},
                ],
            }),
            json!({"addresses": [{"value": "240.240.0.1"}, {"value": "240.240.0.2", "host": "other.com"}]}),
        ),
        service_entry("none", json!({"hosts": ["*.c.com"], "ports": ports, "resolution": "NONE"}), json!({})),
    ]);
    assert_eq!(addresses(&registry, "a.com", 443), [("a.com".to_owned(), 8443, true)]);
    assert_eq!(
        addresses(&registry, "b.com", 443),
        [("1.1.1.1".to_owned(), 8443, true), ("2.2.2.2".to_owned(), 9443, true)]
    );
    let b = registry.get(&"b.com".into(), "shop").unwrap();
    assert_eq!(b.endpoints[&443][1].weight, 5);
    assert!(!b.service.mesh_external);
    assert_eq!(b.service.addresses_for(true), [Cidr::single("240.240.0.1".parse().unwrap())]);
    assert_eq!(b.service.addresses_for(false), []);
    let none = registry.get(&"*.c.com".into(), "shop").unwrap();
    assert_eq!(none.service.resolution, Resolution::Passthrough);
    assert!(none.endpoints[&443].is_empty());
}

#[test]
fn workload_selectors_find_pods_and_workload_entries() {
    let registry = registry(&[
        pod("v1", "10.244.0.5", "True"),
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
            "metadata": {"name": "vm", "namespace": "shop"},
            "spec": {"address": "192.168.0.9", "labels": {"app": "web"}, "ports": {"http": 7070}},
        }),
        service_entry(
            "selecting",
            json!({
                "hosts": ["web.internal"], "resolution": "STATIC", "workloadSelector": {"labels": {"app": "web"}},
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}],
            }),
            json!({}),
        ),
    ]);
    assert_eq!(
        addresses(&registry, "web.internal", 80),
        [("10.244.0.5".to_owned(), 8080, true), ("192.168.0.9".to_owned(), 7070, true)]
    );
}

#[test]
fn the_network_of_a_workload_entry_is_a_label() {
    let registry = registry(&[service_entry(
        "near",
        json!({
            "hosts": ["near.internal"], "resolution": "STATIC", "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": "192.168.0.9", "network": "vm", "labels": {NETWORK: "other", "app": "a"}}],
        }),
        json!({}),
    )]);
    let near = registry.get(&"near.internal".into(), "shop").unwrap();
    let endpoint = &near.endpoints[&80][0];
    assert_eq!((endpoint.topology(NETWORK), endpoint.topology("app")), ("vm", "a"));
}

#[test]
fn entries_of_one_namespace_for_one_host_are_one_service() {
    let entry = |name: &str, port: u16| {
        let ports = json!([{"number": port, "name": name, "protocol": "HTTP"}]);
        service_entry(name, json!({"hosts": ["a.com"], "ports": ports, "resolution": "DNS"}), json!({}))
    };
    let registry = registry(&[entry("x", 80), entry("y", 81)]);
    let a = registry.get(&"a.com".into(), "shop").unwrap();
    assert_eq!(a.service.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [80, 81]);
    assert_eq!(a.endpoints.len(), 2);
}

#[test]
fn an_older_entry_does_not_take_the_host_of_a_service() {
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    let spec = json!({"hosts": ["web.shop.svc.cluster.local"], "ports": ports, "resolution": "DNS"});
    let mut entry = service_entry("web", spec, json!({"addresses": [{"value": "240.240.0.2"}]}));
    entry["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:01Z");
    let mut web = web();
    web["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:02Z");
    let registry = registry(&[web, entry]);
    let web = registry.get(&"web.shop.svc.cluster.local".into(), "shop").unwrap();
    assert_eq!(web.service.resolution, Resolution::Static);
    assert_eq!(web.service.addresses_for(true), [Cidr::single("10.96.0.7".parse().unwrap())]);
}
