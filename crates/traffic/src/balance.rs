//! Load balancing: which host of a cluster takes the next request.

use std::sync::Arc;
use std::time::Duration;

use crate::Dice;
use crate::cluster::{Endpoints, Hashing, Health, LbPolicy, SlowStart};

mod locality;
mod maglev;
mod murmur;
mod pick;
mod priority;
mod ring;
mod table;

pub use locality::LocalityShare;
pub use pick::{Rotation, Turn};
pub use priority::Loads;
pub use table::{Counts, Part, Table};

use locality::Localities;
use pick::Picking;
use priority::Availability;

/// The hosts of a cluster as the balancer sees them: indices into a flat list in the order of [`hosts`].
#[derive(Debug, Clone, Default)]
pub struct HostSet {
    levels: Vec<Level>,
    available: Availability,
    /// Which share of the requests each level takes.
    loads: Loads,
    slow_start: Option<SlowStart>,
    equal_weights: bool,
}

/// The hosts of one priority.
#[derive(Debug, Clone, Default)]
struct Level {
    all: Vec<usize>,
    healthy: Vec<usize>,
    degraded: Vec<usize>,
    /// Those of `all` that do not count when the healthy share is worked out.
    excluded: Vec<usize>,
    /// So few are healthy that health is disregarded.
    panic: bool,
    /// Where localities have weights.
    localities: Option<Box<Localities>>,
    /// Where the request's hash decides: the table, and the hosts at its positions.
    table: Option<(Arc<Table>, Vec<usize>)>,
}

/// What a host is sorted by.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// 0 is used first.
    pub priority: u32,
    /// Its health, all in all.
    pub health: Health,
    /// It does not count when the healthy share of hosts is worked out.
    pub excluded: bool,
}

impl From<(u32, Health)> for Standing {
    fn from((priority, health): (u32, Health)) -> Self {
        Self { priority, health, excluded: false }
    }
}

/// Looks of one host, given to [`HostSet::pick`].
pub trait Hosts {
    /// Relative weight, at least 1.
    fn weight(&self, host: usize) -> u32;
    /// Requests in flight to it.
    fn active(&self, host: usize) -> u32;
    /// How long it has been taking requests; asked only where hosts are warmed up.
    fn age(&self, _host: usize) -> Duration {
        Duration::MAX
    }
}

/// All endpoints in a flat order: by locality, as given.
pub fn hosts(endpoints: &Endpoints) -> impl Iterator<Item = (u32, &Arc<crate::cluster::Endpoint>)> {
    endpoints.localities.iter().flat_map(|l| l.endpoints.iter().map(move |e| (l.priority, e)))
}

impl HostSet {
    /// Sorts hosts by priority and health. `panic_threshold` is a percentage.
    pub fn new(
        hosts: impl Iterator<Item = impl Into<Standing>>,
        panic_threshold: f64,
        overprovisioning_factor: u32,
    ) -> Self {
        let mut levels: Vec<(u32, Level)> = Vec::new();
        for (index, host) in hosts.enumerate() {
            let Standing { priority, health, excluded } = host.into();
            let at = match levels.binary_search_by_key(&priority, |(p, _)| *p) {
                Ok(at) => at,
                Err(at) => {
                    levels.insert(at, (priority, Level::default()));
                    at
                }
            };
            let level = &mut levels[at].1;
            level.all.push(index);
            if excluded {
                level.excluded.push(index);
            }
            match health {
                Health::Healthy => level.healthy.push(index),
                Health::Degraded => level.degraded.push(index),
                Health::Unhealthy | Health::Draining => {}
            }
        }
        let mut levels: Vec<Level> = levels.into_iter().map(|(_, level)| level).collect();
        let available = Availability::new(&levels, factor(overprovisioning_factor));
        let loads = Loads::new(&mut levels, panic_threshold, &available);
        Self { levels, available, loads, slow_start: None, equal_weights: false }
    }

    /// Chooses a locality by weight before a host. `shares` tells for each host which locality it is in, and has each
    /// locality's weight.
    pub fn with_localities(mut self, shares: &LocalityShare, overprovisioning_factor: u32) -> Self {
        for level in &mut self.levels {
            level.localities = Localities::new(level, shares, factor(overprovisioning_factor)).map(Box::new);
        }
        self
    }

    /// Lets new hosts have their share little by little.
    pub fn with_slow_start(mut self, slow_start: Option<SlowStart>) -> Self {
        self.slow_start = slow_start;
        self
    }

    /// Spares looking at each host's weight at every pick, if all are the same.
    pub fn with_weights(mut self, mut weights: impl Iterator<Item = u32>) -> Self {
        let first = weights.next();
        self.equal_weights = weights.all(|weight| Some(weight) == first);
        self
    }

