use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::*;
use crate::Kind;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn object(value: Value) -> Object {
    Object::decode(value).unwrap()
}

fn namespace(name: &str) -> Object {
    object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
}

fn rule(name: &str, host: &str) -> Object {
    object(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": "default"}, "spec": {"host": host},
    }))
}

fn store(settings: StoreSettings) -> Store {
    let store = Store::new(settings);
    store.write(Change::Create(namespace("default")), now()).unwrap();
    store
}

fn key(name: &str) -> Key {
    Key::new(Kind::DestinationRule, "default", name)
}

#[test]
fn an_object_lives_and_dies() {
    let store = store(StoreSettings::default());
    let created = store.write(Change::Create(rule("a", "x")), now()).unwrap();
    assert_eq!(created.done, Done::Created);
    assert_eq!(created.object.generation(), 1);
    assert_eq!(created.object.revision(), 2);
    assert_eq!(created.object.raw()["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(created.object.uid().len(), 36);
    assert!(matches!(store.write(Change::Create(rule("a", "x")), now()), Err(Refusal::AlreadyExists(_))));

    let same = store.write(Change::Upsert(rule("a", "x")), now()).unwrap();
    assert_eq!((same.done, same.object.revision()), (Done::Unchanged, 2));

    let changed = store.write(Change::Upsert(rule("a", "y")), now()).unwrap();
    assert_eq!((changed.done, changed.object.generation(), changed.object.revision()), (Done::Configured, 2, 3));
    assert_eq!(changed.object.uid(), created.object.uid());

    let mut labelled = changed.object.raw().clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let labelled = store.write(Change::Update(object(labelled)), now()).unwrap();
    assert_eq!((labelled.object.generation(), labelled.object.revision()), (2, 4));

    let stale = store.write(Change::Update((*changed.object).clone()), now());
    assert!(matches!(stale, Err(Refusal::Conflict { .. })), "{stale:?}");

    let gone = store.write(Change::delete(key("a")), now()).unwrap();
    assert_eq!((gone.done, gone.object.revision()), (Done::Deleted, 5));
    assert_eq!(store.get(&key("a")), None);
    assert!(matches!(store.write(Change::delete(key("a")), now()), Err(Refusal::NotFound(_))));
    let again = store.write(Change::Create(rule("a", "x")), now()).unwrap();
    assert_ne!(again.object.uid(), created.object.uid());
}

#[test]
fn status_has_a_way_of_its_own() {
    let store = store(StoreSettings::default());
    let mut with_status = rule("a", "x").into_raw();
    with_status["status"] = json!({"observedGeneration": 7});
    let created = store.write(Change::Create(object(with_status.clone())), now()).unwrap();
    assert_eq!(created.object.raw().get("status"), None);
    let changed = store.write(Change::UpdateStatus(object(with_status)), now()).unwrap();
    assert_eq!(changed.object.raw()["status"]["observedGeneration"], 7);
    assert_eq!(changed.object.generation(), 1);
    let upserted = store.write(Change::Upsert(rule("a", "y")), now()).unwrap();
    assert_eq!(upserted.object.raw()["status"]["observedGeneration"], 7);
}

#[test]
fn a_batch_is_all_or_nothing() {
    let store = store(StoreSettings::default());
    let before = store.snapshot();
    let nowhere = object(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "nowhere"}
    }));
    let batch = vec![
        (Change::Create(rule("a", "x")), None),
        (Change::Create(rule("Bad_Name", "x")), None),
        (Change::Create(nowhere), None),
    ];
    let refused = store.commit(batch, now()).unwrap_err();
    assert_eq!(refused.0.iter().map(|refused| refused.index).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(store.revision(), before.revision());
    assert_eq!(store.snapshot().count(Kind::DestinationRule), 0);

    // A namespace of the same batch will do, wherever it stands.
    let inside = object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}}));
    let committed =
        store.commit(vec![(Change::Create(inside), None), (Change::Create(namespace("n")), None)], now()).unwrap();
    assert_eq!(committed.revision, before.revision() + 2);
    assert_eq!(before.count(Kind::ConfigMap), 0);
}

