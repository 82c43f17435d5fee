//! When a certificate is renewed, and when a failed attempt is made again. Pure: the dice are an argument.

use std::time::Duration;

/// A certificate is renewed at this part of its life, drawn anew each time so that a mesh's proxies do not come all at
/// once. Early enough that a control plane may be away for half of it.
const PART: std::ops::Range<f64> = 0.33..0.45;
/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// So many attempts are made, at the least, in what is left of a certificate's life.
const ATTEMPTS_LEFT: u32 = 10;

/// How long after its beginning a certificate of this life is renewed. `dice`: from 0 to 1.
pub fn after(life: Duration, dice: f64) -> Duration {
    life.mul_f64(PART.start + (PART.end - PART.start) * dice.clamp(0.0, 1.0))
}

/// How long to pause after so many failures in a row, with so much of the certificate's life left: longer each time,
/// somewhere between half of it and all of it, and never so long that the certificate runs out for want of trying.
pub fn pause(failures: u32, left: Duration, dice: f64) -> Duration {
    let doubled = PAUSES.0.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSES.1);
    let most = if left.is_zero() { doubled } else { doubled.min((left / ATTEMPTS_LEFT).max(PAUSES.0)) };
    most.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_leaves_more_than_half_of_the_life() {
        let life = Duration::from_secs(10);
        for dice in [0.0, 0.5, 1.0, 7.0, -1.0] {
            let at = after(life, dice);
            assert!(at > life / 4 && at < life / 2, "{at:?}");
        }
        assert_ne!(after(life, 0.1), after(life, 0.9));
    }

    #[test]
    fn pauses_grow_to_a_limit_and_fit_what_is_left() {
        let day = Duration::from_secs(86400);
        assert!(pause(1, day, 1.0) <= PAUSES.0);
        assert!(pause(3, day, 1.0) > pause(2, day, 1.0));
        assert_eq!(pause(u32::MAX, day, 1.0), PAUSES.1);
        assert!(pause(20, Duration::from_secs(5), 1.0) <= Duration::from_millis(500));
        assert_eq!(pause(20, Duration::ZERO, 1.0), PAUSES.1);
        assert!(pause(20, Duration::from_nanos(1), 0.0) >= PAUSES.0 / 2);
    }
}
