//! String, header and query matchers, header edits.
//!
//! - reject: custom matchers; malformed patterns, names and formats; edits of pseudo headers

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{self as core, header_value_option::HeaderAppendAction};
use envoy_types::pb::envoy::config::route::v3::{
    self as route, header_matcher::HeaderMatchSpecifier, query_parameter_matcher::QueryParameterMatchSpecifier,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{self as matcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::Int64Range;
use http::HeaderName;
use lateen_traffic::edit::{AddAction, HeaderAdd, HeaderEdits};
use lateen_traffic::format::Format;
use lateen_traffic::matcher::{HeaderCheck, HeaderMatcher, QueryMatcher, StringMatcher, StringPattern, full_regex};
use regex::Regex;

use super::reject::{At as _, Reject, each};

pub(super) fn string(value: matcher::StringMatcher) -> Result<StringMatcher, Reject> {
    let matcher::StringMatcher { ignore_case, match_pattern } = value;
    let pattern = match match_pattern {
        Some(MatchPattern::Exact(text)) => StringPattern::Exact(text),
        Some(MatchPattern::Prefix(text)) => StringPattern::Prefix(text),
        Some(MatchPattern::Suffix(text)) => StringPattern::Suffix(text),
        Some(MatchPattern::Contains(text)) => StringPattern::Contains(text),
        Some(MatchPattern::SafeRegex(pattern)) => StringPattern::Regex(regex(pattern).at("safe_regex")?),
        Some(MatchPattern::Custom(_)) => return Err(Reject::field("custom", "not supported yet")),
        None => return Err(Reject::new("no pattern")),
    };
    Ok(StringMatcher { pattern, ignore_case })
}

/// A pattern for whole values.
pub(super) fn regex(value: matcher::RegexMatcher) -> Result<Regex, Reject> {
    // There is one engine, of the same kind as RE2: linear in the input.
    let matcher::RegexMatcher { regex, engine_type: _ } = value;
    if regex.is_empty() {
        return Err(Reject::field("regex", "empty"));
    }
    full_regex(&regex).map_err(|e| Reject::field("regex", e))
}

/// A pattern for parts of a value, and what replaces them.
pub(super) fn substitution(value: matcher::RegexMatchAndSubstitute) -> Result<(Regex, String), Reject> {
    let matcher::RegexMatchAndSubstitute { pattern, substitution } = value;
    let matcher::RegexMatcher { regex, engine_type: _ } = pattern.ok_or_else(|| Reject::field("pattern", "missing"))?;
    let pattern =
        regex::RegexBuilder::new(&regex).size_limit(1 << 20).build().map_err(|e| Reject::field("pattern.regex", e))?;
    Ok((pattern, substitution))
}

pub(super) fn header(value: route::HeaderMatcher) -> Result<HeaderMatcher, Reject> {
    let route::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } = value;
    let of = |pattern, ignore_case| HeaderCheck::Value(StringMatcher { pattern, ignore_case });
    let check = match header_match_specifier {
        None => HeaderCheck::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => HeaderCheck::Present(present),
        Some(HeaderMatchSpecifier::StringMatch(value)) => HeaderCheck::Value(string(value).at("string_match")?),
        Some(HeaderMatchSpecifier::RangeMatch(Int64Range { start, end })) => HeaderCheck::Range { start, end },
        Some(HeaderMatchSpecifier::ExactMatch(text)) => of(StringPattern::Exact(text), false),
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => of(StringPattern::Prefix(text), false),
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => of(StringPattern::Suffix(text), false),
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => of(StringPattern::Contains(text), false),
        Some(HeaderMatchSpecifier::SafeRegexMatch(pattern)) => {
            of(StringPattern::Regex(regex(pattern).at("safe_regex_match")?), false)
        }
    };
    let name = field_name(&name).at("name")?;
    Ok(HeaderMatcher { name, check, invert: invert_match, missing_as_empty: treat_missing_header_as_empty })
}

pub(super) fn query(value: route::QueryParameterMatcher) -> Result<QueryMatcher, Reject> {
    let route::QueryParameterMatcher { name, query_parameter_match_specifier } = value;
    if name.is_empty() {
        return Err(Reject::field("name", "empty"));
    }
    Ok(match query_parameter_match_specifier {
        Some(QueryParameterMatchSpecifier::StringMatch(value)) => {
            QueryMatcher { name, value: Some(string(value).at("string_match")?), present: true }
        }
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => QueryMatcher { name, value: None, present },
        None => QueryMatcher { name, value: None, present: true },
    })
}

/// A header's or pseudo header's name in lower case.
pub(super) fn field_name(name: &str) -> Result<Arc<str>, Reject> {
    let plain = name.strip_prefix(':').unwrap_or(name);
    match HeaderName::from_bytes(plain.as_bytes()) {
        Ok(_) => Ok(name.to_ascii_lowercase().into()),
        Err(_) => Err(Reject::new(format_args!("{name:?} is no header name"))),
    }
}

/// The edits of one level. `to_add` and `to_remove` are the fields' names, for refusals.
pub(super) fn edits(
    (to_add, add): (&str, Vec<core::HeaderValueOption>),
    (to_remove, remove): (&str, Vec<String>),
) -> Result<HeaderEdits, Reject> {
    let remove = each(to_remove, remove, |name| {
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            return Err(Reject::new(":-prefixed or host headers may not be removed"));
        }
        field_name(&name)
    })?;
    Ok(HeaderEdits { remove, add: each(to_add, add, added)? })
}

fn added(option: core::HeaderValueOption) -> Result<HeaderAdd, Reject> {
    let core::HeaderValueOption { header, append, append_action, keep_empty_value } = option;
    let core::HeaderValue { key, value, raw_value } = header.ok_or_else(|| Reject::field("header", "missing"))?;
    if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
        return Err(Reject::field("header.key", ":-prefixed or host headers may not be modified"));
    }
    let name = field_name(&key).at("header.key")?;
    let value = match (value.is_empty(), raw_value.is_empty()) {
        (_, true) => value,
        (true, false) => String::from_utf8(raw_value)
            .map_err(|_| Reject::field("header.raw_value", "not UTF-8, which is not supported"))?,
        (false, false) => return Err(Reject::field("header", "both value and raw_value are set")),
    };
    let value = Format::parse(&value).map_err(|e| Reject::field("header.value", e))?;
    let action = match HeaderAppendAction::try_from(append_action) {
        Ok(action) => action,
        Err(_) => return Err(Reject::field("append_action", format_args!("{append_action} is not known"))),
    };
    let action = match (append, action) {
        (Some(_), action) if action != HeaderAppendAction::AppendIfExistsOrAdd => {
            return Err(Reject::field("append", "both append and append_action are set"));
        }
        (Some(append), _) if !append.value => AddAction::OverwriteIfExistsOrAdd,
        (_, HeaderAppendAction::AppendIfExistsOrAdd) => AddAction::AppendIfExistsOrAdd,
        (_, HeaderAppendAction::AddIfAbsent) => AddAction::AddIfAbsent,
        (_, HeaderAppendAction::OverwriteIfExistsOrAdd) => AddAction::OverwriteIfExistsOrAdd,
        (_, HeaderAppendAction::OverwriteIfExists) => AddAction::OverwriteIfExists,
    };
    Ok(HeaderAdd { name, value, action, keep_empty: keep_empty_value })
}
