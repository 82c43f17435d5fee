//! Attempts: a host for each, a pause between them, and the answer when none worked.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use lateen_traffic::record::Flags;
use lateen_traffic::reply::{self, UpstreamFailure};
use lateen_traffic::retry::Failed;
use tokio::time::Instant;

use super::body::Piece;
use super::deadlines::{Deadlines, Expired};
use super::forward::Plan;
use super::relay::{End, Try};
use super::{Exchange, Tried};
use crate::upstream::{Again, Permit};

/// Most of a request's body that is read once it is clear that nobody wants it.
const AT_HAND: usize = 1 << 20;

impl Exchange<'_, '_> {
    pub(super) async fn attempts(&mut self, plan: &Plan<'_>) {
        let worker = Rc::clone(&self.connection.worker);
        let timeouts = &plan.hcm.timeouts;
        let policy = plan.retry;
        let deadlines = Deadlines {
            timeout: plan.timeout.filter(|t| !t.is_zero()),
            per_try: plan.per_try,
            ..Deadlines::of_stream(timeouts, Some(plan.forward), self.started)
        };
        if self.body.ended {
            deadlines.request_ended(self.filtered.delayed_to.unwrap_or(self.started));
        }
        self.body.replay.whole = policy.is_some();
        let mut tried: Tried = Vec::new();
        let mut retries = 0;
        let retry = Cell::new(None);
        loop {
            let again = Again {
                tried: &tried,
                selections: policy.filter(|p| p.avoid_previous_hosts).map_or(0, |p| p.host_selection_attempts),
                leave_priorities_after: policy.and_then(|p| p.leave_priorities_after),
            };
            let picked = plan.upstream.pick(self.original(&plan.settings), plan.hash, again, &mut worker.dice());
            let Some(host) = picked else {
                plan.upstream.stats.upstream_cx_none_healthy.inc();
                self.edit_own(plan);
                self.count_attempts(plan);
                plan.count_answer(503);
                self.reply(&reply::NO_HEALTHY_UPSTREAM).await;
                return;
            };
            let host = plan.upstream.for_client(host, self.connection.peer, self.connection.local);
            if retries == 0 {
                self.mirror(plan);
            } else {
                let left = deadlines.route_at.get().map(|at| at.saturating_duration_since(Instant::now()));
                plan.prepare_again(self.request, retries, left);
            }
            plan.name_host(self.request, &host.hostname);
            self.record.attempts = retries + 1;
            let left = policy.map_or(0, |p| p.num_retries.saturating_sub(retries));
            let this = Try { host: &host, deadlines: &deadlines, may_retry: left > 0, retry: &retry };
            let told_pause = match self.attempt(plan, this).await {
                End::Answered => return,
                End::ClientGone => return self.client_gone(),
                End::ClientError => return self.broken(plan).await,
                End::Refused(reply) => return self.reply(&reply).await,
                End::Retriable(pause) => pause,
                End::Expired(what @ (Expired::Try | Expired::TryIdle)) => {
                    let stats = &plan.upstream.stats;
                    match what {
                        Expired::Try => stats.upstream_rq_per_try_timeout.inc(),
                        _ => stats.upstream_rq_per_try_idle_timeout.inc(),
                    }
                    if !self.may_try_again(plan, this, Failed::Reset { sent: true }) {
                        return self.expired(plan, what).await;
                    }
                    None
                }
                End::Expired(what) => return self.expired(plan, what).await,
                End::Failed(failure, failed) => {
                    if !self.may_try_again(plan, this, failed) {
                        self.read_at_hand().await;
                        return self.fail(plan, &failure).await;
                    }
                    None
                }
            };
            retries += 1;
            tried.push(host);
            deadlines.try_ended();
            let stats = &plan.upstream.stats;
            let pause = match told_pause {
                Some(pause) => {
                    stats.upstream_rq_retry_backoff_ratelimited.inc();
                    pause
                }
                None => {
                    stats.upstream_rq_retry_backoff_exponential.inc();
                    policy.map_or(Duration::ZERO, |p| p.pause(retries, &mut worker.dice()))
                }
            };
            match self.pause(&deadlines, pause).await {
                None => {}
                Some(End::Expired(what)) => return self.expired(plan, what).await,
                Some(_) => return self.client_gone(),
            }
        }
    }

