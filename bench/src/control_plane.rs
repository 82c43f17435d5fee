//! The control plane alone, with so many proxies that no machine could run them: their streams are state machines in this
//! process, which take what they are sent and acknowledge it. What is measured is all that is done for them but sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_galley::{Object, Snapshot};
use lateen_pilot::push::State;
use lateen_pilot::{Config, Pilot};
use lateen_tests::process::Cost;
use lateen_xds::ads::Protocol;
use lateen_xds::ads::server::{Connection, Discovery, Peer, Push, ServerStream};
use lateen_xds::pb::envoy::config::core::v3::Node;
use lateen_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lateen_xds::{ResourceSet, ResourceType};
use serde_json::{Value, json};

/// Endpoints of each service.
const ENDPOINTS: usize = 5;
/// Services and proxies of one namespace reach each other where proxies' scopes are set.
const NAMESPACES: usize = 50;
/// Changes of one endpoint each, one after the other.
const CHANGES: usize = 200;
/// Edits of one rule each, one after the other.
const EDITS: usize = 20;

/// What was found in one mesh.
pub struct Found {
    services: usize,
    proxies: usize,
    endpoint: Change,
    virtual_service: Change,
    destination_rule: Change,
    /// Time until all proxies had everything, seconds.
    load: f64,
    /// Resident, MiB.
    memory: f64,
}

/// What one change costs, of several.
struct Change {
    /// Time until those concerned had acknowledged it, milliseconds.
    time: f64,
    /// How many proxies it was told.
    concerned: usize,
}

/// A proxy as its control plane sees it.
struct Client {
    connection: Connection,
    stream: ServerStream,
}

impl Client {
    fn connect(pilot: &Pilot, number: usize) -> Client {
        let namespace = number % NAMESPACES;
        let id = format!(
            "sidecar~10.{}.{}.{}~p{number}.ns{namespace}~ns{namespace}.svc.cluster.local",
            1 + number / 62_500,
            number / 250 % 250,
            number % 250
        );
        let mut connection = pilot.connect(&Node { id, ..Node::default() }, &Peer::default()).expect("it may connect");
        let set = Arc::clone(&connection.resources.borrow_and_update());
        let mut client = Client { connection, stream: ServerStream::new(Protocol::Delta, Arc::clone(&set)) };
        for r#type in ResourceType::CORE {
            let named = !r#type.nameless_means_all();
            let names = set.of_type(&r#type).filter(|_| named).map(|resource| resource.name().to_string()).collect();
            client.ask(&r#type, DeltaDiscoveryRequest { resource_names_subscribe: names, ..Default::default() });
        }
        client
    }

    fn ask(&mut self, r#type: &ResourceType, request: DeltaDiscoveryRequest) {
        let request = DeltaDiscoveryRequest { type_url: r#type.url().to_owned(), ..request };
        let pushes = self.stream.on_delta_request(request, Instant::now()).expect("a request within the limits");
        self.take(pushes);
    }

    /// Takes responses as they would go over the wire, and acknowledges them.
    fn take(&mut self, pushes: Vec<Push>) {
        for push in pushes {
            std::hint::black_box(push.to_delta());
            self.ask(
                &push.r#type,
                DeltaDiscoveryRequest { response_nonce: push.nonce.to_string(), ..Default::default() },
            );
        }
        self.connection.status.send_replace(self.stream.status());
    }

    /// Takes what is new. Tells whether there was anything.
    fn follow(&mut self) -> bool {
        if !self.connection.resources.has_changed().expect("the pilot runs") {
            return false;
        }
        let set: Arc<ResourceSet> = Arc::clone(&self.connection.resources.borrow_and_update());
        let pushes = self.stream.on_update(set, Instant::now());
        let told = !pushes.is_empty();
        self.take(pushes);
        told
    }
}

/// Starts a pilot, gives it services and proxies, and changes endpoints and rules. With `scoped` proxies reach only what is in their
/// namespace.
pub fn measure(services: usize, proxies: usize, scoped: bool) -> Found {
    let mut snapshot = Snapshot::default();
    let put = |snapshot: &mut Snapshot, value: Value| {
        snapshot.insert(Arc::new(Object::decode(value).expect("an object")));
    };
    for index in 0..services {
        put(&mut snapshot, service(index));
        put(&mut snapshot, endpoints(index, 0));
        put(&mut snapshot, virtual_service(index, 0));
        put(&mut snapshot, destination_rule(index, 0));
    }
    if scoped {
        put(
            &mut snapshot,
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
                "metadata": {"name": "default", "namespace": "istio-system"},
                "spec": {"egress": [{"hosts": ["./*"]}]},
            }),
        );
    }
    let begun = Instant::now();
    // What is measured is work, not waiting for more of it.
    let config = Config { debounce_quiet: Duration::ZERO, ..Config::default() };
    let pilot = Pilot::new(config).expect("a thread");
    pilot.update(Arc::new(snapshot.clone()));
    while !pilot.look(State::synced) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut clients: Vec<Client> = (0..proxies).map(|number| Client::connect(&pilot, number)).collect();
    let load = begun.elapsed().as_secs_f64();

