//! A ring of hashes (ketama): each host has many places on it, a request goes to the next one.
//!
//! Places are Envoy's: of `KEY_0`, `KEY_1`, and so on, as many as the host's share of the ring.

use std::fmt::Write as _;

use super::murmur::murmur_hash_2;
use super::table::Part;
use crate::cluster::HashFunction;
use crate::hashing::xxhash;

/// Places in ascending order, each with its host's position.
#[derive(Debug)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    pub(super) fn new(parts: &[Part], minimum: u64, maximum: u64, function: HashFunction) -> Self {
        if parts.is_empty() {
            return Self(Box::default());
        }
        // The host of least weight gets a whole number of places, if the ring does not become too large by it.
        let least = parts.iter().map(|part| part.weight).fold(1.0, f64::min);
        let scale = ((least * minimum as f64).ceil() / least).min(maximum as f64);
        let mut places = Vec::with_capacity(scale.ceil() as usize);
        let (mut made, mut wanted) = (0.0, 0.0);
        let mut key = String::new();
        for (position, part) in parts.iter().enumerate() {
            // Running sums, because shares are not whole numbers.
            wanted += scale * part.weight;
            key.clear();
            key.push_str(&part.key);
            key.push('_');
            let length = key.len();
            let mut number = 0u64;
            while made < wanted {
                key.truncate(length);
                // Writing to a string does not fail.
                let _ = write!(key, "{number}");
                let place = match function {
                    HashFunction::XxHash => xxhash(key.as_bytes(), 0),
                    HashFunction::Murmur2 => murmur_hash_2(key.as_bytes()),
                };
                places.push((place, position as u32));
                number += 1;
                made += 1.0;
            }
        }
        places.sort_unstable_by_key(|(place, _)| *place);
        Self(places.into())
    }

    /// The positions at all places.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|(_, position)| *position as usize)
    }

    pub(super) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        let next = self.0.partition_point(|(place, _)| *place < hash);
        let at = (next % self.0.len().max(1) + attempt as usize) % self.0.len().max(1);
        self.0.get(at).map(|(_, position)| *position as usize)
    }
}
