//! One attempt: the request goes up and the response comes down, both at once.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use lateen_traffic::filter::grpc_web::{Body, Bridge, Encoder};
use lateen_traffic::outlier::Report;
use lateen_traffic::record::Flags;
use lateen_traffic::reply::{LocalReply, UpstreamFailure};
use lateen_traffic::retry::Failed;
use tokio::time::Instant;

use super::body::{CopyError, Piece, Sink, SourceError, copy, deliver};
use super::deadlines::{Deadlines, Expired};
use super::forward::Plan;
use super::grpc_web;
use super::upper::{Upper, request_framing};
use super::{Exchange, Incoming};
use crate::http1::head::{self, Framing};
use crate::http2;
use crate::upstream::{Host, Http1Lease, Http2Lease, InFlight, Lease, Permit, http2_failure};

/// Bytes of a pipelined next request that are read while the upstream works.
pub(super) const READ_AHEAD: usize = 64 * 1024;

/// How an attempt ended.
pub(super) enum End {
    /// The response went to the client, whole or not; all is recorded.
    Answered,
    /// The client is gone.
    ClientGone,
    /// The client broke the protocol inside its body.
    ClientError,
    /// The client's body does not say what it is to say.
    Refused(Box<LocalReply>),
    /// No response; perhaps again.
    Failed(UpstreamFailure, Failed),
    /// A response that is to be thrown away for another attempt, with the pause it asks for before that.
    Retriable(Option<Duration>),
    /// Time is over before a response began.
    Expired(Expired),
}

/// What one attempt goes by.
#[derive(Clone, Copy)]
pub(super) struct Try<'a> {
    pub host: &'a Rc<Host>,
    pub deadlines: &'a Deadlines,
    pub may_retry: bool,
    /// The place among the cluster's retries that it takes, if it is one.
    pub retry: &'a Cell<Option<Permit>>,
}

impl Exchange<'_, '_> {
    /// One attempt on one host.
    pub(super) async fn attempt(&mut self, plan: &Plan<'_>, this: Try<'_>) -> End {
        let Try { host, deadlines, .. } = this;
        self.record.upstream_host = Some(host.target.clone());
        self.record.upstream_local = None;
        self.record.upstream_tls = None;
        let worker = Rc::clone(&self.connection.worker);
        let default_bind = worker.process.upstreams.default_bind.as_ref();
        let connected = {
            tokio::select! {
                biased;
                connected = plan.upstream.lease(host, self.request.protocol, default_bind, &plan.wanted) => connected,
                () = self.responder.gone() => return End::ClientGone,
                () = self.body.source.gone(READ_AHEAD), if self.body.ended => return End::ClientGone,
                expired = deadlines.wait(self.timer) => return End::Expired(expired),
            }
        };
        let lease = match connected {
            Ok(lease) => lease,
            Err(failure) => {
                self.report_failure(plan, host, &failure);
                let failed = match failure {
                    UpstreamFailure::Overflow => {
                        // Nobody was asked.
                        self.record.upstream_host = None;
                        Failed::Overflow
                    }
                    _ => Failed::Connecting,
                };
                return End::Failed(failure, failed);
            }
        };
        self.report(plan, host, Report::Connected);
        let Some(in_flight) = InFlight::begin(&plan.upstream, host, &plan.settings) else {
            lease.give_back();
            return failed(UpstreamFailure::Overflow, false);
        };
        if let Some(stats) = &plan.stats {
            stats.upstream_rq_total.inc();
        }
        if self.body.ended {
            deadlines.try_begins(Instant::now());
        }
        let end = match lease {
            Lease::Http1(lease) => self.over_http1(plan, lease, this).await,
            Lease::Http2(lease) => self.over_http2(plan, lease, this).await,
        };
        drop(in_flight);
        match &end {
            End::Expired(expired) => {
                host.shared.timeouts.fetch_add(1, Ordering::Relaxed);
                self.report_expired(plan, host, *expired);
            }
            End::Failed(failure, _) => self.report_failure(plan, host, failure),
            _ => {}
        }
        if matches!(end, End::Failed(..)) || self.record.code >= 500 {
            host.shared.errors.fetch_add(1, Ordering::Relaxed);
        }
        end
    }

