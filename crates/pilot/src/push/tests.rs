use super::*;
use crate::testing::{self, CANARY, Cluster, GATEWAY};
use lateen_xds::ads::server::TypeStatus;
use lateen_xds::{ResourceSet, ResourceType};
use std::time::Duration;
use tonic::Code;

/// Longer than any machine takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

async fn until(connection: &mut Connection, what: impl Fn(&ResourceSet) -> bool) {
    let seen = connection.resources.wait_for(|resources| what(resources));
    tokio::time::timeout(PATIENCE, seen).await.unwrap().unwrap();
}

#[tokio::test]
async fn changes_reach_connected_proxies() {
    let mut cluster = Cluster::read(CANARY);
    let pilot = cluster.pilot();
    let mut connection = testing::connect(&pilot, GATEWAY);
    let version = |resources: &ResourceSet, kind: &ResourceType, name: &str| {
        resources.get(kind, name).map(lateen_xds::Resource::version)
    };
    let endpoints = "outbound|8080||helloworld.shop.svc.cluster.local";
    let before = connection.resources.borrow().clone();

    cluster.apply(&CANARY.replace("addresses: [10.244.0.6], conditions: {ready: true}", "addresses: [10.244.0.7]"));
    pilot.update(cluster.snapshot());
    let known = version(&before, &ResourceType::Endpoint, endpoints);
    until(&mut connection, |now| version(now, &ResourceType::Endpoint, endpoints) != known).await;

    cluster.apply(&CANARY.replace("weight: 90", "weight: 50"));
    pilot.update(cluster.snapshot());
    let known = version(&before, &ResourceType::Route, "http.8080");
    until(&mut connection, |now| version(now, &ResourceType::Route, "http.8080") != known).await;
}

#[test]
fn who_has_not_asked_for_its_routes_yet_is_not_in_step() {
    let pilot = Cluster::read(CANARY).pilot();
    let connection = testing::connect(&pilot, GATEWAY);
    let set = connection.resources.borrow().clone();
    let tell = |asked: &[ResourceType]| {
        let names = |kind: &ResourceType| set.of_type(kind).count();
        let types = asked.iter().map(|kind| (kind.clone(), TypeStatus { names: names(kind), ..TypeStatus::default() }));
        let status = StreamStatus { version: Arc::clone(set.version()), types: types.collect(), ..Default::default() };
        connection.status.send_replace(status);
        pilot.look(|state| state.proxies().all(|proxy| proxy.status.borrow().synced() && proxy.has_answered()))
    };
    let [clusters, endpoints, listeners, routes] = ResourceType::CORE;
    assert!(!tell(&[clusters.clone(), listeners.clone()]));
    assert!(!tell(&[clusters.clone(), endpoints.clone(), listeners.clone()]));
    assert!(tell(&[clusters, endpoints, listeners, routes]));
}

#[test]
fn refusals_say_whose_fault_it_is() {
    let pilot = Pilot::new(Config::default()).unwrap();
    let early = pilot.connect(&testing::node(GATEWAY, &[]), &lateen_xds::ads::server::Peer::default()).unwrap_err();
    assert_eq!(early.code(), Code::Unavailable);
    let wrong = pilot
        .connect(&testing::node("gateway~1.2.3.4~a.b~c", &[]), &lateen_xds::ads::server::Peer::default())
        .unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_worker_ends_with_the_last_pilot() {
    let pilot = Cluster::read(CANARY).pilot();
    let shared = Arc::downgrade(&pilot.0.shared);
    let mut connection = testing::connect(&pilot, GATEWAY);
    drop(pilot.clone());
    assert!(shared.upgrade().is_some());
    drop(pilot);
    // The worker lets go of the state, and with it of the senders.
    let ended = async { while connection.resources.changed().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(shared.upgrade().is_none());
}
