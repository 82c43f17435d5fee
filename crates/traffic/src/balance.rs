//! Load balancing: which host of a cluster takes the next request.

use crate::Dice;
use crate::cluster::{Endpoints, Health, LbPolicy};

/// The hosts of a cluster as the balancer sees them: indices into a flat list in the order of [`hosts`].
#[derive(Debug, Clone, Default)]
pub struct HostSet {
    priorities: Vec<Priority>,
    panic_threshold: f64,
    overprovisioning: f64,
}

#[derive(Debug, Clone, Default)]
struct Priority {
    all: Vec<usize>,
    healthy: Vec<usize>,
    degraded: Vec<usize>,
}

/// What a worker remembers between picks.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    position: u64,
    // Round robin with unequal weights: smooth credits, one a host.
    credits: Vec<i64>,
}

/// Looks of one host, given to [`HostSet::pick`].
pub trait Hosts {
    /// Relative weight, at least 1.
    fn weight(&self, host: usize) -> u32;
    /// Requests in flight to it.
    fn active(&self, host: usize) -> u32;
}

/// All endpoints in a flat order: by locality, as given.
pub fn hosts(endpoints: &Endpoints) -> impl Iterator<Item = (u32, &std::sync::Arc<crate::cluster::Endpoint>)> {
    endpoints.localities.iter().flat_map(|l| l.endpoints.iter().map(move |e| (l.priority, e)))
}

impl HostSet {
    /// Sorts hosts by priority and health. `panic_threshold` is a percentage.
    pub fn new(hosts: impl Iterator<Item = (u32, Health)>, panic_threshold: f64, overprovisioning_factor: u32) -> Self {
        let mut priorities: Vec<(u32, Priority)> = Vec::new();
        for (index, (priority, health)) in hosts.enumerate() {
            let at = match priorities.binary_search_by_key(&priority, |(p, _)| *p) {
                Ok(at) => at,
                Err(at) => {
                    priorities.insert(at, (priority, Priority::default()));
                    at
                }
            };
            let group = &mut priorities[at].1;
            group.all.push(index);
            match health {
                Health::Healthy => group.healthy.push(index),
                Health::Degraded => group.degraded.push(index),
                Health::Unhealthy | Health::Draining => {}
            }
        }
        let factor = if overprovisioning_factor == 0 { 140 } else { overprovisioning_factor };
        Self {
            priorities: priorities.into_iter().map(|(_, p)| p).collect(),
            panic_threshold,
            overprovisioning: f64::from(factor) / 100.0,
        }
    }

    /// Picks a host; `None` when there is none that may be used.
    pub fn pick(&self, policy: LbPolicy, hosts: &impl Hosts, turn: &mut Turn, dice: &mut dyn Dice) -> Option<usize> {
        let from = self.candidates(dice)?;
        match (policy, from) {
            (_, []) => None,
            (_, [only]) => Some(*only),
            (LbPolicy::Random, from) => Some(weighted_random(from, hosts, dice)),
            (LbPolicy::RoundRobin, from) => Some(turn.next(from, hosts)),
            (LbPolicy::LeastRequest { choices }, from) => Some(least_request(from, hosts, choices, turn, dice)),
            (LbPolicy::ClusterProvided, _) => None,
        }
    }

    /// The hosts from which one is picked: of the priority that takes this request, the healthy ones, or all in panic.
    fn candidates(&self, dice: &mut dyn Dice) -> Option<&[usize]> {
        let priority = match self.priorities.as_slice() {
            [] => return None,
            [only] => only,
            several => self.choose_priority(several, dice)?,
        };
        let usable = priority.healthy.len() + priority.degraded.len();
        let share = 100.0 * usable as f64 / priority.all.len() as f64;
        if share < self.panic_threshold {
            return Some(&priority.all);
        }
        Some(if priority.healthy.is_empty() { &priority.degraded } else { &priority.healthy })
    }

    /// Load goes to priority 0 as far as its health allows, the rest to the next (Envoy's "priority levels").
    fn choose_priority<'a>(&self, priorities: &'a [Priority], dice: &mut dyn Dice) -> Option<&'a Priority> {
        let health = |p: &Priority| {
            let usable = (p.healthy.len() + p.degraded.len()) as f64;
            (100.0 * self.overprovisioning * usable / p.all.len() as f64).min(100.0)
        };
        let total: f64 = priorities.iter().map(health).sum::<f64>().min(100.0);
        if total <= 0.0 {
            return priorities.first();
        }
        let mut at = dice.below(10_000) as f64 / 100.0;
        let mut left = 100.0;
        for p in priorities {
            let load = (health(p) * 100.0 / total).min(left);
            if at < load {
                return Some(p);
            }
            at -= load;
            left -= load;
        }
        priorities.iter().rev().find(|p| health(p) > 0.0)
    }
}

fn weighted_random(from: &[usize], hosts: &impl Hosts, dice: &mut dyn Dice) -> usize {
    let total: u64 = from.iter().map(|h| u64::from(hosts.weight(*h))).sum();
    let mut at = dice.below(total);
    for host in from {
        let weight = u64::from(hosts.weight(*host));
        if at < weight {
            return *host;
        }
        at -= weight;
    }
    from[0]
}

/// The best of several random hosts. With equal weights ties go round, so that an idle cluster is used evenly; with
/// unequal weights a host counts by (active + 1) / weight.
fn least_request(from: &[usize], hosts: &impl Hosts, choices: u32, turn: &mut Turn, dice: &mut dyn Dice) -> usize {
    let n = from.len();
    turn.position = turn.position.wrapping_add(1);
    let mut best = from[(turn.position % n as u64) as usize];
    for _ in 1..choices.max(2) {
        let other = from[dice.below(n as u64) as usize];
        let (a, b) = (u64::from(hosts.active(best)) + 1, u64::from(hosts.active(other)) + 1);
        // b / weight(other) < a / weight(best), without division.
        if b * u64::from(hosts.weight(best)) < a * u64::from(hosts.weight(other)) {
            best = other;
        }
    }
    best
}

impl Turn {
    /// Begins at a random place, so that workers and restarts do not all favour the first host.
    pub fn starting_at(dice: &mut dyn Dice) -> Self {
        Self { position: dice.roll() >> 1, credits: Vec::new() }
    }

    fn next(&mut self, from: &[usize], hosts: &impl Hosts) -> usize {
        let first = hosts.weight(from[0]);
        if from.iter().all(|h| hosts.weight(*h) == first) {
            self.position = self.position.wrapping_add(1);
            return from[(self.position % from.len() as u64) as usize];
        }
        // Smooth weighted round robin: everyone earns its weight, the richest pays the total.
        if self.credits.len() != from.len() {
            self.credits = vec![0; from.len()];
        }
        let total: i64 = from.iter().map(|h| i64::from(hosts.weight(*h))).sum();
        let mut best = 0;
        for (i, host) in from.iter().enumerate() {
            self.credits[i] += i64::from(hosts.weight(*host));
            if self.credits[i] > self.credits[best] {
                best = i;
            }
        }
        self.credits[best] -= total;
        from[best]
    }
}

#[cfg(test)]
mod tests;