    let mut change = |times: usize, object: fn(usize, usize) -> Value| {
        let mut told = 0;
        let begun = Instant::now();
        for turn in 1..=times {
            put(&mut snapshot, object(turn % services, turn));
            let revision = snapshot.revision() + 1;
            snapshot.set_revision(revision);
            pilot.update(Arc::new(snapshot.clone()));
            while pilot.look(State::revision) < revision {
                std::thread::yield_now();
            }
            told += clients.iter_mut().map(Client::follow).filter(|told| *told).count();
        }
        Change { time: begun.elapsed().as_secs_f64() * 1e3 / times as f64, concerned: told / times }
    };
    let endpoint = change(CHANGES, endpoints);
    let virtual_service = change(EDITS, virtual_service);
    let destination_rule = change(EDITS, destination_rule);
    let memory = Cost::of(std::process::id() as i32).expect("this process").rss_kib as f64 / 1024.0;
    Found { services, proxies, endpoint, virtual_service, destination_rule, load, memory }
}

fn service(index: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{index}"), "namespace": format!("ns{}", index % NAMESPACES)},
        "spec": {"clusterIP": format!("10.96.{}.{}", index / 250, index % 250), "ports": [{"name": "http", "port": 80}]},
    })
}

/// A rule that divides a service's requests between its subsets; with another `turn` in another way.
fn virtual_service(index: usize, turn: usize) -> Value {
    let name = format!("s{index}");
    let to = |subset: &str, weight: usize| json!({"destination": {"host": name, "subset": subset}, "weight": weight});
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": format!("ns{}", index % NAMESPACES)},
        "spec": {"hosts": [name], "http": [{"route": [to("v1", 99 - turn % 50), to("v2", 1 + turn % 50)]}]},
    })
}

/// The subsets of a service, and limits that are others with another `turn`.
fn destination_rule(index: usize, turn: usize) -> Value {
    let name = format!("s{index}");
    let subsets = ["v1", "v2"].map(|version| json!({"name": version, "labels": {"version": version}}));
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": format!("ns{}", index % NAMESPACES)},
        "spec": {
            "host": name,
            "trafficPolicy": {"connectionPool": {"http": {"http1MaxPendingRequests": 100 + turn}}},
            "subsets": subsets,
        },
    })
}

/// The endpoints of a service; with another `turn` the last one is another.
fn endpoints(index: usize, turn: usize) -> Value {
    let address = |endpoint: usize| {
        let first = if endpoint + 1 == ENDPOINTS { 20 + turn % 200 } else { endpoint };
        json!({"addresses": [format!("172.{first}.{}.{}", index / 250, index % 250 + 1)], "conditions": {"ready": true}})
    };
    let name = format!("s{index}");
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": format!("ns{}", index % NAMESPACES), "labels": {"kubernetes.io/service-name": name}},
        "endpoints": (0..ENDPOINTS).map(address).collect::<Vec<_>>(), "ports": [{"name": "http", "port": 8080}],
    })
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "  {:>8} services, {:>5} proxies: {:>7.1} s to load, {:>6.0} MiB; ms, and proxies told, for one endpoint {}, \
             VirtualService {}, DestinationRule {}",
            self.services,
            self.proxies,
            self.load,
            self.memory,
            self.endpoint,
            self.virtual_service,
            self.destination_rule
        )
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ({})", self.time, self.concerned)
    }
}
