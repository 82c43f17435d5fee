//! When to act on changes that come in bursts.
//!
//! Time is handed in. Source: Istio `pilot/pkg/xds/discovery.go` (debounce).

use std::time::{Duration, Instant};

/// Waits for quiet after a change, but not for ever.
#[derive(Clone, Debug)]
pub struct Debounce {
    quiet: Duration,
    max: Duration,
    /// First and last change not acted on.
    waiting: Option<(Instant, Instant)>,
}

impl Debounce {
    /// Acts once nothing changed for `quiet`, at the latest `max` after the first change.
    pub fn new(quiet: Duration, max: Duration) -> Debounce {
        Debounce { quiet, max, waiting: None }
    }

    /// Something changed.
    pub fn note(&mut self, now: Instant) {
        let first = self.waiting.map_or(now, |(first, _)| first);
        self.waiting = Some((first, now));
    }

    /// When to act; `None` if nothing changed.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.map(|(first, last)| (last + self.quiet).min(first + self.max))
    }

    /// Whether it is time to act. If so, what changed counts as acted on.
    pub fn take(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.waiting = None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_quiet_but_not_for_ever() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut debounce = Debounce::new(Duration::from_millis(100), Duration::from_millis(250));
        assert!(!debounce.take(at(0)));
        debounce.note(at(0));
        debounce.note(at(90));
        assert_eq!(debounce.due(), Some(at(190)));
        assert!(!debounce.take(at(189)));
        debounce.note(at(180));
        assert_eq!(debounce.due(), Some(at(250)));
        assert!(debounce.take(at(250)));
        assert!(!debounce.take(at(251)));
        debounce.note(at(300));
        assert_eq!(debounce.due(), Some(at(400)));
    }
}
