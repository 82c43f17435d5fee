//! Keeps snapshots of the cluster's objects in step with the API: a list, then a watch from its revision,
//! again and again, for every kind wanted (what Kubernetes' informers do).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lateen_galley::{Key, Kind, Object, Snapshot};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Client, ClientError, EventKind, Selection};

/// First and longest pause before a broken watch is made anew.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Changes waiting to be put into the snapshot.
const QUEUE: usize = 4096;

/// What one kind's watcher tells.
enum Change {
    /// All objects of the kind, in place of those known.
    All(Kind, Vec<Arc<Object>>, u64),
    Put(Arc<Object>),
    Removed(Key, u64),
    /// Nothing else of the kind happened up to this revision.
    Reached(Kind, u64),
}

/// Publishes a snapshot of all objects of `kinds` once every kind has been listed, and a new one whenever
/// something changed; changes that come together are published together. A snapshot's revision is the one up to which it holds
/// the changes of all the kinds. While the API cannot be reached
/// the last snapshot stays. Runs until nobody reads the snapshots any more.
pub async fn replicate(client: Client, kinds: &[Kind], snapshots: watch::Sender<Option<Snapshot>>) {
    let (sender, mut changes) = mpsc::channel(QUEUE);
    let mut watchers = JoinSet::new();
    for kind in kinds {
        watchers.spawn(follow(client.clone(), *kind, sender.clone()));
    }
    drop(sender);
    let mut snapshot = Snapshot::default();
    let mut reached: BTreeMap<Kind, u64> = BTreeMap::new();
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = snapshots.closed() => return,
        };
        let Some(change) = change else { return };
        let mut changed = put(&mut snapshot, &mut reached, change);
        while let Ok(change) = changes.try_recv() {
            changed |= put(&mut snapshot, &mut reached, change);
        }
        let revision = reached.values().min().copied().unwrap_or(0);
        changed |= revision != snapshot.revision();
        snapshot.set_revision(revision);
        if changed && kinds.iter().all(|kind| reached.contains_key(kind)) {
            snapshots.send_replace(Some(snapshot.clone()));
        }
    }
}

/// Whether that changes any object.
fn put(snapshot: &mut Snapshot, reached: &mut BTreeMap<Kind, u64>, change: Change) -> bool {
    let (kind, revision, changed) = match change {
        Change::All(kind, objects, revision) => {
            let gone: Vec<Key> = snapshot.objects(kind).map(|object| object.key()).collect();
            gone.iter().for_each(|key| drop(snapshot.remove(key)));
            objects.into_iter().for_each(|object| drop(snapshot.insert(object)));
            (kind, revision, true)
        }
        Change::Put(object) => {
            let (kind, revision) = (object.kind(), object.revision());
            snapshot.insert(object);
            (kind, revision, true)
        }
        Change::Removed(key, revision) => {
            snapshot.remove(&key);
            (key.kind, revision, true)
        }
        Change::Reached(kind, revision) => (kind, revision, false),
    };
    reached.insert(kind, revision);
    changed
}

async fn follow(client: Client, kind: Kind, changes: mpsc::Sender<Change>) {
    let mut pause = BACK_OFF.0;
    loop {
        match list_and_watch(&client, kind, &changes, &mut pause).await {
            Ok(()) => return,
            Err(error) if error.is_expired() => tracing::debug!(%kind, "the watch is too far behind: listing again"),
            Err(error) => {
                tracing::warn!(%kind, %error, "cannot follow the cluster's objects; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }
}

/// Returns without an error only when nobody listens any more.
async fn list_and_watch(
    client: &Client,
    kind: Kind,
    changes: &mpsc::Sender<Change>,
    pause: &mut Duration,
) -> Result<(), ClientError> {
    let everything = Selection::default();
    let mut list = client.list(kind, &everything).await?;
    *pause = BACK_OFF.0;
    let mut revision = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let items = list.get_mut("items").map(Value::take).unwrap_or_default();
    let Value::Array(items) = items else { return Err(ClientError::broken("the list has no items")) };
    let objects = items.into_iter().filter_map(|item| decode(kind, item)).collect();
    if changes.send(Change::All(kind, objects, revision.parse().unwrap_or(0))).await.is_err() {
        return Ok(());
    }
    loop {
        let mut watch = client.watch(kind, &everything, &revision).await?;
        while let Some(event) = watch.next().await? {
            let reached = event.object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
            reached.unwrap_or_default().clone_into(&mut revision);
            let change = match event.kind {
                EventKind::Bookmark => Some(Change::Reached(kind, revision.parse().unwrap_or(0))),
                EventKind::Added | EventKind::Modified => decode(kind, event.object).map(Change::Put),
                EventKind::Deleted => {
                    let text = |pointer| event.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                    let key = Key::new(kind, text("/metadata/namespace"), text("/metadata/name"));
                    Some(Change::Removed(key, revision.parse().unwrap_or(0)))
                }
            };
            if let Some(change) = change
                && changes.send(change).await.is_err()
            {
                return Ok(());
            }
        }
    }
}

/// Items of lists need not say what they are.
fn decode(kind: Kind, mut item: Value) -> Option<Arc<Object>> {
    let info = kind.info();
    if let Value::Object(fields) = &mut item {
        fields.entry("kind").or_insert_with(|| info.name.into());
        fields.entry("apiVersion").or_insert_with(|| info.api_version().into());
    }
    match Object::decode(item) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            tracing::error!(%error, "the cluster sent an object that cannot be understood");
            None
        }
    }
}