#[test]
fn what_a_namespace_holds_goes_with_it() {
    let store = store(StoreSettings::default());
    store.write(Change::Create(rule("a", "x")), now()).unwrap();
    let before = store.revision();
    store.write(Change::delete(Key::new(Kind::Namespace, "", "default")), now()).unwrap();
    let events = store.events_after(before, 10).unwrap();
    let gone: Vec<_> = events.iter().map(|event| (event.kind, event.object.key().to_string())).collect();
    assert_eq!(
        gone,
        [
            (EventKind::Deleted, "DestinationRule default/a".to_owned()),
            (EventKind::Deleted, "Namespace default".to_owned()),
        ]
    );
}

#[test]
fn finalizers_hold_an_object_back() {
    let store = store(StoreSettings::default());
    let mut held = rule("a", "x").into_raw();
    held["metadata"]["finalizers"] = json!(["x.io/hold"]);
    store.write(Change::Create(object(held.clone())), now()).unwrap();
    store.write(Change::delete(key("a")), now()).unwrap();
    let marked = store.get(&key("a")).unwrap();
    assert!(marked.metadata().deletion_timestamp.is_some());
    held["metadata"]["finalizers"] = json!([]);
    let released = store.write(Change::Update(object(held)), now()).unwrap();
    assert_eq!(released.done, Done::Deleted);
    assert_eq!(store.get(&key("a")), None);
}

#[test]
fn limits_hold() {
    let small = store(StoreSettings { objects: 2, object_bytes: 1000, ..StoreSettings::default() });
    let large = rule("a", "x").into_raw();
    let mut large_one = large.clone();
    large_one["metadata"]["annotations"] = json!({"a": "x".repeat(1000)});
    let refused = small.write(Change::Create(object(large_one)), now());
    assert!(matches!(refused, Err(Refusal::TooLarge { limit: 1000, .. })), "{refused:?}");
    small.write(Change::Create(object(large)), now()).unwrap();
    assert!(matches!(small.write(Change::Create(rule("b", "x")), now()), Err(Refusal::Full { limit: 2, .. })));
    small.write(Change::delete(key("a")), now()).unwrap();
    small.write(Change::Create(rule("b", "x")), now()).unwrap();
}

#[test]
fn names_are_made_up() {
    let store = store(StoreSettings { seed: [1, 2], ..StoreSettings::default() });
    let nameless = object(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "c-", "namespace": "default"}
    }));
    let one = store.write(Change::Create(nameless.clone()), now()).unwrap().object;
    let two = store.write(Change::Create(nameless), now()).unwrap().object;
    assert!(one.name().starts_with("c-") && one.name().len() == 7, "{}", one.name());
    assert_ne!(one.name(), two.name());
}

