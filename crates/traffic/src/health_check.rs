//! Active health checks: how a cluster's hosts are asked how they are, when, and what becomes of their answers.
//!
//! One [`Session`] judges one host; it knows neither the connection nor the clock, only what came of each check. Behaviour:
//! Envoy's architecture overview "Health checking" and its `HealthCheck` message.

mod probe;

use std::borrow::Cow;
use std::time::Duration;

use crate::Dice;
use crate::cluster::TransportLabels;
use crate::filter::alpn::Protocols;
use crate::health::{HealthFlag, HostHealth};

pub use probe::{Asked, GrpcProbe, HttpProbe, Judged, Probe, Statuses, TcpProbe, finds};

/// When a cluster's hosts are asked, how, and how many answers it takes to believe them.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// A check that takes longer, its connecting included, has failed.
    pub timeout: Duration,
    /// Time between the end of a check and the next.
    pub interval: Duration,
    /// The first check waits a random time below this.
    pub initial_jitter: Duration,
    /// A random time below this is added to each interval.
    pub interval_jitter: Duration,
    /// A random time below this share of the interval is added too.
    pub interval_jitter_percent: u32,
    /// Failures in a row that make a healthy host unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make an unhealthy host healthy; one does if it is the first check ever.
    pub healthy_threshold: u32,
    /// The connection is kept for the next check.
    pub reuse_connection: bool,
    /// Instead of all other intervals while the cluster never had a connection for traffic. Envoy's default is 60 s.
    pub no_traffic_interval: Duration,
    /// The same, for hosts that are healthy.
    pub no_traffic_healthy_interval: Duration,
    /// For hosts that fail.
    pub unhealthy_interval: Duration,
    /// For hosts that fail and are still healthy.
    pub unhealthy_edge_interval: Duration,
    /// For hosts that succeed and are still unhealthy.
    pub healthy_edge_interval: Duration,
    /// Offered by ALPN in place of what the cluster's transport says, where that is TLS.
    pub alpn: Option<Protocols>,
    /// Chooses the transport in place of the host's own labels.
    pub transport_labels: Option<TransportLabels>,
    /// What is asked, and which answer is wanted.
    pub probe: Probe,
}

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered as it should.
    Good,
    /// So it did, and asks for less load.
    Degraded,
    /// It answered otherwise: it is unhealthy, whatever the threshold.
    Bad,
    /// It answered in a way that counts towards the threshold.
    Retriable,
    /// There was no answer: refused, reset, closed, or no answer of the protocol.
    Network,
    /// There was no answer in time.
    TimedOut,
    /// An answer to a request of the traffic said that the host is to be left alone.
    Passive,
}

/// What a check changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Nothing yet; the threshold is not reached.
    Pending,
    /// What balancers are to know of the host.
    Shown,
}

/// What is remembered of one host's checks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Session {
    checked: bool,
    /// Successes in a row while unhealthy.
    good: u32,
    /// Failures in a row while healthy.
    bad: u32,
}

impl Session {
    /// Nobody knows how the host is: it takes no requests until a check succeeds. `excluded`: it does not count as a
    /// host at all until its first check is through.
    pub fn begin(health: &HostHealth, excluded: bool) -> Self {
        health.set(HealthFlag::FAILED_ACTIVE_CHECK, true);
        health.set(HealthFlag::PENDING_ACTIVE_CHECK, excluded);
        Self::default()
    }

    /// Whether any check is through.
    pub fn is_checked(&self) -> bool {
        self.checked
    }

    /// Takes up what came of a check.
    pub fn judge(&mut self, settings: &HealthCheck, health: &HostHealth, outcome: Outcome) -> Change {
        let change = match outcome {
            Outcome::Good => self.succeed(settings, health, false),
            Outcome::Degraded => self.succeed(settings, health, true),
            _ => self.fail(settings, health, outcome),
        };
        self.checked = true;
        change
    }

