//! One byte stream, readable and writable at the same time through a shared reference.
//!
//! A proxy reads one direction of a connection while it writes the other. On a worker nothing runs in parallel, so a
//! `RefCell` that is borrowed only inside a poll is all the sharing that takes; no lock, no split halves.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use lateen_traffic::tls::TlsConnection;

use crate::timer::{self, Timer};
use crate::tls::stream::TlsStream;

/// Bytes read at once of what nobody wants any more.
const REST: usize = 16 * 1024;

/// A connection.
pub struct Io {
    stream: RefCell<Stream>,
    // Bytes read while the protocol was found out; they come first.
    prefix: RefCell<Bytes>,
    tls: Option<Arc<TlsConnection>>,
    // Asked of the system once, not for each request's record.
    local: Cell<Option<SocketAddr>>,
    received: Cell<u64>,
    sent: Cell<u64>,
}

/// A socket.
pub enum Socket {
    /// Of the Internet.
    Tcp(TcpStream),
    /// Of the Unix domain.
    Unix(UnixStream),
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Unix(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream>),
}

impl Stream {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.socket(),
        }
    }
}

impl Io {
    /// A connection of plain bytes; `prefix` was read from it before.
    pub fn plain(socket: Socket, prefix: Bytes) -> Self {
        Self::new(Stream::Plain(socket), prefix)
    }

    /// A connection over TLS, and what its handshake found out.
    pub fn tls(stream: TlsStream, facts: Arc<TlsConnection>) -> Self {
        Self { tls: Some(facts), ..Self::new(Stream::Tls(Box::new(stream)), Bytes::new()) }
    }

    /// What the handshake found out, if it is a connection over TLS.
    pub fn facts(&self) -> Option<&Arc<TlsConnection>> {
        self.tls.as_ref()
    }

    fn new(stream: Stream, prefix: Bytes) -> Self {
        let received = Cell::new(prefix.len() as u64);
        Self {
            stream: RefCell::new(stream),
            prefix: RefCell::new(prefix),
            tls: None,
            local: Cell::new(None),
            received,
            sent: Cell::new(0),
        }
    }

    /// Whether it was of TLS, and that protocol was broken.
    pub fn broke(&self) -> bool {
        matches!(&*self.stream.borrow(), Stream::Tls(tls) if tls.broke())
    }

    /// Bytes read so far.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Bytes written so far.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Our address, if it is an Internet socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        if self.local.get().is_none()
            && let Socket::Tcp(stream) = self.stream.borrow().socket()
        {
            self.local.set(stream.local_addr().ok());
        }
        self.local.get()
    }

    /// The peer's address, if it is an Internet socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self.stream.borrow().socket() {
            Socket::Tcp(stream) => stream.peer_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Appends what can be read to `buffer`; 0 at the end of the stream.
    pub async fn read_into(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut this = self;
        this.read_buf(buffer).await
    }

    /// Writes all of `bytes`.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut this = self;
        this.write_all(bytes).await
    }

    /// Ends our direction of the stream.
    pub async fn shutdown(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            let mut this = self;
            Pin::new(&mut this).poll_shutdown(cx)
        })
        .await
    }

    /// Ends our direction and reads what the peer still sends for a while: closing at once would reset the
    /// connection, and the peer might lose what it was told.
    pub async fn close(&self, timer: &mut Timer, patience: Duration) {
        if self.shutdown().await.is_err() {
            return;
        }
        let rest = async {
            let mut rest = BytesMut::with_capacity(REST);
            while matches!(self.read_into(&mut rest).await, Ok(n) if n > 0) {
                rest.clear();
            }
        };
        timer::before(timer, Some(Instant::now() + patience), rest).await;
    }

    /// Makes the coming close a reset (RST) instead of an orderly end.
    pub fn reset_on_close(&self) {
        let stream = &mut *self.stream.borrow_mut();
        if let Stream::Tls(tls) = stream {
            tls.abandon();
        }
        if let Socket::Tcp(s) = stream.socket() {
            // Best effort: without it the peer sees an orderly end.
            let _ = socket2::SockRef::from(s).set_linger(Some(Duration::ZERO));
        }
    }

    /// Waits until the peer has sent something, which stays to be read; false when it ends the stream instead.
    pub async fn has_bytes(&self) -> bool {
        let mut probe = [0u8; 1];
        std::future::poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut probe);
            match &mut *self.stream.borrow_mut() {
                Stream::Plain(Socket::Tcp(stream)) => {
                    stream.poll_peek(cx, &mut buf).map(|peeked| peeked.is_ok_and(|n| n > 0))
                }
                // These cannot be looked into.
                Stream::Plain(Socket::Unix(_)) => Poll::Ready(false),
                Stream::Tls(tls) => tls.poll_has_bytes(cx),
            }
        })
        .await
    }

    /// Whether the peer has closed or sent something, without waiting. Costs no system call while nothing arrived.
    pub fn is_readable(&self) -> bool {
        let mut probe = [0u8; 1];
        let mut buf = ReadBuf::new(&mut probe);
        let waker = std::task::Waker::noop();
        let mut stream = self.stream.borrow_mut();
        let mut cx = Context::from_waker(waker);
        match &mut *stream {
            Stream::Plain(Socket::Tcp(s)) => s.poll_peek(&mut cx, &mut buf).is_ready(),
            Stream::Plain(Socket::Unix(s)) => Pin::new(s).poll_read(&mut cx, &mut buf).is_ready(),
            Stream::Tls(tls) => tls.is_readable(&mut cx),
        }
    }

    /// Puts bytes that were read back to be read again, before anything else.
    pub fn put_back(&self, bytes: Bytes) {
        let mut prefix = self.prefix.borrow_mut();
        *prefix = match prefix.is_empty() {
            true => bytes,
            false => [&bytes[..], &prefix[..]].concat().into(),
        };
    }
}

impl AsyncRead for &Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut prefix = self.prefix.borrow_mut();
        if !prefix.is_empty() {
            let n = prefix.len().min(buf.remaining());
            buf.put_slice(&prefix[..n]);
            prefix.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = match &mut *self.stream.borrow_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Stream::Tls(tls) => tls.poll_read(cx, buf),
        };
        self.received.set(self.received.get() + (buf.filled().len() - before) as u64);
        polled
    }
}

impl AsyncWrite for &Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match &mut *self.stream.borrow_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Stream::Tls(tls) => tls.poll_write(cx, bytes),
        };
        if let Poll::Ready(Ok(n)) = &polled {
            self.sent.set(self.sent.get() + *n as u64);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.stream.borrow_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls(tls) => tls.poll_shutdown(cx),
        }
    }
}
