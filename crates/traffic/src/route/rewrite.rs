//! What becomes of a path and a host when a route rewrites or redirects.

use super::{PathMatch, PathRewrite, Redirect, RouteMatch};
use crate::message::RequestHead;

/// A rewritten path.
pub type Rewritten = String;

/// The path (and query) after `rewrite`, or `None` when it stays as it is.
pub fn rewrite_path(path: &str, matched: &RouteMatch, rewrite: &PathRewrite) -> Option<Rewritten> {
    let (only, rest) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
    match rewrite {
        PathRewrite::None => None,
        PathRewrite::Prefix(new) => {
            let consumed = match &matched.path {
                PathMatch::Prefix(p) | PathMatch::SegmentPrefix(p) => p.len().min(path.len()),
                PathMatch::Exact(_) | PathMatch::Regex(_) => only.len(),
                PathMatch::Connect => return None,
            };
            Some(format!("{new}{}", path.get(consumed..)?))
        }
        PathRewrite::Regex { pattern, substitution } => {
            Some(format!("{}{rest}", substitute(only, pattern, substitution)))
        }
    }
}

/// All matches of `pattern` replaced; `\1` refers to a group.
pub fn substitute(text: &str, pattern: &regex::Regex, substitution: &str) -> String {
    pattern.replace_all(text, expand_groups(substitution).as_str()).into_owned()
}

/// RE2 writes groups as `\1`, the regex crate as `${1}`; `$` stands for itself in RE2.
fn expand_groups(substitution: &str) -> String {
    let mut out = String::with_capacity(substitution.len() + 8);
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(d) if d.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(d);
                    out.push('}');
                }
                Some('\\') => out.push('\\'),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

/// The `location` of an answer that a route gives itself: as in Envoy, what says that something is elsewhere, or was
/// created, says that it is where it was asked for.
pub fn direct_location(request: &RequestHead, status: u16) -> Option<String> {
    let says = status == 201 || (300..400).contains(&status);
    says.then(|| format!("{}://{}{}", request.scheme, request.authority, request.path))
}

/// The `location` of a redirect.
pub fn redirect_location(request: &RequestHead, matched: &RouteMatch, redirect: &Redirect) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(&request.scheme);
    let host = match (&redirect.host, redirect.port) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_string(),
        (None, Some(port)) => format!("{}:{port}", super::without_port(&request.authority)),
        // Only a change of the scheme drops the port that was the old scheme's default.
        (None, None) => {
            let default = match (request.scheme.as_str(), scheme) {
                ("http", "https") => ":80",
                ("https", "http") => ":443",
                _ => "",
            };
            let authority = request.authority.as_str();
            if default.is_empty() { authority } else { authority.strip_suffix(default).unwrap_or(authority) }.to_owned()
        }
    };
    let (only, query) = match request.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (request.path.as_str(), None),
    };
    let path = match &redirect.path {
        Some(new) => new.to_string(),
        None => rewrite_path(only, matched, &redirect.path_rewrite).unwrap_or_else(|| only.to_owned()),
    };
    // A query that the configuration wrote stands in place of the request's.
    let own_query = redirect.path.as_ref().is_some_and(|new| new.contains('?'));
    match query {
        Some(query) if !redirect.strip_query && !own_query => format!("{scheme}://{host}{path}?{query}"),
        _ => format!("{scheme}://{host}{path}"),
    }
}
