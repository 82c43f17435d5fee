//! Tables from hashes to hosts.

use std::sync::Arc;

use super::maglev::Maglev;
use super::ring::Ring;
use crate::cluster::HashTable;

/// A host as a table sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What its places are computed from.
    pub key: Arc<str>,
    /// Its weight; a share of 1 once normalized.
    pub weight: f64,
}

/// A table from hashes to positions in the list it was made of. It is the same for the same list, in every worker and
/// every proxy, and the same as Envoy's.
#[derive(Debug)]
pub struct Table {
    kind: HashTable,
    parts: Vec<Part>,
    places: Places,
    counts: Counts,
}

/// How the places of a table are shared out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All places.
    pub places: u64,
    /// Of the host with the fewest.
    pub fewest: u64,
    /// Of the host with the most.
    pub most: u64,
}

#[derive(Debug)]
enum Places {
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    /// Computes all places.
    pub(super) fn new(kind: HashTable, parts: Vec<Part>) -> Self {
        let places = match kind {
            HashTable::Ring { minimum, maximum, function } => {
                Places::Ring(Ring::new(&parts, minimum, maximum, function))
            }
            HashTable::Maglev { size } => Places::Maglev(Maglev::new(&parts, size)),
        };
        let mut of_hosts = vec![0u64; parts.len()];
        let mut count = |position: usize| of_hosts[position] += 1;
        match &places {
            Places::Ring(ring) => ring.positions().for_each(&mut count),
            Places::Maglev(table) => table.positions().for_each(&mut count),
        }
        let counts = Counts {
            places: of_hosts.iter().sum(),
            fewest: of_hosts.iter().copied().min().unwrap_or(0),
            most: of_hosts.iter().copied().max().unwrap_or(0),
        };
        Self { kind, parts, places, counts }
    }

    /// Its kind, and how its places are shared out.
    pub fn counts(&self) -> (HashTable, Counts) {
        (self.kind, self.counts)
    }

    /// Whether it is the table for these.
    pub fn is_of(&self, kind: HashTable, parts: &[Part]) -> bool {
        self.kind == kind && self.parts == parts
    }

    /// The position for a hash. `attempt` counts the hosts refused for the same request, from 0.
    pub fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        match &self.places {
            Places::Ring(ring) => ring.find(hash, attempt),
            Places::Maglev(table) => table.find(hash, attempt),
        }
    }
}

/// Scales weights so that they sum up to `share`.
pub(super) fn normalized(mut parts: Vec<Part>, share: f64) -> Vec<Part> {
    let sum: f64 = parts.iter().map(|part| part.weight).sum();
    for part in &mut parts {
        part.weight = part.weight * share / sum;
    }
    parts
}
