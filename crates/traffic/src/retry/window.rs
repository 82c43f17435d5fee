//! How many requests began lately: what a retry budget with an interval is a share of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Into so many slots Envoy divides an interval.
const SLOTS: u64 = 10;

/// Counts requests, of all workers together, by the slot of time in which they began. As Envoy's, it forgets a slot whole, between
/// nine and ten tenths of the interval after a request of it.
#[derive(Debug, Default)]
pub struct Window {
    // Of each slot: which one it is, in the upper half, and how many requests began in it.
    slots: [AtomicU64; SLOTS as usize],
}

impl Window {
    /// A request begins. `now` is the time since any moment that stays the same.
    pub fn begin(&self, interval: Duration, now: Duration) {
        let number = number(interval, now);
        let Some(slot) = self.slots.get(number as usize % self.slots.len()) else { return };
        let one_more = |held: u64| {
            let fresh = held >> 32 == u64::from(number);
            Some(if fresh && held as u32 != u32::MAX { held + 1 } else { u64::from(number) << 32 | 1 })
        };
        // Never an error: there is always a next value.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    }

    /// Requests that began within `interval` before `now`.
    pub fn count(&self, interval: Duration, now: Duration) -> u32 {
        let number = number(interval, now);
        let held = self.slots.iter().map(|slot| slot.load(Ordering::Relaxed));
        let counted = held.filter(|held| u64::from(number.wrapping_sub((held >> 32) as u32)) < SLOTS);
        counted.fold(0, |sum, held| sum.saturating_add(held as u32))
    }
}

/// The number of the slot that `now` is in. It begins anew after so long a time that nothing of before is there.
fn number(interval: Duration, now: Duration) -> u32 {
    let slot = (interval.as_nanos() / u128::from(SLOTS)).max(1);
    (now.as_nanos() / slot) as u32
}