    /// Lets hashes decide. `part` gives a host's key and weight, `table` a table made of parts, new or known.
    pub fn with_tables(mut self, part: impl Fn(usize) -> Part, mut table: impl FnMut(Vec<Part>) -> Arc<Table>) -> Self {
        for level in &mut self.levels {
            let (hosts, parts) = level.parts(&part);
            level.table = Some((table(parts), hosts));
        }
        self
    }

    /// How the load is shared for a request that tried these hosts, in order, when the priorities of those tried are
    /// left out after each `every` attempts; `None`: as ever. All count again once none is left that has a host to use
    /// (Envoy's `previous_priorities`).
    pub fn loads_after(&self, tried: &[usize], every: usize) -> Option<Loads> {
        let mut left_out = vec![false; self.levels.len()];
        let mut loads = None;
        let mut counted = 0;
        for (at, _) in tried.iter().enumerate() {
            if (at + 1 - counted) % every.max(1) != 0 {
                continue;
            }
            for host in &tried[counted..=at] {
                if let Some(level) = self.levels.iter().position(|level| level.all.contains(host)) {
                    left_out[level] = true;
                }
            }
            loads = self.available.without(&left_out).share();
            if loads.is_none() {
                left_out.fill(false);
                counted = at + 1;
            }
        }
        loads
    }

    /// Picks a host; `None` when there is none that may be used. `loads` are those of [`HostSet::loads_after`].
    pub fn pick(
        &self,
        policy: LbPolicy,
        loads: Option<&Loads>,
        hosts: &impl Hosts,
        turn: &mut Turn,
        dice: &mut dyn Dice,
    ) -> Option<usize> {
        if let LbPolicy::Hash(_) = policy {
            let hash = dice.roll();
            return self.pick_by_hash(hash, loads, 0);
        }
        let (from, whole) = self.candidates(loads.unwrap_or(&self.loads), turn, dice)?;
        let picking = Picking { policy, slow_start: self.slow_start, equal: self.equal_weights, whole };
        picking.pick(from, hosts, turn, dice)
    }

    /// Whether so few hosts of the picked one's priority are healthy that health was disregarded.
    pub fn picked_in_panic(&self, host: usize) -> bool {
        self.levels.iter().any(|level| level.panic && level.all.contains(&host))
    }

    /// The host that stands for a hash. `attempt` counts the hosts refused for the same request, from 0.
    pub fn pick_by_hash(&self, hash: u64, loads: Option<&Loads>, attempt: u32) -> Option<usize> {
        let (at, _) = loads.unwrap_or(&self.loads).choose(hash);
        let level = self.levels.get(at)?;
        let (table, hosts) = level.table.as_ref()?;
        hosts.get(table.find(hash, attempt)?).copied()
    }

    /// The hosts from which one is picked: of the priority that takes this request, those of the locality that does.
    /// Tells too whether these are all of a priority.
    fn candidates(&self, loads: &Loads, turn: &mut Turn, dice: &mut dyn Dice) -> Option<(&[usize], bool)> {
        let (at, degraded) = if loads.only_first() { (0, false) } else { loads.choose(dice.roll()) };
        let level = self.levels.get(at)?;
        if level.panic {
            return Some((&level.all, true));
        }
        if let Some(localities) = &level.localities
            && let Some(hosts) = localities.choose(degraded, turn, dice)
        {
            return Some((hosts, false));
        }
        Some((if degraded { &level.degraded } else { &level.healthy }, true))
    }
}

impl Level {
    /// How many hosts count.
    fn counted(&self) -> usize {
        self.all.len() - self.excluded.len()
    }

    /// What its table is made of: healthy hosts, or all in panic. Degraded ones are never found by hash, as in Envoy.
    fn parts(&self, part: &impl Fn(usize) -> Part) -> (Vec<usize>, Vec<Part>) {
        if let Some(localities) = &self.localities {
            return localities.parts(self.panic, part);
        }
        let hosts = if self.panic { &self.all } else { &self.healthy };
        (hosts.clone(), table::normalized(hosts.iter().map(|host| part(*host)).collect(), 1.0))
    }
}

/// Envoy's default is 140 percent.
fn factor(overprovisioning: u32) -> u32 {
    if overprovisioning == 0 { 140 } else { overprovisioning }
}

impl Hashing {
    /// A table for the hosts with these keys and weights.
    pub fn table(&self, parts: Vec<Part>) -> Table {
        Table::new(self.kind, parts)
    }
}

#[cfg(test)]
mod tests;
