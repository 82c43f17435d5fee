//! What outlier detection, and whoever checks hosts, is told of attempts.

use lateen_traffic::outlier::Report;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::router::judged;

use super::Exchange;
use super::deadlines::Expired;
use super::forward::Plan;
use crate::upstream::Host;

impl Exchange<'_, '_> {
    /// Tells how an attempt at `host` goes.
    pub(super) fn report(&self, plan: &Plan<'_>, host: &Host, report: Report) {
        plan.upstream.report(&plan.settings, host, report, &mut self.connection.worker.dice());
    }

    /// There is no answer, or no whole one. A limit of our own says nothing about the host.
    pub(super) fn report_failure(&self, plan: &Plan<'_>, host: &Host, failure: &UpstreamFailure) {
        if *failure != UpstreamFailure::Overflow {
            self.report(plan, host, Report::Failed);
        }
    }

    /// Time is over before an answer. Other deadlines than the answer's say nothing about the host.
    pub(super) fn report_expired(&self, plan: &Plan<'_>, host: &Host, expired: Expired) {
        if matches!(expired, Expired::Route | Expired::Try | Expired::TryIdle) {
            self.report(plan, host, Report::TimedOut);
        }
    }

    /// The head of an answer is here, as the host sent it.
    pub(super) fn report_answer(&self, plan: &Plan<'_>, host: &Host) {
        plan.upstream.heed(&plan.settings, host, self.response);
        if plan.settings.outlier.is_none() {
            return;
        }
        self.report(plan, host, Report::Answered(judged(&plan.settings, self.request.is_grpc(), self.response)));
    }
}
