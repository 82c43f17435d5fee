//! A connection over TLS once its handshake is done.
//!
//! What is read from the socket is opened in a buffer that all connections of a worker share, and what is written is
//! sealed in another, so that an idle connection holds no buffer and a write of many records is one system call.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::record::{self, ALERT, DATA, HANDSHAKE, HEADER, Keys, MAX_PLAIN, OVERHEAD, RecordError, TAG};
use crate::io::Socket;

/// Bytes read from a socket at once. Measured: with 64 KiB a stream costs a tenth more.
const READ: usize = 128 * 1024;
/// Bytes sealed at once.
const WRITE: usize = 128 * 1024;
const SEALED: usize = WRITE + WRITE.div_ceil(MAX_PLAIN) * OVERHEAD;
/// Records in a row that carry nothing; a peer that sends more keeps us busy for nothing.
const MAX_IDLE_RECORDS: u32 = 32;
/// Longest message after the handshake: a ticket.
const MAX_MESSAGE: usize = 1 << 16;
/// Records sealed with one key before it is changed: AES-GCM is safe up to 2^24.5 of them (RFC 8446 section 5.5).
const MAX_RECORDS: u64 = 1 << 24;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

thread_local! {
    // Filled and emptied within one poll.
    static OPENING: RefCell<Vec<u8>> = RefCell::new(vec![0; READ + HEADER + MAX_PLAIN + 2048]);
    static SEALING: RefCell<Vec<u8>> = RefCell::new(vec![0; SEALED]);
}

