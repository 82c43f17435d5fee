//! The API over a real unix socket, spoken to by the client.

use std::time::Duration;

use lateen_galley::store::{Change, Done};
use lateen_galley::{Kind, Manifest, Object, ReadOptions, Snapshot, Store, StoreSettings, read_manifests};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::{Server, serve};
use crate::admission::Admission;
use crate::client::{Client, ClientError, EventKind, Selection, replicate};
use crate::tokens::Tokens;

struct World {
    client: Client,
    admission: Admission,
    _directory: tempfile::TempDir,
}

async fn world(settings: StoreSettings) -> World {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let admission = Admission::new(Store::new(settings));
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(serve(listener, Server::new(admission.clone(), None, Tokens::new().unwrap())));
    let client = Client::new(socket);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    client.apply(&namespace, "", false).await.unwrap();
    World { client, admission, _directory: directory }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]},
    })
}

fn virtual_service(subset: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService", "metadata": {"name": "web"},
        "spec": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web", "subset": subset}}]}]},
    })
}

fn refused(result: Result<impl std::fmt::Debug, ClientError>) -> crate::client::Refused {
    match result.unwrap_err() {
        ClientError::Refused(refused) => refused,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn objects_are_applied_read_and_deleted_in_any_version() {
    let World { client, .. } = &world(StoreSettings::default()).await;
    let applied = client.apply(&virtual_service("v1"), "shop", false).await.unwrap();
    assert!(applied.created && applied.changed);
    let again = client.apply(&virtual_service("v1"), "shop", false).await.unwrap();
    assert!(!again.created && !again.changed);
    let stored = client.get(Kind::VirtualService, "shop", "web").await.unwrap();
    assert_eq!(stored["apiVersion"], "networking.istio.io/v1", "asked for in v1");
    assert_eq!(stored["metadata"]["generation"], 1);
    let deleted = client.delete(Kind::VirtualService, "shop", "web", None).await.unwrap();
    assert_eq!(deleted["status"], "Success");
    let gone = refused(client.get(Kind::VirtualService, "shop", "web").await);
    assert_eq!((gone.code, gone.reason.as_str()), (404, "NotFound"));
    assert_eq!(gone.message, "virtualservices.networking.istio.io \"web\" not found");
}

#[tokio::test]
async fn tokens_are_issued_to_service_accounts_and_reviewed() {
    let world = world(StoreSettings::default()).await;
    let client = &world.client;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web"}});
    client.apply(&account, "shop", false).await.unwrap();
    let token = client.create_token("shop", "web", &["istio-ca"]).await.unwrap();
    let good = client.review_token(&token, &["istio-ca"]).await.unwrap();
    assert_eq!(good.authenticated, Some(true));
    assert_eq!(good.user.unwrap().username.as_deref(), Some("system:serviceaccount:shop:web"));
    assert_eq!(good.audiences.unwrap(), ["istio-ca"]);
    for (token, audience) in [(token.as_str(), "vault"), ("forged", "istio-ca"), ("", "istio-ca")] {
        let bad = client.review_token(token, &[audience]).await.unwrap();
        assert_eq!(bad.authenticated, None, "{audience}");
        assert!(bad.user.is_none() && bad.error.is_some());
    }
    // As kubectl 1.28 asks.
    let spec = json!({"audiences": ["a"], "expirationSeconds": 600, "boundObjectRef": null});
    let body = json!({"spec": spec, "status": {"token": "", "expirationTimestamp": null}}).to_string();
    let path = "/api/v1/namespaces/shop/serviceaccounts/web/token";
    let asked =
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = raw(&world, &asked).await;
    assert!(answer.starts_with("HTTP/1.1 201") && answer.contains("\"token\":\"ey"), "{answer}");
    client.delete(Kind::ServiceAccount, "shop", "web", None).await.unwrap();
    assert_eq!(client.review_token(&token, &["istio-ca"]).await.unwrap().authenticated, None);
    assert_eq!(refused(client.create_token("shop", "web", &[]).await).code, 404);
}

#[tokio::test]
async fn services_get_an_address_and_a_row_in_the_table() {
    let World { client, .. } = &world(StoreSettings::default()).await;
    for name in ["a", "b"] {
        client.apply(&service(name), "shop", false).await.unwrap();
    }
    let selection = Selection { labels: "app=b".to_owned(), ..Selection::default() };
    let list = client.list(Kind::Service, &selection).await.unwrap();
    let items = list["items"].as_array().unwrap();
    assert_eq!((items.len(), &list["kind"]), (1, &json!("ServiceList")));
    let address = items[0]["spec"]["clusterIP"].as_str().unwrap();
    let table = client.table(Kind::Service, &selection, None).await.unwrap();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][2], address);
    let selection = Selection { namespace: Some("shop".to_owned()), ..Selection::default() };
    let one = client.table(Kind::Service, &selection, Some("a")).await.unwrap();
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_field() {
    let World { client, admission, .. } = &world(StoreSettings::default()).await;
    let mut wrong = virtual_service("v1");
    wrong["spec"]["http"][0]["rout"] = json!([]);
    let invalid = refused(client.apply(&wrong, "shop", false).await);
    assert_eq!((invalid.code, invalid.reason.as_str()), (422, "Invalid"));
    assert_eq!(invalid.causes[0].0, "spec.http[0].rout");
    assert!(invalid.message.contains("route"), "the nearest name is suggested: {}", invalid.message);
    assert_eq!(refused(client.apply(&service("a"), "nowhere", false).await).code, 404);
    let existing = client.apply(&service("a"), "shop", false).await.unwrap().object;
    let twice = refused(client.create(Kind::Service, "shop", &service("a")).await);
    assert_eq!((twice.code, twice.reason.as_str()), (409, "AlreadyExists"));
    client.merge_patch(Kind::Service, "shop", "a", &json!({"metadata": {"labels": {"new": "yes"}}})).await.unwrap();
    let stale = refused(client.replace(Kind::Service, "shop", "a", &existing).await);
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));
    let revision = admission.store().revision();
    client.apply(&service("dry"), "shop", true).await.unwrap();
    assert_eq!(admission.store().revision(), revision, "a dry run stores nothing");
    assert_eq!(refused(client.apply(&wrong, "shop", true).await).code, 422);
    // Known, and not carried out.
    wrong["spec"] = json!({"hosts": ["a"], "tcp": [
        {"match": [{"sourceSubnet": "10.0.0.0/8"}], "route": [{"destination": {"host": "a"}}]}]});
    let not_yet = refused(client.apply(&wrong, "shop", true).await);
    assert_eq!(not_yet, refused(client.apply(&wrong, "shop", false).await));
    assert_eq!(not_yet.causes[0].0, "spec.tcp[0].match[0].sourceSubnet");
}

