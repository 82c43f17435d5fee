//! What passes on a client's HTTP/2 connection, by the heads of its frames.
//!
//! The `h2` crate refuses what breaks the rules without a word. Which stream that was, and whether it was heard of before,
//! is seen here: streams that were begun and neither handed over nor answered by anyone but the library. Knows nothing
//! of header blocks, flow control or sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::http2::PREFACE;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PROTOCOL_ERROR: u32 = 1;
/// Length of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// Streams that are remembered: more are begun at once by nobody who means well.
const MOST: usize = 1024;

/// A request that the library refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is malformed (RFC 9113 section 8.1.1).
    Malformed,
    /// Its header block is too large.
    TooLarge,
}

/// Both directions of a connection.
pub struct Frames {
    inbound: RefCell<Scan>,
    outbound: RefCell<Scan>,
    newest: Cell<u32>,
    begun: RefCell<VecDeque<u32>>,
    refused: RefCell<VecDeque<Refused>>,
    resets: Cell<(u64, u64)>,
}

impl Frames {
    /// Those of a new connection, whose client begins with its preface.
    pub fn new() -> Self {
        Self {
            inbound: RefCell::new(Scan { pass: PREFACE.len(), ..Scan::default() }),
            outbound: RefCell::default(),
            newest: Cell::new(0),
            begun: RefCell::default(),
            refused: RefCell::default(),
            resets: Cell::new((0, 0)),
        }
    }

    /// Bytes came from the client.
    pub fn received(&self, bytes: &[u8]) {
        self.inbound.borrow_mut().feed(bytes, |frame| match frame.kind {
            HEADERS if frame.stream % 2 == 1 && frame.stream > self.newest.get() => {
                self.newest.set(frame.stream);
                let mut begun = self.begun.borrow_mut();
                if begun.len() < MOST {
                    begun.push_back(frame.stream);
                }
            }
            RST_STREAM => self.resets.update(|(received, sent)| (received + 1, sent)),
            _ => {}
        });
    }

    /// The library wrote bytes.
    pub fn sent(&self, bytes: &[u8]) {
        self.outbound.borrow_mut().feed(bytes, |frame| {
            let refused = match frame.kind {
                HEADERS => Some(Refused::TooLarge),
                RST_STREAM => {
                    self.resets.update(|(received, sent)| (received, sent + 1));
                    (frame.code == PROTOCOL_ERROR).then_some(Refused::Malformed)
                }
                _ => return,
            };
            if self.take(frame.stream) {
                self.refused.borrow_mut().extend(refused);
            }
        });
    }

    /// The library handed a stream over.
    pub fn accepted(&self, stream: u32) {
        self.take(stream);
    }

    /// The next request that it refused.
    pub fn next_refused(&self) -> Option<Refused> {
        self.refused.borrow_mut().pop_front()
    }

    /// Whether a request was refused that nobody has asked for.
    pub fn has_refused(&self) -> bool {
        !self.refused.borrow().is_empty()
    }

    /// How many streams were begun that nothing has become of; forgets them.
    pub fn abandoned(&self) -> usize {
        std::mem::take(&mut *self.begun.borrow_mut()).len()
    }

    /// RST_STREAM frames received and sent since this was last asked.
    pub fn resets(&self) -> (u64, u64) {
        self.resets.take()
    }

    fn take(&self, stream: u32) -> bool {
        let mut begun = self.begun.borrow_mut();
        let at = begun.iter().position(|id| *id == stream);
        at.and_then(|at| begun.remove(at)).is_some()
    }
}

/// A frame's head, and of RST_STREAM its code.
#[derive(Default)]
struct Frame {
    kind: u8,
    stream: u32,
    code: u32,
}

/// One direction: how far its next frame has come.
#[derive(Default)]
struct Scan {
    // Bytes that are passed over.
    pass: usize,
    head: [u8; HEAD + 4],
    have: usize,
}

impl Scan {
    fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let passed = self.pass.min(bytes.len());
            self.pass -= passed;
            bytes = &bytes[passed..];
            let taken = (self.needed() - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.pass > 0 || self.have < self.needed() {
                continue;
            }
            let [_, _, _, kind, _, a, b, c, d, code @ ..] = self.head;
            let code = if self.have > HEAD { u32::from_be_bytes(code) } else { 0 };
            self.pass = self.length() - (self.have - HEAD);
            self.have = 0;
            each(Frame { kind, stream: u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1), code });
        }
    }

    /// How much of a frame tells all that is asked of it.
    fn needed(&self) -> usize {
        if self.have >= HEAD && self.head[3] == RST_STREAM && self.length() >= 4 { HEAD + 4 } else { HEAD }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        u32::from_be_bytes([0, a, b, c]) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, 5], &stream.to_be_bytes(), payload].concat()
    }

    fn begun(streams: &[u32]) -> Frames {
        let frames = Frames::new();
        let heads: Vec<u8> = streams.iter().flat_map(|stream| frame(HEADERS, *stream, b"block")).collect();
        // However it is cut.
        [PREFACE, &frame(4, 0, &[0; 6]), &heads].concat().chunks(4).for_each(|piece| frames.received(piece));
        frames
    }

    #[test]
    fn a_stream_that_is_reset_unheard_was_malformed() {
        let frames = begun(&[1, 3, 5]);
        frames.accepted(1);
        frames.sent(&[frame(4, 0, &[]), frame(RST_STREAM, 3, &1u32.to_be_bytes()), frame(HEADERS, 5, b"431")].concat());
        frames.sent(&frame(RST_STREAM, 1, &1u32.to_be_bytes()));
        let refused: Vec<Refused> = std::iter::from_fn(|| frames.next_refused()).collect();
        assert_eq!(refused, [Refused::Malformed, Refused::TooLarge]);
        assert_eq!((frames.abandoned(), frames.resets(), frames.resets()), (0, (0, 2), (0, 0)));
    }

    #[test]
    fn a_stream_too_many_is_not_malformed() {
        let frames = begun(&[1]);
        frames.sent(&frame(RST_STREAM, 1, &7u32.to_be_bytes()));
        assert_eq!((frames.next_refused(), frames.abandoned()), (None, 0));
    }

    #[test]
    fn what_was_begun_and_not_handed_over_is_abandoned() {
        // Trailers begin no stream, and clients begin no even ones.
        let frames = begun(&[1, 3, 3, 4, 5]);
        frames.accepted(3);
        frames.received(&frame(RST_STREAM, 3, &8u32.to_be_bytes()));
        assert_eq!((frames.abandoned(), frames.abandoned(), frames.resets()), (2, 0, (1, 0)));
    }
}
