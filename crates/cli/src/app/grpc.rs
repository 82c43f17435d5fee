//! The gRPC echo of `echo.proto`, by the wire format of
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
//!
//! Unary and streaming calls are one thing here: a reply for each message, then trailers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use prost::Message;

use super::body::Body;
use super::{Behaviour, Service};

/// Longest message taken, in bytes: gRPC's usual limit.
const LONGEST_MESSAGE: usize = 4 << 20;
/// Compressed-flag and length before each message.
const PREFIX: usize = 5;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

#[derive(Clone, PartialEq, Message)]
struct EchoRequest {
    #[prost(string, tag = "1")]
    message: String,
    #[prost(uint32, tag = "2")]
    status: u32,
}

#[derive(Clone, PartialEq, Message)]
struct EchoReply {
    #[prost(string, tag = "1")]
    message: String,
    #[prost(string, tag = "2")]
    pod: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(uint64, tag = "4")]
    call: u64,
}

/// How a call ends: a status code of <https://grpc.io/docs/guides/status-codes/> and what to say.
#[derive(Clone, Copy, Debug, PartialEq)]
struct End {
    code: u32,
    message: &'static str,
}

const OK: End = End { code: 0, message: "" };
const AS_ASKED: &str = "as the request asked";
const TOO_LONG: End = End { code: 8, message: "the message is longer than 4 MiB" };
const UNIMPLEMENTED: End = End { code: 12, message: "only lateen.sample.Echo/Echo and /EchoStream are served" };
const COMPRESSED: End = End { code: 12, message: "compressed messages are not taken" };
const MALFORMED: End = End { code: 13, message: "the message is not an EchoRequest" };
const CUT_SHORT: End = End { code: 13, message: "the request ended within a message" };
const FAILED: End = End { code: 14, message: "failed by --fail-rate" };

impl End {
    fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code));
        if !self.message.is_empty() {
            headers.insert(GRPC_MESSAGE, HeaderValue::from_static(self.message));
        }
        headers
    }
}

/// Whether a request is a gRPC call.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| matches!(kind.strip_prefix(b"application/grpc"), Some([] | [b'+' | b';', ..])))
}

/// Answers a gRPC call.
pub async fn answer(service: Arc<Service>, behaviour: Behaviour, request: Request<Incoming>) -> Response<Body> {
    if !behaviour.delay.is_zero() {
        tokio::time::sleep(behaviour.delay).await;
    }
    let refusal = match request.uri().path() {
        _ if behaviour.fails(rand::random::<f64>) => Some(FAILED),
        "/lateen.sample.Echo/Echo" | "/lateen.sample.Echo/EchoStream" => None,
        _ => Some(UNIMPLEMENTED),
    };
    let mut response = match refusal {
        Some(end) => {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = end.headers();
            response
        }
        None => Response::new(Body::Replies(Box::new(Replies {
            service,
            requests: request.into_body(),
            buffer: BytesMut::new(),
            state: State::Open,
        }))),
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A reply for each message of a request, and the trailers.
pub struct Replies {
    service: Arc<Service>,
    requests: Incoming,
    /// Bytes of messages not answered yet.
    buffer: BytesMut,
    state: State,
}

enum State {
    Open,
    /// Replies are out; the trailers are next.
    Ending(End),
    Ended,
}

impl Replies {
    /// The next piece of the answer. Requests are read no faster than replies are taken.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            match self.state {
                State::Ended => return Poll::Ready(None),
                State::Ending(end) => {
                    self.state = State::Ended;
                    return Poll::Ready(Some(Frame::trailers(end.headers())));
                }
                State::Open => {}
            }
            match take_message(&mut self.buffer) {
                Ok(Some(message)) => match self.reply(message) {
                    Ok(reply) => return Poll::Ready(Some(Frame::data(reply))),
                    Err(end) => self.state = State::Ending(end),
                },
                Ok(None) => match ready!(Pin::new(&mut self.requests).poll_frame(context)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            self.buffer.extend_from_slice(&data);
                        }
                    }
                    Some(Err(_)) => self.state = State::Ended,
                    None if self.buffer.is_empty() => self.state = State::Ending(OK),
                    None => self.state = State::Ending(CUT_SHORT),
                },
                Err(end) => self.state = State::Ending(end),
            }
        }
    }

    fn reply(&self, message: Bytes) -> Result<Bytes, End> {
        let request = EchoRequest::decode(message).map_err(|_| MALFORMED)?;
        if request.status != 0 {
            return Err(End { code: request.status, message: AS_ASKED });
        }
        let reply = EchoReply {
            message: request.message,
            pod: self.service.identity.pod.clone(),
            version: self.service.identity.version.clone(),
            call: self.service.next_call(),
        };
        let length = reply.encoded_len();
        let mut framed = BytesMut::with_capacity(PREFIX + length);
        framed.put_u8(0);
        framed.put_u32(u32::try_from(length).map_err(|_| TOO_LONG)?);
        // Room for the whole message was made above, which is the only thing encoding can fail for.
        reply.encode(&mut framed).map_err(|_| TOO_LONG)?;
        Ok(framed.freeze())
    }
}

/// Takes the first whole message off a buffer.
fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, End> {
    let Some((&[compressed, a, b, c, d], rest)) = buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 {
        return Err(COMPRESSED);
    }
    if length > LONGEST_MESSAGE {
        return Err(TOO_LONG);
    }
    if rest.len() < length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole() {
        let mut buffer = BytesMut::from(&b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x03c"[..]);
        assert_eq!(take_message(&mut buffer), Ok(Some(Bytes::from_static(b"ab"))));
        assert_eq!(take_message(&mut buffer), Ok(Some(Bytes::new())));
        assert_eq!(take_message(&mut buffer), Ok(None));
        assert_eq!(&buffer[..], b"\0\0\0\0\x03c");
    }

    #[test]
    fn messages_not_taken() {
        assert_eq!(take_message(&mut BytesMut::from(&b"\x01\0\0\0\x01a"[..])), Err(COMPRESSED));
        assert_eq!(take_message(&mut BytesMut::from(&b"\0\xff\xff\xff\xff"[..])), Err(TOO_LONG));
    }

    #[test]
    fn content_types() {
        let with = |kind: &'static str| {
            is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]))
        };
        assert!(with("application/grpc") && with("application/grpc+proto") && with("application/grpc;v=1"));
        assert!(!with("application/grpc-web") && !with("application/json") && !is_grpc(&HeaderMap::new()));
    }
}