/// What `lateen apply` reads from a file.
fn manifests(objects: &[Value]) -> Vec<Manifest> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let options = ReadOptions { namespace: "shop", only_that_namespace: false };
    read_manifests("shop.yaml", list.as_bytes(), options).complete().unwrap()
}

#[tokio::test]
async fn several_objects_are_written_together_or_not_at_all() {
    let World { client, admission, .. } = &world(StoreSettings::default()).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}});
    let mut elsewhere = service("b");
    elsewhere["metadata"]["namespace"] = json!("new");
    let mut nowhere = service("c");
    nowhere["metadata"]["namespace"] = json!("nowhere");
    let mut wrong = service("d");
    wrong["spec"]["ports"][0]["port"] = json!(0);
    let revision = admission.store().revision();
    let all = manifests(&[service("a"), elsewhere.clone(), nowhere, namespace.clone(), wrong]);
    let refused = refused(client.apply_all(&all, false).await);
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    for told in ["shop.yaml, document 1, Service shop/d: spec.ports[0]", "Service nowhere/c: namespaces"] {
        assert!(refused.message.contains(told), "{}", refused.message);
    }
    assert_eq!(admission.store().revision(), revision, "{:?}", admission.store().snapshot());

    // What names each other may stand in any order, and looks wrong no more than it is.
    let subset = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "web"},
        "spec": {"host": "web", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]},
    });
    let right = manifests(&[virtual_service("v1"), elsewhere, namespace, subset, service("web")]);
    let rehearsed = client.apply_all(&right, true).await.unwrap();
    assert_eq!(admission.store().revision(), revision, "a dry run stores nothing");
    let applied = client.apply_all(&right, false).await.unwrap();
    for answer in [&rehearsed, &applied] {
        assert!(answer.warnings.is_empty(), "{:?}", answer.warnings);
        assert!(answer.items.iter().all(|made| made.done == Done::Created), "{:?}", answer.items);
    }
    assert_eq!(applied.items[0].object["apiVersion"], "networking.istio.io/v1beta1");
    assert_eq!(client.get(Kind::Service, "new", "b").await.unwrap()["spec"]["selector"]["app"], "b");
    let again = client.apply_all(&right, false).await.unwrap();
    assert!(again.items.iter().all(|made| made.done == Done::Unchanged), "{:?}", again.items);
}

