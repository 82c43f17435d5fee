//! A thousand changes of configuration under load: no request fails that a correct proxy could have served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lateen_galley::{Object, Snapshot};
use lateen_pilot::{Config, Pilot};
use lateen_tests::drawn::dice::Dice;
use lateen_tests::drawn::scenery;
use lateen_tests::load::{Load, Target, failures};
use lateen_tests::message::{Reader, Side};
use lateen_tests::proxy::Kind;
use lateen_tests::stand::{self, GATEWAY, POD, Role};
use lateen_tests::{network, wait};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const SEED: u64 = 20_261_123;
const EDITS: usize = 1000;
const PER_SECOND: u32 = 500;
/// Requests between two edits.
const BETWEEN: usize = 15;
const SERVICES: u8 = 4;
/// Pods a service may have.
const PODS: u8 = 6;
const PORT: u16 = 8080;

/// Pods that run, with their open connections.
#[derive(Default)]
struct Pods(Mutex<BTreeMap<IpAddr, usize>>);

impl Pods {
    fn start(&self, address: Ipv4Addr) {
        self.0.lock().unwrap().insert(address.into(), 0);
    }

    fn stop(&self, address: Ipv4Addr) {
        self.0.lock().unwrap().remove(&address.into());
    }

    /// Notes a connection more (or less); `None` when no such pod runs.
    fn connected(&self, address: IpAddr, more: bool) -> Option<()> {
        let mut running = self.0.lock().unwrap();
        let count = running.get_mut(&address)?;
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        Some(())
    }

    fn connections(&self, address: Ipv4Addr) -> usize {
        self.0.lock().unwrap().get(&address.into()).copied().unwrap_or(0)
    }
}

/// Serves for every pod that runs; others reset who comes.
async fn serve(pods: Arc<Pods>) {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await.unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let pods = pods.clone();
        tokio::spawn(async move {
            let address = stream.local_addr().ok()?.ip();
            if pods.connected(address, true).is_none() {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok()?;
                return None;
            }
            requests(stream).await;
            pods.connected(address, false)
        });
    }
}

async fn requests(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut reader = Reader::new(stream);
    while reader.message(Side::Request).await.is_some_and(|message| !message.cut) {
        if reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

/// What the configuration is made of, as it is now.
struct Mesh {
    dice: Dice,
    /// Of each service its pods' numbers. Odd ones are of one version, even ones of the other; there always are some
    /// of both.
    pods: Vec<BTreeSet<u8>>,
    /// How the subsets of each service are called.
    names: Vec<[String; 2]>,
    rules: Vec<Value>,
    /// Which gateways there are: of the first two always one at least.
    gateways: [bool; 4],
    /// A service that comes and goes.
    guest: bool,
    edits: usize,
}

fn host(service: u8) -> String {
    format!("s{service}.shop.svc.cluster.local")
}

fn pod(service: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 112, service, number)
}

impl Mesh {
    fn new() -> Mesh {
        let mut mesh = Mesh {
            dice: Dice::new(SEED, 0),
            pods: vec![BTreeSet::from([1, 2, 3, 4]); usize::from(SERVICES) + 1],
            names: vec![["one".to_owned(), "two".to_owned()]; usize::from(SERVICES) + 1],
            rules: Vec::new(),
            gateways: [true, false, false, false],
            guest: false,
            edits: 0,
        };
        mesh.rules = (0..SERVICES).map(|service| mesh.rule(service)).collect();
        mesh
    }

    /// Changes something; pods that are withdrawn are given back.
    fn edit(&mut self, pods: &Pods) -> Option<Ipv4Addr> {
        self.edits += 1;
        let service = self.dice.below(usize::from(SERVICES)) as u8;
        let at = usize::from(service);
        match self.dice.below(10) {
            // Weights and whole rules.
            0..3 => self.rules[at] = self.rule(service),
            // Subsets get other names, in the policy and in all rules at once.
            3 => {
                self.names[at] = [format!("one-{}", self.edits), format!("two-{}", self.edits)];
                self.rules = (0..SERVICES).map(|service| self.rule(service)).collect();
            }
            4 | 5 => return self.withdraw(service),
            6 | 7 => {
                let number = 1 + self.dice.below(usize::from(PODS)) as u8;
                // A pod serves before it is ready.
                if self.pods[at].insert(number) {
                    pods.start(pod(service, number));
                }
            }
            8 => match self.dice.below(3) {
                0 => self.gateways.swap(0, 1),
                1 => self.gateways[2] = !self.gateways[2],
                _ => self.gateways[3] = !self.gateways[3],
            },
            _ => {
                self.guest = !self.guest;
                self.rules = (0..SERVICES).map(|service| self.rule(service)).collect();
            }
        }
        None
    }

    fn withdraw(&mut self, service: u8) -> Option<Ipv4Addr> {
        let pods = &mut self.pods[usize::from(service)];
        let numbers: Vec<u8> = pods.iter().copied().collect();
        let number = *self.dice.pick(&numbers);
        let alike = numbers.iter().filter(|other| *other % 2 == number % 2).count();
        (alike > 1 && pods.remove(&number)).then(|| pod(service, number))
    }

    fn rule(&mut self, service: u8) -> Value {
        let [one, two] = self.names[usize::from(service)].clone();
        let subset = |name: &str, weight: usize| json!({"destination": {"host": host(service), "subset": name, "port": {"number": 80}}, "weight": weight});
        let weight = self.dice.below(101);
        let split = json!([subset(&one, weight), subset(&two, 100 - weight)]);
        let other = if self.guest { SERVICES } else { (service + 1) % SERVICES };
        let plain = json!([{"destination": {"host": host(other), "port": {"number": 80}}}]);
        let routes = match self.dice.below(4) {
            0 => json!([{"route": split}]),
            1 => json!([{"match": [{"uri": {"prefix": "/x"}}], "route": split, "timeout": "30s"}, {"route": plain}]),
            2 => json!([{"match": [{"headers": {"x-none": {"exact": "1"}}}], "directResponse": {"status": 500}},
                {"route": split, "rewrite": {"uri": "/rewritten"}}]),
            _ => json!([{"route": plain, "headers": {"request": {"set": {"x-edit": self.edits.to_string()}}}}]),
        };
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": format!("s{service}"), "namespace": "shop"},
            "spec": {"hosts": [host(service)], "gateways": ["mesh", "first", "second"], "http": routes},
        })
    }

    fn snapshot(&self, revision: u64) -> Arc<Snapshot> {
        let mut objects = scenery::always(0);
        let last = if self.guest { SERVICES } else { SERVICES - 1 };
        for service in 0..=last {
            objects.extend(self.service(service));
        }
        objects.extend(self.rules.iter().cloned());
        let ports = [("first", 80), ("second", 80), ("third", 8090), ("fourth", 80)];
        for ((name, port), _) in ports.iter().zip(self.gateways).filter(|(_, there)| *there) {
            let hosts = if *name == "fourth" { "other.test" } else { "*" };
            objects.push(json!({
                "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": name, "namespace": "shop"},
                "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
                    {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": [hosts]}]},
            }));
        }
        let mut snapshot = Snapshot::default();
        for object in objects {
            snapshot.insert(Arc::new(Object::decode(object).unwrap()));
        }
        snapshot.set_revision(revision);
        Arc::new(snapshot)
    }

    fn service(&self, service: u8) -> Vec<Value> {
        let name = format!("s{service}");
        let [one, two] = &self.names[usize::from(service)];
        let address = format!("10.98.{service}.1");
        let mut objects = vec![
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
                "spec": {"clusterIP": address, "clusterIPs": [address],
                    "ports": [{"name": "http", "port": 80, "targetPort": PORT, "protocol": "TCP"}]},
            }),
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"host": host(service), "subsets": [
                    {"name": one, "labels": {"version": "odd"}}, {"name": two, "labels": {"version": "even"}}]},
            }),
        ];
        let mut endpoints = Vec::new();
        for number in &self.pods[usize::from(service)] {
            let (pod_name, address) = (format!("{name}-{number}"), pod(service, *number).to_string());
            let version = if number % 2 == 1 { "odd" } else { "even" };
            objects.push(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod_name, "namespace": "shop", "labels": {"app": name, "version": version}},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
                "status": {"podIP": address, "podIPs": [{"ip": address}]},
            }));
            endpoints.push(json!({"addresses": [address], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod_name, "namespace": "shop"}}));
        }
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "endpoints": endpoints, "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
        }));
        objects
    }
}

