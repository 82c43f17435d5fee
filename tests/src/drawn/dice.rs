//! One stream of chance, from a seed.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Draws; the same seed draws the same.
pub struct Dice(SmallRng);

impl Dice {
    /// Of a run's seed and the number of one of its parts, so that each part can be drawn again alone.
    pub fn new(seed: u64, part: u64) -> Dice {
        Dice(SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(part)))
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        from.choose(&mut self.0).expect("something to choose from")
    }

    /// One of these words.
    pub fn word<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.choose(&mut self.0).copied().unwrap_or("")
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    /// From 0 up to, not including, `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end.max(1))
    }

    /// Letters, so that what differs can be read.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.0.random_range(b'a'..=b'z')).collect()
    }
}
