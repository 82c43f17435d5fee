//! What is found out about hosts besides what discovery tells, for all workers.
//!
//! The main thread says which hosts there are ([`Shared::follow`]) and sweeps ([`Shared::tend`]); workers report how
//! requests end. Who finds a change shows it by a new generation, by which workers sort their hosts anew at the next pick.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lateen_traffic::balance;
use lateen_traffic::cluster::{Cluster, EndpointAddress, Health};
use lateen_traffic::health::{HostHealth, Showing};
use lateen_traffic::outlier::{Cause, Counts, Detector, SuccessRates};
use lateen_traffic::{Config, Dice};
use tokio::sync::Notify;

use super::{ClusterShared, Resolved, Shared, targets};

/// The clock of everything that is due, and the bell for when something is due earlier than it was.
pub(super) struct Pulse {
    begun: Instant,
    bell: Notify,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { begun: Instant::now(), bell: Notify::new() }
    }
}

impl Pulse {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// The health of one cluster's hosts.
#[derive(Default)]
pub(super) struct ClusterHealth {
    generation: AtomicU64,
    // Nothing for clusters whose discovery tells all there is to know.
    watch: Mutex<Option<Box<Watch>>>,
}

struct Watch {
    cluster: Arc<Cluster>,
    resolved: Resolved,
    hosts: HashMap<EndpointAddress, Arc<HostHealth>>,
    detector: Option<Detector>,
    showing: Showing,
}

impl ClusterHealth {
    fn lock(&self) -> MutexGuard<'_, Option<Box<Watch>>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Watch {
    fn new(cluster: &Arc<Cluster>) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            resolved: Resolved::default(),
            hosts: HashMap::new(),
            detector: None,
            showing: Showing::default(),
        }
    }

    /// Follows the cluster as it is now.
    fn follow(&mut self, cluster: &Arc<Cluster>, resolved: &Resolved, now: Duration) {
        self.cluster = Arc::clone(cluster);
        self.resolved = Arc::clone(resolved);
        let mut before = std::mem::take(&mut self.hosts);
        let mut order = Vec::new();
        for (_, endpoint) in balance::hosts(&cluster.endpoints) {
            for target in targets(&endpoint.address, &cluster.settings.discovery, resolved) {
                if !self.hosts.contains_key(&target) {
                    let health = before.remove(&target).unwrap_or_default();
                    self.hosts.insert(target.clone(), health);
                    order.push(target);
                }
            }
        }
        match (&mut self.detector, &cluster.settings.outlier) {
            (Some(detector), Some(settings)) => detector.follow(settings, now),
            (detector, settings) => {
                *detector = settings.as_ref().map(|settings| Detector::new(Arc::clone(settings), now));
            }
        }
        if let Some(detector) = &mut self.detector {
            detector.members(order.iter().filter_map(|target| Some((target, self.hosts.get(target)?))));
        }
    }

    /// When there is next something to do.
    fn due(&self) -> Option<Duration> {
        let sweep = self.detector.as_ref().map(Detector::next_sweep);
        [sweep, self.showing.due()].into_iter().flatten().min()
    }
}

/// Whether anything is found out about a cluster's hosts. Where the client's own destination decides, it would not matter.
fn is_watched(cluster: &Cluster) -> bool {
    cluster.settings.outlier.is_some() && !super::finds_hosts_itself(&cluster.settings.discovery)
}

