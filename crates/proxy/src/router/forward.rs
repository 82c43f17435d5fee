//! Forwarding: a cluster, a host, a connection; the request there and the response back; and again if that failed and
//! the route says so.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lateen_traffic::cluster::{ClusterSettings, Discovery, UpstreamProtocol};
use lateen_traffic::edit::HeaderEdits;
use lateen_traffic::format::Facts;
use lateen_traffic::forwarding;
use lateen_traffic::hcm::Hcm;
use lateen_traffic::record::Flags;
use lateen_traffic::reply::{self, LocalReply, UpstreamFailure};
use lateen_traffic::retry::{Attempt, RetryPolicy};
use lateen_traffic::route::{
    Forward, HostRewrite, RouteConfig, Routed, Target, WeightedCluster, pick_weighted, rewrite_path, substitute,
};
use lateen_traffic::{Config, Protocol, RequestHead, ResponseHead};
use tokio::time::Instant;

use super::body::{CopyError, Piece, Sink, Source, SourceError, copy};
use super::respond::{Responder, http2_fields};
use super::{Exchange, Incoming, Tried};
use crate::http1::head::{self, Framing, MAX_RESPONSE_HEAD};
use crate::timer::Timer;
use crate::upstream::{Host, Http1Lease, Http2Lease, Permit, Upstream, http2_failure};

/// Bytes of a pipelined next request that are read while the upstream works.
const READ_AHEAD: usize = 64 * 1024;

/// What a request is forwarded by.
pub(super) struct Plan<'a> {
    pub hcm: &'a Hcm,
    pub routes: &'a RouteConfig,
    pub routed: Routed<'a>,
    pub forward: &'a Forward,
    pub cluster_edits: Option<&'a HeaderEdits>,
    pub retry: Option<&'a RetryPolicy>,
    pub timeout: Option<Duration>,
    pub upstream: Rc<Upstream>,
    pub settings: Arc<ClusterSettings>,
}

/// When an exchange is over, whatever happens.
struct Deadlines {
    // From the end of the request on.
    timeout: Option<Duration>,
    per_try: Option<Duration>,
    idle: Option<Duration>,
    stream: Option<Instant>,
    // Until the request has arrived.
    request_at: Cell<Option<Instant>>,
    route_at: Cell<Option<Instant>>,
    try_at: Cell<Option<Instant>>,
    active: Cell<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expired {
    Request,
    Route,
    Try,
    Idle,
    Stream,
}

impl Deadlines {
    fn nearest(&self) -> Option<Instant> {
        let idle = self.idle.map(|limit| self.active.get() + limit);
        [self.request_at.get(), self.route_at.get(), self.try_at.get(), idle, self.stream].into_iter().flatten().min()
    }

    fn request_ended(&self, now: Instant) {
        self.request_at.set(None);
        if self.route_at.get().is_none() {
            self.route_at.set(self.timeout.map(|t| now + t));
        }
        if self.try_at.get().is_none() {
            self.try_at.set(self.per_try.map(|t| now + t));
        }
    }

    fn expired(&self, now: Instant) -> Option<Expired> {
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if over(self.request_at.get()) {
            Some(Expired::Request)
        } else if over(self.route_at.get()) {
            Some(Expired::Route)
        } else if over(self.try_at.get()) {
            Some(Expired::Try)
        } else if over(self.stream) {
            Some(Expired::Stream)
        } else if over(self.idle.map(|limit| self.active.get() + limit)) {
            Some(Expired::Idle)
        } else {
            None
        }
    }

    fn touch(&self) {
        if self.idle.is_some() {
            self.active.set(Instant::now());
        }
    }

