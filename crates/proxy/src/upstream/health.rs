//! What is found out about hosts besides what discovery tells, for all workers.
//!
//! The main thread says which hosts there are ([`Shared::follow`]) and sweeps ([`Shared::tend`]); workers report how
//! requests end. Who finds a change shows it by a new generation, by which workers sort their hosts anew at the next pick.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lateen_traffic::balance;
use lateen_traffic::cluster::{Cluster, EndpointAddress, Health};
use lateen_traffic::health::{HealthFlag, HostHealth, Showing};
use lateen_traffic::health_check::{self, Change, Judged, Outcome};
use lateen_traffic::outlier::{Cause, Counts, Detector, SuccessRates};
use lateen_traffic::{ClusterChange, Dice};
use tokio::sync::Notify;

use super::checks::{Check, Checks, Until};
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
    pub(super) fn now(&self) -> Duration {
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

pub(super) struct Watch {
    cluster: Arc<Cluster>,
    resolved: Resolved,
    hosts: HashMap<EndpointAddress, Arc<HostHealth>>,
    detector: Option<Detector>,
    pub(super) checks: Option<Checks>,
    // Hosts that fell, by checks or as outliers, and did not rise again.
    fallen: HashSet<EndpointAddress>,
    showing: Showing,
}

impl ClusterHealth {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Box<Watch>>> {
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
            checks: None,
            fallen: HashSet::new(),
            showing: Showing::default(),
        }
    }

    /// Follows the cluster as it is now. `known` tells of hosts that took requests before anybody watched them. Gives
    /// hosts that are to be checked from now on.
    fn follow(
        &mut self,
        (cluster, shared): (&Arc<Cluster>, &Arc<ClusterShared>),
        resolved: &Resolved,
        known: &dyn Fn(&EndpointAddress) -> bool,
        now: Duration,
    ) -> Vec<(Check, Until)> {
        self.cluster = Arc::clone(cluster);
        self.resolved = Arc::clone(resolved);
        let mut before = std::mem::take(&mut self.hosts);
        let mut order = Vec::new();
        for (_, endpoint) in balance::hosts(&cluster.endpoints) {
            for target in targets(&endpoint.address, &cluster.settings.discovery, resolved) {
                if !self.hosts.contains_key(&target) {
                    let health = before.remove(&target).unwrap_or_default();
                    self.hosts.insert(target.clone(), Arc::clone(&health));
                    order.push((target, Arc::clone(endpoint), health));
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
            detector.members(order.iter().map(|(target, _, health)| (target, health)));
        }
        let mut begin = Vec::new();
        Checks::follow(&mut self.checks, (cluster, shared), &order, known, &mut begin);
        begin
    }

    /// Hosts that fell since it was last asked, where connections to them are to end.
    fn newly_fallen(&mut self) -> Vec<EndpointAddress> {
        if !self.cluster.settings.close_connections_to_unhealthy {
            return Vec::new();
        }
        let down: HashSet<_> =
            self.hosts.iter().filter(|(_, health)| health.is_down()).map(|(target, _)| target.clone()).collect();
        let newly = down.difference(&self.fallen).cloned().collect();
        self.fallen = down;
        newly
    }

    /// When there is next something to do.
    fn due(&self) -> Option<Duration> {
        let sweep = self.detector.as_ref().map(Detector::next_sweep);
        [sweep, self.showing.due()].into_iter().flatten().min()
    }
}

/// Whether a cluster has a host.
fn has(cluster: &Cluster, resolved: &Resolved, target: &EndpointAddress) -> bool {
    let of = |endpoint: &lateen_traffic::cluster::Endpoint| {
        targets(&endpoint.address, &cluster.settings.discovery, resolved).contains(target)
    };
    balance::hosts(&cluster.endpoints).any(|(_, endpoint)| of(endpoint))
}

/// Whether anything is found out about a cluster's hosts. Where the client's own destination decides, it would not matter.
fn is_watched(cluster: &Cluster) -> bool {
    let settings = &cluster.settings;
    (settings.outlier.is_some() || settings.health_check.is_some()) && !super::finds_hosts_itself(&settings.discovery)
}

impl Shared {
    /// Learns which hosts there are of clusters that changed, before workers do, who have those of before as yet.
    pub fn follow<'a>(&self, changes: impl Iterator<Item = ClusterChange<'a>>, resolved: &Resolved) {
        let now = self.pulse.now();
        let mut begin = Vec::new();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let Some(cluster) = change.is.filter(|cluster| is_watched(cluster)) else {
                if let Some(shared) = watched.remove(change.name) {
                    *shared.health.lock() = None;
                    shared.health.show();
                }
                continue;
            };
            let name = &cluster.settings.name;
            let used = change.was.filter(|used| used.settings.health_check.is_none());
            let known = |target: &EndpointAddress| used.is_some_and(|used| has(used, resolved, target));
            let shared = watched.entry(Arc::clone(name)).or_insert_with(|| self.cluster(name));
            let mut watch = shared.health.lock();
            let watch = watch.get_or_insert_with(|| Box::new(Watch::new(cluster)));
            let same = !watch.hosts.is_empty()
                && Arc::ptr_eq(&watch.cluster, cluster)
                && (Arc::ptr_eq(&watch.resolved, resolved) || !super::uses_dns(&cluster.settings.discovery));
            if !same {
                begin.append(&mut watch.follow((cluster, shared), resolved, &known, now));
                // Hosts may have been checked under other settings.
                shared.health.show();
            }
        }
        drop(watched);
        self.pulse.bell.notify_one();
        if !begin.is_empty() {
            self.to_check.lock().unwrap_or_else(PoisonError::into_inner).append(&mut begin);
            self.check_bell.notify_one();
        }
    }

    /// Waits for hosts that are to be checked from now on.
    pub async fn to_check(&self) -> Vec<(Check, Until)> {
        loop {
            let begin = std::mem::take(&mut *self.to_check.lock().unwrap_or_else(PoisonError::into_inner));
            if !begin.is_empty() {
                return begin;
            }
            self.check_bell.notified().await;
        }
    }

    /// Whether every host that is checked was checked once.
    pub fn is_checked(&self) -> bool {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.values().all(|shared| {
            shared.health.lock().as_ref().and_then(|watch| watch.checks.as_ref()).is_none_or(Checks::are_through)
        })
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

    /// Takes up what came of an active check, or, as [`Outcome::Passive`], of a request that was as good as one.
    pub(super) fn judge(&self, host: &EndpointAddress, judged: Judged) -> Option<Change> {
        let now = self.pulse.now();
        let mut watch = self.health.lock();
        let watch = watch.as_mut()?;
        let health = Arc::clone(watch.hosts.get(host)?);
        let failed = health.has(HealthFlag::FAILED_ACTIVE_CHECK);
        let (change, first) = watch.checks.as_mut()?.judge(host, &health, judged)?;
        if failed != health.has(HealthFlag::FAILED_ACTIVE_CHECK) {
            let cluster = &watch.cluster.settings.name;
            let now = if failed { "healthy" } else { "unhealthy" };
            tracing::info!(%cluster, %host, outcome = ?judged.outcome, "host is {now} by its check");
        }
        let good = matches!(judged.outcome, Outcome::Good | Outcome::Degraded);
        let back = good && watch.detector.as_mut().is_some_and(|detector| detector.checked(host, now));
        match change {
            // Where nobody knew the host, there is nothing to merge the news with.
            Change::Shown if first => self.health.show(),
            Change::Shown => self.changed(watch, now),
            Change::None | Change::Pending if back => self.changed(watch, now),
            Change::None | Change::Pending => {}
        }
        Some(change)
    }

    /// An answer of a host asks to leave it alone; so it is until a check succeeds, if it is checked at all.
    pub fn leave_alone(&self, host: &EndpointAddress) {
        self.judge(host, Judged { leave_alone: true, ..Outcome::Passive.into() });
    }

    /// Shows a change of health, now or at the end of the merge window. Connections to hosts that fell do not wait for it.
    fn changed(&self, watch: &mut Watch, now: Duration) {
        for host in watch.newly_fallen() {
            if let Some(host) = self.known_host(&host) {
                host.fell.notify_waiters();
            }
        }
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
        let checks = watch.checks.as_ref().map(|checks| {
            let with = |flag, up| {
                let of = |host: &&EndpointAddress| watch.hosts.get(*host).is_some_and(|health| health.has(flag) == up);
                checks.hosts().filter(of).count() as u64
            };
            ChecksTold {
                counts: checks.counts().clone(),
                healthy: with(HealthFlag::FAILED_ACTIVE_CHECK, false),
                degraded: with(HealthFlag::DEGRADED_ACTIVE_CHECK, true),
            }
        });
        Some(Told { hosts, ejections: watch.detector.as_ref().map(|detector| detector.counts().clone()), checks })
    }
}

/// What is known of a cluster's hosts besides what discovery tells.
pub struct Told {
    /// By address.
    pub hosts: HashMap<EndpointAddress, HostTold>,
    /// With outlier detection: what it did.
    pub ejections: Option<Counts>,
    /// With active checks: what came of them.
    pub checks: Option<ChecksTold>,
}

/// What came of a cluster's active checks.
pub struct ChecksTold {
    /// What was counted.
    pub counts: health_check::Counts,
    /// Hosts that are healthy by them.
    pub healthy: u64,
    /// Hosts that ask for less load.
    pub degraded: u64,
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
    /// Whether a host does not count.
    pub fn is_excluded(&self, target: &EndpointAddress) -> bool {
        self.hosts.get(target).is_some_and(|host| host.health.is_excluded())
    }

    /// The health of a host, all in all.
    pub fn all_in_all(&self, target: &EndpointAddress, told: Health) -> Health {
        self.hosts.get(target).map_or(told, |host| host.health.all_in_all(told))
    }
}
