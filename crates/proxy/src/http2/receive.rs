//! What the peer's frames do to a connection (RFC 9113 sections 5 and 6).

use std::rc::Rc;

use lateen_traffic::Headers;

use super::core::{Block, Core, End, News, Side};
use super::frame::{self, HEAD, Head, MAX_PAYLOAD, PREFACE, Reason};
use super::head::{self, Wrong};
use super::hpack::Malformed;
use super::spare::Scratch;
use super::stream::{Failure, Inner};

/// Bytes of a block of fields beyond those that its fields may have: there may be little in them, and much of it.
const BLOCK_SLACK: usize = 64 * 1024;
/// Frames of one block of fields.
const MOST_PARTS: usize = 128;

impl From<Malformed> for Reason {
    fn from(_: Malformed) -> Self {
        Self::COMPRESSION_ERROR
    }
}

impl Core {
    /// Bytes that a frame lacks which has begun.
    pub fn lacks(begun: &[u8]) -> usize {
        let length = Head::read(begun).map_or(0, |head| head.length);
        (HEAD + length).saturating_sub(begun.len())
    }

    /// Takes whole frames from the front of `bytes`; gives how many bytes they were.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let expected = &PREFACE[PREFACE.len() - self.preface..];
        let mut at = expected.len().min(bytes.len());
        if bytes[..at] != expected[..at] {
            self.close(End::Broken { undecodable: false });
            return bytes.len();
        }
        self.preface -= at;
        while self.end.is_none() {
            let Some(head) = Head::read(&bytes[at..]) else { break };
            if head.length > MAX_PAYLOAD {
                self.fail(Reason::FRAME_SIZE_ERROR);
                break;
            }
            let Some(payload) = bytes[at + HEAD..].get(..head.length) else { break };
            at += HEAD + head.length;
            if let Err(reason) = self.frame(head, payload) {
                self.fail(reason);
            }
        }
        at
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if self.block.as_ref().is_some_and(|block| head.kind != frame::CONTINUATION || head.stream != block.stream) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let first = !self.has_spoken();
        if first && (head.kind != frame::SETTINGS || head.has(frame::ACK)) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        match head.kind {
            frame::DATA => self.data(head, payload),
            frame::HEADERS => self.headers(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            frame::SETTINGS if head.stream == 0 => self.settings(head, payload),
            frame::PING if head.stream == 0 => self.pinged(head, payload),
            frame::GOAWAY if head.stream == 0 => {
                let last = frame::number(payload).filter(|_| payload.len() >= 8).ok_or(Reason::FRAME_SIZE_ERROR)?;
                self.peer_leaves(last & (u32::MAX >> 1));
                Ok(())
            }
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            frame::RST_STREAM if head.stream != 0 && !self.is_idle(head.stream) => {
                let reason = frame::number(payload).filter(|_| payload.len() == 4).ok_or(Reason::FRAME_SIZE_ERROR)?;
                self.resets.0 += 1;
                match self.streams.get(&head.stream).cloned() {
                    Some(stream) => self.was_reset(&stream, Reason(reason)),
                    None => Ok(()),
                }
            }
            frame::PRIORITY if head.stream != 0 => {
                if payload.len() == 5 {
                    Ok(())
                } else {
                    Err(Reason::FRAME_SIZE_ERROR)
                }
            }
            frame::SETTINGS | frame::PING | frame::GOAWAY | frame::RST_STREAM => Err(Reason::PROTOCOL_ERROR),
            frame::PRIORITY | frame::PUSH_PROMISE => Err(Reason::PROTOCOL_ERROR),
            // What is not known says nothing (RFC 9113 section 5.5).
            _ => Ok(()),
        }
    }