    async fn wait(&self, timer: &mut Timer) -> Expired {
        loop {
            timer.until(self.nearest()).await;
            if let Some(expired) = self.expired(Instant::now()) {
                return expired;
            }
        }
    }
}

/// How an attempt ended.
enum End {
    /// The response went to the client, whole or not; all is recorded.
    Answered,
    /// The client is gone.
    ClientGone,
    /// The client broke the protocol inside its body.
    ClientError,
    /// No response; perhaps again.
    Failed(UpstreamFailure, Attempt),
    /// A response that asks to be tried again, when there are tries left.
    Retriable(Attempt),
    /// Time is over before a response began.
    Expired(Expired),
}

impl<'a> Exchange<'a, '_> {
    pub(super) async fn forward(
        &mut self,
        hcm: &Hcm,
        config: &Config,
        routes: &Arc<RouteConfig>,
        routed: Routed<'_>,
        forward: &Forward,
    ) {
        let worker = Rc::clone(&self.connection.worker);
        let header_name;
        let (name, weighted): (&str, Option<&WeightedCluster>) = match &forward.target {
            Target::Cluster(name) => (name, None),
            Target::Weighted(clusters) => match pick_weighted(clusters, &mut worker.dice()) {
                Some(cluster) => (&cluster.name, Some(cluster)),
                None => ("", None),
            },
            Target::Header(header) => {
                header_name =
                    String::from_utf8_lossy(self.request.headers.get(header).unwrap_or_default()).into_owned();
                (&header_name, None)
            }
        };
        let Some(upstream) = worker.upstream(name, config) else {
            self.connection.stats.no_cluster.inc();
            self.reply(&reply::cluster_not_found(forward.cluster_not_found_status)).await;
            return;
        };
        let settings = upstream.settings();
        self.record.upstream_cluster = Some(Arc::clone(&settings.name));
        self.record.upstream_cluster_alt = settings.alt_stat_name.clone();
        let upgrade = match self.request.upgrade.as_str() {
            "" if self.request.is_connect() => "connect",
            other => other,
        };
        if !upgrade.is_empty() && !upgrade_allowed(hcm, forward, upgrade) {
            self.connection.stats.downstream_rq_ws_on_non_ws_route.inc();
            self.reply(&reply::UPGRADE_FAILED).await;
            return;
        }
        let mut timeout = self.timeout(forward);
        let mut retry = forward.retry.as_deref().or(routed.virtual_host.retry.as_deref());
        let asked;
        if forwarding::is_internal(&self.request.headers) {
            let headers = &mut self.request.headers;
            if let Some(ms) = headers.get_str("x-envoy-upstream-rq-timeout-ms").and_then(|ms| ms.parse().ok()) {
                timeout = Some(Duration::from_millis(ms));
            }
            asked = RetryPolicy::asked(retry, headers);
            retry = asked.as_ref();
            forwarding::remove_steering(headers);
        }
        let plan = Plan {
            hcm,
            routes,
            routed,
            forward,
            cluster_edits: weighted.map(|w| &w.response_edits),
            retry,
            timeout,
            upstream,
            settings,
        };
        self.prepare_upstream(&plan, weighted);
        if self.request.is_connect() || !self.request.upgrade.is_empty() {
            self.tunnel(&plan).await;
            return;
        }
        let Some(_request) = Permit::take(&plan.upstream.shared, |s| &s.requests, plan.settings.limits.max_requests)
        else {
            // Envoy names the host it would have gone to.
            let host = plan.upstream.pick(self.original(&plan.settings), &[], 0, &mut worker.dice());
            self.record.upstream_host = host.map(|h| h.target.clone());
            plan.upstream.stats.upstream_rq_pending_overflow.inc();
            self.fail(&plan, &UpstreamFailure::Overflow).await;
            return;
        };
        self.attempts(&plan).await;
    }

    /// The time for the whole exchange (Envoy's router: `timeout`, `max_grpc_timeout`).
    fn timeout(&self, forward: &Forward) -> Option<Duration> {
        let Some(most) = forward.max_grpc_timeout.filter(|_| self.request.is_grpc()) else { return forward.timeout };
        let asked = self.request.headers.get_str("grpc-timeout").and_then(grpc_timeout);
        match (asked, most) {
            (asked, Duration::ZERO) => asked,
            (Some(asked), most) => Some(asked.min(most)),
            (None, most) => Some(most),
        }
    }

