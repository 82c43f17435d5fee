//! The server's stream alone, request by request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;
use envoy_types::pb::google::rpc::Status;
use prost::Message as _;

use super::stream::PATIENCE;
use super::{Push, ServerStream, StreamError};
use crate::ads::Protocol;
use crate::{Resource, ResourceSet, ResourceType};

use ResourceType::{Cluster as Cds, Endpoint as Eds, Listener as Lds, Route as Rds};

fn cluster(name: &str, seconds: i64) -> Resource {
    let message = Cluster {
        name: name.to_owned(),
        connect_timeout: Some(ProtoDuration { seconds, nanos: 0 }),
        eds_cluster_config: Some(cluster::EdsClusterConfig::default()),
        ..Default::default()
    };
    Resource::new(name, &message)
}

fn listener(name: &str) -> Resource {
    Resource::new(name, &Listener { name: name.to_owned(), ..Default::default() })
}

fn clusters(names: &[&str], seconds: i64) -> ResourceSet {
    ResourceSet::new(seconds.to_string()).with(Cds, names.iter().map(|name| cluster(name, seconds)))
}

/// The set with another content of a cluster.
fn changed(set: ResourceSet, cluster: Resource) -> ResourceSet {
    let mut clusters = set.all_of(&Cds);
    clusters.insert(Arc::clone(cluster.name()), cluster);
    set.with_all(Cds, clusters)
}

struct Stream {
    stream: ServerStream,
    now: Instant,
}

impl Stream {
    fn new(set: ResourceSet) -> Stream {
        Stream { stream: ServerStream::new(Protocol::Delta, Arc::new(set)), now: Instant::now() }
    }

