//! Attempts at forwarding a request: a host for each, the limits of time and number, and the answer that comes of it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use lateen_traffic::Protocol;
use lateen_traffic::cluster::Discovery;
use lateen_traffic::outlier::Report;
use lateen_traffic::record::Flags;
use lateen_traffic::reply::{self, UpstreamFailure};
use lateen_traffic::retry::Failed;
use lateen_traffic::router::judged;

use crate::exchange::{Exchange, Plan};
use crate::message::{Answer, Broken, Heard, Request, Said};
use crate::trace::Decision;
use crate::upstream::{Again, Counted, Host};
use crate::world::World;

/// When an exchange is over, whatever happens.
#[derive(Debug, Clone, Copy, Default)]
struct Deadlines {
    route: Option<Duration>,
    this_try: Option<Duration>,
    try_idle: Option<Duration>,
    idle: Option<Duration>,
    stream: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expired {
    Route,
    Try,
    TryIdle,
    Idle,
    Stream,
}

impl Deadlines {
    /// What ends first.
    fn first(&self) -> Option<(Duration, Expired)> {
        let all = [
            (self.route, Expired::Route),
            (self.this_try, Expired::Try),
            (self.try_idle, Expired::TryIdle),
            (self.stream, Expired::Stream),
            (self.idle, Expired::Idle),
        ];
        all.into_iter().filter_map(|(at, what)| Some((at?, what))).min_by_key(|(at, _)| *at)
    }
}

/// How an attempt ended.
enum End {
    /// With the answer that the client gets.
    Answered(Answer, Duration),
    /// With one that is thrown away for another attempt, after the pause that it asks for.
    Retriable(Option<Duration>),
    Failed(UpstreamFailure, Failed),
    Expired(Expired),
}

/// What one attempt goes by.
#[derive(Clone, Copy)]
struct Try<'a, 'p> {
    host: &'a Rc<Host>,
    deadlines: &'a Deadlines,
    /// The request may be sent again.
    may_replay: bool,
    /// Tries left after this one.
    left: u32,
    /// The place among the cluster's retries that it takes, if it is one.
    retry: &'a Cell<Option<Counted<'p>>>,
}

impl Exchange<'_> {
    pub(crate) async fn attempts(&mut self, plan: &Plan<'_>) {
        let world = self.world;
        let clock = &world.clock;
        let policy = plan.way.retry;
        let some = |limit: Option<Duration>| limit.filter(|limit| !limit.is_zero());
        let begun = self.delayed_to.unwrap_or(self.started);
        let (forward, timeouts) = (plan.way.forward, &plan.way.hcm.timeouts);
        let idle = some(forward.idle_timeout.unwrap_or(timeouts.stream_idle));
        let stream = some(forward.max_stream_duration.unwrap_or(timeouts.max_stream_duration));
        let deadlines = Deadlines {
            route: some(plan.way.timeout).map(|limit| begun + limit),
            idle: idle.map(|limit| self.started + limit),
            stream: stream.map(|limit| self.started + limit),
            ..Deadlines::default()
        };
        // A body that is too long is not kept to be sent again.
        let may_replay = policy.is_some() && self.body.len() <= plan.way.hcm.limits.per_request_buffer;
        let mut tried: Vec<Rc<Host>> = Vec::new();
        let mut retries = 0;
        let retry = Cell::new(None);
        loop {
            let again = Again {
                tried: &tried,
                selections: policy.filter(|p| p.avoid_previous_hosts).map_or(0, |p| p.host_selection_attempts),
                leave_priorities_after: policy.and_then(|p| p.leave_priorities_after),
            };
            let Some(host) = plan.upstream.pick(world, self.original(plan), plan.hash, again) else {
                self.edit_own(plan);
                plan.way.count_attempts(&self.record, &mut self.response);
                self.reply(&reply::NO_HEALTHY_UPSTREAM);
                return;
            };
            if retries == 0 {
                self.mirror(plan);
            } else {
                let left = deadlines.route.map(|at| at.saturating_sub(clock.now()));
                plan.way.prepare_again(&mut self.request, retries, left);
            }
            plan.way.name_host(&mut self.request, &host.hostname);
            self.record.attempts = retries + 1;
            let left = policy.map_or(0, |p| p.num_retries.saturating_sub(retries));
            let this = Try { host: &host, deadlines: &deadlines, may_replay, left, retry: &retry };
            let told_pause = match self.attempt(plan, this).await {
                End::Answered(answer, served) => return self.begin_response(plan, answer, served),
                End::Retriable(pause) => pause,
                End::Expired(what @ (Expired::Try | Expired::TryIdle)) => {
                    if !self.may_try_again(plan, this, Failed::Reset { sent: true }) {
                        return self.expired(plan, what);
                    }
                    None
                }
                End::Expired(what) => return self.expired(plan, what),
                End::Failed(failure, failed) => {
                    if !self.may_try_again(plan, this, failed) {
                        return self.fail(plan, &failure);
                    }
                    None
                }
            };
            retries += 1;
            let pause =
                told_pause.unwrap_or_else(|| policy.map_or(Duration::ZERO, |p| p.pause(retries, &mut world.dice())));
            self.trace.tell(world, || Decision::Pause(pause));
            if let Err(what) = before(world, &deadlines, clock.sleep(pause)).await {
                return self.expired(plan, what);
            }
            tried.push(host);
        }
    }

