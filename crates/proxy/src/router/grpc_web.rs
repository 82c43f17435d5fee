//! gRPC-Web's bodies on their way through.

use bytes::Bytes;
use lateen_traffic::filter::grpc_web::{Body, Bridge, Decoder, Encoder, MOST_MESSAGE};
use lateen_traffic::reply::LocalReply;

use super::Exchange;
use super::body::{CopyError, Piece, Sink, Source, SourceError};
use crate::http1::head::Framing;

/// A body in base64, as what it says.
pub struct Decoded<'a> {
    pub(super) from: Source<'a>,
    decoder: Decoder,
    // Bytes that were read beyond those that were given, since somebody asked.
    beyond: u64,
}

impl Decoded<'_> {
    /// How many more bytes were read than given since this was asked last.
    pub fn take_beyond(&mut self) -> u64 {
        std::mem::take(&mut self.beyond)
    }

    /// The next part. Cancel-safe, as that of what it reads from is.
    pub async fn next(&mut self) -> Result<Piece, SourceError> {
        loop {
            let refused = |reply| SourceError::Refused(Box::new(reply));
            match Box::pin(self.from.next()).await? {
                Piece::Data(text) => {
                    self.beyond += text.len() as u64;
                    let data = self.decoder.data(&text).map_err(refused)?;
                    self.beyond = self.beyond.saturating_sub(data.len() as u64);
                    if !data.is_empty() {
                        return Ok(Piece::Data(data.into()));
                    }
                }
                end @ Piece::End(_) => {
                    self.decoder.end().map_err(refused)?;
                    return Ok(end);
                }
            }
        }
    }
}

impl Exchange<'_, '_> {
    /// From here on the request is gRPC's.
    ///
    /// # Errors
    /// When what was read of its body already cannot be decoded.
    pub(super) fn bridge(&mut self) -> Result<(), LocalReply> {
        let bridge = Bridge::begin(self.request);
        self.filtered.bridge = Some(bridge);
        let body = &mut self.body;
        if body.ended && body.replay.pieces.is_empty() {
            return Ok(());
        }
        body.framing = Framing::Chunked;
        if !bridge.text_request {
            return Ok(());
        }
        let mut decoder = Decoder::default();
        for piece in &mut body.replay.pieces {
            match piece {
                Piece::Data(data) => *data = decoder.data(data)?.into(),
                Piece::End(_) => decoder.end()?,
            }
        }
        if !body.ended {
            let from = std::mem::replace(&mut body.source, Source::Empty);
            body.source = Source::Decoded(Box::new(Decoded { from, decoder, beyond: 0 }));
        }
        Ok(())
    }

    /// Makes the head of an answer gRPC-Web's, after what CORS says of it, as in Envoy. `whole`: it has no body.
    pub(super) fn bridge_head(&mut self, bridge: Bridge, whole: bool) -> Body {
        if let Some(grant) = self.filtered.grant.take() {
            grant.apply(&mut self.response.headers);
        }
        bridge.head(self.response, whole)
    }
}

/// Reads a body that is to be told in a head: its beginning, to its end.
pub(super) async fn message(source: &mut Source<'_>) -> Result<Vec<u8>, SourceError> {
    let mut message = Vec::new();
    while let Piece::Data(data) = source.next().await? {
        let room = MOST_MESSAGE - message.len();
        message.extend_from_slice(&data[..data.len().min(room)]);
    }
    Ok(message)
}

/// Moves an answer's body, trailers as the last of it. `seen` is told how much goes to the client.
pub(super) async fn copy(
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    encoder: &mut Encoder,
    mut seen: impl FnMut(usize),
) -> Result<(), CopyError> {
    loop {
        let piece = match source.at_hand().await {
            Some(piece) => piece,
            None => {
                sink.flush().await?;
                source.next().await
            }
        };
        let (data, end) = match piece {
            Ok(Piece::Data(data)) if encoder.is_plain() => (data, false),
            Ok(Piece::Data(data)) => (encoder.data(&data).into(), false),
            Ok(Piece::End(trailers)) => {
                let fields = trailers.iter().flat_map(lateen_traffic::Headers::iter);
                (trailers.as_ref().map_or_else(Bytes::new, |_| encoder.trailers(fields).into()), true)
            }
            Err(error) => {
                // What came before the failure still goes on.
                sink.flush().await?;
                return Err(CopyError::Source(error));
            }
        };
        seen(data.len());
        if !data.is_empty() {
            sink.data(data).await?;
        }
        if end {
            sink.end(None)?;
            return Ok(sink.flush().await?);
        }
    }
}
