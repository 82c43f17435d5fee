use lateen_galley::store::Change;
use lateen_galley::{Kind, Object, Snapshot};
use serde_json::{Value, json};
use std::sync::Arc;

use super::prepare;

fn object(raw: Value) -> Object {
    Object::decode(raw).unwrap()
}

fn service(name: &str, spec: Value) -> Object {
    object(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}),
    )
}

fn prepared(snapshot: &Snapshot, object: Object) -> Value {
    let batch = prepare(snapshot, vec![(Change::Upsert(object), None)]).unwrap();
    match &batch[0].0 {
        Change::Upsert(object) => object.raw().clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn services_of_one_batch_get_different_addresses_beside_given_ones() {
    let given = service("a", json!({"clusterIP": "10.96.0.2", "ports": [{"port": 80}]}));
    let others = ["b", "c"].map(|name| service(name, json!({"ports": [{"port": 80}]})));
    let batch = std::iter::once(given).chain(others).map(|object| (Change::Upsert(object), None)).collect();
    let prepared = prepare(&Snapshot::default(), batch).unwrap();
    let mut addresses: Vec<String> = prepared
        .iter()
        .map(|(change, _)| match change {
            Change::Upsert(object) => object.raw()["spec"]["clusterIP"].as_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(addresses[0], "10.96.0.2");
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3);
    assert!(!addresses.contains(&"10.96.0.10".to_owned()), "that is the DNS server's");
}

#[test]
fn what_a_service_was_given_stays_with_it() {
    let mut snapshot = Snapshot::default();
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "nodePort": 30000}]});
    let first = prepared(&snapshot, service("a", spec.clone()));
    assert_eq!(first["spec"]["ports"][0]["nodePort"], 30001);
    snapshot.insert(Arc::new(object(first.clone())));
    let again = prepared(&snapshot, service("a", spec));
    assert_eq!(again["spec"], first["spec"]);
}

#[test]
fn kinds_of_services_get_what_they_need() {
    let none = Snapshot::default();
    let headless = prepared(&none, service("a", json!({"clusterIP": "None", "ports": [{"port": 80}]})));
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = prepared(&none, service("a", json!({"type": "ExternalName", "externalName": "example.com"})));
    assert_eq!(external["spec"].get("clusterIP"), None);
    let outside = service("a", json!({"clusterIP": "192.0.2.1", "ports": [{"port": 80}]}));
    let refused = prepare(&none, vec![(Change::Create(outside), None)]).unwrap_err();
    assert!(refused.to_string().contains("spec.clusterIP"), "{refused}");
}

fn pod(metadata: Value, spec: Value) -> Object {
    object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

fn containers(pod: &Value) -> Vec<&str> {
    pod["spec"]["containers"].as_array().unwrap().iter().map(|container| container["name"].as_str().unwrap()).collect()
}

#[test]
fn pods_get_a_sidecar_unless_somebody_says_no() {
    let none = Snapshot::default();
    let spec = json!({"containers": [{"name": "app", "image": "a"}]});
    let plain = prepared(&none, pod(json!({"name": "a", "namespace": "shop"}), spec.clone()));
    assert_eq!(containers(&plain), ["app", "istio-proxy"]);
    assert_eq!(plain["metadata"]["labels"]["security.istio.io/tlsMode"], "istio");
    assert_eq!(plain["spec"]["serviceAccountName"], "default");
    let refused = json!({"name": "a", "namespace": "shop", "labels": {"sidecar.istio.io/inject": "false"}});
    assert_eq!(containers(&prepared(&none, pod(refused, spec.clone()))), ["app"]);
    let mut host = spec.clone();
    host["hostNetwork"] = json!(true);
    assert_eq!(containers(&prepared(&none, pod(json!({"name": "a", "namespace": "shop"}), host))), ["app"]);

    let mut disabled = Snapshot::default();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"istio-injection": "disabled"}}});
    disabled.insert(Arc::new(object(namespace)));
    assert_eq!(disabled.count(Kind::Namespace), 1);
    assert_eq!(containers(&prepared(&disabled, pod(json!({"name": "a", "namespace": "shop"}), spec.clone()))), ["app"]);
    let wanted = json!({"name": "a", "namespace": "shop", "annotations": {"sidecar.istio.io/inject": "true", "sidecar.istio.io/proxyImage": "envoy"}});
    let wanted = prepared(&disabled, pod(wanted, spec));
    assert_eq!(containers(&wanted), ["app", "istio-proxy"]);
    assert_eq!(wanted["spec"]["containers"][1]["image"], "envoy");

    let mounted = json!({"name": "a", "namespace": "shop", "annotations": {
        "sidecar.istio.io/userVolume": r#"[{"name": "ca", "configMap": {"name": "ca"}}]"#,
        "sidecar.istio.io/userVolumeMount": r#"{"ca": {"mountPath": "/etc/ca", "readOnly": true}}"#,
    }});
    let mounted = prepared(&none, pod(mounted, json!({"containers": [{"name": "app", "image": "a"}]})));
    let mounts = &mounted["spec"]["containers"][1]["volumeMounts"];
    assert_eq!(mounts[0], json!({"name": "ca", "mountPath": "/etc/ca", "readOnly": true}));
    assert_eq!(mounts.as_array().unwrap().len(), 4, "beside those of every proxy");
    assert_eq!(mounted["spec"]["volumes"][0], json!({"name": "ca", "configMap": {"name": "ca"}}));
}

