//! The reading side of an HTTP/1 connection: a buffer, and where in a message it stands.

use std::io;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::chunked::{Decoded, Decoder};
use super::head::Framing;
use crate::io::Io;

/// Bytes read at once.
const READ: usize = 16 * 1024;

/// Reads messages.
pub struct Reader {
    io: Rc<Io>,
    /// Bytes read and not yet used.
    pub buffer: BytesMut,
    body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked(Decoder),
    UntilClose,
    Done,
}

/// Why a body cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke or ended early.
    #[error("the connection ended inside the body")]
    Closed,
    /// The body breaks the rules.
    #[error("the body's framing is invalid")]
    Framing,
}

impl Reader {
    /// Reads from a connection.
    pub fn new(io: Rc<Io>) -> Self {
        Self { io, buffer: BytesMut::new(), body: Body::Done }
    }

    /// Reads more; 0 at the end of the stream.
    pub async fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.capacity() - self.buffer.len() < READ / 4 {
            self.buffer.reserve(READ);
        }
        self.io.read_into(&mut self.buffer).await
    }

    /// A body begins.
    pub fn start_body(&mut self, framing: Framing) {
        self.body = match framing {
            Framing::None => Body::Done,
            Framing::Length(n) => Body::Length(n),
            Framing::Chunked => Body::Chunked(Decoder::default()),
            Framing::UntilClose => Body::UntilClose,
        };
    }

    /// Whether the body, or there being none, is over.
    pub fn body_done(&self) -> bool {
        self.body == Body::Done
    }

    /// The next piece of the body; `None` at its end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            match &mut self.body {
                Body::Done => return Ok(None),
                Body::Length(left) => {
                    if !self.buffer.is_empty() {
                        let n = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                        *left -= n as u64;
                        if *left == 0 {
                            self.body = Body::Done;
                        }
                        return Ok(Some(self.buffer.split_to(n).freeze()));
                    }
                }
                Body::Chunked(decoder) => match decoder.decode(&mut self.buffer).map_err(|_| BodyError::Framing)? {
                    Decoded::Data(data) => return Ok(Some(data)),
                    Decoded::End => {
                        self.body = Body::Done;
                        return Ok(None);
                    }
                    Decoded::More => {}
                },
                Body::UntilClose => {
                    if !self.buffer.is_empty() {
                        return Ok(Some(self.buffer.split().freeze()));
                    }
                }
            }
            let until_close = self.body == Body::UntilClose;
            match self.fill().await {
                Ok(0) if until_close => self.body = Body::Done,
                Ok(0) | Err(_) => return Err(BodyError::Closed),
                Ok(_) => {}
            }
        }
    }

    /// Waits until the peer is gone. What it sends meanwhile is kept, up to `limit` bytes; beyond that its end is not
    /// noticed until somebody reads.
    pub async fn gone(&mut self, limit: usize) {
        while self.buffer.len() < limit {
            match self.fill().await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending::<()>().await;
    }
}
