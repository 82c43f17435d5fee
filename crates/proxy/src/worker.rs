//! A worker: one thread, one single-threaded runtime, its own listeners, pools and statistics. Workers share nothing on
//! the request path but the counters that limits need.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use lateen_traffic::{Config, Dice};
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::sync::watch;

use crate::access_log::AccessLogs;
use crate::http2::spare::Spare;
use crate::listener::Listeners;
use crate::stats::WorkerStats;
use crate::upstream::{Resolved, Shared, Upstream, Upstreams};

/// How often pooled connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// A worker's own things.
pub struct Worker {
    /// Its number, from 0.
    pub id: usize,
    /// What it shares with the others.
    pub process: Arc<Process>,
    /// Its statistics.
    pub stats: WorkerStats,
    /// Its access logs.
    pub logs: AccessLogs,
    /// What streams of HTTP/2 left behind for the next ones.
    pub spare: Rc<Spare>,
    /// Copies of requests under way.
    pub copies: Cell<usize>,
    /// TLS handshakes of clients under way.
    pub handshakes: Cell<usize>,
    config: RefCell<Rc<Config>>,
    resolved: RefCell<Resolved>,
    upstreams: Upstreams,
    dice: RefCell<SmallRng>,
    date: RefCell<(u64, Rc<str>)>,
}

/// What all workers share.
pub struct Process {
    /// Upstream counts and settings.
    pub upstreams: Shared,
    /// Downstream connections open on all workers.
    pub connections: AtomicI64,
    /// Downstream connections allowed on all workers.
    pub max_connections: usize,
    /// For each worker the number of the configuration that it serves by.
    pub adopted: Box<[AtomicU64]>,
    /// What copies of requests name as their origin, and requests of clients on this machine as their client.
    pub own_address: IpAddr,
}

/// What the main thread tells workers.
#[derive(Clone)]
pub struct Orders {
    /// The configuration to serve by.
    pub config: watch::Receiver<Numbered>,
    /// Addresses of DNS clusters.
    pub resolved: watch::Receiver<Resolved>,
    /// What the proxy is doing.
    pub phase: watch::Receiver<Phase>,
    /// Sockets inherited from whoever started the proxy, by the listener port they stand for.
    pub inherited: Arc<Vec<(u16, std::os::fd::OwnedFd)>>,
}

/// A configuration, and how many there were before it.
#[derive(Clone, Default)]
pub struct Numbered {
    /// Counted from 0, which is the empty one.
    pub number: u64,
    /// The configuration.
    pub config: Arc<Config>,
}

/// What the proxy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a first whole configuration; what is known of it is served.
    Starting,
    /// Serving.
    Serving,
    /// Connections end as they become idle.
    Draining {
        /// Only those of inbound listeners.
        inbound_only: bool,
        /// Listeners are closed.
        close: bool,
    },
    /// Ending now.
    Stopped,
}

impl Worker {
    /// A worker without configuration.
    pub fn new(id: usize, process: Arc<Process>, stats: WorkerStats, logs: AccessLogs) -> Rc<Self> {
        Rc::new(Self {
            id,
            process,
            stats,
            logs,
            spare: Rc::default(),
            copies: Cell::new(0),
            handshakes: Cell::new(0),
            config: RefCell::default(),
            resolved: RefCell::default(),
            upstreams: Upstreams::default(),
            dice: RefCell::new(SmallRng::from_os_rng()),
            date: RefCell::new((0, Rc::from(""))),
        })
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// The dice of this worker.
    pub fn dice(&self) -> impl Dice + '_ {
        move || self.dice.borrow_mut().next_u64()
    }

    /// A cluster by name.
    pub fn upstream(&self, name: &str, config: &Config) -> Option<Rc<Upstream>> {
        let resolved = Arc::clone(&self.resolved.borrow());
        self.upstreams.get(name, config, &resolved, &self.process.upstreams, &self.stats, &mut self.dice())
    }

    /// The value of the `date` header, made anew once a second.
    pub fn date(&self, now: SystemTime) -> Rc<str> {
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != seconds {
            *date = (seconds, lateen_traffic::format::http_date(now).into());
        }
        Rc::clone(&date.1)
    }

    /// Counts a downstream connection as long as the result lives; `None` when there are too many.
    pub fn admit(self: &Rc<Self>) -> Option<Admitted> {
        let most = i64::try_from(self.process.max_connections).unwrap_or(i64::MAX);
        // Counted before it is compared: all workers accept at once.
        let admitted = Admitted(Rc::clone(self));
        (self.process.connections.fetch_add(1, Ordering::Relaxed) < most).then_some(admitted)
    }

    /// Follows orders until told to stop.
    pub async fn run(self: Rc<Self>, mut orders: Orders) {
        let mut listeners = Listeners::new(Rc::clone(&self), Arc::clone(&orders.inherited));
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.adopt(&mut orders, &mut listeners);
        loop {
            tokio::select! {
                changed = orders.config.changed() => {
                    if changed.is_err() { return; }
                    self.adopt(&mut orders, &mut listeners);
                }
                changed = orders.resolved.changed() => {
                    if changed.is_err() { return; }
                    let resolved = Arc::clone(&orders.resolved.borrow_and_update());
                    self.upstreams.resolve(&self.config(), &resolved);
                    *self.resolved.borrow_mut() = resolved;
                }
                changed = orders.phase.changed() => {
                    let phase = *orders.phase.borrow_and_update();
                    match phase {
                        _ if changed.is_err() => return,
                        Phase::Starting => {}
                        Phase::Serving => listeners.refuse_unserved(),
                        Phase::Draining { inbound_only, close } => listeners.drain(inbound_only, close),
                        Phase::Stopped => break,
                    }
                }
                now = sweep.tick() => self.upstreams.sweep(now),
            }
        }
        self.logs.flush();
    }

    fn adopt(&self, orders: &mut Orders, listeners: &mut Listeners) {
        let Numbered { number, config } = orders.config.borrow_and_update().clone();
        let config = Rc::new(Config::clone(&config));
        let before = self.config.replace(Rc::clone(&config));
        self.upstreams.follow(&config, &before, &self.resolved.borrow());
        if !Arc::ptr_eq(&config.listeners, &before.listeners) {
            listeners.follow(&config);
        }
        if let Some(adopted) = self.process.adopted.get(self.id) {
            adopted.store(number, Ordering::Release);
        }
    }
}

/// A counted downstream connection.
pub struct Admitted(Rc<Worker>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.process.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
