//! What filters found out about a request or connection (Envoy's dynamic metadata), and matchers on it.

use std::fmt::Write as _;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::access_log::write_string;
use crate::matcher::StringMatcher;

/// A value of the shape of JSON. Clones share their parts.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string.
    Text(Arc<str>),
    /// An array.
    List(Arc<[Value]>),
    /// An object, its names as they came.
    Struct(Arc<[(Arc<str>, Value)]>),
}

impl Value {
    /// A member of an object; of equal names the last, as JSON's readers have it.
    pub fn member(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Struct(members) => members.iter().rev().find(|(n, _)| **n == *name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON.
    pub fn write_json(&self, out: &mut String) {
        let list = |out: &mut String, ends: (char, char), each: &mut dyn Iterator<Item = (Option<&str>, &Value)>| {
            out.push(ends.0);
            for (at, (name, value)) in each.enumerate() {
                if at > 0 {
                    out.push(',');
                }
                if let Some(name) = name {
                    write_string(name, out);
                    out.push(':');
                }
                value.write_json(out);
            }
            out.push(ends.1);
        };
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            // Writing to a string cannot fail.
            Self::Number(value) => drop(write!(out, "{value}")),
            Self::Text(text) => write_string(text, out),
            Self::List(values) => list(out, ('[', ']'), &mut values.iter().map(|value| (None, value))),
            Self::Struct(members) => {
                list(out, ('{', '}'), &mut members.iter().map(|(name, value)| (Some(&**name), value)))
            }
        }
    }
}

/// What filters found out, by the filter's name and a key. As much as usual filters tell costs no allocation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(SmallVec<[Entry; 4]>);

/// A filter's name, a key, and what is there.
type Entry = (Arc<str>, Arc<str>, Value);

impl Metadata {
    /// Sets a value, in place of an earlier one of the same name and key.
    pub fn set(&mut self, filter: &Arc<str>, key: &Arc<str>, value: Value) {
        match self.0.iter_mut().find(|(f, k, _)| f == filter && k == key) {
            Some((.., old)) => *old = value,
            None => self.0.push((filter.clone(), key.clone(), value)),
        }
    }

    /// The value at a path: a key, then names of members.
    pub fn get<S: AsRef<str>>(&self, filter: &str, path: &[S]) -> Option<&Value> {
        let (key, members) = path.split_first()?;
        let (.., value) = self.0.iter().find(|(f, k, _)| **f == *filter && **k == *key.as_ref())?;
        members.iter().try_fold(value, |value, name| value.member(name.as_ref()))
    }

    /// Keys and values of a filter.
    pub fn of<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Value)> {
        self.0.iter().filter(move |(f, ..)| **f == *filter).map(|(_, key, value)| (key, value))
    }
}

/// Envoy's `MetadataMatcher`.
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    /// The filter's name.
    pub filter: Arc<str>,
    /// Key and names of members.
    pub path: Box<[Arc<str>]>,
    /// What the value must be.
    pub value: ValueMatcher,
    /// The answer is turned round.
    pub invert: bool,
}

impl MetadataMatcher {
    /// The text that it looks at.
    pub fn text<'m>(&self, metadata: &'m Metadata) -> Option<&'m Arc<str>> {
        match metadata.get(&self.filter, &self.path) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether it matches.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.value.matches(metadata.get(&self.filter, &self.path)) != self.invert
    }
}

/// Envoy's `ValueMatcher`.
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    /// Null.
    Null,
    /// This number.
    Number(f64),
    /// A number at least the first, below the second.
    Range(f64, f64),
    /// A string.
    Text(StringMatcher),
    /// This.
    Bool(bool),
    /// Any value, if true; as in Envoy, false matches nothing.
    Present(bool),
    /// A list, of which one element matches.
    OneOf(Box<ValueMatcher>),
    /// One of these matches.
    AnyOf(Box<[ValueMatcher]>),
}

impl ValueMatcher {
    fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Present(wanted), value) => value.is_some() && *wanted,
            (Self::AnyOf(all), value) => all.iter().any(|one| one.matches(value)),
            (Self::Null, Some(Value::Null)) => true,
            (Self::Number(wanted), Some(Value::Number(number))) => wanted == number,
            (Self::Range(from, to), Some(Value::Number(number))) => from <= number && number < to,
            (Self::Text(wanted), Some(Value::Text(text))) => wanted.matches(text),
            (Self::Bool(wanted), Some(Value::Bool(value))) => wanted == value,
            (Self::OneOf(wanted), Some(Value::List(values))) => values.iter().any(|value| wanted.matches(Some(value))),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn sample() -> Metadata {
        let mut metadata = Metadata::default();
        let payload = Value::Struct(Arc::from([
            ("iss".into(), text("a")),
            ("aud".into(), Value::List(Arc::from([text("x"), Value::Number(2.0)]))),
            ("deep".into(), Value::Struct(Arc::from([("ok".into(), Value::Bool(true))]))),
            ("none".into(), Value::Null),
        ]));
        metadata.set(&"jwt".into(), &"payload".into(), payload);
        metadata
    }

    fn matches(path: &[&str], value: ValueMatcher) -> bool {
        let path: Box<[Arc<str>]> = path.iter().map(|p| Arc::from(*p)).collect();
        MetadataMatcher { filter: "jwt".into(), path, value, invert: false }.matches(&sample())
    }

    fn is(text: &str) -> ValueMatcher {
        ValueMatcher::Text(StringMatcher::exact(text))
    }

    #[test]
    fn values_match_by_their_kind() {
        assert!(matches(&["payload", "iss"], is("a")));
        assert!(!matches(&["payload", "iss"], is("b")));
        assert!(!matches(&["payload", "aud"], is("x")), "a list is no string");
        assert!(matches(&["payload", "aud"], ValueMatcher::OneOf(Box::new(is("x")))));
        assert!(!matches(&["payload", "iss"], ValueMatcher::OneOf(Box::new(is("a")))), "a string is no list");
        assert!(matches(&["payload", "aud"], ValueMatcher::OneOf(Box::new(ValueMatcher::Range(2.0, 3.0)))));
        assert!(!matches(&["payload", "aud"], ValueMatcher::OneOf(Box::new(ValueMatcher::Range(1.0, 2.0)))));
        assert!(matches(&["payload", "deep", "ok"], ValueMatcher::Bool(true)));
        assert!(matches(&["payload", "none"], ValueMatcher::Null));
        assert!(!matches(&["payload", "no"], ValueMatcher::Null));
        assert!(!matches(&["payload", "no"], ValueMatcher::Present(false)));
        assert!(!matches(&["payload", "iss"], ValueMatcher::Present(false)));
        assert!(matches(&["payload", "deep"], ValueMatcher::Present(true)));
        let either = [is("b"), ValueMatcher::Present(true)];
        assert!(matches(&["payload", "iss"], ValueMatcher::AnyOf(Box::new(either))));
    }

    #[test]
    fn setting_replaces_and_json_is_written() {
        let mut metadata = sample();
        let mut json = String::new();
        metadata.get("jwt", &["payload"]).unwrap().write_json(&mut json);
        assert_eq!(json, r#"{"iss":"a","aud":["x",2],"deep":{"ok":true},"none":null}"#);
        metadata.set(&"jwt".into(), &"payload".into(), text("q\"\n\u{1}"));
        assert_eq!(metadata.of("jwt").count(), 1);
        json.clear();
        metadata.get("jwt", &["payload"]).unwrap().write_json(&mut json);
        assert_eq!(json, "\"q\\\"\\n\\u0001\"");
    }
}
