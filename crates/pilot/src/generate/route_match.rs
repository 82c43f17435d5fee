//! What a route of a VirtualService takes, as Envoy matches it.
//!
//! Source: Istio `core/route/route.go` (TranslateRouteMatch, IsCatchAllRoute).

use super::{request_authentication, wire};
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, RegexMatcher, StringMatcher, ValueMatcher,
    list_matcher::MatchPattern as ListPattern, metadata_matcher::PathSegment, metadata_matcher::path_segment::Segment,
    string_matcher::MatchPattern, value_matcher::MatchPattern as ValuePattern,
};
use lateen_galley::istio::StringMatch;
use lateen_galley::istio::virtual_service::HttpMatchRequest;

/// Header names that begin so are not headers but claims of a request's token.
const CLAIMS: &str = "@request.auth.claims";

/// Everything.
pub fn everything() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }
}

/// What a match block takes; `None` if it names a token's claim in no way there is: such a block never matches.
pub fn translate(block: &HttpMatchRequest) -> Option<RouteMatch> {
    let mut dynamic_metadata = Vec::new();
    for (name, value) in block.headers.iter().filter(|(name, _)| is_claim(name)) {
        dynamic_metadata.push(claim(name, value, false)?);
    }
    for (name, value) in block.without_headers.iter().filter(|(name, _)| is_claim(name)) {
        dynamic_metadata.push(claim(name, value, true)?);
    }
    let (plain, without) = (block.headers.iter(), block.without_headers.iter());
    let mut headers: Vec<HeaderMatcher> =
        plain.filter(|(name, _)| !is_claim(name)).map(|(name, value)| header(name, value)).collect();
    headers.extend(without.filter(|(name, _)| !is_claim(name)).map(|(name, value)| HeaderMatcher {
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
        dynamic_metadata,
        query_parameters: block.query_params.iter().map(|(name, value)| query(name, value)).collect(),
        ..Default::default()
    })
}

fn is_claim(name: &str) -> bool {
    name.get(..CLAIMS.len()).is_some_and(|head| head.eq_ignore_ascii_case(CLAIMS))
}

/// `@request.auth.claims.a.b`, or `@request.auth.claims[a][b]` where names have dots. A claim may be a list or a text.
fn claim(name: &str, value: &StringMatch, invert: bool) -> Option<MetadataMatcher> {
    let path = name.get(CLAIMS.len()..)?;
    let names: Vec<&str> = match path.strip_prefix('.') {
        Some(dotted) => dotted.split('.').collect(),
        None => path.strip_prefix('[')?.strip_suffix(']')?.split("][").collect(),
    };
    if names.iter().any(|name| name.is_empty()) {
        return None;
    }
    let segment = |key: &str| PathSegment { segment: Some(Segment::Key(key.to_owned())) };
    let of = |pattern| ValueMatcher { match_pattern: Some(pattern) };
    let value = match pattern(value) {
        None => of(ValuePattern::PresentMatch(true)),
        Some(text) => {
            let text = of(ValuePattern::StringMatch(text));
            let one_of = ListMatcher { match_pattern: Some(ListPattern::OneOf(Box::new(text.clone()))) };
            let listed = of(ValuePattern::ListMatch(Box::new(one_of)));
            of(ValuePattern::OrMatch(OrMatcher { value_matchers: vec![listed, text] }))
        }
    };
    Some(MetadataMatcher {
        filter: request_authentication::FILTER.to_owned(),
        path: [request_authentication::PAYLOAD].into_iter().chain(names).map(segment).collect(),
        value: Some(value),
        invert,
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
