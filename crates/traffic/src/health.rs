//! What is found out about a host's health besides what discovery tells, and when a change of it is shown.
//!
//! [`HostHealth`] is shared between threads and read without a lock; who changes it holds the lock of its cluster.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::cluster::Health;
use crate::outlier::Monitor;

/// Reasons not to use a host, or to use it last. The numbers are of no meaning outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthFlag(u32);

impl HealthFlag {
    /// Active checks failed.
    pub const FAILED_ACTIVE_CHECK: Self = Self(1);
    /// Ejected as an outlier.
    pub const FAILED_OUTLIER_CHECK: Self = Self(1 << 1);
    /// The answer to an active check asked for less load.
    pub const DEGRADED_ACTIVE_CHECK: Self = Self(1 << 2);
    /// No active check is through yet, and the host does not count until one is.
    pub const PENDING_ACTIVE_CHECK: Self = Self(1 << 3);
    /// The last active check failed by its timeout.
    pub const ACTIVE_CHECK_TIMEOUT: Self = Self(1 << 4);
    /// An answer said that the host is to be left alone (`x-envoy-immediate-health-check-fail`).
    pub const EXCLUDED_BY_ANSWER: Self = Self(1 << 5);

    /// All that active checks put up.
    pub const OF_CHECKS: [Self; 5] = [
        Self::FAILED_ACTIVE_CHECK,
        Self::DEGRADED_ACTIVE_CHECK,
        Self::PENDING_ACTIVE_CHECK,
        Self::ACTIVE_CHECK_TIMEOUT,
        Self::EXCLUDED_BY_ANSWER,
    ];
}

const DOWN: u32 = HealthFlag::FAILED_ACTIVE_CHECK.0 | HealthFlag::FAILED_OUTLIER_CHECK.0;

/// What is known of one host.
#[derive(Debug, Default)]
pub struct HostHealth {
    flags: AtomicU32,
    falls: AtomicU32,
    /// Counts what requests say of the host.
    pub monitor: Monitor,
}

impl HostHealth {
    /// Whether a flag is up.
    pub fn has(&self, flag: HealthFlag) -> bool {
        self.flags.load(Ordering::Acquire) & flag.0 != 0
    }

    /// Puts a flag up or down; tells whether that changed anything.
    pub fn set(&self, flag: HealthFlag, up: bool) -> bool {
        let before = if up {
            let before = self.flags.fetch_or(flag.0, Ordering::AcqRel);
            if flag.0 & DOWN != 0 && before & DOWN == 0 {
                self.falls.fetch_add(1, Ordering::Relaxed);
            }
            before
        } else {
            self.flags.fetch_and(!flag.0, Ordering::AcqRel)
        };
        (before & flag.0 != 0) != up
    }

    /// Whether the host does not count when the healthy share of hosts is worked out.
    pub fn is_excluded(&self) -> bool {
        let excluded = HealthFlag::PENDING_ACTIVE_CHECK.0 | HealthFlag::EXCLUDED_BY_ANSWER.0;
        self.flags.load(Ordering::Acquire) & excluded != 0
    }

    /// How often the host was found out to take no requests.
    pub fn falls(&self) -> u32 {
        self.falls.load(Ordering::Relaxed)
    }

    /// Whether what was found out says that the host takes no requests.
    pub fn is_down(&self) -> bool {
        self.flags.load(Ordering::Acquire) & DOWN != 0
    }

    /// The host's health, all in all, when discovery tells `told` (Envoy's `coarseHealth`).
    pub fn all_in_all(&self, told: Health) -> Health {
        let flags = self.flags.load(Ordering::Acquire);
        match told {
            Health::Unhealthy | Health::Draining => told,
            Health::Healthy | Health::Degraded if flags & DOWN != 0 => Health::Unhealthy,
            Health::Healthy if flags & HealthFlag::DEGRADED_ACTIVE_CHECK.0 != 0 => Health::Degraded,
            Health::Healthy | Health::Degraded => told,
        }
    }
}

/// When balancers see that the health of hosts changed: at once, but changes that follow within a window are shown
/// together at its end (Envoy's `update_merge_window`). The clock counts from any fixed moment.
#[derive(Debug, Clone, Default)]
pub struct Showing {
    shown: Option<Duration>,
    due: Option<Duration>,
}

impl Showing {
    /// Something changed. True: show it now; else when it is [`due`](Self::due).
    pub fn changed(&mut self, window: Duration, now: Duration) -> bool {
        if self.shown.is_some_and(|shown| now.saturating_sub(shown) <= window) && !window.is_zero() {
            self.due.get_or_insert(now + window);
            return false;
        }
        self.show(now);
        true
    }

    /// When changes that were held back are to be shown.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Everything is shown now.
    pub fn show(&mut self, now: Duration) {
        self.shown = Some(now);
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_as_healthy_as_the_worst_that_is_known_of_it() {
        let host = HostHealth::default();
        assert_eq!(host.all_in_all(Health::Healthy), Health::Healthy);
        assert!(host.set(HealthFlag::FAILED_OUTLIER_CHECK, true));
        assert!(!host.set(HealthFlag::FAILED_OUTLIER_CHECK, true));
        assert_eq!(host.all_in_all(Health::Healthy), Health::Unhealthy);
        assert_eq!(host.all_in_all(Health::Degraded), Health::Unhealthy);
        assert_eq!(host.all_in_all(Health::Draining), Health::Draining);
        assert!(host.set(HealthFlag::FAILED_ACTIVE_CHECK, true));
        assert!(host.set(HealthFlag::FAILED_OUTLIER_CHECK, false));
        assert_eq!(host.all_in_all(Health::Healthy), Health::Unhealthy);
        host.set(HealthFlag::FAILED_ACTIVE_CHECK, false);
        host.set(HealthFlag::DEGRADED_ACTIVE_CHECK, true);
        assert_eq!(host.all_in_all(Health::Healthy), Health::Degraded);
    }

    #[test]
    fn changes_that_follow_closely_are_shown_together() {
        let (window, at) = (Duration::from_secs(1), Duration::from_millis);
        let mut showing = Showing::default();
        assert!(showing.changed(window, at(0)));
        assert!(!showing.changed(window, at(300)));
        assert!(!showing.changed(window, at(900)));
        assert_eq!(showing.due(), Some(at(1300)));
        showing.show(at(1300));
        assert_eq!(showing.due(), None);
        assert!(!showing.changed(window, at(2300)));
        showing.show(at(3300));
        assert!(showing.changed(window, at(4301)));
        assert!(showing.changed(Duration::ZERO, at(4301)));
    }
}
