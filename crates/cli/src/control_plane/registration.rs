//! Registers workloads that join by themselves: writes the WorkloadEntry of each member of a WorkloadGroup through the
//! Kubernetes API when its proxy connects, its health as the proxy tells it, and takes the entry away when the proxy
//! stays away. What is written is [`lateen_pilot::registration`]'s to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lateen_galley::{Kind, Snapshot};
use lateen_local::client::{Client, ClientError};
use lateen_pilot::Pilot;
use lateen_pilot::discovery::Discovery as Discovered;
use lateen_pilot::node::Node;
use lateen_pilot::registration::{self, Member};
use lateen_xds::ads::WorkloadHealth;
use lateen_xds::ads::server::{Connection, Discovery, Peer, Status, StreamStatus};
use lateen_xds::pb::envoy::config::core::v3 as core;
use tokio::sync::watch;

/// How long a workload may be away until its entry is taken away (Istio's `PILOT_WORKLOAD_ENTRY_GRACE_PERIOD`).
const GRACE_PERIOD: Duration = Duration::from_secs(10);
/// The pause before something that was not written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Pilot, with an eye on who connects.
#[derive(Clone)]
pub struct Registrar {
    pilot: Pilot,
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    snapshots: watch::Receiver<Option<Snapshot>>,
    /// Streams of each member that are open.
    connected: Mutex<HashMap<Member, usize>>,
    /// One entry is written at a time, so that a stream's end is not written after the next one's beginning.
    writing: tokio::sync::Mutex<()>,
}

impl Registrar {
    pub fn new(pilot: Pilot, client: Client, snapshots: watch::Receiver<Option<Snapshot>>) -> Self {
        let shared = Shared { client, snapshots, connected: Mutex::default(), writing: tokio::sync::Mutex::default() };
        Self { pilot, shared: Arc::new(shared) }
    }

    /// Takes away the entries of workloads that were connected to an earlier run of this control plane and do not come
    /// back. Ends when that is done.
    pub async fn sweep(self) {
        let mut snapshots = self.shared.snapshots.clone();
        // An error means that there will be no snapshot.
        if snapshots.wait_for(Option::is_some).await.is_err() {
            return;
        }
        tokio::time::sleep(GRACE_PERIOD).await;
        let snapshot = self.shared.snapshots.borrow().clone().unwrap_or_default();
        let entries = snapshot.objects(Kind::WorkloadEntry).filter(|entry| registration::is_registered(entry));
        for entry in entries {
            if !self.shared.is_connected(entry.namespace(), entry.name()) {
                self.shared.remove(entry.namespace(), entry.name()).await;
            }
        }
    }
}

impl Discovery for Registrar {
    fn connect(&self, node: &core::Node, peer: &Peer) -> Result<Connection, Status> {
        let named = Node::parse(node)?;
        let Some(member) = Member::of(&named) else { return self.pilot.connect(node, peer) };
        let known = self.shared.snapshots.borrow().as_ref().is_none_or(|snapshot| {
            let snapshot = Discovered::default().see(Arc::new(snapshot.clone()));
            snapshot.find(Kind::WorkloadGroup, &member.namespace, &member.group).is_some()
                || snapshot.find(Kind::WorkloadEntry, &member.namespace, &member.entry).is_some()
        });
        if !known {
            let Member { namespace, group, .. } = &member;
            return Err(Status::failed_precondition(format!("there is no WorkloadGroup {group} in {namespace}")));
        }
        let connection = self.pilot.connect(node, peer)?;
        let status = connection.status.subscribe();
        *self.shared.lock().entry(member.clone()).or_default() += 1;
        tokio::spawn(Arc::clone(&self.shared).follow(member, named, status));
        Ok(connection)
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Member, usize>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_connected(&self, namespace: &str, entry: &str) -> bool {
        self.lock().keys().any(|member| member.namespace == namespace && member.entry == entry)
    }

    /// Follows one stream of a member from its beginning to its end.
    async fn follow(self: Arc<Self>, member: Member, node: Node, mut status: watch::Receiver<StreamStatus>) {
        let Member { namespace, entry, .. } = &member;
        let mut told = None;
        let mut registered = false;
        loop {
            let health = status.borrow_and_update().workload.clone();
            let written = async {
                if !registered {
                    self.register(&member, &node).await?;
                    tracing::info!(%namespace, %entry, "workload registered");
                    registered = true;
                }
                if let Some(health) = health.filter(|health| told.as_ref() != Some(health)) {
                    self.tell(&member, &health).await?;
                    tracing::info!(%namespace, %entry, ?health, "workload's health told");
                    told = Some(health);
                }
                Ok::<_, ClientError>(())
            };
            let retry = match written.await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(%namespace, %entry, %error, "workload not registered; it is tried again");
                    Some(AGAIN)
                }
            };
            let again = async {
                match retry {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = again => {}
                changed = status.changed() => if changed.is_err() {
                    break;
                },
            }
        }
        self.leave(&member).await;
    }