    fn data(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream == 0 || self.is_idle(head.stream) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let data = frame::unpadded(&head, payload).ok_or(Reason::PROTOCOL_ERROR)?;
        self.received(payload.len())?;
        let Some(stream) = self.streams.get(&head.stream).cloned() else {
            // Of a stream that was reset, which the peer did not know.
            self.give_back(payload.len());
            return Ok(());
        };
        let mut state = stream.state.borrow_mut();
        let wrong = if state.peer_ended {
            Some(Reason::STREAM_CLOSED)
        } else if !state.has_head {
            Some(Reason::PROTOCOL_ERROR)
        } else if !state.received(payload.len()) {
            Some(Reason::FLOW_CONTROL_ERROR)
        } else {
            let announced = state.length;
            state.length = announced.map(|left| left.saturating_sub(data.len() as u64));
            let more = announced.is_some_and(|left| left < data.len() as u64) || (state.bodiless && !data.is_empty());
            let wrong = more || (head.has(frame::END_STREAM) && !state.peer_ends());
            wrong.then_some(Reason::PROTOCOL_ERROR)
        };
        if let Some(reason) = wrong {
            drop(state);
            self.give_back(payload.len());
            return self.violated(&stream, reason);
        }
        state.data.extend_from_slice(data);
        // Padding is of no use to anybody.
        let padding = payload.len() - data.len();
        if padding > 0 {
            self.give_back(padding);
            if let Some(bytes) = state.used(padding, self.settings.stream_window) {
                self.grant(head.stream, bytes);
            }
        }
        self.heard(&stream, state.is_over());
        Ok(())
    }

    /// The stream's owner has something to look at.
    fn heard(&mut self, stream: &Inner, is_over: bool) {
        stream.wake();
        if is_over {
            self.finished(stream.id);
        }
    }

    /// The peer broke the protocol on a stream, which ends (RFC 9113 section 5.4.2).
    fn violated(&mut self, stream: &Inner, reason: Reason) -> Result<(), Reason> {
        stream.fail(Failure::Violation);
        self.cut_short(stream)?;
        self.refuse(stream.id, reason)
    }

    /// Resets a stream that is not worth more.
    fn refuse(&mut self, id: u32, reason: Reason) -> Result<(), Reason> {
        self.reset(id, reason);
        self.answered()
    }

    fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream == 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let fragment = frame::unpadded(&head, payload).ok_or(Reason::PROTOCOL_ERROR)?;
        let ends = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return self.block(head.stream, ends, fragment);
        }
        self.block = Some(Block { stream: head.stream, ends, bytes: fragment.to_vec(), frames: 1 });
        Ok(())
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let most = self.settings.rules.max_bytes + BLOCK_SLACK;
        let block = self.block.as_mut().ok_or(Reason::PROTOCOL_ERROR)?;
        block.frames += 1;
        block.bytes.extend_from_slice(payload);
        if block.bytes.len() > most || block.frames > MOST_PARTS {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        match head.has(frame::END_HEADERS).then(|| self.block.take()).flatten() {
            Some(block) => self.block(block.stream, block.ends, &block.bytes),
            None => Ok(()),
        }
    }

    /// A whole block of fields.
    fn block(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Reason> {
        match self.streams.get(&id).cloned() {
            Some(stream) if stream.state.borrow().has_head => self.trailers(&stream, ends, block),
            Some(stream) => self.response(&stream, ends, block),
            None if self.is_server() && id % 2 == 1 && id > self.newest => self.request(id, ends, block),
            None if self.is_idle(id) => Err(Reason::PROTOCOL_ERROR),
            None => self.pass_over(block),
        }
    }

    /// Nobody wants these fields, but what is said by the next ones depends on them.
    fn pass_over(&mut self, block: &[u8]) -> Result<(), Reason> {
        Ok(self.decoder.decode(block, |_, _| {})?)
    }

    fn request(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Reason> {
        self.newest = id;
        if !self.takes_up(id) {
            return self.pass_over(block);
        }
        if self.streams.len() >= self.settings.max_streams as usize {
            self.pass_over(block)?;
            return self.refuse(id, Reason::REFUSED_STREAM);
        }
        let mut scratch = match &self.side {
            Side::Server(spare) => spare.take(),
            Side::Client => Scratch::default(),
        };
        let read = head::read_request(&mut self.decoder, block, &self.settings.rules, &mut scratch.request)?;
        let wrong = match read {
            Ok(length) if ends && length.unwrap_or(0) > 0 => Wrong::Message,
            Ok(length) => {
                self.begun(id, ends, length, scratch);
                return Ok(());
            }
            Err(wrong) => wrong,
        };
        if let Side::Server(spare) = &self.side {
            spare.give(scratch);
        }
        self.news.push_back(News::Refused(wrong));
        match wrong {
            Wrong::TooLarge => {
                self.send_head(id, 431, &Headers::new(), true);
                if ends { self.answered() } else { self.refuse(id, Reason::NO_ERROR) }
            }
            Wrong::TooMany => self.refuse(id, Reason::INTERNAL_ERROR),
            Wrong::Field | Wrong::Message | Wrong::Underscore => self.refuse(id, Reason::PROTOCOL_ERROR),
        }
    }

    fn response(&mut self, stream: &Rc<Inner>, ends: bool, block: &[u8]) -> Result<(), Reason> {
        let mut head = self.spare_head();
        let read = head::read_response(&mut self.decoder, block, &self.settings.rules, &mut head)?;
        let mut state = stream.state.borrow_mut();
        let good = match read {
            Ok(_) if head.status < 200 => {
                // Switching protocols is not of HTTP/2 (RFC 9113 section 8.6).
                let good = head.status != 101 && !ends;
                state.interim = Some(head.status);
                self.give_head(head);
                good
            }
            Ok(length) => {
                state.bodiless |= matches!(head.status, 204 | 304);
                let is_tunnel = state.tunnel && (200..300).contains(&head.status);
                state.length = length.filter(|_| !state.bodiless && !is_tunnel);
                state.has_head = true;
                state.head = Some(head);
                !ends || state.peer_ends()
            }
            Err(_) => false,
        };
        if !good {
            state.head = None;
            drop(state);
            return self.violated(stream, Reason::PROTOCOL_ERROR);
        }
        self.heard(stream, state.is_over());
        Ok(())
    }

    fn trailers(&mut self, stream: &Rc<Inner>, ends: bool, block: &[u8]) -> Result<(), Reason> {
        let mut trailers = Headers::new();
        let read = head::read_trailers(&mut self.decoder, block, &self.settings.rules, &mut trailers)?;
        let mut state = stream.state.borrow_mut();
        if state.peer_ended {
            drop(state);
            return self.violated(stream, Reason::STREAM_CLOSED);
        }
        // They are the end, and nothing else is.
        if read.is_err() || !ends || !state.peer_ends() {
            drop(state);
            return self.violated(stream, Reason::PROTOCOL_ERROR);
        }
        state.trailers = (!trailers.is_empty()).then_some(trailers);
        self.heard(stream, state.is_over());
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.has(frame::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Reason::FRAME_SIZE_ERROR) };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        for (name, value) in frame::settings(payload) {
            self.set(name, value)?;
        }
        Head { length: 0, kind: frame::SETTINGS, flags: frame::ACK, stream: 0 }.write(&mut self.out);
        self.answered()
    }

    fn pinged(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let opaque: [u8; 8] = payload.try_into().map_err(|_| Reason::FRAME_SIZE_ERROR)?;
        if head.has(frame::ACK) {
            self.ponged(&opaque);
            return Ok(());
        }
        frame::write_ping(frame::ACK, opaque, &mut self.out);
        self.answered()
    }

    fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let more = frame::number(payload).filter(|_| payload.len() == 4).ok_or(Reason::FRAME_SIZE_ERROR)?;
        let more = more & (u32::MAX >> 1);
        if head.stream == 0 {
            return if more == 0 { Err(Reason::PROTOCOL_ERROR) } else { self.window_grows(more) };
        }
        if self.is_idle(head.stream) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let Some(stream) = self.streams.get(&head.stream).cloned() else { return Ok(()) };
        if more == 0 {
            return self.violated(&stream, Reason::PROTOCOL_ERROR);
        }
        match stream.window_grows(i64::from(more)) {
            Ok(()) => Ok(()),
            Err(reason) => self.violated(&stream, reason),
        }
    }
}
