//! Workloads that join by themselves: the WorkloadEntry of each member of a WorkloadGroup, made from the group's template
//! and from what the workload's proxy says of itself, and what is written to it as the workload comes, fares and goes.
//!
//! Pure: who writes, and when, is not decided here. Source: Istio `pilot/pkg/autoregistration`.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use lateen_galley::{Kind, Object};
use lateen_xds::ads::WorkloadHealth;
use serde_json::{Map, Value, json};

use crate::node::Node;
use crate::registry::{HEALTH_CHECKED, HEALTHY};

/// The group that an entry was made for; entries of people have none.
const GROUP: &str = "istio.io/autoRegistrationGroup";
/// The control plane that the workload is, or was, connected to.
const CONTROLLER: &str = "istio.io/workloadController";
const CONNECTED_AT: &str = "istio.io/connectedAt";
const DISCONNECTED_AT: &str = "istio.io/disconnectedAt";

/// What this control plane calls itself in [`CONTROLLER`]. One that is started again is the same.
const NAME: &str = "lateen";

/// Kubernetes' limit on names.
const LONGEST_NAME: usize = 253;

/// A workload that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its namespace, its group's and its entry's.
    pub namespace: String,
    /// Name of its WorkloadGroup.
    pub group: String,
    /// Name of its WorkloadEntry.
    pub entry: String,
}

impl Member {
    /// The workload of this proxy, if it is one of a group.
    pub fn of(node: &Node) -> Option<Member> {
        let group = node.register_group.clone()?;
        let address = node.addresses.first()?.to_string().replace(':', "-");
        let network = node.network.iter().map(|network| format!("-{network}"));
        let mut entry = format!("{group}-{address}");
        entry.extend(network);
        // The end tells workloads apart. Names are ASCII.
        if let Some(end) = entry.len().checked_sub(LONGEST_NAME).and_then(|from| entry.get(from..)) {
            entry = end.to_owned();
        }
        Some(Member { namespace: node.namespace.clone(), group, entry })
    }

    /// The entry of a workload that came. `group` is its WorkloadGroup.
    pub fn new_entry(&self, node: &Node, group: &Object, now: SystemTime) -> Value {
        let fields =
            |map: Option<&Value>| -> Map<String, Value> { map.and_then(Value::as_object).cloned().unwrap_or_default() };
        let spec = group.raw().get("spec");
        let mut entry = fields(spec.and_then(|spec| spec.get("template")));
        let metadata = |field: &str| fields(spec.and_then(|spec| spec.get("metadata")).and_then(|all| all.get(field)));
        let mut labels = fields(entry.get("labels"));
        labels.extend(metadata("labels"));
        labels.extend(node.labels.iter().map(|(name, value)| (name.clone(), json!(value))));
        let mut annotations = Map::from_iter([(GROUP.to_owned(), json!(self.group))]);
        annotations.extend(metadata("annotations"));
        annotations.insert(CONTROLLER.to_owned(), json!(NAME));
        annotations.insert(CONNECTED_AT.to_owned(), json!(text(now)));
        if node.proxy_config.readiness_probe.is_some() {
            annotations.insert(HEALTH_CHECKED.to_owned(), json!("true"));
        }
        entry.insert("labels".to_owned(), json!(labels));
        if let Some(address) = node.addresses.first() {
            entry.insert("address".to_owned(), json!(address.to_string()));
        }
        // It has proven to have it. Clients ask for the mesh's TLS, and for this identity, where there is one.
        if let Some(account) = &node.service_account {
            entry.entry("serviceAccount").or_insert_with(|| json!(account));
        }
        if let Some(network) = &node.network {
            entry.insert("network".to_owned(), json!(network));
        }
        if !node.locality.region.is_empty() {
            entry.insert("locality".to_owned(), json!(node.locality.to_string()));
        }
        let kind = Kind::WorkloadGroup.info();
        json!({
            "apiVersion": Kind::WorkloadEntry.info().api_version(),
            "kind": Kind::WorkloadEntry.name(),
            "metadata": {
                "name": self.entry,
                "namespace": self.namespace,
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [{
                    "apiVersion": kind.api_version(), "kind": kind.name, "name": group.name(), "uid": group.uid(),
                    "controller": true,
                }],
            },
            "spec": entry,
        })
    }
}

/// What changes of an entry that is there already when its workload connects (a JSON merge patch).
pub fn connected(now: SystemTime) -> Value {
    json!({"metadata": {"annotations": {
        CONTROLLER: NAME, CONNECTED_AT: text(now), DISCONNECTED_AT: null,
    }}})
}

/// What changes of an entry when its workload is gone.
pub fn disconnected(now: SystemTime) -> Value {
    json!({"metadata": {"annotations": {CONNECTED_AT: null, DISCONNECTED_AT: text(now)}}})
}

/// What changes of the status of an entry when its workload's health is told. `before` is the entry as it is.
pub fn health(before: &Value, health: &WorkloadHealth, now: SystemTime) -> Value {
    let conditions = before.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let mut conditions: Vec<Value> =
        conditions.filter(|condition| condition.get("type").is_none_or(|kind| kind != HEALTHY)).cloned().collect();
    // Only changes are told, so both times are the same.
    let mut condition = json!({"type": HEALTHY, "lastProbeTime": text(now), "lastTransitionTime": text(now)});
    match health {
        WorkloadHealth::Healthy => condition["status"] = json!("True"),
        WorkloadHealth::Unhealthy(why) => {
            condition["status"] = json!("False");
            condition["message"] = json!(why);
        }
    }
    conditions.push(condition);
    json!({"status": {"conditions": conditions}})
}

/// As annotations and conditions have it.
fn text(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or_default().to_string()
}

/// Whether an entry was made for a workload that joined by itself, and by this control plane.
pub fn is_registered(entry: &Object) -> bool {
    entry.annotation(GROUP).is_some_and(|group| !group.is_empty()) && entry.annotation(CONTROLLER) == Some(NAME)
}

#[cfg(test)]
#[path = "registration_tests.rs"]
mod tests;