impl Shared {
    /// Learns which hosts there are, before workers do.
    pub fn follow(&self, config: &Config, resolved: &Resolved) {
        let now = self.pulse.now();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|name, shared| {
            let stays = config.clusters.get(name).is_some_and(|cluster| is_watched(cluster));
            if !stays {
                *shared.health.lock() = None;
                shared.health.show();
            }
            stays
        });
        for cluster in config.clusters.values().filter(|cluster| is_watched(cluster)) {
            let name = &cluster.settings.name;
            let shared = watched.entry(Arc::clone(name)).or_insert_with(|| self.cluster(name));
            let mut watch = shared.health.lock();
            let watch = watch.get_or_insert_with(|| Box::new(Watch::new(cluster)));
            let known = !watch.hosts.is_empty()
                && Arc::ptr_eq(&watch.cluster, cluster)
                && (Arc::ptr_eq(&watch.resolved, resolved) || !super::uses_dns(&cluster.settings.discovery));
            if !known {
                watch.follow(cluster, resolved, now);
            }
        }
        drop(watched);
        self.pulse.bell.notify_one();
    }

    /// Does what is due of all clusters' hosts; tells when the next thing is.
    fn sweep(&self, dice: &mut dyn Dice) -> Option<Duration> {
        let now = self.pulse.now();
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.values().filter_map(|shared| shared.sweep(now, dice)).min()
    }

    /// Sweeps whenever it is time, for ever.
    pub async fn tend(&self, mut dice: impl Dice + Send) {
        loop {
            let next = self.sweep(&mut dice);
            let wait = async {
                match next {
                    Some(at) => tokio::time::sleep(at.saturating_sub(self.pulse.now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.pulse.bell.notified() => {}
            }
        }
    }
}

impl ClusterShared {
    /// Changes whenever workers are to sort their hosts anew.
    pub(super) fn generation(&self) -> u64 {
        self.health.generation.load(Ordering::Acquire)
    }

    /// What is known of hosts; nothing of most.
    pub(super) fn healths(&self, of: impl Iterator<Item = EndpointAddress>) -> Vec<Option<Arc<HostHealth>>> {
        let watch = self.health.lock();
        of.map(|target| watch.as_ref().and_then(|watch| watch.hosts.get(&target).cloned())).collect()
    }

    /// Requests to a host went as badly as the settings allow.
    pub(super) fn suspect(&self, host: &EndpointAddress, cause: Cause, dice: &mut dyn Dice) {
        let now = self.pulse.now();
        let mut watch = self.health.lock();
        let Some(watch) = watch.as_mut() else { return };
        let Some(detector) = &mut watch.detector else { return };
        if detector.suspect(host, cause, now, dice) {
            tracing::info!(cluster = %watch.cluster.settings.name, %host, ?cause, "host ejected");
            self.changed(watch, now);
        }
    }

    /// Shows a change of health, now or at the end of the merge window.
    fn changed(&self, watch: &mut Watch, now: Duration) {
        if watch.showing.changed(watch.cluster.settings.update_merge_window, now) {
            self.health.show();
        } else {
            self.pulse.bell.notify_one();
        }
    }

    fn sweep(&self, now: Duration, dice: &mut dyn Dice) -> Option<Duration> {
        let mut watch = self.health.lock();
        let watch = watch.as_mut()?;
        if let Some(detector) = &mut watch.detector
            && detector.next_sweep() <= now
            && detector.sweep(now, dice)
        {
            self.changed(watch, now);
        }
        if watch.showing.due().is_some_and(|due| due <= now) {
            watch.showing.show(now);
            self.health.show();
        }
        watch.due()
    }

    /// What a reader of statistics and the admin page is told; nothing for clusters that are not watched.
    pub fn told(&self) -> Option<Told> {
        let watch = self.health.lock();
        let watch = watch.as_ref()?;
        let known = watch.hosts.iter();
        let mut hosts: HashMap<_, _> = known
            .map(|(target, health)| {
                (target.clone(), HostTold { health: Arc::clone(health), rates: SuccessRates::default() })
            })
            .collect();
        for (target, rates) in watch.detector.iter().flat_map(Detector::success_rates) {
            if let Some(host) = hosts.get_mut(target) {
                host.rates = rates;
            }
        }
        Some(Told { hosts, ejections: watch.detector.as_ref().map(|detector| detector.counts().clone()) })
    }
}

/// What is known of a cluster's hosts besides what discovery tells.
pub struct Told {
    /// By address.
    pub hosts: HashMap<EndpointAddress, HostTold>,
    /// With outlier detection: what it did.
    pub ejections: Option<Counts>,
}

/// What is known of a host besides what discovery tells.
#[derive(Clone)]
pub struct HostTold {
    /// What was found out.
    pub health: Arc<HostHealth>,
    /// How it did in the last interval.
    pub rates: SuccessRates,
}

impl Told {
    /// The health of a host, all in all.
    pub fn all_in_all(&self, target: &EndpointAddress, told: Health) -> Health {
        self.hosts.get(target).map_or(told, |host| host.health.all_in_all(told))
    }
}
