//! A running proxy: its workers, and what they are told.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lateen_traffic::Config;
use lateen_traffic::cluster::UpstreamBind;
use tokio::sync::watch;

use crate::access_log::{AccessLogs, LogFiles};
use crate::stats::Stats;
use crate::upstream::{Resolved, Shared};
use crate::worker::{Orders, Phase, Process, Worker};

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
}

/// A running proxy.
pub struct Proxy {
    config: watch::Sender<Arc<Config>>,
    resolved: watch::Sender<Resolved>,
    phase: watch::Sender<Phase>,
    stats: Arc<Stats>,
    process: Arc<Process>,
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
            listening: AtomicUsize::new(0),
            failed_listeners: AtomicUsize::new(0),
        });
        let (config, config_seen) = watch::channel(Arc::default());
        let (resolved, resolved_seen) = watch::channel(Resolved::default());
        let (phase, phase_seen) = watch::channel(Phase::Serving);
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
        Ok(Arc::new(Self { config, resolved, phase, stats, process, threads: Mutex::new(threads) }))
    }

    /// Serves by this configuration from now on.
    pub fn configure(&self, config: Arc<Config>) {
        self.stats.retain(&config);
        self.process.upstreams.retain(&config);
        self.config.send_replace(config);
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Sees each new configuration.
    pub fn configs(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// Uses these addresses for DNS clusters from now on.
    pub fn resolve(&self, resolved: Resolved) {
        self.resolved.send_replace(resolved);
    }

    /// Closes the listeners and lets connections end.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Whether the proxy has begun to drain.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// Downstream connections open now.
    pub fn connections(&self) -> i64 {
        self.process.connections.load(Ordering::Relaxed)
    }

    /// Whether every worker has opened its sockets for a configuration.
    pub fn is_listening(&self) -> bool {
        let workers = self.threads.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.process.listening.load(Ordering::Acquire).count_ones() as usize >= workers.min(usize::BITS as usize)
    }

    /// Upstream counts, for the admin page.
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

    /// Drains, and waits until all connections ended or `patience` is over.
    pub async fn drained(&self, patience: Duration) {
        self.drain();
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
