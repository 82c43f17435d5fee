//! Matchers on strings, headers, query parameters and addresses, as Envoy defines them.

use std::net::IpAddr;
use std::sync::Arc;

use regex::Regex;

use crate::headers::Headers;
use crate::message::{RequestHead, ResponseHead};

/// Why a matcher cannot be built.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MatcherError {
    /// The regular expression does not compile.
    #[error("invalid regular expression {pattern:?}: {reason}")]
    Regex { pattern: String, reason: String },
    /// The prefix length does not fit the address.
    #[error("invalid prefix length {0}")]
    PrefixLength(u32),
}

/// Compiles a regular expression that must match the whole input, as Envoy's `safe_regex` does.
///
/// The engine is linear in the input like RE2; the compiled size is limited to 1 MiB.
pub fn full_regex(pattern: &str) -> Result<Regex, MatcherError> {
    regex::RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
        .size_limit(1 << 20)
        .build()
        .map_err(|e| MatcherError::Regex { pattern: pattern.to_owned(), reason: e.to_string() })
}

/// Envoy's `StringMatcher`.
#[derive(Debug, Clone)]
pub struct StringMatcher {
    /// What is compared.
    pub pattern: StringPattern,
    /// ASCII letter case does not count (not for regular expressions).
    pub ignore_case: bool,
}

/// The kinds of string patterns.
#[derive(Debug, Clone)]
pub enum StringPattern {
    /// The whole string.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Any part of it.
    Contains(String),
    /// A regular expression from [`full_regex`].
    Regex(Regex),
}

impl StringMatcher {
    /// Matches exactly `text`.
    pub fn exact(text: impl Into<String>) -> Self {
        Self { pattern: StringPattern::Exact(text.into()), ignore_case: false }
    }

    /// Whether `value` matches.
    pub fn matches(&self, value: &str) -> bool {
        let fold = self.ignore_case;
        match &self.pattern {
            StringPattern::Exact(p) => same(value.as_bytes(), p.as_bytes(), fold),
            StringPattern::Prefix(p) => {
                value.len() >= p.len() && same(&value.as_bytes()[..p.len()], p.as_bytes(), fold)
            }
            StringPattern::Suffix(p) => {
                value.len() >= p.len() && same(&value.as_bytes()[value.len() - p.len()..], p.as_bytes(), fold)
            }
            StringPattern::Contains(p) if fold => value.to_ascii_lowercase().contains(&p.to_ascii_lowercase()),
            StringPattern::Contains(p) => value.contains(p.as_str()),
            StringPattern::Regex(r) => r.is_match(value),
        }
    }

    /// The same of bytes; what is not UTF-8 in them counts as U+FFFD.
    pub fn matches_bytes(&self, value: &[u8]) -> bool {
        match std::str::from_utf8(value) {
            Ok(text) => self.matches(text),
            Err(_) => self.matches(&String::from_utf8_lossy(value)),
        }
    }
}

pub(crate) fn same(a: &[u8], b: &[u8], fold: bool) -> bool {
    if fold { a.eq_ignore_ascii_case(b) } else { a == b }
}

/// Envoy's `HeaderMatcher`. A field given twice is matched value by value, never joined.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    /// Lower-case name, or a pseudo header (`:method`, `:path`, `:authority`, `:scheme`).
    pub name: Arc<str>,
    /// What is asked of the value.
    pub check: HeaderCheck,
    /// The answer is turned round.
    pub invert: bool,
    /// A missing field counts as one with an empty value.
    pub missing_as_empty: bool,
}

/// What a header matcher asks.
#[derive(Debug, Clone)]
pub enum HeaderCheck {
    /// The field is there (`true`) or not (`false`).
    Present(bool),
    /// A value matches.
    Value(StringMatcher),
    /// A value is an integer in `start..end`.
    Range { start: i64, end: i64 },
}

impl HeaderMatcher {
    /// Asks whether a field is there. The name's case does not matter.
    pub fn present(name: &str) -> Self {
        let name = name.to_ascii_lowercase().into();
        Self { name, check: HeaderCheck::Present(true), invert: false, missing_as_empty: false }
    }

    /// Whether the request matches.
    pub fn matches(&self, request: &RequestHead) -> bool {
        self.decide(&request.headers, request.field(&self.name))
    }

    /// Whether a message without any field matches.
    pub fn matches_nothing(&self) -> bool {
        self.decide(&Headers::new(), None)
    }

    /// Whether the response matches; its pseudo header is `:status`.
    pub fn matches_response(&self, response: &ResponseHead) -> bool {
        let status = response.status.to_string();
        let field = if &*self.name == ":status" { Some(status.as_bytes()) } else { response.headers.get(&self.name) };
        self.decide(&response.headers, field)
    }

