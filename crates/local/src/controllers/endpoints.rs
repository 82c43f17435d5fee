//! EndpointSlices: which pods serve a Service, and at which ports.
//!
//! Pods whose named target ports have different numbers get slices of their own, as in Kubernetes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use lateen_galley::{Change, Key, Kind, Object, Snapshot};
use serde_json::{Value, json};

use super::selection;
use crate::admission::Admission;

/// The label that ties a slice to its Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints of one slice at most (the API's own limit).
const SLICE_LIMIT: usize = 1000;

/// Makes the slices of every Service with a selector what they should be.
pub fn reconcile(admission: &Admission, snapshot: &Snapshot) {
    let mut wanted = wanted(snapshot);
    let mut batch = Vec::new();
    for object in ours(snapshot) {
        match wanted.remove(&name_of(object)) {
            Some(slice) if says_the_same(object, &slice) => {}
            Some(slice) => batch.push(slice),
            None => {
                if let Err(refusal) = admission.write(Change::delete(object.key())) {
                    tracing::debug!(%refusal, "an endpoint slice was gone already");
                }
            }
        }
    }
    batch.extend(wanted.into_values());
    for slice in batch {
        let written = Object::decode(slice).map(|object| admission.write(Change::Upsert(object)));
        match written {
            Ok(Ok(_)) => {}
            // The namespace may be going away.
            Ok(Err(refusal)) => tracing::debug!(%refusal, "an endpoint slice was not written"),
            Err(error) => tracing::error!(%error, "an endpoint slice is none"),
        }
    }
}

/// A slice that is not what it should be yet.
pub fn behind(snapshot: &Snapshot) -> Option<String> {
    let mut wanted = wanted(snapshot);
    let same = |object: &Arc<Object>, slice: Option<Value>| slice.is_some_and(|slice| says_the_same(object, &slice));
    let wrong = ours(snapshot).map(|object| (name_of(object), object));
    let wrong = wrong.filter_map(|(name, object)| (!same(object, wanted.remove(&name))).then_some(name)).min();
    let (namespace, name) = wrong.or_else(|| wanted.into_keys().next())?;
    Some(format!("the endpoints of {namespace}/{name} are not those of its pods yet"))
}

/// Every slice that is to be there, by namespace and name.
fn wanted(snapshot: &Snapshot) -> BTreeMap<(String, String), Value> {
    let selecting = snapshot.objects(Kind::Service).flat_map(|object| {
        let service = object.typed::<Service>();
        service.map(|service| slices(snapshot, object, service)).unwrap_or_default()
    });
    let by_hand = snapshot.objects(Kind::Endpoints).filter_map(|object| mirrored(snapshot, object));
    let text = |slice: &Value, field: &str| slice["metadata"][field].as_str().unwrap_or_default().to_owned();
    selecting.chain(by_hand).map(|slice| ((text(&slice, "namespace"), text(&slice, "name")), slice)).collect()
}

/// The slices that are there of this controller's making.
fn ours(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Object>> {
    snapshot.objects(Kind::EndpointSlice).filter(|object| matches!(object.label(MANAGED_BY), Some(MANAGER | MIRROR)))
}

fn name_of(object: &Object) -> (String, String) {
    (object.namespace().to_owned(), object.name().to_owned())
}

fn says_the_same(object: &Object, slice: &Value) -> bool {
    ["endpoints", "ports", "addressType"].iter().all(|field| object.raw().get(*field) == slice.get(*field))
}

fn slices(snapshot: &Snapshot, object: &Object, service: &Service) -> Vec<Value> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let unready_too = spec.publish_not_ready_addresses == Some(true);
    // Pods with the same port numbers share slices.
    let mut groups: BTreeMap<Vec<(usize, u16)>, Vec<Value>> = BTreeMap::new();
    for (pod_object, pod) in selection::pods(snapshot, object.namespace(), selector) {
        let Some(address @ IpAddr::V4(_)) = selection::address(pod) else { continue };
        if selection::is_over(pod) {
            continue;
        }
        let ports: Vec<(usize, u16)> = spec
            .ports
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, port)| Some((index, selection::target_port(port, pod)?)))
            .collect();
        groups.entry(ports).or_default().push(endpoint(object.name(), pod_object, pod, address, unready_too));
    }
    if groups.is_empty() {
        // A Service nobody serves says so.
        groups.insert(Vec::new(), Vec::new());
    }
    let mut slices = Vec::new();
    for (ports, endpoints) in groups {
        let ports: Vec<Value> = ports
            .iter()
            .filter_map(|(index, number)| {
                let port = spec.ports.iter().flatten().nth(*index)?;
                let mut entry = json!({
                    "name": port.name.as_deref().unwrap_or_default(), "port": number,
                    "protocol": port.protocol.as_deref().unwrap_or("TCP"),
                });
                if let (Some(protocol), Value::Object(fields)) = (&port.app_protocol, &mut entry) {
                    fields.insert("appProtocol".to_owned(), json!(protocol));
                }
                Some(entry)
            })
            .collect();
        let chunks: Vec<&[Value]> =
            if endpoints.is_empty() { vec![&[]] } else { endpoints.chunks(SLICE_LIMIT).collect() };
        for chunk in chunks {
            slices.push(slice(object, spec.cluster_ip.as_deref() == Some("None"), slices.len(), chunk, &ports));
        }
    }
    slices
}

