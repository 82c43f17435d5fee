//! A connection's state with frames made by hand, and connections with a peer that is another library.

mod errors;
mod limits;
mod peer;
mod random;
mod windows;

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use lateen_traffic::RequestHead;
use lateen_traffic::hcm::Underscores;

use super::core::{Core, News, Settings, Side};
use super::frame::{self, DEFAULT_WINDOW, HEAD, Head, PREFACE, Reason};
use super::head::Rules;
use super::spare::Spare;
use super::stream::{Inner, Stream};

/// GET /, of a.test.
const GET: &[u8] = b"\x82\x86\x84\x01\x06a.test";
/// POST /, of a.test.
const POST: &[u8] = b"\x83\x86\x84\x01\x06a.test";
/// The status 200.
const OK: &[u8] = b"\x88";
/// Trailers with one field.
const TRAILERS: &[u8] = b"\x00\x01x\x01y";
const WHOLE: u8 = frame::END_HEADERS;
const LAST: u8 = frame::END_HEADERS | frame::END_STREAM;

const RULES: Rules =
    Rules { max_bytes: 4000, max_fields: 10, underscores: Underscores::Allow, extended_connect: false };
const SETTINGS: Settings =
    Settings { stream_window: DEFAULT_WINDOW, connection_window: DEFAULT_WINDOW, max_streams: 100, rules: RULES };

/// A frame.
fn made(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    Head { length: payload.len(), kind, flags, stream }.write(&mut out);
    out.extend_from_slice(payload);
    out.to_vec()
}

fn numbered(kind: u8, stream: u32, number: u32) -> Vec<u8> {
    made(kind, 0, stream, &number.to_be_bytes())
}

fn setting(name: u16, value: u32) -> Vec<u8> {
    made(frame::SETTINGS, 0, 0, &[&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn padded(stream: u32, data: usize, padding: usize) -> Vec<u8> {
    let payload = [vec![padding as u8], vec![b'd'; data], vec![0; padding]].concat();
    made(frame::DATA, frame::PADDED, stream, &payload)
}

/// Fields with a length of content before them that the table of every decoder has.
fn with_length(fields: &[u8], length: &str) -> Vec<u8> {
    [fields, &[0x0f, 0x0d, length.len() as u8], length.as_bytes()].concat()
}

/// One end's state, whose peer's frames are made here.
struct End {
    core: Rc<RefCell<Core>>,
}

impl End {
    /// A server whose client has spoken.
    fn server(settings: Settings) -> Self {
        let end = Self::silent(Side::Server(Rc::new(Spare::default())), settings);
        end.hears(&[PREFACE, &made(frame::SETTINGS, 0, 0, &[])].concat());
        end.says();
        end
    }

    /// A client whose server has spoken.
    fn client(settings: Settings) -> Self {
        let end = Self::silent(Side::Client, settings);
        end.hears(&made(frame::SETTINGS, 0, 0, &[]));
        let preface = end.core.borrow_mut().out.split_to(PREFACE.len());
        assert_eq!(preface, PREFACE);
        end.says();
        end
    }

    /// One whose peer has said nothing.
    fn silent(side: Side, settings: Settings) -> Self {
        Self { core: Rc::new(RefCell::new(Core::new(side, settings))) }
    }

    /// Takes whole frames.
    fn hears(&self, bytes: &[u8]) {
        let taken = self.core.borrow_mut().receive(bytes);
        assert!(taken == bytes.len() || self.core.borrow().end.is_some());
    }

    /// What it has to say, which is written.
    fn says(&self) -> Vec<(Head, Vec<u8>)> {
        let mut core = self.core.borrow_mut();
        let mut said = Vec::new();
        while let Some(head) = Head::read(&core.out) {
            said.push((head, core.out[HEAD..HEAD + head.length].to_vec()));
            core.written(HEAD + head.length);
        }
        assert!(core.out.is_empty());
        said
    }

    /// The numbers of the frames of one kind in what it has to say, each with its stream's.
    fn says_of(&self, kind: u8) -> Vec<(u32, u32)> {
        self.says()
            .iter()
            .filter(|(head, _)| head.kind == kind)
            .map(|(head, payload)| (head.stream, frame::number(payload).unwrap_or(0)))
            .collect()
    }

    /// Why it ended, by its GOAWAY.
    fn failed(&self) -> Option<Reason> {
        assert!(self.core.borrow().end.is_some());
        let goaway = self.says().pop().filter(|(head, _)| head.kind == frame::GOAWAY)?;
        frame::number(&goaway.1[4..]).map(Reason)
    }

    /// The next request that it was told of.
    fn begun(&self) -> Option<Rc<Inner>> {
        match self.core.borrow_mut().news.pop_front()? {
            News::Request(inner, _) => Some(inner),
            News::Refused(_) => None,
        }
    }

    /// The same as who answers it has it.
    fn accepted(&self) -> Option<Stream> {
        self.begun().map(|inner| Stream::new(Rc::clone(&self.core), inner))
    }

    /// Asks.
    fn asks(&self, method: &str, ends: bool) -> Stream {
        let head = RequestHead {
            method: method.into(),
            scheme: "http".into(),
            authority: "a.test".into(),
            path: "/".into(),
            ..RequestHead::default()
        };
        let inner = self.core.borrow_mut().open(&head, ends).unwrap();
        Stream::new(Rc::clone(&self.core), inner)
    }

    /// It lives: it answers.
    fn lives(&self) -> bool {
        self.hears(&made(frame::PING, 0, 0, b"12345678"));
        self.says().last().is_some_and(|(head, _)| (head.kind, head.flags) == (frame::PING, frame::ACK))
    }
}

/// What a future gives without waiting.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Woken {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
