//! The store: every object, its revision, and what changed since when. Admission happens here, for every way in.
//!
//! It behaves as Kubernetes' API server and etcd do together: one growing revision for all kinds, `resourceVersion` for
//! optimistic concurrency, `generation` for changes of what is wanted, watches from a revision on, and a history that ends.
//! It knows no clock and no network: the time of a write is an argument.

mod admit;
mod history;
mod identity;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::object::Object;
use crate::problem::{FieldProblem, Key, Origin, Problem, Problems};
use crate::snapshot::Snapshot;
use admit::{Writer, Written};
use history::History;
pub use history::{Event, EventKind, Expired};
pub use watch::{Filter, Watch};

/// Limits and beginnings of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// How many past changes watches can start from.
    pub history_events: usize,
    /// Bytes of JSON kept for them.
    pub history_bytes: usize,
    /// Bytes of JSON one object may have (etcd's limit is 1.5 MiB).
    pub object_bytes: usize,
    /// How many objects there may be.
    pub objects: usize,
    /// The revision before the first change. A store that takes another's place should begin later than that one ended.
    pub first_revision: u64,
    /// What uids and generated names are drawn from; give random ones.
    pub seed: [u64; 2],
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            history_events: 10_000,
            history_bytes: 64 << 20,
            object_bytes: 3 << 19,
            objects: 100_000,
            first_revision: 0,
            seed: [0, 0],
        }
    }
}

/// One change that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Must not be there yet. `metadata.generateName` makes up a name if there is none.
    Create(Object),
    /// Must be there; a `resourceVersion` or `uid` it names must be the current one. Its status is disregarded.
    Update(Object),
    /// Either of the two. What controllers have written (status, cluster IP, node ports) stays.
    Upsert(Object),
    /// Takes the status alone, with the same conditions as `Update`.
    UpdateStatus(Object),
    /// Must be there. With finalizers, the object is only marked.
    Delete {
        /// What is to go.
        key: Key,
        /// Only if it still is this very object.
        uid: Option<String>,
        /// Only if it has not changed since.
        revision: Option<u64>,
    },
}

impl Change {
    /// Deletes whatever has this key.
    pub fn delete(key: Key) -> Self {
        Self::Delete { key, uid: None, revision: None }
    }

    /// What the change is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Create(object) | Self::Update(object) | Self::Upsert(object) | Self::UpdateStatus(object) => {
                object.key()
            }
            Self::Delete { key, .. } => key.clone(),
        }
    }
}

/// Why a change is refused. The words are Kubernetes' where it has some; `kubectl` users know them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 404.
    #[error("{} {:?} not found", .0.kind.info().full_name(), .0.name)]
    NotFound(Key),
    /// 404: the object's namespace.
    #[error("namespaces {:?} not found", .0.namespace)]
    NoNamespace(Key),
    /// 409.
    #[error("{} {:?} already exists", .0.kind.info().full_name(), .0.name)]
    AlreadyExists(Key),
    /// 409: somebody else was first.
    #[error("{} {:?} cannot be changed: {message}; read it again and try again", .key.kind.info().full_name(), .key.name)]
    Conflict {
        /// The object.
        key: Key,
        /// What does not fit.
        message: String,
    },
    /// 422.
    #[error("{key} is invalid: {}", show(problems))]
    Invalid {
        /// The object.
        key: Key,
        /// Each field.
        problems: Vec<FieldProblem>,
    },
    /// 413.
    #[error("{key} has {bytes} bytes; {limit} are the most")]
    TooLarge {
        /// The object.
        key: Key,
        /// Its size as JSON.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// 507 or 403: as a quota.
    #[error("{key}: there are {limit} objects already, the most this store takes")]
    Full {
        /// The object.
        key: Key,
        /// What is allowed.
        limit: usize,
    },
}

fn show(problems: &[FieldProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Refusal {
    /// The object it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::NotFound(key) | Self::NoNamespace(key) | Self::AlreadyExists(key) => key,
            Self::Conflict { key, .. }
            | Self::Invalid { key, .. }
            | Self::TooLarge { key, .. }
            | Self::Full { key, .. } => key,
        }
    }
}

/// A refused change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which change of the batch, from 0.
    pub index: usize,
    /// Where it is written down, if it is.
    pub origin: Option<Origin>,
    /// Why.
    pub refusal: Refusal,
}

/// Why a batch changed nothing: every change that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.problems())]
pub struct BatchRefused(pub Vec<Refused>);

impl BatchRefused {
    /// One problem a field, with its origin.
    pub fn problems(&self) -> Problems {
        let mut problems = Vec::new();
        for refused in &self.0 {
            let key = refused.refusal.key();
            let mut say = |field: FieldProblem| {
                problems.push(Problem { origin: refused.origin.clone(), subject: Some(key.into()), field });
            };
            match &refused.refusal {
                Refusal::Invalid { problems, .. } => problems.iter().cloned().for_each(&mut say),
                other => say(FieldProblem::new("", other.to_string())),
            }
        }
        Problems(problems)
    }
}