    /// Edits and rewrites the head for the upstream.
    fn prepare_upstream(&mut self, plan: &Plan<'_>, weighted: Option<&WeightedCluster>) {
        let Plan { hcm, routes, routed, forward, .. } = plan;
        let mut layers = [
            weighted.map(|w| &w.request_edits),
            Some(&routed.route.request_edits),
            Some(&routed.virtual_host.request_edits),
            Some(&routes.request_edits),
        ];
        if routes.most_specific_edits_win {
            layers.reverse();
        }
        let envoy_headers = !hcm.suppress_envoy_headers;
        if envoy_headers {
            let per_try =
                plan.retry.and_then(|r| r.per_try_timeout).filter(|t| plan.timeout.is_none_or(|whole| *t < whole));
            match per_try.or(plan.timeout) {
                Some(t) if !t.is_zero() => {
                    self.request.headers.set("x-envoy-expected-rq-timeout-ms", t.as_millis().to_string());
                }
                _ => {}
            }
        }
        if routed.virtual_host.attempt_count_in_request {
            self.request.headers.set("x-envoy-attempt-count", "1");
        }
        for edits in layers.into_iter().flatten().filter(|e| !e.is_empty()) {
            let values = edits.values(Facts { record: &self.record, request: self.request, response: None });
            edits.apply(&mut self.request.headers, &values);
        }
        let host = weighted.and_then(|w| w.host_rewrite.as_deref()).map(str::to_owned);
        let host = match &forward.host_rewrite {
            HostRewrite::Literal(host) => Some(host.to_string()),
            HostRewrite::Header(name) => self.request.headers.get_str(name).map(str::to_owned).or(host),
            HostRewrite::Path { pattern, substitution } => {
                Some(substitute(self.request.path_only(), pattern, substitution))
            }
            HostRewrite::Auto | HostRewrite::None => host,
        };
        if let Some(host) = host {
            self.rewrite_host(forward, envoy_headers, host);
        }
        if let Some(path) = rewrite_path(&self.request.path, &routed.route.matches, &forward.path_rewrite) {
            if envoy_headers {
                let old = std::mem::take(&mut self.request.path);
                self.request.headers.set("x-envoy-original-path", old);
            }
            self.request.path = path;
        }
    }

    fn rewrite_host(&mut self, forward: &Forward, envoy_headers: bool, host: String) {
        if host == self.request.authority {
            return;
        }
        let old = std::mem::replace(&mut self.request.authority, host);
        if envoy_headers {
            self.request.headers.set("x-envoy-original-host", &old);
        }
        if forward.append_x_forwarded_host {
            self.request.headers.append("x-forwarded-host", old);
        }
    }

    /// The address an original-destination cluster goes to.
    pub(super) fn original(&self, settings: &ClusterSettings) -> Option<SocketAddr> {
        if let Discovery::OriginalDst { use_http_header: true, .. } = settings.discovery
            && let Some(address) =
                self.request.headers.get_str("x-envoy-original-dst-host").and_then(|h| h.parse().ok())
        {
            return Some(address);
        }
        self.connection.original
    }