/// The port of the gateway's workload that port 80 of its service leads to.
const INGRESS: u16 = 18080;

async fn moves(role: Role) {
    let quick = Duration::from_millis(1);
    let pilot = Pilot::new(Config { debounce_quiet: quick, debounce_max: quick * 5, ..Config::default() }).unwrap();
    let pods = Arc::new(Pods::default());
    let mut mesh = Mesh::new();
    for (service, numbers) in (0..).zip(&mesh.pods) {
        numbers.iter().for_each(|number| pods.start(pod(service, *number)));
    }
    pilot.update(mesh.snapshot(1));
    tokio::spawn(serve(pods.clone()));
    stand::serve_discovery(&pilot).await;
    let dir = tempfile::tempdir().unwrap();
    let proxy = stand::proxy(Kind::Lateen, role, dir.path()).await;
    let targets: Vec<Target> = (0..SERVICES)
        .map(|service| {
            let address = match role {
                Role::Gateway => SocketAddr::from((GATEWAY, INGRESS)),
                Role::Sidecar => SocketAddr::from(([10, 98, service, 1], 80)),
            };
            Target::new(address, &host(service), "/x/y").from(network::client(u32::from(service)))
        })
        .collect();
    for target in &targets {
        wait::until("the first configuration serves", || async {
            target.ask().await.ok().filter(|message| message.status() == 200)
        })
        .await;
    }

    let load = Load::paced(&targets, 10, PER_SECOND);
    for edit in 0..EDITS {
        let withdrawn = mesh.edit(&pods);
        let revision = edit as u64 + 2;
        pilot.update(mesh.snapshot(revision));
        if let Some(address) = withdrawn {
            // A pod ends when nobody is told of it any more and nobody is connected.
            wait::until("the proxy is told and lets go of the pod", || async {
                let told = pilot.look(|state| state.revision() >= revision) && stand::told(&pilot, Kind::Lateen, role);
                (told && pods.connections(address) == 0).then_some(())
            })
            .await;
            pods.stop(address);
        }
        load.passes(BETWEEN).await;
    }
    let samples = load.finish().await;
    let failed = failures(&samples);
    assert!(failed.is_empty(), "of {} requests: {failed:#?}\n{}", samples.len(), proxy.process.output());
    assert!(samples.len() >= EDITS * BETWEEN);
}

#[test]
fn through_a_gateway() {
    network::alone(POD, GATEWAY, moves(Role::Gateway));
}

#[test]
fn through_a_sidecar() {
    network::alone(POD, GATEWAY, moves(Role::Sidecar));
}
