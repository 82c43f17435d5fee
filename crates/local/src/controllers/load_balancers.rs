//! Services of type LoadBalancer and NodePort on the host's loopback: which listeners are open, and
//! which address a LoadBalancer says it has.
//!
//! A LoadBalancer gets an address 127.0.0.x, x from 11 on, at which all its TCP ports can be bound. Where that is
//! not allowed (ports below 1024, for an ordinary user) it stays pending, and its node ports serve.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use lateen_galley::{Kind, Object, Snapshot, Store};
use serde_json::{Value, json};

use super::{status_of, write_status};
use crate::hosts::{HostListeners, ServicePort};

/// First and last x of 127.0.0.x.
const ADDRESSES: (u8, u8) = (11, 250);
/// The condition of Services some of whose ports on the host belong to somebody else, another mesh perhaps. It is there
/// while that is so.
pub const HOST_PORTS_BOUND: &str = "lateen.local/HostPortsBound";

/// Between the ports in that condition's message.
const BETWEEN: &str = ", ";

/// The controller.
#[derive(Debug)]
pub struct LoadBalancers {
    store: Store,
    listeners: Arc<Mutex<HostListeners>>,
    /// Services that got no address, with the ports they wanted then.
    refused: BTreeMap<String, Vec<u16>>,
    /// Ports that could not be bound, and why.
    unbound: BTreeMap<SocketAddr, String>,
}

impl LoadBalancers {
    /// Opens listeners in `listeners`.
    pub fn new(store: Store, listeners: Arc<Mutex<HostListeners>>) -> Self {
        Self { store, listeners, refused: BTreeMap::new(), unbound: BTreeMap::new() }
    }

    /// Opens what is wanted, closes what is not, tells each Service its address.
    pub fn reconcile(&mut self, snapshot: &Snapshot) {
        let listeners = Arc::clone(&self.listeners);
        let mut listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let services: Vec<(&Arc<Object>, &Service)> = snapshot
            .objects(Kind::Service)
            .filter(|object| object.metadata().deletion_timestamp.is_none())
            .filter_map(|object| Some((object, object.typed::<Service>()?)))
            .collect();
        let mut wanted: BTreeMap<SocketAddr, ServicePort> = BTreeMap::new();
        let mut statuses = Vec::new();
        // Those that have an address keep it before others look for one.
        let has_address = |object: &Object| address_of(object).is_some();
        let (settled, seeking): (Vec<_>, Vec<_>) = services.iter().partition(|(object, _)| has_address(object));
        for (object, service) in settled.into_iter().chain(seeking) {
            let ports = ports(service);
            for (port, node_port) in &ports {
                let Some(node_port) = node_port else { continue };
                let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *node_port);
                wanted.insert(address, service_port(object, *port));
            }
            if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) != Some("LoadBalancer") {
                statuses.push((Arc::clone(object), None));
                continue;
            }
            let address = self.balance(&mut listeners, object, &ports);
            for (port, _) in ports.iter().filter(|_| address.is_some()) {
                let Some(address) = address else { continue };
                wanted.insert(SocketAddr::new(address.into(), *port), service_port(object, *port));
            }
            statuses.push((Arc::clone(object), address));
        }
        listeners.retain(|address, port| wanted.get(&address) == Some(port));
        self.unbound.retain(|address, _| wanted.contains_key(address));
        for (address, port) in &wanted {
            match listeners.open_all(&[(*address, port.clone())]) {
                Ok(()) => drop(self.unbound.remove(address)),
                Err((_, error)) => {
                    if self.unbound.insert(*address, error.to_string()).is_none() {
                        let service = format!("{}/{}", port.namespace, port.service);
                        tracing::warn!(%address, service, %error, "a port cannot be bound on this machine");
                    }
                }
            }
        }
        drop(listeners);
        for (object, address) in statuses {
            let own = |port: &ServicePort| port.namespace == object.namespace() && port.service == object.name();
            let unbound = self.unbound.iter().filter(|(address, _)| wanted.get(address).is_some_and(own));
            let unbound: Vec<String> = unbound.map(|(address, error)| format!("{address}: {error}")).collect();
            tell(&self.store, &object, address, &unbound.join(BETWEEN));
        }
    }

    /// Whether there are ports to try again: who has them now may let go.
    pub fn wants_retry(&self) -> bool {
        !self.unbound.is_empty()
    }

    /// Finds an address at which all ports are open.
    fn balance(
        &mut self,
        listeners: &mut HostListeners,
        object: &Object,
        ports: &[(u16, Option<u16>)],
    ) -> Option<Ipv4Addr> {
        let numbers: Vec<u16> = ports.iter().map(|(port, _)| *port).collect();
        if numbers.is_empty() || self.refused.get(object.uid()) == Some(&numbers) {
            return None;
        }
        let all = (ADDRESSES.0..=ADDRESSES.1).map(|x| Ipv4Addr::new(127, 0, 0, x));
        for address in address_of(object).into_iter().chain(all) {
            let wanted: Vec<(SocketAddr, ServicePort)> = numbers
                .iter()
                .map(|port| (SocketAddr::new(IpAddr::V4(address), *port), service_port(object, *port)))
                .collect();
            match listeners.open_all(&wanted) {
                Ok(()) => {
                    self.refused.remove(object.uid());
                    return Some(address);
                }
                Err((_, error)) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err((at, error)) => {
                    tracing::info!(%at, %error, service = object.name(), "no address on this machine: node ports serve");
                    break;
                }
            }
        }
        self.refused.insert(object.uid().to_owned(), numbers);
        None
    }
}