    async fn attempts(&mut self, plan: &Plan<'_>) {
        let worker = Rc::clone(&self.connection.worker);
        let timeouts = &plan.hcm.timeouts;
        let policy = plan.retry;
        let per_try = policy.and_then(|p| p.per_try_timeout).filter(|t| plan.timeout.is_none_or(|whole| *t < whole));
        let deadlines = Deadlines {
            timeout: plan.timeout.filter(|t| !t.is_zero()),
            per_try,
            idle: plan.forward.idle_timeout.unwrap_or(timeouts.stream_idle).filter(|t| !t.is_zero()),
            stream: plan
                .forward
                .max_stream_duration
                .unwrap_or(timeouts.max_stream_duration)
                .filter(|t| !t.is_zero())
                .map(|t| self.started + t),
            request_at: Cell::new(timeouts.request.filter(|t| !t.is_zero()).map(|t| self.started + t)),
            route_at: Cell::new(None),
            try_at: Cell::new(None),
            active: Cell::new(self.started),
        };
        if self.body.ended {
            deadlines.request_ended(self.started);
        }
        self.body.replay.whole = policy.is_some();
        let mut tried: Tried = Vec::new();
        let mut retries = 0;
        let mut retry_permit: Option<Permit> = None;
        loop {
            let selections = policy.filter(|p| p.avoid_previous_hosts).map_or(0, |p| p.host_selection_attempts);
            let picked = plan.upstream.pick(self.original(&plan.settings), &tried, selections, &mut worker.dice());
            let Some(host) = picked else {
                plan.upstream.stats.upstream_cx_none_healthy.inc();
                self.count_attempts(plan);
                self.reply(&reply::NO_HEALTHY_UPSTREAM).await;
                return;
            };
            if retries > 0 {
                self.prepare_again(plan, &deadlines, retries);
            }
            if matches!(plan.forward.host_rewrite, HostRewrite::Auto) && !host.hostname.is_empty() {
                self.rewrite_host(plan.forward, !plan.hcm.suppress_envoy_headers, host.hostname.to_string());
            }
            self.record.attempts = retries + 1;
            let left = policy.map_or(0, |p| p.num_retries.saturating_sub(retries));
            let end = self.attempt(plan, &host, &deadlines, left > 0).await;
            drop(retry_permit.take());
            let (attempt, failure) = match end {
                End::Answered => return,
                End::ClientGone => return self.gone(plan),
                End::ClientError => return self.broken(plan).await,
                End::Expired(Expired::Try) => (Attempt::Reset { sent: true }, None),
                End::Expired(what) => return self.expired(plan, what).await,
                End::Failed(failure, attempt) => (attempt, Some(failure)),
                End::Retriable(attempt) => (attempt, None),
            };
            let wanted = policy.is_some_and(|p| p.wants(attempt)) && self.body.replay.whole;
            if wanted && left > 0 {
                match Permit::take(&plan.upstream.shared, |s| &s.retries, plan.settings.limits.max_retries) {
                    Some(permit) => {
                        retry_permit = Some(permit);
                        retries += 1;
                        tried.push(host);
                        plan.upstream.stats.upstream_rq_retry.inc();
                        deadlines.try_at.set(None);
                        let pause = policy.map_or(Duration::ZERO, |p| p.pause(retries, &mut worker.dice()));
                        match self.pause(&deadlines, pause).await {
                            None => {}
                            Some(End::Expired(what)) => return self.expired(plan, what).await,
                            Some(_) => return self.gone(plan),
                        }
                        if self.body.ended {
                            deadlines.request_ended(Instant::now());
                        }
                        continue;
                    }
                    None => {
                        plan.upstream.stats.upstream_rq_retry_overflow.inc();
                        self.record.flags.add(Flags::UPSTREAM_OVERFLOW);
                    }
                }
            } else if wanted {
                plan.upstream.stats.upstream_rq_retry_limit_exceeded.inc();
                self.record.flags.add(Flags::RETRY_LIMIT);
            }
            match failure {
                Some(failure) => self.fail(plan, &failure).await,
                None => self.expired(plan, Expired::Try).await,
            }
            return;
        }
    }

    /// Waits before a retry, unless the client goes or time is over.
    async fn pause(&mut self, deadlines: &Deadlines, pause: Duration) -> Option<End> {
        tokio::select! {
            () = tokio::time::sleep(pause) => None,
            () = self.responder.gone() => Some(End::ClientGone),
            expired = deadlines.wait(self.timer) => Some(End::Expired(expired)),
        }
    }

    fn gone(&mut self, plan: &Plan<'_>) {
        plan.upstream.stats.upstream_rq_tx_reset.inc();
        self.client_gone();
    }

    async fn broken(&mut self, plan: &Plan<'_>) {
        plan.upstream.stats.upstream_rq_tx_reset.inc();
        self.connection.stats.downstream_cx_protocol_error.inc();
        let bad = LocalReply::fixed(400, "Bad Request", Flags::DOWNSTREAM_PROTOCOL_ERROR, "http1.codec_error");
        self.reply(&bad).await;
    }

