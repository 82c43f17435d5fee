//! What stands in a table's cells.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::age::duration_text;

const NONE: &str = "<none>";
/// Endpoints listed before the rest is only counted, as kubectl does.
const LISTED: usize = 3;

fn string<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn or_none(text: String) -> Value {
    if text.is_empty() { json!(NONE) } else { json!(text) }
}

fn since(object: &Value, pointer: &str, now: Timestamp) -> Option<String> {
    let then: Timestamp = string(object, pointer).parse().ok()?;
    Some(duration_text(now.as_second() - then.as_second()))
}

pub fn name(object: &Value, _: Timestamp) -> Value {
    json!(string(object, "/metadata/name"))
}

pub fn age(object: &Value, now: Timestamp) -> Value {
    json!(since(object, "/metadata/creationTimestamp", now).unwrap_or_else(|| "<unknown>".to_owned()))
}

pub fn text(object: &Value, pointer: &str) -> Value {
    json!(string(object, pointer))
}

pub fn text_or_none(object: &Value, pointer: &str) -> Value {
    or_none(string(object, pointer).to_owned())
}

/// A field of a custom resource: lists as JSON, nothing if it is absent.
pub fn path(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer) {
        None | Some(Value::Null) => json!(""),
        Some(Value::String(text)) => json!(text),
        Some(other) => json!(other.to_string()),
    }
}

pub fn number(object: &Value, pointer: &str) -> Value {
    json!(object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0))
}

pub fn count(object: &Value, pointer: &str) -> Value {
    json!(items(object, pointer).len())
}

pub fn data(object: &Value, _: Timestamp) -> Value {
    let entries = |field| object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    json!(entries("data") + entries("binaryData"))
}

pub fn labels(object: &Value, pointer: &str) -> Value {
    let pairs = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    let texts: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    or_none(texts.join(","))
}

pub fn containers(object: &Value, field: &str) -> Value {
    let list = items(object, "/spec/template/spec/containers");
    let texts: Vec<&str> = list.iter().filter_map(|container| container.get(field)?.as_str()).collect();
    json!(texts.join(","))
}

pub fn service_cluster_ip(service: &Value, _: Timestamp) -> Value {
    let address = string(service, "/spec/clusterIP");
    let address = if address.is_empty() { string(service, "/spec/clusterIPs/0") } else { address };
    or_none(address.to_owned())
}

