//! The judgement: ejections, their length and their end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::{Cause, Enforcing, OutlierDetection};
use crate::Dice;
use crate::cluster::EndpointAddress;
use crate::health::{HealthFlag, HostHealth};

/// Judges the hosts of one cluster.
#[derive(Debug)]
pub struct Detector {
    settings: Arc<OutlierDetection>,
    hosts: Vec<Record>,
    next_sweep: Duration,
    counts: Counts,
}

#[derive(Debug)]
struct Record {
    address: EndpointAddress,
    health: Arc<HostHealth>,
    /// Ejections that count for the length of the next.
    backoff: u32,
    ejected_at: Duration,
    jitter: Duration,
    returned_at: Option<Duration>,
    rates: SuccessRates,
}

/// A host's success rates in the last interval, in percent; `None` without enough requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SuccessRates {
    /// Of answers.
    pub external: Option<f64>,
    /// Of connections, where they count apart.
    pub local: Option<f64>,
}

/// What was judged, by cause in the order of [`Cause`], as Envoy's `outlier_detection.` statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    detected: [u64; CAUSES.len()],
    enforced: [u64; CAUSES.len()],
    /// `ejections_overflow`: too many were out already.
    pub overflow: u64,
    /// `ejections_active`: out now.
    pub active: u64,
    total: u64,
}

/// In the order of [`Cause`].
const CAUSES: [&str; 7] = [
    "consecutive_5xx",
    "consecutive_gateway_failure",
    "consecutive_local_origin_failure",
    "success_rate",
    "local_origin_success_rate",
    "failure_percentage",
    "local_origin_failure_percentage",
];

impl Counts {
    /// How often a host was found out by `cause`.
    pub fn detected(&self, cause: Cause) -> u64 {
        self.detected[cause as usize]
    }

    /// How often a host was ejected by `cause`.
    pub fn enforced(&self, cause: Cause) -> u64 {
        self.enforced[cause as usize]
    }

    /// All counters by their names; [`active`](Self::active) is none.
    pub fn named(&self) -> Vec<(Cow<'static, str>, u64)> {
        let mut all = Vec::with_capacity(2 * CAUSES.len() + 5);
        for (cause, (detected, enforced)) in CAUSES.iter().zip(self.detected.iter().zip(&self.enforced)) {
            all.push((format!("ejections_detected_{cause}").into(), *detected));
            all.push((format!("ejections_enforced_{cause}").into(), *enforced));
        }
        let rates = self.detected(Cause::SuccessRate) + self.detected(Cause::LocalOriginSuccessRate);
        all.extend([
            ("ejections_enforced_total".into(), self.enforced.iter().sum()),
            ("ejections_overflow".into(), self.overflow),
            // Envoy keeps these three under their old names.
            ("ejections_consecutive_5xx".into(), self.detected(Cause::Consecutive5xx)),
            ("ejections_success_rate".into(), rates),
            ("ejections_total".into(), self.total),
        ]);
        all
    }
}

impl Detector {
    /// Nobody to judge yet.
    pub fn new(settings: Arc<OutlierDetection>, now: Duration) -> Self {
        let next_sweep = now + settings.interval;
        Self { settings, hosts: Vec::new(), next_sweep, counts: Counts::default() }
    }

    /// Judges by other settings from now on.
    pub fn follow(&mut self, settings: &Arc<OutlierDetection>, now: Duration) {
        if self.settings != *settings {
            self.next_sweep = self.next_sweep.min(now + settings.interval);
            self.settings = Arc::clone(settings);
        }
    }

