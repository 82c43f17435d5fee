//! A request and its answer, over HTTP/1.1 or HTTP/2.

use bytes::Bytes;
use lateen_traffic::{Headers, RequestHead, ResponseHead};

use super::NoAnswer;
use super::connection::Connection;
use crate::http1::head::{self, Framing};
use crate::router::body::Piece;
use crate::router::upper::Upper;

/// What a host answered.
pub struct Answer {
    pub head: ResponseHead,
    /// What was kept of the body.
    pub body: Vec<u8>,
    pub trailers: Option<Headers>,
    /// The head was all there was.
    pub head_only: bool,
    /// The connection is of use again.
    pub keep: bool,
}

/// Asks, and reads the whole answer, of which `look_at` bytes are kept.
pub async fn ask(
    connection: &mut Connection,
    request: &RequestHead,
    body: &[u8],
    look_at: usize,
) -> Result<Answer, NoAnswer> {
    let mut keep = true;
    let mut answer = match connection {
        Connection::Http1(http1) => {
            let framing = if body.is_empty() { Framing::None } else { Framing::Length(body.len() as u64) };
            head::write_request(request, framing, &mut http1.writer.buffer);
            http1.writer.start_body(framing);
            http1.writer.data(body).await?;
            http1.writer.end();
            http1.writer.flush().await?;
            // Bodies of answers to HEAD are the only ones whose length depends on the method.
            let method = if request.method == "HEAD" { "HEAD" } else { "GET" };
            read(Upper::Http1 { reader: &mut http1.reader, method, keep: &mut keep }, look_at).await?
        }
        Connection::Http2(http2) => {
            let stream = http2.client.send(request, body.is_empty()).map_err(|_| NoAnswer)?;
            if !body.is_empty() {
                stream.send(Bytes::copy_from_slice(body), true).await.map_err(|_| NoAnswer)?;
            }
            read(Upper::Http2(&stream), look_at).await?
        }
        Connection::Tcp(_) => return Err(NoAnswer),
    };
    answer.keep = keep;
    Ok(answer)
}

async fn read(mut upper: Upper<'_>, look_at: usize) -> Result<Answer, NoAnswer> {
    let mut head = ResponseHead::default();
    let framing = upper.head(&mut head, false, async |_| Ok(())).await.map_err(|_| NoAnswer)?;
    let mut answer = Answer { head, body: Vec::new(), trailers: None, head_only: framing == Framing::None, keep: true };
    let mut source = upper.body();
    loop {
        match source.next().await.map_err(|_| NoAnswer)? {
            Piece::Data(data) => {
                let room = look_at.saturating_sub(answer.body.len()).min(data.len());
                answer.body.extend_from_slice(&data[..room]);
            }
            Piece::End(trailers) => {
                answer.trailers = trailers;
                return Ok(answer);
            }
        }
    }
}