/// What a batch did.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The store's revision afterwards.
    pub revision: u64,
    /// For each change its outcome: the object as stored, or as it was when deleted.
    pub outcomes: Vec<Outcome>,
    /// What is allowed and yet looks wrong.
    pub warnings: Vec<Problem>,
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What was done.
    pub done: Done,
    /// The object as it is now, or as it was when it was deleted.
    pub object: Arc<Object>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    /// It is new.
    Created,
    /// It is different now.
    Configured,
    /// It already was so.
    Unchanged,
    /// It is gone, or marked for deletion while it has finalizers.
    Deleted,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        })
    }
}

/// A change and where it is written down.
pub type Batch = Vec<(Change, Option<Origin>)>;

#[derive(Debug)]
struct State {
    snapshot: Snapshot,
    objects: usize,
    history: History,
    identity: identity::Identity,
}

#[derive(Debug)]
struct Shared {
    settings: StoreSettings,
    state: Mutex<State>,
    revision: tokio::sync::watch::Sender<u64>,
}

/// A handle on a store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    /// An empty store. Namespaces have to be created before anything in them, as in Kubernetes.
    pub fn new(settings: StoreSettings) -> Self {
        let mut snapshot = Snapshot::default();
        snapshot.set_revision(settings.first_revision);
        let state = State {
            snapshot,
            objects: 0,
            history: History::new(settings.first_revision, settings.history_events, settings.history_bytes),
            identity: identity::Identity::new(settings.seed),
        };
        let revision = tokio::sync::watch::Sender::new(settings.first_revision);
        Self { shared: Arc::new(Shared { settings, state: Mutex::new(state), revision }) }
    }

    /// Writing never leaves the state half changed, so a panic of another thread while it held the lock is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot.clone()
    }

    /// The object with that key.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.lock().snapshot.get(key).cloned()
    }

    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        self.lock().snapshot.revision()
    }

    /// Makes one change.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is changed then.
    pub fn write(&self, change: Change, now: SystemTime) -> Result<Outcome, Refusal> {
        let key = change.key();
        match self.commit(vec![(change, None)], now) {
            Ok(committed) => committed.outcomes.into_iter().next().ok_or(Refusal::NotFound(key)),
            Err(refused) => Err(refused.0.into_iter().next().map_or(Refusal::NotFound(key), |first| first.refusal)),
        }
    }

    /// Makes all changes, or none. Readers see all of them at once; watchers one after the other.
    ///
    /// # Errors
    /// [`BatchRefused`] with every change that cannot be made.
    pub fn commit(&self, batch: Batch, now: SystemTime) -> Result<Committed, BatchRefused> {
        let mut state = self.lock();
        let written = self.admit(&state, batch, now)?;
        let revision = written.snapshot.revision();
        state.snapshot = written.snapshot;
        state.objects = written.objects;
        state.identity = written.identity;
        for event in written.events {
            state.history.push(event);
        }
        drop(state);
        self.shared.revision.send_if_modified(|seen| {
            // Two writers may come here in either order.
            let newer = revision > *seen;
            *seen = revision.max(*seen);
            newer
        });
        Ok(Committed { revision, outcomes: written.outcomes, warnings: written.warnings })
    }

    /// What [`Self::commit`] would do, without doing it. Uids and revisions are not yet given away.
    ///
    /// # Errors
    /// Those of [`Self::commit`].
    pub fn rehearse(&self, batch: Batch, now: SystemTime) -> Result<Committed, BatchRefused> {
        let written = self.admit(&self.lock(), batch, now)?;
        let revision = written.snapshot.revision();
        Ok(Committed { revision, outcomes: written.outcomes, warnings: written.warnings })
    }

    fn admit(&self, state: &State, batch: Batch, now: SystemTime) -> Result<Written, BatchRefused> {
        let mut writer = Writer::new(state, &self.shared.settings, now);
        for (index, (change, origin)) in batch.into_iter().enumerate() {
            writer.change(index, change, origin);
        }
        writer.finish()
    }

    /// At most `most` changes after a revision, oldest first.
    ///
    /// # Errors
    /// [`Expired`] when the history does not reach back that far, or the revision lies in the future.
    pub fn events_after(&self, revision: u64, most: usize) -> Result<Vec<Event>, Expired> {
        self.lock().history.after(revision, most)
    }

    /// The changes after a revision that pass the filter, now and as they come.
    pub fn watch(&self, revision: u64, filter: Filter) -> Watch {
        Watch::new(self.clone(), self.shared.revision.subscribe(), revision, filter)
    }

    /// The revision as it grows, for those who take a [`Snapshot`] whenever something changed.
    pub fn revisions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
