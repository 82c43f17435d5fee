//! Waiting until what was applied is in force: workloads are ready, Services lead to them, and every proxy has taken the
//! configuration that says so.

use std::collections::BTreeSet;
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
/// How long files must be missed before they are taken to be missing: agents read them at leisure.
const STEADY: Duration = Duration::from_secs(2);

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
    /// It has accepted or refused all there is for it.
    pub answered: bool,
    /// What it refused of that.
    pub refused: Vec<Refused>,
    /// What it waits for before all that it accepted is in force; known of proxies of ours.
    pub awaited: BTreeSet<Awaited>,
}

/// A resource that a proxy refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refused {
    pub resource: String,
    /// Of its content; none if its removal was refused.
    pub version: Option<String>,
    pub reason: String,
}

/// A resource that a proxy accepted and that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Awaited {
    /// Which, and what it waits for, in words.
    pub words: String,
    /// Of its content.
    pub version: String,
    /// It lacks files to call a service with. A DestinationRule names them for all clients, and only those that are to call
    /// need to mount them.
    pub client_files: bool,
}

/// What keeps proxies from what they are told. What kept them already before a change is not that change's doing: it is told,
/// and not waited for.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Troubles {
    refused: BTreeSet<(String, Refused)>,
    awaited: BTreeSet<(String, Awaited)>,
}

impl Troubles {
    fn of(sync: &Sync) -> Troubles {
        let each = || sync.proxies.iter();
        let refused = each().flat_map(|one| one.refused.iter().map(|refused| (one.proxy.clone(), refused.clone())));
        let awaited = each().flat_map(|one| one.awaited.iter().map(|awaited| (one.proxy.clone(), awaited.clone())));
        Troubles { refused: refused.collect(), awaited: awaited.collect() }
    }

    /// Those there are now; none while the control plane does not answer.
    pub async fn now(state: &StateDir) -> Troubles {
        sync(&state.control_plane()).await.map(|sync| Troubles::of(&sync)).unwrap_or_default()
    }

    /// What proxies wait for now, without what they refused.
    pub async fn awaited(state: &StateDir) -> Troubles {
        Troubles { refused: BTreeSet::new(), ..Troubles::now(state).await }
    }

    /// Those that are not among the older ones, and those that are.
    fn apart(self, older: &Troubles) -> (Troubles, Troubles) {
        let (old_refused, refused) = self.refused.into_iter().partition(|one| older.refused.contains(one));
        let (old_awaited, awaited) = self.awaited.into_iter().partition(|one| older.awaited.contains(one));
        (Troubles { refused, awaited }, Troubles { refused: old_refused, awaited: old_awaited })
    }

    /// In words.
    fn told(&self) -> impl Iterator<Item = String> {
        let refused = self.refused.iter();
        let refused =
            refused.map(|(proxy, Refused { resource, reason, .. })| format!("{proxy} refuses {resource}: {reason}"));
        refused.chain(self.awaited.iter().map(|(proxy, what)| format!("{proxy}: {}", what.words)))
    }
}

