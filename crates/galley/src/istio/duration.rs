//! Lengths of time as manifests write them: Go's `time.ParseDuration`, which Istio's decoder and CRDs use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, never negative. Written as `1.5s`, `100ms`, `1h30m`, `0`; units are ns, us (µs), ms, s, m and h.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    /// The same length as the standard library's type.
    pub fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl From<std::time::Duration> for Duration {
    fn from(duration: std::time::Duration) -> Self {
        Self(duration)
    }
}

/// Why a string is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Not of the form number-unit, repeated.
    #[error("{0:?} is not a duration; write it as 1.5s, 100ms, 1m or 1h30m")]
    Form(String),
    /// A sign that makes no sense for a timeout or an interval.
    #[error("{0:?}: a duration must not be negative")]
    Negative(String),
    /// More than Go's largest duration (about 292 years).
    #[error("{0:?}: the duration is too long")]
    TooLong(String),
}

const LONGEST_NANOS: u128 = i64::MAX as u128;

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let form = || InvalidDuration::Form(text.to_owned());
        if text.starts_with('-') && text != "-0" {
            return Err(InvalidDuration::Negative(text.to_owned()));
        }
        let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(form());
        }
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let (number, after) = split_where(rest, |c| !(c.is_ascii_digit() || c == '.'));
            let (unit, after) = split_where(after, |c| c.is_ascii_digit() || c == '.');
            rest = after;
            let scale = nanos_of(unit).ok_or_else(form)?;
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(form());
            }
            let too_long = || InvalidDuration::TooLong(text.to_owned());
            if whole.len() > 20 {
                return Err(too_long());
            }
            let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| form())? };
            nanos = whole
                .checked_mul(scale)
                .and_then(|part| nanos.checked_add(part + fraction_of(fraction, scale)))
                .filter(|sum| *sum <= LONGEST_NANOS)
                .ok_or_else(too_long)?;
        }
        let nanos = u64::try_from(nanos).map_err(|_| InvalidDuration::TooLong(text.to_owned()))?;
        Ok(Self(std::time::Duration::from_nanos(nanos)))
    }
}

fn split_where(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

fn nanos_of(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `.5` of a unit, in nanoseconds, cut off (as Go does) rather than rounded.
fn fraction_of(digits: &str, scale: u128) -> u128 {
    // An hour has 12 decimal digits of nanoseconds; what is past 18 digits cannot be seen in any unit.
    let kept = digits.get(..digits.len().min(18)).unwrap_or("");
    let value: u128 = kept.parse().unwrap_or(0);
    let places = u32::try_from(kept.len()).unwrap_or(0);
    value * scale / 10u128.pow(places)
}

impl fmt::Display for Duration {
    /// Protobuf's JSON form: seconds with as many decimals as are needed, `1.5s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        if nanos == 0 {
            return write!(f, "{seconds}s");
        }
        let decimals = format!("{nanos:09}");
        write!(f, "{seconds}.{}s", decimals.trim_end_matches('0'))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"1.5s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> u64 {
        u64::try_from(text.parse::<Duration>().unwrap().0.as_nanos()).unwrap()
    }

    #[test]
    fn reads_what_go_reads() {
        assert_eq!(nanos("0"), 0);
        assert_eq!(nanos("0s"), 0);
        assert_eq!(nanos("100ms"), 100_000_000);
        assert_eq!(nanos("1.5s"), 1_500_000_000);
        assert_eq!(nanos(".5s"), 500_000_000);
        assert_eq!(nanos("1.s"), 1_000_000_000);
        assert_eq!(nanos("1h30m"), 5_400_000_000_000);
        assert_eq!(nanos("+3us"), 3_000);
        assert_eq!(nanos("0.0000000000000000000000001s"), 0);
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in ["", "s", "1", "1 s", ".s", "1.2.3s", "1d", "1e3s", "∞s", "+", "١s"] {
            assert!(matches!(text.parse::<Duration>(), Err(InvalidDuration::Form(_))), "{text:?}");
        }
        assert!(matches!("-1s".parse::<Duration>(), Err(InvalidDuration::Negative(_))));
        for text in ["99999999999999999999999h", "2562048h", "9223372036855s"] {
            assert!(matches!(text.parse::<Duration>(), Err(InvalidDuration::TooLong(_))), "{text:?}");
        }
    }

    #[test]
    fn writes_protobuf_json() {
        assert_eq!("1h1ms".parse::<Duration>().unwrap().to_string(), "3600.001s");
        assert_eq!("2m".parse::<Duration>().unwrap().to_string(), "120s");
    }
}
