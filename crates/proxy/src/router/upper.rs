//! The upstream's side of an exchange: what a request looks like there, and its response, HTTP/1 or HTTP/2.

use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::{RequestHead, ResponseHead};

use super::Incoming;
use super::body::{SinkClosed, Source};
use super::respond::http2_fields;
use crate::http1::head::{self, Framing, MAX_RESPONSE_HEAD};
use crate::upstream::http2_failure;

/// The response side of an upstream connection.
pub enum Upper<'a> {
    Http1 { reader: &'a mut crate::http1::Reader, method: &'static str, keep: &'a mut bool },
    Http2 { response: Option<h2::client::ResponseFuture>, body: Option<h2::RecvStream> },
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
            Self::Http2 { response, body } => {
                let Some(future) = response else { return Err(UpstreamFailure::Termination) };
                let answer = future.await.map_err(|e| http2_failure(&e))?;
                *response = None;
                let (parts, stream) = answer.into_parts();
                out.status = parts.status.as_u16();
                out.reason.clear();
                out.headers.clear();
                for (name, value) in &parts.headers {
                    out.headers.append(name.as_str(), value.as_bytes());
                }
                let framing = if stream.is_end_stream() {
                    Framing::None
                } else {
                    match out.headers.get_str("content-length").and_then(|n| n.parse().ok()) {
                        Some(n) => Framing::Length(n),
                        None => Framing::Chunked,
                    }
                };
                *body = Some(stream);
                Ok(framing)
            }
        }
    }

    pub fn body(&mut self) -> Source<'_> {
        match self {
            Self::Http1 { reader, .. } => Source::Http1(reader),
            Self::Http2 { body: Some(stream), .. } => Source::Http2(stream),
            Self::Http2 { body: None, .. } => Source::Empty,
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
            Self::Http2 { body, .. } => body.as_ref().is_none_or(|b| !b.is_end_stream()),
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

/// The request as HTTP/2 sends it; `None` if it cannot be expressed.
pub fn http2_request(head: &RequestHead) -> Option<http::Request<()>> {
    let mut request = http::Request::new(());
    *request.method_mut() = http::Method::from_bytes(head.method.as_bytes()).ok()?;
    *request.version_mut() = http::Version::HTTP_2;
    let uri = http::Uri::builder().scheme(head.scheme.as_str()).authority(head.authority.as_str());
    *request.uri_mut() = if head.is_connect() && head.upgrade.is_empty() {
        head.authority.parse().ok()?
    } else {
        uri.path_and_query(head.path.as_str()).build().ok()?
    };
    *request.headers_mut() = http2_fields(&head.headers)?;
    Some(request)
}
