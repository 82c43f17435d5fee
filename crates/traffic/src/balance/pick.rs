//! Picking one of several hosts without regard to the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Hosts;
use crate::Dice;
use crate::cluster::{LbPolicy, SlowStart};

/// What a worker remembers between picks.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    position: u64,
    // Round robin over all workers.
    rotation: Rotation,
    // Round robin with unequal weights: smooth credits, one a host.
    credits: Vec<i64>,
    // Round robin with weighted localities: position and credits of each of the others.
    elsewhere: Vec<(u64, Vec<i64>)>,
    locality: usize,
}

/// Whose turn it is in a cluster, for all its workers. Each worker with a rotation of its own would be strict by itself
/// alone, and clients cannot choose their worker.
#[derive(Debug, Clone, Default)]
pub struct Rotation(Arc<AtomicU64>);

impl Rotation {
    fn next(&self, from: &[usize]) -> usize {
        from[(self.0.fetch_add(1, Ordering::Relaxed) % from.len() as u64) as usize]
    }

    /// Begins at a random place, so that proxies and restarts do not all favour the first host.
    fn begin(&self, dice: &mut dyn Dice) {
        // Whoever comes second finds it begun.
        let _ = self.0.compare_exchange(0, dice.roll() >> 1 | 1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// How one of several hosts is picked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picking {
    pub policy: LbPolicy,
    pub slow_start: Option<SlowStart>,
    /// All hosts are known to weigh the same.
    pub equal: bool,
    /// The hosts are always the same ones, but for changes of health: one rotation goes through them.
    pub whole: bool,
}

/// Parts of a weight that slow start and requests in flight tell apart.
const STEPS: u64 = 1024;

impl Picking {
    /// One of `from`.
    pub(super) fn pick(
        self,
        from: &[usize],
        hosts: &impl Hosts,
        turn: &mut Turn,
        dice: &mut dyn Dice,
    ) -> Option<usize> {
        let (first, rest) = from.split_first()?;
        if rest.is_empty() {
            return Some(*first);
        }
        match self.policy {
            // Weights do not count, as in Envoy.
            LbPolicy::Random => from.get(dice.below(from.len() as u64) as usize).copied(),
            LbPolicy::RoundRobin if self.equal(from, hosts) => {
                Some(if self.whole { turn.rotation.next(from) } else { turn.next(from) })
            }
            LbPolicy::RoundRobin => Some(turn.next_weighted(from, |host| self.weight(host, hosts))),
            LbPolicy::LeastRequest { choices } if self.equal(from, hosts) => {
                Some(least_request(from, hosts, choices, turn, dice))
            }
            // In turn, a host's weight divided by what it has to do (Envoy's weighted least request).
            LbPolicy::LeastRequest { .. } => Some(turn.next_weighted(from, |host| {
                (self.weight(host, hosts).saturating_mul(STEPS) / (u64::from(hosts.active(host)) + 1)).max(1)
            })),
            LbPolicy::ClusterProvided | LbPolicy::Hash(_) => None,
        }
    }

    fn equal(self, from: &[usize], hosts: &impl Hosts) -> bool {
        if self.slow_start.is_none() && self.equal {
            return true;
        }
        let first = self.weight(from[0], hosts);
        from.iter().all(|host| self.weight(*host, hosts) == first)
    }

    /// The weight a host has at this moment.
    fn weight(self, host: usize, hosts: &impl Hosts) -> u64 {
        let weight = u64::from(hosts.weight(host));
        match self.slow_start {
            None => weight,
            Some(slow_start) => {
                let factor = slow_start.factor(hosts.age(host));
                ((weight as f64 * factor * STEPS as f64) as u64).max(1)
            }
        }
    }
}

/// The least busy of several: the first in turn, so that an idle cluster is used evenly, the others random.
fn least_request(from: &[usize], hosts: &impl Hosts, choices: u32, turn: &mut Turn, dice: &mut dyn Dice) -> usize {
    let mut best = turn.next(from);
    for _ in 1..choices.max(2) {
        let other = from[dice.below(from.len() as u64) as usize];
        if hosts.active(other) < hosts.active(best) {
            best = other;
        }
    }
    best
}

impl Turn {
    /// Begins at a random place; round robin goes by the rotation that all workers have.
    pub fn beginning(rotation: &Rotation, dice: &mut dyn Dice) -> Self {
        rotation.begin(dice);
        Self { position: dice.roll() >> 1, rotation: rotation.clone(), ..Self::default() }
    }

    /// Goes on where it was in this locality.
    pub(super) fn enter(&mut self, locality: usize) {
        if locality == self.locality {
            return;
        }
        let most = locality.max(self.locality);
        if self.elsewhere.len() <= most {
            self.elsewhere.resize(most + 1, (self.position, Vec::new()));
        }
        let own = (self.position, std::mem::take(&mut self.credits));
        self.elsewhere[self.locality] = own;
        (self.position, self.credits) = std::mem::take(&mut self.elsewhere[locality]);
        self.locality = locality;
    }

    fn next(&mut self, from: &[usize]) -> usize {
        self.position = self.position.wrapping_add(1);
        from[(self.position % from.len() as u64) as usize]
    }

    /// Smooth weighted round robin: everyone earns its weight, the richest pays the total.
    fn next_weighted(&mut self, from: &[usize], weight: impl Fn(usize) -> u64) -> usize {
        if self.credits.len() != from.len() {
            self.credits = vec![0; from.len()];
        }
        let mut total = 0i64;
        let mut best = 0;
        for (i, host) in from.iter().enumerate() {
            let weight = i64::try_from(weight(*host)).unwrap_or(i64::MAX);
            total = total.saturating_add(weight);
            self.credits[i] = self.credits[i].saturating_add(weight);
            if self.credits[i] > self.credits[best] {
                best = i;
            }
        }
        self.credits[best] = self.credits[best].saturating_sub(total);
        from[best]
    }
}
