//! Message bodies on their way through: from a source on one connection to a sink on another, with back-pressure.

use std::future::Future as _;
use std::task::Poll;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use lateen_traffic::reply::LocalReply;

use super::feed::Fed;
use super::grpc_web::Decoded;
use crate::http1;
use crate::http1::reader::BodyError;

/// Where a body comes from.
pub enum Source<'a> {
    /// There is none.
    Empty,
    /// An HTTP/1 connection.
    Http1(&'a mut http1::Reader),
    /// An HTTP/2 stream.
    Http2(&'a mut RecvStream),
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
    End(Option<HeaderMap>),
}

/// Why a body cannot be read on.
#[derive(Debug)]
pub enum SourceError {
    /// The connection ended.
    Closed,
    /// The peer broke HTTP/1.
    Framing,
    /// The HTTP/2 stream failed.
    Http2(h2::Error),
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
            Self::Http2(stream) => match stream.data().await {
                Some(Ok(data)) => {
                    // The window opens again as the data moves on; what waits in between is bounded by the sink.
                    let _ = stream.flow_control().release_capacity(data.len());
                    Ok(Piece::Data(data))
                }
                Some(Err(error)) => Err(SourceError::Http2(error)),
                None => stream.trailers().await.map(Piece::End).map_err(SourceError::Http2),
            },
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

    /// Waits until the peer of an HTTP/1 connection is gone; an HTTP/2 peer is watched by its response stream.
    pub async fn gone(&mut self, limit: usize) {
        match self {
            Self::Http1(reader) => reader.gone(limit).await,
            Self::Decoded(decoded) => Box::pin(decoded.from.gone(limit)).await,
            Self::Empty | Self::Http2(_) | Self::Feed(_) => std::future::pending().await,
        }
    }
}

/// Where a body goes.
pub enum Sink<'a> {
    /// An HTTP/1 connection.
    Http1(&'a mut http1::Writer),
    /// An HTTP/2 stream.
    Http2(&'a mut SendStream<Bytes>),
}

/// A body cannot be written on.
#[derive(Debug)]
pub struct SinkClosed;

impl Sink<'_> {
    /// Takes data; waits while the peer takes none.
    pub async fn data(&mut self, mut data: Bytes) -> Result<(), SinkClosed> {
        match self {
            Self::Http1(writer) => writer.data(&data).await.map_err(|_| SinkClosed),
            Self::Http2(stream) => {
                while !data.is_empty() {
                    stream.reserve_capacity(data.len());
                    let capacity = match stream.capacity() {
                        0 => std::future::poll_fn(|cx| stream.poll_capacity(cx))
                            .await
                            .ok_or(SinkClosed)?
                            .map_err(|_| SinkClosed)?,
                        n => n,
                    };
                    let part = data.split_to(capacity.min(data.len()));
                    stream.send_data(part, false).map_err(|_| SinkClosed)?;
                }
                Ok(())
            }
        }
    }

    /// Ends the body.
    pub fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), SinkClosed> {
        match self {
            // HTTP/1 trailers are not sent, as in Envoy's default.
            Self::Http1(writer) => {
                writer.end();
                Ok(())
            }
            Self::Http2(stream) => match trailers {
                Some(trailers) => stream.send_trailers(trailers),
                None => stream.send_data(Bytes::new(), true),
            }
            .map_err(|_| SinkClosed),
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
pub async fn copy(source: &mut Source<'_>, sink: &mut Sink<'_>, mut seen: impl FnMut(&Piece)) -> Result<(), CopyError> {
    loop {
        let piece = match source.at_hand().await {
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
            Piece::Data(data) => sink.data(data).await?,
            Piece::End(trailers) => {
                sink.end(trailers)?;
                return Ok(sink.flush().await?);
            }
        }
    }
}
