//! Taking changes in: what has to hold, what is filled in, and what follows from it.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::identity::Identity;
use super::{BatchRefused, Change, Done, Event, EventKind, Outcome, Refusal, Refused, State, StoreSettings};
use crate::defaults;
use crate::kind::Kind;
use crate::object::{DecodeError, Object};
use crate::problem::{FieldProblem, Key, Origin, Problem};
use crate::references::References;
use crate::snapshot::Snapshot;
use crate::{support, validate};

/// Fields of `metadata` that the store writes; what a client says of them is disregarded.
const OWN_METADATA: [&str; 5] =
    ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"];

/// Works on a copy of the store's state, which takes the state's place when every change is admitted.
pub(super) struct Writer<'a> {
    settings: &'a StoreSettings,
    now: Value,
    written: Written,
    /// Objects whose namespace must be there when all is done.
    newcomers: Vec<(usize, Option<Origin>, Key)>,
    /// Of the outcomes, one each.
    origins: Vec<Option<Origin>>,
    refused: Vec<Refused>,
}

/// What takes the state's place.
pub(super) struct Written {
    pub(super) snapshot: Snapshot,
    pub(super) objects: usize,
    pub(super) identity: Identity,
    pub(super) events: Vec<Event>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) warnings: Vec<Problem>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(state: &State, settings: &'a StoreSettings, now: SystemTime) -> Self {
        let written = Written {
            snapshot: state.snapshot.clone(),
            objects: state.objects,
            identity: state.identity.clone(),
            events: Vec::new(),
            outcomes: Vec::new(),
            warnings: Vec::new(),
        };
        Self { settings, now: timestamp(now), written, newcomers: Vec::new(), origins: Vec::new(), refused: Vec::new() }
    }

    pub(super) fn change(&mut self, index: usize, change: Change, origin: Option<Origin>) {
        let first_warning = self.written.warnings.len();
        match self.apply(change) {
            Ok(outcome) => {
                if outcome.done == Done::Created {
                    self.newcomers.push((index, origin.clone(), outcome.object.key()));
                }
                self.written.outcomes.push(outcome);
                self.origins.push(origin.clone());
            }
            Err(refusal) => self.refused.push(Refused { index, origin: origin.clone(), refusal }),
        }
        for warning in self.written.warnings.iter_mut().skip(first_warning) {
            warning.origin.clone_from(&origin);
        }
    }

    pub(super) fn finish(mut self) -> Result<Written, BatchRefused> {
        for (index, origin, key) in std::mem::take(&mut self.newcomers) {
            let orphan =
                key.kind.info().namespaced && self.written.snapshot.find(Kind::Namespace, "", &key.namespace).is_none();
            if orphan {
                self.refused.push(Refused { index, origin, refusal: Refusal::NoNamespace(key) });
            }
        }
        if self.refused.is_empty() {
            self.warn_of_references();
            return Ok(self.written);
        }
        self.refused.sort_by_key(|refused| refused.index);
        Err(BatchRefused(self.refused))
    }

    /// Only once everything is in: a batch may bring an object before what it names.
    fn warn_of_references(&mut self) {
        let changed: Vec<_> = self
            .origins
            .iter()
            .zip(&self.written.outcomes)
            .filter(|(_, outcome)| matches!(outcome.done, Done::Created | Done::Configured))
            .filter(|(_, outcome)| References::concern(outcome.object.kind()))
            .collect();
        if changed.is_empty() {
            return;
        }
        let references = References::new(&self.written.snapshot);
        for (origin, outcome) in changed {
            let key = outcome.object.key();
            for field in references.check(&outcome.object) {
                let warning = Problem { origin: origin.clone(), subject: Some((&key).into()), field };
                self.written.warnings.push(warning);
            }
        }
    }

    fn apply(&mut self, change: Change) -> Result<Outcome, Refusal> {
        match change {
            Change::Create(object) => self.create(object),
            Change::Update(object) => {
                let old = self.current(&object.key())?;
                conditions(&old, object.metadata().uid.as_deref(), object.revision())?;
                self.update(&old, object)
            }
            Change::Upsert(object) => match self.written.snapshot.get(&object.key()).cloned() {
                Some(old) => self.update(&old, object),
                None => self.create(object),
            },
            Change::UpdateStatus(object) => self.update_status(&object),
            Change::Delete { key, uid, revision } => {
                let old = self.current(&key)?;
                conditions(&old, uid.as_deref(), revision.unwrap_or(0))?;
                self.delete(&old)
            }
        }
    }

    fn current(&self, key: &Key) -> Result<Arc<Object>, Refusal> {
        self.written.snapshot.get(key).cloned().ok_or_else(|| Refusal::NotFound(key.clone()))
    }

    fn create(&mut self, object: Object) -> Result<Outcome, Refusal> {
        let info = object.kind().info();
        let mut key = object.key();
        let mut raw = object.into_raw();
        if key.name.is_empty()
            && let Some(base) = raw.pointer("/metadata/generateName").and_then(Value::as_str)
        {
            // Room for the suffix within the longest name.
            let base: String = base.chars().take(58).collect();
            key.name = base + &self.written.identity.suffix();
            edit_metadata(&mut raw, |metadata| metadata.insert("name".to_owned(), key.name.as_str().into()));
        }
        if self.written.snapshot.get(&key).is_some() {
            return Err(Refusal::AlreadyExists(key));
        }
        if self.written.objects >= self.settings.objects {
            return Err(Refusal::Full { key, limit: self.settings.objects });
        }
        edit_metadata(&mut raw, |metadata| {
            for name in OWN_METADATA {
                metadata.remove(name);
            }
            metadata.insert("uid".to_owned(), self.written.identity.uid().into());
            metadata.insert("creationTimestamp".to_owned(), self.now.clone());
            if info.has_generation {
                metadata.insert("generation".to_owned(), 1.into());
            }
        });
        if info.has_status {
            remove(&mut raw, "status");
        }
        defaults::fill_in(info.kind, &mut raw);
        let object = self.put(key, raw, None, EventKind::Added)?;
        self.written.objects += 1;
        Ok(Outcome { done: Done::Created, object })
    }

    fn update(&mut self, old: &Arc<Object>, object: Object) -> Result<Outcome, Refusal> {
        let (key, info) = (old.key(), old.kind().info());
        let mut raw = object.into_raw();
        let old_metadata = old.raw().get("metadata").and_then(Value::as_object);
        edit_metadata(&mut raw, |metadata| {
            for name in OWN_METADATA.into_iter().chain(["resourceVersion"]) {
                match old_metadata.and_then(|old| old.get(name)) {
                    Some(value) => metadata.insert(name.to_owned(), value.clone()),
                    None => metadata.remove(name),
                };
            }
        });
        if info.has_status {
            put_field(&mut raw, "status", old.raw().get("status").cloned());
        }
        defaults::keep_allocated(old, &mut raw);
        defaults::fill_in(info.kind, &mut raw);
        let finalized = old.metadata().deletion_timestamp.is_some() && finalizers(&raw).is_none_or(|left| left == 0);
        if finalized {
            return self.remove(old);
        }
        if same_but_for_version(old.raw(), &raw) {
            return Ok(Outcome { done: Done::Unchanged, object: old.clone() });
        }
        if info.has_generation && !same_wish(old.raw(), &raw) {
            let generation = old.generation() + 1;
            edit_metadata(&mut raw, |metadata| metadata.insert("generation".to_owned(), generation.into()));
        }
        let object = self.put(key, raw, Some(old), EventKind::Modified)?;
        Ok(Outcome { done: Done::Configured, object })
    }

    fn update_status(&mut self, object: &Object) -> Result<Outcome, Refusal> {
        let key = object.key();
        let old = self.current(&key)?;
        conditions(&old, object.metadata().uid.as_deref(), object.revision())?;
        if !key.kind.info().has_status {
            let problems = vec![FieldProblem::new("status", format!("a {} has none", key.kind))];
            return Err(Refusal::Invalid { key, problems });
        }
        let mut raw = old.raw().clone();
        put_field(&mut raw, "status", object.raw().get("status").cloned());
        if raw == *old.raw() {
            return Ok(Outcome { done: Done::Unchanged, object: old });
        }
        let object = self.put(key, raw, Some(&old), EventKind::Modified)?;
        Ok(Outcome { done: Done::Configured, object })
    }

    fn delete(&mut self, old: &Arc<Object>) -> Result<Outcome, Refusal> {
        if finalizers(old.raw()).is_some_and(|left| left > 0) {
            if old.metadata().deletion_timestamp.is_some() {
                return Ok(Outcome { done: Done::Unchanged, object: old.clone() });
            }
            let mut raw = old.raw().clone();
            edit_metadata(&mut raw, |metadata| metadata.insert("deletionTimestamp".to_owned(), self.now.clone()));
            let object = self.put(old.key(), raw, Some(old), EventKind::Modified)?;
            return Ok(Outcome { done: Done::Deleted, object });
        }
        if old.kind() == Kind::Namespace {
            // What a namespace holds goes with it; from the last kind to the first, as nothing may outlive what it needs.
            let mut kinds: Vec<Kind> = Kind::all().filter(|kind| kind.info().namespaced).collect();
            kinds.reverse();
            for kind in kinds {
                let inside: Vec<_> = self.written.snapshot.objects_in(kind, old.name()).cloned().collect();
                for object in inside {
                    self.remove(&object)?;
                }
            }
        }
        self.remove(old)
    }

    fn remove(&mut self, old: &Arc<Object>) -> Result<Outcome, Refusal> {
        let key = old.key();
        let revision = self.written.snapshot.revision() + 1;
        let (object, bytes) = self.build(&key, old.raw().clone(), revision)?;
        self.written.snapshot.remove(&key);
        self.written.snapshot.set_revision(revision);
        self.written.objects = self.written.objects.saturating_sub(1);
        let event =
            Event { kind: EventKind::Deleted, revision, object: object.clone(), previous: Some(old.clone()), bytes };
        self.written.events.push(event);
        Ok(Outcome { done: Done::Deleted, object })
    }

    /// Decodes, validates and puts in.
    fn put(
        &mut self,
        key: Key,
        raw: Value,
        old: Option<&Arc<Object>>,
        kind: EventKind,
    ) -> Result<Arc<Object>, Refusal> {
        let revision = self.written.snapshot.revision() + 1;
        let (object, bytes) = self.build(&key, raw, revision)?;
        let limit = self.settings.object_bytes;
        if bytes > limit {
            return Err(Refusal::TooLarge { key, bytes, limit });
        }
        let mut findings = validate::object(&object);
        findings.errors.extend(support::check(&object));
        if let Some(old) = old {
            findings.errors.extend(validate::change(old, &object));
        }
        if !findings.errors.is_empty() {
            return Err(Refusal::Invalid { key, problems: findings.errors });
        }
        self.written.warnings.extend(findings.warnings.into_iter().map(|field| Problem {
            origin: None,
            subject: Some((&key).into()),
            field,
        }));
        let previous = self.written.snapshot.insert(object.clone());
        self.written.snapshot.set_revision(revision);
        self.written.events.push(Event { kind, revision, object: object.clone(), previous, bytes });
        Ok(object)
    }

    fn build(&self, key: &Key, mut raw: Value, revision: u64) -> Result<(Arc<Object>, usize), Refusal> {
        edit_metadata(&mut raw, |metadata| metadata.insert("resourceVersion".to_owned(), revision.to_string().into()));
        let bytes = raw.to_string().len();
        let object = Object::decode(raw).map_err(|error| {
            let problems = match error {
                DecodeError::Kind { error, .. } => vec![FieldProblem::new("", error.to_string())],
                DecodeError::Fields { problems, .. } => problems,
            };
            Refusal::Invalid { key: key.clone(), problems }
        })?;
        Ok((Arc::new(object), bytes))
    }
}

