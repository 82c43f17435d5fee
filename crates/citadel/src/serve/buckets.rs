//! How often each caller may ask: everybody has a bucket of tokens that is filled at a steady rate. Time is handed in.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// What a bucket holds: this many may ask at the same moment, as when a whole Deployment of one service account starts.
const MOST: f64 = 2000.0;
/// How many tokens come back in a second: 700 pods with certificates of ten seconds' life renew them as often.
const RATE: f64 = 200.0;
/// Callers whose buckets are not full; more are not let in.
const CALLERS: usize = 1 << 14;
/// How often full buckets are looked for at most.
const SWEEP: Duration = Duration::from_secs(1);

/// Whether a caller may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Granted,
    /// The bucket is empty; `first`: the one before was granted.
    Refused {
        first: bool,
    },
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    refused: bool,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        self.tokens = (self.tokens + RATE * now.saturating_duration_since(self.at).as_secs_f64()).min(MOST);
        self.at = now;
    }
}

/// The buckets of all callers. Full ones are not kept.
#[derive(Debug)]
pub struct Buckets<K> {
    buckets: HashMap<K, Bucket>,
    swept: Option<Instant>,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { buckets: HashMap::new(), swept: None }
    }
}

impl<K: Eq + Hash> Buckets<K> {
    /// Takes a token out of a caller's bucket.
    pub fn take(&mut self, caller: K, now: Instant) -> Turn {
        let known = self.buckets.len();
        if known >= CALLERS && !self.buckets.contains_key(&caller) && !self.sweep(now) {
            return Turn::Refused { first: false };
        }
        let bucket = self.buckets.entry(caller).or_insert(Bucket { tokens: MOST, at: now, refused: false });
        bucket.fill(now);
        if bucket.tokens < 1.0 {
            return Turn::Refused { first: !std::mem::replace(&mut bucket.refused, true) };
        }
        bucket.tokens -= 1.0;
        bucket.refused = false;
        Turn::Granted
    }

    /// Puts the token back.
    pub fn put_back(&mut self, caller: &K) {
        if let Some(bucket) = self.buckets.get_mut(caller) {
            bucket.tokens = (bucket.tokens + 1.0).min(MOST);
        }
    }

    /// Forgets full buckets; whether there is room then.
    fn sweep(&mut self, now: Instant) -> bool {
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            self.swept = Some(now);
            self.buckets.retain(|_, bucket| {
                bucket.fill(now);
                bucket.tokens < MOST
            });
        }
        self.buckets.len() < CALLERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(buckets: &mut Buckets<u32>, caller: u32, now: Instant) -> usize {
        std::iter::repeat_with(|| buckets.take(caller, now)).take_while(|turn| *turn == Turn::Granted).count()
    }

    #[test]
    fn a_caller_has_a_burst_and_then_a_rate_and_takes_nothing_from_others() {
        let (start, mut buckets) = (Instant::now(), Buckets::default());
        assert_eq!(granted(&mut buckets, 1, start), 2000);
        assert_eq!(buckets.take(1, start), Turn::Refused { first: false });
        assert_eq!(granted(&mut buckets, 2, start), 2000);
        let later = start + Duration::from_secs(3);
        assert_eq!(granted(&mut buckets, 1, later), 600);
        buckets.put_back(&1);
        assert_eq!(buckets.take(1, later), Turn::Granted);
        assert_eq!(buckets.take(1, later), Turn::Refused { first: true });
        assert_eq!(granted(&mut buckets, 1, later + Duration::from_secs(3600)), 2000, "no more than at first");
    }

    #[test]
    fn callers_whose_buckets_are_full_are_forgotten_and_others_are_bounded() {
        let (start, mut buckets) = (Instant::now(), Buckets::default());
        for caller in 0..CALLERS as u32 {
            assert_eq!(buckets.take(caller, start), Turn::Granted);
        }
        assert_eq!(buckets.take(u32::MAX, start), Turn::Refused { first: false });
        assert_eq!(buckets.take(7, start), Turn::Granted, "whoever is known goes on");
        let later = start + SWEEP;
        assert_eq!(buckets.take(u32::MAX, later), Turn::Granted);
        assert_eq!(buckets.buckets.len(), 1);
    }
}
