//! Signatures that a key set found good before. Verifying one costs 15 to 100 times what looking it up here costs.
//!
//! A table of fixed size without locks: a later signature takes an earlier one's place. What it knows is nothing but "these
//! keys made this signature of this text", which stays true; times, audiences and issuers are looked at for each request, and
//! other keys are another key set with a table of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;

/// Signatures that are remembered.
const PLACES: usize = 1024;

/// Which signature of which text, by a digest that nobody can make two of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    place: usize,
    words: [u64; 2],
}

impl Mark {
    pub fn of(signed: &str, signature: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(signed.as_bytes());
        // No text that is signed has a NUL.
        context.update(&[0]);
        context.update(signature);
        let digest = context.finish();
        let word = |at: usize| {
            let bytes = digest.as_ref().iter().skip(at * 8).take(8);
            bytes.fold(0u64, |word, byte| word << 8 | u64::from(*byte))
        };
        Self { place: word(2) as usize % PLACES, words: [word(0), word(1)] }
    }
}

/// The table.
pub struct Verified(Box<[[AtomicU64; 2]]>);

impl Default for Verified {
    fn default() -> Self {
        Self((0..PLACES).map(|_| Default::default()).collect())
    }
}

impl Verified {
    pub fn knows(&self, mark: Mark) -> bool {
        // Two halves of different marks, met while one is written, are no mark that anybody could bring about.
        self.0[mark.place].iter().zip(mark.words).all(|(known, word)| known.load(Ordering::Relaxed) == word)
    }

    pub fn remember(&self, mark: Mark) {
        for (known, word) in self.0[mark.place].iter().zip(mark.words) {
            known.store(word, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verified")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_verified_is_known_and_nothing_else() {
        let table = Verified::default();
        let mark = Mark::of("head.body", b"signature");
        assert!(!table.knows(mark));
        table.remember(mark);
        assert!(table.knows(mark));
        for other in
            [Mark::of("head.body", b"signaturf"), Mark::of("head.bodz", b"signature"), Mark::of("head.body", b"")]
        {
            assert!(!table.knows(other));
        }
        // As many as one likes may follow.
        for number in 0..10 * PLACES {
            table.remember(Mark::of(&number.to_string(), b"x"));
        }
        assert!(table.knows(Mark::of(&(10 * PLACES - 1).to_string(), b"x")));
    }
}