/// What of a handshake is needed after it.
pub enum Kernel {
    /// We are the client.
    Client(Box<KernelConnection<ClientConnectionData>>),
    /// We are the server.
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl Kernel {
    fn next_receiving(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }

    fn next_sending(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }
}

/// A connection over TLS.
pub struct TlsStream {
    socket: Socket,
    kernel: Kernel,
    tls13: bool,
    receiving: Keys,
    sending: Keys,
    // Read from the socket: the beginning of a record.
    sealed: Vec<u8>,
    // Opened and not yet taken, from `taken` on.
    plain: Vec<u8>,
    taken: usize,
    // The beginning of a message after the handshake.
    message: Vec<u8>,
    idle_records: u32,
    // Sealed with one key before it is changed.
    most_records: u64,
    // Sealed and not yet written, and how much plaintext of the write that waits for it is in there.
    unsent: Vec<u8>,
    owed: usize,
    // A new key of ours waits in `unsent` to be told of.
    telling_key: bool,
    ended: bool,
    broken: Option<io::Error>,
    // It was, told or not.
    broke: bool,
    closing: bool,
}

/// What a handshake leaves.
pub struct Handshaken {
    /// For what comes after it.
    pub kernel: Kernel,
    /// The keys.
    pub secrets: ExtractedSecrets,
    /// TLS 1.3, else 1.2.
    pub tls13: bool,
    /// Read and not opened.
    pub sealed: Vec<u8>,
    /// Opened already.
    pub plain: Vec<u8>,
    /// The peer says no more.
    pub ended: bool,
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl TlsStream {
    /// Goes on where a handshake ended.
    ///
    /// # Errors
    /// When its keys are of a kind that is not known.
    pub fn new(socket: Socket, handshaken: Handshaken) -> Result<Self, RecordError> {
        let Handshaken { kernel, secrets: ExtractedSecrets { tx, rx }, tls13, sealed, plain, ended } = handshaken;
        Ok(Self {
            socket,
            kernel,
            tls13,
            receiving: Keys::new(tls13, rx.0, &rx.1)?,
            sending: Keys::new(tls13, tx.0, &tx.1)?,
            sealed,
            plain,
            taken: 0,
            message: Vec::new(),
            idle_records: 0,
            most_records: MAX_RECORDS,
            unsent: Vec::new(),
            owed: 0,
            telling_key: false,
            ended,
            broken: None,
            broke: false,
            closing: false,
        })
    }

    /// The socket under it.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether the peer broke the protocol, or said that we did.
    pub fn broke(&self) -> bool {
        self.broke
    }

    /// Closes without a word.
    pub fn abandon(&mut self) {
        self.closing = true;
    }

    /// Reads plaintext; nothing at the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let rest = &self.plain[self.taken..];
            if !rest.is_empty() {
                let n = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..n]);
                self.taken += n;
                if self.taken == self.plain.len() {
                    self.plain = Vec::new();
                    self.taken = 0;
                }
                return Poll::Ready(Ok(()));
            }
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                return Poll::Ready(self.broken.take().map_or(Ok(()), Err));
            }
            ready!(self.poll_records(cx, buf))?;
        }
    }

    /// Whether plaintext, or the end, can be read without waiting. Takes what is there of the socket.
    pub fn is_readable(&mut self, cx: &mut Context<'_>) -> bool {
        while self.taken == self.plain.len() && !self.ended {
            match self.poll_records(cx, &mut ReadBuf::new(&mut [])) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        true
    }

    /// Ready when plaintext has come, which stays to be read, or the end (false).
    pub fn poll_has_bytes(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while self.taken == self.plain.len() && !self.ended {
            if ready!(self.poll_records(cx, &mut ReadBuf::new(&mut []))).is_err() {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(self.taken < self.plain.len())
    }

    /// One read from the socket; plaintext that `buf` has no room for is kept.
    fn poll_records(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        OPENING.with_borrow_mut(|scratch| {
            let carried = self.sealed.len();
            scratch[..carried].copy_from_slice(&self.sealed);
            let mut there = carried;
            // Records that came with the end of the handshake are opened before more is read.
            if !matches!(record::length(&scratch[..there]), Ok(Some(length)) if length <= there) {
                let room = (buf.remaining() + OVERHEAD).clamp(MAX_PLAIN + OVERHEAD, READ);
                let mut read = ReadBuf::new(&mut scratch[there..carried + room]);
                ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
                match read.filled().len() {
                    0 => {
                        self.ended = true;
                        return Poll::Ready(Ok(()));
                    }
                    n => there += n,
                }
            }
            let mut at = 0;
            let opened = loop {
                match record::length(&scratch[at..there]) {
                    Ok(Some(length)) if length <= there - at => {
                        if let Err(error) = self.take(&mut scratch[at..at + length], buf) {
                            break Err(error);
                        }
                        at += length;
                        if self.ended {
                            // Whatever comes after the peer's last word does not count.
                            at = there;
                            break Ok(());
                        }
                    }
                    Ok(_) => break Ok(()),
                    Err(error) => break Err(broken(error)),
                }
            };
            self.sealed.clear();
            if at < there {
                self.sealed.extend_from_slice(&scratch[at..there]);
            } else if self.sealed.capacity() > 0 {
                self.sealed = Vec::new();
            }
            if let Err(error) = opened {
                // Told once what came before it is taken.
                self.broken = Some(error);
                self.broke = true;
                self.ended = true;
                self.closing = true;
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Takes a record.
    fn take(&mut self, sealed: &mut [u8], buf: &mut ReadBuf<'_>) -> io::Result<()> {
        // Most is read by who has room for it.
        let room = sealed.len().saturating_sub(HEADER + TAG);
        let opened;
        let (kind, plain) = if self.plain.is_empty() && buf.remaining() >= room {
            let out = buf.initialize_unfilled_to(room);
            let (kind, length) = self.receiving.open_into(sealed, out).map_err(broken)?;
            if kind == DATA && length > 0 {
                self.idle_records = 0;
                buf.advance(length);
                return Ok(());
            }
            opened = out[..length].to_vec();
            (kind, &opened[..])
        } else {
            let (kind, range) = self.receiving.open(sealed).map_err(broken)?;
            (kind, &sealed[range])
        };
        match kind {
            DATA if !plain.is_empty() => {
                self.idle_records = 0;
                let now = if self.plain.is_empty() { plain.len().min(buf.remaining()) } else { 0 };
                buf.put_slice(&plain[..now]);
                self.plain.extend_from_slice(&plain[now..]);
                return Ok(());
            }
            DATA => {}
            ALERT => match plain {
                [_, CLOSE_NOTIFY] => self.ended = true,
                [_, USER_CANCELED] => {}
                [_, number] => return Err(broken(format!("alert {number} of the peer"))),
                _ => return Err(broken(RecordError::Malformed)),
            },
            HANDSHAKE => self.take_message(plain)?,
            _ => return Err(broken(RecordError::Malformed)),
        }
        self.idle_records += 1;
        if self.idle_records > MAX_IDLE_RECORDS {
            return Err(broken("too many records without data"));
        }
        Ok(())
    }

    /// Takes messages that come after the handshake.
    fn take_message(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.tls13 {
            // A wish to negotiate anew, which is not granted.
            return Err(broken("renegotiation is not supported"));
        }
        self.message.extend_from_slice(bytes);
        let mut messages = std::mem::take(&mut self.message);
        let mut rest = messages.as_slice();
        while let Some([kind, a, b, c]) = rest.first_chunk::<4>() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > MAX_MESSAGE {
                return Err(broken(RecordError::Malformed));
            }
            let Some(payload) = rest.get(4..4 + length) else { break };
            let last = rest.len() == 4 + length;
            match (kind, payload) {
                (&NEW_SESSION_TICKET, payload) => match &mut self.kernel {
                    Kernel::Client(kernel) => kernel.handle_new_session_ticket(payload).map_err(broken)?,
                    Kernel::Server(_) => return Err(broken("a ticket from a client")),
                },
                // New keys begin with a new record (RFC 8446 section 5.1).
                (&KEY_UPDATE, [asked @ (0 | 1)]) if last => {
                    let (sequence, secrets) = self.kernel.next_receiving().map_err(broken)?;
                    self.receiving = Keys::new(true, sequence, &secrets).map_err(broken)?;
                    if *asked == 1 {
                        self.change_sending_key()?;
                    }
                }
                _ => return Err(broken("a message that does not belong after a handshake")),
            }
            rest = &rest[4 + length..];
        }
        let taken = messages.len() - rest.len();
        messages.drain(..taken);
        self.message = messages;
        Ok(())
    }

    /// Tells the peer of a new key and uses it from then on.
    fn change_sending_key(&mut self) -> io::Result<()> {
        // At most one that waits to be written: the peer cannot make us gather them.
        if !std::mem::replace(&mut self.telling_key, true) {
            self.sending.seal(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], &mut self.unsent).map_err(broken)?;
            let (sequence, secrets) = self.kernel.next_sending().map_err(broken)?;
            self.sending = Keys::new(true, sequence, &secrets).map_err(broken)?;
        }
        Ok(())
    }

    /// Writes plaintext. What is taken is on its way when this is ready, so that nobody must flush; while it is not, the
    /// next call must begin with the same bytes.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.owed > 0 {
            ready!(self.poll_unsent(cx))?;
            return Poll::Ready(Ok(std::mem::take(&mut self.owed)));
        }
        let bytes = &bytes[..bytes.len().min(WRITE)];
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.sending.sequence() >= self.most_records {
            if !self.tls13 {
                return Poll::Ready(Err(broken("the key has sealed as much as it may")));
            }
            self.change_sending_key()?;
        }
        ready!(self.poll_unsent(cx))?;
        SEALING.with_borrow_mut(|scratch| {
            let mut sealed = 0;
            for part in bytes.chunks(MAX_PLAIN) {
                sealed += self.sending.seal_into(DATA, part, &mut scratch[sealed..]).map_err(broken)?;
            }
            let mut at = 0;
            while at < sealed {
                match Pin::new(&mut self.socket).poll_write(cx, &scratch[at..sealed]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(n)) => at += n,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.unsent.extend_from_slice(&scratch[at..sealed]);
                        self.owed = bytes.len();
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut at = 0;
        let result = loop {
            if at == self.unsent.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.socket).poll_write(cx, &self.unsent[at..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => at += n,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if at == self.unsent.len() {
            self.unsent = Vec::new();
            self.telling_key = false;
        } else {
            self.unsent.drain(..at);
        }
        result
    }

    /// Says that nothing more comes, and ends our direction.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.closing, true) {
            self.sending.seal(ALERT, &[1, CLOSE_NOTIFY], &mut self.unsent).map_err(broken)?;
        }
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for TlsStream {
    /// The peer is told that this is the end, not a cut, if it can be told without waiting.
    fn drop(&mut self) {
        if self.closing || self.owed > 0 {
            return;
        }
        if self.sending.seal(ALERT, &[1, CLOSE_NOTIFY], &mut self.unsent).is_ok() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            // What does not go out now does not matter any more.
            let _ = self.poll_unsent(&mut cx);
        }
    }
}

#[cfg(test)]
mod tests;
