//! The upstream's side of an exchange: what a request looks like there, and its response, HTTP/1 or HTTP/2.

use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::{RequestHead, ResponseHead};

use super::Incoming;
use super::body::{SinkClosed, Source};
use crate::http1::head::{self, Framing, MAX_RESPONSE_HEAD};
use crate::http2;
use crate::upstream::http2_failure;

/// The response side of an upstream connection.
pub enum Upper<'a> {
    Http1 { reader: &'a mut crate::http1::Reader, method: &'static str, keep: &'a mut bool },
    Http2(&'a http2::Stream),
}

impl Upper<'_> {
    /// Waits for the head of the final response.
    pub async fn head(
        &mut self,
        out: &mut ResponseHead,
        pass_continue: bool,
        mut interim: impl AsyncFnMut(u16) -> Result<(), SinkClosed>,
    ) -> Result<Framing, UpstreamFailure> {
        match self {
            Self::Http1 { reader, method, keep } => loop {
                let parsed = if reader.buffer.is_empty() {
                    None
                } else {
                    head::parse_response(&reader.buffer, method, out).map_err(|_| UpstreamFailure::Protocol)?
                };
                match parsed {
                    Some(wire) if (100..200).contains(&out.status) && out.status != 101 => {
                        bytes::Buf::advance(&mut reader.buffer, wire.length);
                        if out.status == 100 && pass_continue {
                            // A client that is gone is noticed elsewhere.
                            let _ = interim(100).await;
                        }
                    }
                    // Switching protocols was not asked for here.
                    Some(_) if out.status == 101 => return Err(UpstreamFailure::Protocol),
                    Some(wire) => {
                        bytes::Buf::advance(&mut reader.buffer, wire.length);
                        reader.start_body(wire.framing);
                        **keep = wire.keep_alive;
                        return Ok(wire.framing);
                    }
                    None => {
                        if reader.buffer.len() > MAX_RESPONSE_HEAD {
                            return Err(UpstreamFailure::Protocol);
                        }
                        match reader.fill().await {
                            Ok(0) | Err(_) if reader.buffer.is_empty() => return Err(UpstreamFailure::Termination),
                            Ok(0) => return Err(UpstreamFailure::Protocol),
                            Err(_) => return Err(UpstreamFailure::Termination),
                            Ok(_) => {}
                        }
                    }
                }
            },
            Self::Http2(stream) => loop {
                stream.head(out).await.map_err(http2_failure)?;
                match out.status {
                    100 if pass_continue => {
                        // A client that is gone is noticed elsewhere.
                        let _ = interim(100).await;
                    }
                    100..200 => {}
                    _ if stream.is_ended() => return Ok(Framing::None),
                    _ => {
                        let length = out.headers.get_str("content-length").and_then(|n| n.parse().ok());
                        return Ok(length.map_or(Framing::Chunked, Framing::Length));
                    }
                }
            },
        }
    }

    pub fn body(&mut self) -> Source<'_> {
        match self {
            Self::Http1 { reader, .. } => Source::Http1(reader),
            Self::Http2(stream) => Source::Http2(stream),
        }
    }

    /// The exchange is over: the connection is of use again if its body was read.
    pub(super) fn settle(&mut self, _: Framing) {
        if let Self::Http1 { reader, keep, .. } = self {
            **keep &= reader.body_done();
        }
    }

    /// The connection is not of use again.
    pub(super) fn spoil(&mut self) {
        if let Self::Http1 { keep, .. } = self {
            **keep = false;
        }
    }

    pub(super) fn unfinished(&self) -> bool {
        match self {
            Self::Http1 { .. } => false,
            Self::Http2(stream) => !stream.is_ended(),
        }
    }
}

/// How the body goes to an HTTP/1 upstream.
pub(super) fn request_framing(body: &Incoming<'_>, request: &RequestHead) -> Framing {
    match body.framing {
        Framing::Chunked => match request.headers.get_str("content-length").and_then(|n| n.parse().ok()) {
            // HTTP/2 clients announce a length without it being the framing.
            Some(n) => Framing::Length(n),
            None => Framing::Chunked,
        },
        other => other,
    }
}
