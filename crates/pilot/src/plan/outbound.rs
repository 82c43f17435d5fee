//! The table of a sidecar's outbound listeners: (address, port) -> claims -> winner.
//!
//! A pure function of the claims in order of precedence; knows nothing of services, rules or protobuf. Source: Istio
//! `core/listener.go` (buildSidecarOutboundListener, mergeTCPFilterChains).

use crate::generate::listener::{Atom, Chain, ChainAction, ChainMatch};
use crate::registry::{Protocol, Shape};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

/// Ports on all addresses that the proxy and its agent need for themselves.
const RESERVED: [u16; 4] = [15001, 15006, 15021, 15090];

/// One service port's wish for a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The service's host.
    pub host: String,
    /// At least one; the first is the one claimed, the others go with it.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub protocol: Protocol,
    /// Route configuration for HTTP; none for protocols that are not.
    pub route_name: Option<String>,
    /// Its HTTP may be gRPC-Web, to be translated.
    pub grpc_web: bool,
    /// Chains for what is not HTTP; none for protocols that are.
    pub tcp: Vec<Chain>,
    /// Made for this very port: claims made for all ports do not join it.
    pub exclusive: bool,
    /// The listener opens a socket.
    pub bound: bool,
}

/// A listener as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub addresses: Vec<IpAddr>,
    /// No two that take the same.
    pub chains: Vec<Chain>,
    /// The host of the first claim.
    pub owner: String,
    pub bound: bool,
    exclusive: bool,
    protocol: Protocol,
    shape: Shape,
    /// What chains take, and the host they are for.
    taken: HashMap<Atom, String>,
}

/// A claim, or part of one, that was not granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    pub address: IpAddr,
    pub port: u16,
    pub host: String,
    pub reason: Reason,
}

/// Why a claim was not granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The proxy needs the port itself.
    Reserved,
    /// A server that speaks first cannot share a port with a protocol that must be looked at.
    ServerFirst { owner: String },
    /// An older service takes the same connections.
    Taken { owner: String },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Reserved => f.write_str("the proxy needs this port itself"),
            Reason::ServerFirst { owner } => {
                write!(f, "{owner} has the port, and one of the two is a protocol in which the server speaks first")
            }
            Reason::Taken { owner } => write!(f, "{owner}, which is older, takes the same connections"),
        }
    }
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub listeners: BTreeMap<(IpAddr, u16), Planned>,
    pub conflicts: Vec<Conflict>,
}

/// Grants claims in order: the earlier one wins.
pub fn plan(claims: impl IntoIterator<Item = Claim>) -> Plan {
    let mut plan = Plan::default();
    for claim in claims {
        plan.grant(claim);
    }
    plan.conflicts.sort();
    plan.conflicts.dedup();
    plan
}

impl Plan {
    fn grant(&mut self, claim: Claim) {
        let (Some(address), Some(shape)) = (claim.addresses.first().copied(), claim.protocol.shape()) else { return };
        let refuse = |reason| Conflict { address, port: claim.port, host: claim.host.clone(), reason };
        if address.is_unspecified() && RESERVED.contains(&claim.port) {
            self.conflicts.push(refuse(Reason::Reserved));
            return;
        }
        match self.listeners.entry((address, claim.port)) {
            Entry::Vacant(vacant) => {
                let mut planned = Planned {
                    owner: claim.host.clone(),
                    bound: claim.bound,
                    exclusive: claim.exclusive,
                    chains: Vec::new(),
                    addresses: claim.addresses.clone(),
                    protocol: claim.protocol,
                    shape,
                    taken: HashMap::new(),
                };
                let taken_by = planned.add(&claim.host, claim.tcp.clone());
                planned.add_http(&claim);
                // On all addresses even a port declared HTTP lets other connections pass.
                if planned.shape == Shape::Http && address.is_unspecified() {
                    planned.shape = Shape::Auto;
                }
                if let Some(owner) = taken_by {
                    self.conflicts.push(refuse(Reason::Taken { owner }));
                }
                vacant.insert(planned);
            }
            Entry::Occupied(mut occupied) => {
                let planned = occupied.get_mut();
                if planned.exclusive && !claim.exclusive {
                    // Somebody asked for this port with chosen hosts: that is no conflict.
                    return;
                }
                let server_first = claim.protocol.is_server_first() || planned.protocol.is_server_first();
                if server_first && claim.protocol != planned.protocol {
                    self.conflicts.push(refuse(Reason::ServerFirst { owner: planned.owner.clone() }));
                    return;
                }
                if planned.shape == Shape::Tcp && shape != Shape::Tcp {
                    planned.shape = Shape::Auto;
                }
                planned.add_http(&claim);
                let taken_by = planned.add(&claim.host, claim.tcp.clone());
                // A port that may be HTTP loses nothing of it: only its other connections go elsewhere.
                if let Some(owner) = taken_by.filter(|_| shape == Shape::Tcp) {
                    self.conflicts.push(refuse(Reason::Taken { owner }));
                }
            }
        }
    }
}

impl Planned {
    /// Adds what of the chains' matches is not taken; says whose host has some of it.
    fn add(&mut self, host: &str, chains: Vec<Chain>) -> Option<String> {
        let mut taken_by = None;
        for chain in chains {
            let taken = chain.matches.atoms().find_map(|atom| self.taken.get(&atom));
            taken_by = taken_by.or_else(|| taken.cloned());
            for matches in chain.matches.without(|atom| self.taken.contains_key(atom)) {
                self.taken.extend(matches.atoms().map(|atom| (atom, host.to_owned())));
                self.chains.push(Chain { matches, ..chain.clone() });
            }
        }
        taken_by
    }

    /// All HTTP on a port shares one chain: its hosts are told apart by their routes.
    fn add_http(&mut self, claim: &Claim) {
        let Some(route_name) = &claim.route_name else { return };
        let action = ChainAction::Http { route_name: route_name.clone(), grpc_web: claim.grpc_web };
        self.add(&claim.host, vec![Chain { matches: ChainMatch::plaintext_http(), action, origin: None }]);
    }
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