/// Whether the object is still the one its writer has seen. A revision of 0 is none.
fn conditions(old: &Object, uid: Option<&str>, revision: u64) -> Result<(), Refusal> {
    if let Some(uid) = uid.filter(|uid| !uid.is_empty())
        && uid != old.uid()
    {
        let message = format!("it has the uid {}, not {uid}", old.uid());
        return Err(Refusal::Conflict { key: old.key(), message });
    }
    if revision != 0 && revision != old.revision() {
        let message = format!("it is at resourceVersion {}, not {revision}", old.revision());
        return Err(Refusal::Conflict { key: old.key(), message });
    }
    Ok(())
}

fn timestamp(now: SystemTime) -> Value {
    // A clock before 1970 or past the year 9999 writes the beginning of time.
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_default();
    serde_json::to_value(Time(now)).unwrap_or(Value::Null)
}

/// Changes `metadata`, made if it is missing. (A decoded object is a JSON object, so there always is a place for it.)
fn edit_metadata<R>(raw: &mut Value, edit: impl FnOnce(&mut Map<String, Value>) -> R) {
    if let Value::Object(fields) = raw
        && let Value::Object(metadata) = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()))
    {
        edit(metadata);
    }
}

fn remove(raw: &mut Value, name: &str) {
    put_field(raw, name, None);
}

fn put_field(raw: &mut Value, name: &str, value: Option<Value>) {
    if let Value::Object(fields) = raw {
        match value {
            Some(value) => fields.insert(name.to_owned(), value),
            None => fields.remove(name),
        };
    }
}

fn finalizers(raw: &Value) -> Option<usize> {
    raw.get("metadata")?.get("finalizers")?.as_array().map(Vec::len)
}

/// The version an object is written in is no difference.
fn same_but_for_version(old: &Value, new: &Value) -> bool {
    same_fields(old, new, &["apiVersion"])
}

/// Whether both want the same.
fn same_wish(old: &Value, new: &Value) -> bool {
    same_fields(old, new, &["apiVersion", "metadata", "status"])
}

fn same_fields(old: &Value, new: &Value, but: &[&str]) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return old == new };
    let counts = |name: &&String| !but.contains(&name.as_str());
    old.keys().chain(new.keys()).filter(counts).all(|name| old.get(name) == new.get(name))
}
