//! What came back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::histogram::Histogram;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The connection was refused or could not be made.
    Connect,
    /// The connection ended before the whole answer was there.
    Closed,
    /// What came was not HTTP/1.1.
    Protocol,
    /// No whole answer in time.
    Timeout,
}

impl Failure {
    pub(super) fn of(error: &hyper::Error) -> Failure {
        if error.is_parse() || error.is_parse_too_large() { Failure::Protocol } else { Failure::Closed }
    }

    pub fn name(self) -> &'static str {
        match self {
            Failure::Connect => "connect",
            Failure::Closed => "closed",
            Failure::Protocol => "protocol",
            Failure::Timeout => "timeout",
        }
    }
}

/// The sum of a run.
#[derive(Clone, Default)]
pub struct Report {
    pub elapsed: Duration,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers by the version that gave them.
    pub versions: BTreeMap<String, u64>,
    /// Answers by the pod that gave them.
    pub pods: BTreeMap<String, u64>,
    /// Requests without an answer.
    pub failures: BTreeMap<Failure, u64>,
    pub latency: Histogram,
}

impl Report {
    pub(super) fn fail(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: &Report) {
        fn add<K: Ord + Clone>(ours: &mut BTreeMap<K, u64>, theirs: &BTreeMap<K, u64>) {
            for (key, count) in theirs {
                *ours.entry(key.clone()).or_default() += count;
            }
        }
        add(&mut self.statuses, &other.statuses);
        add(&mut self.versions, &other.versions);
        add(&mut self.pods, &other.pods);
        add(&mut self.failures, &other.failures);
        self.latency.merge(&other.latency);
    }

    /// Requests answered, whatever the status.
    pub fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Requests without an answer.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Answers per second.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.answered() as f64 / seconds } else { 0.0 }
    }

    /// The report as JSON; latencies are in milliseconds.
    pub fn to_json(&self) -> serde_json::Value {
        let milliseconds = |latency: Duration| latency.as_secs_f64() * 1e3;
        let failures: BTreeMap<_, _> = self.failures.iter().map(|(failure, count)| (failure.name(), count)).collect();
        serde_json::json!({
            "requests": self.answered() + self.failed(),
            "answered": self.answered(),
            "failed": self.failed(),
            "seconds": self.elapsed.as_secs_f64(),
            "rate": self.rate(),
            "statuses": self.statuses,
            "versions": self.versions,
            "pods": self.pods,
            "failures": failures,
            "latency_ms": {
                "mean": milliseconds(self.latency.mean()),
                "p50": milliseconds(self.latency.percentile(0.5)),
                "p90": milliseconds(self.latency.percentile(0.9)),
                "p99": milliseconds(self.latency.percentile(0.99)),
                "p999": milliseconds(self.latency.percentile(0.999)),
                "max": milliseconds(self.latency.max()),
            },
        })
    }
}
