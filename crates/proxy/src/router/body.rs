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
    pub async fn data(&mut self, data: Bytes) -> Result<(), SinkClosed> {
        match self {
            Self::Http1(writer) => writer.data(&data).await.map_err(|_| SinkClosed),
            Self::Http2(stream) => send(stream, data, false).await,
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
            Self::Http2(stream) => send(stream, data, true).await,
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

/// Sends data as the peer's windows let it. `last`: with its last byte the body ends.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), SinkClosed> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = match stream.capacity() {
            0 => {
                let more = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                more.ok_or(SinkClosed)?.map_err(|_| SinkClosed)?
            }
            n => n,
        };
        let part = data.split_to(capacity.min(data.len()));
        let ends = last && data.is_empty();
        stream.send_data(part, ends).map_err(|_| SinkClosed)?;
        if ends {
            return Ok(());
        }
    }
    if last { stream.send_data(Bytes::new(), true).map_err(|_| SinkClosed) } else { Ok(()) }
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
                sink.end(trailers)?;
                return Ok(sink.flush().await?);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::feed::feed;

    /// Whether the only data that a client of HTTP/2 gets say that they are the last.
    async fn ends_with_data(delivered: bool) -> bool {
        let (near, far) = tokio::io::duplex(1 << 16);
        let served = async {
            let mut server = h2::server::handshake(near).await.unwrap();
            let (_, mut respond) = server.accept().await.unwrap().unwrap();
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            let (mut feed, mut fed) = feed(1000);
            feed.give(&Piece::Data(Bytes::from_static(b"all")));
            feed.give(&Piece::End(None));
            let (mut source, mut sink) = (Source::Feed(&mut fed), Sink::Http2(&mut stream));
            match delivered {
                true => deliver(&mut source, &mut sink, |_| ()).await.unwrap(),
                false => copy(&mut source, &mut sink, |_| ()).await.unwrap(),
            }
            while server.accept().await.is_some() {}
        };
        let asked = async {
            let (mut client, driver) = h2::client::handshake(far).await.unwrap();
            let answered = async {
                let (response, _) = client.send_request(http::Request::new(()), true).unwrap();
                let mut body = response.await.unwrap().into_body();
                assert_eq!(body.data().await.unwrap().unwrap(), "all");
                let ends = body.is_end_stream();
                assert!(body.data().await.is_none_or(|data| data.unwrap().is_empty()));
                ends
            };
            tokio::select! {
                ends = answered => ends,
                _ = driver => panic!("the connection ended"),
            }
        };
        tokio::select! {
            ends = asked => ends,
            () = served => panic!("the connection ended"),
        }
    }

    #[tokio::test]
    async fn the_last_data_of_what_is_delivered_end_it() {
        assert!(ends_with_data(true).await);
        assert!(!ends_with_data(false).await);
    }
}
