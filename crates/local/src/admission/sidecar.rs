//! What a new pod gets: a sidecar, unless somebody said no (Istio's injection), its service account,
//! and a finalizer that keeps its object while its processes run.

use serde_json::{Map, Value, json};

use super::POD_FINALIZER;
use crate::network;

/// Name of the proxy's container, in sidecars and gateways alike.
pub const PROXY_CONTAINER: &str = "istio-proxy";
/// Image that stands for this program's own proxy; Istio's placeholder in gateway manifests.
pub const INJECTED_IMAGE: &str = "auto";

const INJECT: &str = "sidecar.istio.io/inject";
const PROXY_IMAGE: &str = "sidecar.istio.io/proxyImage";
/// Volumes for the sidecar, and where it mounts them: lists in JSON, in Kubernetes' form.
const USER_VOLUMES: &str = "sidecar.istio.io/userVolume";
const USER_MOUNTS: &str = "sidecar.istio.io/userVolumeMount";
const STATUS: &str = "sidecar.istio.io/status";
/// What Istio's own installation labels its gateways with, in `istio`.
const GATEWAYS: [&str; 2] = ["ingressgateway", "egressgateway"];
/// Label that tells clients' proxies that this pod's takes the mesh's mutual TLS.
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// Completes a new pod. `namespace` is the namespace's object, if there is one.
pub fn complete_pod(pod: &mut Value, namespace: Option<&Value>) {
    let inject = wants_sidecar(pod, namespace);
    let image = annotation(pod, PROXY_IMAGE).unwrap_or(INJECTED_IMAGE).to_owned();
    let (volumes, mounts) = (listed(pod, USER_VOLUMES), listed(pod, USER_MOUNTS));
    let gateway = label(pod, "istio").filter(|label| GATEWAYS.contains(label)).map(str::to_owned);
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("serviceAccountName").or_insert_with(|| json!("default"));
        // There is one node, and so nothing to schedule.
        spec.entry("nodeName").or_insert_with(|| json!(network::NODE_NAME));
        if inject {
            let mut sidecar = json!({"name": PROXY_CONTAINER, "image": image, "args": ["proxy", "sidecar"]});
            if let Some(sidecar) = sidecar.as_object_mut() {
                add_named(sidecar, "volumeMounts", mounts.into_iter());
            }
            add_named(spec, "volumes", volumes.into_iter());
            if let Value::Array(containers) = spec.entry("containers").or_insert_with(|| json!([])) {
                containers.push(sidecar);
            }
        }
        mount_identity(spec);
        if let Some(gateway) = &gateway {
            mount_certificates(spec, gateway);
        }
    }
    let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if let Value::Array(finalizers) = metadata.entry("finalizers").or_insert_with(|| json!([]))
        && !finalizers.contains(&json!(POD_FINALIZER))
    {
        finalizers.push(json!(POD_FINALIZER));
    }
    if inject {
        if let Value::Object(labels) = metadata.entry("labels").or_insert_with(|| json!({})) {
            labels.entry(TLS_MODE).or_insert_with(|| json!("istio"));
        }
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(annotations) = annotations {
            let status = json!({"containers": [PROXY_CONTAINER], "revision": "default"});
            annotations.insert(STATUS.to_owned(), json!(status.to_string()));
        }
    }
}

/// What the agent beside a proxy needs: the workload's token, the mesh's roots, and a place for its sockets. Names and
/// paths are those of Istio's injection template; the roots are projected, so that they change while the pod runs.
fn mount_identity(spec: &mut Map<String, Value>) {
    let token =
        json!({"serviceAccountToken": {"audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token"}});
    let roots = json!({"configMap": {"name": "istio-ca-root-cert", "optional": true}});
    let revocations = json!({"configMap": {"name": "istio-ca-crl", "optional": true,
        "items": [{"key": "ca-crl.pem", "path": "crl/ca-crl.pem"}]}});
    let volumes = [
        ("istio-token", "/var/run/secrets/tokens", json!({"projected": {"sources": [token]}})),
        ("istiod-ca-cert", "/var/run/secrets/istio", json!({"projected": {"sources": [roots, revocations]}})),
        ("workload-socket", "/var/run/secrets/workload-spiffe-uds", json!({"emptyDir": {}})),
    ];
    for (name, path, volume) in volumes {
        mount(spec, name, path, volume);
    }
}

/// The Secrets that Istio's own gateways mount, if they are there: Gateways of old name their files.
fn mount_certificates(spec: &mut Map<String, Value>, gateway: &str) {
    for what in ["certs", "ca-certs"] {
        let name = format!("{gateway}-{what}");
        let volume = json!({"secret": {"secretName": format!("istio-{name}"), "optional": true}});
        mount(spec, &name, &format!("/etc/istio/{name}"), volume);
    }
}

/// Mounts a volume into the proxy, unless the pod has one of that name, or the proxy something at that place.
fn mount(spec: &mut Map<String, Value>, name: &str, path: &str, mut volume: Value) {
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten();
    let mut proxies = containers.filter(|container| container["name"] == PROXY_CONTAINER);
    let Some(proxy) = proxies.next().and_then(Value::as_object_mut) else { return };
    let mounted = proxy.get("volumeMounts").and_then(Value::as_array);
    if mounted.is_some_and(|mounted| mounted.iter().any(|known| known["mountPath"] == path)) {
        return;
    }
    add_named(proxy, "volumeMounts", std::iter::once(json!({"name": name, "mountPath": path})));
    volume["name"] = json!(name);
    add_named(spec, "volumes", std::iter::once(volume));
}

/// Adds objects to a list of objects with names, but for those whose name is there.
fn add_named(fields: &mut Map<String, Value>, list: &str, objects: impl Iterator<Item = Value>) {
    let Value::Array(list) = fields.entry(list).or_insert_with(|| json!([])) else { return };
    for object in objects {
        if !list.iter().any(|known| known["name"] == object["name"]) {
            list.push(object);
        }
    }
}

/// The objects that an annotation lists, in a list or by name; what is neither is none.
fn listed(pod: &Value, name: &str) -> Vec<Value> {
    let by_name = |(name, mut object): (String, Value)| {
        object["name"] = json!(name);
        object
    };
    match annotation(pod, name).and_then(|text| serde_json::from_str(text).ok()) {
        Some(Value::Array(list)) => list.into_iter().filter(Value::is_object).collect(),
        Some(Value::Object(named)) => named.into_iter().filter(|(_, one)| one.is_object()).map(by_name).collect(),
        _ => Vec::new(),
    }
}

fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(name)?.as_str()
}

/// The pod's word beats its namespace's; a pod on the node's network, and one that brings a proxy of its
/// own, never gets one. Nobody having said anything means yes: the mesh is what this cluster is for.
fn wants_sidecar(pod: &Value, namespace: Option<&Value>) -> bool {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    let mut names = containers.filter_map(|container| container.get("name")?.as_str());
    let host_network = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
    if host_network || names.any(|name| name == PROXY_CONTAINER) {
        return false;
    }
    let said = label(pod, INJECT).or_else(|| annotation(pod, INJECT));
    match said {
        Some(said) => said != "false",
        None => namespace.and_then(|namespace| label(namespace, "istio-injection")) != Some("disabled"),
    }
}