/// Waits until the objects, as the mesh answered when they were written, are in force. Gives in words what of the troubles that
/// were there `before` still is.
///
/// # Errors
/// What is still missing after `patience`, or which proxy refuses what.
pub async fn in_force(
    client: &Client,
    state: &StateDir,
    objects: &[Value],
    before: &Troubles,
    patience: Duration,
) -> Result<Vec<String>, Error> {
    let deadline = Instant::now() + patience;
    for object in objects {
        ready(client, object, deadline).await?;
    }
    let written = objects.iter().filter_map(revision).max().unwrap_or(0);
    // A pod is ready before its Services' endpoints say so.
    let led = controllers(client, deadline).await?;
    proxies(&state.control_plane(), written.max(led), before, deadline).await
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

async fn proxies(socket: &Path, wanted: u64, before: &Troubles, deadline: Instant) -> Result<Vec<String>, Error> {
    let mut last = (Vec::new(), Instant::now());
    loop {
        let problem = match sync(socket).await {
            // The control plane may be starting again.
            Err(error) => error.to_string(),
            Ok(sync) => match look(&sync, wanted, before) {
                Look::InForce(standing) => return Ok(standing),
                Look::ButForFiles(told) => {
                    if told != last.0 {
                        last = (told, Instant::now());
                    } else if last.1.elapsed() >= STEADY {
                        return Ok(last.0);
                    }
                    last.0.join("; ")
                }
                Look::Refused(refusal) => return Err(Error::Usage(refusal)),
                Look::NotYet(problem) => problem,
            },
        };
        if Instant::now() >= deadline {
            return Err(Error::Usage(format!("not in force in time: {problem}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is seen of a revision at one look.
#[derive(Debug, PartialEq)]
enum Look {
    /// Every proxy has it; in words, what troubles stand from before.
    InForce(Vec<String>),
    /// The same, but some clients lack files.
    ButForFiles(Vec<String>),
    /// A proxy refuses it.
    Refused(String),
    NotYet(String),
}

fn look(sync: &Sync, wanted: u64, before: &Troubles) -> Look {
    if sync.revision < wanted {
        return Look::NotYet("the control plane has not seen it yet".to_string());
    }
    let (new, standing) = Troubles::of(sync).apart(before);
    let behind = sync.proxies.iter().find(|proxy| !proxy.answered);
    let waiting = new.awaited.iter().find(|(_, awaited)| !awaited.client_files);
    match (new.told().next(), behind) {
        (Some(refusal), _) if !new.refused.is_empty() => Look::Refused(refusal),
        (_, Some(proxy)) => Look::NotYet(format!("{} has not taken it yet", proxy.proxy)),
        (Some(_), None) => match waiting {
            Some((proxy, awaited)) => Look::NotYet(format!("{proxy}: {}", awaited.words)),
            None => Look::ButForFiles(new.told().chain(standing.told()).collect()),
        },
        (None, None) => Look::InForce(standing.told().collect()),
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

    #[test]
    fn a_change_answers_for_its_own_troubles_alone() {
        let refused = |version: &str| Refused {
            resource: "0.0.0.0_80".to_string(),
            version: Some(version.to_string()),
            reason: "no".to_string(),
        };
        let lost = |version: &str| Awaited {
            words: "listener b waits".to_string(),
            version: version.to_string(),
            client_files: false,
        };
        let of_client = Awaited { words: "cluster c waits".to_string(), version: "1".to_string(), client_files: true };
        let sync = |answered, refused: &[Refused], awaited: &[Awaited]| Sync {
            revision: 7,
            proxies: vec![ProxySync {
                proxy: "a".to_string(),
                answered,
                refused: refused.to_vec(),
                awaited: awaited.iter().cloned().collect(),
            }],
        };
        let none = Troubles::default();
        assert!(matches!(look(&sync(true, &[], &[]), 8, &none), Look::NotYet(_)));
        assert!(matches!(look(&sync(false, &[], &[]), 7, &none), Look::NotYet(_)));
        assert_eq!(look(&sync(true, &[], &[]), 7, &none), Look::InForce(Vec::new()));
        let words = "a refuses 0.0.0.0_80: no".to_string();
        assert_eq!(look(&sync(true, &[refused("1")], &[]), 7, &none), Look::Refused(words.clone()));
        let before = Troubles::of(&sync(true, &[refused("1")], &[lost("1")]));
        let standing = vec![words.clone(), "a: listener b waits".to_string()];
        assert_eq!(look(&sync(true, &[refused("1")], &[lost("1")]), 7, &before), Look::InForce(standing));
        assert_eq!(look(&sync(true, &[refused("2")], &[]), 7, &before), Look::Refused(words));
        // The same words of other content are the change's doing.
        let waits = Look::NotYet("a: listener b waits".to_string());
        assert_eq!(look(&sync(true, &[], &[lost("2")]), 7, &before), waits);
        assert_eq!(look(&sync(true, &[], &[lost("2"), of_client.clone()]), 7, &none), waits);
        let but_for = Look::ButForFiles(vec!["a: cluster c waits".to_string()]);
        assert_eq!(look(&sync(true, &[], &[of_client]), 7, &none), but_for);
    }
}