    fn ask(&mut self, r#type: &ResourceType, request: DeltaDiscoveryRequest) -> Vec<Push> {
        let request = DeltaDiscoveryRequest { type_url: r#type.url().to_owned(), ..request };
        self.stream.on_delta_request(request, self.now).unwrap()
    }

    fn subscribe(&mut self, r#type: &ResourceType, names: &[&str]) -> Vec<Push> {
        let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        self.ask(r#type, DeltaDiscoveryRequest { resource_names_subscribe, ..Default::default() })
    }

    fn ack(&mut self, push: &Push) -> Vec<Push> {
        self.ask(&push.r#type, DeltaDiscoveryRequest { response_nonce: push.nonce.to_string(), ..Default::default() })
    }

    fn nack(&mut self, push: &Push, message: &str) -> Vec<Push> {
        let error_detail = Some(Status { message: message.to_owned(), ..Default::default() });
        let response_nonce = push.nonce.to_string();
        self.ask(&push.r#type, DeltaDiscoveryRequest { response_nonce, error_detail, ..Default::default() })
    }

    fn update(&mut self, set: ResourceSet) -> Vec<Push> {
        self.stream.on_update(Arc::new(set), self.now)
    }
}

/// Type, names and removals of each response.
fn told(pushes: &[Push]) -> Vec<String> {
    let names = |push: &Push| push.resources.iter().map(|resource| resource.name().to_string()).collect::<Vec<_>>();
    let removed = |push: &Push| push.removed.iter().map(|name| format!("-{name}")).collect::<Vec<_>>();
    pushes.iter().map(|push| format!("{} {}", push.r#type, [names(push), removed(push)].concat().join(" "))).collect()
}

fn only(pushes: Vec<Push>) -> Push {
    let [push] = <[Push; 1]>::try_from(pushes).unwrap_or_else(|pushes| panic!("{:?}", told(&pushes)));
    push
}

#[test]
fn the_one_at_fault_is_found_and_the_rest_moves() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let mut stream = Stream::new(clusters(&names, 1));
    let mut push = only(stream.subscribe(&Cds, &[]));
    // A client that says nothing of use: halves, until the one is alone.
    let mut rounds = 0;
    loop {
        let bad = push.resources.iter().any(|resource| &**resource.name() == "f");
        let next = if bad { stream.nack(&push, "no") } else { stream.ack(&push) };
        rounds += 1;
        if next.is_empty() {
            break;
        }
        push = only(next);
    }
    assert!(rounds <= 8, "{rounds}");
    let status = stream.stream.status();
    let of_clusters = &status.types[&Cds];
    assert_eq!(of_clusters.refused.keys().map(|name| &**name).collect::<Vec<_>>(), ["f"]);
    assert_eq!(of_clusters.refused["f"].message, "no");
    assert!(!status.synced());

    // It is held back until it changes; others are not.
    let set = changed(clusters(&names, 1), cluster("a", 2));
    let push = only(stream.update(set.clone()));
    assert_eq!(told(std::slice::from_ref(&push)), ["CDS a"]);
    assert!(stream.ack(&push).is_empty());
    let push = only(stream.update(changed(set, cluster("f", 2))));
    assert_eq!(told(std::slice::from_ref(&push)), ["CDS f"]);
    stream.ack(&push);
    assert!(stream.stream.status().synced());
}

#[test]
fn a_refusal_that_names_names_is_believed_at_once() {
    let mut stream = Stream::new(clusters(&["a", "b", "a.b", "c"], 1));
    let push = only(stream.subscribe(&Cds, &[]));
    let push = only(stream.nack(&push, "Error adding/updating cluster(s) a.b: bad."));
    assert_eq!(told(std::slice::from_ref(&push)), ["CDS a b c"], "a.b is not a");
    let push = only(stream.ack(&push));
    assert_eq!(told(std::slice::from_ref(&push)), ["CDS a.b"]);
    assert!(stream.nack(&push, "again").is_empty());
    assert_eq!(stream.stream.status().types[&Cds].rejects, 2);
}

#[test]
fn changes_merge_while_a_response_is_under_way() {
    let mut stream = Stream::new(clusters(&["a"], 1));
    let first = only(stream.subscribe(&Cds, &[]));
    assert!(stream.update(clusters(&["a", "b"], 2)).is_empty());
    assert!(stream.update(clusters(&["a", "b"], 3)).is_empty());
    assert!(
        stream.ask(&Cds, DeltaDiscoveryRequest { response_nonce: "stale".into(), ..Default::default() }).is_empty()
    );
    let second = only(stream.ack(&first));
    assert_eq!((told(std::slice::from_ref(&second)), &*second.version), (vec!["CDS a b".to_owned()], "3"));
    assert!(stream.ack(&second).is_empty());
}

#[test]
fn listeners_wait_for_clusters_but_not_for_ever() {
    let set = clusters(&["a"], 1).with(Lds, [listener("l")]);
    let mut stream = Stream::new(set);
    let push = only(stream.subscribe(&Cds, &[]));
    assert!(stream.subscribe(&Lds, &[]).is_empty());
    assert_eq!(stream.stream.deadline(), Some(stream.now + PATIENCE));
    stream.now += PATIENCE - Duration::from_millis(1);
    assert!(stream.stream.on_deadline(stream.now).is_empty());
    stream.now += Duration::from_millis(1);
    assert_eq!(told(&stream.stream.on_deadline(stream.now)), ["LDS l"]);
    assert_eq!(stream.stream.deadline(), None);
    assert!(stream.ack(&push).is_empty());
}

#[test]
fn endpoints_follow_a_changed_cluster_without_being_asked_for() {
    let endpoints = |name: &str| {
        Resource::new(name, &ClusterLoadAssignment { cluster_name: name.to_owned(), ..Default::default() })
    };
    let set = |seconds| clusters(&["a", "b"], seconds).with(Eds, [endpoints("a"), endpoints("b")]);
    let mut stream = Stream::new(set(1));
    let cds = only(stream.subscribe(&Cds, &[]));
    let eds = only(stream.subscribe(&Eds, &["a", "b"]));
    stream.ack(&cds);
    stream.ack(&eds);
    // Before the acknowledgement: Envoy gives it only when the cluster is warm.
    let after = changed(set(1), cluster("b", 2));
    assert_eq!(told(&stream.update(after)), ["CDS b", "EDS b"]);
}

#[test]
fn clusters_go_when_nothing_can_refer_to_them() {
    let routes = |n: &str| {
        Resource::new("r", &RouteConfiguration { name: "r".into(), vhost_header: n.into(), ..Default::default() })
    };
    let set = |names: &[&str], n: &str| clusters(names, 1).with(Lds, [listener("l")]).with(Rds, [routes(n)]);
    let mut stream = Stream::new(set(&["old"], "1"));
    for (r#type, names) in [(Cds, &[][..]), (Lds, &[]), (Rds, &["r"])] {
        for push in stream.subscribe(&r#type, names) {
            for push in stream.ack(&push) {
                stream.ack(&push);
            }
        }
    }
    let cds = only(stream.update(set(&["new"], "2")));
    assert_eq!(told(std::slice::from_ref(&cds)), ["CDS new"]);
    let rds = only(stream.ack(&cds));
    assert_eq!(told(std::slice::from_ref(&rds)), ["RDS r"]);
    // While the client keeps the older routes, it keeps what they lead to.
    assert!(stream.nack(&rds, "no").is_empty());
    let rds = only(stream.update(set(&["new"], "3")));
    assert_eq!(told(&stream.ack(&rds)), ["CDS -old"]);
}

#[test]
fn names_nobody_knows_are_answered() {
    let mut stream = Stream::new(ResourceSet::new("1"));
    let eds = only(stream.subscribe(&Eds, &["x"]));
    let assignment = ClusterLoadAssignment::decode(eds.resources[0].body().clone()).unwrap();
    assert_eq!((assignment.cluster_name.as_str(), assignment.endpoints.len()), ("x", 0));
    stream.ack(&eds);
    assert_eq!(told(&stream.subscribe(&Rds, &["y"])), ["RDS y"]);
    assert_eq!(told(&stream.subscribe(&ResourceType::Secret, &["z"])), ["SDS -z"]);
    assert_eq!(told(&stream.subscribe(&Cds, &[])), ["CDS "], "an empty answer ends the wait for clusters");
    // No names of a type without wildcard: nothing is asked for.
    assert!(stream.subscribe(&ResourceType::Other("type.googleapis.com/x".into()), &[]).is_empty());
}

#[test]
fn a_name_asked_for_again_is_told_again() {
    let mut stream = Stream::new(clusters(&["a", "b"], 1));
    let push = only(stream.subscribe(&Cds, &["a"]));
    assert_eq!(told(std::slice::from_ref(&push)), ["CDS a"], "named: not all");
    stream.ack(&push);
    assert_eq!(told(&stream.subscribe(&Cds, &["a"])), ["CDS a"]);
}

#[test]
fn who_comes_back_is_told_what_differs() {
    let set = clusters(&["a", "b", "c"], 1);
    let has = |name: &str, version: String| (name.to_owned(), version);
    let version = |name: &str| set.get(&Cds, name).unwrap().version().to_string();
    let initial_resource_versions =
        [has("a", version("a")), has("b", "of another server".into()), has("gone", version("a"))].into();
    let mut stream = Stream::new(set.clone());
    let push = only(stream.ask(&Cds, DeltaDiscoveryRequest { initial_resource_versions, ..Default::default() }));
    assert_eq!(told(std::slice::from_ref(&push)), ["CDS b c"]);
    assert_eq!(push.to_delta().resources[0].version, version("b"));
    stream.ack(&push);
    // Removal waits for the requests for listeners and routes, which are still on their way.
    stream.now += PATIENCE;
    assert_eq!(told(&stream.stream.on_deadline(stream.now)), ["CDS -gone"]);

    let initial_resource_versions = ["a", "b", "c"].map(|name| has(name, version(name))).into_iter().collect();
    let mut stream = Stream::new(set.clone());
    assert!(stream.ask(&Cds, DeltaDiscoveryRequest { initial_resource_versions, ..Default::default() }).is_empty());
    // A refusal of what an earlier stream sent is nothing to this one.
    let mut stream = Stream::new(set.clone());
    let error_detail = Some(Status::default());
    let response_nonce = "7".to_owned();
    let stray = DeltaDiscoveryRequest { response_nonce, error_detail, ..Default::default() };
    assert!(stream.ask(&Cds, stray).is_empty());
    assert_eq!(told(&stream.subscribe(&Cds, &[])), ["CDS a b c"]);
}

#[test]
fn a_complete_state_keeps_what_is_refused_as_it_was() {
    let now = Instant::now();
    let mut stream = ServerStream::new(Protocol::StateOfTheWorld, Arc::new(clusters(&["a", "b"], 1)));
    let mut ask = |nonce: &str, error: Option<&str>, set: Option<ResourceSet>| {
        let mut pushes = stream
            .on_request(
                DiscoveryRequest {
                    type_url: Cds.url().to_owned(),
                    response_nonce: nonce.to_owned(),
                    error_detail: error.map(|error| Status { message: error.to_owned(), ..Default::default() }),
                    ..Default::default()
                },
                now,
            )
            .unwrap();
        if let Some(set) = set {
            pushes.extend(stream.on_update(Arc::new(set), now));
        }
        let seconds =
            |resource: &Resource| Cluster::decode(resource.body().clone()).unwrap().connect_timeout.unwrap().seconds;
        let all = |push: &Push| push.resources.iter().map(seconds).collect::<Vec<_>>();
        pushes.iter().map(|push| (push.nonce.to_string(), all(push))).collect::<Vec<_>>()
    };
    assert_eq!(ask("", None, None), [("1".into(), vec![1, 1])]);
    assert_eq!(ask("1", None, Some(clusters(&["a", "b"], 2))), [("2".into(), vec![2, 2])]);
    assert_eq!(ask("2", Some("b: bad"), None), [("3".into(), vec![2, 1])]);
    assert_eq!(ask("3", None, None), [("4".into(), vec![2, 2])]);
    assert_eq!(ask("4", Some("b: bad"), None), []);
    let set = changed(clusters(&["a", "b"], 2), cluster("a", 3));
    assert_eq!(ask("4", None, Some(set)), [("5".into(), vec![3, 1])]);
}

#[test]
fn what_a_client_makes_a_stream_keep_is_limited() {
    let mut stream = Stream::new(ResourceSet::new("1"));
    let request = |url: String, names: Vec<String>| DeltaDiscoveryRequest {
        type_url: url,
        resource_names_subscribe: names,
        ..Default::default()
    };
    let now = stream.now;
    let many = (0..=100_000).map(|n| n.to_string()).collect();
    assert_eq!(
        stream.stream.on_delta_request(request(Eds.url().to_owned(), many), now),
        Err(StreamError::TooManyNames(Eds))
    );
    assert_eq!(
        stream.stream.on_delta_request(request(Eds.url().to_owned(), vec!["x".repeat(5000)]), now),
        Err(StreamError::NameTooLong(Eds))
    );
    let error = (0..100).find_map(|n| stream.stream.on_delta_request(request(format!("x/{n}"), Vec::new()), now).err());
    assert_eq!(error, Some(StreamError::TooManyTypes));
}
