//! The pilot: takes snapshots in, waits while they come in bursts, and keeps connected proxies up to date.
//!
//! A thread of its own does the work, so that no stream waits for it but those that connect meanwhile.

mod debounce;
mod proxies;
mod state;

pub use debounce::Debounce;
pub use proxies::Proxy;
pub use state::{Counts, Pending, State};

use crate::config::Config;
use crate::node::{Node, NodeError};
use crate::rules::Keys;
use envoy_types::pb::envoy::config::core::v3 as core;
use lateen_galley::Snapshot;
use lateen_xds::ads::server::{Connection, Discovery, Peer, StreamStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tonic::Status;

/// More proxies than this at a time are refused.
const MAX_PROXIES: usize = 20_000;

/// How often it is looked whether a certificate has expired meanwhile.
const LOOK: Duration = Duration::from_secs(60);

/// Discovery for all proxies of a mesh. Clones share one state; the work ends when the last is dropped.
#[derive(Clone, Debug)]
pub struct Pilot(Arc<Running>);

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inbox {
    news: News,
    closed: bool,
}

/// What is not taken in yet: the last of each, for earlier ones are of no interest.
#[derive(Debug, Default)]
struct News {
    snapshot: Option<Arc<Snapshot>>,
    /// Of issuers.
    keys: Option<Arc<Keys>>,
}

impl Pilot {
    /// A pilot that knows of nothing yet, and refuses proxies until the first [`Pilot::update`].
    ///
    /// # Errors
    /// When the thread that does the work cannot be started.
    pub fn new(config: Config) -> std::io::Result<Pilot> {
        let debounce = Debounce::new(config.debounce_quiet, config.debounce_max);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(config)),
            inbox: Mutex::default(),
            changed: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        std::thread::Builder::new().name("pilot".to_owned()).spawn(move || worker.work(debounce))?;
        Ok(Pilot(Arc::new(Running { shared })))
    }

    /// Takes in all objects as they are now. The first snapshot must be complete: proxies that come back after a
    /// restart are told to forget what it does not hold.
    pub fn update(&self, snapshot: Arc<Snapshot>) {
        lock(&self.0.shared.inbox).news.snapshot = Some(snapshot);
        self.0.shared.changed.notify_all();
    }

    /// Takes in the keys of issuers as they are now. Tokens of issuers without are refused.
    pub fn learn(&self, keys: Arc<Keys>) {
        lock(&self.0.shared.inbox).news.keys = Some(keys);
        self.0.shared.changed.notify_all();
    }

    /// Looks at the state between two pushes.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.0.shared.state))
    }
}

impl Discovery for Pilot {
    fn connect(&self, node: &core::Node, peer: &Peer) -> Result<Connection, Status> {
        let mut node = Node::parse(node)?;
        if let Some(identity) = &peer.identity {
            node.prove(identity)?;
        }
        let mut state = lock(&self.0.shared.state);
        if state.proxies().count() >= MAX_PROXIES {
            return Err(Status::resource_exhausted(format!("{MAX_PROXIES} proxies are connected already")));
        }
        let (status, receiver) = watch::channel(StreamStatus::default());
        let id = node.id.clone();
        let resources = state
            .connect(node, receiver)
            .ok_or_else(|| Status::unavailable("the control plane has not read its configuration yet"))?;
        tracing::info!(proxy = %id, "proxy connected");
        Ok(Connection { resources, status })
    }
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Status {
        match error {
            NodeError::Identity { .. } => Status::permission_denied(error.to_string()),
            _ => Status::invalid_argument(error.to_string()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.shared.inbox).closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn work(&self, mut debounce: Debounce) {
        let mut look = Instant::now();
        loop {
            let Some(News { keys, snapshot }) = self.next(&debounce, look) else { return };
            let now = Instant::now();
            let mut state = lock(&self.state);
            let learnt = keys.map(|keys| state.learn(keys));
            let taken = snapshot.map(|snapshot| state.take(snapshot));
            for pending in learnt.into_iter().chain(taken) {
                match pending {
                    Pending::Nothing => {}
                    Pending::Now => state.push(),
                    Pending::WhenQuiet => debounce.note(now),
                }
            }
            if debounce.take(now) {
                state.push();
            }
            if now >= look {
                state.warn(SystemTime::now());
                look = now + LOOK;
            }
        }
    }

    /// Waits for news, or for the time to push or to look at dates, when there are none. `None` is the end.
    fn next(&self, debounce: &Debounce, look: Instant) -> Option<News> {
        let mut inbox = lock(&self.inbox);
        loop {
            if inbox.closed {
                return None;
            }
            let news = std::mem::take(&mut inbox.news);
            if news.snapshot.is_some() || news.keys.is_some() {
                return Some(news);
            }
            let due = debounce.due().map_or(look, |due| due.min(look));
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(News::default());
            }
            inbox = self.changed.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// State is never left half changed, so what a panic elsewhere left behind is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
