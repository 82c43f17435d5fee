//! How many of the requests: `90%`, `90% ± 2%`, `>= 10`, `all`. Parsing, and whether a count is one.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// How many of the requests are expected to be so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// A share each request has as its chance: what chance makes of it at the confidence asked for is right.
    Chance(f64),
    /// A share between two, both included.
    Share { least: f64, most: f64 },
    /// A number between two, both included.
    Count { least: u64, most: u64 },
}

impl Amount {
    pub const ALL: Amount = Amount::Share { least: 1.0, most: 1.0 };

    /// The numbers of requests, out of `total`, that are as expected; both ends included.
    pub fn range(&self, total: u64, confidence: f64) -> (u64, u64) {
        match *self {
            Amount::Chance(chance) => by_chance(total, chance, confidence),
            // Half a request's slack: 12.5% of 8 is 1 in binary too.
            Amount::Share { least, most } => {
                let of = |share: f64| share * total as f64;
                ((of(least) - 1e-6).ceil().max(0.0) as u64, (of(most) + 1e-6).floor() as u64)
            }
            Amount::Count { least, most } => (least, most),
        }
    }

    /// The share every request must be part of, when the amount is a single share.
    pub fn share(&self) -> Option<f64> {
        match *self {
            Amount::Chance(chance) => Some(chance),
            Amount::Share { least, most } if least == most => Some(least),
            Amount::Share { .. } | Amount::Count { .. } => None,
        }
    }
}

/// The numbers that `n` throws with this chance give, leaving out at each end those that come up less often than
/// `1 - confidence` allows.
fn by_chance(n: u64, chance: f64, confidence: f64) -> (u64, u64) {
    let each_end = (1.0 - confidence) / 2.0;
    let (log_hit, log_miss) = (chance.ln(), (1.0 - chance).ln());
    // The chance of exactly k hits, from that of k - 1; in logarithms, since 0.9^100,000 is no number.
    let mut log = n as f64 * log_miss;
    let (mut below, mut least, mut most) = (0.0, None, n);
    for k in 0..=n {
        if k > 0 {
            log += ((n - k + 1) as f64 / k as f64).ln() + log_hit - log_miss;
        }
        below += log.exp();
        if least.is_none() && below > each_end {
            least = Some(k);
        }
        if below >= 1.0 - each_end {
            most = k;
            break;
        }
    }
    (least.unwrap_or(0), most)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Amount::Chance(share) => write!(f, "{}", percent(share)),
            Amount::Share { least, most } if least == most => match least {
                1.0 => f.write_str("all"),
                0.0 => f.write_str("none"),
                share => write!(f, "exactly {}", percent(share)),
            },
            Amount::Share { least, most: 1.0 } => write!(f, "at least {}", percent(least)),
            Amount::Share { least: 0.0, most } => write!(f, "at most {}", percent(most)),
            Amount::Share { least, most } => write!(f, "{} to {}", percent(least), percent(most)),
            Amount::Count { least, most } if least == most => write!(f, "{least}"),
            Amount::Count { least, most: u64::MAX } => write!(f, "at least {least}"),
            Amount::Count { least: 0, most } => write!(f, "at most {most}"),
            Amount::Count { least, most } => write!(f, "{least} to {most}"),
        }
    }
}

/// A share as per cent, without digits that say nothing.
pub fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// What follows a sign, or the words for it, which YAML takes without quotes.
pub fn beyond<'a>(text: &'a str, signs: [&str; 2]) -> Option<&'a str> {
    signs.iter().find_map(|sign| text.strip_prefix(sign))
}

/// One end of an amount.
enum End {
    Share(f64),
    Count(u64),
}