    async fn fail(&mut self, plan: &Plan<'_>, failure: &UpstreamFailure) {
        self.record.upstream_failure = failure.transport_reason();
        self.response.headers.clear();
        if *failure == UpstreamFailure::Overflow && self.record.attempts > 0 {
            // Nobody was asked.
            self.record.upstream_host = None;
        }
        let reply = failure.reply(self.record.attempts > 1);
        if reply.overloaded {
            self.response.headers.append("x-envoy-overloaded", "true");
        }
        self.count_attempts(plan);
        plan.upstream.stats.response(reply.status);
        self.reply(&reply).await;
    }

    /// Clears what a discarded response left, and says how many attempts there were, if the virtual host asks for it.
    fn count_attempts(&mut self, plan: &Plan<'_>) {
        if plan.routed.virtual_host.attempt_count_in_response {
            self.response.headers.append("x-envoy-attempt-count", self.record.attempts.to_string());
        }
    }

    /// Another attempt tells its number, and what is left of the time.
    fn prepare_again(&mut self, plan: &Plan<'_>, deadlines: &Deadlines, retries: u32) {
        if plan.routed.virtual_host.attempt_count_in_request {
            self.request.headers.set("x-envoy-attempt-count", (retries + 1).to_string());
        }
        if deadlines.per_try.is_none()
            && self.request.headers.contains("x-envoy-expected-rq-timeout-ms")
            && let Some(at) = deadlines.route_at.get()
        {
            let left = at.saturating_duration_since(Instant::now()).as_millis().max(1);
            self.request.headers.set("x-envoy-expected-rq-timeout-ms", left.to_string());
        }
    }

    async fn expired(&mut self, plan: &Plan<'_>, what: Expired) {
        plan.upstream.stats.upstream_rq_tx_reset.inc();
        let reply = match what {
            Expired::Route => {
                plan.upstream.stats.upstream_rq_timeout.inc();
                reply::RESPONSE_TIMEOUT
            }
            Expired::Try => {
                plan.upstream.stats.upstream_rq_per_try_timeout.inc();
                reply::PER_TRY_TIMEOUT
            }
            Expired::Idle if !self.body.ended => reply::STREAM_IDLE_DOWNSTREAM,
            Expired::Idle => reply::STREAM_IDLE_UPSTREAM,
            Expired::Stream => reply::MAX_STREAM_DURATION,
            Expired::Request => reply::REQUEST_TIMEOUT,
        };
        self.response.headers.clear();
        if matches!(what, Expired::Route | Expired::Try) {
            self.count_attempts(plan);
        }
        self.reply(&reply).await;
    }

    /// One attempt on one host.
    async fn attempt(&mut self, plan: &Plan<'_>, host: &Rc<Host>, deadlines: &Deadlines, may_retry: bool) -> End {
        self.record.upstream_host = Some(host.target.clone());
        self.record.upstream_local = None;
        let http2 = match plan.settings.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Downstream => self.request.protocol == Protocol::Http2,
        };
        let worker = Rc::clone(&self.connection.worker);
        let default_bind = worker.process.upstreams.default_bind.as_ref();
        let connected = {
            let connecting = async {
                if http2 {
                    plan.upstream.http2(host, default_bind).await.map(Lease::Http2)
                } else {
                    plan.upstream.http1(host, default_bind).await.map(Lease::Http1)
                }
            };
            tokio::select! {
                biased;
                connected = connecting => connected,
                () = self.responder.gone() => return End::ClientGone,
                () = self.body.source.gone(READ_AHEAD), if self.body.ended => return End::ClientGone,
                expired = deadlines.wait(self.timer) => return End::Expired(expired),
            }
        };
        let lease = match connected {
            Ok(lease) => lease,
            Err(failure) => {
                host.shared.errors.fetch_add(1, Ordering::Relaxed);
                let attempt = match failure {
                    UpstreamFailure::Overflow => Attempt::Overflow,
                    _ => Attempt::ConnectFailure,
                };
                return End::Failed(failure, attempt);
            }
        };
        let stats = &plan.upstream.stats;
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        host.shared.requests.fetch_add(1, Ordering::Relaxed);
        host.shared.active.fetch_add(1, Ordering::Relaxed);
        let end = match lease {
            Lease::Http1(lease) => self.over_http1(plan, lease, deadlines, may_retry).await,
            Lease::Http2(lease) => self.over_http2(plan, lease, deadlines, may_retry).await,
        };
        host.shared.active.fetch_sub(1, Ordering::Relaxed);
        stats.upstream_rq_active.dec();
        if matches!(end, End::Expired(_)) {
            host.shared.timeouts.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(end, End::Failed(..)) || self.record.code >= 500 {
            host.shared.errors.fetch_add(1, Ordering::Relaxed);
        }
        end
    }

