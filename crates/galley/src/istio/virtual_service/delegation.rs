//! A root's route and the routes of the VirtualService it delegates to, made one list.
//! Source: istio `pilot/pkg/model/virtualservice.go` (MergeHTTPRoutes).

use std::collections::BTreeMap;

use super::{HttpMatchRequest, HttpRoute};
use crate::istio::StringMatch;

/// What becomes of a delegating route.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delegated {
    /// In the delegate's order; what a delegate's route leaves open is the root's.
    pub routes: Vec<HttpRoute>,
    /// Indices of the delegate's routes whose matches go beyond the root's: they are left out.
    pub conflicts: Vec<usize>,
}

/// Puts a delegate's routes in place of the root's route. Gateways of matches are compared as they are written.
pub fn delegated(root: &HttpRoute, delegate: &[HttpRoute]) -> Delegated {
    let mut all = Delegated::default();
    for (index, route) in delegate.iter().enumerate() {
        match matches(&root.matches, &route.matches) {
            Some(matches) => all.routes.push(merged(root, route, matches)),
            None => all.conflicts.push(index),
        }
    }
    all
}

fn merged(root: &HttpRoute, delegate: &HttpRoute, matches: Vec<HttpMatchRequest>) -> HttpRoute {
    let headers = delegate.header_edits();
    let HttpRoute {
        name,
        matches: _,
        route,
        redirect,
        direct_response,
        delegate: _,
        rewrite,
        timeout,
        retries,
        fault,
        mirror,
        mirrors,
        mirror_percent,
        mirror_percentage,
        cors_policy,
        headers: _,
        websocket_upgrade: _,
        append_headers: _,
        append_request_headers: _,
        remove_request_headers: _,
        append_response_headers: _,
        remove_response_headers: _,
    } = delegate.clone();
    let root_headers = root.header_edits();
    let root = root.clone();
    HttpRoute {
        name: joined(&root.name, name),
        matches,
        route,
        redirect,
        direct_response: direct_response.or(root.direct_response),
        delegate: None,
        rewrite: rewrite.or(root.rewrite),
        timeout: timeout.or(root.timeout),
        retries: retries.or(root.retries),
        fault: fault.or(root.fault),
        mirror: mirror.or(root.mirror),
        mirrors: if mirrors.is_empty() { root.mirrors } else { mirrors },
        mirror_percent: mirror_percent.or(root.mirror_percent),
        mirror_percentage: mirror_percentage.or(root.mirror_percentage),
        cors_policy: cors_policy.or(root.cors_policy),
        headers: headers.or(root_headers),
        ..HttpRoute::default()
    }
}

fn joined(root: &str, own: String) -> String {
    match (root, own.as_str()) {
        (_, "") => root.to_owned(),
        ("", _) => own,
        (root, own) => format!("{root}-{own}"),
    }
}

/// What both take; none if a block of the delegate's lies in none of the root's.
fn matches(root: &[HttpMatchRequest], own: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() || own.is_empty() {
        return Some(if root.is_empty() { own } else { root }.to_vec());
    }
    let mut all = Vec::new();
    for block in own {
        let before = all.len();
        all.extend(root.iter().filter(|outer| !conflict(outer, block)).map(|outer| narrowed(outer, block)));
        if all.len() == before {
            return None;
        }
    }
    Some(all)
}

fn narrowed(root: &HttpMatchRequest, own: &HttpMatchRequest) -> HttpMatchRequest {
    fn both<T: Clone>(root: &BTreeMap<String, T>, own: &BTreeMap<String, T>) -> BTreeMap<String, T> {
        root.iter().chain(own).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
    let or = |own: &Option<StringMatch>, root: &Option<StringMatch>| own.clone().or_else(|| root.clone());
    let or_text = |own: &str, root: &str| if own.is_empty() { root } else { own }.to_owned();
    HttpMatchRequest {
        name: joined(&root.name, own.name.clone()),
        uri: or(&own.uri, &root.uri),
        scheme: or(&own.scheme, &root.scheme),
        method: or(&own.method, &root.method),
        authority: or(&own.authority, &root.authority),
        headers: both(&root.headers, &own.headers),
        port: if own.port == 0 { root.port } else { own.port },
        source_labels: both(&root.source_labels, &own.source_labels),
        gateways: if own.gateways.is_empty() { root.gateways.clone() } else { own.gateways.clone() },
        query_params: both(&root.query_params, &own.query_params),
        ignore_uri_case: own.ignore_uri_case,
        without_headers: both(&root.without_headers, &own.without_headers),
        source_namespace: or_text(&own.source_namespace, &root.source_namespace),
        stat_prefix: or_text(&own.stat_prefix, &root.stat_prefix),
    }
}

fn conflict(root: &HttpMatchRequest, own: &HttpMatchRequest) -> bool {
    let strings = [
        (&root.uri, &own.uri),
        (&root.scheme, &own.scheme),
        (&root.method, &own.method),
        (&root.authority, &own.authority),
    ];
    let maps = [
        (&root.headers, &own.headers),
        (&root.without_headers, &own.without_headers),
        (&root.query_params, &own.query_params),
    ];
    let apart = |root: Option<&StringMatch>, own: Option<&StringMatch>| match (root, own) {
        (Some(root), Some(own)) => !within(root, own),
        _ => false,
    };
    strings.iter().any(|(root, own)| apart(root.as_ref(), own.as_ref()))
        || maps.iter().any(|(root, own)| own.iter().any(|(name, value)| apart(root.get(name), Some(value))))
        || root.ignore_uri_case != own.ignore_uri_case
        || (root.port != 0 && own.port != 0 && root.port != own.port)
        || (!root.source_namespace.is_empty() && root.source_namespace != own.source_namespace)
        || own.source_labels.iter().any(|(name, value)| root.source_labels.get(name).is_some_and(|root| root != value))
        || (!root.gateways.is_empty()
            && (own.gateways.len() > root.gateways.len()
                || own.gateways.iter().any(|gateway| !root.gateways.contains(gateway))))
}

/// Whether all that `own` takes is certainly taken by `root`. Nothing is certain of expressions.
fn within(root: &StringMatch, own: &StringMatch) -> bool {
    match (root, own) {
        (StringMatch::Exact(root), StringMatch::Exact(own)) => root == own,
        (StringMatch::Prefix(root), StringMatch::Prefix(own) | StringMatch::Exact(own)) => own.starts_with(root),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
