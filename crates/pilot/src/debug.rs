//! What pilot shows of itself: paths of istiod's debug server, as pure functions of the state.
//!
//! Serving them is somebody else's job; so is deciding who may look. Source: Istio `pilot/pkg/xds/debug.go`,
//! `pilot/pkg/xds/statusgen.go`.

use crate::push::{Pilot, Proxy, State};
use crate::registry::{EndpointAddress, Entry};
use lateen_galley::Kind;
use lateen_xds::ads::server::TypeStatus;
use lateen_xds::json::Schema;
use lateen_xds::{Resource, ResourceType};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::SystemTime;

/// An answer to a request for a debug path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
}

impl Answer {
    fn json(value: &Value) -> Answer {
        Answer { status: 200, content_type: "application/json", body: format!("{value:#}\n") }
    }

    fn text(status: u16, body: impl Into<String>) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

impl Pilot {
    /// Answers a GET of `path`, which may carry a query: `/ready`, `/metrics`, `/debug/syncz`, `/debug/connections`,
    /// `/debug/registryz`, `/debug/endpointz`, `/debug/config_dump?proxyID=ID`, `/debug/problemz`. Anything else is 404.
    pub fn answer(&self, path: &str) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        self.look(|state| match path {
            "/ready" if state.synced() => Answer::text(200, "ready\n"),
            "/ready" => Answer::text(503, "no configuration has been read yet\n"),
            "/metrics" => Answer { content_type: "text/plain; version=0.0.4", ..Answer::text(200, metrics(state)) },
            "/debug/syncz" => Answer::json(&state.proxies().map(sync_status).collect()),
            "/debug/connections" => Answer::json(&connections(state)),
            "/debug/registryz" => Answer::json(&state.world().registry.entries().map(service).collect()),
            "/debug/endpointz" => Answer::json(&state.world().registry.entries().map(endpoints).collect()),
            "/debug/problemz" => Answer::json(&problems(state, SystemTime::now())),
            "/debug/config_dump" => config_dump(state, query),
            _ => Answer::text(404, "no such page\n"),
        })
    }
}

fn connections(state: &State) -> Value {
    let clients: Vec<Value> = state.proxies().map(|proxy| json!({ "connectionId": proxy.node.id })).collect();
    json!({ "totalClients": clients.len(), "clients": clients })
}

fn sync_status(proxy: &Proxy) -> Value {
    let status = proxy.status.borrow();
    let types: serde_json::Map<String, Value> =
        status.types.iter().map(|(kind, of_type)| (kind.to_string(), type_status(of_type))).collect();
    json!({
        "proxy": proxy.node.workload,
        "proxy_id": proxy.node.id,
        "proxy_type": match proxy.node.node_type {
            crate::node::NodeType::Sidecar => "sidecar",
            crate::node::NodeType::Router => "router",
        },
        "version": &**proxy.resources.borrow().version(),
        "synced": status.synced(),
        "types": types,
    })
}

fn type_status(status: &TypeStatus) -> Value {
    let refused: serde_json::Map<String, Value> =
        status.refused.iter().map(|(name, refusal)| (name.to_string(), json!(refusal.message))).collect();
    json!({
        "sent": &*status.sent_nonce,
        "acked": &*status.acked_nonce,
        "sent_version": &*status.sent_version,
        "acked_version": &*status.acked_version,
        "wildcard": status.wildcard,
        "names": status.names,
        "waiting": status.waiting,
        "rejects": status.rejects,
        "last_error": status.last_error,
        "refused": refused,
    })
}

fn service(entry: &Entry) -> Value {
    let service = &entry.service;
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| json!({ "name": port.name, "port": port.number, "protocol": format!("{:?}", port.protocol) }))
        .collect();
    json!({
        "hostname": &*service.host,
        "name": service.name,
        "namespace": service.namespace,
        "registry": format!("{:?}", service.source),
        "resolution": format!("{:?}", service.resolution),
        "addresses": service.addresses.iter().map(|block| format!("{}/{}", block.address, block.prefix)).collect::<Vec<_>>(),
        "autoAddresses": service.auto_addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "aliases": service.aliases.iter().map(|alias| &**alias).collect::<Vec<_>>(),
        "meshExternal": service.mesh_external,
        "ports": ports,
    })
}

