//! Deployments: as many pods of their template as they want.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use lateen_galley::{Change, Kind, Object, Snapshot};
use serde_json::{Value, json};

use super::rollout::{Existing, Goal, Strategy, next, resolve_share};
use super::{create, selection, write_status};
use crate::admission::Admission;

/// The label that tells a template's pods from another's.
pub const HASH_LABEL: &str = "pod-template-hash";
/// Letters of generated names: none that make words, none that are mistaken for another (Kubernetes').
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters that tell a Deployment's pods apart.
const LETTERS_OF_PODS: usize = 5;

/// Makes or ends the pods that the next step of each Deployment asks for, and tells its status.
pub fn reconcile(admission: &Admission, snapshot: &Snapshot) {
    for object in snapshot.objects(Kind::Deployment) {
        if let Some(deployment) = object.typed::<Deployment>() {
            reconcile_one(admission, snapshot, object, deployment);
        }
    }
}

fn reconcile_one(admission: &Admission, snapshot: &Snapshot, object: &Object, deployment: &Deployment) {
    let template = object.raw().pointer("/spec/template").cloned().unwrap_or_default();
    let hash = template_hash(&template);
    let pods = owned(snapshot, object);
    let existing: Vec<Existing> = pods
        .iter()
        .filter(|(_, pod)| !selection::is_over(pod))
        .map(|(pod_object, pod)| Existing {
            name: pod_object.name().to_owned(),
            current: pod_object.label(HASH_LABEL) == Some(&hash),
            ready: selection::is_ready(pod),
            ending: selection::is_ending(pod),
            age_order: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        })
        .collect();
    let goal = goal(deployment);
    if object.metadata().deletion_timestamp.is_none() {
        let step = next(goal, &existing);
        for _ in 0..step.create {
            // What is refused once is refused again: a full store, a namespace that goes away.
            if !create(admission, pod_of(object, &template, &hash, &letters(rand::random(), LETTERS_OF_PODS))) {
                break;
            }
        }
        let over = pods.iter().filter(|(_, pod)| selection::is_over(pod)).map(|(over, _)| over.name().to_owned());
        for name in step.delete.into_iter().chain(over) {
            let key = lateen_galley::Key::new(Kind::Pod, object.namespace(), name);
            if let Err(refusal) = admission.write(Change::delete(key)) {
                tracing::debug!(%refusal, "a pod was gone already");
            }
        }
    }
    write_status(admission.store(), object, status(object, goal, &existing));
}

/// Makes all pods of all Deployments at once, as if they had always been there. Their names are the same each time.
pub fn complete(admission: &Admission, snapshot: &Snapshot) {
    for object in snapshot.objects(Kind::Deployment) {
        let Some(deployment) = object.typed::<Deployment>() else { continue };
        let template = object.raw().pointer("/spec/template").cloned().unwrap_or_default();
        let hash = template_hash(&template);
        for index in 0..goal(deployment).replicas {
            let suffix = letters(hash_of(&format!("{}/{index}", object.key())), LETTERS_OF_PODS);
            if !create(admission, pod_of(object, &template, &hash, &suffix)) {
                break;
            }
        }
    }
}

/// The pods a Deployment owns.
fn owned<'a>(snapshot: &'a Snapshot, owner: &Object) -> Vec<(&'a Object, &'a Pod)> {
    let uid = owner.uid().to_owned();
    snapshot
        .objects_in(Kind::Pod, owner.namespace())
        .filter_map(|object| Some((object.as_ref(), object.typed::<Pod>()?)))
        .filter(|(_, pod)| pod.metadata.owner_references.iter().flatten().any(|reference| reference.uid == uid))
        .collect()
}

