//! What streams leave behind for those that come after them on the same worker: the memory of heads, and a timer that
//! is armed. An HTTP/1 connection keeps these for its next request; a stream has only one.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use lateen_traffic::{RequestHead, ResponseHead};

use crate::timer::Timer;

/// Streams' worth that is kept: what one turn of a busy worker takes.
const MOST: usize = 64;
/// Bytes of a head beyond which it is let go.
pub(super) const LARGE: usize = 4096;

/// What a stream needs, in a place of its own: it goes from hand to hand.
#[derive(Default)]
pub struct Scratch(Box<Parts>);

/// The same, apart.
#[derive(Default)]
pub struct Parts {
    /// The request's head; empty.
    pub request: RequestHead,
    /// The response's head; its fields are another one's.
    pub response: ResponseHead,
    /// The stream's timer, for whatever deadline.
    pub timer: Timer,
}

impl Deref for Scratch {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.0
    }
}

/// What is kept of it.
#[derive(Default)]
pub struct Spare(RefCell<Vec<Scratch>>);

impl Spare {
    /// For a stream that begins.
    pub fn take(&self) -> Scratch {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Of a stream that is over.
    pub fn give(&self, mut scratch: Scratch) {
        let mut kept = self.0.borrow_mut();
        let used = scratch.request.capacity() + scratch.response.headers.capacity();
        if kept.len() < MOST && used <= LARGE {
            scratch.request.clear();
            kept.push(scratch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_stream_finds_an_empty_head_and_no_large_one() {
        let spare = Spare::default();
        let mut scratch = spare.take();
        scratch.request.headers.append("a", "b");
        scratch.request.path.push_str("/x");
        let memory = scratch.request.capacity();
        spare.give(scratch);
        let mut scratch = spare.take();
        assert_eq!((scratch.request.capacity(), scratch.request.headers.len()), (memory, 0));
        assert_eq!(scratch.request.path, "");
        scratch.request.headers.append("a", "b".repeat(LARGE));
        spare.give(scratch);
        assert_eq!(spare.take().request.capacity(), 0);
        (0..2 * MOST).for_each(|_| spare.give(Scratch::default()));
        assert_eq!(spare.0.borrow().len(), MOST);
    }
}
