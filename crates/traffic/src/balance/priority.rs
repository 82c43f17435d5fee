//! How load is shared between priorities: the first takes it as far as its health allows, the rest goes to the next
//! (Envoy's "priority levels", "degraded endpoints" and "panic threshold"). Percentages are whole, as Envoy's.

use super::Level;

/// Percent of the requests for the healthy and the degraded hosts of each level.
#[derive(Debug, Clone, Default)]
pub struct Loads {
    healthy: Vec<u32>,
    degraded: Vec<u32>,
}

/// Percent of each level's hosts that can be used, healthy and degraded, as far as overprovisioning makes them enough.
#[derive(Debug, Clone, Default)]
pub(super) struct Availability {
    healthy: Vec<u32>,
    degraded: Vec<u32>,
}

impl Availability {
    /// `factor` is the overprovisioning factor in percent.
    pub(super) fn new(levels: &[Level], factor: u32) -> Self {
        let percent = |usable: usize, level: &Level| -> u32 {
            let percent = u64::from(factor) * usable as u64 / (level.counted() as u64).max(1);
            percent.min(100) as u32
        };
        Self {
            healthy: levels.iter().map(|level| percent(level.healthy.len(), level)).collect(),
            degraded: levels.iter().map(|level| percent(level.degraded.len(), level)).collect(),
        }
    }

    /// The same with nothing at these levels.
    pub(super) fn without(&self, left_out: &[bool]) -> Self {
        let rest = |list: &[u32]| list.iter().zip(left_out).map(|(p, out)| if *out { 0 } else { *p }).collect();
        Self { healthy: rest(&self.healthy), degraded: rest(&self.degraded) }
    }

    fn total(&self) -> u32 {
        self.healthy.iter().chain(&self.degraded).map(|p| u64::from(*p)).sum::<u64>().min(100) as u32
    }

    /// How these share the load; `None` if nobody is there.
    pub(super) fn share(&self) -> Option<Loads> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let mut left = 100;
        let mut share = |available: &[u32]| -> Vec<u32> {
            let shares = available.iter().map(|percent| {
                let load = left.min(percent * 100 / total);
                left -= load;
                load
            });
            shares.collect()
        };
        let mut loads = Loads { healthy: share(&self.healthy), degraded: share(&self.degraded) };
        // What rounding left over goes to the first that is there.
        match (self.healthy.iter().position(|p| *p > 0), self.degraded.iter().position(|p| *p > 0)) {
            (Some(at), _) => loads.healthy[at] += left,
            (None, Some(at)) => loads.degraded[at] += left,
            (None, None) => {}
        }
        Some(loads)
    }
}

impl Loads {
    /// Shares the load and marks the levels that are in panic.
    pub(super) fn new(levels: &mut [Level], panic_threshold: f64, available: &Availability) -> Self {
        let threshold = panic_threshold.clamp(0.0, 100.0);
        if available.total() < 100 && threshold > 0.0 {
            for level in levels.iter_mut() {
                let usable = (level.healthy.len() + level.degraded.len()) as f64;
                level.panic = 100.0 * usable / (level.counted() as f64).max(1.0) < threshold;
            }
            if levels.iter().all(|level| level.panic) {
                return Self::in_total_panic(levels);
            }
        }
        available.share().unwrap_or_else(|| {
            // Somebody must say that there is nobody.
            let mut healthy = vec![0; levels.len()];
            if let Some(first) = healthy.first_mut() {
                *first = 100;
            }
            Self { healthy, degraded: vec![0; levels.len()] }
        })
    }

    /// Every level takes what its number of hosts is of all.
    fn in_total_panic(levels: &[Level]) -> Self {
        let total: usize = levels.iter().map(Level::counted).sum();
        let mut healthy: Vec<u32> = levels.iter().map(|level| (100 * level.counted() / total.max(1)) as u32).collect();
        let left = 100 - healthy.iter().sum::<u32>().min(100);
        if let Some(first) = levels.iter().position(|level| !level.all.is_empty()) {
            healthy[first] += left;
        }
        Self { degraded: vec![0; healthy.len()], healthy }
    }

    /// Whether the healthy hosts of the first level take everything.
    pub(super) fn only_first(&self) -> bool {
        self.healthy.first() == Some(&100)
    }

    /// The level for a number, and whether its degraded hosts are meant.
    pub(super) fn choose(&self, hash: u64) -> (usize, bool) {
        let at = (hash % 100) as u32 + 1;
        let mut sum = 0;
        for (degraded, loads) in [(false, &self.healthy), (true, &self.degraded)] {
            for (level, load) in loads.iter().enumerate() {
                sum += load;
                if at <= sum {
                    return (level, degraded);
                }
            }
        }
        (0, false)
    }
}
