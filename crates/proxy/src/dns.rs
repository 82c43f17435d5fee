//! Keeps the host names of DNS clusters resolved.
//!
//! Runs on the main runtime; workers read the answers from a watch. Lookups are the system's (`getaddrinfo`), so
//! `/etc/hosts`, search domains and the like hold. Knows nothing of clusters: it is told names and how often to ask.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lateen_traffic::cluster::{Cluster, Discovery, EndpointAddress};
use lateen_traffic::{Clusters, Config};
use rand::Rng as _;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::stats::Stats;

/// Addresses by host name, as known now. A name that is missing was not answered yet; one without addresses does not
/// exist, or its first lookup failed.
pub type Answers = HashMap<Arc<str>, Arc<[IpAddr]>>;

/// Lookups under way at once. Each occupies a thread.
const CONCURRENT: usize = 8;

/// A lookup that takes longer counts as failed. The system's own limit is longer with several name servers.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Names are not asked for more often, whatever a configuration says.
const SHORTEST: Duration = Duration::from_millis(100);

/// Pause after a first failure; doubled for each further one, up to the refresh rate.
const BACK_OFF: Duration = Duration::from_millis(500);

type Lookup = Arc<dyn Fn(Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Keeps names resolved. Dropping it ends all lookups.
pub struct Resolver {
    shared: Arc<Shared>,
    names: Mutex<HashMap<Arc<str>, Watched>>,
    /// The clusters whose names these are.
    watched: Mutex<Clusters>,
}

struct Shared {
    lookup: Lookup,
    slots: Semaphore,
    answers: watch::Sender<Arc<Answers>>,
    stats: Arc<Stats>,
}

struct Watched {
    refresh: Duration,
    task: AbortHandle,
}

impl Resolver {
    /// With the system's resolver.
    pub fn new(stats: Arc<Stats>) -> Self {
        Self::with_lookup(stats, |host| {
            async move {
                let found = tokio::net::lookup_host((&*host, 0)).await?;
                Ok(found.map(|address| address.ip().to_canonical()).collect())
            }
            .boxed()
        })
    }

    /// With a resolver of one's own, which may take its time and fail.
    pub fn with_lookup(
        stats: Arc<Stats>,
        lookup: impl Fn(Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared {
            lookup: Arc::new(lookup),
            slots: Semaphore::new(CONCURRENT),
            answers: watch::Sender::default(),
            stats,
        };
        Self { shared: Arc::new(shared), names: Mutex::default(), watched: Mutex::default() }
    }

    /// The answers. A receiver is woken only when one changes.
    pub fn answers(&self) -> watch::Receiver<Arc<Answers>> {
        self.shared.answers.subscribe()
    }

    /// Resolves the names that the configuration's DNS clusters have from now on, and no others. Names that stay are
    /// not asked for again before their time. To be called on the runtime that is to do the lookups.
    pub fn watch(&self, config: &Config) {
        let before = std::mem::replace(&mut *lock(&self.watched), config.clusters.clone());
        let mut changes = config.clusters.changes_since(&before);
        // Most changes are of endpoints that are addresses.
        if changes.any(|change| change.was.into_iter().chain(change.is).any(|cluster| refresh(cluster).is_some())) {
            self.watch_names(&names(config));
        }
    }

    fn watch_names(&self, wanted: &BTreeMap<Arc<str>, Duration>) {
        let mut names = lock(&self.names);
        names.retain(|host, watched| {
            let keep = wanted.get(host) == Some(&watched.refresh);
            if !keep {
                watched.task.abort();
            }
            keep
        });
        // All that is not wanted, not just what was dropped above: a task may publish once more while it is ended.
        self.shared.answers.send_if_modified(|answers| {
            let stale = answers.keys().any(|host| !wanted.contains_key(host));
            if stale {
                Arc::make_mut(answers).retain(|host, _| wanted.contains_key(host));
            }
            stale
        });
        for (host, refresh) in wanted {
            if !names.contains_key(host) {
                let task = tokio::spawn(keep_resolved(self.shared.clone(), host.clone(), *refresh)).abort_handle();
                names.insert(host.clone(), Watched { refresh: *refresh, task });
            }
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        for watched in lock(&self.names).values() {
            watched.task.abort();
        }
    }
}

/// The names that a configuration's clusters need, with the shortest refresh rate asked for.
fn names(config: &Config) -> BTreeMap<Arc<str>, Duration> {
    let mut names: BTreeMap<Arc<str>, Duration> = BTreeMap::new();
    for cluster in config.clusters.values() {
        let Some(refresh) = refresh(cluster) else { continue };
        for host in cluster.endpoints.localities.iter().flat_map(|l| &l.endpoints) {
            if let EndpointAddress::Dns { host, .. } = &host.address {
                let rate = names.entry(host.clone()).or_insert(refresh);
                *rate = refresh.min(*rate);
            }
        }
    }
    names
}

/// How often a cluster's names are looked up; none if it has no names.
fn refresh(cluster: &Cluster) -> Option<Duration> {
    match &cluster.settings.discovery {
        Discovery::StrictDns { refresh, .. } | Discovery::LogicalDns { refresh, .. } => Some((*refresh).max(SHORTEST)),
        Discovery::Eds { .. } | Discovery::Static | Discovery::OriginalDst { .. } | Discovery::Named(_) => None,
    }
}

async fn keep_resolved(shared: Arc<Shared>, host: Arc<str>, refresh: Duration) {
    let mut failures = 0u32;
    loop {
        let pause = match resolve(&shared, &host).await {
            Some(addresses) => {
                failures = 0;
                shared.publish(&host, addresses);
                refresh
            }
            None => {
                // The last good answer stays; that there is none is an answer too, for who waits for the first.
                shared.publish_failure(&host);
                failures = failures.saturating_add(1);
                BACK_OFF.saturating_mul(1 << (failures - 1).min(16)).min(refresh.max(BACK_OFF))
            }
        };
        // Spread, so that names that came with one configuration are not asked for in one burst for ever.
        let spread = rand::rng().random_range(0.9..1.1);
        tokio::time::sleep(pause.mul_f64(spread)).await;
    }
}

/// One lookup; `None` when it failed. No address is a success: the name has none.
async fn resolve(shared: &Shared, host: &Arc<str>) -> Option<Vec<IpAddr>> {
    // Never closed.
    let _slot = shared.slots.acquire().await.ok()?;
    let dns = &shared.stats.dns;
    dns.resolve_total.inc();
    dns.pending_resolutions.add(1);
    let _pending = Pending(&shared.stats);
    let error = match tokio::time::timeout(TIMEOUT, (shared.lookup)(host.clone())).await {
        Ok(Ok(addresses)) => {
            if addresses.is_empty() {
                dns.not_found.inc();
            }
            return Some(addresses);
        }
        Ok(Err(error)) => error,
        Err(_) => io::Error::from(io::ErrorKind::TimedOut),
    };
    dns.get_addr_failure.inc();
    tracing::debug!(%host, %error, "name not resolved");
    None
}

/// Takes a lookup from the gauge also when its task is ended.
struct Pending<'a>(&'a Stats);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.dns.pending_resolutions.add(-1);
    }
}

impl Shared {
    fn publish(&self, host: &Arc<str>, mut addresses: Vec<IpAddr>) {
        // Name servers rotate their answers: order means nothing, and a change of order is no change.
        addresses.sort_unstable();
        addresses.dedup();
        self.answers.send_if_modified(|answers| {
            if answers.get(host).is_some_and(|known| **known == *addresses) {
                return false;
            }
            Arc::make_mut(answers).insert(host.clone(), addresses.into());
            true
        });
    }

    fn publish_failure(&self, host: &Arc<str>) {
        self.answers.send_if_modified(|answers| {
            if answers.contains_key(host) {
                return false;
            }
            Arc::make_mut(answers).insert(host.clone(), Arc::default());
            true
        });
    }
}

/// A panic elsewhere while the lock was held leaves a plain map behind, which is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