#[test]
fn what_was_allocated_to_a_service_stays() {
    let store = store(StoreSettings::default());
    let service = |ports: Value| {
        object(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"},
            "spec": {"type": "NodePort", "selector": {"app": "s"}, "ports": ports},
        }))
    };
    let ports = json!([{"name": "http", "port": 80}]);
    let created = store.write(Change::Create(service(ports.clone())), now()).unwrap().object;
    assert_eq!(created.raw()["spec"]["ports"][0]["targetPort"], 80);
    let mut allocated = created.raw().clone();
    allocated["spec"]["clusterIP"] = json!("10.96.0.10");
    allocated["spec"]["ports"][0]["nodePort"] = json!(31380);
    store.write(Change::Update(object(allocated)), now()).unwrap();
    assert_eq!(store.write(Change::Upsert(service(ports)), now()).unwrap().done, Done::Unchanged);
    let two = json!([{"name": "tcp", "port": 90}, {"name": "http", "port": 80}]);
    let changed = store.write(Change::Upsert(service(two)), now()).unwrap().object;
    assert_eq!(changed.raw()["spec"]["clusterIP"], "10.96.0.10");
    assert_eq!(changed.raw()["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(changed.raw()["spec"]["ports"][1]["nodePort"], 31380);
}

#[tokio::test]
async fn a_watch_sees_every_change_once_and_in_order() {
    let store = store(StoreSettings::default());
    let mut watch = store.watch(store.revision(), Filter::kind(Kind::DestinationRule));
    let writer = store.clone();
    let written = tokio::spawn(async move {
        for index in 0..600 {
            writer.write(Change::Upsert(rule("a", &format!("h{index}"))), now()).unwrap();
            writer.write(Change::Upsert(namespace(&format!("n{index}"))), now()).unwrap();
            tokio::task::yield_now().await;
        }
    });
    for index in 0..600 {
        let event = watch.next().await.unwrap();
        assert_eq!(event.object.raw()["spec"]["host"], format!("h{index}"));
        assert_eq!(event.kind, if index == 0 { EventKind::Added } else { EventKind::Modified });
        assert_eq!(event.revision, event.object.revision());
        assert_eq!(event.previous.is_some(), index > 0);
    }
    written.await.unwrap();
    assert_eq!(watch.try_next(), Ok(None));
}

#[test]
fn history_ends_somewhere() {
    let store = store(StoreSettings { history_events: 3, first_revision: 100, ..StoreSettings::default() });
    for index in 0..5 {
        store.write(Change::Upsert(rule("a", &format!("h{index}"))), now()).unwrap();
    }
    assert_eq!(store.revision(), 106);
    assert_eq!(store.events_after(102, 10), Err(Expired { asked: 102, oldest: 103 }));
    assert_eq!(store.events_after(103, 10).unwrap().len(), 3);
    assert_eq!(store.events_after(106, 10).unwrap(), []);
    assert!(store.events_after(107, 10).is_err());
    let mut late = store.watch(0, Filter::default());
    assert!(late.try_next().is_err());

    let tight = super::Store::new(StoreSettings { history_bytes: 1, ..StoreSettings::default() });
    tight.write(Change::Create(namespace("n")), now()).unwrap();
    assert!(tight.events_after(0, 1).is_err());
}

#[test]
fn snapshots_share_and_do_not_change() {
    let store = store(StoreSettings::default());
    store.write(Change::Create(rule("a", "x")), now()).unwrap();
    let before = store.snapshot();
    store.write(Change::Upsert(rule("b", "x")), now()).unwrap();
    let after = store.snapshot();
    assert_eq!(before.count(Kind::DestinationRule), 1);
    assert_eq!(after.count(Kind::DestinationRule), 2);
    assert!(before.same(&after, Kind::Namespace));
    assert!(!before.same(&after, Kind::DestinationRule));
    assert!(Arc::ptr_eq(before.get(&key("a")).unwrap(), after.get(&key("a")).unwrap()));
}

#[test]
fn what_is_left_out_is_filled_in() {
    let store = store(StoreSettings::default());
    let stored = |value: Value| store.write(Change::Create(object(value)), now()).unwrap().object.raw().clone();
    let secret = stored(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
        "data": {"a": "QQ=="}, "stringData": {"b": "B"},
    }));
    assert_eq!(secret["data"], json!({"a": "QQ==", "b": "Qg=="}));
    assert_eq!((secret.get("stringData"), &secret["type"]), (None, &json!("Opaque")));
    let deployment = stored(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
            },
        },
    }));
    assert_eq!(deployment["spec"]["replicas"], 1);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!((&pod["restartPolicy"], &pod["serviceAccountName"]), (&json!("Always"), &json!("default")));
    assert_eq!(pod["containers"][0]["ports"][0]["protocol"], "TCP");
    let namespace = store.get(&Key::new(Kind::Namespace, "", "default")).unwrap();
    assert_eq!(namespace.label("kubernetes.io/metadata.name"), Some("default"));
}

#[test]
fn some_fields_are_for_life() {
    let store = store(StoreSettings::default());
    let mut deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d", "x": "y"}}, "spec": {"containers": [{"name": "c"}]}},
        },
    });
    store.write(Change::Create(object(deployment.clone())), now()).unwrap();
    deployment["spec"]["selector"]["matchLabels"] = json!({"x": "y"});
    let refused = store.write(Change::Upsert(object(deployment)), now()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Deployment default/d is invalid: spec.selector: cannot be changed; delete the object first"
    );
    let service = |address: &str| {
        object(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"},
            "spec": {"clusterIP": address, "ports": [{"port": 80}]},
        }))
    };
    store.write(Change::Create(service("10.96.0.1")), now()).unwrap();
    assert!(matches!(store.write(Change::Upsert(service("10.96.0.2")), now()), Err(Refusal::Invalid { .. })));
    assert_eq!(store.write(Change::Upsert(service("")), now()).unwrap().done, Done::Unchanged);
}
