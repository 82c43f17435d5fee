//! Services written by hand: ServiceEntries of every resolution, and the workloads of those that select them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::dice::Dice;
use super::rules::Subject;
use crate::names;

/// What is known of a service without whether it is drawn.
#[derive(Clone, Debug)]
pub struct Entry {
    pub host: String,
    /// Where clients go for it.
    pub address: Ipv4Addr,
    /// Ports for HTTP.
    pub http: &'static [u16],
    pub tls: u16,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Static,
    Dns,
    None,
    Wildcard,
    Selected,
    Named,
    Block,
}

/// First three octets of the addresses of a round's endpoints.
fn network(round: u64) -> [u8; 3] {
    let [low, high] = (round as u16).to_le_bytes();
    [10, 123 + high, low]
}

/// The services that a round may have.
pub fn all(round: u64) -> Vec<Entry> {
    let [low, high] = (round as u16).to_le_bytes();
    let entry = |host: String, last: u8, way: Way| Entry {
        host,
        address: Ipv4Addr::new(10, 92 + high, low, last),
        http: if way == Way::Named { &[8080] } else { &[80, 80, 80, 8081] },
        tls: if way == Way::Named { 9443 } else { 443 },
        way,
    };
    vec![
        entry(format!("static{round}.ext"), 1, Way::Static),
        entry(format!("dns{round}.ext"), 2, Way::Dns),
        entry(format!("none{round}.ext"), 3, Way::None),
        entry(format!("*.wild{round}.ext"), 4, Way::Wildcard),
        entry(format!("selected{round}.ext"), 5, Way::Selected),
        entry(format!("*.named{round}.ext"), 6, Way::Named),
        entry(format!("block{round}.ext"), 67, Way::Block),
    ]
}

impl Entry {
    /// A host that clients name for it.
    pub fn asked(&self, dice: &mut Dice, round: u64) -> String {
        let [a, b, c] = network(round);
        let label = match dice.below(8) {
            0 => "gone".to_owned(),
            1 if self.way != Way::Named => "some".to_owned(),
            _ => names::label(Ipv4Addr::new(a, b, c, 61)),
        };
        self.host.replace('*', &label)
    }
}

/// Objects of kinds with their specifications.
pub fn draw(dice: &mut Dice, subject: &Subject<'_>) -> Vec<(&'static str, Value)> {
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080},
        {"number": 9000, "name": "tcp", "protocol": "TCP"}, {"number": 443, "name": "tls", "protocol": "TLS", "targetPort": 9443}]);
    let plain = json!([{"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 8081, "name": "alt", "protocol": "HTTP"}]);
    let named = json!([{"number": 8080, "name": "http", "protocol": "HTTP"}, {"number": 9443, "name": "tls", "protocol": "TLS"}]);
    let mut drawn = Vec::new();
    for entry in subject.entries() {
        if dice.chance(40) {
            continue;
        }
        let [a, b, c] = network(subject.round);
        let base = 10 * entry.way as u8 + 10;
        let workload = |index: usize| {
            json!({"address": Ipv4Addr::new(a, b, c, base + index as u8).to_string(),
                "labels": {"app": entry.host, "version": if index == 0 { "v1" } else { "v2" }}})
        };
        let endpoints: Vec<Value> = (0..1 + dice.below(3)).map(workload).collect();
        let (host, address) = (&entry.host, entry.address);
        let mut spec = match entry.way {
            Way::Static => json!({"hosts": [host], "addresses": [address], "ports": ports, "resolution": "STATIC",
                "location": dice.word(&["MESH_INTERNAL", "MESH_EXTERNAL"]), "endpoints": endpoints}),
            Way::Dns => {
                let mut endpoint = endpoints[0].clone();
                if dice.chance(60) {
                    let name = names::label(Ipv4Addr::new(a, b, c, base));
                    endpoint["address"] = json!(format!("{}.ext", if dice.chance(15) { "gone" } else { &name }));
                }
                json!({"hosts": [host], "addresses": [address], "ports": ports, "endpoints": [endpoint],
                    "resolution": dice.word(&["DNS", "DNS_ROUND_ROBIN"])})
            }
            Way::None => json!({"hosts": [host], "addresses": [address], "ports": plain, "resolution": "NONE"}),
            Way::Wildcard => json!({"hosts": [host], "ports": plain, "resolution": "NONE"}),
            Way::Selected => {
                drawn.extend(endpoints.into_iter().map(|workload| ("WorkloadEntry", workload)));
                json!({"hosts": [host], "addresses": [address], "ports": ports, "resolution": "STATIC",
                    "workloadSelector": {"labels": {"app": host}}})
            }
            Way::Named => json!({"hosts": [host], "ports": named, "resolution": "DYNAMIC_DNS"}),
            Way::Block => {
                json!({"hosts": [host], "addresses": [format!("{}/28", Ipv4Addr::from(u32::from(address) & !15))],
                "ports": ports, "resolution": "STATIC", "endpoints": endpoints})
            }
        };
        if dice.chance(15) {
            spec["exportTo"] = json!([dice.word(&["*", ".", "istio-system"])]);
        }
        drawn.push(("ServiceEntry", spec));
    }
    drawn
}