    /// Whether an attempt that failed is made again; if so, its place among the cluster's retries is taken.
    fn may_try_again<'p>(&mut self, plan: &'p Plan<'_>, this: Try<'_, 'p>, failed: Failed) -> bool {
        // Whatever comes of it, the retry that failed is over.
        this.retry.take();
        let wanted = plan.way.retry.is_some_and(|policy| policy.wants(failed)) && this.may_replay;
        wanted && self.permits_retry(plan, this, true)
    }

    /// Takes a place for another attempt, if there is one left. `over`: the attempt to be made again has left its
    /// connection.
    fn permits_retry<'p>(&mut self, plan: &'p Plan<'_>, this: Try<'_, 'p>, over: bool) -> bool {
        if this.left == 0 {
            self.record.flags.add(Flags::RETRY_LIMIT);
            return false;
        }
        let active = plan.upstream.requests.get() + plan.upstream.pending.get();
        let begun = |interval| plan.upstream.begun.count(interval, self.world.clock.now());
        let most = plan.settings.limits.retries(active + u32::from(over), begun);
        let Some(counted) = Counted::take(&plan.upstream.retries, most) else {
            self.record.flags.add(Flags::UPSTREAM_OVERFLOW);
            return false;
        };
        this.retry.set(Some(counted));
        true
    }

    /// One attempt on one host.
    async fn attempt<'p>(&mut self, plan: &'p Plan<'_>, this: Try<'_, 'p>) -> End {
        let (world, host) = (self.world, this.host);
        self.record.upstream_host = Some(host.target.clone());
        let number = self.record.attempts;
        self.trace.tell(world, || Decision::Try {
            number,
            host: host.target.to_string(),
            pod: host.address().and_then(|a| world.pod_at(a.ip())).map(|pod| Rc::clone(&pod.name)),
            secured: plan.upstream.secured(host),
        });
        let lease = plan.upstream.lease(world, host, self.request.protocol, &plan.wanted);
        let lease = match before(world, this.deadlines, lease).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(failure)) => {
                let failed = match failure {
                    UpstreamFailure::Overflow => {
                        // Nobody was asked.
                        self.record.upstream_host = None;
                        Failed::Overflow
                    }
                    _ => Failed::Connecting,
                };
                self.report_failure(plan, host, &failure);
                return End::Failed(failure, failed);
            }
            Err(expired) => return End::Expired(expired),
        };
        plan.upstream.report(world, host, Report::Connected);
        let Some(_in_flight) = plan.upstream.begin(world) else {
            lease.release(world, &plan.settings, false);
            return End::Failed(UpstreamFailure::Overflow, Failed::Overflow);
        };
        let _active = Counted::take(&host.active, u32::MAX);
        let Some(wire) = lease.wire().cloned() else {
            return End::Failed(UpstreamFailure::Termination, Failed::Reset { sent: false });
        };
        self.record.upstream_local = Some(wire.source);
        let sent_at = world.clock.now();
        let deadlines = Deadlines {
            this_try: plan.way.per_try.whole.map(|limit| sent_at + limit),
            // Nothing moves until the answer is there.
            try_idle: plan.way.per_try.idle.map(|limit| sent_at + limit),
            ..*this.deadlines
        };
        let sent = self.as_sent(plan);
        let http2 = sent.head.protocol == Protocol::Http2;
        let said = Said::Http(sent);
        let inner = self.trace.deeper();
        let heard = async {
            world.hop().await;
            wire.say(world, said, &inner).await
        };
        let answer = match before(world, &deadlines, heard).await {
            Err(expired) => {
                if matches!(expired, Expired::Route | Expired::Try | Expired::TryIdle) {
                    plan.upstream.report(world, host, Report::TimedOut);
                }
                return End::Expired(expired);
            }
            Ok(Heard::Http(answer)) => answer,
            Ok(Heard::Bytes { .. }) => return self.failed(plan, host, UpstreamFailure::Protocol),
            Ok(Heard::Broken { how, .. }) => {
                let failure = match how {
                    Broken::Reset if http2 => UpstreamFailure::RemoteReset,
                    Broken::Refused if http2 => UpstreamFailure::RefusedStream,
                    Broken::Closed | Broken::Reset | Broken::Refused => UpstreamFailure::Termination,
                };
                return self.failed(plan, host, failure);
            }
        };
        if plan.settings.outlier.is_some() {
            let status = judged(&plan.settings, self.request.is_grpc(), &answer.head);
            plan.upstream.report(world, host, Report::Answered(status));
        }
        // Whatever it says, the retry that brought it is over.
        this.retry.take();
        let wanted = plan.way.retry.filter(|policy| policy.wants_another(&answer.head) && this.may_replay);
        if let Some(policy) = wanted
            && self.permits_retry(plan, this, false)
        {
            lease.release(world, &plan.settings, true);
            self.trace.tell(world, || Decision::TryFailed(format!("answered {}", answer.head.status)));
            let told = policy.told_pause.as_ref();
            return End::Retriable(told.and_then(|t| t.of(&answer.head.headers, world.time(), &mut world.dice())));
        }
        lease.release(world, &plan.settings, true);
        End::Answered(answer, world.clock.now() - sent_at)
    }

    fn failed(&mut self, plan: &Plan<'_>, host: &Host, failure: UpstreamFailure) -> End {
        self.report_failure(plan, host, &failure);
        let failed = match failure {
            UpstreamFailure::RefusedStream => Failed::RefusedStream,
            _ => Failed::Reset { sent: true },
        };
        End::Failed(failure, failed)
    }

    /// A limit of the proxy's own says nothing about the host.
    fn report_failure(&self, plan: &Plan<'_>, host: &Host, failure: &UpstreamFailure) {
        self.trace.tell(self.world, || Decision::TryFailed(failure.reason().to_owned()));
        if *failure != UpstreamFailure::Overflow {
            plan.upstream.report(self.world, host, Report::Failed);
        }
    }

    /// The request as the next one hears it.
    pub(crate) fn as_sent(&self, plan: &Plan<'_>) -> Request {
        let mut head = self.request.clone();
        let http2 = plan.settings.protocol.is_http2(head.protocol);
        head.protocol = if http2 { Protocol::Http2 } else { Protocol::Http11 };
        Request { head, body: self.body.clone() }
    }

    /// The upstream's answer becomes the client's.
    fn begin_response(&mut self, plan: &Plan<'_>, answer: Answer, served: Duration) {
        let Answer { head, body, by } = answer;
        self.response = head;
        self.record.code = self.response.status;
        self.record.details = "via_upstream".into();
        let switched = !self.request.upgrade.is_empty() || self.request.is_connect();
        let served = (!switched).then_some(served);
        plan.way.answered(&self.request, &self.record, &mut self.response, served, &self.cookies);
        self.answer = match self.bridge {
            None => body,
            Some(bridge) => bridge.answer(&mut self.response, &body).into(),
        };
        self.complete(false);
        self.answered_by = by;
    }

    fn edit_own(&mut self, plan: &Plan<'_>) {
        self.edit(plan.way.routes, plan.way.routed);
    }

    fn fail(&mut self, plan: &Plan<'_>, failure: &UpstreamFailure) {
        self.record.upstream_failure = failure.transport_reason();
        self.response.headers.clear();
        let reply = failure.reply(self.record.attempts > 1);
        self.edit_own(plan);
        if reply.overloaded {
            self.response.headers.append("x-envoy-overloaded", "true");
        }
        plan.way.count_attempts(&self.record, &mut self.response);
        self.reply(&reply);
    }

    fn expired(&mut self, plan: &Plan<'_>, what: Expired) {
        let reply = match what {
            Expired::Route => reply::RESPONSE_TIMEOUT,
            Expired::Try => reply::PER_TRY_TIMEOUT,
            Expired::TryIdle => reply::PER_TRY_IDLE_TIMEOUT,
            Expired::Idle => reply::STREAM_IDLE_UPSTREAM,
            Expired::Stream => reply::MAX_STREAM_DURATION,
        };
        self.response.headers.clear();
        self.edit_own(plan);
        if matches!(what, Expired::Route | Expired::Try | Expired::TryIdle) {
            plan.way.count_attempts(&self.record, &mut self.response);
        }
        self.reply(&reply);
    }

    /// The address of clusters that go where the client was going, or to the host it names.
    pub(crate) fn original(&self, plan: &Plan<'_>) -> Option<SocketAddr> {
        match plan.settings.discovery {
            Discovery::Named(_) => plan.named,
            Discovery::OriginalDst { use_http_header: true, .. } => {
                let asked = self.request.headers.get_str("x-envoy-original-dst-host");
                asked.and_then(|address| address.parse().ok()).or(self.downstream.original)
            }
            _ => self.downstream.original,
        }
    }
}

/// Something done in time.
async fn before<T>(world: &World, deadlines: &Deadlines, doing: impl Future<Output = T>) -> Result<T, Expired> {
    let Some((at, what)) = deadlines.first() else { return Ok(doing.await) };
    match select(pin!(doing), world.clock.until(at)).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right(((), _)) => Err(what),
    }
}
