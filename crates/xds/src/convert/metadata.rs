//! Matchers on what filters found out.
//!
//! - reject: matchers without a value or path

use std::sync::Arc;

use envoy_types::pb::envoy::r#type::matcher::v3::{
    self as pb, double_matcher::MatchPattern as DoublePattern, list_matcher::MatchPattern as ListPattern,
    metadata_matcher::path_segment::Segment, value_matcher::MatchPattern,
};
use envoy_types::pb::envoy::r#type::v3::DoubleRange;
use lateen_traffic::metadata::{MetadataMatcher, ValueMatcher};

use super::matcher::string;
use super::reject::{At as _, Reject, each};

pub(super) fn metadata(value: pb::MetadataMatcher) -> Result<MetadataMatcher, Reject> {
    let pb::MetadataMatcher { filter, path, value, invert } = value;
    if filter.is_empty() {
        return Err(Reject::field("filter", "empty"));
    }
    let path: Vec<Arc<str>> = each("path", path, |segment| match segment.segment {
        Some(Segment::Key(key)) if !key.is_empty() => Ok(key.into()),
        Some(Segment::Key(_)) | None => Err(Reject::field("key", "empty")),
    })?;
    if path.is_empty() {
        return Err(Reject::field("path", "empty"));
    }
    let value = value.ok_or_else(|| Reject::field("value", "missing"))?;
    Ok(MetadataMatcher { filter: filter.into(), path: path.into(), value: self::value(value).at("value")?, invert })
}

fn value(value: pb::ValueMatcher) -> Result<ValueMatcher, Reject> {
    let pb::ValueMatcher { match_pattern } = value;
    Ok(match match_pattern {
        Some(MatchPattern::NullMatch(pb::value_matcher::NullMatch {})) => ValueMatcher::Null,
        Some(MatchPattern::DoubleMatch(pb::DoubleMatcher { match_pattern })) => match match_pattern {
            Some(DoublePattern::Exact(number)) => ValueMatcher::Number(number),
            Some(DoublePattern::Range(DoubleRange { start, end })) => ValueMatcher::Range(start, end),
            None => return Err(Reject::field("double_match", "no pattern")),
        },
        Some(MatchPattern::StringMatch(matcher)) => ValueMatcher::Text(string(matcher).at("string_match")?),
        Some(MatchPattern::BoolMatch(wanted)) => ValueMatcher::Bool(wanted),
        Some(MatchPattern::PresentMatch(wanted)) => ValueMatcher::Present(wanted),
        Some(MatchPattern::ListMatch(matcher)) => match matcher.match_pattern {
            Some(ListPattern::OneOf(one)) => {
                ValueMatcher::OneOf(Box::new(self::value(*one).at("one_of").at("list_match")?))
            }
            None => return Err(Reject::field("list_match", "no pattern")),
        },
        Some(MatchPattern::OrMatch(pb::OrMatcher { value_matchers })) => {
            if value_matchers.len() < 2 {
                return Err(Reject::field("or_match.value_matchers", "must be at least two"));
            }
            ValueMatcher::AnyOf(each("value_matchers", value_matchers, self::value).at("or_match")?.into())
        }
        None => return Err(Reject::new("no pattern")),
    })
}