    /// `field` is the header's first value, also if it is a pseudo header.
    fn decide(&self, headers: &Headers, field: Option<&[u8]>) -> bool {
        if let HeaderCheck::Present(wanted) = self.check {
            let present = self.missing_as_empty || field.is_some();
            return (present == wanted) != self.invert;
        }
        let hit = if self.name.starts_with(':') || &*self.name == "host" {
            field.map(|v| self.value_matches(v))
        } else {
            let mut values = headers.get_all(&self.name).peekable();
            values.peek().is_some().then(|| values.any(|v| self.value_matches(v)))
        };
        match hit {
            Some(hit) => hit != self.invert,
            None if self.missing_as_empty => self.value_matches(b"") != self.invert,
            None => false,
        }
    }

    fn value_matches(&self, value: &[u8]) -> bool {
        match &self.check {
            HeaderCheck::Present(_) => true,
            HeaderCheck::Value(m) => m.matches_bytes(value),
            HeaderCheck::Range { start, end } => std::str::from_utf8(value)
                .ok()
                .and_then(|v| v.trim().parse::<i64>().ok())
                .is_some_and(|n| (*start..*end).contains(&n)),
        }
    }
}

/// Envoy's `QueryParameterMatcher`: the first value only, not decoded, name case-sensitive.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    /// Parameter name.
    pub name: String,
    /// What its value must be; `None`: it is there.
    pub value: Option<StringMatcher>,
    /// For a presence check: `false` asks that it is absent.
    pub present: bool,
}

impl QueryMatcher {
    /// Whether a query (without `?`) matches.
    pub fn matches(&self, query: Option<&str>) -> bool {
        let found = query.unwrap_or_default().split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == self.name && !pair.is_empty()).then_some(value)
        });
        match &self.value {
            None => found.is_some() == self.present,
            Some(m) => found.is_some_and(|v| m.matches(v)),
        }
    }
}

/// An address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// The range of `length` leading bits of `address`; further bits are ignored.
    pub fn new(address: IpAddr, length: u32) -> Result<Self, MatcherError> {
        let max = if address.is_ipv4() { 32 } else { 128 };
        if length > max {
            return Err(MatcherError::PrefixLength(length));
        }
        Ok(Self { address, length: length as u8 })
    }

    /// Number of leading bits that count: the larger, the more specific.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address is in the range. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address.to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.length.min(32));
                shift == 32 || (u32::from(a) ^ u32::from(b)) >> shift == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let shift = 128 - u32::from(self.length);
                shift == 128 || (u128::from(a) ^ u128::from(b)) >> shift == 0
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_headers(fields: &[(&str, &str)]) -> RequestHead {
        RequestHead {
            method: "GET".into(),
            path: "/".into(),
            headers: fields.iter().copied().collect(),
            ..Default::default()
        }
    }

    fn exact(name: &str, value: &str) -> HeaderMatcher {
        HeaderMatcher {
            name: name.into(),
            check: HeaderCheck::Value(StringMatcher::exact(value)),
            invert: false,
            missing_as_empty: false,
        }
    }

    #[test]
    fn repeated_fields_match_value_by_value() {
        let request = with_headers(&[("x", "1"), ("x", "2")]);
        assert!(exact("x", "1").matches(&request));
        assert!(exact("x", "2").matches(&request));
        assert!(!exact("x", "1,2").matches(&request));
        assert!(exact("x", "1,2").matches(&with_headers(&[("x", "1,2")])));
    }

    #[test]
    fn inverted_matchers_need_the_field_unless_missing_counts_as_empty() {
        let not_one = HeaderMatcher { invert: true, ..exact("x", "1") };
        assert!(!not_one.matches(&with_headers(&[("x", "1"), ("x", "2")])));
        assert!(!not_one.matches(&with_headers(&[])));
        let or_missing = HeaderMatcher { missing_as_empty: true, ..not_one };
        assert!(or_missing.matches(&with_headers(&[])));
    }

    #[test]
    fn pseudo_headers_match() {
        assert!(exact(":method", "GET").matches(&with_headers(&[])));
        assert!(!exact(":method", "POST").matches(&with_headers(&[])));
    }

    #[test]
    fn only_the_first_query_value_counts() {
        let m = QueryMatcher { name: "a".into(), value: Some(StringMatcher::exact("1")), present: true };
        assert!(m.matches(Some("b=2&a=1&a=2")));
        assert!(!m.matches(Some("a=2&a=1")));
        assert!(!m.matches(Some("A=1")) && !m.matches(None));
    }

    #[test]
    fn regular_expressions_match_whole_strings() {
        let m = StringMatcher { pattern: StringPattern::Regex(full_regex("a|bc").unwrap()), ignore_case: false };
        assert!(m.matches("a") && m.matches("bc") && !m.matches("abc"));
        assert!(full_regex("(").is_err());
    }

    #[test]
    fn ranges_contain_mapped_addresses() {
        let range = Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap();
        assert!(range.contains("10.9.9.9".parse().unwrap()) && range.contains("::ffff:10.1.1.1".parse().unwrap()));
        assert!(!range.contains("11.0.0.1".parse().unwrap()));
        assert!(Cidr::new("::".parse().unwrap(), 0).unwrap().contains("fd00::1".parse().unwrap()));
        assert!(Cidr::new("10.0.0.0".parse().unwrap(), 33).is_err());
    }
}