    /// The hosts there are now. Those that were there before keep what is known of them.
    pub fn members<'a>(&mut self, members: impl Iterator<Item = (&'a EndpointAddress, &'a Arc<HostHealth>)>) {
        let mut before: std::collections::HashMap<EndpointAddress, Record> =
            self.hosts.drain(..).map(|record| (record.address.clone(), record)).collect();
        for (address, health) in members {
            self.hosts.push(before.remove(address).unwrap_or_else(|| Record {
                address: address.clone(),
                health: Arc::clone(health),
                backoff: 0,
                ejected_at: Duration::ZERO,
                jitter: Duration::ZERO,
                returned_at: None,
                rates: SuccessRates::default(),
            }));
        }
        self.counts.active = self.hosts.iter().filter(|record| record.is_ejected()).count() as u64;
    }

    /// A monitor suspects a host. Tells whether the host is ejected now and was not before.
    pub fn suspect(&mut self, host: &EndpointAddress, cause: Cause, now: Duration, dice: &mut dyn Dice) -> bool {
        let Some(at) = self.hosts.iter().position(|record| record.address == *host) else { return false };
        if self.hosts[at].is_ejected() {
            return false;
        }
        let ejected = self.judge(at, cause, now, dice);
        self.hosts[at].health.monitor.start_over(cause);
        ejected
    }

    /// An active check of a host succeeded. Tells whether that ended an ejection.
    pub fn checked(&mut self, host: &EndpointAddress, now: Duration) -> bool {
        if !self.settings.active_check_ends_ejection {
            return false;
        }
        let ejected = self.hosts.iter_mut().find(|record| record.address == *host && record.is_ejected());
        let Some(record) = ejected else { return false };
        record.back(now);
        self.counts.active -= 1;
        true
    }

    /// When the next sweep is due.
    pub fn next_sweep(&self) -> Duration {
        self.next_sweep
    }

    /// Ends ejections whose time is over and compares hosts. Tells whether any host's health changed.
    pub fn sweep(&mut self, now: Duration, dice: &mut dyn Dice) -> bool {
        let settings = Arc::clone(&self.settings);
        self.next_sweep = now + settings.interval.max(Duration::from_millis(1));
        let mut changed = false;
        let mut tallies = Vec::with_capacity(self.hosts.len());
        for record in &mut self.hosts {
            let length = settings.base_ejection_time.saturating_mul(record.backoff).min(settings.max_ejection_time);
            if record.is_ejected() && length + record.jitter <= now.saturating_sub(record.ejected_at) {
                record.back(now);
                self.counts.active -= 1;
                changed = true;
            }
            tallies.push((record.health.monitor.external.take(), record.health.monitor.local.take()));
            record.rates = SuccessRates::default();
        }
        let external: Vec<_> = tallies.iter().map(|(external, _)| *external).collect();
        changed |= self.compare(&external, [Cause::SuccessRate, Cause::FailurePercentage], now, dice);
        if settings.split_local_origin {
            let local: Vec<_> = tallies.iter().map(|(_, local)| *local).collect();
            let causes = [Cause::LocalOriginSuccessRate, Cause::LocalOriginFailurePercentage];
            changed |= self.compare(&local, causes, now, dice);
        }
        for record in self.hosts.iter_mut().filter(|record| !record.is_ejected()) {
            let good = record.returned_at.is_some_and(|at| now.saturating_sub(at) >= settings.interval);
            if good {
                record.backoff = record.backoff.saturating_sub(1);
            }
        }
        changed
    }

    /// Compares success rates with each other and with the fixed bound.
    fn compare(
        &mut self,
        tallies: &[(u64, u64)],
        [by_rate, by_share]: [Cause; 2],
        now: Duration,
        dice: &mut dyn Dice,
    ) -> bool {
        let settings = Arc::clone(&self.settings);
        let (rate, share) = (settings.success_rate, settings.failure_percentage);
        let enough = |wanted: u32, count: usize| count as u64 >= u64::from(wanted);
        if !enough(rate.minimum_hosts, self.hosts.len()) && !enough(share.minimum_hosts, self.hosts.len()) {
            return false;
        }
        let (mut by_rates, mut by_shares) = (Vec::new(), Vec::new());
        for (at, (total, success)) in tallies.iter().enumerate() {
            let record = &mut self.hosts[at];
            if record.is_ejected() || *total == 0 {
                continue;
            }
            let percent = 100.0 * *success as f64 / *total as f64;
            if *total >= u64::from(rate.request_volume.min(share.request_volume)) {
                let known =
                    if by_rate == Cause::SuccessRate { &mut record.rates.external } else { &mut record.rates.local };
                *known = Some(percent);
            }
            if *total >= u64::from(rate.request_volume) {
                by_rates.push((at, percent));
            }
            if *total >= u64::from(share.request_volume) {
                by_shares.push((at, percent));
            }
        }
        let mut changed = false;
        if !by_rates.is_empty() && enough(rate.minimum_hosts, by_rates.len()) {
            let n = by_rates.len() as f64;
            let mean = by_rates.iter().map(|(_, percent)| percent).sum::<f64>() / n;
            let variance = by_rates.iter().map(|(_, percent)| (percent - mean).powi(2)).sum::<f64>() / n;
            let bound = mean - f64::from(rate.stdev_factor) / 1000.0 * variance.sqrt();
            for (at, _) in by_rates.iter().filter(|(_, percent)| *percent < bound) {
                changed |= self.judge(*at, by_rate, now, dice);
            }
        }
        if !by_shares.is_empty() && enough(share.minimum_hosts, by_shares.len()) {
            for (at, _) in by_shares.iter().filter(|(_, percent)| 100.0 - percent >= f64::from(share.threshold)) {
                changed |= self.judge(*at, by_share, now, dice);
            }
        }
        changed
    }

    /// Ejects a host that was found out, if that is allowed and enforced.
    fn judge(&mut self, at: usize, cause: Cause, now: Duration, dice: &mut dyn Dice) -> bool {
        if self.hosts[at].is_ejected() {
            return false;
        }
        let settings = &self.settings;
        self.counts.detected[cause as usize] += 1;
        let share = 100.0 * (self.counts.active + 1) as f64 / self.hosts.len() as f64;
        let first = settings.always_eject_one_host && self.counts.active == 0;
        if share > f64::from(settings.max_ejection_percent.min(100)) && !first {
            self.counts.overflow += 1;
            return false;
        }
        if matches!(cause, Cause::Consecutive5xx | Cause::SuccessRate) {
            self.counts.total += 1;
        }
        if dice.below(100) >= u64::from(settings.enforcing.of(cause)) {
            return false;
        }
        self.counts.enforced[cause as usize] += 1;
        self.counts.active += 1;
        let record = &mut self.hosts[at];
        record.health.set(HealthFlag::FAILED_OUTLIER_CHECK, true);
        record.ejected_at = now;
        let jitter = u64::try_from(settings.max_ejection_time_jitter.as_millis()).unwrap_or(u64::MAX);
        record.jitter = Duration::from_millis(dice.below(jitter.saturating_add(1)));
        let base = settings.base_ejection_time;
        if base.saturating_mul(record.backoff) < settings.max_ejection_time.saturating_add(base) {
            record.backoff += 1;
        }
        true
    }

    /// What was judged so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Every host's success rates.
    pub fn success_rates(&self) -> impl Iterator<Item = (&EndpointAddress, SuccessRates)> {
        self.hosts.iter().map(|record| (&record.address, record.rates))
    }
}

impl Record {
    fn is_ejected(&self) -> bool {
        self.health.has(HealthFlag::FAILED_OUTLIER_CHECK)
    }

    /// The ejection is over. Rows of failures start over too: they may be one short of the next ejection.
    fn back(&mut self, now: Duration) {
        self.health.set(HealthFlag::FAILED_OUTLIER_CHECK, false);
        self.returned_at = Some(now);
        for cause in [Cause::Consecutive5xx, Cause::ConsecutiveGatewayFailure, Cause::ConsecutiveLocalOriginFailure] {
            self.health.monitor.start_over(cause);
        }
    }
}

impl Enforcing {
    fn of(self, cause: Cause) -> u32 {
        match cause {
            Cause::Consecutive5xx => self.consecutive_5xx,
            Cause::ConsecutiveGatewayFailure => self.consecutive_gateway_failure,
            Cause::ConsecutiveLocalOriginFailure => self.consecutive_local_origin_failure,
            Cause::SuccessRate => self.success_rate,
            Cause::LocalOriginSuccessRate => self.local_origin_success_rate,
            Cause::FailurePercentage => self.failure_percentage,
            Cause::LocalOriginFailurePercentage => self.local_origin_failure_percentage,
        }
    }
}
