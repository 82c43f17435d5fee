//! Waiting until what was applied is in force: workloads are ready, Services lead to them, and every proxy has taken the
//! configuration that says so.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use lateen_galley::{Kind, Snapshot, kind};
use lateen_local::client::{Client, replicate};
use lateen_local::controllers::{FOLLOWED, behind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::page;
use crate::state_dir::StateDir;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What the control plane answers at [`Sync::PATH`]: how far its proxies are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Sync {
    /// The cluster's revision that all proxies' configuration is made from.
    pub revision: u64,
    pub proxies: Vec<ProxySync>,
}

impl Sync {
    /// A page of our own: Istio's `/debug/syncz` does not say what the proxies are in step with.
    pub const PATH: &'static str = "/debug/in_force";
}

/// How far one proxy is.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProxySync {
    /// The node's id, as in Istio: `sidecar~10.244.0.5~helloworld-v1.canary~canary.svc.cluster.local`.
    pub proxy: String,
    /// It has accepted all there is for it.
    pub synced: bool,
    /// What it refused: the resource's name and why.
    pub refused: Vec<(String, String)>,
}

/// Waits until the objects, as the mesh answered when they were written, are in force.
///
/// # Errors
/// What is still missing after `patience`, or which proxy refuses what.
pub async fn in_force(client: &Client, state: &StateDir, objects: &[Value], patience: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + patience;
    for object in objects {
        ready(client, object, deadline).await?;
    }
    let written = objects.iter().filter_map(revision).max().unwrap_or(0);
    // A pod is ready before its Services' endpoints say so.
    let led = controllers(client, deadline).await?;
    proxies(&state.control_plane(), written.max(led), deadline).await
}

/// Waits until the cluster's controllers have followed what there is; gives the revision at which they had.
async fn controllers(client: &Client, deadline: Instant) -> Result<u64, Error> {
    let (sender, mut snapshots) = watch::channel(None::<Snapshot>);
    let mut problem = None;
    let followed = async {
        while snapshots.changed().await.is_ok() {
            let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
            problem = behind(&snapshot);
            if problem.is_none() {
                return Some(snapshot.revision());
            }
        }
        None
    };
    let revision = tokio::select! {
        revision = followed => revision,
        () = replicate(client.clone(), &FOLLOWED, sender) => None,
        () = tokio::time::sleep_until(deadline) => None,
    };
    revision.ok_or_else(|| {
        let problem = problem.unwrap_or_else(|| "the cluster does not tell what it holds".to_owned());
        Error::Usage(format!("not in force in time: {problem}"))
    })
}

fn revision(object: &Value) -> Option<u64> {
    object.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok()
}

/// Waits until a workload is ready; other kinds are as soon as they are there.
async fn ready(client: &Client, object: &Value, deadline: Instant) -> Result<(), Error> {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = match kind::by_api_version(text("/apiVersion"), text("/kind")) {
        Ok(kind @ (Kind::Deployment | Kind::Pod)) => kind,
        _ => return Ok(()),
    };
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    loop {
        let now = client.get(kind, namespace, name).await?;
        let done = if kind == Kind::Pod { is_pod_ready(&now) } else { is_rolled_out(&now) };
        if done {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::Usage(format!("{kind} {namespace}/{name} did not become ready in time")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a pod's Ready condition holds.
pub fn is_pod_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn is_rolled_out(deployment: &Value) -> bool {
    let number = |pointer| deployment.pointer(pointer).and_then(Value::as_u64);
    let replicas = number("/spec/replicas").unwrap_or(1);
    number("/status/observedGeneration") >= number("/metadata/generation")
        && ["/status/updatedReplicas", "/status/readyReplicas", "/status/replicas"]
            .iter()
            .all(|field| number(field).unwrap_or(0) == replicas)
}

async fn proxies(socket: &Path, wanted: u64, deadline: Instant) -> Result<(), Error> {
    loop {
        let problem = match sync(socket).await {
            // The control plane may be starting again.
            Err(error) => error.to_string(),
            Ok(sync) => {
                if let Some((proxy, refused)) =
                    sync.proxies.iter().find_map(|proxy| Some((proxy, proxy.refused.first()?)))
                    && sync.revision >= wanted
                {
                    let (resource, reason) = refused;
                    return Err(Error::Usage(format!("{} refuses {resource}: {reason}", proxy.proxy)));
                }
                let behind = sync.proxies.iter().find(|proxy| !proxy.synced);
                match behind {
                    _ if sync.revision < wanted => "the control plane has not seen it yet".to_string(),
                    Some(proxy) => format!("{} has not taken it yet", proxy.proxy),
                    None => return Ok(()),
                }
            }
        };
        if Instant::now() >= deadline {
            return Err(Error::Usage(format!("not in force in time: {problem}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks a control plane how far its proxies are.
///
/// # Errors
/// When it does not answer.
pub async fn sync(socket: &Path) -> Result<Sync, Error> {
    let (_, body) = page::ask(socket, Method::GET, Sync::PATH).await?;
    serde_json::from_slice(&body).map_err(Error::unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_deployment_is_rolled_out_when_the_newest_replicas_serve() {
        let mut deployment = json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": 2},
            "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2},
        });
        assert!(is_rolled_out(&deployment));
        deployment["status"]["readyReplicas"] = json!(1);
        assert!(!is_rolled_out(&deployment));
        deployment["status"]["readyReplicas"] = json!(2);
        deployment["metadata"]["generation"] = json!(3);
        assert!(!is_rolled_out(&deployment));
    }

    #[test]
    fn a_pod_is_ready_when_it_says_so() {
        assert!(is_pod_ready(&json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})));
        assert!(!is_pod_ready(&json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})));
        assert!(!is_pod_ready(&json!({})));
    }
}