    async fn over_http1(
        &mut self,
        plan: &Plan<'_>,
        mut lease: Http1Lease,
        deadlines: &Deadlines,
        may_retry: bool,
    ) -> End {
        let Some((reader, writer, io)) = lease.parts() else { return failed(UpstreamFailure::Termination, false) };
        self.record.upstream_local = io.local_addr();
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
            self.relay(plan, &mut sink, &mut source, deadlines, sent_at, may_retry).await
        };
        if reusable && matches!(end, End::Answered | End::Retriable(_)) {
            lease.release(&plan.settings);
        }
        end
    }

    async fn over_http2(
        &mut self,
        plan: &Plan<'_>,
        mut lease: Http2Lease,
        deadlines: &Deadlines,
        may_retry: bool,
    ) -> End {
        self.record.upstream_local = lease.io().local_addr();
        let sent_at = Instant::now();
        let Some(request) = http2_request(self.request) else { return failed(UpstreamFailure::Protocol, false) };
        let empty = self.body.ended && self.body.replay.pieces.is_empty();
        let (response, mut stream) = match lease.sender.send_request(request, empty) {
            Ok(pair) => pair,
            Err(error) => return failed(http2_failure(&error), false),
        };
        let mut sink = Sink::Http2(&mut stream);
        let mut source = Upper::Http2 { response: Some(response), body: None };
        let end = self.relay(plan, &mut sink, &mut source, deadlines, sent_at, may_retry).await;
        match end {
            End::Answered if !source.unfinished() => {}
            // Whatever is left of the exchange, the upstream should stop working on it.
            _ => stream.send_reset(h2::Reason::INTERNAL_ERROR),
        }
        end
    }

    /// Sends the body up and brings the response down, both at once.
    async fn relay(
        &mut self,
        plan: &Plan<'_>,
        up: &mut Sink<'_>,
        down: &mut Upper<'_>,
        deadlines: &Deadlines,
        sent_at: Instant,
        may_retry: bool,
    ) -> End {
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
        self.record.bytes_received += received.replace(0);
        let mut framing = match arrived {
            Ok(Ok(framing)) => framing,
            Ok(Err(failure)) => {
                plan.upstream.stats.upstream_rq_rx_reset.inc();
                return failed(failure, true);
            }
            Err(UploadEnd::ClientGone | UploadEnd::Upstream) => return End::ClientGone,
            Err(UploadEnd::ClientError) => return End::ClientError,
            Err(UploadEnd::Expired(what)) => return End::Expired(what),
        };
        deadlines.touch();
        if let Some(attempt) = self.retriable(plan, may_retry) {
            // The connection is of use again only if there is no body to read.
            down.settle(framing);
            return End::Retriable(attempt);
        }
        // Then: the rest of the body goes up while the response comes down.
        self.begin_response(plan, sent_at);
        let head_only = framing == Framing::None;
        if framing == Framing::UntilClose {
            framing = Framing::Chunked;
        }
        if self.responder.head(self.response, framing, None).is_err() {
            return End::ClientGone;
        }
        let sent = Cell::new(0u64);
        let outcome = {
            let body = &mut self.body;
            let http1_client = matches!(self.responder, Responder::Http1(_));
            let Ok(mut client) = self.responder.sink() else { return End::ClientGone };
            let mut source = down.body();
            let download = async {
                if head_only {
                    return Ok(client.flush().await?);
                }
                copy(&mut source, &mut client, |piece| {
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
                if http1_client {
                    body.source.gone(READ_AHEAD).await;
                    return Err(UploadEnd::ClientGone);
                }
                std::future::pending().await
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
                            Err(UploadEnd::ClientError) => break Download::ClientError,
                            Err(UploadEnd::Expired(what)) => break Download::Expired(what),
                        }
                    }
                    expired = deadlines.wait(self.timer) => break Download::Expired(expired),
                }
            }
        };
        self.record.bytes_sent += sent.get();
        self.record.bytes_received += received.get();
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
            Download::Client => {
                self.responder.abort().await;
                self.client_gone();
                plan.upstream.stats.upstream_rq_tx_reset.inc();
                down.spoil();
                End::Answered
            }
            other => {
                self.responder.abort().await;
                down.spoil();
                match other {
                    Download::Upstream(error) => {
                        let failure = match error {
                            SourceError::Closed | SourceError::Framing => UpstreamFailure::Protocol,
                            SourceError::Http2(error) => match http2_failure(&error) {
                                UpstreamFailure::RefusedStream => UpstreamFailure::RemoteReset,
                                other => other,
                            },
                        };
                        plan.upstream.stats.upstream_rq_rx_reset.inc();
                        self.record.flags.add(failure.flags());
                        self.record.details = failure.details_after();
                    }
                    Download::Expired(what) => {
                        let (flags, details) = match what {
                            Expired::Route | Expired::Try => {
                                plan.upstream.stats.upstream_rq_timeout.inc();
                                (Flags::UPSTREAM_TIMEOUT, "response_timeout")
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
                    Download::Whole | Download::Client => {}
                }
                // What was read before the failure is already with the client; it is cut there.
                End::Answered
            }
        }
    }

    /// Whether the response that arrived is to be thrown away for another attempt.
    fn retriable(&mut self, plan: &Plan<'_>, may_retry: bool) -> Option<Attempt> {
        let policy = plan.retry?;
        let attempt = Attempt::Response {
            status: self.response.status,
            grpc_status: self.response.headers.get_str("grpc-status").and_then(|s| s.parse().ok()),
            ratelimited: self.response.headers.contains("x-envoy-ratelimited"),
        };
        if !policy.wants(attempt) || !self.body.replay.whole {
            return None;
        }
        if !may_retry {
            self.record.flags.add(Flags::RETRY_LIMIT);
            plan.upstream.stats.upstream_rq_retry_limit_exceeded.inc();
            return None;
        }
        let limits = &plan.settings.limits;
        if limits.max_retries != u32::MAX && plan.upstream.shared.retries.load(Ordering::Relaxed) >= limits.max_retries
        {
            plan.upstream.stats.upstream_rq_retry_overflow.inc();
            self.record.flags.add(Flags::UPSTREAM_OVERFLOW);
            return None;
        }
        plan.upstream.stats.response(self.response.status);
        Some(attempt)
    }

    /// The upstream's head becomes the client's.
    pub(super) fn begin_response(&mut self, plan: &Plan<'_>, sent_at: Instant) {
        self.record.code = self.response.status;
        self.record.details = Cow::Borrowed("via_upstream");
        plan.upstream.stats.response(self.response.status);
        if self.record.attempts > 1 && self.response.status < 500 {
            plan.upstream.stats.upstream_rq_retry_success.inc();
        }
        plan.upstream.stats.upstream_rq_time.record(sent_at.elapsed());
        let switched = !self.request.upgrade.is_empty() || self.request.is_connect();
        if !plan.hcm.suppress_envoy_headers && self.body.ended && !switched {
            self.response.headers.set("x-envoy-upstream-service-time", sent_at.elapsed().as_millis().to_string());
        }
        if !self.body.ended {
            // The answer is here before the request is: what is left of it cannot be told from the next one.
            self.responder.close_after();
        }
        self.edit_response(plan.routes, plan.routed, plan.cluster_edits);
        if plan.routed.virtual_host.attempt_count_in_response {
            self.response.headers.set("x-envoy-attempt-count", self.record.attempts.to_string());
        }
        if plan.hcm.tracing.is_some()
            && let Some(operation) = &plan.routed.route.decorator
            && !self.request.headers.contains("x-envoy-decorator-operation")
        {
            self.response.headers.set("x-envoy-decorator-operation", operation.as_bytes());
        }
        self.complete_response(false);
    }
}

