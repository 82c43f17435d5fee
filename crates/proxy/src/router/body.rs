//! Message bodies on their way through: from a source on one connection to a sink on another, with back-pressure.

use std::future::Future as _;
use std::task::Poll;

use bytes::Bytes;
use lateen_traffic::Headers;
use lateen_traffic::reply::LocalReply;

use super::feed::Fed;
use super::grpc_web::Decoded;
use crate::http1::reader::BodyError;
use crate::{http1, http2};

/// Where a body comes from.
pub enum Source<'a> {
    /// There is none.
    Empty,
    /// An HTTP/1 connection.
    Http1(&'a mut http1::Reader),
    /// An HTTP/2 stream.
    Http2(&'a http2::Stream),
    /// Another request's body, as it is read.
    Feed(&'a mut Fed),
    /// A body that is decoded on its way.
    Decoded(Box<Decoded<'a>>),
}

/// A part of a body.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Data.
    Data(Bytes),
    /// The end, with trailer fields if there were any.
    End(Option<Headers>),
}

/// Why a body cannot be read on.
#[derive(Debug)]
pub enum SourceError {
    /// The connection ended.
    Closed,
    /// The peer broke HTTP/1.
    Framing,
    /// The HTTP/2 stream failed.
    Http2(http2::Failure),
    /// It does not say what it is to say; the client is told so.
    Refused(Box<LocalReply>),
}

impl Source<'_> {
    /// The next part. Cancel-safe.
    pub async fn next(&mut self) -> Result<Piece, SourceError> {
        match self {
            Self::Empty => Ok(Piece::End(None)),
            Self::Http1(reader) => match reader.next().await {
                Ok(Some(data)) => Ok(Piece::Data(data)),
                Ok(None) => Ok(Piece::End(None)),
                Err(BodyError::Closed) => Err(SourceError::Closed),
                Err(BodyError::Framing) => Err(SourceError::Framing),
            },
            Self::Http2(stream) => stream.next().await.map_err(SourceError::Http2),
            Self::Feed(fed) => fed.next().await,
            Self::Decoded(decoded) => decoded.next().await,
        }
    }

    /// The next part if it has come already.
    pub async fn at_hand(&mut self) -> Option<Result<Piece, SourceError>> {
        let mut next = std::pin::pin!(self.next());
        std::future::poll_fn(|cx| {
            Poll::Ready(match next.as_mut().poll(cx) {
                Poll::Ready(piece) => Some(piece),
                Poll::Pending => None,
            })
        })
        .await
    }

    /// Bytes that were read and count as received, beyond those of the parts that were given, since this was asked last.
    pub fn take_beyond(&mut self) -> u64 {
        match self {
            Self::Decoded(decoded) => decoded.take_beyond(),
            Self::Empty | Self::Http1(_) | Self::Http2(_) | Self::Feed(_) => 0,
        }
    }

    /// Whether the rest of it is in the way of an HTTP/1 connection's next message.
    pub fn is_unread(&self) -> bool {
        match self {
            Self::Http1(reader) => !reader.body_done(),
            Self::Decoded(decoded) => decoded.from.is_unread(),
            Self::Empty | Self::Http2(_) | Self::Feed(_) => false,
        }
    }

    /// Waits until the peer is gone, of HTTP/2: has reset its stream.
    pub async fn gone(&mut self, limit: usize) {
        match self {
            Self::Http1(reader) => reader.gone(limit).await,
            Self::Decoded(decoded) => Box::pin(decoded.from.gone(limit)).await,
            Self::Http2(stream) => stream.gone().await,
            Self::Empty | Self::Feed(_) => std::future::pending().await,
        }
    }
}

/// Where a body goes.
pub enum Sink<'a> {
    /// An HTTP/1 connection.
    Http1(&'a mut http1::Writer),
    /// An HTTP/2 stream.
    Http2(&'a http2::Stream),
}

/// A body cannot be written on.
#[derive(Debug)]
pub struct SinkClosed;

impl Sink<'_> {
    /// Takes data; waits while the peer takes none.
    pub async fn data(&mut self, data: Bytes) -> Result<(), SinkClosed> {
        match self {
            Self::Http1(writer) => writer.data(&data).await.map_err(|_| SinkClosed),
            Self::Http2(stream) => stream.send(data, false).await,
        }
    }

    /// Takes the last data, which end the body.
    pub async fn last(&mut self, data: Bytes) -> Result<(), SinkClosed> {
        match self {
            Self::Http1(writer) => {
                writer.data(&data).await.map_err(|_| SinkClosed)?;
                writer.end();
                Ok(())
            }
            Self::Http2(stream) => stream.send(data, true).await,
        }
    }

    /// Ends the body.
    pub fn end(&mut self, trailers: Option<&Headers>) -> Result<(), SinkClosed> {
        match self {
            // HTTP/1 trailers are not sent, as in Envoy's default.
            Self::Http1(writer) => {
                writer.end();
                Ok(())
            }
            Self::Http2(stream) => stream.end(trailers),
        }
    }

    /// Sends what has gathered.
    pub async fn flush(&mut self) -> Result<(), SinkClosed> {
        match self {
            Self::Http1(writer) => writer.flush().await.map_err(|_| SinkClosed),
            // The connection's own task writes when this one yields.
            Self::Http2(_) => Ok(()),
        }
    }
}

/// How a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// The source.
    Source(SourceError),
    /// The sink.
    Sink,
}

impl From<SinkClosed> for CopyError {
    fn from(_: SinkClosed) -> Self {
        Self::Sink
    }
}

/// Moves a whole body. `seen` is told each part before it goes on. What is at hand gathers into one write; it is
/// flushed when the source has to be waited for.
pub async fn copy(source: &mut Source<'_>, sink: &mut Sink<'_>, seen: impl FnMut(&Piece)) -> Result<(), CopyError> {
    pass(source, sink, seen, false).await
}

/// The same of a body that nobody goes on with if this is dropped: one part is read ahead, so that the last data say that they
/// are. An end by itself is a frame more for both ends of HTTP/2.
pub async fn deliver(source: &mut Source<'_>, sink: &mut Sink<'_>, seen: impl FnMut(&Piece)) -> Result<(), CopyError> {
    pass(source, sink, seen, true).await
}

async fn pass(
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    mut seen: impl FnMut(&Piece),
    looks_ahead: bool,
) -> Result<(), CopyError> {
    let mut ahead = None;
    loop {
        let at_hand = match ahead.take() {
            Some(piece) => Some(piece),
            None => source.at_hand().await,
        };
        let piece = match at_hand {
            Some(piece) => piece,
            None => {
                sink.flush().await?;
                source.next().await
            }
        }
        .map_err(CopyError::Source);
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                // What came before the failure still goes on.
                sink.flush().await?;
                return Err(error);
            }
        };
        seen(&piece);
        match piece {
            Piece::Data(data) => {
                ahead = if looks_ahead { source.at_hand().await } else { None };
                if let Some(Ok(end @ Piece::End(None))) = &ahead {
                    seen(end);
                    sink.last(data).await?;
                    return Ok(sink.flush().await?);
                }
                sink.data(data).await?;
            }
            Piece::End(trailers) => {
                sink.end(trailers.as_ref())?;
                return Ok(sink.flush().await?);
            }
        }
    }
}