    async fn register(&self, member: &Member, node: &Node) -> Result<(), ClientError> {
        let _one = self.writing.lock().await;
        let kind = Kind::WorkloadEntry;
        let Member { namespace, entry, group } = member;
        match self.client.merge_patch(kind, namespace, entry, &registration::connected(SystemTime::now())).await {
            Err(error) if error.is_not_found() => {}
            patched => return patched.map(drop),
        }
        let found = self
            .snapshots
            .borrow()
            .as_ref()
            .and_then(|snapshot| snapshot.find(Kind::WorkloadGroup, namespace, group).map(Arc::clone));
        let Some(group) = found else {
            // It went just now; the workload waits for it.
            return self.client.get(Kind::WorkloadGroup, namespace, group).await.map(drop);
        };
        self.client.create(kind, namespace, &member.new_entry(node, &group, SystemTime::now())).await.map(drop)
    }

    async fn tell(&self, member: &Member, health: &WorkloadHealth) -> Result<(), ClientError> {
        let _one = self.writing.lock().await;
        let Member { namespace, entry, .. } = member;
        let before = self.client.get(Kind::WorkloadEntry, namespace, entry).await?;
        let patch = registration::health(&before, health, SystemTime::now());
        self.client.patch_status(Kind::WorkloadEntry, namespace, entry, &patch).await.map(drop)
    }

    /// A stream of a member ended. If it was the last and none comes, the entry goes.
    async fn leave(&self, member: &Member) {
        let Member { namespace, entry, .. } = member;
        {
            let _one = self.writing.lock().await;
            let last = {
                let mut connected = self.lock();
                let left = connected.get_mut(member).map_or(0, |count| {
                    *count = count.saturating_sub(1);
                    *count
                });
                if left == 0 {
                    connected.remove(member);
                }
                left == 0
            };
            if !last {
                return;
            }
            let patch = registration::disconnected(SystemTime::now());
            // If it cannot be written, the entry goes all the same.
            if let Err(error) = self.client.merge_patch(Kind::WorkloadEntry, namespace, entry, &patch).await {
                tracing::warn!(%namespace, %entry, %error, "a workload's leaving is not written");
            }
        }
        tokio::time::sleep(GRACE_PERIOD).await;
        if !self.is_connected(namespace, entry) {
            self.remove(namespace, entry).await;
        }
    }

    async fn remove(&self, namespace: &str, entry: &str) {
        let _one = self.writing.lock().await;
        if self.is_connected(namespace, entry) {
            return;
        }
        match self.client.delete(Kind::WorkloadEntry, namespace, entry, None).await {
            Ok(_) => tracing::info!(%namespace, %entry, "workload's entry removed"),
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(%namespace, %entry, %error, "a workload's entry is not removed"),
        }
    }
}
