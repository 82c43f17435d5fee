//! The state of one HTTP/2 connection, without its socket: what was received is put in (`receive`), what is to be
//! written gathers in `out`. Streams' owners and the task that drives the connection share it; on a worker nothing
//! runs in parallel.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::BytesMut;
use lateen_traffic::ResponseHead;
use lateen_traffic::hcm::Underscores;
use tokio::time::Instant;

use super::frame::{self, DEFAULT_WINDOW, MAX_PAYLOAD, PREFACE, Reason, setting};
use super::goaway::Leaving;
use super::head::{Rules, Wrong};
use super::hpack::{DEFAULT_SIZE, Decoder, Encoder};
use super::spare::{Scratch, Spare};
use super::stream::{Failure, Inner};

/// Bytes that wait to be written beyond which streams send no more.
pub const MOST_OUT: usize = 256 * 1024;
/// The same beyond which nothing more is taken from a client: no window counts heads.
const MOST_UNTAKEN: usize = 2 * MOST_OUT;
/// Frames that answer the peer's, waiting to be written; Envoy's limit.
const MOST_ANSWERS: usize = 1000;
/// Streams of ours before the peer has said how many it takes.
const FIRST_STREAMS: u32 = 100;
/// Streams after which it counts how many of them their client has reset, and how soon that is; Envoy's figures.
const RESETS_JUDGED: u32 = 500;
const SOON: std::time::Duration = std::time::Duration::from_secs(1);
/// Heads kept for the next responses.
const MOST_HEADS: usize = 64;

/// What we take of a server's fields.
const RESPONSES: Rules =
    Rules { max_bytes: 80 * 1024, max_fields: usize::MAX, underscores: Underscores::Allow, extended_connect: false };

/// What we tell the peer of ourselves, and hold it to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Window of a stream.
    pub stream_window: u32,
    /// Window of the connection.
    pub connection_window: u32,
    /// Streams that a client may have open.
    pub max_streams: u32,
    /// What is taken of its fields.
    pub rules: Rules,
}

impl Default for Settings {
    /// Of a client that asks little.
    fn default() -> Self {
        Self { stream_window: DEFAULT_WINDOW, connection_window: DEFAULT_WINDOW, max_streams: 0, rules: RESPONSES }
    }
}

/// Which end we are.
pub enum Side {
    /// The client.
    Client,
    /// The server, with what streams left behind for the next ones.
    Server(Rc<Spare>),
}

/// What a server is told.
pub enum News {
    /// A request begins.
    Request(Rc<Inner>, Scratch),
    /// One was refused.
    Refused(Wrong),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order, or its bytes came no more.
    Closed,
    /// The peer broke the protocol.
    Broken {
        /// With fields that cannot be decoded, which were to begin a request.
        undecodable: bool,
    },
}

/// One direction's window of the connection, as we grant it.
struct Granted {
    left: i64,
    // Taken, and not yet granted again.
    taken: u32,
}

/// Answers to the peer's frames that wait to be written.
#[derive(Default)]
struct Answers {
    // Those within the next `until` bytes, and those behind.
    sooner: usize,
    later: usize,
    until: usize,
}

impl Answers {
    /// So many bytes were written; so many are left.
    fn written(&mut self, bytes: usize, left: usize) {
        self.until = self.until.saturating_sub(bytes);
        if left == 0 {
            *self = Self::default();
        } else if self.until == 0 {
            *self = Self { sooner: self.later, later: 0, until: left };
        }
    }
}

/// What the peer has told of itself.
pub(super) struct Peer {
    window: u32,
    max_streams: u32,
    has_spoken: bool,
    pub says_goodbye: bool,
}

pub struct Core {
    pub(super) settings: Settings,
    pub(super) side: Side,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) streams: HashMap<u32, Rc<Inner>, BuildHasherDefault<Id>>,
    /// The newest stream that the peer has begun, of a server; the next one of ours, of a client.
    pub(super) newest: u32,
    /// Bytes of the client's preface that are still to come.
    pub(super) preface: usize,
    pub(super) block: Option<Block>,
    pub(super) out: BytesMut,
    pub(super) news: VecDeque<News>,
    pub(super) end: Option<End>,
    /// RST_STREAM frames received and sent.
    pub(super) resets: (u64, u64),
    answers: Answers,
    pub(super) window: i64,
    granted: Granted,
    pub(super) peer: Peer,
    waiting: VecDeque<Rc<Inner>>,
    heads: Vec<ResponseHead>,
    driver: Option<Waker>,
    pub(super) pong: Option<bool>,
    pub(super) leaving: Leaving,
    closed: u32,
    hasty: u32,
}

/// A block of fields whose end has not come.
pub(super) struct Block {
    pub stream: u32,
    pub ends: bool,
    pub bytes: Vec<u8>,
    pub frames: usize,
}

/// Numbers of streams are spread well enough by a multiplication.
#[derive(Default)]
pub struct Id(u64);

