//! Localities with weights: first a locality is chosen, then a host in it (Envoy's "locality weighted load balancing").

use super::table::{self, Part};
use super::{Level, Turn};
use crate::Dice;
use crate::cluster::Endpoints;

/// Which locality each host is in, and what localities weigh.
#[derive(Debug, Clone, Default)]
pub struct LocalityShare {
    /// For each host, in the flat order of [`super::hosts`].
    pub of_host: Vec<usize>,
    /// For each locality; 0 takes no requests.
    pub weights: Vec<u32>,
}

impl LocalityShare {
    /// The localities' weights as the endpoints say; the hosts are for the caller to add.
    pub fn of(endpoints: &Endpoints) -> Self {
        let weights = endpoints.localities.iter().map(|locality| locality.weight.unwrap_or(0)).collect();
        Self { of_host: Vec::new(), weights }
    }
}

/// The localities of one priority.
#[derive(Debug, Clone, Default)]
pub(super) struct Localities {
    healthy: Choice,
    degraded: Choice,
    /// With all their hosts, whatever their health.
    all: Choice,
}

/// Localities by the hosts of one kind of health that they have.
#[derive(Debug, Clone, Default)]
struct Choice {
    /// Hosts, the weight given, and what is left of it for lack of healthy hosts.
    groups: Vec<(Vec<usize>, u32, f64)>,
    total: f64,
}

impl Localities {
    /// `None` if no locality has a weight.
    pub(super) fn new(level: &Level, shares: &LocalityShare, factor: u32) -> Option<Self> {
        let mut present: Vec<usize> = level.all.iter().filter_map(|host| shares.of_host.get(*host)).copied().collect();
        present.sort_unstable();
        present.dedup();
        let weight = |locality: &usize| shares.weights.get(*locality).copied().unwrap_or(0);
        if present.iter().all(|locality| weight(locality) == 0) {
            return None;
        }
        let of = |hosts: &[usize]| -> Choice {
            let groups: Vec<(Vec<usize>, u32, f64)> = present
                .iter()
                .map(|locality| {
                    let inside = |host: &&usize| shares.of_host.get(**host) == Some(locality);
                    let members: Vec<usize> = hosts.iter().filter(inside).copied().collect();
                    let count = level.all.iter().filter(inside).count() - level.excluded.iter().filter(inside).count();
                    let share = f64::from(factor) / 100.0 * members.len() as f64 / count.max(1) as f64;
                    let weight = weight(locality);
                    (members, weight, f64::from(weight) * share.min(1.0))
                })
                .collect();
            let total = groups.iter().map(|(_, _, weight)| weight).sum();
            Choice { groups, total }
        };
        Some(Self { healthy: of(&level.healthy), degraded: of(&level.degraded), all: of(&level.all) })
    }

    /// The hosts of the locality whose turn it is; `None` if there is none with such hosts.
    pub(super) fn choose(&self, degraded: bool, turn: &mut Turn, dice: &mut dyn Dice) -> Option<&[usize]> {
        let choice = if degraded { &self.degraded } else { &self.healthy };
        if choice.total <= 0.0 {
            return None;
        }
        let mut at = dice.below(1 << 32) as f64 / (1u64 << 32) as f64 * choice.total;
        let mut chosen = None;
        for (locality, (hosts, _, weight)) in choice.groups.iter().enumerate().filter(|(_, group)| group.2 > 0.0) {
            chosen = Some((locality, hosts));
            if at < *weight {
                break;
            }
            at -= weight;
        }
        let (locality, hosts) = chosen?;
        turn.enter(locality);
        Some(hosts)
    }

    /// What a table is made of: a host's share is its locality's, divided by weight. (Envoy takes no account of a
    /// locality's health here.)
    pub(super) fn parts(&self, panic: bool, part: &impl Fn(usize) -> Part) -> (Vec<usize>, Vec<Part>) {
        let choice = if panic { &self.all } else { &self.healthy };
        let sum: u64 = choice.groups.iter().map(|(_, weight, _)| u64::from(*weight)).sum();
        let (mut members, mut parts) = (Vec::new(), Vec::new());
        for (hosts, weight, _) in choice.groups.iter().filter(|(_, weight, _)| *weight > 0) {
            let share = f64::from(*weight) / sum as f64;
            parts.extend(table::normalized(hosts.iter().map(|host| part(*host)).collect(), share));
            members.extend_from_slice(hosts);
        }
        (members, parts)
    }
}
