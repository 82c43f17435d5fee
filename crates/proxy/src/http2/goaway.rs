//! Leaving, of either side (RFC 9113 section 6.8), and PINGs.

use super::core::Core;
use super::frame::{self, Reason};
use super::stream::Failure;

/// What the PING before the last GOAWAY says.
pub const LAST_CALL: [u8; 8] = *b"lastcall";

/// How far our own leaving is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    Not,
    /// The peer was told, and may not have heard of it when it began its newest streams.
    Told,
    /// Streams beyond this one are not taken up.
    After(u32),
}

impl Core {
    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        let leaving = self.peer.says_goodbye || matches!(self.leaving, Leaving::After(_));
        leaving && self.streams.is_empty() && self.news.is_empty()
    }

    /// Whether a stream of this number is served although we leave.
    pub(super) fn takes_up(&self, id: u32) -> bool {
        !matches!(self.leaving, Leaving::After(last) if id > last)
    }

    /// Tells the peer that we will leave: the streams that it has begun, and those that it begins before it hears of
    /// that, are served (RFC 9113 section 6.8).
    pub fn leave(&mut self) {
        if self.leaving == Leaving::Not {
            self.leaving = Leaving::Told;
            frame::write_goaway(frame::MAX_WINDOW as u32, Reason::NO_ERROR, &mut self.out);
            frame::write_ping(0, LAST_CALL, &mut self.out);
            self.wake_driver();
        }
    }

    /// The newest stream of the peer's that is served.
    pub(super) fn newest_taken_up(&self) -> u32 {
        match self.leaving {
            Leaving::After(last) => last,
            _ if self.is_server() => self.newest,
            _ => 0,
        }
    }

    /// No stream begins any more.
    pub fn leave_now(&mut self) {
        if matches!(self.leaving, Leaving::After(_)) {
            return;
        }
        let last = self.newest_taken_up();
        self.leaving = Leaving::After(last);
        frame::write_goaway(last, Reason::NO_ERROR, &mut self.out);
        self.wake_driver();
    }

    /// The peer leaves. `last`: the newest stream of ours that it has taken up.
    pub(super) fn peer_leaves(&mut self, last: u32) {
        self.peer.says_goodbye = true;
        if !self.is_server() {
            let not_taken: Vec<u32> = self.streams.keys().copied().filter(|id| *id > last).collect();
            for id in not_taken {
                if let Some(stream) = self.streams.remove(&id) {
                    stream.fail(Failure::NotTaken);
                }
            }
        }
    }

    /// Sends a PING.
    pub fn ping(&mut self) {
        self.pong = Some(false);
        frame::write_ping(0, *b"areyou??", &mut self.out);
        self.wake_driver();
    }

    /// Whether the last PING was answered.
    pub fn is_ponged(&self) -> bool {
        self.pong == Some(true)
    }

    pub(super) fn ponged(&mut self, opaque: &[u8]) {
        if opaque == LAST_CALL {
            if self.leaving == Leaving::Told {
                self.leave_now();
            }
        } else if let Some(answered) = &mut self.pong {
            *answered = true;
        }
    }
}
