//! One pod from its beginning to its end.
//!
//! Order of start: network, sidecar, init containers, application. The application begins when the sidecar
//! is ready (Istio's `holdApplicationUntilProxyStarts`), so that no request of its start is lost. Order of end: the
//! application, then the sidecar, so that none of its last ones is.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use lateen_galley::{Change, Object};
use serde_json::Value;
use std::time::SystemTime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::bootstrap::{ProxyType, bootstrap, proxy_type};
use super::container::{Job, RestartPolicy};
use super::status::{Doing, PodState};
use super::volumes::Volumes;
use super::{Context, agent, files};
use crate::admission::{POD_FINALIZER, PROXY_CONTAINER};
use crate::controllers::write_status;
use crate::node::{CreatePod, Mount, MountContent, MountedFile, Place, PodId};

/// First and longest pause before a pod's network is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A pod at work.
#[derive(Debug)]
pub struct Worker {
    context: Arc<Context>,
    object: Arc<Object>,
    pod: Arc<Pod>,
    state: watch::Sender<PodState>,
    doomed: watch::Receiver<Option<Instant>>,
    jobs: watch::Sender<Vec<Job>>,
}

impl Worker {
    /// A worker for this pod; it begins to end it when `doomed` says by when. `jobs` tells of its containers
    /// once they can be reached.
    pub fn new(
        context: Arc<Context>,
        object: Arc<Object>,
        pod: Arc<Pod>,
        doomed: watch::Receiver<Option<Instant>>,
        jobs: watch::Sender<Vec<Job>>,
    ) -> Self {
        let begun = Some(crate::clock::now());
        let state = watch::Sender::new(PodState { begun, ..PodState::default() });
        Self { context, object, pod, state, doomed, jobs }
    }

    /// Runs the pod to its end, and takes its object away if it was deleted.
    pub async fn run(self) {
        let mut doomed = self.doomed.clone();
        tokio::select! {
            () = self.live() => {}
            () = self.tell() => {}
        }
        let _ = doomed.wait_for(Option::is_some).await;
        self.context.logs.remove_pod(self.object.uid());
        let _ = std::fs::remove_dir_all(self.written());
        self.release_object();
    }

