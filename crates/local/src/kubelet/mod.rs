//! Pods as supervised processes: the role of Kubernetes' kubelet. It follows the store's pods, keeps the
//! node's in step with them, and tells their status.

mod agent;
mod bootstrap;
mod command;
mod container;
mod environment;
mod exec;
mod files;
pub mod logs;
mod pod;
mod probe;
mod status;
mod volumes;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use lateen_galley::{Kind, Object, Snapshot, Store};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use command::{CommandError, ImageCommands};
pub use exec::{Command, ExecError, Running};

pub(crate) use bootstrap::bootstrap;
pub(crate) use command::expand;
pub(crate) use environment::{Running as Surroundings, environment};
pub(crate) use status::ready_status;

use crate::admission::{POD_FINALIZER, PROXY_CONTAINER};
use crate::hosts::GatewayListeners;
use crate::network;
use crate::node::NodeHandle;
use crate::tokens::Tokens;
use container::Job;
use logs::Logs;

/// What the kubelet is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What to run for images.
    pub images: ImageCommands,
    /// Directories programs are searched in (`PATH` of containers).
    pub search_path: String,
    /// Where containers start that say nothing else.
    pub working_directory: String,
    /// Where logs are kept.
    pub logs: PathBuf,
    /// The cluster's own directory, which no pod sees.
    pub state_dir: PathBuf,
    /// Where volumes are written that change while their pod runs.
    pub volumes: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// The node's address in the pod network; DNS is answered there.
    pub host: IpAddr,
    /// Where the control plane serves proxies.
    pub control_plane: SocketAddr,
    /// Where another authority signs for workloads, and the name in its certificate.
    pub authority: Option<(SocketAddr, String)>,
    /// Issues the pods' tokens.
    pub tokens: Tokens,
}

/// What all pods share.
#[derive(Debug)]
pub struct Context {
    store: Store,
    node: NodeHandle,
    logs: Logs,
    images: ImageCommands,
    search_path: String,
    working_directory: String,
    state_dir: PathBuf,
    volumes: PathBuf,
    node_name: String,
    host: IpAddr,
    control_plane: SocketAddr,
    authority: Option<(SocketAddr, String)>,
    tokens: Tokens,
    addresses: Addresses,
    /// Where gateways get the host's listeners from, if they take them over.
    inherit_from: Option<GatewayListeners>,
    /// Everything ends: nobody is waited for who does not listen to SIGTERM.
    leaving: AtomicBool,
}

impl Context {
    fn running<'a>(&'a self, addresses: &'a [IpAddr]) -> environment::Running<'a> {
        environment::Running { addresses, host: self.host, node: &self.node_name, search_path: &self.search_path }
    }
}

/// The pod addresses in use.
#[derive(Debug, Default)]
struct Addresses {
    used: Mutex<(BTreeSet<Ipv4Addr>, Option<Ipv4Addr>)>,
}

impl Addresses {
    fn take(&self) -> Option<Ipv4Addr> {
        let mut used = locked(&self.used);
        let address = network::PODS.allocate(&used.0, used.1)?;
        used.0.insert(address);
        used.1 = Some(address);
        Some(address)
    }