    /// Whether an attempt that failed is made again; if so, with a permit for it.
    fn may_try_again(&mut self, plan: &Plan<'_>, this: Try<'_>, failed: Failed) -> bool {
        // Whatever comes of it, the retry that failed is over.
        this.retry.take();
        let wanted = plan.retry.is_some_and(|policy| policy.wants(failed)) && self.body.replay.whole;
        wanted && self.permits_retry(plan, this, true)
    }

    /// Takes a permit for another attempt, if there are any left. `over`: the attempt to be made again has left its
    /// connection.
    pub(super) fn permits_retry(&mut self, plan: &Plan<'_>, this: Try<'_>, over: bool) -> bool {
        if !this.may_retry {
            plan.count(|c| &c.upstream_rq_retry_limit_exceeded, |r| &r.upstream_rq_retry_limit_exceeded);
            self.record.flags.add(Flags::RETRY_LIMIT);
            return false;
        }
        let most = plan.upstream.most_retries(&plan.settings, over);
        let Some(permit) = Permit::take(&plan.upstream.shared, |s| &s.retries, most) else {
            plan.count(|c| &c.upstream_rq_retry_overflow, |r| &r.upstream_rq_retry_overflow);
            self.record.flags.add(Flags::UPSTREAM_OVERFLOW);
            return false;
        };
        plan.count(|c| &c.upstream_rq_retry, |r| &r.upstream_rq_retry);
        this.retry.set(Some(permit));
        true
    }

    /// Waits before a retry, unless the client goes or time is over.
    async fn pause(&mut self, deadlines: &Deadlines, pause: Duration) -> Option<End> {
        tokio::select! {
            () = tokio::time::sleep(pause) => None,
            () = self.responder.gone() => Some(End::ClientGone),
            expired = deadlines.wait(self.timer) => Some(End::Expired(expired)),
        }
    }

    async fn broken(&mut self, plan: &Plan<'_>) {
        self.connection.stats.downstream_cx_protocol_error.inc();
        self.response.headers.clear();
        self.edit_own(plan);
        self.reply(&reply::BROKEN_BODY).await;
    }

    /// The route's edits of responses: they apply to answers of our own too.
    pub(super) fn edit_own(&mut self, plan: &Plan<'_>) {
        self.edit_response(plan.routes, plan.routed);
    }

    /// Reads what has come of the request's body by now: when that is all of it, the connection can be kept.
    pub(super) async fn read_at_hand(&mut self) {
        let mut left = AT_HAND;
        while !self.body.ended && left > 0 {
            let Some(Ok(piece)) = self.body.source.at_hand().await else { break };
            self.body.copies.iter_mut().for_each(|copy| copy.give(&piece));
            match piece {
                Piece::Data(data) => {
                    self.record.bytes_received += data.len() as u64;
                    left = left.saturating_sub(data.len());
                }
                Piece::End(_) => self.body.ended = true,
            }
        }
        self.record.bytes_received += self.body.source.take_beyond();
    }

    pub(super) async fn fail(&mut self, plan: &Plan<'_>, failure: &UpstreamFailure) {
        self.record.upstream_failure = failure.transport_reason();
        self.response.headers.clear();
        let reply = failure.reply(self.record.attempts > 1);
        self.edit_own(plan);
        if reply.overloaded {
            self.response.headers.append("x-envoy-overloaded", "true");
        }
        self.count_attempts(plan);
        plan.count_answer(reply.status);
        self.reply(&reply).await;
    }

    fn count_attempts(&mut self, plan: &Plan<'_>) {
        plan.count_attempts(&self.record, self.response);
    }

    async fn expired(&mut self, plan: &Plan<'_>, what: Expired) {
        let reply = match what {
            Expired::Route => {
                plan.count(|c| &c.upstream_rq_timeout, |r| &r.upstream_rq_timeout);
                reply::RESPONSE_TIMEOUT
            }
            Expired::Try => reply::PER_TRY_TIMEOUT,
            Expired::TryIdle => reply::PER_TRY_IDLE_TIMEOUT,
            Expired::Idle | Expired::Stream | Expired::Request => self.stream_expired(what),
        };
        self.response.headers.clear();
        self.edit_own(plan);
        if matches!(what, Expired::Route | Expired::Try | Expired::TryIdle) {
            self.count_attempts(plan);
            plan.count_answer(reply.status);
        }
        self.reply(&reply).await;
    }
}