    fn succeed(&mut self, settings: &HealthCheck, health: &HostHealth, degraded: bool) -> Change {
        self.bad = 0;
        let mut change = Change::None;
        if health.has(HealthFlag::FAILED_ACTIVE_CHECK) {
            self.good = self.good.saturating_add(1);
            change = Change::Pending;
            if !self.checked || self.good == settings.healthy_threshold {
                for flag in
                    [HealthFlag::ACTIVE_CHECK_TIMEOUT, HealthFlag::EXCLUDED_BY_ANSWER, HealthFlag::FAILED_ACTIVE_CHECK]
                {
                    health.set(flag, false);
                }
                change = Change::Shown;
            }
        }
        if health.set(HealthFlag::PENDING_ACTIVE_CHECK, false) {
            change = Change::Shown;
        }
        if health.set(HealthFlag::DEGRADED_ACTIVE_CHECK, degraded) && change == Change::None {
            change = Change::Shown;
        }
        change
    }

    fn fail(&mut self, settings: &HealthCheck, health: &HostHealth, outcome: Outcome) -> Change {
        self.good = 0;
        let mut change = Change::None;
        if !health.has(HealthFlag::FAILED_ACTIVE_CHECK) {
            let at_once = matches!(outcome, Outcome::Bad | Outcome::Passive);
            if !at_once {
                self.bad = self.bad.saturating_add(1);
            }
            change = Change::Pending;
            if at_once || self.bad == settings.unhealthy_threshold {
                health.set(HealthFlag::FAILED_ACTIVE_CHECK, true);
                change = Change::Shown;
            }
        }
        let silent = outcome == Outcome::TimedOut && health.has(HealthFlag::FAILED_ACTIVE_CHECK);
        health.set(HealthFlag::ACTIVE_CHECK_TIMEOUT, silent);
        if health.set(HealthFlag::PENDING_ACTIVE_CHECK, false) {
            change = Change::Shown;
        }
        change
    }
}

impl HealthCheck {
    /// How long the first check of a host waits.
    pub fn first_wait(&self, dice: &mut dyn Dice) -> Duration {
        if self.initial_jitter.is_zero() {
            Duration::ZERO
        } else {
            self.jittered(Duration::ZERO, self.initial_jitter, dice)
        }
    }

    /// How long the next check waits after one that ended so. `used`: the cluster had traffic at some time.
    pub fn wait(&self, outcome: Outcome, change: Change, used: bool, dice: &mut dyn Dice) -> Duration {
        let good = matches!(outcome, Outcome::Good | Outcome::Degraded);
        let pending = change == Change::Pending;
        let base = match (used, good, pending) {
            (false, true, false) => self.no_traffic_healthy_interval,
            (false, ..) => self.no_traffic_interval,
            (true, true, false) => self.interval,
            (true, true, true) => self.healthy_edge_interval,
            (true, false, false) => self.unhealthy_interval,
            (true, false, true) => self.unhealthy_edge_interval,
        };
        self.jittered(base, self.interval_jitter, dice)
    }

    /// In whole milliseconds, at least one.
    fn jittered(&self, base: Duration, jitter: Duration, dice: &mut dyn Dice) -> Duration {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let base = millis(base);
        let share = base.saturating_mul(u64::from(self.interval_jitter_percent)) / 100;
        let wait = base.saturating_add(dice.below(share)).saturating_add(dice.below(millis(jitter)));
        Duration::from_millis(wait.max(1))
    }
}

/// What was checked, as Envoy's `health_check.` statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Checks begun.
    pub attempt: u64,
    success: u64,
    failure: u64,
    passive_failure: u64,
    network_failure: u64,
    verify_cluster: u64,
}

impl Counts {
    /// A check is through.
    pub fn count(&mut self, judged: Judged) {
        self.verify_cluster += u64::from(judged.looked_at_name);
        match judged.outcome {
            Outcome::Good | Outcome::Degraded => self.success += 1,
            Outcome::Bad | Outcome::Retriable => self.failure += 1,
            Outcome::Network | Outcome::TimedOut => {
                self.failure += 1;
                self.network_failure += 1;
            }
            Outcome::Passive => {
                self.failure += 1;
                self.passive_failure += 1;
            }
        }
    }

    /// All counters by their names.
    pub fn named(&self) -> [(Cow<'static, str>, u64); 6] {
        [
            ("attempt".into(), self.attempt),
            ("success".into(), self.success),
            ("failure".into(), self.failure),
            ("passive_failure".into(), self.passive_failure),
            ("network_failure".into(), self.network_failure),
            ("verify_cluster".into(), self.verify_cluster),
        ]
    }
}

#[cfg(test)]
mod tests;
