//! What there is to talk to in a round: services with their pods and endpoints, as Kubernetes' objects, and the
//! places that are the same in every round.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::dice::Dice;
use crate::stand::{GATEWAY, GATEWAY_PROBE, POD, SIDECAR_PROBE};

/// What is spoken at a port, as its name tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http,
    Grpc,
    Tcp,
    Tls,
    /// The name does not tell.
    Auto,
    ServerFirst,
}

impl Speaks {
    pub fn may_be_http(self) -> bool {
        matches!(self, Speaks::Http | Speaks::Grpc | Speaks::Auto)
    }
}

/// A port of a drawn service.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    pub name: &'static str,
    pub number: u16,
    pub target: u16,
    pub speaks: Speaks,
}

const fn port(name: &'static str, number: u16, target: u16, speaks: Speaks) -> Port {
    Port { name, number, target, speaks }
}

/// The first is every service's.
const PORTS: [Port; 8] = [
    port("http", 80, 8080, Speaks::Http),
    port("http-alt", 8000, 8081, Speaks::Http),
    port("grpc-echo", 7070, 8082, Speaks::Grpc),
    port("tcp-echo", 9000, 9000, Speaks::Tcp),
    port("tls-echo", 443, 9443, Speaks::Tls),
    port("web", 8088, 8088, Speaks::Auto),
    port("mysql-db", 3306, 9001, Speaks::ServerFirst),
    // Nobody listens there.
    port("http-dead", 8001, 7, Speaks::Http),
];

/// A service of a round.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub namespace: &'static str,
    pub address: Ipv4Addr,
    pub ports: Vec<Port>,
    /// First three octets of its pods' addresses, with the dot behind.
    pub pods: String,
    /// Last octets of its pods' addresses with the version each runs.
    pub versions: Vec<(u8, &'static str)>,
    pub headless: bool,
    /// Who may see it; empty for everybody.
    pub export_to: &'static str,
}

impl Service {
    pub fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// The address of one of its pods.
    pub fn pod(&self, dice: &mut Dice) -> Option<Ipv4Addr> {
        if self.versions.is_empty() {
            return None;
        }
        let (last, _) = dice.pick(&self.versions);
        format!("{}{last}", self.pods).parse().ok()
    }

    pub fn port_of(&self, speaks: Speaks) -> Option<Port> {
        self.ports.iter().find(|port| port.speaks == speaks).copied()
    }
}

/// The services of a round.
pub fn services(dice: &mut Dice, round: u64) -> Vec<Service> {
    (0..5)
        .map(|index| {
            let number = round * 5 + index;
            let headless = index == 4 && dice.chance(60);
            let mut ports = vec![PORTS[0]];
            ports.extend(PORTS[1..].iter().filter(|_| dice.chance(50)));
            let versions = match dice.below(10) {
                0 if index > 1 => vec![],
                1..4 => vec![(11, "v1")],
                4..7 => vec![(11, "v1"), (21, "v2")],
                _ => vec![(11, "v1"), (12, "v1"), (21, "v2")],
            };
            let [_, high, low, _] = (number as u32 * 256).to_be_bytes();
            Service {
                name: format!("s{index}-r{round}"),
                namespace: if index % 2 == 0 { "shop" } else { "other" },
                address: Ipv4Addr::new(10, 98 + high, low, 1),
                ports,
                pods: format!("10.{}.{low}.", 112 + high),
                versions,
                headless,
                export_to: if dice.chance(10) { ["*", ".", "shop", "~"][dice.below(4)] } else { "" },
            }
        })
        .collect()
}

/// Their objects.
pub fn objects(services: &[Service]) -> Vec<Value> {
    services.iter().flat_map(of_service).collect()
}

fn of_service(service: &Service) -> Vec<Value> {
    let (name, namespace) = (&service.name, service.namespace);
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| json!({"name": port.name, "port": port.number, "targetPort": port.target, "protocol": "TCP"}))
        .collect();
    let address = if service.headless { "None".to_owned() } else { service.address.to_string() };
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": address, "clusterIPs": [address], "selector": {"app": name}, "ports": ports},
    });
    if !service.export_to.is_empty() {
        object["metadata"]["annotations"] = json!({"networking.istio.io/exportTo": service.export_to});
    }
    let mut objects = vec![object];
    let mut endpoints = Vec::new();
    for (last, version) in &service.versions {
        let (address, pod) = (format!("{}{last}", service.pods), format!("{name}-{last}"));
        objects.push(self::pod(&pod, namespace, &address, &json!({"app": name, "version": version})));
        endpoints.push(json!({
            "addresses": [address], "conditions": {"ready": true}, "nodeName": "node",
            "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace},
        }));
    }
    objects.push(slice(name, namespace, &service.ports, &endpoints));
    objects
}

