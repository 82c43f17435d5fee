//! The answering side of a request, HTTP/1 or HTTP/2.

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::HeaderName;
use lateen_traffic::{Headers, ResponseHead};

use super::body::{Sink, SinkClosed};
use crate::http1;
use crate::http1::head::{Framing, ResponseWire, Unsaid, write_response};

/// Turns of the runtime after which a connection's own task has written what it had.
const FLUSH_TURNS: usize = 3;

/// Answers one request.
pub enum Responder<'a> {
    /// On an HTTP/1 connection.
    Http1(Http1Responder<'a>),
    /// On an HTTP/2 stream.
    Http2(Http2Responder),
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
pub struct Http2Responder {
    /// Before the head is sent.
    pub respond: SendResponse<Bytes>,
    /// After it.
    pub stream: Option<SendStream<Bytes>>,
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
                let response = http2_response(head).ok_or(SinkClosed)?;
                let stream = r.respond.send_response(response, framing == Framing::None).map_err(|_| SinkClosed)?;
                r.stream = Some(stream);
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
            Self::Http2(r) => {
                let mut response = http::Response::new(());
                *response.status_mut() = http::StatusCode::from_u16(status).map_err(|_| SinkClosed)?;
                r.respond.send_informational(response).map_err(|_| SinkClosed)
            }
        }
    }

    /// Where the body goes, once the head is sent.
    pub fn sink(&mut self) -> Result<Sink<'_>, SinkClosed> {
        match self {
            Self::Http1(r) => Ok(Sink::Http1(r.writer)),
            Self::Http2(r) => r.stream.as_mut().map(Sink::Http2).ok_or(SinkClosed),
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
            // A reset drops what the connection's own task has not written yet; let it write first.
            Self::Http2(r) => match &mut r.stream {
                Some(stream) => {
                    for _ in 0..FLUSH_TURNS {
                        tokio::task::yield_now().await;
                    }
                    stream.send_reset(h2::Reason::INTERNAL_ERROR);
                }
                None => r.respond.send_reset(h2::Reason::INTERNAL_ERROR),
            },
        }
    }

    /// Waits until an HTTP/2 client resets its stream; an HTTP/1 client is watched by its request body.
    pub async fn gone(&mut self) {
        match self {
            Self::Http1(_) => std::future::pending().await,
            Self::Http2(r) => {
                let reset = std::future::poll_fn(|cx| match &mut r.stream {
                    Some(stream) => stream.poll_reset(cx),
                    None => r.respond.poll_reset(cx),
                });
                // An error means that the whole connection is gone.
                let _ = reset.await;
            }
        }
    }

    /// Says that the connection ends after this answer (HTTP/1).
    pub fn close_after(&mut self) {
        if let Self::Http1(r) = self {
            r.close = true;
        }
    }
}

/// The head for an HTTP/2 client; `None` if a field cannot be expressed.
fn http2_response(head: &ResponseHead) -> Option<http::Response<()>> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status).ok()?;
    *response.headers_mut() = http2_fields(&head.headers)?;
    Some(response)
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names that are no standard's and that most messages between proxies have: there is no need to look at each byte of them
/// and to keep a copy.
static NAMES: [HeaderName; 10] = [
    REQUEST_ID,
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-envoy-attempt-count"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-service-time"),
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
];

/// Header fields for HTTP/2.
pub fn http2_fields(headers: &Headers) -> Option<http::HeaderMap> {
    let mut map = http::HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.as_bytes() {
        if matches!(name, b"connection" | b"transfer-encoding" | b"keep-alive" | b"upgrade" | b"proxy-connection") {
            continue;
        }
        let known = NAMES.iter().find(|known| known.as_str().as_bytes() == name);
        let name = match known {
            Some(name) => name.clone(),
            None => HeaderName::from_bytes(name).ok()?,
        };
        let mut value = http::HeaderValue::from_bytes(value).ok()?;
        // Another one with each request: in the table of what was said before (RFC 7541 section 2.3.2) it would push out what
        // comes again.
        value.set_sensitive(name == REQUEST_ID);
        map.append(name, value);
    }
    Some(map)
}