enum Lease {
    Http1(Http1Lease),
    Http2(Http2Lease),
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
    Upstream,
    Expired(Expired),
}

fn failed(failure: UpstreamFailure, sent: bool) -> End {
    let attempt = match failure {
        UpstreamFailure::RefusedStream => Attempt::RefusedStream,
        UpstreamFailure::Overflow => Attempt::Overflow,
        _ => Attempt::Reset { sent },
    };
    End::Failed(failure, attempt)
}

/// Sends what is kept of the body, then the rest as it comes.
async fn upload(
    body: &mut Incoming<'_>,
    up: &mut Sink<'_>,
    deadlines: &Deadlines,
    limit: usize,
    received: &Cell<u64>,
) -> Result<(), UploadEnd> {
    let Incoming { source, replay, ended, .. } = body;
    for piece in &replay.pieces {
        let sent = match piece {
            Piece::Data(data) => up.data(data.clone()).await,
            Piece::End(trailers) => up.end(trailers.clone()),
        };
        sent.map_err(|_| UploadEnd::Upstream)?;
    }
    if !*ended {
        let copied = copy(source, up, |piece| {
            deadlines.touch();
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
            Err(CopyError::Source(_)) => return Err(UploadEnd::ClientGone),
        }
    }
    up.flush().await.map_err(|_| UploadEnd::Upstream)?;
    deadlines.request_ended(Instant::now());
    Ok(())
}

/// The response side of an upstream connection.
enum Upper<'a> {
    Http1 { reader: &'a mut crate::http1::Reader, method: &'static str, keep: &'a mut bool },
    Http2 { response: Option<h2::client::ResponseFuture>, body: Option<h2::RecvStream> },
}

impl Upper<'_> {
    /// Waits for the head of the final response.
    async fn head(
        &mut self,
        out: &mut ResponseHead,
        pass_continue: bool,
        mut interim: impl AsyncFnMut(u16) -> Result<(), super::body::SinkClosed>,
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

    fn body(&mut self) -> Source<'_> {
        match self {
            Self::Http1 { reader, .. } => Source::Http1(reader),
            Self::Http2 { body: Some(stream), .. } => Source::Http2(stream),
            Self::Http2 { body: None, .. } => Source::Empty,
        }
    }

    /// The exchange is over: the connection is of use again if its body was read.
    fn settle(&mut self, _: Framing) {
        if let Self::Http1 { reader, keep, .. } = self {
            **keep &= reader.body_done();
        }
    }

    /// The connection is not of use again.
    fn spoil(&mut self) {
        if let Self::Http1 { keep, .. } = self {
            **keep = false;
        }
    }

    fn unfinished(&self) -> bool {
        match self {
            Self::Http1 { .. } => false,
            Self::Http2 { body, .. } => body.as_ref().is_none_or(|b| !b.is_end_stream()),
        }
    }
}

/// How the body goes to an HTTP/1 upstream.
fn request_framing(body: &Incoming<'_>, request: &RequestHead) -> Framing {
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
pub(super) fn http2_request(head: &RequestHead) -> Option<http::Request<()>> {
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

pub(super) fn upgrade_allowed(hcm: &Hcm, forward: &Forward, name: &str) -> bool {
    match forward.upgrades.iter().find(|(n, _)| **n == *name) {
        Some((_, enabled)) => *enabled,
        None => matches!(name, "h2c" | "http/2.0") || hcm.upgrades.iter().any(|u| **u == *name),
    }
}

/// `grpc-timeout`: up to 8 digits and a unit (gRPC's HTTP/2 protocol document).
fn grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(n * 3600),
        'M' => Duration::from_secs(n * 60),
        'S' => Duration::from_secs(n),
        'm' => Duration::from_millis(n),
        'u' => Duration::from_micros(n),
        'n' => Duration::from_nanos(n),
        _ => return None,
    })
}