    /// Writes the pod's status whenever it changes.
    async fn tell(&self) {
        let mut states = self.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            let stored = self.context.store.get(&self.object.key()).filter(|object| object.uid() == self.object.uid());
            if let Some(stored) = stored {
                let old = stored.raw().get("status");
                let status = state.status(&self.pod, old, self.context.host, crate::clock::now());
                write_status(&self.context.store, &stored, status);
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    async fn live(&self) {
        let host_network = self.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let address = if host_network { None } else { self.context.addresses.take() };
        let addresses: Vec<IpAddr> = match address {
            _ if host_network => vec![self.context.host],
            Some(v4) => {
                let v6 = self.context.node.ipv6().then(|| IpAddr::V6(crate::network::pod_v6(v4)));
                std::iter::once(IpAddr::V4(v4)).chain(v6).collect()
            }
            None => Vec::new(),
        };
        let mut doomed = self.doomed.clone();
        let made = tokio::select! {
            id = self.make(&addresses, host_network) => Some(id),
            _ = doomed.wait_for(Option::is_some) => None,
        };
        if let Some(id) = made {
            self.state.send_modify(|state| {
                state.addresses.clone_from(&addresses);
                state.trouble = None;
            });
            tokio::select! {
                () = self.run_containers(id, addresses) => {}
                () = self.volumes().keep() => {}
            }
            if let Err(error) = self.context.node.delete_pod(id).await {
                tracing::debug!(%error, pod = self.object.name(), "the pod's network was gone already");
            }
        }
        if let Some(address) = address {
            self.context.addresses.give_back(address);
        }
    }

    /// Makes the pod's network and files, trying until it works.
    async fn make(&self, addresses: &[IpAddr], host_network: bool) -> PodId {
        let mut pause = BACK_OFF.0;
        loop {
            let error = match self.request(addresses, host_network) {
                Ok(request) => match self.context.node.create_pod(request).await {
                    Ok(id) => return id,
                    Err(error) => error.to_string(),
                },
                Err(error) => error,
            };
            tracing::warn!(pod = self.object.name(), error, "the pod cannot be made; trying again");
            self.state.send_modify(|state| state.trouble = Some(error));
            sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    fn request(&self, addresses: &[IpAddr], host_network: bool) -> Result<CreatePod, String> {
        if addresses.is_empty() {
            return Err("no pod address is free".to_owned());
        }
        self.volumes().write()?;
        let snapshot = self.context.store.snapshot();
        let mut mounts = files::mounts(&self.pod, &snapshot, &self.written()).map_err(|error| error.to_string())?;
        // The cluster's own keys, tokens and sockets are nobody's in a pod.
        let own = self.context.state_dir.display().to_string();
        mounts.push(Mount { path: own, content: MountContent::Directory(Vec::new()) });
        if let Some(bootstrap) = bootstrap(&self.object, &self.pod, addresses, &self.context.node_name) {
            let bytes = format!("{bootstrap:#}\n").into_bytes();
            let file = MountedFile { path: agent::BOOTSTRAP_FILE.to_owned(), bytes, mode: 0o644 };
            let content = MountContent::Directory(vec![file]);
            mounts.push(Mount { path: agent::BOOTSTRAP_DIRECTORY.to_owned(), content });
        }
        let v4 = addresses.iter().find_map(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None });
        let v6 = addresses.iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None });
        Ok(CreatePod {
            namespace: self.object.namespace().to_owned(),
            name: self.object.name().to_owned(),
            hostname: super::pod_hostname(&self.pod).to_owned(),
            host_network,
            ipv4: v4.filter(|_| !host_network),
            ipv6: v6.filter(|_| !host_network),
            resolv_conf: files::resolv_conf(&self.pod, self.context.host),
            hosts: Some(files::hosts(&self.pod, addresses)),
            redirect: proxy_type(&self.pod) == Some(ProxyType::Sidecar),
            mounts,
        })
    }

    async fn run_containers(&self, id: PodId, addresses: Vec<IpAddr>) {
        let Some(spec) = &self.pod.spec else { return };
        let proxy = proxy_type(&self.pod);
        let (stop_apps, apps_stopped) = watch::channel(None);
        let (stop_proxy, proxy_stopped) = watch::channel(None);
        let job = |container: &Container| {
            let is_proxy = container.name == PROXY_CONTAINER;
            Job {
                context: Arc::clone(&self.context),
                pod: Arc::clone(&self.pod),
                container: container.clone(),
                place: Place::Pod(id),
                addresses: addresses.clone(),
                proxy: proxy.filter(|_| is_proxy),
                report: self.state.clone(),
                stop: if is_proxy { proxy_stopped.clone() } else { apps_stopped.clone() },
            }
        };
        let jobs: Vec<Job> = spec.containers.iter().map(job).collect();
        let (proxies, apps): (Vec<Job>, Vec<Job>) = jobs.iter().cloned().partition(|job| job.proxy.is_some());
        let mut running_proxies = JoinSet::new();
        let mut running_apps = JoinSet::new();
        proxies.into_iter().for_each(|job| drop(running_proxies.spawn(job.supervise(RestartPolicy::Always))));
        self.jobs.send_replace(jobs);

        let mut doomed = self.doomed.clone();
        let prepared = async {
            if proxy == Some(ProxyType::Sidecar) {
                self.until(|state| state.containers.get(PROXY_CONTAINER).is_some_and(|proxy| proxy.ready)).await;
            }
            for container in spec.init_containers.iter().flatten() {
                let job = job(container);
                let policy = RestartPolicy::of_init(container, &self.pod);
                let name = container.name.clone();
                running_apps.spawn(job.supervise(policy));
                self.until(|state| {
                    state.containers.get(&name).is_some_and(|init| match &init.doing {
                        Doing::Ended(ending) => ending.exit.code() == 0,
                        Doing::Running(_) => policy == RestartPolicy::Always && init.started,
                        Doing::Waiting { .. } => false,
                    })
                })
                .await;
            }
            self.state.send_modify(|state| state.initialized = true);
            apps.into_iter().for_each(|job| drop(running_apps.spawn(job.supervise(RestartPolicy::of(&self.pod)))));
            // Pods that run to completion stay until they are deleted.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = prepared => {}
            _ = doomed.wait_for(Option::is_some) => {}
        }
        self.finish(&mut running_apps, &stop_apps).await;
        self.finish(&mut running_proxies, &stop_proxy).await;
        self.jobs.send_replace(Vec::new());
    }

    async fn until(&self, holds: impl Fn(&PodState) -> bool) {
        let mut states = self.state.subscribe();
        // The sender is ours.
        let _ = states.wait_for(|state| holds(state)).await;
    }

    /// Stops containers and waits for their ends; the deadline may still be brought forward meanwhile.
    async fn finish(&self, running: &mut JoinSet<()>, stop: &watch::Sender<Option<Instant>>) {
        let mut doomed = self.doomed.clone();
        loop {
            let deadline = doomed.borrow_and_update().unwrap_or_else(Instant::now);
            stop.send_replace(Some(deadline));
            tokio::select! {
                ended = running.join_next() => if ended.is_none() { return },
                Ok(()) = doomed.changed() => {}
            }
        }
    }

    /// Where the pod's volumes are on the host that follow objects.
    fn written(&self) -> PathBuf {
        self.context.volumes.join(self.object.uid())
    }

    fn volumes(&self) -> Volumes {
        let context = &self.context;
        let (object, pod) = (Arc::clone(&self.object), Arc::clone(&self.pod));
        Volumes::new(context.store.clone(), context.tokens.clone(), object, pod, self.written())
    }

    /// Lets go of a deleted pod's object.
    fn release_object(&self) {
        let stored = self.context.store.get(&self.object.key());
        let Some(stored) = stored.filter(|stored| stored.uid() == self.object.uid()) else { return };
        if stored.metadata().deletion_timestamp.is_none() {
            return;
        }
        let mut raw = stored.raw().clone();
        if let Some(Value::Array(finalizers)) = raw.pointer_mut("/metadata/finalizers") {
            finalizers.retain(|finalizer| finalizer != POD_FINALIZER);
        }
        if let Some(metadata) = raw.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        let released =
            Object::decode(raw).map(|object| self.context.store.write(Change::Update(object), SystemTime::now()));
        if let Ok(Err(refusal)) = released {
            tracing::warn!(%refusal, "cannot let go of a pod");
        }
    }
}