fn end(text: &str) -> Option<End> {
    let text = text.trim();
    match text.strip_suffix('%') {
        Some(number) => {
            let share = number.trim().parse::<f64>().ok()? / 100.0;
            (0.0..=1.0).contains(&share).then_some(End::Share(share))
        }
        None => text.parse().ok().map(End::Count),
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Amount, String> {
        let wrong = || {
            format!(
                "{text:?} is not an amount; write it as 90%, 90% ± 2%, 10%..20%, at least 5%, at most 3, 12, all, some or none"
            )
        };
        let text = text.trim();
        match text {
            "all" => return Ok(Amount::ALL),
            "none" => return Ok(Amount::Count { least: 0, most: 0 }),
            "some" => return Ok(Amount::Count { least: 1, most: u64::MAX }),
            _ => {}
        }
        let signs = ["±", "+-", "+/-"];
        if let Some((middle, off)) = signs.iter().find_map(|sign| text.split_once(sign)) {
            return match (end(middle), end(off)) {
                (Some(End::Share(middle)), Some(End::Share(off))) => {
                    Ok(Amount::Share { least: (middle - off).max(0.0), most: (middle + off).min(1.0) })
                }
                (Some(End::Count(middle)), Some(End::Count(off))) => {
                    Ok(Amount::Count { least: middle.saturating_sub(off), most: middle.saturating_add(off) })
                }
                _ => Err(wrong()),
            };
        }
        if let Some((least, most)) = text.split_once("..") {
            return match (end(least), end(most)) {
                (Some(End::Share(least)), Some(End::Share(most))) if least <= most => Ok(Amount::Share { least, most }),
                (Some(End::Count(least)), Some(End::Count(most))) if least <= most => Ok(Amount::Count { least, most }),
                _ => Err(wrong()),
            };
        }
        if let Some(least) = beyond(text, [">=", "at least "]) {
            return match end(least).ok_or_else(wrong)? {
                End::Share(least) => Ok(Amount::Share { least, most: 1.0 }),
                End::Count(least) => Ok(Amount::Count { least, most: u64::MAX }),
            };
        }
        if let Some(most) = beyond(text, ["<=", "at most "]) {
            return match end(most).ok_or_else(wrong)? {
                End::Share(most) => Ok(Amount::Share { least: 0.0, most }),
                End::Count(most) => Ok(Amount::Count { least: 0, most }),
            };
        }
        match end(text).ok_or_else(wrong)? {
            End::Share(share) if share == 0.0 || share == 1.0 => Ok(Amount::Share { least: share, most: share }),
            End::Share(share) => Ok(Amount::Chance(share)),
            End::Count(count) => Ok(Amount::Count { least: count, most: count }),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount such as 90%, at least 5 or all")
            }

            fn visit_u64<E: Error>(self, count: u64) -> Result<Amount, E> {
                Ok(Amount::Count { least: count, most: count })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str, total: u64) -> (u64, u64) {
        text.parse::<Amount>().unwrap().range(total, 0.9999)
    }

    #[test]
    fn amounts_as_people_write_them() {
        assert_eq!(range("all", 8), (8, 8));
        assert_eq!(range("100%", 8), (8, 8));
        assert_eq!(range("none", 8), (0, 0));
        assert_eq!(range("some", 8), (1, u64::MAX));
        assert_eq!(range("50% ± 12.5%", 8), (3, 5));
        assert_eq!(range("50% +/- 10%", 8), (4, 4));
        assert_eq!(range("10%..30%", 10), (1, 3));
        assert_eq!(range(">= 95%", 100), (95, 100));
        assert_eq!(range("at least 95", 100), (95, u64::MAX));
        assert_eq!(range("<= 3", 100), (0, 3));
        assert_eq!(range("at most 3%", 100), (0, 3));
        assert_eq!(range("12", 100), (12, 12));
        assert_eq!(range("2..4", 100), (2, 4));
        for text in ["", "%", "101%", "-1", "1..", "4..2", "> 3", "a few", "NaN%"] {
            assert!(text.parse::<Amount>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn chance_explains_what_it_explains() {
        // 2000 * 0.9 * 0.1 = 180, whose root is 13.4; 99.99% is 3.9 deviations.
        let (least, most) = range("90%", 2000);
        assert!((1745..=1750).contains(&least) && (1848..=1853).contains(&most), "{least}..{most}");
        assert_eq!(range("50%", 4), (0, 4), "four throws prove nothing");
        assert_eq!(range("50%", 0), (0, 0));
        let (least, most) = range("0.1%", 100_000);
        assert!(least > 60 && most < 145, "{least}..{most}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_amount_or_not(text in "[0-9.%±+/<>= a-z-]{0,12}") {
            if let Ok(amount) = text.parse::<Amount>() {
                let (least, most) = amount.range(1000, 0.999);
                proptest::prop_assert!(least <= most);
            }
        }
    }
}