impl Hasher for Id {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Core {
    pub fn new(side: Side, settings: Settings) -> Self {
        let server = matches!(side, Side::Server(_));
        let mut out = BytesMut::new();
        let mut told = vec![
            (setting::INITIAL_WINDOW_SIZE, settings.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, u32::try_from(settings.rules.max_bytes).unwrap_or(u32::MAX)),
        ];
        if server {
            told.push((setting::MAX_CONCURRENT_STREAMS, settings.max_streams));
            if settings.rules.extended_connect {
                told.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
            }
        } else {
            out.extend_from_slice(PREFACE);
            told.push((setting::ENABLE_PUSH, 0));
        }
        frame::write_settings(&told, &mut out);
        if let Some(more) = settings.connection_window.checked_sub(DEFAULT_WINDOW).filter(|more| *more > 0) {
            frame::write_number(frame::WINDOW_UPDATE, 0, more, &mut out);
        }
        Self {
            side,
            decoder: Decoder::new(DEFAULT_SIZE),
            encoder: Encoder::new(),
            streams: HashMap::default(),
            newest: u32::from(!server),
            preface: if server { PREFACE.len() } else { 0 },
            block: None,
            out,
            news: VecDeque::new(),
            end: None,
            resets: (0, 0),
            answers: Answers::default(),
            window: i64::from(DEFAULT_WINDOW),
            granted: Granted { left: i64::from(settings.connection_window.max(DEFAULT_WINDOW)), taken: 0 },
            peer: Peer { window: DEFAULT_WINDOW, max_streams: FIRST_STREAMS, has_spoken: false, says_goodbye: false },
            waiting: VecDeque::new(),
            heads: Vec::new(),
            driver: None,
            pong: None,
            leaving: Leaving::Not,
            closed: 0,
            hasty: 0,
            settings,
        }
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.side, Side::Server(_))
    }

    // The task that drives the connection.