    async fn over_http1(&mut self, plan: &Plan<'_>, mut lease: Http1Lease, this: Try<'_>) -> End {
        let Some((reader, writer, io)) = lease.parts() else { return failed(UpstreamFailure::Termination, false) };
        self.record.upstream_local = io.local_addr();
        self.record.upstream_tls = io.facts().cloned();
        let sent_at = Instant::now();
        let framing = request_framing(&self.body, self.request);
        head::write_request(self.request, framing, &mut writer.buffer);
        writer.start_body(framing);
        let mut reusable = false;
        let end = {
            let mut sink = Sink::Http1(writer);
            let bodiless = self.request.method == "HEAD";
            let mut source =
                Upper::Http1 { reader, method: if bodiless { "HEAD" } else { "GET" }, keep: &mut reusable };
            if self.body.ended && self.body.replay.pieces.is_empty() && sink.flush().await.is_err() {
                // The response may still be there to read.
            }
            self.relay(plan, &mut sink, &mut source, sent_at, this).await
        };
        if reusable && matches!(end, End::Answered | End::Retriable(_)) {
            lease.release(&plan.settings);
        }
        end
    }

    async fn over_http2(&mut self, plan: &Plan<'_>, lease: Http2Lease, this: Try<'_>) -> End {
        self.record.upstream_local = lease.io().local_addr();
        self.record.upstream_tls = lease.io().facts().cloned();
        let sent_at = Instant::now();
        let empty = self.body.ended && self.body.replay.pieces.is_empty();
        let stream = match lease.client().send(self.request, empty) {
            Ok(stream) => stream,
            Err(failure) => return failed(http2_failure(failure), false),
        };
        let (mut sink, mut source) = (Sink::Http2(&stream), Upper::Http2(&stream));
        let end = self.relay(plan, &mut sink, &mut source, sent_at, this).await;
        match end {
            End::Answered if !source.unfinished() => {}
            End::Failed(UpstreamFailure::RemoteReset | UpstreamFailure::RefusedStream, _) => {
                plan.upstream.stats.upstream_rq_rx_reset.inc();
            }
            // Whatever is left of the exchange, the upstream should stop working on it.
            _ => {
                plan.upstream.stats.upstream_rq_tx_reset.inc();
                stream.reset(http2::Reason::INTERNAL_ERROR);
            }
        }
        end
    }

