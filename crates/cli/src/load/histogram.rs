//! Latencies, counted in buckets of equal relative width: constant memory, any percentile within 3%.

use std::time::Duration;

/// Buckets per doubling.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
const BUCKETS: usize = ((64 - STEP_BITS as usize) + 1) * STEPS as usize;

/// How many times each latency was seen.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: Duration,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], count: 0, sum: Duration::ZERO, max: Duration::ZERO }
    }
}

impl Histogram {
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanoseconds)) {
            *count += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(latency);
        self.max = self.max.max(latency);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours += theirs;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// The latency that `share` (0 to 1) of all do not exceed, zero when nothing was recorded.
    pub fn percentile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper_bound(bucket)).min(self.max);
            }
        }
        self.max
    }

    pub fn max(&self) -> Duration {
        self.max
    }

    pub fn mean(&self) -> Duration {
        if self.count == 0 { Duration::ZERO } else { self.sum.div_f64(self.count as f64) }
    }
}

fn bucket(value: u64) -> usize {
    let octave = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    // Values of the first octaves have a bucket each; later ones share it with 2^octave - 1 neighbours.
    (u64::from(octave) * STEPS + (value >> octave)) as usize
}

fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let octave = bucket / STEPS - 1;
    let within = u128::from(bucket - octave * STEPS) + 1;
    u64::try_from((within << octave) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_is_within_its_bucket_and_3_percent_of_its_bound(value in any::<u64>()) {
            let bound = upper_bound(bucket(value));
            prop_assert!(bound >= value);
            prop_assert!((bound - value) as f64 <= value as f64 * 0.0313);
            prop_assert!(bucket(value) == 0 || upper_bound(bucket(value) - 1) < value);
            prop_assert!(bucket(value) < BUCKETS);
        }
    }

    #[test]
    fn percentiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(0.5), Duration::ZERO);
        for milliseconds in 1..=100 {
            histogram.record(Duration::from_millis(milliseconds));
        }
        let near = |share: f64, milliseconds: f64| {
            let got = histogram.percentile(share).as_secs_f64() * 1e3;
            assert!((got / milliseconds - 1.0).abs() < 0.04, "{share}: {got} for {milliseconds}");
        };
        near(0.0, 1.0);
        near(0.5, 50.0);
        near(0.99, 99.0);
        near(1.0, 100.0);
        assert_eq!(histogram.max(), Duration::from_millis(100));
        assert_eq!(histogram.mean(), Duration::from_micros(50_500));
    }
}
