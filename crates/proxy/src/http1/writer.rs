//! The writing side of an HTTP/1 connection. Head and body gather in one buffer and go out in one write.

use std::io;
use std::rc::Rc;

use super::head::Framing;
use crate::io::Io;

/// Gathered bytes beyond which a write goes out before more is taken.
const GATHER: usize = 64 * 1024;

/// Writes messages.
pub struct Writer {
    io: Rc<Io>,
    /// Bytes not yet written; heads are encoded into it.
    pub buffer: Vec<u8>,
    framing: Framing,
}

impl Writer {
    /// Writes to a connection.
    pub fn new(io: Rc<Io>) -> Self {
        Self { io, buffer: Vec::new(), framing: Framing::None }
    }

    /// The head in the buffer is followed by a body.
    pub fn start_body(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// A piece of the body.
    pub async fn data(&mut self, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        match self.framing {
            Framing::None => return Ok(()),
            Framing::Chunked => {
                write_size(data.len(), &mut self.buffer);
                self.buffer.extend_from_slice(data);
                self.buffer.extend_from_slice(b"\r\n");
            }
            Framing::Length(_) | Framing::UntilClose => self.buffer.extend_from_slice(data),
        }
        if self.buffer.len() >= GATHER { self.flush().await } else { Ok(()) }
    }

    /// The body is over.
    pub fn end(&mut self) {
        if self.framing == Framing::Chunked {
            self.buffer.extend_from_slice(b"0\r\n\r\n");
        }
        self.framing = Framing::None;
    }

    /// Writes everything gathered and ends our direction.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.io.shutdown().await
    }

    /// Writes everything gathered.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.io.write(&self.buffer).await;
        self.buffer.clear();
        // One large body must not keep its memory for the life of the connection.
        if self.buffer.capacity() > 2 * GATHER {
            self.buffer = Vec::new();
        }
        written
    }
}

fn write_size(mut n: usize, out: &mut Vec<u8>) {
    let mut digits = [0u8; 16];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[n & 15];
        n >>= 4;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}