pub fn service_external_ip(service: &Value, _: Timestamp) -> Value {
    let given = items(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    match string(service, "/spec/type") {
        "ExternalName" => json!(string(service, "/spec/externalName")),
        "LoadBalancer" => {
            let ingress = items(service, "/status/loadBalancer/ingress").iter();
            let ingress = ingress.filter_map(|entry| entry.get("ip").or_else(|| entry.get("hostname"))?.as_str());
            let all: Vec<&str> = ingress.chain(given).collect();
            if all.is_empty() { json!("<pending>") } else { json!(all.join(",")) }
        }
        _ => or_none(given.collect::<Vec<_>>().join(",")),
    }
}

pub fn service_ports(service: &Value, _: Timestamp) -> Value {
    let texts: Vec<String> = items(service, "/spec/ports")
        .iter()
        .map(|port| {
            let number = port.get("port").and_then(Value::as_u64).unwrap_or(0);
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            match port.get("nodePort").and_then(Value::as_u64) {
                Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    or_none(texts.join(","))
}

pub fn pod_ip(pod: &Value, _: Timestamp) -> Value {
    text_or_none(pod, "/status/podIP")
}

pub fn pod_ready(pod: &Value, _: Timestamp) -> Value {
    let statuses = items(pod, "/status/containerStatuses");
    let ready = statuses.iter().filter(|status| status.get("ready") == Some(&Value::Bool(true))).count();
    json!(format!("{ready}/{}", items(pod, "/spec/containers").len()))
}

pub fn pod_status(pod: &Value, _: Timestamp) -> Value {
    if pod.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return json!("Terminating");
    }
    let phase = string(pod, "/status/phase");
    let mut text =
        if string(pod, "/status/reason").is_empty() { phase } else { string(pod, "/status/reason") }.to_owned();
    let mut running = false;
    for status in items(pod, "/status/containerStatuses").iter().rev() {
        let waiting = string(status, "/state/waiting/reason");
        let terminated = status.pointer("/state/terminated");
        if !waiting.is_empty() {
            waiting.clone_into(&mut text);
        } else if let Some(terminated) = terminated.filter(|state| !state.is_null()) {
            let reason = string(terminated, "/reason");
            text = if !reason.is_empty() {
                reason.to_owned()
            } else if let Some(signal) = terminated.get("signal").and_then(Value::as_i64).filter(|signal| *signal != 0)
            {
                format!("Signal:{signal}")
            } else {
                format!("ExitCode:{}", terminated.get("exitCode").and_then(Value::as_i64).unwrap_or(0))
            };
        } else if status.get("ready") == Some(&Value::Bool(true)) && status.pointer("/state/running").is_some() {
            running = true;
        }
    }
    if text == "Completed" && running {
        "Running".clone_into(&mut text);
    }
    json!(text)
}

pub fn pod_restarts(pod: &Value, now: Timestamp) -> Value {
    let statuses = items(pod, "/status/containerStatuses");
    let restarts: i64 = statuses.iter().filter_map(|status| status.get("restartCount")?.as_i64()).sum();
    let last = statuses
        .iter()
        .filter_map(|status| string(status, "/lastState/terminated/finishedAt").parse::<Timestamp>().ok())
        .max();
    match last {
        Some(last) if restarts > 0 => {
            json!(format!("{restarts} ({} ago)", duration_text(now.as_second() - last.as_second())))
        }
        _ => json!(restarts.to_string()),
    }
}

pub fn pod_gates(pod: &Value, _: Timestamp) -> Value {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return json!(NONE);
    }
    let held = gates.iter().filter(|gate| {
        items(pod, "/status/conditions").iter().any(|condition| {
            condition.get("type") == gate.get("conditionType") && condition.get("status") == Some(&json!("True"))
        })
    });
    json!(format!("{}/{}", held.count(), gates.len()))
}

pub fn deployment_ready(deployment: &Value, _: Timestamp) -> Value {
    let ready = deployment.pointer("/status/readyReplicas").and_then(Value::as_i64).unwrap_or(0);
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    json!(format!("{ready}/{wanted}"))
}

pub fn node_status(node: &Value, _: Timestamp) -> Value {
    let ready = items(node, "/status/conditions").iter().any(|condition| {
        condition.get("type") == Some(&json!("Ready")) && condition.get("status") == Some(&json!("True"))
    });
    json!(if ready { "Ready" } else { "NotReady" })
}

fn listed(all: &[String]) -> Value {
    let shown = all.get(..LISTED.min(all.len())).unwrap_or_default().join(",");
    match all.len().saturating_sub(LISTED) {
        0 => or_none(shown),
        more => json!(format!("{shown} + {more} more...")),
    }
}

pub fn endpoints(object: &Value, _: Timestamp) -> Value {
    let mut all = Vec::new();
    for subset in items(object, "/subsets") {
        for port in items(subset, "/ports") {
            for address in items(subset, "/addresses") {
                let port = port.get("port").and_then(Value::as_u64).unwrap_or(0);
                all.push(format!("{}:{port}", string(address, "/ip")));
            }
        }
    }
    listed(&all)
}

pub fn slice_ports(slice: &Value, _: Timestamp) -> Value {
    let ports = items(slice, "/ports").iter().filter_map(|port| port.get("port")?.as_u64());
    let all: Vec<String> = ports.map(|port| port.to_string()).collect();
    if all.is_empty() { json!("<unset>") } else { listed(&all) }
}

pub fn slice_endpoints(slice: &Value, _: Timestamp) -> Value {
    let addresses = items(slice, "/endpoints").iter().flat_map(|endpoint| items(endpoint, "/addresses"));
    let all: Vec<String> = addresses.filter_map(|address| Some(address.as_str()?.to_owned())).collect();
    if all.is_empty() { json!("<unset>") } else { listed(&all) }
}