    /// Sends the body up and brings the response down, both at once.
    async fn relay(
        &mut self,
        plan: &Plan<'_>,
        up: &mut Sink<'_>,
        down: &mut Upper<'_>,
        sent_at: Instant,
        this: Try<'_>,
    ) -> End {
        let Try { host, deadlines, .. } = this;
        let no_body = self.body.ended && self.body.replay.pieces.is_empty();
        let limit = plan.hcm.limits.per_request_buffer;
        let received = Cell::new(0u64);
        // First: the body goes up until the head of the response is here.
        let arrived = {
            let body = &mut self.body;
            let upload = async {
                if !no_body {
                    upload(body, up, deadlines, limit, &received).await?;
                }
                body.source.gone(READ_AHEAD).await;
                Err(UploadEnd::ClientGone)
            };
            let mut upload = std::pin::pin!(upload);
            let responder = &mut *self.responder;
            let response = &mut *self.response;
            let interim = async |status: u16| responder.interim(status).await;
            let mut head = std::pin::pin!(down.head(response, plan.hcm.proxy_100_continue, interim));
            let mut uploading = true;
            loop {
                tokio::select! {
                    biased;
                    arrived = &mut head => break Ok(arrived),
                    stopped = &mut upload, if uploading => {
                        let stopped: Result<(), UploadEnd> = stopped;
                        match stopped {
                            // The upstream takes no more; it may have answered all the same.
                            Ok(()) | Err(UploadEnd::Upstream) => uploading = false,
                            Err(other) => break Err(other),
                        }
                    }
                    expired = deadlines.wait(self.timer) => break Err(UploadEnd::Expired(expired)),
                }
            }
        };
        self.record.bytes_received += received.replace(0) + self.body.source.take_beyond();
        let mut framing = match arrived {
            Ok(Ok(framing)) => framing,
            Ok(Err(failure)) => return failed(failure, true),
            Err(UploadEnd::ClientGone | UploadEnd::Upstream) => return End::ClientGone,
            Err(UploadEnd::ClientError) => return End::ClientError,
            Err(UploadEnd::Refused(reply)) => return End::Refused(reply),
            Err(UploadEnd::Expired(what)) => return End::Expired(what),
        };
        deadlines.touch();
        self.report_answer(plan, host);
        if self.retriable(plan, this) {
            // The connection is of use again only if there is no body to read.
            down.settle(framing);
            return End::Retriable(self.told_pause(plan));
        }
        // Then: the rest of the body goes up while the response comes down.
        self.begin_answer(plan, sent_at);
        let mut head_only = framing == Framing::None;
        if framing == Framing::UntilClose {
            framing = Framing::Chunked;
        }
        let mut encoder = None;
        if let Some(bridge) = self.filtered.bridge {
            match self.bridge_head(bridge, head_only) {
                Body::Frames => encoder = Some(Encoder::new(bridge)),
                Body::Message => {
                    let message = {
                        let mut source = down.body();
                        tokio::select! {
                            message = grpc_web::message(&mut source) => message.map_err(Download::Upstream),
                            () = self.responder.gone() => Err(Download::Client),
                            expired = deadlines.wait(self.timer) => Err(Download::Expired(expired)),
                        }
                    };
                    match message {
                        Ok(message) => Bridge::tell(self.response, &message),
                        Err(cut) => return self.cut(plan, host, down, cut).await,
                    }
                    head_only = true;
                }
            }
            framing = if head_only { Framing::None } else { Framing::Chunked };
        }
        self.complete_response(false);
        if self.responder.head(self.response, framing, None).is_err() {
            return End::ClientGone;
        }
        let sent = Cell::new(0u64);
        let outcome = {
            let body = &mut self.body;
            let Ok(mut client) = self.responder.sink() else { return End::ClientGone };
            let mut source = down.body();
            let download = async {
                if head_only {
                    return Ok(client.flush().await?);
                }
                if let Some(encoder) = &mut encoder {
                    let seen = |bytes| {
                        sent.set(sent.get() + bytes as u64);
                        deadlines.touch();
                    };
                    return grpc_web::copy(&mut source, &mut client, encoder, seen).await;
                }
                deliver(&mut source, &mut client, |piece| {
                    if let Piece::Data(data) = piece {
                        sent.set(sent.get() + data.len() as u64);
                    }
                    deadlines.touch();
                })
                .await
            };
            let upload = async {
                if !body.ended {
                    upload(body, up, deadlines, limit, &received).await?;
                }
                body.source.gone(READ_AHEAD).await;
                Err(UploadEnd::ClientGone)
            };
            let mut upload = std::pin::pin!(upload);
            let mut download = std::pin::pin!(download);
            let mut uploading = true;
            loop {
                tokio::select! {
                    biased;
                    copied = &mut download => break match copied {
                        Ok(()) => Download::Whole,
                        Err(CopyError::Sink) => Download::Client,
                        Err(CopyError::Source(error)) => Download::Upstream(error),
                    },
                    stopped = &mut upload, if uploading => {
                        let stopped: Result<(), UploadEnd> = stopped;
                        match stopped {
                            Ok(()) | Err(UploadEnd::Upstream) => uploading = false,
                            Err(UploadEnd::ClientGone) => break Download::Client,
                            Err(UploadEnd::ClientError | UploadEnd::Refused(_)) => break Download::ClientError,
                            Err(UploadEnd::Expired(what)) => break Download::Expired(what),
                        }
                    }
                    expired = deadlines.wait(self.timer) => break Download::Expired(expired),
                }
            }
        };
        self.record.bytes_sent += sent.get();
        self.record.bytes_received += received.get() + self.body.source.take_beyond();
        match outcome {
            Download::Whole => {
                down.settle(framing);
                if !self.body.ended {
                    // The upstream answered without wanting the rest.
                    down.spoil();
                    self.responder.close_after();
                }
                End::Answered
            }
            cut => self.cut(plan, host, down, cut).await,
        }
    }