#[tokio::test]
async fn what_looks_wrong_is_a_warning() {
    let World { client, .. } = &world(StoreSettings::default()).await;
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "all"},
        "spec": {
            "hosts": ["all.example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "resolution": "STATIC", "location": "MESH_INTERNAL", "workloadSelector": {"labels": {}},
        },
    });
    let applied = client.apply(&entry, "shop", false).await.unwrap();
    assert_eq!(applied.warnings.len(), 1, "{:?}", applied.warnings);
    assert!(applied.warnings[0].contains("spec.workloadSelector.labels: empty"), "{:?}", applied.warnings);
}

#[tokio::test]
async fn watches_begin_where_lists_end() {
    let World { client, .. } = &world(StoreSettings::default()).await;
    client.apply(&service("a"), "shop", false).await.unwrap();
    let selection = Selection { labels: "app in (a,b)".to_owned(), ..Selection::default() };
    let list = client.list(Kind::Service, &selection).await.unwrap();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = client.watch(Kind::Service, &selection, revision).await.unwrap();
    client.apply(&service("c"), "shop", false).await.unwrap();
    client.apply(&service("b"), "shop", false).await.unwrap();
    client.merge_patch(Kind::Service, "shop", "a", &json!({"metadata": {"labels": {"app": "z"}}})).await.unwrap();
    client.delete(Kind::Service, "shop", "b", None).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = watch.next().await.unwrap().unwrap();
        seen.push((event.kind, event.object["metadata"]["name"].as_str().unwrap().to_owned()));
    }
    let expected = [(EventKind::Added, "b"), (EventKind::Deleted, "a"), (EventKind::Deleted, "b")]
        .map(|(kind, name)| (kind, name.to_owned()));
    assert_eq!(seen, expected, "what is no longer selected is gone for the watcher");
}

#[tokio::test]
async fn a_revision_that_is_no_longer_kept_is_expired() {
    let settings = StoreSettings { history_events: 2, ..StoreSettings::default() };
    let World { client, .. } = &world(settings).await;
    for name in ["a", "b", "c", "d"] {
        client.apply(&service(name), "shop", false).await.unwrap();
    }
    let watch = client.watch(Kind::Service, &Selection::default(), "1").await;
    assert!(watch.unwrap_err().is_expired());
}

async fn until(snapshots: &mut watch::Receiver<Option<Snapshot>>, holds: impl Fn(&Snapshot) -> bool) {
    let reached = snapshots.wait_for(|snapshot| snapshot.as_ref().is_some_and(&holds));
    tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_replica_follows_and_survives_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let start = |admission: &Admission| {
        let listener = UnixListener::bind(&socket).unwrap();
        let running = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        running.spawn({
            let server = Server::new(admission.clone(), None, Tokens::new().unwrap());
            let listener = listener.into_std().unwrap();
            async move { serve(UnixListener::from_std(listener).unwrap(), server).await }
        });
        running
    };
    let cluster = |seed| Admission::new(Store::new(StoreSettings { seed: [seed, 0], ..StoreSettings::default() }));
    let first = cluster(1);
    let running = start(&first);
    let client = Client::new(&socket);
    let (sender, mut snapshots) = watch::channel(None);
    let replica = tokio::spawn({
        let client = client.clone();
        async move { replicate(client, &[Kind::Namespace, Kind::Service], sender).await }
    });
    until(&mut snapshots, |snapshot| snapshot.count(Kind::Namespace) == 0).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    client.apply(&namespace, "", false).await.unwrap();
    client.apply(&service("a"), "shop", false).await.unwrap();
    until(&mut snapshots, |snapshot| snapshot.find(Kind::Service, "shop", "a").is_some()).await;
    // Another server with other objects and lower revisions takes the first one's place.
    running.shutdown_background();
    std::fs::remove_file(&socket).unwrap();
    let second = cluster(2);
    let _running = start(&second);
    client.apply(&namespace, "", false).await.unwrap();
    client.apply(&service("b"), "shop", false).await.unwrap();
    until(&mut snapshots, |snapshot| {
        snapshot.find(Kind::Service, "shop", "b").is_some() && snapshot.find(Kind::Service, "shop", "a").is_none()
    })
    .await;
    drop(snapshots);
    replica.await.unwrap();
    _running.shutdown_background();
}

