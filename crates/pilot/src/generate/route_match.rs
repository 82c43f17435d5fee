//! What a route of a VirtualService takes, as Envoy matches it.
//!
//! Source: Istio `core/route/route.go` (TranslateRouteMatch, IsCatchAllRoute).

use super::wire;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use lateen_galley::istio::StringMatch;
use lateen_galley::istio::virtual_service::HttpMatchRequest;

/// Header names that begin so are not headers but claims of a request's token.
const CLAIMS: &str = "@request.auth.claims";

/// Everything.
pub fn everything() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }
}

/// What a match block takes; `None` if it asks for a token's claims, which no filter provides yet: such a block
/// never matches.
pub fn translate(block: &HttpMatchRequest) -> Option<RouteMatch> {
    if block.headers.keys().chain(block.without_headers.keys()).any(|name| name.starts_with(CLAIMS)) {
        return None;
    }
    let mut headers: Vec<HeaderMatcher> = block.headers.iter().map(|(name, value)| header(name, value)).collect();
    headers.extend(block.without_headers.iter().map(|(name, value)| HeaderMatcher {
        invert_match: true,
        // Envoy refuses this beside a presence match, where it would mean nothing.
        treat_missing_header_as_empty: !is_presence(value),
        ..header(name, value)
    }));
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    let pseudo = [(":method", &block.method), (":authority", &block.authority), (":scheme", &block.scheme)];
    headers.extend(pseudo.iter().filter_map(|(name, value)| Some(header(name, value.as_ref()?))));
    let path = match &block.uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(regex)) => PathSpecifier::SafeRegex(regex_matcher(regex)),
        Some(StringMatch::Present) | None => PathSpecifier::Prefix("/".to_owned()),
    };
    Some(RouteMatch {
        path_specifier: Some(path),
        case_sensitive: Some(wire::truth(!block.ignore_uri_case)),
        headers,
        query_parameters: block.query_params.iter().map(|(name, value)| query(name, value)).collect(),
        ..Default::default()
    })
}

/// Whether it takes every request.
pub fn is_everything(matches: &RouteMatch) -> bool {
    let path = match &matches.path_specifier {
        Some(PathSpecifier::Prefix(prefix) | PathSpecifier::PathSeparatedPrefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == ".*",
        _ => false,
    };
    path && matches.headers.is_empty() && matches.query_parameters.is_empty() && matches.dynamic_metadata.is_empty()
}

/// A regular expression in RE2's syntax, matched against the whole text.
pub fn regex_matcher(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..Default::default() }
}

/// `{}`, and `*`, which is no regular expression, stand for presence. So does an empty prefix, which Envoy refuses.
fn is_presence(value: &StringMatch) -> bool {
    match value {
        StringMatch::Present => true,
        StringMatch::Regex(regex) => regex == "*",
        StringMatch::Prefix(prefix) => prefix.is_empty(),
        StringMatch::Exact(_) => false,
    }
}

fn pattern(value: &StringMatch) -> Option<StringMatcher> {
    if is_presence(value) {
        return None;
    }
    let pattern = match value {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(regex) => MatchPattern::SafeRegex(regex_matcher(regex)),
        StringMatch::Present => return None,
    };
    Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}

fn header(name: &str, value: &StringMatch) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(match pattern(value) {
            Some(pattern) => HeaderMatchSpecifier::StringMatch(pattern),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
        ..Default::default()
    }
}

fn query(name: &str, value: &StringMatch) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(match pattern(value) {
            Some(pattern) => QueryParameterMatchSpecifier::StringMatch(pattern),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        }),
    }
}
