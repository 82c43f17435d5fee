//! What is counted with: counters, gauges and histograms.
//!
//! A cell of a worker has one writer, so writing is a plain load and store: no locked instruction, no cache line that
//! cores fight for. Whoever scrapes only reads. [`SharedCounter`] and [`SharedGauge`] are for the few numbers that
//! several threads write; they are never on a request's path.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::snapshot::Value;

/// Read access for the snapshot.
pub(super) trait Cell {
    fn value(&self) -> Value;
}

/// A number that only grows. Written by one worker.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Cell for Counter {
    fn value(&self) -> Value {
        Value::Counter(self.get())
    }
}

/// How many there are at this moment. Written by one worker. Kept as what came and what went, so that "never used" and
/// "back at zero" can be told apart, as Envoy's `usedonly` does.
#[derive(Debug, Default)]
pub struct Gauge {
    came: Counter,
    went: Counter,
}

impl Gauge {
    /// One more.
    #[inline]
    pub fn inc(&self) {
        self.came.inc();
    }

    /// One less.
    #[inline]
    pub fn dec(&self) {
        self.went.inc();
    }

    /// How many now. Never negative, also while a writer is between two steps.
    pub fn get(&self) -> u64 {
        let went = self.went.get();
        self.came.get().saturating_sub(went)
    }
}

impl Cell for Gauge {
    fn value(&self) -> Value {
        Value::Gauge { value: self.get() as i64, used: self.came.get() > 0 }
    }
}

/// Upper bounds of the histogram's buckets in milliseconds, inclusive: Envoy's default buckets. A further bucket takes
/// what is longer.
pub const BOUNDS_MS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0,
    600000.0, 1800000.0, 3600000.0,
];

const BOUNDS_US: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Durations, sorted into Envoy's default buckets. Written by one worker.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; 20],
    sum_us: Counter,
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        // Most durations are in the first buckets, so walking beats halving.
        let at = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[at].inc();
        self.sum_us.add(us);
    }
}

impl Cell for Histogram {
    fn value(&self) -> Value {
        let mut counts = [0; 20];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.get();
        }
        Value::Histogram(Box::new(Distribution { counts, sum_us: self.sum_us.get() }))
    }
}

/// What a histogram holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Samples in each bucket of [`BOUNDS_MS`], and those beyond.
    pub counts: [u64; 20],
    /// Sum of all samples in microseconds.
    pub sum_us: u64,
}

impl Distribution {
    /// How many samples.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The value below which a share `q` (0 to 1) of the samples lies, in milliseconds, taking samples as spread evenly
    /// over their bucket. `None` without samples.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let (mut below, mut low) = (0.0, 0.0);
        for (count, high) in self.counts.iter().zip(BOUNDS_MS) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return Some(low + (high - low) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
            low = high;
        }
        Some(low)
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.wrapping_add(*more);
        }
        self.sum_us = self.sum_us.wrapping_add(other.sum_us);
    }
}

/// Responses by status code: classes always, codes where asked for. Written by one worker.
#[derive(Debug, Default)]
pub struct Responses {
    classes: [Counter; 5],
    // 4 KiB, and most scopes never see a response: made at the first.
    codes: OnceLock<Box<[Counter; 500]>>,
}

impl Responses {
    #[inline]
    pub(super) fn count(&self, code: u16, with_code: bool) {
        let Some(at) = usize::from(code).checked_sub(100).filter(|at| *at < 500) else { return };
        self.classes[at / 100].inc();
        if with_code {
            self.codes.get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())))[at].inc();
        }
    }

    pub(super) fn classes(&self) -> [u64; 5] {
        std::array::from_fn(|i| self.classes[i].get())
    }

    pub(super) fn codes(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let codes = self.codes.get().map(|codes| codes.as_slice()).unwrap_or_default();
        (100u16..).zip(codes).map(|(code, count)| (code, count.get())).filter(|(_, count)| *count > 0)
    }
}

/// A counter that any thread may write.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Cell for SharedCounter {
    fn value(&self) -> Value {
        Value::Counter(self.get())
    }
}

/// A gauge that any thread may set.
#[derive(Debug, Default)]
pub struct SharedGauge(AtomicI64);

impl SharedGauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Cell for SharedGauge {
    fn value(&self) -> Value {
        Value::Gauge { value: self.get(), used: true }
    }
}
