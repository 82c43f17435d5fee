//! What a starting cluster tells: what was applied, which pods are ready, and what is still waited for.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use lateen_galley::{Kind, Problem, Snapshot, Store};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::controllers::selection;
use crate::files::Change;

/// Something happened that people want to see.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// The manifests are in the store.
    Applied {
        /// How many objects they hold.
        objects: usize,
    },
    /// A pod became ready.
    PodReady {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A container cannot run, and why: told once for each reason.
    Trouble {
        /// Namespace, pod and container.
        place: String,
        /// In words.
        message: String,
    },
    /// Changed files were applied.
    Changed {
        /// How many objects are different now.
        objects: usize,
        /// What was accepted and yet looks wrong.
        warnings: Vec<Problem>,
    },
    /// Changed files were refused; nothing was changed. File, document, object and field of everything wrong, a line each.
    Refused(String),
}

/// Something a cluster waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Such as `Deployment shop/web`.
    pub object: String,
    /// Such as `1 of 2 pods ready`.
    pub state: String,
}

/// Deployments and pods that are not what they should be.
pub fn waiting(snapshot: &Snapshot) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    for object in snapshot.objects(Kind::Deployment) {
        let Some(deployment) = object.typed::<Deployment>() else { continue };
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.as_ref();
        let seen = status.and_then(|status| status.observed_generation) == Some(object.generation());
        let updated = status.and_then(|status| status.updated_replicas).unwrap_or(0);
        let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let all = status.and_then(|status| status.replicas).unwrap_or(0);
        if !seen || ready < wanted || updated < wanted || all > wanted {
            let state = format!("{ready} of {wanted} pods ready");
            waiting.push(Waiting { object: object.key().to_string(), state });
        }
    }
    for object in snapshot.objects(Kind::Pod) {
        let Some(pod) = object.typed::<Pod>() else { continue };
        let owned = pod.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
        let settled = selection::is_ready(pod) || selection::is_over(pod) || selection::is_ending(pod);
        if !owned && !settled {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            waiting.push(Waiting { object: object.key().to_string(), state: format!("not ready ({phase})") });
        }
    }
    waiting
}

/// Tells of pods as they become ready, or cannot.
pub async fn follow_pods(store: Store, progress: mpsc::UnboundedSender<Progress>) {
    let mut revisions = store.revisions();
    let mut ready: BTreeSet<String> = BTreeSet::new();
    let mut told: BTreeSet<(String, String)> = BTreeSet::new();
    loop {
        revisions.mark_unchanged();
        let snapshot = store.snapshot();
        let mut uids = BTreeSet::new();
        for object in snapshot.objects(Kind::Pod) {
            let Some(pod) = object.typed::<Pod>() else { continue };
            uids.insert(object.uid().to_owned());
            if selection::is_ready(pod) && ready.insert(object.uid().to_owned()) {
                let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
                let _ = progress.send(Progress::PodReady { namespace, name });
            }
            for (container, message) in troubles(object.raw()) {
                let place = format!("{}/{} container {container}", object.namespace(), object.name());
                if told.insert((object.uid().to_owned(), message.clone())) {
                    let _ = progress.send(Progress::Trouble { place, message });
                }
            }
        }
        ready.retain(|uid| uids.contains(uid));
        told.retain(|(uid, _)| uids.contains(uid));
        if progress.is_closed() || revisions.changed().await.is_err() {
            return;
        }
    }
}

/// Containers that wait for something that will not come by itself.
fn troubles(pod: &Value) -> Vec<(String, String)> {
    let statuses = ["/status/containerStatuses", "/status/initContainerStatuses"];
    let statuses = statuses.iter().filter_map(|pointer| pod.pointer(pointer)?.as_array()).flatten();
    statuses
        .filter_map(|status| {
            let waiting = status.pointer("/state/waiting")?;
            let reason = waiting.get("reason")?.as_str()?;
            let name = status.get("name")?.as_str()?.to_owned();
            let message = waiting.get("message").and_then(Value::as_str).unwrap_or(reason);
            let hopeless = matches!(
                reason,
                "ErrImagePull" | "CreateContainerConfigError" | "RunContainerError" | "CrashLoopBackOff"
            );
            let code = status.pointer("/lastState/terminated/exitCode").and_then(Value::as_i64);
            let message = match code {
                Some(code) if reason == "CrashLoopBackOff" => {
                    format!("ended with exit code {code} and is started again and again")
                }
                _ => message.to_owned(),
            };
            hopeless.then_some((name, message))
        })
        .collect()
}

/// Tells what becomes of changed files.
pub async fn follow_files(mut changes: mpsc::UnboundedReceiver<Change>, progress: mpsc::UnboundedSender<Progress>) {
    while let Some(change) = changes.recv().await {
        let event = match change {
            Change::Applied(committed) => {
                let changed =
                    |outcome: &&lateen_galley::store::Outcome| outcome.done != lateen_galley::store::Done::Unchanged;
                let objects = committed.outcomes.iter().filter(changed).count();
                tracing::info!(objects, "changed manifests were applied");
                Progress::Changed { objects, warnings: committed.warnings }
            }
            Change::Refused(error) => {
                tracing::error!("changed manifests were refused, nothing was changed: {error}");
                Progress::Refused(error.to_string())
            }
        };
        // The files are followed whether or not anybody watches.
        let _ = progress.send(event);
    }
}