    fn give_back(&self, address: Ipv4Addr) {
        locked(&self.used).0.remove(&address);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle on the kubelet; clones share it.
#[derive(Debug, Clone)]
pub struct Kubelet {
    context: Arc<Context>,
    pods: Arc<Mutex<HashMap<String, Entry>>>,
    limits: Arc<Mutex<HashMap<String, u64>>>,
    /// A worker is done: its pod may have to begin anew.
    ended: Arc<Notify>,
}

#[derive(Debug)]
struct Entry {
    object: Arc<Object>,
    doomed: watch::Sender<Option<Instant>>,
    jobs: watch::Receiver<Vec<Job>>,
    done: Arc<AtomicBool>,
    worker: JoinHandle<()>,
}

impl Kubelet {
    /// A kubelet of this node; nothing runs before [`Self::follow`].
    pub fn new(store: Store, node: NodeHandle, settings: Settings, inherit_from: Option<GatewayListeners>) -> Self {
        let Settings {
            images,
            search_path,
            working_directory,
            logs,
            state_dir,
            volumes,
            node_name,
            host,
            control_plane,
            authority,
            tokens,
        } = settings;
        let context = Context {
            store,
            node,
            logs: Logs::new(logs),
            images,
            search_path,
            working_directory,
            state_dir,
            volumes,
            node_name,
            host,
            control_plane,
            authority,
            tokens,
            addresses: Addresses::default(),
            inherit_from,
            leaving: AtomicBool::new(false),
        };
        Self { context: Arc::new(context), pods: Arc::default(), limits: Arc::default(), ended: Arc::default() }
    }

    /// The logs of all containers.
    pub fn logs(&self) -> &Logs {
        &self.context.logs
    }

    /// Gives the pod with this uid at most so many seconds to end, once it is deleted.
    pub fn limit_grace(&self, uid: &str, seconds: u64) {
        locked(&self.limits).insert(uid.to_owned(), seconds);
        // It may be ending already.
        if let Some(entry) = locked(&self.pods).get(uid) {
            let deadline = Instant::now() + self::seconds(seconds);
            entry.doomed.send_if_modified(|doomed| match doomed {
                Some(until) if deadline < *until => {
                    *until = deadline;
                    true
                }
                _ => false,
            });
        }
    }

    /// Runs a command in a pod, with the environment of one of its containers.
    ///
    /// # Errors
    /// When the pod does not run, or the command cannot be started.
    pub async fn exec(&self, uid: &str, container: &str, command: Command) -> Result<Running, ExecError> {
        let job = locked(&self.pods).get(uid).and_then(|entry| {
            let jobs = entry.jobs.borrow();
            jobs.iter().find(|job| job.container.name == container).or(jobs.first()).cloned()
        });
        job.ok_or(ExecError::NotRunning)?.exec(&command).await
    }

    /// Keeps the node's pods in step with the store's, for ever.
    pub async fn follow(self) {
        let mut revisions = self.context.store.revisions();
        let mut seen: Option<Snapshot> = None;
        loop {
            revisions.mark_unchanged();
            let snapshot = self.context.store.snapshot();
            if seen.as_ref().is_none_or(|seen| !seen.same(&snapshot, Kind::Pod)) {
                self.reconcile(&snapshot);
                seen = Some(snapshot);
            }
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                () = self.ended.notified() => seen = None,
            }
        }
    }

    fn reconcile(&self, snapshot: &Snapshot) {
        let mut pods = locked(&self.pods);
        pods.retain(|uid, entry| {
            let running = !entry.done.load(Ordering::Acquire);
            if !running {
                locked(&self.limits).remove(uid);
            }
            running
        });
        for object in snapshot.objects(Kind::Pod) {
            let deleted = object.metadata().deletion_timestamp.is_some();
            match pods.get(object.uid()) {
                Some(entry) if deleted => self.doom(entry, None),
                // Kubernetes refuses to change what a pod runs; here it is ended and begun anew with the same name.
                Some(entry) if entry.object.generation() != object.generation() => self.doom(entry, None),
                Some(_) => {}
                None => {
                    // Deleted pods nobody works for any more are taken away by a worker too.
                    let ours = |names: &Vec<String>| names.iter().any(|name| name == POD_FINALIZER);
                    let held = object.metadata().finalizers.as_ref().is_some_and(ours);
                    if let Some(entry) = (held || !deleted).then(|| self.start(object)).flatten() {
                        if deleted {
                            self.doom(&entry, Some(Duration::ZERO));
                        }
                        pods.insert(object.uid().to_owned(), entry);
                    }
                }
            }
        }
        for (uid, entry) in pods.iter() {
            let stored = snapshot.get(&entry.object.key()).is_some_and(|stored| stored.uid() == uid);
            if !stored {
                // Its namespace was taken away, and its object with it.
                self.doom(entry, Some(Duration::from_secs(1)));
            }
        }
    }

    fn start(&self, object: &Arc<Object>) -> Option<Entry> {
        let pod = Arc::new(object.typed::<Pod>()?.clone());
        let (doomed, doom) = watch::channel(None);
        let (jobs_sender, jobs) = watch::channel(Vec::new());
        let worker = pod::Worker::new(Arc::clone(&self.context), Arc::clone(object), pod, doom, jobs_sender);
        let done = Arc::new(AtomicBool::new(false));
        let guard = Done { done: Arc::clone(&done), ended: Arc::clone(&self.ended) };
        let worker = tokio::spawn(async move {
            let _guard = guard;
            worker.run().await;
        });
        Some(Entry { object: Arc::clone(object), doomed, jobs, done, worker })
    }

    fn doom(&self, entry: &Entry, most: Option<Duration>) {
        let own = entry.object.typed::<Pod>().map_or(Duration::ZERO, grace);
        let limit = locked(&self.limits).get(entry.object.uid()).copied();
        let grace = limit.map_or(own, |limit| seconds(limit).min(own));
        let deadline = Instant::now() + most.map_or(grace, |most| most.min(grace));
        // A pod that is ending already may have to be quicker: the cluster shuts down, say.
        entry.doomed.send_if_modified(|doomed| {
            let sooner = doomed.is_none_or(|until| deadline < until);
            if sooner {
                *doomed = Some(deadline);
            }
            sooner
        });
    }

    /// Ends every pod, all at once, each within its own grace period and this one.
    pub async fn stop_all(&self, most: Duration) {
        self.context.leaving.store(true, Ordering::Relaxed);
        let workers: Vec<JoinHandle<()>> = {
            let mut pods = locked(&self.pods);
            pods.values().for_each(|entry| self.doom(entry, Some(most)));
            pods.drain().map(|(_, entry)| entry.worker).collect()
        };
        for worker in workers {
            // One that panicked has ended too.
            let _ = worker.await;
        }
    }
}

/// Says that a worker is done, however it ended.
struct Done {
    done: Arc<AtomicBool>,
    ended: Arc<Notify>,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.ended.notify_one();
    }
}