#[tokio::test]
async fn a_replica_claims_no_revision_that_it_does_not_hold() {
    const PAIRS: usize = 100;
    let World { client, admission, .. } = &world(StoreSettings::default()).await;
    let (sender, mut snapshots) = watch::channel(None);
    tokio::spawn(replicate(client.clone(), &[Kind::ServiceAccount, Kind::Service], sender));
    until(&mut snapshots, |_| true).await;
    let account = |name: String| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "shop"}});
    let mut written = Vec::new();
    for index in 0..PAIRS {
        let mut service = service(&format!("s{index}"));
        service["metadata"]["namespace"] = json!("shop");
        for (kind, object) in [(Kind::Service, service), (Kind::ServiceAccount, account(format!("a{index}")))] {
            let (outcome, _) = admission.write(Change::Create(Object::decode(object).unwrap())).unwrap();
            written.push((kind, outcome.object.name().to_owned(), outcome.object.revision()));
        }
        let Some(snapshot) = snapshots.borrow_and_update().clone() else { panic!("there was one") };
        for (kind, name, revision) in &written {
            let there = snapshot.find(*kind, "shop", name).is_some();
            assert!(there || *revision > snapshot.revision(), "{kind} {name} at {}", snapshot.revision());
        }
        tokio::task::yield_now().await;
    }
    // What it does not follow is seen all of, too.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "last"}});
    let last = client.apply(&map, "shop", false).await.unwrap().object;
    let last: u64 = last["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    until(&mut snapshots, |snapshot| snapshot.revision() == last).await;
}

/// What a client that is not ours sends and gets, byte for byte.
async fn raw(world: &World, request: &str) -> String {
    let mut stream = UnixStream::connect(world.client.socket()).await.unwrap();
    // A server that refuses a body need not have read all of it.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn discovery_and_refusals_are_what_any_client_expects() {
    let world = world(StoreSettings::default()).await;
    for (path, expected) in [
        ("/version", "\"gitVersion\""),
        ("/api", "APIVersions"),
        ("/apis", "networking.istio.io"),
        ("/apis/apps/v1", "deployments"),
        ("/openapi/v3", "/openapi/v3/apis/networking.istio.io/v1beta1"),
        ("/openapi/v3/api/v1", "/api/v1/namespaces/{name}"),
        ("/openapi/v3/apis/apps/v1", "fieldValidation"),
        ("/healthz", "ok"),
    ] {
        let answer = raw(&world, &get(path)).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(expected), "{path}: {answer}");
    }
    for (path, status) in [
        ("/api/v1/namespaces/shop/gadgets", "404"),
        ("/apis/apps/v9/deployments", "404"),
        ("/openapi/v3/apis/apps/v9", "404"),
        ("/api/v1/services?labelSelector=%3D", "400"),
        ("/api/v1/services?fieldSelector=spec.color%3Dred", "400"),
        ("/api/v1/services?watch=1&resourceVersion=x", "400"),
        ("/api/v1/namespaces/shop/pods/none/log", "404"),
        ("/api/v1/services/a", "404"),
    ] {
        let answer = raw(&world, &get(path)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains("\"Status\""), "{path}: {answer}");
    }
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: b}\n";
    let post = |kind: &str, body: &str| {
        format!(
            "POST /api/v1/namespaces/shop/configmaps HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert!(raw(&world, &post("application/yaml", yaml)).await.starts_with("HTTP/1.1 201"));
    assert!(raw(&world, &post("application/vnd.kubernetes.protobuf", yaml)).await.starts_with("HTTP/1.1 415"));
    let body = "k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x0d\n\x03\n\x01p\x12\x06\n\x01a\x12\x01b";
    assert!(raw(&world, &post("application/vnd.kubernetes.protobuf", body)).await.starts_with("HTTP/1.1 201"));
    assert_eq!(world.client.get(Kind::ConfigMap, "shop", "p").await.unwrap()["data"], json!({"a": "b"}));
    let large =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: l}}\ndata: {{a: {}}}\n", "x".repeat(4 << 20));
    assert!(raw(&world, &post("application/yaml", &large)).await.starts_with("HTTP/1.1 413"));
}
