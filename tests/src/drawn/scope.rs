//! What proxies may know and where they may go: Sidecars, and the mesh's settings.

use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::rules::Subject;
use crate::stand::SERVER_FIRST_PORT;

/// Has the host that tells which round is in force imported by a Sidecar, whatever else it leaves out.
pub fn import_probe(rule: &mut Value) {
    if rule["kind"] == "Sidecar"
        && let Some(Value::Array(egress)) = rule.pointer_mut("/spec/egress")
        && !egress.is_empty()
    {
        if egress.last().is_none_or(|last| last.get("port").is_some()) {
            egress.push(json!({"hosts": []}));
        }
        if let Some(Value::Array(hosts)) = egress.last_mut().and_then(|last| last.get_mut("hosts")) {
            hosts.push(json!("istio-system/*"));
        }
    }
}

/// Sidecars with their namespaces.
pub fn sidecars(dice: &mut Dice, subject: &Subject<'_>) -> Vec<(&'static str, Value)> {
    let namespaces = match dice.below(10) {
        0..6 => &[][..],
        6..9 => &["shop"],
        _ => &["istio-system"],
    };
    namespaces.iter().map(|namespace| (*namespace, sidecar(dice, subject))).collect()
}

fn sidecar(dice: &mut Dice, subject: &Subject<'_>) -> Value {
    let mut spec = json!({});
    if dice.chance(30) {
        spec["workloadSelector"] = json!({"labels": {"team": dice.word(&["a", "a", "b"])}});
    }
    let mut egress = Vec::new();
    if dice.chance(40) {
        let (number, protocol) =
            *dice.pick(&[(80, "HTTP"), (8000, "HTTP"), (9000, "TCP"), (443, "TLS"), (8088, "HTTP")]);
        egress.push(
            json!({"port": {"number": number, "name": "drawn", "protocol": protocol}, "hosts": hosts(dice, subject)}),
        );
    }
    egress.push(json!({"hosts": hosts(dice, subject)}));
    spec["egress"] = json!(egress);
    if dice.chance(30) {
        spec["ingress"] = ingress(dice);
    }
    if dice.chance(50) {
        spec["outboundTrafficPolicy"] = outbound(dice, subject);
    }
    spec
}

fn hosts(dice: &mut Dice, subject: &Subject<'_>) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for _ in 0..1 + dice.below(3) {
        let service = dice.pick(subject.services);
        let host = match dice.below(6) {
            0 => "./*".to_owned(),
            1 => "*/*".to_owned(),
            2 => "other/*".to_owned(),
            3 => format!("*/{}", dice.pick(&subject.entries()).host),
            4 => format!("*/*.{}.svc.cluster.local", service.namespace),
            _ => format!("{}/{}", service.namespace, service.host()),
        };
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

fn ingress(dice: &mut Dice) -> Value {
    let listeners = [
        json!({"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "defaultEndpoint": "127.0.0.1:8081"}),
        json!({"port": {"number": 8082, "name": "grpc", "protocol": "GRPC"}}),
        json!({"port": {"number": 9000, "name": "tcp", "protocol": "TCP"}, "defaultEndpoint": "0.0.0.0:9000"}),
        json!({"port": {"number": 8088, "name": "web", "protocol": "HTTP"}, "defaultEndpoint": "127.0.0.1:8080"}),
    ];
    // What no listener has is looked at, for which a server that speaks first waits in vain behind Envoy.
    let first = json!({"port": {"number": SERVER_FIRST_PORT, "name": "first", "protocol": "TCP"}});
    let drawn = listeners.iter().filter(|_| dice.chance(60));
    json!([&first].into_iter().chain(drawn).collect::<Vec<_>>())
}

fn outbound(dice: &mut Dice, subject: &Subject<'_>) -> Value {
    match dice.below(5) {
        0 => json!({"mode": "ALLOW_ANY"}),
        1 => {
            let service = dice.pick(subject.services);
            json!({"mode": "ALLOW_ANY", "egressProxy": {"host": service.host(), "port": {"number": 80}}})
        }
        _ => json!({"mode": "REGISTRY_ONLY"}),
    }
}

/// The ConfigMap that holds the mesh's settings.
pub fn mesh_settings(dice: &mut Dice) -> Option<Value> {
    if dice.chance(50) {
        return None;
    }
    let mut mesh = Map::new();
    if dice.chance(50) {
        let mode = dice.word(&["REGISTRY_ONLY", "REGISTRY_ONLY", "ALLOW_ANY"]);
        mesh.insert("outboundTrafficPolicy".to_owned(), json!({"mode": mode}));
    }
    if dice.chance(40) {
        let way = dice.word(&["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]);
        mesh.insert("pathNormalization".to_owned(), json!({"normalization": way}));
    }
    if dice.chance(30) {
        mesh.insert(
            "defaultHttpRetryPolicy".to_owned(),
            json!({"attempts": 1 + dice.below(3), "retryOn": "5xx", "backoff": "10ms"}),
        );
    }
    for kind in ["Service", "VirtualService", "DestinationRule"] {
        if dice.chance(12) {
            mesh.insert(format!("default{kind}ExportTo"), json!([dice.word(&[".", "*"])]));
        }
    }
    let mut proxy = Map::new();
    if dice.chance(25) {
        proxy.insert("gatewayTopology".to_owned(), json!({"numTrustedProxies": dice.below(3)}));
    }
    if dice.chance(25) {
        let headers = json!({"attemptCount": {"disabled": dice.chance(50)}, "requestId": {"disabled": dice.chance(50)},
            "server": {"value": "drawn"}, "envoyDebugHeaders": {"disabled": dice.chance(50)}});
        proxy.insert("proxyHeaders".to_owned(), headers);
    }
    if dice.chance(15) {
        proxy.insert("proxyMetadata".to_owned(), json!({"ISTIO_META_HTTP10": "1"}));
    }
    mesh.insert("defaultConfig".to_owned(), Value::Object(proxy));
    Some(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        // JSON is YAML.
        "data": {"mesh": Value::Object(mesh).to_string()},
    }))
}
