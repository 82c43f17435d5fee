//! Worlds for tests: manifests in, a pilot or a set of resources out.

use crate::node::Node;
use crate::push::{Pilot, State};
use crate::{Config, push};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use lateen_galley::{ReadOptions, Snapshot, read_manifests};
use lateen_xds::ResourceSet;
use lateen_xds::ads::server::{Connection, Discovery, Peer, StreamStatus};
use std::sync::Arc;
use tokio::sync::watch;

/// The canary example: two versions of a service behind a gateway.
pub const CANARY: &str = include_str!("../testdata/canary-in.yaml");

/// Node of a sidecar in [`CANARY`].
pub const SIDECAR: &str = "sidecar~10.244.0.5~hello-v1.shop~shop.svc.cluster.local";
/// Node of the gateway in [`CANARY`].
pub const GATEWAY: &str = "router~10.244.0.2~ingress.istio-system~istio-system.svc.cluster.local";

/// Objects of a cluster.
#[derive(Clone, Default)]
pub struct Cluster(pub Snapshot);

impl Cluster {
    pub fn read(text: &str) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.apply(text);
        cluster
    }

    /// Adds objects, or puts them in place of those with their names.
    pub fn apply(&mut self, text: &str) {
        let manifests = read_manifests("test.yaml", text.as_bytes(), ReadOptions::default()).complete().unwrap();
        for manifest in manifests {
            self.0.insert(Arc::new(manifest.object));
        }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(self.0.clone())
    }

    /// State that has been pushed once.
    pub fn state(&self, config: Config) -> State {
        let mut state = State::new(config);
        assert_eq!(state.take(self.snapshot()), push::Pending::Now);
        state.push();
        state
    }

    /// A running pilot that has read the cluster.
    pub fn pilot(&self) -> Pilot {
        let pilot = Pilot::new(Config::default()).unwrap();
        pilot.update(self.snapshot());
        while !pilot.look(State::synced) {
            std::thread::yield_now();
        }
        pilot
    }

    /// What a proxy is sent.
    pub fn resources(&self, node: &core::Node) -> Arc<ResourceSet> {
        let mut state = self.state(Config::default());
        add(&mut state, node).resources.borrow().clone()
    }
}

/// A node without metadata, labelled as given.
pub fn node(id: &str, labels: &[(&str, &str)]) -> core::Node {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
    let fields = [
        ("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(Struct { fields: labels })) }),
        ("DNS_CAPTURE".to_owned(), text("true")),
    ];
    core::Node { id: id.to_owned(), metadata: Some(Struct { fields: fields.into() }), ..Default::default() }
}

/// A connected proxy; it is gone when this is dropped.
pub struct Connected {
    pub resources: watch::Receiver<Arc<ResourceSet>>,
    _status: watch::Sender<StreamStatus>,
}

pub fn add(state: &mut State, node: &core::Node) -> Connected {
    add_node(state, Node::parse(node).unwrap())
}

pub fn add_node(state: &mut State, node: Node) -> Connected {
    let (status, receiver) = watch::channel(StreamStatus::default());
    let resources = state.connect(node, receiver).unwrap();
    Connected { resources, _status: status }
}

pub fn connect(pilot: &Pilot, id: &str) -> Connection {
    pilot.connect(&node(id, &[]), &Peer::default()).unwrap()
}
