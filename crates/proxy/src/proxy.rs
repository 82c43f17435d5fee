//! A running proxy: its workers, and what they are told.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lateen_traffic::cluster::UpstreamBind;
use lateen_traffic::{ClusterChange, Config};
use tokio::sync::watch;

use crate::access_log::{AccessLogs, LogFiles};
use crate::own_address::own_address;
use crate::stats::Stats;
use crate::upstream::{Resolved, Shared};
use crate::worker::{Numbered, Orders, Phase, Process, Worker};

/// How a proxy is run.
pub struct Settings {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Downstream connections allowed at once.
    pub max_connections: usize,
    /// How upstream sockets are made where a cluster does not say.
    pub default_bind: Option<UpstreamBind>,
    /// Sockets opened for us, by the port of the listener they stand for.
    pub inherited: Vec<(u16, OwnedFd)>,
    /// Names of the clusters that come with the bootstrap.
    pub static_clusters: HashSet<String>,
}

/// A running proxy.
pub struct Proxy {
    config: watch::Sender<Numbered>,
    resolved: watch::Sender<Resolved>,
    phase: watch::Sender<Phase>,
    stats: Arc<Stats>,
    process: Arc<Process>,
    static_clusters: HashSet<String>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Proxy {
    /// Starts the workers, without configuration.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(settings: Settings, stats: Arc<Stats>, logs: &Arc<LogFiles>) -> io::Result<Arc<Self>> {
        let process = Arc::new(Process {
            upstreams: Shared::new(settings.default_bind),
            connections: AtomicI64::new(0),
            max_connections: settings.max_connections,
            adopted: (0..settings.workers.max(1)).map(|_| AtomicU64::new(0)).collect(),
            own_address: own_address(),
        });
        let (config, config_seen) = watch::channel(Numbered::default());
        let (resolved, resolved_seen) = watch::channel(Resolved::default());
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let orders = Orders {
            config: config_seen,
            resolved: resolved_seen,
            phase: phase_seen,
            inherited: Arc::new(settings.inherited),
        };
        let mut threads = Vec::new();
        for id in 0..settings.workers.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (process, orders, stats, logs) =
                (Arc::clone(&process), orders.clone(), stats.worker(id), Arc::clone(logs));
            let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, async {
                    Worker::new(id, process, stats, AccessLogs::new(logs)).run(orders).await;
                });
            })?;
            threads.push(thread);
        }
        stats.listener_manager.workers_started.set(1);
        Ok(Arc::new(Self {
            config,
            resolved,
            phase,
            stats,
            process,
            static_clusters: settings.static_clusters,
            threads: Mutex::new(threads),
        }))
    }

    /// Serves by this configuration from now on.
    pub fn configure(&self, config: Arc<Config>) {
        let before = self.config();
        self.stats.retain(&config, &before);
        self.process.upstreams.retain(&config, &before);
        self.process.upstreams.tls.follow(&config.secrets);
        self.process.upstreams.follow(config.clusters.changes_since(&before.clusters), &self.resolved());
        self.stats.cluster_manager.active_clusters.set(config.clusters.len() as i64);
        self.stats.listener_manager.total_listeners_active.set(config.listeners.len() as i64);
        self.config.send_modify(|current| *current = Numbered { number: current.number + 1, config });
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow().config)
    }

    /// Uses these addresses for DNS clusters from now on.
    pub fn resolve(&self, resolved: Resolved) {
        let config = self.config();
        let all = config.clusters.values().map(|cluster| ClusterChange {
            name: &cluster.settings.name,
            was: Some(cluster),
            is: Some(cluster),
        });
        self.process.upstreams.follow(all, &resolved);
        self.resolved.send_replace(resolved);
    }

    /// The configuration is whole for the first time.
    pub fn ready(&self) {
        self.phase.send_if_modified(|phase| {
            let starting = *phase == Phase::Starting;
            if starting {
                *phase = Phase::Serving;
            }
            starting
        });
    }

    /// Lets connections end, all or the inbound ones; `close` closes the listeners too.
    pub fn drain(&self, inbound_only: bool, close: bool) {
        self.phase.send_replace(Phase::Draining { inbound_only, close });
    }

    /// Addresses of DNS clusters as they are now.
    pub fn resolved(&self) -> Resolved {
        Arc::clone(&self.resolved.borrow())
    }

    /// Whether a cluster came with the bootstrap.
    pub fn is_static(&self, cluster: &str) -> bool {
        self.static_clusters.contains(cluster)
    }

    /// Downstream connections open now.
    pub fn connections(&self) -> i64 {
        self.process.connections.load(Ordering::Relaxed)
    }

    /// Whether every worker serves by the newest configuration.
    pub fn is_settled(&self) -> bool {
        let newest = self.config.borrow().number;
        self.process.adopted.iter().all(|adopted| adopted.load(Ordering::Acquire) == newest)
    }

    /// What workers share about upstreams.
    pub fn upstreams(&self) -> &Shared {
        &self.process.upstreams
    }

    /// Ends all workers at once and waits for their threads.
    pub fn stop(&self) {
        self.phase.send_replace(Phase::Stopped);
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A worker that panicked has nothing left to say.
            let _ = thread.join();
        }
    }

    /// Closes the listeners, and waits until all connections ended or `patience` is over.
    pub async fn drained(&self, patience: Duration) {
        self.drain(false, true);
        let ended = async {
            // Nothing wakes on a count that changes on other threads; a look now and then is enough for a shutdown.
            let mut look = tokio::time::interval(Duration::from_millis(20));
            while self.connections() > 0 {
                look.tick().await;
            }
        };
        let _ = tokio::time::timeout(patience, ended).await;
    }
}
