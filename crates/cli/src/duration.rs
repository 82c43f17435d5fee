//! Durations as people write them on a command line: `250ms`, `1.5s`, `2m`, `1h`; a bare number is seconds.

use std::time::Duration;

/// Reads a duration.
///
/// # Errors
/// A sentence that says what is accepted, when `text` is not a non-negative number with one of the units `us`, `ms`,
/// `s`, `m`, `h`, or is longer than a year.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is not a duration: write it as 250ms, 1.5s, 2m or 1h")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is not a duration: write it as 250ms, 1.5s, 2m or 1h"))?;
    let seconds = number * scale;
    if seconds > 366.0 * 86400.0 {
        return Err(format!("{text:?} is longer than a year"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn what_is_not_a_duration() {
        for text in ["", "s", "-1s", "1d", "1.2.3s", "ms", "99999999999999h", "1 s"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