    /// Remembers who drives it.
    pub fn driven_by(&mut self, cx: &Context<'_>) {
        if !self.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
        }
    }

    /// There is something to write, or to end.
    pub fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// Bytes were written.
    pub fn written(&mut self, bytes: usize) {
        bytes::Buf::advance(&mut self.out, bytes);
        self.answers.written(bytes, self.out.len());
        if self.out.is_empty() {
            // An idle connection holds no buffer.
            self.out = BytesMut::new();
        }
        if self.out.len() < MOST_OUT {
            self.wake_waiting();
        }
    }

    /// Whether more is taken from the peer. A client waits for nobody: two that did might wait for each other.
    pub fn takes_more(&self) -> bool {
        !self.is_server() || self.out.len() < MOST_UNTAKEN
    }

    /// Every stream ends with the connection.
    pub fn close(&mut self, end: End) {
        self.end.get_or_insert(end);
        let failure = match end {
            End::Closed => Failure::Closed,
            End::Broken { .. } => Failure::Violation,
        };
        for (_, stream) in self.streams.drain() {
            stream.fail(failure);
        }
        self.waiting.clear();
    }

    /// The peer broke the protocol: it is told, and that is the end.
    pub(super) fn fail(&mut self, reason: Reason) {
        frame::write_goaway(self.newest_taken_up(), reason, &mut self.out);
        self.close(End::Broken { undecodable: reason == Reason::COMPRESSION_ERROR });
    }

    // What the peer may send.

    /// The peer sent as much of the connection's window.
    pub(super) fn received(&mut self, bytes: usize) -> Result<(), Reason> {
        self.granted.left -= bytes as i64;
        if self.granted.left < 0 { Err(Reason::FLOW_CONTROL_ERROR) } else { Ok(()) }
    }

    /// Received bytes were used, or are of no use.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.granted.taken += bytes as u32;
        if self.granted.taken >= self.settings.connection_window.max(DEFAULT_WINDOW) / 2 {
            let taken = std::mem::take(&mut self.granted.taken);
            self.granted.left += i64::from(taken);
            frame::write_number(frame::WINDOW_UPDATE, 0, taken, &mut self.out);
            self.wake_driver();
        }
    }

    /// Grants a stream more.
    pub(super) fn grant(&mut self, stream: u32, bytes: u32) {
        frame::write_number(frame::WINDOW_UPDATE, stream, bytes, &mut self.out);
        self.wake_driver();
    }

    /// An answer to one of the peer's frames is in `out`.
    pub(super) fn answered(&mut self) -> Result<(), Reason> {
        self.answers.later += 1;
        if self.answers.sooner + self.answers.later > MOST_ANSWERS { Err(Reason::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    // What we may send.

    /// How much of a body may be sent now.
    pub(super) fn room(&self) -> usize {
        let buffer = MOST_OUT.saturating_sub(self.out.len());
        usize::try_from(self.window).unwrap_or(0).min(buffer)
    }

    /// A stream waits for room.
    pub(super) fn wait(&mut self, stream: &Rc<Inner>) {
        self.waiting.push_back(Rc::clone(stream));
    }

    /// It waits no longer.
    pub(super) fn wait_no_more(&mut self, stream: &Rc<Inner>) {
        if let Some(at) = self.waiting.iter().position(|waiting| Rc::ptr_eq(waiting, stream)) {
            self.waiting.remove(at);
        }
    }

    /// Whoever has waited longest is the first to look. Each keeps its place until it gets something, so that those
    /// who take all that there is take turns.
    fn wake_waiting(&self) {
        if self.room() > 0 {
            self.waiting.iter().for_each(|stream| stream.wake());
        }
    }

    pub(super) fn window_grows(&mut self, bytes: u32) -> Result<(), Reason> {
        self.window += i64::from(bytes);
        if self.window > frame::MAX_WINDOW {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        self.wake_waiting();
        Ok(())
    }

    /// The window of a stream that begins.
    pub(super) fn first_window(&self) -> i64 {
        i64::from(self.peer.window)
    }

    /// What the peer tells of itself.
    pub(super) fn set(&mut self, name: u16, value: u32) -> Result<(), Reason> {
        match name {
            setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
            setting::ENABLE_PUSH if value > 1 || (value == 1 && !self.is_server()) => {
                return Err(Reason::PROTOCOL_ERROR);
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > frame::MAX_WINDOW {
                    return Err(Reason::FLOW_CONTROL_ERROR);
                }
                let more = i64::from(value) - i64::from(self.peer.window);
                self.peer.window = value;
                for stream in self.streams.values() {
                    stream.window_grows(more)?;
                }
            }
            setting::MAX_FRAME_SIZE if !(MAX_PAYLOAD as u32..1 << 24).contains(&value) => {
                return Err(Reason::PROTOCOL_ERROR);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the peer's first SETTINGS have come; from now on they have.
    pub(super) fn has_spoken(&mut self) -> bool {
        if !self.peer.has_spoken {
            // Who says nothing of them takes any number of streams (RFC 9113 section 6.5.2).
            self.peer.max_streams = u32::MAX;
        }
        std::mem::replace(&mut self.peer.has_spoken, true)
    }

    // Streams.

    /// Whether nobody has begun a stream of this number.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        id.is_multiple_of(2) || if self.is_server() { id > self.newest } else { id >= self.newest }
    }

    /// Says that a stream is over at once.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        self.streams.remove(&id);
        frame::write_number(frame::RST_STREAM, id, reason.0, &mut self.out);
        self.resets.1 += 1;
        self.wake_driver();
    }

    /// A stream has come to its end in both directions.
    pub(super) fn finished(&mut self, id: u32) {
        if self.streams.remove(&id).is_some() {
            self.closed = self.closed.saturating_add(1);
        }
        if self.is_done() {
            self.wake_driver();
        }
    }

    /// The peer has reset a stream.
    pub(super) fn was_reset(&mut self, stream: &Inner, reason: Reason) -> Result<(), Reason> {
        stream.fail(Failure::Reset(reason));
        self.cut_short(stream)
    }

    /// A stream ends before its end by what the peer does.
    pub(super) fn cut_short(&mut self, stream: &Inner) -> Result<(), Reason> {
        self.finished(stream.id);
        let hasty = stream.born.is_some_and(|born| born.elapsed() < SOON);
        self.hasty += u32::from(hasty);
        // Who begins streams only to end them keeps us busy for nothing (rapid reset).
        let abuse = self.closed >= RESETS_JUDGED && self.hasty > self.closed / 2;
        if abuse { Err(Reason::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    /// Whether streams of ours can be opened.
    pub fn is_open(&self) -> bool {
        // A server that reads nothing is not asked for more.
        self.end.is_none() && self.out.len() < MOST_UNTAKEN && !self.peer.says_goodbye && self.newest < u32::MAX / 2
    }

    /// Streams that the peer takes at once. One that takes none says so when it is asked.
    pub fn most_streams(&self) -> u32 {
        self.peer.max_streams.max(1)
    }

    /// A stream that the peer has begun.
    pub(super) fn begun(&mut self, id: u32, ends: bool, length: Option<u64>, scratch: Scratch) {
        let stream = Rc::new(Inner::of_theirs(id, ends, length, Instant::now(), self));
        self.streams.insert(id, Rc::clone(&stream));
        self.news.push_back(News::Request(stream, scratch));
    }

    /// Memory for a response's head.
    pub(super) fn spare_head(&mut self) -> ResponseHead {
        self.heads.pop().unwrap_or_default()
    }

    /// A head that is of no more use.
    pub(super) fn give_head(&mut self, mut head: ResponseHead) {
        if self.heads.len() < MOST_HEADS && head.headers.capacity() <= super::spare::LARGE {
            head.status = 0;
            head.reason.clear();
            head.headers.clear();
            self.heads.push(head);
        }
    }
}
