//! Whatever is written in whatever order: what watchers are told adds up to what readers see.

use std::time::SystemTime;

use proptest::prelude::*;
use serde_json::json;

use super::{Batch, Change, EventKind, Store, StoreSettings};
use crate::{Key, Kind, Object, Snapshot};

#[derive(Debug, Clone)]
enum Write {
    Create(usize, usize, u8),
    Upsert(usize, usize, u8),
    Stale(usize, usize, u8),
    Status(usize, usize, u8),
    Delete(usize, usize),
    AddNamespace(usize),
    DropNamespace(usize),
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 3] = ["x", "y", "z"];

fn write() -> impl Strategy<Value = Write> {
    let (namespace, name, content) = (0..NAMESPACES.len(), 0..NAMES.len(), 0..3u8);
    let place = (namespace.clone(), name, content);
    prop_oneof![
        3 => place.clone().prop_map(|(namespace, name, content)| Write::Create(namespace, name, content)),
        4 => place.clone().prop_map(|(namespace, name, content)| Write::Upsert(namespace, name, content)),
        1 => place.clone().prop_map(|(namespace, name, content)| Write::Stale(namespace, name, content)),
        2 => place.clone().prop_map(|(namespace, name, content)| Write::Status(namespace, name, content)),
        3 => place.prop_map(|(namespace, name, _)| Write::Delete(namespace, name)),
        3 => namespace.clone().prop_map(Write::AddNamespace),
        1 => namespace.prop_map(Write::DropNamespace),
    ]
}

fn entry(namespace: usize, name: usize, content: u8) -> serde_json::Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"namespace": NAMESPACES[namespace], "name": NAMES[name]},
        "spec": {
            "hosts": [format!("h{content}.example.com")],
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        },
    })
}

fn change(write: &Write) -> Change {
    let object = |raw| Object::decode(raw).unwrap();
    match *write {
        Write::Create(namespace, name, content) => Change::Create(object(entry(namespace, name, content))),
        Write::Upsert(namespace, name, content) => Change::Upsert(object(entry(namespace, name, content))),
        Write::Stale(namespace, name, content) => {
            let mut raw = entry(namespace, name, content);
            raw["metadata"]["resourceVersion"] = json!("1");
            Change::Update(object(raw))
        }
        Write::Status(namespace, name, content) => {
            let mut raw = entry(namespace, name, content);
            raw["status"] = json!({"addresses": [{"value": format!("240.240.0.{content}")}]});
            Change::UpdateStatus(object(raw))
        }
        Write::Delete(namespace, name) => {
            Change::delete(Key::new(Kind::ServiceEntry, NAMESPACES[namespace], NAMES[name]))
        }
        Write::AddNamespace(namespace) => Change::Upsert(object(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACES[namespace]}}),
        )),
        Write::DropNamespace(namespace) => Change::delete(Key::new(Kind::Namespace, "", NAMESPACES[namespace])),
    }
}

fn all(snapshot: &Snapshot) -> Vec<serde_json::Value> {
    snapshot.all().map(|object| object.raw().clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_add_up_to_the_snapshot(batches in prop::collection::vec(prop::collection::vec(write(), 1..5), 1..30)) {
        let store = Store::new(StoreSettings::default());
        let mut told = Snapshot::default();
        for writes in &batches {
            let before = store.snapshot();
            let batch: Batch = writes.iter().map(|write| (change(write), None)).collect();
            if store.commit(batch, SystemTime::UNIX_EPOCH).is_err() {
                prop_assert_eq!(all(&store.snapshot()), all(&before));
                prop_assert_eq!(store.revision(), before.revision());
            }
            for event in store.events_after(told.revision(), usize::MAX).unwrap() {
                prop_assert!(event.revision > told.revision());
                prop_assert_eq!(event.object.revision(), event.revision);
                let key = event.object.key();
                let previous = match event.kind {
                    EventKind::Deleted => told.remove(&key),
                    EventKind::Added | EventKind::Modified => told.insert(event.object.clone()),
                };
                prop_assert_eq!(event.kind == EventKind::Added, previous.is_none());
                prop_assert_eq!(previous, event.previous);
                told.set_revision(event.revision);
            }
            let now = store.snapshot();
            prop_assert_eq!(all(&told), all(&now));
            prop_assert_eq!(told.revision(), now.revision());
            prop_assert_eq!(store.lock().objects, now.all().count());
            for object in now.objects(Kind::ServiceEntry) {
                prop_assert!(now.find(Kind::Namespace, "", object.namespace()).is_some());
            }
        }
    }
}
