//! What Kubernetes' API server fills in, as far as anything here reads it.

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::object::Object;

/// Fills in what the writer left out. Fields of a wrong type are left for decoding to complain about.
pub(crate) fn fill_in(kind: Kind, raw: &mut Value) {
    match kind {
        Kind::Namespace => {
            let name = raw.pointer("/metadata/name").cloned();
            if let (Some(name @ Value::String(_)), Some(metadata)) = (name, object(raw, "metadata"))
                && let Some(labels) = child(metadata, "labels")
            {
                labels.entry("kubernetes.io/metadata.name").or_insert(name);
            }
            absent(raw, "status", json!({"phase": "Active"}));
        }
        Kind::Service => {
            absent(raw, "status", json!({"loadBalancer": {}}));
            if let Some(spec) = object(raw, "spec") {
                service(spec);
            }
        }
        Kind::Pod => {
            absent(raw, "status", json!({"phase": "Pending"}));
            if let Some(spec) = object(raw, "spec") {
                pod(spec);
            }
        }
        Kind::Deployment => {
            if let Some(spec) = object(raw, "spec") {
                put(spec, "replicas", json!(1));
                if let Some(template) = spec.get_mut("template")
                    && let Some(spec) = object(template, "spec")
                {
                    pod(spec);
                }
            }
        }
        Kind::Secret => {
            absent(raw, "type", json!("Opaque"));
            string_data(raw);
        }
        Kind::ServiceAccount
        | Kind::ConfigMap
        | Kind::Endpoints
        | Kind::EndpointSlice
        | Kind::Gateway
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::WorkloadGroup
        | Kind::Sidecar
        | Kind::AuthorizationPolicy
        | Kind::RequestAuthentication
        | Kind::PeerAuthentication
        | Kind::MeshPolicy
        | Kind::Policy => {}
    }
}

/// Keeps what was allocated to a Service when its writer, as is usual, says nothing of it.
pub(crate) fn keep_allocated(old: &Object, raw: &mut Value) {
    if old.kind() != Kind::Service {
        return;
    }
    let Some(old) = old.raw().get("spec").and_then(Value::as_object) else { return };
    let Some(new) = object(raw, "spec") else { return };
    if new.get("type").and_then(Value::as_str) == Some("ExternalName") {
        return;
    }
    for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if let Some(value) = old.get(name) {
            put(new, name, value.clone());
        }
    }
    let exposed = matches!(new.get("type").and_then(Value::as_str), Some("NodePort" | "LoadBalancer"));
    if !exposed {
        return;
    }
    let id = |port: &Value| {
        (port.get("port").cloned(), port.get("protocol").and_then(Value::as_str).unwrap_or("TCP") == "UDP")
    };
    let allocated: Vec<_> = ports(old.get("ports"))
        .filter_map(|port| port.get("nodePort").map(|node_port| (id(port), node_port.clone())))
        .collect();
    if let Some(Value::Array(ports)) = new.get_mut("ports") {
        for port in ports {
            let known = allocated.iter().find(|(known, _)| *known == id(port)).map(|(_, node_port)| node_port.clone());
            if let (Some(node_port), Some(port)) = (known, port.as_object_mut()) {
                put(port, "nodePort", node_port);
            }
        }
    }
}

fn service(spec: &mut Map<String, Value>) {
    put(spec, "type", json!("ClusterIP"));
    put(spec, "sessionAffinity", json!("None"));
    let external = spec.get("type").and_then(Value::as_str) == Some("ExternalName");
    if let Some(Value::Array(ports)) = spec.get_mut("ports") {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            put(port, "protocol", json!("TCP"));
            if let Some(number) = port.get("port").cloned()
                && !external
            {
                put(port, "targetPort", number);
            }
        }
    }
}

fn pod(spec: &mut Map<String, Value>) {
    put(spec, "restartPolicy", json!("Always"));
    put(spec, "terminationGracePeriodSeconds", json!(30));
    let account = spec.get("serviceAccountName").filter(|name| name.is_string()).cloned();
    put(spec, "serviceAccountName", account.unwrap_or_else(|| json!("default")));
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = spec.get_mut(list) else { continue };
        for container in containers {
            let Some(Value::Array(ports)) = container.get_mut("ports") else { continue };
            for port in ports.iter_mut().filter_map(Value::as_object_mut) {
                put(port, "protocol", json!("TCP"));
            }
        }
    }
}

/// `stringData` is for writing only: it becomes `data`.
fn string_data(raw: &mut Value) {
    let texts: Vec<(String, String)> = raw
        .get("stringData")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())))
        .collect();
    if let Some(data) = object(raw, "data") {
        for (name, text) in texts {
            let encoded = serde_json::to_value(ByteString(text.into_bytes())).unwrap_or_default();
            data.insert(name, encoded);
        }
    }
    if let Value::Object(fields) = raw {
        fields.remove("stringData");
    }
}

fn ports(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

/// The object under a name, made if it is missing.
fn object<'a>(raw: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    child(raw.as_object_mut()?, name)
}

fn child<'a>(fields: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    put(fields, name, Value::Object(Map::new()));
    fields.get_mut(name)?.as_object_mut()
}

fn absent(raw: &mut Value, name: &str, value: Value) {
    if let Value::Object(fields) = raw {
        put(fields, name, value);
    }
}

/// Puts a field in unless it is there; `null` and `""` are not there.
fn put(fields: &mut Map<String, Value>, name: &str, value: Value) {
    let there = fields.get(name).is_some_and(|given| !given.is_null() && given.as_str() != Some(""));
    if !there {
        fields.insert(name.to_owned(), value);
    }
}
