//! What the cluster adds to objects before they are stored, as Kubernetes' API server and Istio's
//! injection webhook do: cluster IPs and node ports of Services, sidecars of pods. Every way into the
//! store leads through here.

mod not_here;
mod services;
mod sidecar;
mod template;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use lateen_galley::store::{Batch, BatchRefused, Change, Committed, Outcome, Refusal, Refused, Store};
use lateen_galley::{Kind, Object, Problem, Snapshot};
use serde_json::Value;

pub use sidecar::{INJECTED_IMAGE, PROXY_CONTAINER};

/// Keeps a pod's object until its processes have ended.
pub const POD_FINALIZER: &str = "lateen.local/processes";

/// The store, for everyone who writes objects of their own wish. Clones share it.
#[derive(Debug, Clone)]
pub struct Admission {
    store: Store,
    /// Held from looking for a free address until it is stored.
    allocating: Arc<Mutex<()>>,
}

impl Admission {
    /// Admits objects to this store.
    pub fn new(store: Store) -> Self {
        Self { store, allocating: Arc::default() }
    }

    /// The store, for reading, and for writing status.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Makes all changes, or none.
    ///
    /// # Errors
    /// Every change that is refused.
    pub fn commit(&self, batch: Batch) -> Result<Committed, BatchRefused> {
        self.admit(batch, Store::commit)
    }

    /// Makes one change.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn write(&self, change: Change) -> Result<(Outcome, Vec<Problem>), Refusal> {
        self.admit_one(change, Store::commit)
    }

    /// What [`Self::write`] would do, without doing it.
    ///
    /// # Errors
    /// Those of [`Self::write`].
    pub fn rehearse(&self, change: Change) -> Result<(Outcome, Vec<Problem>), Refusal> {
        self.admit_one(change, Store::rehearse)
    }

    /// What [`Self::commit`] would do, without doing it.
    ///
    /// # Errors
    /// Those of [`Self::commit`].
    pub fn rehearse_all(&self, batch: Batch) -> Result<Committed, BatchRefused> {
        self.admit(batch, Store::rehearse)
    }

    fn admit(&self, batch: Batch, by: Taking) -> Result<Committed, BatchRefused> {
        // Nothing is left half done by a panic here: what was allocated is only known once it is stored.
        let _allocating = self.allocating.lock().unwrap_or_else(PoisonError::into_inner);
        let prepared = prepare(&self.store.snapshot(), batch)?;
        let told = told(&prepared);
        let mut committed = by(&self.store, prepared, SystemTime::now())?;
        committed.warnings.extend(told);
        Ok(committed)
    }

    fn admit_one(&self, change: Change, by: Taking) -> Result<(Outcome, Vec<Problem>), Refusal> {
        let key = change.key();
        match self.admit(vec![(change, None)], by) {
            Ok(committed) => {
                let outcome = committed.outcomes.into_iter().next().ok_or(Refusal::NotFound(key))?;
                Ok((outcome, committed.warnings))
            }
            Err(refused) => Err(refused.0.into_iter().next().map_or(Refusal::NotFound(key), |first| first.refusal)),
        }
    }
}

/// How the store takes a batch: in earnest, or for show.
type Taking = fn(&Store, Batch, SystemTime) -> Result<Committed, BatchRefused>;

/// What of a batch is accepted and not carried out.
fn told(batch: &Batch) -> Vec<Problem> {
    let mut told = Vec::new();
    for (change, origin) in batch {
        let (Change::Create(object) | Change::Update(object) | Change::Upsert(object)) = change else { continue };
        // Whoever wrote a Deployment was told of its pods.
        if object.metadata().owner_references.is_some() {
            continue;
        }
        let subject = Some((&object.key()).into());
        let problem = |field| Problem { origin: origin.clone(), subject: subject.clone(), field };
        told.extend(not_here::not_carried_out(object).into_iter().map(problem));
    }
    told
}

/// Completes the objects of a batch. Pure.
fn prepare(snapshot: &Snapshot, batch: Batch) -> Result<Batch, BatchRefused> {
    let mut allocator = services::Allocator::new(snapshot, &batch);
    let mut refused = Vec::new();
    let mut prepared = Vec::with_capacity(batch.len());
    let namespaces = namespaces_of(&batch);
    for (index, (change, origin)) in batch.into_iter().enumerate() {
        let completed = match change {
            Change::Create(object) => complete(snapshot, &namespaces, &mut allocator, object).map(Change::Create),
            Change::Update(object) => complete(snapshot, &namespaces, &mut allocator, object).map(Change::Update),
            Change::Upsert(object) => complete(snapshot, &namespaces, &mut allocator, object).map(Change::Upsert),
            other => Ok(other),
        };
        match completed {
            Ok(change) => prepared.push((change, origin)),
            Err(refusal) => refused.push(Refused { index, origin, refusal }),
        }
    }
    if refused.is_empty() { Ok(prepared) } else { Err(BatchRefused(refused)) }
}

/// Namespaces that the same batch writes: their labels count for the pods written with them.
fn namespaces_of(batch: &Batch) -> Vec<Value> {
    let written = batch.iter().filter_map(|(change, _)| match change {
        Change::Create(object) | Change::Update(object) | Change::Upsert(object) => Some(object),
        _ => None,
    });
    written.filter(|object| object.kind() == Kind::Namespace).map(|object| object.raw().clone()).collect()
}

fn complete(
    snapshot: &Snapshot,
    namespaces: &[Value],
    allocator: &mut services::Allocator,
    object: Object,
) -> Result<Object, Refusal> {
    let key = object.key();
    let old = snapshot.get(&key).map(|old| old.raw());
    let namespace = object.namespace().to_owned();
    let kind = object.kind();
    let stored = || snapshot.find(Kind::Namespace, "", &namespace).map(|namespace| namespace.raw());
    let written =
        |written: &&Value| written.pointer("/metadata/name").and_then(Value::as_str) == Some(namespace.as_str());
    let mut raw = match kind {
        Kind::Service | Kind::Pod => object.into_raw(),
        Kind::Deployment => {
            let problems = template::problems(object.raw(), namespaces.iter().find(written).or_else(stored));
            return if problems.is_empty() { Ok(object) } else { Err(Refusal::Invalid { key, problems }) };
        }
        _ => return Ok(object),
    };
    match kind {
        Kind::Service => allocator.complete(&key, &mut raw, old)?,
        _ => sidecar::complete_pod(&mut raw, namespaces.iter().find(written).or_else(stored)),
    }
    Object::decode(raw).map_err(|error| Refusal::Invalid {
        key,
        problems: vec![lateen_galley::FieldProblem::new("", error.to_string())],
    })
}
