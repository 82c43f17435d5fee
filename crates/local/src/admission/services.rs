//! Addresses and node ports of Services (the allocators of Kubernetes' API server).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use lateen_galley::store::{Batch, Change, Refusal};
use lateen_galley::{FieldProblem, Key, Kind, Snapshot};
use serde_json::{Value, json};

use crate::network::{DNS, NODE_PORTS, SERVICES};

/// What is taken, and what was given last.
pub struct Allocator {
    addresses: BTreeSet<Ipv4Addr>,
    ports: BTreeSet<(u64, String)>,
    last_address: Option<Ipv4Addr>,
}

impl Allocator {
    /// Knows what stored Services have and what those of the batch ask for.
    pub fn new(snapshot: &Snapshot, batch: &Batch) -> Self {
        let mut allocator = Self { addresses: BTreeSet::from([DNS]), ports: BTreeSet::new(), last_address: None };
        let stored = snapshot.objects(Kind::Service).map(|service| service.raw());
        let asked = batch.iter().filter_map(|(change, _)| match change {
            Change::Create(object) | Change::Update(object) | Change::Upsert(object) => Some(object.raw()),
            _ => None,
        });
        for service in stored.chain(asked) {
            allocator.addresses.extend(cluster_ip(service));
            allocator.ports.extend(ports(service).iter().filter_map(node_port));
        }
        allocator.last_address = allocator.addresses.iter().next_back().copied();
        allocator
    }

    /// Gives a Service what its type needs and it does not have, keeping what it had before.
    pub fn complete(&mut self, key: &Key, raw: &mut Value, old: Option<&Value>) -> Result<(), Refusal> {
        let invalid = |field: &str, message: String| Refusal::Invalid {
            key: key.clone(),
            problems: vec![FieldProblem::new(field, message)],
        };
        let Some(spec) = raw.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned();
        if kind == "ExternalName" {
            return Ok(());
        }
        let given = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default();
        if given.is_empty() {
            let kept = old.and_then(|old| old.pointer("/spec/clusterIP")).filter(|old| **old != json!("None")).cloned();
            let address = match kept {
                Some(kept) => kept,
                None => {
                    let free = SERVICES.allocate(&self.addresses, self.last_address);
                    let free = free.ok_or_else(|| invalid("spec.clusterIP", "no address is free".to_owned()))?;
                    self.addresses.insert(free);
                    self.last_address = Some(free);
                    json!(free.to_string())
                }
            };
            spec.insert("clusterIPs".to_owned(), json!([address]));
            spec.insert("clusterIP".to_owned(), address);
        } else if given != "None" {
            let address: Option<Ipv4Addr> = given.parse().ok();
            if !address.is_some_and(|address| SERVICES.contains(address)) {
                return Err(invalid("spec.clusterIP", format!("{given:?} is not in the valid range 10.96.0.0/12")));
            }
            let given = json!(given);
            spec.insert("clusterIPs".to_owned(), json!([given]));
        } else {
            spec.insert("clusterIPs".to_owned(), json!(["None"]));
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            self.node_ports(spec, old, &invalid)?;
        }
        Ok(())
    }

    fn node_ports(
        &mut self,
        spec: &mut serde_json::Map<String, Value>,
        old: Option<&Value>,
        invalid: &dyn Fn(&str, String) -> Refusal,
    ) -> Result<(), Refusal> {
        let Some(Value::Array(wanted)) = spec.get_mut("ports") else { return Ok(()) };
        for (index, port) in wanted.iter_mut().enumerate() {
            let field = format!("spec.ports[{index}].nodePort");
            if let Some((given, _)) = node_port(port) {
                if !(u64::from(NODE_PORTS.0)..=u64::from(NODE_PORTS.1)).contains(&given) {
                    let range = format!("{}-{}", NODE_PORTS.0, NODE_PORTS.1);
                    return Err(invalid(&field, format!("{given}: provided port is not in the valid range {range}")));
                }
                continue;
            }
            let id = |port: &Value| (port.get("port").cloned(), protocol(port));
            let same = |other: &&Value| id(other) == id(port);
            let kept = old.and_then(|old| ports(old).iter().find(same).and_then(node_port)).map(|(number, _)| number);
            let protocol = protocol(port);
            let free = (NODE_PORTS.0..=NODE_PORTS.1)
                .map(u64::from)
                .find(|number| !self.ports.contains(&(*number, protocol.clone())));
            let number = kept.or(free).ok_or_else(|| invalid(&field, "no port is free".to_owned()))?;
            self.ports.insert((number, protocol));
            if let Value::Object(port) = port {
                port.insert("nodePort".to_owned(), json!(number));
            }
        }
        Ok(())
    }
}

fn cluster_ip(service: &Value) -> Option<Ipv4Addr> {
    service.pointer("/spec/clusterIP")?.as_str()?.parse().ok()
}

fn ports(service: &Value) -> &[Value] {
    service.pointer("/spec/ports").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn node_port(port: &Value) -> Option<(u64, String)> {
    let number = port.get("nodePort")?.as_u64().filter(|number| *number != 0)?;
    Some((number, protocol(port)))
}

fn protocol(port: &Value) -> String {
    port.get("protocol").and_then(Value::as_str).filter(|name| !name.is_empty()).unwrap_or("TCP").to_owned()
}
