//! One stream, for who asks or answers on it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use lateen_traffic::{Headers, RequestHead, ResponseHead};
use tokio::time::Instant;

use super::core::Core;
use super::frame::{DEFAULT_WINDOW, MAX_PAYLOAD, MAX_WINDOW, Reason};
use crate::router::body::{Piece, SinkClosed};

/// Why a stream ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The peer reset it.
    Reset(Reason),
    /// The peer leaves and has not taken it up.
    NotTaken,
    /// The peer broke the protocol.
    Violation,
    /// The connection ended.
    Closed,
}

/// What the connection knows of a stream.
pub struct Inner {
    pub(super) id: u32,
    /// When the peer began it, if it did.
    pub(super) born: Option<Instant>,
    pub(super) state: RefCell<State>,
    // One task has a stream; whatever it waits for wakes it.
    waker: Cell<Option<Waker>>,
    is_waiting: Cell<bool>,
}

pub(super) struct State {
    pub interim: Option<u16>,
    pub head: Option<ResponseHead>,
    pub data: BytesMut,
    pub trailers: Option<Headers>,
    /// The final head was received.
    pub has_head: bool,
    /// The peer says no more.
    pub peer_ended: bool,
    /// We say no more.
    pub we_ended: bool,
    pub failure: Option<Failure>,
    /// How much of an announced length is still to come.
    pub length: Option<u64>,
    /// A response to HEAD has no body whatever it announces.
    pub bodiless: bool,
    /// It was asked for by CONNECT: what an answer that agrees announces is no length of it (RFC 9110 section 8.6).
    pub tunnel: bool,
    /// What the peer takes.
    pub window: i64,
    // What it may send, and what of that was used and not granted again.
    left: i64,
    taken: u32,
}

impl Inner {
    pub(super) fn of_ours(id: u32, head: &RequestHead, ended: bool, core: &Core) -> Self {
        let (bodiless, tunnel) = (head.method == "HEAD", head.is_connect());
        Self::new(id, None, State { bodiless, tunnel, we_ended: ended, ..State::new(core) })
    }

    pub(super) fn of_theirs(id: u32, ended: bool, length: Option<u64>, born: Instant, core: &Core) -> Self {
        Self::new(id, Some(born), State { has_head: true, peer_ended: ended, length, ..State::new(core) })
    }

