//! Uids and made-up names.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Draws from a seed, so that a store with a known seed is reproducible.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    seed: [u64; 2],
    drawn: u64,
}

/// Kubernetes' alphabet for made-up names: no vowels, so no words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

impl Identity {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        Self { seed, drawn: 0 }
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, self.drawn).hash(&mut hasher);
        hasher.finish()
    }

    /// A version 4 UUID.
    pub(super) fn uid(&mut self) -> String {
        let (high, low) = (self.draw(), self.draw());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0x0fff,
            0x8000 | ((low >> 48) & 0x3fff),
            low & 0xffff_ffff_ffff
        )
    }

    /// Five characters after `generateName`.
    pub(super) fn suffix(&mut self) -> String {
        let mut number = self.draw();
        let mut suffix = String::with_capacity(5);
        for _ in 0..5 {
            let length = ALPHABET.len() as u64;
            let index = usize::try_from(number % length).unwrap_or(0);
            suffix.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'b')));
            number /= length;
        }
        suffix
    }
}