    /// The answer ends before its end.
    async fn cut(&mut self, plan: &Plan<'_>, host: &Rc<Host>, down: &mut Upper<'_>, cut: Download) -> End {
        self.responder.abort().await;
        down.spoil();
        match cut {
            Download::Upstream(error) => {
                let failure = match error {
                    SourceError::Closed | SourceError::Framing | SourceError::Refused(_) => UpstreamFailure::Protocol,
                    SourceError::Http2(failure) => match http2_failure(failure) {
                        UpstreamFailure::RefusedStream => UpstreamFailure::RemoteReset,
                        other => other,
                    },
                };
                self.report_failure(plan, host, &failure);
                self.record.flags.add(failure.flags());
                self.record.details = failure.details_after();
            }
            Download::Expired(what) => {
                let (flags, details) = match what {
                    Expired::Route | Expired::Try => {
                        plan.count(|c| &c.upstream_rq_timeout, |r| &r.upstream_rq_timeout);
                        (Flags::UPSTREAM_TIMEOUT, "response_timeout")
                    }
                    Expired::TryIdle => {
                        plan.upstream.stats.upstream_rq_per_try_idle_timeout.inc();
                        (Flags::UPSTREAM_TIMEOUT, "upstream_per_try_idle_timeout")
                    }
                    Expired::Idle => (Flags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout"),
                    Expired::Request => (Flags::NONE, "request_overall_timeout"),
                    Expired::Stream => (Flags::NONE, "max_duration_timeout"),
                };
                self.record.flags.add(flags);
                self.record.details = Cow::Borrowed(details);
            }
            Download::ClientError => {
                self.record.flags.add(Flags::DOWNSTREAM_PROTOCOL_ERROR);
                self.record.details = Cow::Borrowed("http1.codec_error");
            }
            Download::Client => self.client_gone(),
            Download::Whole => {}
        }
        // What was read before the failure is already with the client; it is cut there.
        End::Answered
    }

    /// Whether the response that arrived is to be thrown away for another attempt.
    fn retriable(&mut self, plan: &Plan<'_>, this: Try<'_>) -> bool {
        // Whatever it says, the retry that brought it is over.
        this.retry.take();
        let wanted = plan.retry.is_some_and(|policy| policy.wants_another(self.response)) && self.body.replay.whole;
        wanted && self.permits_retry(plan, this, false)
    }

    /// How long the answer asks to wait, if the policy listens to that.
    fn told_pause(&self, plan: &Plan<'_>) -> Option<Duration> {
        let told = plan.retry?.told_pause.as_ref()?;
        told.of(&self.response.headers, SystemTime::now(), &mut self.connection.worker.dice())
    }

    /// The upstream's head becomes the client's.
    pub(super) fn begin_response(&mut self, plan: &Plan<'_>, sent_at: Instant) {
        self.begin_answer(plan, sent_at);
        self.complete_response(false);
    }

    /// The same, before what every response gets.
    fn begin_answer(&mut self, plan: &Plan<'_>, sent_at: Instant) {
        self.record.code = self.response.status;
        self.record.details = Cow::Borrowed("via_upstream");
        plan.count_answer(self.response.status);
        if self.record.attempts > 1 && self.response.status < 500 {
            plan.count(|c| &c.upstream_rq_retry_success, |r| &r.upstream_rq_retry_success);
        }
        let took = sent_at.elapsed();
        plan.upstream.stats.upstream_rq_time.record(took);
        plan.stats.iter().for_each(|stats| stats.upstream_rq_time.record(took));
        let switched = !self.request.upgrade.is_empty() || self.request.is_connect();
        if !self.body.ended {
            // The answer is here before the request is: what is left of it cannot be told from the next one.
            self.responder.close_after();
        }
        let served = (self.body.ended && !switched).then_some(took);
        plan.answered(self.request, &self.record, self.response, served, &self.new_cookies);
    }
}

enum Download {
    Whole,
    Client,
    ClientError,
    Upstream(SourceError),
    Expired(Expired),
}

/// Why an upload stopped.
enum UploadEnd {
    ClientGone,
    ClientError,
    Refused(Box<LocalReply>),
    Upstream,
    Expired(Expired),
}

fn failed(failure: UpstreamFailure, sent: bool) -> End {
    let failed = match failure {
        UpstreamFailure::RefusedStream => Failed::RefusedStream,
        UpstreamFailure::Overflow => Failed::Overflow,
        _ => Failed::Reset { sent },
    };
    End::Failed(failure, failed)
}

/// Sends what is kept of the body, then the rest as it comes.
async fn upload(
    body: &mut Incoming<'_>,
    up: &mut Sink<'_>,
    deadlines: &Deadlines,
    limit: usize,
    received: &Cell<u64>,
) -> Result<(), UploadEnd> {
    let Incoming { source, replay, copies, ended, .. } = body;
    for piece in &replay.pieces {
        let sent = match piece {
            Piece::Data(data) => up.data(data.clone()).await,
            Piece::End(trailers) => up.end(trailers.as_ref()),
        };
        sent.map_err(|_| UploadEnd::Upstream)?;
    }
    if !*ended {
        let copied = copy(source, up, |piece| {
            deadlines.touch();
            copies.iter_mut().for_each(|copy| copy.give(piece));
            if let Piece::Data(data) = piece {
                received.set(received.get() + data.len() as u64);
                replay.size += data.len();
            }
            if replay.whole && replay.size <= limit {
                replay.pieces.push(piece.clone());
            } else {
                replay.whole = false;
                replay.pieces.clear();
            }
            if matches!(piece, Piece::End(_)) {
                *ended = true;
            }
        })
        .await;
        match copied {
            Ok(()) => {}
            Err(CopyError::Sink) => return Err(UploadEnd::Upstream),
            Err(CopyError::Source(SourceError::Framing)) => return Err(UploadEnd::ClientError),
            Err(CopyError::Source(SourceError::Refused(reply))) => return Err(UploadEnd::Refused(reply)),
            Err(CopyError::Source(_)) => return Err(UploadEnd::ClientGone),
        }
    }
    up.flush().await.map_err(|_| UploadEnd::Upstream)?;
    deadlines.request_ended(Instant::now());
    deadlines.try_begins(Instant::now());
    Ok(())
}