fn endpoints(entry: &Entry) -> Value {
    let of_port = |(port, endpoints): (&u16, &std::sync::Arc<[crate::registry::Endpoint]>)| {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|endpoint| {
                let address = match &endpoint.address {
                    EndpointAddress::Ip(ip) => ip.to_string(),
                    EndpointAddress::Name(name) => name.clone(),
                    EndpointAddress::Pipe(path) => format!("unix://{path}"),
                };
                json!({
                    "address": address,
                    "port": endpoint.port,
                    "healthy": endpoint.healthy,
                    "weight": endpoint.weight,
                    "workload": endpoint.workload.name,
                    "labels": *endpoint.labels,
                })
            })
            .collect();
        json!({ "svc": format!("{}:{port}", entry.service.host), "ep": endpoints })
    };
    entry.endpoints.iter().map(of_port).collect()
}

fn problems(state: &State, now: SystemTime) -> Value {
    let of_proxy = |proxy: &Proxy| {
        let awaited: Vec<String> = proxy.status.borrow().awaited.iter().map(ToString::to_string).collect();
        let problems: Vec<String> = proxy.problems().chain(proxy.out_of_date(now)).chain(awaited).collect();
        (!problems.is_empty()).then(|| json!({ "proxy": proxy.node.id, "problems": problems }))
    };
    state.proxies().filter_map(of_proxy).collect()
}

/// What one proxy is sent: per type every resource, its name and version.
fn config_dump(state: &State, query: &str) -> Answer {
    let Some(id) = query.split('&').find_map(|pair| pair.strip_prefix("proxyID=")) else {
        return Answer::text(400, "You must provide a proxyID in the query string\n");
    };
    // Both the whole id and the short form that istioctl takes, POD.NAMESPACE.
    let Some(proxy) = state.proxies().find(|proxy| proxy.node.id == id || proxy.node.workload == id) else {
        return Answer::text(404, "Proxy not connected to this Pilot instance\n");
    };
    let schema = match Schema::load() {
        Ok(schema) => schema,
        Err(error) => return Answer::text(500, format!("{error}\n")),
    };
    let resources = proxy.resources.borrow().clone();
    let of_type = |kind: &ResourceType| {
        let entries: Vec<Value> = resources.of_type(kind).map(|resource| shown(&schema, kind, resource)).collect();
        (kind.to_string(), Value::from(entries))
    };
    let types: serde_json::Map<String, Value> = ResourceType::CORE.iter().map(of_type).collect();
    Answer::json(&json!({ "proxy": proxy.node.id, "version": &**resources.version(), "configs": types }))
}

fn shown(schema: &Schema, kind: &ResourceType, resource: &Resource) -> Value {
    let type_name = kind.url().rsplit('/').next().unwrap_or_default();
    json!({
        "name": &**resource.name(),
        "version": resource.version().to_string(),
        "resource": schema.encoded_to_json(type_name, resource.body()).unwrap_or_else(|error| json!(error.to_string())),
    })
}

fn metrics(state: &State) -> String {
    let mut text = String::new();
    let mut put = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    };
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let rejects = state
        .proxies()
        .flat_map(|proxy| proxy.status.borrow().types.values().map(|status| status.rejects).collect::<Vec<_>>());
    let snapshot = state.world().snapshot();
    let (made, found) = state.memo_counts();
    put("pilot_xds", "gauge", "Proxies connected.", count(state.proxies().count()));
    put("pilot_services", "gauge", "Services known.", count(state.world().registry.entries().count()));
    put("pilot_virt_services", "gauge", "VirtualServices known.", count(snapshot.count(Kind::VirtualService)));
    put("pilot_full_pushes_total", "counter", "Pushes of everything.", state.counts.full_pushes);
    put("pilot_endpoint_pushes_total", "counter", "Pushes of endpoints alone.", state.counts.endpoint_pushes);
    put(
        "pilot_xds_pushes_assembled_total",
        "counter",
        "Sets of resources made for single proxies.",
        state.counts.assembled,
    );
    put("pilot_resources_generated_total", "counter", "Resources generated.", made);
    put("pilot_resources_reused_total", "counter", "Resources found generated already.", found);
    put("pilot_total_xds_rejects", "counter", "Responses refused by the proxies connected now.", rejects.sum());
    put(
        "pilot_conflicts",
        "gauge",
        "Listeners and servers that proxies connected now could not be given.",
        count(state.proxies().map(|proxy| proxy.problems().count()).sum()),
    );
    text
}

#[cfg(test)]
#[path = "debug_tests.rs"]
mod tests;
