//! Outlier detection: which hosts are taken out for a while, judged by how requests to them end.
//!
//! Requests are counted in each host's [`Monitor`], by any thread and without a lock. A host that a monitor suspects, and
//! all hosts at each sweep, are judged by the cluster's [`Detector`]. Behaviour: Envoy's architecture overview "Outlier
//! detection" and its `OutlierDetection` message. The clock counts from any fixed moment.

mod detector;
mod errors;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use detector::{Counts, Detector, SuccessRates};
pub use errors::ErrorMatch;

/// What makes a host an outlier, and for how long. Percentages are whole, 0 to 100.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Answers of 5xx in a row; 0 is never.
    pub consecutive_5xx: u32,
    /// Answers of 502, 503 or 504 in a row; 0 is never.
    pub consecutive_gateway_failure: u32,
    /// Failures of our own making (connect, reset, timeout) count apart from answers.
    pub split_local_origin: bool,
    /// Such failures in a row, when they count apart; 0 is never.
    pub consecutive_local_origin_failure: u32,
    /// Time between sweeps.
    pub interval: Duration,
    /// How long an ejection lasts, times how often it happened lately.
    pub base_ejection_time: Duration,
    /// The longest ejection.
    pub max_ejection_time: Duration,
    /// At most so much is added to each ejection, by chance.
    pub max_ejection_time_jitter: Duration,
    /// Share of hosts that may be out at once.
    pub max_ejection_percent: u32,
    /// One host may be out whatever the share.
    pub always_eject_one_host: bool,
    /// How likely a host found out is really ejected.
    pub enforcing: Enforcing,
    /// Hosts that answer less well than the others.
    pub success_rate: SuccessRate,
    /// Hosts that fail more often than a fixed share.
    pub failure_percentage: FailurePercentage,
    /// An active check that succeeds ends an ejection.
    pub active_check_ends_ejection: bool,
}

/// How likely a host found out is really ejected, by what it was found out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforcing {
    /// By [`Cause::Consecutive5xx`].
    pub consecutive_5xx: u32,
    /// By [`Cause::ConsecutiveGatewayFailure`].
    pub consecutive_gateway_failure: u32,
    /// By [`Cause::ConsecutiveLocalOriginFailure`].
    pub consecutive_local_origin_failure: u32,
    /// By [`Cause::SuccessRate`].
    pub success_rate: u32,
    /// By [`Cause::LocalOriginSuccessRate`].
    pub local_origin_success_rate: u32,
    /// By [`Cause::FailurePercentage`].
    pub failure_percentage: u32,
    /// By [`Cause::LocalOriginFailurePercentage`].
    pub local_origin_failure_percentage: u32,
}

/// Comparison of hosts' success rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessRate {
    /// Fewer hosts with enough requests are not compared.
    pub minimum_hosts: u32,
    /// Requests in one interval that are enough.
    pub request_volume: u32,
    /// Thousandths of the standard deviation that a host may be below the mean.
    pub stdev_factor: u32,
}

/// A fixed bound on the share of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    /// The share from which on a host is an outlier.
    pub threshold: u32,
    /// Fewer hosts with enough requests are not judged.
    pub minimum_hosts: u32,
    /// Requests in one interval that are enough.
    pub request_volume: u32,
}

impl Default for OutlierDetection {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 5,
            split_local_origin: false,
            consecutive_local_origin_failure: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            enforcing: Enforcing {
                consecutive_5xx: 100,
                consecutive_gateway_failure: 0,
                consecutive_local_origin_failure: 100,
                success_rate: 100,
                local_origin_success_rate: 100,
                failure_percentage: 0,
                local_origin_failure_percentage: 0,
            },
            success_rate: SuccessRate { minimum_hosts: 5, request_volume: 100, stdev_factor: 1900 },
            failure_percentage: FailurePercentage { threshold: 85, minimum_hosts: 5, request_volume: 50 },
            active_check_ends_ejection: true,
        }
    }
}

/// What one attempt tells about the host it went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// It answered with this status; see [`status_of_grpc`].
    Answered(u16),
    /// A connection is there; whether it is good for anything, a later report tells.
    Connected,
    /// A connection is there, and nothing more will be known (TCP).
    Served,
    /// It refused, reset or ended a connection, or broke the protocol.
    Failed,
    /// It did not answer in time.
    TimedOut,
}

