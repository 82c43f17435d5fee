//! What is said on streams, as frames (RFC 9113 section 8.1).

use std::rc::Rc;

use lateen_traffic::{Headers, RequestHead};

use super::core::Core;
use super::frame::{self, HEAD, Head, MAX_PAYLOAD};
use super::head;
use super::stream::{Failure, Inner};

impl Core {
    /// Opens a stream of ours.
    pub fn open(&mut self, head: &RequestHead, ends: bool) -> Result<Rc<Inner>, Failure> {
        if !self.is_open() {
            return Err(if self.end.is_some() { Failure::Closed } else { Failure::NotTaken });
        }
        let id = self.newest;
        self.newest += 2;
        let at = self.begin_block();
        head::write_request(head, &mut self.encoder, &mut self.out);
        self.end_block(at, id, ends);
        let stream = Rc::new(Inner::of_ours(id, head, ends, self));
        self.streams.insert(id, Rc::clone(&stream));
        Ok(stream)
    }

    pub(super) fn send_head(&mut self, id: u32, status: u16, headers: &Headers, ends: bool) {
        let at = self.begin_block();
        head::write_response(status, headers, &mut self.encoder, &mut self.out);
        self.end_block(at, id, ends);
    }

    pub(super) fn send_trailers(&mut self, id: u32, trailers: &Headers) {
        let at = self.begin_block();
        head::write_trailers(trailers, &mut self.encoder, &mut self.out);
        self.end_block(at, id, true);
    }

    /// Sends data, which are no more than there is room for.
    pub(super) fn send_data(&mut self, id: u32, data: &[u8], ends: bool) {
        let flags = if ends { frame::END_STREAM } else { 0 };
        self.out.reserve(HEAD + data.len());
        Head { length: data.len(), kind: frame::DATA, flags, stream: id }.write(&mut self.out);
        self.out.extend_from_slice(data);
        self.window -= data.len() as i64;
        self.wake_driver();
    }

    fn begin_block(&mut self) -> usize {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; HEAD]);
        at
    }

    fn end_block(&mut self, at: usize, id: u32, ends: bool) {
        let flags = if ends { frame::END_STREAM } else { 0 };
        let length = self.out.len() - at - HEAD;
        let head = |length, kind, flags| Head { length, kind, flags, stream: id };
        if length <= MAX_PAYLOAD {
            head(length, frame::HEADERS, flags | frame::END_HEADERS).write_at(&mut self.out, at);
        } else {
            let rest = self.out.split_off(at + HEAD + MAX_PAYLOAD);
            head(MAX_PAYLOAD, frame::HEADERS, flags).write_at(&mut self.out, at);
            let mut parts = rest.chunks(MAX_PAYLOAD).peekable();
            while let Some(part) = parts.next() {
                let flags = if parts.peek().is_some() { 0 } else { frame::END_HEADERS };
                head(part.len(), frame::CONTINUATION, flags).write(&mut self.out);
                self.out.extend_from_slice(part);
            }
        }
        self.wake_driver();
    }
}
