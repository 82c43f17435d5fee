//! What the cluster's DNS server knows by itself: names of Services, of pods behind headless
//! Services, and of ServiceEntry hosts, each with its addresses.
//!
//! Names follow the Kubernetes DNS specification 1.1.0; ServiceEntry hosts follow Istio's DNS proxy
//! (a host answers with its addresses, and with its automatically allocated ones if it has none).
//! Plain data: it knows nothing of messages, sockets or the store.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The cluster's domain, without a leading or trailing dot.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// What one name answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// A records.
    pub v4: BTreeSet<Ipv4Addr>,
    /// AAAA records.
    pub v6: BTreeSet<Ipv6Addr>,
    /// The name this one is an alias of (CNAME); beside it nothing else is answered.
    pub alias: Option<String>,
    /// SRV records.
    pub services: Vec<ServicePort>,
    /// The name an address belongs to (PTR).
    pub pointer: Option<String>,
}

/// The target of one SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The port the service is reached at.
    pub port: u16,
    /// The name that has the addresses.
    pub target: String,
}

/// How a zone knows a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The name has records, though perhaps none of the type asked for.
    Records(&'a Records),
    /// Nothing of its own, but names below it exist.
    Empty,
    /// The zone answers for that part of the tree, and there is no such name.
    Missing,
    /// Not for this zone to answer.
    Elsewhere,
}

/// The names of one moment. Keys are lower case and without a trailing dot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    names: HashMap<String, Records>,
    wildcards: HashMap<String, Records>,
    ancestors: HashSet<String>,
}

impl Zone {
    /// Adds addresses to a name; `*.suffix` stands for every name below `suffix`.
    pub fn add_addresses(&mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        let records = self.records(name);
        for address in addresses {
            match address {
                IpAddr::V4(address) => records.v4.insert(address),
                IpAddr::V6(address) => records.v6.insert(address),
            };
        }
    }

    /// Makes `name` an alias of `target`.
    pub fn add_alias(&mut self, name: &str, target: &str) {
        self.records(name).alias = Some(normal(target));
    }

    /// Adds one SRV target to `name`, which has the form `_port._protocol.service`.
    pub fn add_service_port(&mut self, name: &str, port: u16, target: &str) {
        let added = ServicePort { port, target: normal(target) };
        let services = &mut self.records(name).services;
        if !services.contains(&added) {
            services.push(added);
        }
    }

    /// Says which name an address belongs to; the first name stays.
    pub fn add_pointer(&mut self, address: IpAddr, name: &str) {
        let target = normal(name);
        self.records(&pointer_name(address)).pointer.get_or_insert(target);
    }

    /// Whether this very name has addresses of its own.
    pub fn has_addresses(&self, name: &str) -> bool {
        self.names.get(&normal(name)).is_some_and(|records| !(records.v4.is_empty() && records.v6.is_empty()))
    }

    /// Looks a name up; case and a trailing dot do not matter.
    pub fn find(&self, name: &str) -> Found<'_> {
        let name = normal(name);
        if let Some(records) = self.names.get(&name) {
            return Found::Records(records);
        }
        if self.ancestors.contains(&name) {
            return Found::Empty;
        }
        // The most specific wildcard wins, as in Istio.
        let mut rest = name.as_str();
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(records) = self.wildcards.get(suffix) {
                return Found::Records(records);
            }
            rest = suffix;
        }
        if in_cluster_domain(&name) {
            return Found::Missing;
        }
        Found::Elsewhere
    }

    fn records(&mut self, name: &str) -> &mut Records {
        let name = normal(name);
        if let Some(suffix) = name.strip_prefix("*.") {
            return self.wildcards.entry(suffix.to_owned()).or_default();
        }
        if in_cluster_domain(&name) {
            let mut rest = name.as_str();
            while let Some((_, parent)) = rest.split_once('.') {
                if !in_cluster_domain(parent) || !self.ancestors.insert(parent.to_owned()) {
                    break;
                }
                rest = parent;
            }
        }
        self.names.entry(name).or_default()
    }
}

fn in_cluster_domain(name: &str) -> bool {
    name.strip_suffix(CLUSTER_DOMAIN).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The name under `in-addr.arpa` or `ip6.arpa` that stands for an address (RFC 1035 3.5, RFC 3596 2.5).
fn pointer_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let mut name = String::with_capacity(72);
            for byte in address.octets().iter().rev() {
                name.push_str(&format!("{:x}.{:x}.", byte & 0xf, byte >> 4));
            }
            name.push_str("ip6.arpa");
            name
        }
    }
}
