//! HTTP/1 messages as they stood on the wire: read leniently, kept exactly.
//!
//! Bytes become text as Latin-1, so nothing is lost or repaired: what one proxy writes differently
//! from another shows.

use tokio::io::{AsyncRead, AsyncReadExt};

/// How the end of a body was marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing in the head says there is a body.
    None,
    Length(u64),
    Chunked,
    /// A response that lasts until the connection ends.
    UntilClose,
}

/// One request or response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line, without the line end.
    pub start: String,
    /// Names and values as written, in order.
    pub headers: Vec<(String, String)>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The connection ended before the message did.
    pub cut: bool,
}

impl Message {
    /// The first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The status code of a response; 0 when the start line has none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Whether the sender said that the connection ends with this message.
    pub fn says_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Which side of the exchange is read: it decides what a head without length means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
    /// The answer to HEAD: lengths are only told.
    ResponseToHead,
}

/// A connection's incoming bytes, read message by message.
pub struct Reader<R> {
    io: R,
    buffer: Vec<u8>,
    /// Why reading ended, once it has.
    pub end: Option<End>,
}

/// How the peer ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R) -> Reader<R> {
        Reader { io, buffer: Vec::new(), end: None }
    }

    /// What is read from, to write to it.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.io
    }

    /// Reads once. `false` at the end.
    async fn fill(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        self.buffer.reserve(65536);
        match self.io.read_buf(&mut self.buffer).await {
            Ok(0) => self.end = Some(End::Fin),
            Ok(_) => {}
            Err(_) => self.end = Some(End::Reset),
        }
        self.end.is_none()
    }

    /// The head up to and without the blank line, or `None` with what had come when the peer ended.
    pub async fn head(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let mut head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                head.truncate(at);
                return Ok(head);
            }
            if !self.fill().await {
                return Err(std::mem::take(&mut self.buffer));
            }
        }
    }

    /// Exactly `count` bytes, fewer at the end.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.fill().await {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// Everything until the peer ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Whatever has come next, empty at the end.
    pub async fn some(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() {
            self.fill().await;
        }
        std::mem::take(&mut self.buffer)
    }

    /// A line without its CRLF.
    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let mut line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                line.truncate(at);
                return Some(line);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// A whole message; `None` when the peer ended before sending a byte of one.
    pub async fn message(&mut self, side: Side) -> Option<Message> {
        let mut message = self.start(side).await?;
        if !message.cut {
            self.body(&mut message).await;
        }
        Some(message)
    }

    /// The head of a message, its body still to come.
    pub async fn start(&mut self, side: Side) -> Option<Message> {
        match self.head().await {
            Ok(head) => Some(parse_head(&head, side)),
            Err(partial) if partial.is_empty() => None,
            Err(partial) => {
                let mut message = parse_head(&partial, side);
                message.cut = true;
                Some(message)
            }
        }
    }

    /// Reads the body the head of `message` announced into it.
    pub async fn body(&mut self, message: &mut Message) {
        match message.framing {
            Framing::None => {}
            Framing::Length(length) => {
                message.body = self.exactly(length as usize).await;
                message.cut = (message.body.len() as u64) < length;
            }
            Framing::UntilClose => {
                message.body = self.rest().await;
                message.cut = self.end == Some(End::Reset);
            }
            Framing::Chunked => message.cut = self.chunks(message).await.is_none(),
        }
    }

    async fn chunks(&mut self, message: &mut Message) -> Option<()> {
        loop {
            let line = self.line().await?;
            let text = latin1(&line);
            let size = usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            let data = self.exactly(size).await;
            message.body.extend_from_slice(&data);
            if data.len() < size {
                return None;
            }
            self.line().await?;
        }
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(());
            }
            message.trailers.push(split_header(&line));
        }
    }
}

fn parse_head(head: &[u8], side: Side) -> Message {
    let mut lines = head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let start = latin1(lines.next().unwrap_or_default());
    let headers: Vec<(String, String)> = lines.map(split_header).collect();
    let mut message =
        Message { start, headers, framing: Framing::None, body: Vec::new(), trailers: Vec::new(), cut: false };
    message.framing = framing(&message, side);
    message
}

fn framing(message: &Message, side: Side) -> Framing {
    let status = message.status();
    let bodiless = (100..200).contains(&status) || status == 204 || status == 304;
    if side == Side::ResponseToHead || (side == Side::Response && bodiless) {
        return Framing::None;
    }
    if message.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked;
    }
    match message.header("content-length").map(str::parse) {
        Some(Ok(length)) => Framing::Length(length),
        _ if side == Side::Response => Framing::UntilClose,
        _ => Framing::None,
    }
}

fn split_header(line: &[u8]) -> (String, String) {
    let text = latin1(line);
    match text.split_once(':') {
        Some((name, value)) => (name.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned()),
        None => (text, String::new()),
    }
}

/// Bytes as text, one character a byte.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
