//! When a source is asked. Time and chance are handed in.
//!
//! Source: Istio `pilot/pkg/model/jwks_resolver.go`: every 20 minutes, and a minute after a failure. Here the first
//! tries after a failure follow sooner, for an issuer may just be starting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Known, Source, Wanted};

/// The pause after a first failure, doubled after each further one …
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Entry {
    patience: Duration,
    keys: Option<Arc<str>>,
    asked: bool,
    /// Failures since the last success.
    failures: u32,
    /// When it is asked next; none while it is.
    due: Option<Instant>,
}

/// All sources that are wanted.
#[derive(Debug)]
pub struct Schedule {
    refresh: Duration,
    entries: BTreeMap<Source, Entry>,
}

impl Schedule {
    pub fn new(refresh: Duration) -> Schedule {
        Schedule { refresh, entries: BTreeMap::new() }
    }

    /// Wants these, and no others. What is known of those that stay is kept.
    pub fn want(&mut self, wanted: &Wanted, now: Instant) {
        self.entries.retain(|source, _| wanted.contains_key(source));
        for (source, patience) in wanted {
            let new = || Entry { patience: *patience, keys: None, asked: false, failures: 0, due: Some(now) };
            self.entries.entry(source.clone()).or_insert_with(new).patience = *patience;
        }
    }

    /// When the next one is due.
    pub fn due(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// One that is due and is to be asked now, the longest overdue first, and how long it may take.
    pub fn take(&mut self, now: Instant) -> Option<(Source, Duration)> {
        let overdue = self.entries.iter_mut().filter(|(_, entry)| entry.due.is_some_and(|due| due <= now));
        let (source, entry) = overdue.min_by_key(|(_, entry)| entry.due)?;
        entry.due = None;
        Some((source.clone(), entry.patience))
    }

    /// What came of asking. `chance` is from 0 to 1. True if the source has other keys than before.
    pub fn done(&mut self, source: &Source, keys: Option<Arc<str>>, now: Instant, chance: f64) -> bool {
        let Some(entry) = self.entries.get_mut(source) else { return false };
        entry.asked = true;
        match keys {
            Some(keys) => {
                entry.failures = 0;
                // Control planes that start together do not ask together.
                entry.due = Some(now + self.refresh.mul_f64(1.0 - chance / 10.0));
                let changed = entry.keys.as_ref() != Some(&keys);
                entry.keys = Some(keys);
                changed
            }
            None => {
                let pause =
                    FIRST_PAUSE.saturating_mul(1 << entry.failures.min(16)).min(LONGEST_PAUSE).min(self.refresh);
                entry.failures = entry.failures.saturating_add(1);
                entry.due = Some(now + pause.mul_f64(0.5 + chance / 2.0));
                false
            }
        }
    }

    pub fn known(&self) -> Known {
        let keys = |(source, entry): (&Source, &Entry)| Some((source.clone(), entry.keys.clone()?));
        let asked = self.entries.iter().filter(|(_, entry)| entry.asked);
        Known { keys: self.entries.iter().filter_map(keys).collect(), asked: asked.map(|(s, _)| s.clone()).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_secs(1200);

    fn wanted(addresses: &[&str]) -> Wanted {
        addresses.iter().map(|address| (source(address), Duration::from_secs(5))).collect()
    }

    fn source(address: &str) -> Source {
        Source::Address(address.into())
    }

    #[test]
    fn each_is_asked_at_once_and_then_every_twenty_minutes() {
        let start = Instant::now();
        let mut schedule = Schedule::new(REFRESH);
        schedule.want(&wanted(&["a", "b"]), start);
        assert_eq!(schedule.take(start), Some((source("a"), Duration::from_secs(5))));
        assert_eq!(schedule.take(start).unwrap().0, source("b"));
        assert_eq!((schedule.take(start), schedule.due()), (None, None));
        assert!(schedule.done(&source("a"), Some("keys".into()), start, 0.0));
        assert_eq!(schedule.due(), Some(start + REFRESH));
        assert_eq!(schedule.take(start + REFRESH).unwrap().0, source("a"));
        assert!(!schedule.done(&source("a"), Some("keys".into()), start + REFRESH, 1.0));
        assert_eq!(schedule.due(), Some(start + REFRESH + REFRESH.mul_f64(0.9)));
    }

    #[test]
    fn the_last_good_keys_outlive_failures_which_follow_ever_more_rarely() {
        let start = Instant::now();
        let mut schedule = Schedule::new(REFRESH);
        schedule.want(&wanted(&["a"]), start);
        schedule.take(start);
        schedule.done(&source("a"), Some("keys".into()), start, 0.0);
        let mut now = start + REFRESH;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            schedule.take(now).unwrap();
            assert!(!schedule.done(&source("a"), None, now, 1.0));
            assert_eq!(schedule.known().keys[&source("a")], "keys".into());
            let next = schedule.due().unwrap();
            pauses.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        schedule.take(now).unwrap();
        assert!(schedule.done(&source("a"), Some("others".into()), now, 0.0));
        assert_eq!(schedule.due(), Some(now + REFRESH));
    }

    #[test]
    fn a_failure_counts_as_asked_and_what_nobody_wants_is_forgotten() {
        let start = Instant::now();
        let mut schedule = Schedule::new(REFRESH);
        schedule.want(&wanted(&["a", "b"]), start);
        schedule.take(start);
        schedule.done(&source("a"), None, start, 0.0);
        let known = schedule.known();
        assert_eq!((known.keys.len(), known.asked.into_iter().collect::<Vec<_>>()), (0, vec![source("a")]));
        schedule.want(&wanted(&["b"]), start);
        assert!(!schedule.done(&source("a"), Some("late".into()), start, 0.0));
        assert_eq!(schedule.known(), Known::default());
    }
}
