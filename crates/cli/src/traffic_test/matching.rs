//! Texts and times as a traffic test expects them.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::amount::beyond;
use crate::duration;

/// What a text must be. A plain string stands for `exact`.
#[derive(Debug, Clone)]
pub enum Text {
    Exact(String),
    Prefix(String),
    Contains(String),
    /// All of the text matches.
    Regex(regex::Regex),
    /// It is there, or it is not, whatever it says.
    Present(bool),
}

impl Text {
    /// Whether a text, or its absence, is as expected.
    pub fn fits(&self, text: Option<&str>) -> bool {
        match (self, text) {
            (Text::Present(present), text) => *present == text.is_some(),
            (_, None) => false,
            (Text::Exact(exact), Some(text)) => exact == text,
            (Text::Prefix(prefix), Some(text)) => text.starts_with(prefix.as_str()),
            (Text::Contains(part), Some(text)) => text.contains(part.as_str()),
            (Text::Regex(regex), Some(text)) => regex.is_match(text),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text::Exact(text) => write!(f, "{text:?}"),
            Text::Prefix(text) => write!(f, "{text:?}…"),
            Text::Contains(text) => write!(f, "…{text:?}…"),
            // The anchors are ours.
            Text::Regex(regex) => {
                let pattern = regex.as_str();
                let inner = pattern.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$"));
                write!(f, "/{}/", inner.unwrap_or(pattern))
            }
            Text::Present(true) => f.write_str("present"),
            Text::Present(false) => f.write_str("absent"),
        }
    }
}

const WAYS: [&str; 5] = ["exact", "prefix", "contains", "regex", "present"];

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string, or an object with one of {}", WAYS.join(", "))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::Exact(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text::Exact(number.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Text, A::Error> {
                let Some(way) = fields.next_key::<String>()? else {
                    return Err(A::Error::custom(format_args!("one of {} is required", WAYS.join(", "))));
                };
                let text = match way.as_str() {
                    "exact" => Text::Exact(fields.next_value()?),
                    "prefix" => Text::Prefix(fields.next_value()?),
                    "contains" => Text::Contains(fields.next_value()?),
                    "present" => Text::Present(fields.next_value()?),
                    "regex" => {
                        let pattern: String = fields.next_value()?;
                        let compiled = regex::Regex::new(&format!("^(?:{pattern})$"));
                        Text::Regex(compiled.map_err(|error| A::Error::custom(format_args!("{error}")))?)
                    }
                    other => {
                        return Err(A::Error::custom(format_args!("{other:?} is not one of {}", WAYS.join(", "))));
                    }
                };
                match fields.next_key::<String>()? {
                    None => Ok(text),
                    Some(second) => Err(A::Error::custom(format_args!("{way} and {second}: only one is allowed"))),
                }
            }
        }
        deserializer.deserialize_any(Words)
    }
}

/// A range of times: `under 100ms`, `at least 2s`, `1s..3s`.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// As written.
    text: String,
    least: Duration,
    most: Duration,
}

impl Times {
    pub fn holds(&self, time: Duration) -> bool {
        (self.least..=self.most).contains(&time)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Times {
    type Err = String;

    fn from_str(text: &str) -> Result<Times, String> {
        let wrong = || format!("{text:?} is not a range of times; write it as under 100ms, at least 2s or 1s..3s");
        let time = |part: &str| duration::parse(part.trim()).map_err(|_| wrong());
        let tick = Duration::from_nanos(1);
        let longest = Duration::MAX;
        let trimmed = text.trim();
        let (least, most) = if let Some((least, most)) = trimmed.split_once("..") {
            (time(least)?, time(most)?)
        } else if let Some(least) = beyond(trimmed, [">=", "at least "]) {
            (time(least)?, longest)
        } else if let Some(most) = beyond(trimmed, ["<=", "at most "]) {
            (Duration::ZERO, time(most)?)
        } else if let Some(least) = beyond(trimmed, [">", "over "]) {
            (time(least)? + tick, longest)
        } else if let Some(most) = beyond(trimmed, ["<", "under "]) {
            (Duration::ZERO, time(most)?.checked_sub(tick).ok_or_else(wrong)?)
        } else {
            return Err(wrong());
        };
        if least > most {
            return Err(wrong());
        }
        Ok(Times { text: trimmed.to_owned(), least, most })
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Times, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let holds = |range: &str, ms| range.parse::<Times>().unwrap().holds(Duration::from_millis(ms));
        assert!(holds("< 100ms", 99) && !holds("< 100ms", 100) && holds("<= 100ms", 100));
        assert!(holds(">= 2s", 2000) && !holds("> 2s", 2000) && holds("1s..3s", 3000) && !holds("1s..3s", 999));
        for text in ["", "100ms", "3s..1s", "<", "< 0s", "> x"] {
            assert!(text.parse::<Times>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn texts() {
        let text = |json: &str| serde_json::from_str::<Text>(json).unwrap();
        assert!(text("\"a\"").fits(Some("a")) && !text("\"a\"").fits(Some("ab")) && !text("\"a\"").fits(None));
        assert!(text("{\"regex\": \"a+\"}").fits(Some("aa")) && !text("{\"regex\": \"a+\"}").fits(Some("aab")));
        assert!(text("{\"present\": false}").fits(None) && !text("{\"present\": false}").fits(Some("")));
        assert!(text("{\"contains\": \"b\"}").fits(Some("abc")) && text("{\"prefix\": \"a\"}").fits(Some("abc")));
        assert_eq!(text("{\"regex\": \"a+\"}").to_string(), "/a+/");
        for wrong in ["{}", "{\"exact\": \"a\", \"prefix\": \"b\"}", "{\"like\": \"a\"}", "{\"regex\": \"(\"}", "[]"] {
            assert!(serde_json::from_str::<Text>(wrong).is_err(), "{wrong}");
        }
    }
}
