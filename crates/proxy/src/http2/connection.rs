//! Driving a connection: what comes from its socket goes to its streams, and what they say goes out together, in one
//! write for each turn of the task that drives it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use lateen_traffic::RequestHead;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::core::{Core, End, News, Settings, Side};
use super::head::Wrong;
use super::spare::{Scratch, Spare};
use super::stream::{Failure, Stream};
use crate::io::Io;

/// Bytes read at once.
const READ: usize = 128 * 1024;
/// Reads of one turn: others want theirs.
const MOST_READS: usize = 8;
/// Bytes that are written without waiting for more.
const GATHER: usize = 64 * 1024;

thread_local! {
    // Filled and emptied within one poll.
    static READING: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// A connection, for the task that drives it. Dropped, it is over.
pub struct Connection {
    core: Rc<RefCell<Core>>,
    io: Rc<Io>,
    // The beginning of a frame.
    partial: BytesMut,
    // What is to be written waits a turn, so that streams that are ready now can add to it.
    put_off: bool,
    // In this turn.
    reads: usize,
}

/// What happens on a connection.
pub enum Event {
    /// A client asks.
    Request(Stream, Scratch),
    /// A client's request was refused.
    Refused(Wrong),
    /// It is over.
    End(End),
}

/// Opens streams on a connection. Dropped, the connection ends with the last of them.
pub struct Client {
    core: Rc<RefCell<Core>>,
}

impl Connection {
    /// Serves a client.
    pub fn server(io: Rc<Io>, settings: Settings, spare: Rc<Spare>) -> Self {
        Self::new(io, Core::new(Side::Server(spare), settings))
    }

    /// Asks a server.
    pub fn client(io: Rc<Io>, settings: Settings) -> (Client, Self) {
        let connection = Self::new(io, Core::new(Side::Client, settings));
        (Client { core: Rc::clone(&connection.core) }, connection)
    }

    fn new(io: Rc<Io>, core: Core) -> Self {
        Self { core: Rc::new(RefCell::new(core)), io, partial: BytesMut::new(), put_off: false, reads: 0 }
    }

    /// Drives it to its next event.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.core.borrow_mut().driven_by(cx);
        loop {
            {
                let mut core = self.core.borrow_mut();
                match core.news.pop_front() {
                    Some(News::Request(inner, scratch)) => {
                        drop(core);
                        return Poll::Ready(Event::Request(Stream::new(Rc::clone(&self.core), inner), scratch));
                    }
                    Some(News::Refused(wrong)) => return Poll::Ready(Event::Refused(wrong)),
                    None => {}
                }
                if core.end.is_some() {
                    break;
                }
            }
            if self.reads == MOST_READS {
                cx.waker().wake_by_ref();
                break;
            }
            self.reads += 1;
            if !self.core.borrow().takes_more() {
                // What is written makes room, or else will wake this.
                let polled = self.poll_out(cx);
                if polled.is_ready() || !self.core.borrow().takes_more() {
                    return polled;
                }
            }
            match self.poll_receive(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => self.core.borrow_mut().close(End::Closed),
                Poll::Pending => break,
            }
        }
        self.reads = 0;
        self.poll_out(cx)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READING.with_borrow_mut(|reading| {
            let mut buf = ReadBuf::new(reading);
            let mut io = &*self.io;
            let polled = Pin::new(&mut io).poll_read(cx, &mut buf);
            let read = buf.filled();
            let mut core = self.core.borrow_mut();
            let mut rest = read;
            // First the frame that has begun, and no more of what can be read where it is.
            while !self.partial.is_empty() && !rest.is_empty() && core.end.is_none() {
                let (more, after) = rest.split_at(Core::lacks(&self.partial).min(rest.len()));
                self.partial.extend_from_slice(more);
                rest = after;
                let taken = core.receive(&self.partial);
                self.partial.advance(taken);
            }
            if self.partial.is_empty() {
                let taken = core.receive(rest);
                // An idle connection holds no buffer.
                self.partial = BytesMut::from(&rest[taken..]);
            }
            polled.map_ok(|()| read.len())
        })
    }

    /// Writes what has gathered; ready when the connection is over.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut core = self.core.borrow_mut();
        let end = core.end;
        if end.is_none() && !core.out.is_empty() && core.out.len() < GATHER && !self.put_off {
            self.put_off = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while !core.out.is_empty() {
            let mut io = &*self.io;
            match Pin::new(&mut io).poll_write(cx, &core.out) {
                Poll::Ready(Ok(n)) if n > 0 => core.written(n),
                Poll::Ready(_) => {
                    core.out.clear();
                    core.close(End::Closed);
                }
                Poll::Pending => break,
            }
        }
        self.put_off &= !core.out.is_empty();
        let end =
            core.end.or(end).or((core.is_done() && (core.out.is_empty() || !core.is_server())).then_some(End::Closed));
        // A peer that takes no more is not waited for.
        end.map_or(Poll::Pending, |end| Poll::Ready(Event::End(end)))
    }

    /// Drives it to its end, as its client. `more` is told when the server takes more streams than before.
    pub async fn run(mut self, mut more: impl FnMut()) -> End {
        let mut taken = self.core.borrow().most_streams();
        std::future::poll_fn(|cx| {
            loop {
                match self.poll_event(cx) {
                    Poll::Ready(Event::End(end)) => {
                        // Best effort: nobody waits for it.
                        let _ = Pin::new(&mut &*self.io).poll_shutdown(cx);
                        return Poll::Ready(end);
                    }
                    // A server asks for nothing.
                    Poll::Ready(Event::Request(..) | Event::Refused(_)) => {}
                    Poll::Pending => {
                        let before = std::mem::replace(&mut taken, self.core.borrow().most_streams());
                        if taken > before {
                            more();
                        }
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }

    /// Tells the client that it ends when what it has asked for is answered.
    pub fn leave(&self) {
        self.core.borrow_mut().leave();
    }

    /// Tells it that nothing more is taken up, whether or not it has heard of that.
    pub fn leave_now(&self) {
        self.core.borrow_mut().leave_now();
    }

    /// Whether all is said and done that there was to say, but for bytes that the client has not taken.
    pub fn is_done(&self) -> bool {
        self.core.borrow().is_done()
    }

    /// RST_STREAM frames received and sent since this was last asked.
    pub fn resets(&self) -> (u64, u64) {
        std::mem::take(&mut self.core.borrow_mut().resets)
    }

    /// For PINGs on it.
    pub fn pings(&self) -> Pings {
        Pings { core: Rc::clone(&self.core) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.core.borrow_mut().close(End::Closed);
    }
}

impl Client {
    /// Asks. `ends`: there is no body.
    pub fn send(&self, head: &RequestHead, ends: bool) -> Result<Stream, Failure> {
        let inner = self.core.borrow_mut().open(head, ends)?;
        Ok(Stream::new(Rc::clone(&self.core), inner))
    }

    /// Whether it takes requests.
    pub fn is_open(&self) -> bool {
        self.core.borrow().is_open()
    }

    /// Streams that the server takes at once.
    pub fn most_streams(&self) -> u32 {
        self.core.borrow().most_streams()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.core.borrow_mut().leave_now();
    }
}

/// PINGs on a connection.
pub struct Pings {
    core: Rc<RefCell<Core>>,
}

impl Pings {
    /// Sends one, and waits for the answer. Whoever drives the connection waits.
    pub async fn ping(&self) {
        self.core.borrow_mut().ping();
        std::future::poll_fn(|_| match self.core.borrow().is_ponged() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}
