//! The TCP proxy's way through an HTTP proxy: a request that becomes a tunnel, by CONNECT or POST, over HTTP/1.1 or
//! HTTP/2. Knows nothing of which host that is.

use std::cell::Cell;
use std::rc::Rc;

use lateen_traffic::cluster::UpstreamBind;
use lateen_traffic::format::Facts;
use lateen_traffic::record::Record;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::tcp::Tunnel;
use lateen_traffic::tls::Wanted;
use lateen_traffic::{Protocol, RequestHead, ResponseHead};
use tokio::time::Instant;

use super::Stopped;
use crate::http1::head::{Framing, write_request};
use crate::http1::{Reader, Writer};
use crate::http2;
use crate::io::Io;
use crate::router::body::{CopyError, Piece, Sink, Source, copy};
use crate::router::upper::Upper;
use crate::upstream::{Host, Http1Lease, Http2Lease, Lease, Upstream, http2_failure};

/// An open tunnel.
pub(super) enum Through {
    Http1 { lease: Http1Lease, half_close: bool },
    Http2 { stream: http2::Stream, _lease: Http2Lease },
}

/// Why there is no tunnel.
pub(super) enum Refusal {
    /// There was no answer.
    Failed(UpstreamFailure),
    /// The answer was this status.
    Answered(u16),
}

impl From<UpstreamFailure> for Refusal {
    fn from(failure: UpstreamFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Asks a host for a tunnel and waits for its answer.
pub(super) async fn open(
    upstream: &Upstream,
    host: &Rc<Host>,
    bind: Option<&UpstreamBind>,
    tunnel: &Tunnel,
    record: &mut Record,
) -> Result<Through, Refusal> {
    let lease = upstream.lease(host, Protocol::Http11, bind, &Wanted::default()).await?;
    upstream.stats.upstream_rq_total.inc();
    let method = if tunnel.post { "POST" } else { "CONNECT" };
    let mut request =
        RequestHead { method: method.into(), authority: tunnel.hostname.to_string(), ..RequestHead::default() };
    if tunnel.post {
        request.path.push_str(&tunnel.path);
    }
    let values = tunnel.headers.values(Facts { record, request: &request, response: None });
    tunnel.headers.apply(&mut request.headers, &values);
    let mut answer = ResponseHead::default();
    match lease {
        Lease::Http1(mut lease) => {
            let Some((reader, writer, io)) = lease.parts() else { return Err(UpstreamFailure::Termination.into()) };
            note(io, record);
            let framing = if tunnel.post { Framing::Chunked } else { Framing::None };
            write_request(&request, framing, &mut writer.buffer);
            writer.flush().await.map_err(|_| UpstreamFailure::Termination)?;
            Upper::Http1 { reader, method, keep: &mut false }.head(&mut answer, false, async |_| Ok(())).await?;
            if !(200..300).contains(&answer.status) {
                return Err(Refusal::Answered(answer.status));
            }
            if tunnel.post {
                writer.start_body(Framing::Chunked);
            } else {
                reader.start_body(Framing::UntilClose);
                writer.start_body(Framing::UntilClose);
            }
            Ok(Through::Http1 { lease, half_close: !tunnel.post })
        }
        Lease::Http2(lease) => {
            note(lease.io(), record);
            request.scheme = if record.upstream_tls.is_some() { "https" } else { "http" }.to_owned();
            let stream = lease.client().send(&request, false).map_err(http2_failure)?;
            let framing = Upper::Http2(&stream).head(&mut answer, false, async |_| Ok(())).await?;
            if answer.status == 200 && framing != Framing::None {
                Ok(Through::Http2 { stream, _lease: lease })
            } else {
                Err(Refusal::Answered(answer.status))
            }
        }
    }
}

fn note(io: &Io, record: &mut Record) {
    record.upstream_local = io.local_addr();
    record.upstream_tls = io.facts().cloned();
}

impl Through {
    /// Moves bytes both ways until both ends have come, or one direction fails. Nothing of the client goes on before
    /// `admit` is over.
    pub(super) async fn carry(
        &mut self,
        client: &Rc<Io>,
        active: &Cell<Instant>,
        admit: impl Future<Output = Result<(), Stopped>>,
    ) -> Result<(), Stopped> {
        let (mut from, mut to) = (Reader::new(Rc::clone(client)), Writer::new(Rc::clone(client)));
        from.start_body(Framing::UntilClose);
        to.start_body(Framing::UntilClose);
        let (mut up, mut down, half_close) = match self {
            Self::Http1 { lease, half_close } => {
                let Some((reader, writer, _)) = lease.parts() else { return Err(Stopped::Broken) };
                (Sink::Http1(writer), Source::Http1(reader), *half_close)
            }
            Self::Http2 { stream, .. } => (Sink::Http2(stream), Source::Http2(stream), false),
        };
        let seen = |_: &Piece| active.set(Instant::now());
        let upward = async {
            admit.await?;
            copy(&mut Source::Http1(&mut from), &mut up, seen).await?;
            match &mut up {
                Sink::Http1(writer) if half_close => Ok(writer.shutdown().await?),
                _ => Ok::<_, Stopped>(()),
            }
        };
        let downward = async {
            copy(&mut down, &mut Sink::Http1(&mut to), seen).await?;
            Ok(to.shutdown().await?)
        };
        tokio::try_join!(upward, downward).map(|_| ())
    }
}

impl From<CopyError> for Stopped {
    fn from(_: CopyError) -> Self {
        Self::Broken
    }
}
