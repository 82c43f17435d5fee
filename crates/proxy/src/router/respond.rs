//! The answering side of a request, HTTP/1 or HTTP/2.

use lateen_traffic::{Headers, ResponseHead};

use super::body::{Sink, SinkClosed};
use crate::http1::head::{Framing, ResponseWire, Unsaid, write_response};
use crate::{http1, http2};

/// Answers one request.
pub enum Responder<'a> {
    /// On an HTTP/1 connection.
    Http1(Http1Responder<'a>),
    /// On an HTTP/2 stream.
    Http2(Http2Responder<'a>),
}

/// Answers on an HTTP/1 connection.
pub struct Http1Responder<'a> {
    /// The connection.
    pub writer: &'a mut http1::Writer,
    /// The connection ends after this answer.
    pub close: bool,
    /// The client speaks HTTP/1.0.
    pub http10: bool,
    /// Answer names in `Proper-Case`.
    pub proper_case: bool,
    /// The request was HEAD.
    pub head_request: bool,
}

/// Answers on an HTTP/2 stream.
pub struct Http2Responder<'a> {
    /// The stream.
    pub stream: &'a http2::Stream,
    /// The head is sent.
    pub begun: bool,
}

impl Responder<'_> {
    /// Sends the head of an answer. `framing` is how its body ends; for HTTP/2 only whether there is one matters.
    /// `upgrade`: the protocol of a 101.
    pub fn head(&mut self, head: &ResponseHead, framing: Framing, upgrade: Option<&str>) -> Result<(), SinkClosed> {
        match self {
            Self::Http1(r) => {
                // HTTP/1.0 knows no chunks: the body ends with the connection.
                let framing = if r.http10 && framing == Framing::Chunked { Framing::UntilClose } else { framing };
                if framing == Framing::UntilClose && upgrade.is_none() {
                    r.close = true;
                }
                let bodiless = head.status < 200 || head.status == 204 || head.status == 304;
                let unsaid = framing == Framing::None && !bodiless && !head.headers.contains("content-length");
                let wire = ResponseWire {
                    framing,
                    // A tunnel ends with its connection without saying so.
                    close: r.close && framing != Framing::UntilClose || r.http10 && framing == Framing::UntilClose,
                    http10: r.http10,
                    proper_case: r.proper_case,
                    upgrade,
                    unsaid: unsaid.then_some(if r.head_request && !r.http10 { Unsaid::Chunked } else { Unsaid::Empty }),
                };
                write_response(head, wire, &mut r.writer.buffer);
                r.writer.start_body(framing);
                Ok(())
            }
            Self::Http2(r) => {
                r.stream.send_head(head.status, &head.headers, framing == Framing::None)?;
                r.begun = true;
                Ok(())
            }
        }
    }

    /// Passes an interim answer on (100, 103).
    pub async fn interim(&mut self, status: u16) -> Result<(), SinkClosed> {
        match self {
            Self::Http1(r) if !r.http10 => {
                let reason = http1::head::reason(status);
                r.writer.buffer.extend_from_slice(format!("HTTP/1.1 {status} {reason}\r\n\r\n").as_bytes());
                r.writer.flush().await.map_err(|_| SinkClosed)
            }
            Self::Http1(_) => Ok(()),
            Self::Http2(r) => r.stream.send_head(status, &Headers::new(), false),
        }
    }

    /// Where the body goes, once the head is sent.
    pub fn sink(&mut self) -> Result<Sink<'_>, SinkClosed> {
        match self {
            Self::Http1(r) => Ok(Sink::Http1(r.writer)),
            Self::Http2(r) => {
                if r.begun {
                    Ok(Sink::Http2(r.stream))
                } else {
                    Err(SinkClosed)
                }
            }
        }
    }

    /// Sends what has gathered.
    pub async fn flush(&mut self) -> Result<(), SinkClosed> {
        match self {
            Self::Http1(r) => r.writer.flush().await.map_err(|_| SinkClosed),
            Self::Http2(_) => Ok(()),
        }
    }

    /// Gives the answer up half-way: the client must see that it is not whole.
    pub async fn abort(&mut self) {
        match self {
            Self::Http1(r) => r.close = true,
            Self::Http2(r) => r.stream.reset(http2::Reason::INTERNAL_ERROR),
        }
    }

    /// Waits until an HTTP/2 client resets its stream; an HTTP/1 client is watched by its request body.
    pub async fn gone(&mut self) {
        match self {
            Self::Http1(_) => std::future::pending().await,
            Self::Http2(r) => r.stream.gone().await,
        }
    }

    /// Says that the connection ends after this answer (HTTP/1).
    pub fn close_after(&mut self) {
        if let Self::Http1(r) = self {
            r.close = true;
        }
    }
}