/// The slice that says what Endpoints written by hand say, for a Service that selects no pods.
fn mirrored(snapshot: &Snapshot, object: &Object) -> Option<Value> {
    let service = snapshot.find(Kind::Service, object.namespace(), object.name())?;
    let selector = service.typed::<Service>()?.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    if selector.is_some_and(|selector| !selector.is_empty()) {
        return None;
    }
    // Subsets with other ports are rare and would each need a slice; the first one's ports count.
    let subsets = object.raw().get("subsets").and_then(Value::as_array)?;
    let ports = subsets.first()?.get("ports").cloned().unwrap_or_else(|| json!([]));
    let same =
        subsets.iter().filter(|subset| subset.get("ports") == subsets.first().and_then(|first| first.get("ports")));
    let mut endpoints = Vec::new();
    for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
        for subset in same.clone() {
            let addresses = subset.get(field).and_then(Value::as_array).into_iter().flatten();
            for address in addresses.filter_map(|address| address.get("ip")) {
                endpoints.push(json!({"addresses": [address], "conditions": {"ready": ready}}));
            }
        }
    }
    let owner = json!({
        "apiVersion": "v1", "kind": "Endpoints", "name": object.name(), "uid": object.uid(), "controller": true,
    });
    Some(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-mirrored", object.name()), "namespace": object.namespace(),
            "labels": {SERVICE_LABEL: object.name(), MANAGED_BY: MIRROR}, "ownerReferences": [owner],
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    }))
}

fn slice(service: &Object, headless: bool, number: usize, endpoints: &[Value], ports: &[Value]) -> Value {
    let owner = json!({
        "apiVersion": "v1", "kind": "Service", "name": service.name(), "uid": service.uid(), "controller": true,
    });
    let mut labels = service.labels().cloned().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if headless {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{number}", service.name()), "namespace": service.namespace(),
            "labels": labels, "ownerReferences": [owner],
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    })
}

fn endpoint(service: &str, object: &Object, pod: &Pod, address: IpAddr, unready_too: bool) -> Value {
    let (ready, ending) = (selection::is_ready(pod), selection::is_ending(pod));
    let mut endpoint = json!({
        "addresses": [address.to_string()],
        "conditions": {"ready": unready_too || (ready && !ending), "serving": unready_too || ready, "terminating": ending},
        "targetRef": {"kind": "Pod", "name": object.name(), "namespace": object.namespace(), "uid": object.uid()},
    });
    let spec = pod.spec.as_ref();
    if let Value::Object(fields) = &mut endpoint {
        if let Some(node) = spec.and_then(|spec| spec.node_name.as_deref()) {
            fields.insert("nodeName".to_owned(), json!(node));
        }
        let named = spec.filter(|spec| spec.subdomain.as_deref() == Some(service));
        if let Some(hostname) = named.and_then(|spec| spec.hostname.as_deref()) {
            fields.insert("hostname".to_owned(), json!(hostname));
        }
    }
    endpoint
}

/// The key of a slice's Service.
pub fn service_of(slice: &Object) -> Option<Key> {
    Some(Key::new(Kind::Service, slice.namespace(), slice.label(SERVICE_LABEL)?))
}