/// What a host was found out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Answers of 5xx in a row.
    Consecutive5xx,
    /// Answers of 502, 503, 504 in a row.
    ConsecutiveGatewayFailure,
    /// Failures of our own making in a row.
    ConsecutiveLocalOriginFailure,
    /// Fewer successes than other hosts.
    SuccessRate,
    /// The same of failures of our own making.
    LocalOriginSuccessRate,
    /// Too many failures.
    FailurePercentage,
    /// The same of failures of our own making.
    LocalOriginFailurePercentage,
}

/// What is counted of requests to one host.
#[derive(Debug, Default)]
pub struct Monitor {
    consecutive_5xx: AtomicU32,
    consecutive_gateway_failure: AtomicU32,
    consecutive_local_origin_failure: AtomicU32,
    external: Tally,
    local: Tally,
}

/// Requests since the last sweep.
#[derive(Debug, Default)]
struct Tally {
    total: AtomicU64,
    success: AtomicU64,
}

impl Tally {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Relaxed);
        if success {
            self.success.fetch_add(1, Relaxed);
        }
    }

    /// Requests and successes since it was last asked.
    fn take(&self) -> (u64, u64) {
        (self.total.swap(0, Relaxed), self.success.swap(0, Relaxed))
    }
}

impl Monitor {
    /// Counts an attempt. Whatever it gives is to be told to [`Detector::suspect`], in this order.
    pub fn report(&self, settings: &OutlierDetection, report: Report) -> impl Iterator<Item = Cause> + use<> {
        let split = settings.split_local_origin;
        let found = match report {
            Report::Answered(status) => self.answered(settings, status),
            Report::Connected if split => self.local(settings, true),
            Report::Connected => [None, None],
            Report::Served if split => self.local(settings, true),
            Report::Served => self.answered(settings, 200),
            Report::Failed | Report::TimedOut if split => self.local(settings, false),
            Report::Failed => self.answered(settings, 503),
            Report::TimedOut => self.answered(settings, 504),
        };
        found.into_iter().flatten()
    }

    fn answered(&self, settings: &OutlierDetection, status: u16) -> [Option<Cause>; 2] {
        let failed = (500..600).contains(&status);
        self.external.count(!failed);
        if !failed {
            // Most answers change nothing: a look is cheaper than a write that other cores have to follow.
            for row in [&self.consecutive_5xx, &self.consecutive_gateway_failure] {
                if row.load(Relaxed) != 0 {
                    row.store(0, Relaxed);
                }
            }
            return [None, None];
        }
        let gateway = if (502..=504).contains(&status) {
            reaches(&self.consecutive_gateway_failure, settings.consecutive_gateway_failure)
        } else {
            self.consecutive_gateway_failure.store(0, Relaxed);
            false
        };
        let any = reaches(&self.consecutive_5xx, settings.consecutive_5xx);
        [gateway.then_some(Cause::ConsecutiveGatewayFailure), any.then_some(Cause::Consecutive5xx)]
    }

    fn local(&self, settings: &OutlierDetection, success: bool) -> [Option<Cause>; 2] {
        self.local.count(success);
        let row = &self.consecutive_local_origin_failure;
        if success {
            if row.load(Relaxed) != 0 {
                row.store(0, Relaxed);
            }
            return [None, None];
        }
        let found = reaches(row, settings.consecutive_local_origin_failure);
        [found.then_some(Cause::ConsecutiveLocalOriginFailure), None]
    }

    /// A row of failures that led to a judgement starts over.
    fn start_over(&self, cause: Cause) {
        match cause {
            Cause::Consecutive5xx => self.consecutive_5xx.store(0, Relaxed),
            Cause::ConsecutiveGatewayFailure => self.consecutive_gateway_failure.store(0, Relaxed),
            Cause::ConsecutiveLocalOriginFailure => self.consecutive_local_origin_failure.store(0, Relaxed),
            Cause::SuccessRate
            | Cause::LocalOriginSuccessRate
            | Cause::FailurePercentage
            | Cause::LocalOriginFailurePercentage => {}
        }
    }
}

/// One more; whether that is exactly as many as wanted.
fn reaches(row: &AtomicU32, wanted: u32) -> bool {
    row.fetch_add(1, Relaxed).wrapping_add(1) == wanted
}

/// The HTTP status that a gRPC status counts as (Envoy's `grpcToHttpStatus`).
pub fn status_of_grpc(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        // Unknown, internal, data loss, and what is no gRPC status.
        _ => 500,
    }
}

#[cfg(test)]
mod tests;