fn pod(name: &str, namespace: &str, address: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": "node", "containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn slice(name: &str, namespace: &str, ports: &[Port], endpoints: &[Value]) -> Value {
    let ports: Vec<Value> =
        ports.iter().map(|port| json!({"name": port.name, "port": port.target, "protocol": "TCP"})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-1"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name}},
        "endpoints": endpoints, "ports": ports,
    })
}

/// Ports of the sidecar's own workload, as its service has them.
pub const OWN_PORTS: [Port; 5] = [
    port("http", 80, 8080, Speaks::Http),
    port("grpc-echo", 7070, 8082, Speaks::Grpc),
    port("tcp-echo", 9000, 9000, Speaks::Tcp),
    port("web", 8088, 8088, Speaks::Auto),
    port("mysql-db", 3306, 9001, Speaks::ServerFirst),
];

/// Ports of the gateway's workload, where clients reach it: two for HTTP, one for TLS and two for TCP.
pub const GATEWAY_PORTS: [Port; 5] = [
    port("http", 80, 18080, Speaks::Http),
    port("http-alt", 8090, 18090, Speaks::Http),
    port("tls", 443, 18443, Speaks::Tls),
    port("tcp", 31400, 31400, Speaks::Tcp),
    port("tcp-alt", 31401, 31401, Speaks::Tcp),
];

/// How the sidecar's workload takes connections, at some port another way each round. At the one whose server speaks first
/// plain text alone: what else might come has to be looked at, for which that server waits in vain behind Envoy.
fn peers(round: u64) -> Value {
    const MODES: [&str; 8] =
        ["PERMISSIVE", "DISABLE", "PERMISSIVE", "PERMISSIVE", "DISABLE", "PERMISSIVE", "UNSET", "STRICT"];
    let mut ports = serde_json::Map::new();
    for (own, index) in OWN_PORTS.iter().zip(round..) {
        let drawn = MODES.iter().cycle().nth((index * 3 % 8) as usize).copied();
        let mode = if own.speaks == Speaks::ServerFirst { Some("DISABLE") } else { drawn };
        ports.insert(own.target.to_string(), json!({"mode": mode}));
    }
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "client", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "client"}}, "portLevelMtls": ports},
    })
}

/// Namespaces, the gateway, the sidecar's workload, and what tells which round is in force.
pub fn always(round: u64) -> Vec<Value> {
    let namespaces = ["istio-system", "shop", "other"];
    let mut objects: Vec<Value> = namespaces
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    let labels = json!({"istio": "ingressgateway"});
    let service = |name: &str, namespace: &str, address: &str, selector: &Value, ports: &[Port]| {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| json!({"name": port.name, "port": port.number, "targetPort": port.target, "protocol": "TCP"}))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": address, "clusterIPs": [address], "selector": selector, "ports": ports},
        })
    };
    let endpoint = |address: Ipv4Addr, pod: &str, namespace: &str| {
        json!({
            "addresses": [address.to_string()], "conditions": {"ready": true}, "nodeName": "node",
            "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace},
        })
    };
    objects.push(pod("ingress", "istio-system", &GATEWAY.to_string(), &labels));
    objects.push(service("istio-ingressgateway", "istio-system", "10.96.0.2", &labels, &GATEWAY_PORTS));
    let ingress = endpoint(GATEWAY, "ingress", "istio-system");
    objects.push(slice("istio-ingressgateway", "istio-system", &GATEWAY_PORTS, &[ingress]));
    let labels = json!({"app": "client", "version": "v1", "team": "a"});
    objects.push(pod("client", "shop", &POD.to_string(), &labels));
    objects.push(service("client", "shop", "10.96.0.5", &json!({"app": "client"}), &OWN_PORTS));
    objects.push(slice("client", "shop", &OWN_PORTS, &[endpoint(POD, "client", "shop")]));
    objects.push(peers(round));
    objects.push(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "probe", "namespace": "istio-system"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": GATEWAY_PROBE.port(), "name": "http", "protocol": "HTTP"}, "hosts": ["probe.test"]},
        ]},
    }));
    objects.push(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "probe", "namespace": "istio-system"},
        "spec": {"hosts": ["probe.test"], "exportTo": ["*"], "addresses": [SIDECAR_PROBE.ip().to_string()], "resolution": "STATIC",
            "ports": [{"number": SIDECAR_PROBE.port(), "name": "http", "protocol": "HTTP"}]},
    }));
    objects.push(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "probe", "namespace": "istio-system"},
        "spec": {"hosts": ["probe.test"], "exportTo": ["*"], "gateways": ["mesh", "probe"], "http": [
            {"directResponse": {"status": 200, "body": {"string": format!("round {round}")}}},
        ]},
    }));
    objects
}
