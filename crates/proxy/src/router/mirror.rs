//! Copies of requests: sent as the request comes in, their answers thrown away, and never waited for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use lateen_traffic::cluster::ClusterSettings;
use lateen_traffic::mirror::{self, Mirror};
use lateen_traffic::outlier::Report;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::router::judged;
use lateen_traffic::tls::Wanted;
use lateen_traffic::{Protocol, RequestHead, ResponseHead};
use tokio::time::Instant;

use super::Exchange;
use super::body::{CopyError, Piece, Sink, Source, copy};
use super::deadlines::Deadlines;
use super::feed::{Fed, feed};
use super::forward::Plan;
use super::upper::{Upper, request_framing};
use crate::http1::head::{self, Framing};
use crate::http2;
use crate::timer::Timer;
use crate::upstream::{Again, Host, InFlight, Lease, Upstream, http2_failure};
use crate::worker::Worker;

/// Copies under way on one worker: beyond that a mirror that never answers gets no more.
const MOST: usize = 4096;

/// A copy of a request on its way.
struct Copied {
    worker: Rc<Worker>,
    upstream: Rc<Upstream>,
    settings: std::sync::Arc<ClusterSettings>,
    request: RequestHead,
    framing: Framing,
    body: Option<Fed>,
    timeout: Option<Duration>,
    original: Option<SocketAddr>,
}

/// How a copy ended.
enum End {
    /// Answered to the end.
    Answered,
    /// The answer did not come, or not whole.
    Failed(UpstreamFailure),
    /// The request itself did not come to its end.
    Cancelled,
}

impl Exchange<'_, '_> {
    /// Sends the copies that the route asks for. What is read of the request's body from now on goes to them too.
    pub(super) fn mirror(&mut self, plan: &Plan<'_>) {
        let policies = mirror::policies(plan.routes, plan.routed.virtual_host, plan.forward);
        if policies.is_empty() {
            return;
        }
        let worker = Rc::clone(&self.connection.worker);
        let chosen = mirror::chosen(policies, &mut worker.dice());
        for one in chosen {
            self.copy_to(&worker, plan, one);
        }
        self.hand_on(plan.hcm.limits.per_request_buffer);
    }

    /// Gives the copies what is there of the body already, and keeps it for the main cluster: its host may be a while
    /// in coming, or not come at all, and the copies are made all the same.
    fn hand_on(&mut self, limit: usize) {
        let body = &mut self.body;
        while !body.copies.is_empty() && !body.ended && body.replay.size < limit {
            let Some(Ok(piece)) = body.source.next().now_or_never() else { return };
            body.copies.iter_mut().for_each(|copy| copy.give(&piece));
            match &piece {
                Piece::Data(data) => {
                    self.record.bytes_received += data.len() as u64;
                    body.replay.size += data.len();
                }
                Piece::End(_) => body.ended = true,
            }
            body.replay.pieces.push(piece);
        }
    }

    fn copy_to(&mut self, worker: &Rc<Worker>, plan: &Plan<'_>, mirror: &Mirror) {
        let config = worker.config();
        // A mirror that is not there is nobody's concern.
        let Some(upstream) = mirror.cluster(self.request).and_then(|name| worker.upstream(name, &config)) else {
            return;
        };
        if worker.copies.get() >= MOST {
            upstream.stats.upstream_rq_pending_overflow.inc();
            return;
        }
        let settings = upstream.settings();
        let body = (!self.body.ended).then(|| {
            let (giver, taker) = feed(plan.hcm.limits.per_request_buffer);
            self.body.copies.push(giver);
            taker
        });
        let timeout = plan.timeout.filter(|t| !t.is_zero());
        let copied = Copied {
            request: mirror.copy(self.request, &self.record, worker.process.own_address, timeout),
            framing: if body.is_some() { request_framing(&self.body, self.request) } else { Framing::None },
            body,
            timeout,
            original: self.original(&settings),
            worker: Rc::clone(worker),
            upstream,
            settings,
        };
        worker.copies.set(worker.copies.get() + 1);
        tokio::task::spawn_local(copied.go());
    }
}

impl Copied {
    async fn go(mut self) {
        self.serve().await;
        self.worker.copies.set(self.worker.copies.get() - 1);
    }