/// A time from a manifest or a request: never below zero, never more than a day, so that it can be added to any other.
fn seconds(given: impl TryInto<u64>) -> Duration {
    Duration::from_secs(given.try_into().unwrap_or(0)).min(Duration::from_secs(24 * 3600))
}

/// The time a pod has to end, by its own account.
fn grace(pod: &Pod) -> Duration {
    seconds(pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30))
}

/// The name a pod knows itself by.
pub(crate) fn pod_hostname(pod: &Pod) -> &str {
    let given = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref());
    let name = given.or(pod.metadata.name.as_deref()).unwrap_or_default();
    // As Kubernetes does: 63 characters at most.
    name.get(..63).unwrap_or(name).trim_end_matches(['-', '.'])
}

/// The service account a pod runs as.
pub(crate) fn service_account(pod: &Pod) -> &str {
    let given = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    given.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// The container meant when a request names none: the one an annotation names, else the first that is not
/// the mesh's own proxy, else the first.
pub(crate) fn main_container(pod: &Pod) -> Option<&str> {
    let annotations = pod.metadata.annotations.as_ref();
    let named = annotations.and_then(|annotations| annotations.get("kubectl.kubernetes.io/default-container"));
    let names = || pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str());
    named.map(String::as_str).or_else(|| names().find(|name| *name != PROXY_CONTAINER)).or_else(|| names().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_from_outside_can_be_added_to_any_other() {
        assert_eq!(seconds(-5_i64), Duration::ZERO);
        assert_eq!(seconds(30_i64), Duration::from_secs(30));
        for most in [seconds(i64::MAX), seconds(u64::MAX)] {
            assert!(Instant::now() + most > Instant::now());
        }
    }

    #[test]
    fn the_main_container_is_the_application() {
        let pod = |raw: serde_json::Value| serde_json::from_value::<Pod>(raw).unwrap();
        let containers = serde_json::json!([{"name": "istio-proxy"}, {"name": "app"}, {"name": "other"}]);
        let plain = pod(serde_json::json!({"spec": {"containers": containers}}));
        assert_eq!(main_container(&plain), Some("app"));
        let annotations = serde_json::json!({"kubectl.kubernetes.io/default-container": "other"});
        let named =
            pod(serde_json::json!({"metadata": {"annotations": annotations}, "spec": {"containers": containers}}));
        assert_eq!(main_container(&named), Some("other"));
        let gateway = pod(serde_json::json!({"spec": {"containers": [{"name": "istio-proxy"}]}}));
        assert_eq!(main_container(&gateway), Some("istio-proxy"));
    }
}