/// The TCP ports of a Service and their node ports.
fn ports(service: &Service) -> Vec<(u16, Option<u16>)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|port| {
            let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
            Some((u16::try_from(port.port).ok()?, node_port))
        })
        .collect()
}

fn service_port(object: &Object, port: u16) -> ServicePort {
    ServicePort { namespace: object.namespace().to_owned(), service: object.name().to_owned(), port }
}

fn address_of(object: &Object) -> Option<Ipv4Addr> {
    object.raw().pointer("/status/loadBalancer/ingress/0/ip")?.as_str()?.parse().ok()
}

/// Why an address of the host (`HOST:PORT`) is not this Service's, though it is to be, as its status tells.
pub fn unbound<'a>(service: &'a Value, address: &str) -> Option<&'a str> {
    let mut conditions = service.pointer("/status/conditions")?.as_array()?.iter();
    let condition =
        conditions.find(|condition| condition["type"] == HOST_PORTS_BOUND && condition["status"] == "False")?;
    let mut unbound = condition["message"].as_str()?.split(BETWEEN);
    unbound.find_map(|one| one.strip_prefix(address)?.strip_prefix(": "))
}

/// Writes a Service's status; a condition says whether the host's ports are there. `unbound` is empty if all are.
fn tell(store: &Store, object: &Object, address: Option<Ipv4Addr>, unbound: &str) {
    let mut status = status_of(object);
    let balancer = match address {
        Some(address) => json!({"ingress": [{"ip": address.to_string(), "ipMode": "Proxy"}]}),
        None => json!({}),
    };
    status.insert("loadBalancer".to_owned(), balancer);
    if unbound.is_empty() {
        status.remove("conditions");
    } else {
        let known = status.get("conditions").and_then(Value::as_array).and_then(|conditions| conditions.first());
        let since = known.and_then(|known| known.get("lastTransitionTime").cloned()).unwrap_or_else(|| {
            let now = crate::clock::now();
            json!(Timestamp::from_second(now.as_second()).unwrap_or(now).to_string())
        });
        let condition = json!({
            "type": HOST_PORTS_BOUND, "status": "False", "reason": "CannotBind", "message": unbound,
            "lastTransitionTime": since,
        });
        status.insert("conditions".to_owned(), json!([condition]));
    }
    write_status(store, object, Value::Object(status));
}