    async fn serve(&mut self) {
        let upstream = Rc::clone(&self.upstream);
        let stats = &upstream.stats;
        let Some(host) = upstream.pick(self.original, None, Again::default(), &mut self.worker.dice()) else {
            stats.upstream_cx_none_healthy.inc();
            stats.response(503);
            return;
        };
        let deadlines = Deadlines::whole(self.timeout);
        if self.body.is_none() {
            deadlines.request_ended(Instant::now());
        }
        let mut timer = Timer::default();
        let end = tokio::select! {
            biased;
            end = self.exchange(&host, &deadlines) => end,
            _ = deadlines.wait(&mut timer) => {
                self.report(&host, Report::TimedOut);
                stats.upstream_rq_timeout.inc();
                stats.upstream_rq_tx_reset.inc();
                stats.response(504);
                return;
            }
        };
        match end {
            End::Answered => {}
            End::Cancelled => stats.upstream_rq_tx_reset.inc(),
            End::Failed(failure) => {
                if failure != UpstreamFailure::Overflow {
                    self.report(&host, Report::Failed);
                }
                stats.response(failure.reply(false).status);
            }
        }
    }

    /// Tells outlier detection.
    fn report(&self, host: &Host, report: Report) {
        self.upstream.report(&self.settings, host, report, &mut self.worker.dice());
    }

    async fn exchange(&mut self, host: &Rc<Host>, deadlines: &Deadlines) -> End {
        let bind = self.worker.process.upstreams.default_bind.as_ref();
        // A copy has no client of its own: where its cluster speaks what the client speaks, that is HTTP/1.1, as in Envoy.
        // Nor was it told by filters what to offer by ALPN.
        let wanted = Wanted::of(&self.settings, &self.request.authority, None);
        let leased = self.upstream.lease(host, Protocol::Http11, bind, &wanted).await;
        let lease = match leased {
            Ok(lease) => lease,
            Err(failure) => return End::Failed(failure),
        };
        self.report(host, Report::Connected);
        let Some(_in_flight) = InFlight::begin(&self.upstream, host, &self.settings) else {
            lease.give_back();
            return End::Failed(UpstreamFailure::Overflow);
        };
        match lease {
            Lease::Http1(mut lease) => {
                let Some((reader, writer, _)) = lease.parts() else { return End::Cancelled };
                head::write_request(&self.request, self.framing, &mut writer.buffer);
                writer.start_body(self.framing);
                let method = if self.request.method == "HEAD" { "HEAD" } else { "GET" };
                let mut reusable = false;
                let mut down = Upper::Http1 { reader, method, keep: &mut reusable };
                let end = self.relay(host, &mut Sink::Http1(writer), &mut down, deadlines).await;
                if reusable && matches!(end, End::Answered) {
                    lease.release(&self.settings);
                }
                end
            }
            Lease::Http2(lease) => {
                let stream = match lease.client().send(&self.request, self.body.is_none()) {
                    Ok(stream) => stream,
                    Err(failure) => return End::Failed(http2_failure(failure)),
                };
                let mut down = Upper::Http2(&stream);
                let end = self.relay(host, &mut Sink::Http2(&stream), &mut down, deadlines).await;
                if down.unfinished() || !matches!(end, End::Answered) {
                    stream.reset(http2::Reason::INTERNAL_ERROR);
                }
                end
            }
        }
    }

    /// Sends the body as it comes, and reads the answer at the same time.
    async fn relay(&mut self, host: &Host, up: &mut Sink<'_>, down: &mut Upper<'_>, deadlines: &Deadlines) -> End {
        let sent_at = Instant::now();
        let mut body = self.body.take();
        let upload = async {
            match &mut body {
                None => up.flush().await.map_err(CopyError::from),
                Some(fed) => {
                    copy(&mut Source::Feed(fed), up, |piece| {
                        if matches!(piece, Piece::End(_)) {
                            deadlines.request_ended(Instant::now());
                        }
                    })
                    .await
                }
            }
        };
        let stats = &self.upstream.stats;
        let download = async {
            let mut response = ResponseHead::default();
            let framing = down.head(&mut response, false, async |_| Ok(())).await?;
            stats.response(response.status);
            self.upstream.heed(&self.settings, host, &response);
            if self.settings.outlier.is_some() {
                let grpc = self.request.is_grpc();
                self.report(host, Report::Answered(judged(&self.settings, grpc, &response)));
            }
            stats.upstream_rq_time.record(sent_at.elapsed());
            if framing != Framing::None {
                while !matches!(down.body().next().await, Ok(Piece::End(_)) | Err(_)) {}
            }
            down.settle(framing);
            Ok(())
        };
        let (mut upload, mut download) = (std::pin::pin!(upload), std::pin::pin!(download));
        let mut uploading = true;
        let end = loop {
            tokio::select! {
                biased;
                answered = &mut download => break answered.map_or_else(End::Failed, |()| End::Answered),
                sent = &mut upload, if uploading => match sent {
                    // The mirror takes no more; it may have answered all the same.
                    Ok(()) | Err(CopyError::Sink) => uploading = false,
                    Err(CopyError::Source(_)) => return End::Cancelled,
                },
            }
        };
        // A connection with a request half sent is of no use to the next one.
        if uploading && matches!(end, End::Answered) { End::Cancelled } else { end }
    }
}
