//! The table of a sidecar's outbound listeners: (address, port) -> claims -> winner.
//!
//! A pure function of the claims in order of precedence; knows nothing of services, rules or protobuf. Source: Istio
//! `core/listener.go` (buildSidecarOutboundListener, mergeTCPFilterChains).

use crate::generate::listener::{Atom, Chain, ChainAction, ChainMatch};
use crate::registry::{Protocol, Shape};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
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
}

/// A listener as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub addresses: Vec<IpAddr>,
    /// No two that take the same.
    pub chains: Vec<Chain>,
    /// The host of the first claim.
    pub owner: String,
    protocol: Protocol,
    shape: Shape,
    taken: HashSet<Atom>,
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
                    chains: Vec::new(),
                    addresses: claim.addresses.clone(),
                    protocol: claim.protocol,
                    shape,
                    taken: HashSet::new(),
                };
                let lost = planned.add(claim.tcp.clone(), true);
                planned.add_http(&claim);
                // On all addresses even a port declared HTTP lets other connections pass.
                if planned.shape == Shape::Http && address.is_unspecified() {
                    planned.shape = Shape::Auto;
                }
                if lost {
                    self.conflicts.push(refuse(Reason::Taken { owner: claim.host.clone() }));
                }
                vacant.insert(planned);
            }
            Entry::Occupied(mut occupied) => {
                let planned = occupied.get_mut();
                let server_first = claim.protocol.is_server_first() || planned.protocol.is_server_first();
                if server_first && claim.protocol != planned.protocol {
                    self.conflicts.push(refuse(Reason::ServerFirst { owner: planned.owner.clone() }));
                    return;
                }
                if planned.shape == Shape::Tcp && shape != Shape::Tcp {
                    planned.shape = Shape::Auto;
                }
                planned.add_http(&claim);
                let with_warning = shape == Shape::Tcp;
                if planned.add(claim.tcp.clone(), with_warning) {
                    self.conflicts.push(refuse(Reason::Taken { owner: planned.owner.clone() }));
                }
            }
        }
    }
}

impl Planned {
    /// Adds what of the chains' matches is not taken; says whether something was and that is worth a report.
    fn add(&mut self, chains: Vec<Chain>, report: bool) -> bool {
        let mut lost = false;
        for chain in chains {
            let left = chain.matches.without(&self.taken);
            lost |= left.as_slice() != std::slice::from_ref(&chain.matches);
            for matches in left {
                self.taken.extend(matches.atoms());
                self.chains.push(Chain { matches, ..chain.clone() });
            }
        }
        lost && report
    }

    /// All HTTP on a port shares one chain: its hosts are told apart by their routes.
    fn add_http(&mut self, claim: &Claim) {
        let Some(route_name) = &claim.route_name else { return };
        let action = ChainAction::Http { route_name: route_name.clone(), grpc_web: claim.grpc_web };
        self.add(vec![Chain { matches: ChainMatch::plaintext_http(), action, origin: None }], false);
    }
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