    fn new(id: u32, born: Option<Instant>, state: State) -> Self {
        Self { id, born, state: RefCell::new(state), waker: Cell::default(), is_waiting: Cell::default() }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn watch(&self, cx: &Context<'_>) {
        let waker = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
    }

    pub(super) fn fail(&self, failure: Failure) {
        self.state.borrow_mut().failure.get_or_insert(failure);
        self.wake();
    }

    /// The peer takes more, or less.
    pub(super) fn window_grows(&self, more: i64) -> Result<(), Reason> {
        let mut state = self.state.borrow_mut();
        state.window += more;
        if state.window > MAX_WINDOW {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        if state.window > 0 && more > 0 {
            self.wake();
        }
        Ok(())
    }
}

impl State {
    fn new(core: &Core) -> Self {
        Self {
            interim: None,
            head: None,
            data: BytesMut::new(),
            trailers: None,
            has_head: false,
            peer_ended: false,
            we_ended: false,
            failure: None,
            length: None,
            bodiless: false,
            tunnel: false,
            window: core.first_window(),
            // It may not have heard yet of a window that is smaller than the first one.
            left: i64::from(core.settings.stream_window.max(DEFAULT_WINDOW)),
            taken: 0,
        }
    }

    /// The peer sent as much of the stream's window; false if that is more than it may.
    pub(super) fn received(&mut self, bytes: usize) -> bool {
        self.left -= bytes as i64;
        self.left >= 0
    }

    /// What was received was used. Gives what is to be granted again.
    pub(super) fn used(&mut self, bytes: usize, window: u32) -> Option<u32> {
        self.taken += bytes as u32;
        if self.peer_ended || self.failure.is_some() || self.taken < window / 2 {
            return None;
        }
        self.left += i64::from(self.taken);
        Some(std::mem::take(&mut self.taken))
    }

    /// The peer says no more; false if it has said less than it announced.
    pub(super) fn peer_ends(&mut self) -> bool {
        self.peer_ended = self.bodiless || self.length.is_none_or(|left| left == 0);
        self.peer_ended
    }

    pub(super) fn is_over(&self) -> bool {
        self.peer_ended && self.we_ended
    }
}

/// A stream. Dropped before its end, it is cancelled.
pub struct Stream {
    core: Rc<RefCell<Core>>,
    inner: Rc<Inner>,
}

impl Stream {
    pub(super) fn new(core: Rc<RefCell<Core>>, inner: Rc<Inner>) -> Self {
        Self { core, inner }
    }

    /// Waits for the next head of a response, interim ones too. Cancel-safe.
    pub async fn head(&self, out: &mut ResponseHead) -> Result<(), Failure> {
        poll_fn(|cx| {
            let mut state = self.inner.state.borrow_mut();
            if let Some(status) = state.interim.take() {
                out.status = status;
                out.headers.clear();
            } else if let Some(head) = state.head.take() {
                self.core.borrow_mut().give_head(std::mem::replace(out, head));
            } else if let Some(failure) = state.failure {
                return Poll::Ready(Err(failure));
            } else {
                self.inner.watch(cx);
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The next part of the body. Cancel-safe.
    pub async fn next(&self) -> Result<Piece, Failure> {
        poll_fn(|cx| {
            let mut state = self.inner.state.borrow_mut();
            if !state.data.is_empty() {
                let data = std::mem::take(&mut state.data).freeze();
                // The window opens again as the data move on; what waits in between is bounded by the sink.
                let mut core = self.core.borrow_mut();
                core.give_back(data.len());
                if let Some(bytes) = state.used(data.len(), core.settings.stream_window) {
                    core.grant(self.inner.id, bytes);
                }
                return Poll::Ready(Ok(Piece::Data(data)));
            }
            if state.peer_ended {
                return Poll::Ready(Ok(Piece::End(state.trailers.take())));
            }
            if let Some(failure) = state.failure {
                return Poll::Ready(Err(failure));
            }
            self.inner.watch(cx);
            Poll::Pending
        })
        .await
    }

    /// Whether nothing more is to be read.
    pub fn is_ended(&self) -> bool {
        let state = self.inner.state.borrow();
        state.peer_ended && state.data.is_empty() && state.trailers.is_none()
    }

    /// Sends a response's head.
    pub fn send_head(&self, status: u16, headers: &Headers, ends: bool) -> Result<(), SinkClosed> {
        self.speak(ends, |core| core.send_head(self.inner.id, status, headers, ends))
    }

    /// Sends data as the peer's windows let it. `last`: with its last byte the body ends.
    pub async fn send(&self, data: Bytes, last: bool) -> Result<(), SinkClosed> {
        let mut rest = &data[..];
        while !rest.is_empty() {
            let room = poll_fn(|cx| self.poll_room(cx)).await?;
            let (part, after) = rest.split_at(room.min(rest.len()).min(MAX_PAYLOAD));
            rest = after;
            let ends = last && rest.is_empty();
            self.inner.state.borrow_mut().window -= part.len() as i64;
            self.speak(ends, |core| core.send_data(self.inner.id, part, ends))?;
        }
        if last && data.is_empty() { self.end(None) } else { Ok(()) }
    }

    /// Ends the body.
    pub fn end(&self, trailers: Option<&Headers>) -> Result<(), SinkClosed> {
        self.speak(true, |core| match trailers {
            Some(trailers) => core.send_trailers(self.inner.id, trailers),
            None => core.send_data(self.inner.id, &[], true),
        })
    }

    /// Ends the stream at once. What was sent before still goes out.
    pub fn reset(&self, reason: Reason) {
        let mut state = self.inner.state.borrow_mut();
        if state.failure.is_none() && !state.is_over() {
            state.failure = Some(Failure::Reset(reason));
            self.core.borrow_mut().reset(self.inner.id, reason);
        }
    }

    /// Waits until the peer resets the stream, or the connection ends.
    pub async fn gone(&self) {
        poll_fn(|cx| {
            if self.inner.state.borrow().failure.is_some() {
                return Poll::Ready(());
            }
            self.inner.watch(cx);
            Poll::Pending
        })
        .await;
    }

    /// How much may be sent.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, SinkClosed>> {
        let state = self.inner.state.borrow();
        if state.failure.is_some() || state.we_ended {
            return Poll::Ready(Err(SinkClosed));
        }
        let window = usize::try_from(state.window).unwrap_or(0);
        let mut core = self.core.borrow_mut();
        let room = core.room().min(window);
        if room > 0 {
            if self.inner.is_waiting.replace(false) {
                core.wait_no_more(&self.inner);
            }
            return Poll::Ready(Ok(room));
        }
        // Who waits for its own window is woken when that grows.
        if window > 0 && !self.inner.is_waiting.replace(true) {
            core.wait(&self.inner);
        }
        self.inner.watch(cx);
        Poll::Pending
    }

    fn speak(&self, ends: bool, say: impl FnOnce(&mut Core)) -> Result<(), SinkClosed> {
        let mut state = self.inner.state.borrow_mut();
        if state.failure.is_some() || state.we_ended {
            return Err(SinkClosed);
        }
        state.we_ended = ends;
        let mut core = self.core.borrow_mut();
        say(&mut core);
        if state.is_over() {
            core.finished(self.inner.id);
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.inner.state.borrow_mut();
        let mut core = self.core.borrow_mut();
        let unread = std::mem::take(&mut state.data).len();
        if unread > 0 {
            core.give_back(unread);
        }
        if self.inner.is_waiting.get() {
            core.wait_no_more(&self.inner);
        }
        if state.failure.is_none() && !state.is_over() {
            // A client that was answered is not to send the rest (RFC 9113 section 8.1).
            let answered = core.is_server() && state.we_ended;
            core.reset(self.inner.id, if answered { Reason::NO_ERROR } else { Reason::CANCEL });
        }
    }
}