fn goal(deployment: &Deployment) -> Goal {
    let spec = deployment.spec.as_ref();
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let replicas = usize::try_from(replicas).unwrap_or(0);
    let strategy = spec.and_then(|spec| spec.strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return Goal { replicas, strategy: Strategy::Recreate };
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let share = |given: Option<&IntOrString>, round_up| match given {
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(0),
        Some(IntOrString::String(text)) => resolve_share(text, replicas, round_up).unwrap_or(1),
        None => resolve_share("25%", replicas, round_up).unwrap_or(1),
    };
    let surge = share(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true);
    let unavailable = share(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), false);
    Goal { replicas, strategy: Strategy::Rolling { surge, unavailable } }
}

fn pod_of(deployment: &Object, template: &Value, hash: &str, suffix: &str) -> Value {
    let mut metadata = template.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    let name = format!("{}-{hash}-{suffix}", deployment.name());
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("generateName".to_owned(), json!(format!("{}-{hash}-", deployment.name())));
    metadata.insert("namespace".to_owned(), json!(deployment.namespace()));
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Value::Object(labels) = labels {
        labels.insert(HASH_LABEL.to_owned(), json!(hash));
    }
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "name": deployment.name(), "uid": deployment.uid(),
        "controller": true, "blockOwnerDeletion": true,
    });
    metadata.insert("ownerReferences".to_owned(), json!([owner]));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_default(),
    })
}

/// A name for a template: the same for the same template, another for any other.
fn template_hash(template: &Value) -> String {
    // serde_json writes objects with their keys in order, so equal templates read alike.
    letters(hash_of(&template.to_string()), 10)
}

/// FNV-1a.
fn hash_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn letters(mut number: u64, count: usize) -> String {
    let base = LETTERS.len() as u64;
    (0..count)
        .filter_map(|_| {
            let letter = LETTERS.get(usize::try_from(number % base).ok()?);
            number /= base;
            letter.map(|letter| char::from(*letter))
        })
        .collect()
}

fn status(object: &Object, goal: Goal, pods: &[Existing]) -> Value {
    let alive = || pods.iter().filter(|pod| !pod.ending);
    let current = alive().filter(|pod| pod.current).count();
    let ready = alive().filter(|pod| pod.ready).count();
    let enough = match goal.strategy {
        Strategy::Recreate => goal.replicas,
        Strategy::Rolling { unavailable, .. } => goal.replicas.saturating_sub(unavailable),
    };
    let available = ready >= enough;
    let complete = current == goal.replicas && alive().count() == goal.replicas && ready >= goal.replicas;
    let old = object.raw().pointer("/status/conditions").and_then(Value::as_array);
    let condition = |name: &str, holds: bool, reason: &str, message: &str| {
        let text = if holds { "True" } else { "False" };
        let same = old.into_iter().flatten().find(|known| known["type"] == name && known["status"] == text);
        let now = || json!(Timestamp::from_second(crate::clock::now().as_second()).unwrap_or_default().to_string());
        let since = same.and_then(|same| same.get("lastTransitionTime").cloned()).unwrap_or_else(now);
        let updated = match same.filter(|same| same["reason"] == reason) {
            Some(same) => same.get("lastUpdateTime").cloned().unwrap_or_else(|| since.clone()),
            None => now(),
        };
        json!({
            "type": name, "status": text, "reason": reason, "message": message,
            "lastTransitionTime": since, "lastUpdateTime": updated,
        })
    };
    let available = if available {
        condition("Available", true, "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        condition("Available", false, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    let progressing = if complete {
        condition("Progressing", true, "NewReplicaSetAvailable", "All pods are of the current template and available.")
    } else {
        condition("Progressing", true, "ReplicaSetUpdated", "Pods are being started or replaced.")
    };
    let mut status = json!({
        "observedGeneration": object.generation(),
        "replicas": alive().count(), "updatedReplicas": current, "readyReplicas": ready, "availableReplicas": ready,
        "unavailableReplicas": goal.replicas.saturating_sub(ready),
        "conditions": [available, progressing],
    });
    if let Value::Object(fields) = &mut status {
        // Counts of nothing are left out, as Kubernetes does.
        fields.retain(|_, value| value.as_u64() != Some(0));
    }
    status
}