#[test]
fn deployments_whose_pods_could_not_be_made_are_refused() {
    let deployment = |mounts: &str| {
        let annotations = json!({"sidecar.istio.io/userVolumeMount": mounts});
        object(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "shop"},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": {
                "metadata": {"labels": {"app": "a"}, "annotations": annotations},
                "spec": {"containers": [{"name": "app", "image": "a"}], "volumes": [{"name": "own", "emptyDir": {}}]}}},
        }))
    };
    let prepare = |object| prepare(&Snapshot::default(), vec![(Change::Upsert(object), None)]);
    prepare(deployment(r#"[{"name": "own", "mountPath": "/own"}]"#)).unwrap();
    let refused = prepare(deployment(r#"[{"name": "owm", "mountPath": "/own"}]"#)).unwrap_err().to_string();
    let path = "Deployment shop/a: spec.template.spec.containers[1].volumeMounts[0].name";
    assert!(refused.starts_with(&format!("{path}: the pod has no volume \"owm\"")), "{refused}");
}

#[test]
fn gateways_mount_what_istios_own_mount() {
    let mounted = |label: &str, spec: Value| {
        let pod = pod(json!({"name": "a", "namespace": "edge", "labels": {"istio": label}}), spec);
        let pod = prepared(&Snapshot::default(), pod);
        let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap().clone();
        let of =
            |mount: &Value| format!("{} {}", mount["mountPath"].as_str().unwrap(), mount["name"].as_str().unwrap());
        let found: Vec<String> = mounts.iter().map(of).filter(|mount| mount.starts_with("/etc/istio/")).collect();
        (found, pod["spec"]["volumes"].clone())
    };
    let gateway = json!({"containers": [{"name": "istio-proxy", "image": "auto", "args": ["proxy", "router"]}]});
    let (found, volumes) = mounted("egressgateway", gateway.clone());
    let expected = ["certs", "ca-certs"].map(|what| format!("/etc/istio/egressgateway-{what} egressgateway-{what}"));
    assert_eq!(found, expected);
    let secret = json!({"secretName": "istio-egressgateway-ca-certs", "optional": true});
    assert!(volumes.as_array().unwrap().contains(&json!({"name": "egressgateway-ca-certs", "secret": secret})));
    assert!(mounted("edge", gateway.clone()).0.is_empty());

    // What somebody mounts there stays.
    let mut own = gateway;
    own["containers"][0]["volumeMounts"] = json!([{"name": "own", "mountPath": "/etc/istio/ingressgateway-certs"}]);
    own["volumes"] = json!([{"name": "own", "emptyDir": {}}]);
    let (found, volumes) = mounted("ingressgateway", own);
    assert_eq!(found[0], "/etc/istio/ingressgateway-certs own");
    assert_eq!(found.len(), 2);
    assert!(!volumes.as_array().unwrap().iter().any(|volume| volume["name"] == "ingressgateway-certs"));
}

#[test]
fn what_one_machine_does_not_do_is_told() {
    let deployment = object(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "shop"},
        "spec": {
            "paused": true, "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"hostPID": false, "nodeSelector": {"a": "b"}, "containers": [{
                    "name": "a", "image": "a", "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
                    "ports": [{"containerPort": 1}, {"containerPort": 2, "hostPort": 80}],
                    "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true},
                    "readinessProbe": {"grpc": {"port": 1}}, "livenessProbe": {"httpGet": {"port": 1}},
                }]},
            },
        },
    }));
    let paths: Vec<String> =
        super::not_here::not_carried_out(&deployment).into_iter().map(|problem| problem.path).collect();
    let container = "spec.template.spec.containers[0]";
    assert_eq!(
        paths,
        [
            "spec.paused".to_owned(),
            format!("{container}.resources.limits"),
            format!("{container}.securityContext.runAsNonRoot"),
            format!("{container}.ports[1].hostPort"),
            format!("{container}.readinessProbe"),
        ]
    );
    let told = |spec: Value| super::not_here::not_carried_out(&service("a", spec)).len();
    assert_eq!(told(json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80}]})), 1);
    assert_eq!(told(json!({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]})), 1);
    assert_eq!(told(json!({"clusterIP": "None", "ports": [{"port": 53, "protocol": "UDP"}]})), 0);
}
