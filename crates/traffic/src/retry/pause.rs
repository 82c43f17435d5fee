//! How long to wait before a retry: by Envoy's jittered back-off, or as long as the answer says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::RetryPolicy;
use crate::Dice;
use crate::headers::Headers;

/// Pauses told by answers (Envoy's `RateLimitedRetryBackOff`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldPause {
    /// Which header tells; the first that does counts.
    pub headers: Vec<PauseHeader>,
    /// A longer pause is not taken notice of. Default 300 s.
    pub max_interval: Duration,
}

/// A header that tells a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseHeader {
    /// Lower-case name.
    pub name: Arc<str>,
    /// What its number means.
    pub unit: PauseUnit,
}

/// What a number in a header means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseUnit {
    /// Seconds from now.
    Seconds,
    /// A second since 1970 (UTC).
    UnixTimestamp,
}

impl RetryPolicy {
    /// The pause before the `n`-th retry, counted from 1.
    pub fn pause(&self, n: u32, dice: &mut dyn Dice) -> Duration {
        let factor = 1u64.checked_shl(n).unwrap_or(u64::MAX).saturating_sub(1);
        let base = u64::try_from(self.base_interval.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(dice.below(base.saturating_mul(factor).max(1)));
        pause.min(self.max_interval)
    }
}

impl ToldPause {
    /// The pause an answer asks for, and at random up to half as much again, so that not all come back at once.
    pub fn of(&self, answer: &Headers, now: SystemTime, dice: &mut dyn Dice) -> Option<Duration> {
        let asked = self.headers.iter().find_map(|header| {
            let told = header.pause(answer.get_str(&header.name)?, now)?;
            // Envoy takes no notice of 0 either.
            (!told.is_zero() && told <= self.max_interval).then_some(told)
        })?;
        let ms = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
        Some(Duration::from_millis(ms.saturating_add(dice.below((ms / 2).max(1)))))
    }
}

impl PauseHeader {
    fn pause(&self, value: &str, now: SystemTime) -> Option<Duration> {
        let number: u64 = value.trim().parse().ok()?;
        match self.unit {
            PauseUnit::Seconds => Some(Duration::from_secs(number)),
            PauseUnit::UnixTimestamp => {
                let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
                number.checked_sub(now).map(Duration::from_secs)
            }
        }
    }
}
