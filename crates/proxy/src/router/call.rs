//! A request of the proxy's own to a cluster: short, sent whole and its answer read whole. It goes by the cluster's load
//! balancing, pools, limits and TLS, and counts in its statistics and outlier detection as any request does. Dropped, it is
//! cancelled.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lateen_traffic::cluster::{ClusterSettings, Discovery};
use lateen_traffic::outlier::Report;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::router::judged;
use lateen_traffic::tls::Wanted;
use lateen_traffic::{Headers, Protocol, RequestHead, ResponseHead};
use tokio::time::Instant;

use super::body::{Piece, Sink};
use super::upper::Upper;
use crate::http1::head::{self, Framing};
use crate::upstream::{Again, Host, InFlight, Lease, Upstream, http2_failure};
use crate::worker::Worker;

/// Bytes of an answer. Envoy takes as many.
pub const MOST_ANSWER: usize = 32 << 20;

/// What is to be sent, and how long that may take.
pub struct Call<'a> {
    /// Who sends it.
    pub worker: &'a Worker,
    /// Where to.
    pub upstream: &'a Upstream,
    /// The head.
    pub request: RequestHead,
    /// The body.
    pub body: Bytes,
    /// For the whole of it.
    pub timeout: Option<Duration>,
    /// Bytes of the answer's body; more are a failure.
    pub most: usize,
    /// Where clusters go that have no hosts of their own.
    pub original: Option<SocketAddr>,
}

/// An answer, whole.
#[derive(Default)]
pub struct Called {
    pub head: ResponseHead,
    pub body: Vec<u8>,
    pub trailers: Option<Headers>,
}

impl Called {
    /// The body of an answer of gRPC's that says that the call succeeded.
    pub fn grpc_message(&self) -> Option<&[u8]> {
        let status = match &self.trailers {
            Some(trailers) => trailers.get("grpc-status"),
            None => self.head.headers.get("grpc-status"),
        };
        (self.head.status == 200 && status == Some(b"0")).then_some(&self.body)
    }
}

impl Call<'_> {
    /// Sends it. `None`: there is no answer, whatever the reason; that is counted.
    pub async fn make(self) -> Option<Called> {
        let settings = self.upstream.settings();
        let stats = &self.upstream.stats;
        // A host that requests name themselves is nobody's to ask.
        let original = self.original.filter(|_| !matches!(settings.discovery, Discovery::Named(_)));
        let Some(host) = self.upstream.pick(original, None, Again::default(), &mut self.worker.dice()) else {
            stats.upstream_cx_none_healthy.inc();
            stats.response(503);
            return None;
        };
        let exchange = self.exchange(&host, &settings);
        let answered = match self.timeout {
            Some(limit) => tokio::time::timeout(limit, exchange).await,
            None => Ok(exchange.await),
        };
        match answered {
            Ok(Ok(called)) => Some(called),
            Ok(Err(failure)) => {
                if failure != UpstreamFailure::Overflow {
                    self.report(&settings, &host, Report::Failed);
                }
                stats.response(failure.reply(false).status);
                None
            }
            Err(_) => {
                self.report(&settings, &host, Report::TimedOut);
                stats.upstream_rq_timeout.inc();
                stats.upstream_rq_tx_reset.inc();
                stats.response(504);
                None
            }
        }
    }

    /// Tells outlier detection.
    fn report(&self, settings: &ClusterSettings, host: &Host, report: Report) {
        self.upstream.report(settings, host, report, &mut self.worker.dice());
    }

    async fn exchange(&self, host: &Rc<Host>, settings: &Arc<ClusterSettings>) -> Result<Called, UpstreamFailure> {
        let bind = self.worker.process.upstreams.default_bind.as_ref();
        // It has no client: where its cluster speaks what the client speaks, that is HTTP/1.1, as in Envoy.
        let wanted = Wanted::of(settings, &self.request.authority, None);
        let lease = self.upstream.lease(host, Protocol::Http11, bind, &wanted).await?;
        self.report(settings, host, Report::Connected);
        let Some(_in_flight) = InFlight::begin(self.upstream, host, settings) else {
            lease.give_back();
            return Err(UpstreamFailure::Overflow);
        };
        let sent_at = Instant::now();
        match lease {
            Lease::Http1(mut lease) => {
                let Some((reader, writer, _)) = lease.parts() else { return Err(UpstreamFailure::Termination) };
                let framing =
                    if self.body.is_empty() { Framing::None } else { Framing::Length(self.body.len() as u64) };
                head::write_request(&self.request, framing, &mut writer.buffer);
                writer.start_body(framing);
                let mut reusable = false;
                let mut sent = false;
                let method = if self.request.method == "HEAD" { "HEAD" } else { "GET" };
                let mut down = Upper::Http1 { reader, method, keep: &mut reusable };
                let upload = async {
                    let mut sink = Sink::Http1(writer);
                    // A peer that takes no more may have answered all the same.
                    sent = sink.data(self.body.clone()).await.is_ok() && sink.end(None).is_ok();
                    sent &= sink.flush().await.is_ok();
                    std::future::pending::<Infallible>().await
                };
                let called = tokio::select! {
                    biased;
                    called = self.answer(host, settings, &mut down, sent_at) => called?,
                    never = upload => match never {},
                };
                if reusable && sent {
                    lease.release(settings);
                }
                Ok(called)
            }
            Lease::Http2(lease) => {
                let sent = lease.client().send(&self.request, self.body.is_empty());
                let stream = sent.map_err(http2_failure)?;
                let mut down = Upper::Http2(&stream);
                let upload = async {
                    if !self.body.is_empty() {
                        // A peer that takes no more may have answered all the same.
                        let _ = stream.send(self.body.clone(), true).await;
                    }
                    std::future::pending::<Infallible>().await
                };
                tokio::select! {
                    biased;
                    called = self.answer(host, settings, &mut down, sent_at) => called,
                    never = upload => match never {},
                }
            }
        }
    }

    async fn answer(
        &self,
        host: &Host,
        settings: &ClusterSettings,
        down: &mut Upper<'_>,
        sent_at: Instant,
    ) -> Result<Called, UpstreamFailure> {
        let mut called = Called::default();
        let framing = down.head(&mut called.head, false, async |_| Ok(())).await?;
        let stats = &self.upstream.stats;
        stats.response(called.head.status);
        self.upstream.heed(settings, host, &called.head);
        if settings.outlier.is_some() {
            let status = judged(settings, self.request.is_grpc(), &called.head);
            self.report(settings, host, Report::Answered(status));
        }
        if framing != Framing::None {
            loop {
                match down.body().next().await.map_err(|_| UpstreamFailure::Termination)? {
                    Piece::Data(data) if called.body.len() + data.len() > self.most => {
                        return Err(UpstreamFailure::Overflow);
                    }
                    Piece::Data(data) => called.body.extend_from_slice(&data),
                    Piece::End(trailers) => {
                        called.trailers = trailers;
                        break;
                    }
                }
            }
        }
        down.settle(framing);
        let took = sent_at.elapsed();
        stats.upstream_rq_time.record(took);
        // As the router says of every answer.
        called.head.headers.set("x-envoy-upstream-service-time", took.as_millis().to_string());
        Ok(called)
    }
}
