//! Route configurations, virtual hosts, routes and what they match.
//!
//! - reject: matches on cookies, TLS and filter state, because a route would take what is not its own;
//!   matcher trees, on-demand hosts, hedging
//! - degrade: routes whose action is not known (they answer 500)
//! - note: statistics, metadata, tracing, rate-limit descriptors (there is no rate-limit filter), buffer limits

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::{
    self as pb, route::Action as PbAction, route_match::PathSpecifier, virtual_host::TlsRequirementType,
};
use lateen_traffic::route::{
    Action, DirectResponse, PathMatch, RequireTls, Route, RouteConfig, RouteMatch, VirtualHost,
};

use super::action::{direct_response, forward, redirect};
use super::address::per_million;
use super::matcher::{field_name, header, query, regex};
use super::metadata::metadata;
use super::mirror::mirrors;
use super::overrides::{EditFields, overrides};
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};
use super::retry::retry_policy;

/// Envoy's limit on the body of a direct response, in bytes, unless the route configuration sets another.
const DEFAULT_DIRECT_RESPONSE_BYTES: usize = 4096;

/// Converts a route configuration, inline or from RDS.
pub fn route_config(config: pb::RouteConfiguration, notes: &mut Notes) -> Result<RouteConfig, Reject> {
    let pb::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = config;
    reject_if_set!(
        vhds,
        cluster_specifier_plugins,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        route_specifiers,
    );
    // A route to a missing cluster answers 503 when it is used.
    notes.add_if(validate_clusters.is_some_and(|on| on.value), "RouteConfiguration.validate_clusters");
    note_if_set!(notes, "RouteConfiguration": metadata);
    let filters = overrides(typed_per_filter_config, notes)?;
    let (request_edits, response_edits) = EditFields {
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
    }
    .convert()?;
    let direct_bytes =
        max_direct_response_body_size_bytes.map_or(DEFAULT_DIRECT_RESPONSE_BYTES, |limit| limit.value as usize);
    let mut names = HashSet::new();
    let virtual_hosts = each("virtual_hosts", virtual_hosts, |host| {
        if !names.insert(host.name.clone()) {
            return Err(Reject::field("name", format_args!("a second virtual host {:?}", host.name)));
        }
        virtual_host(host, direct_bytes, notes).map(Arc::new)
    })?;
    let config = RouteConfig {
        name: name.into(),
        virtual_hosts,
        ignore_port: ignore_port_in_host_matching,
        filters,
        request_edits,
        response_edits,
        most_specific_edits_win: most_specific_header_mutations_wins,
        internal_only_headers: each("internal_only_headers", internal_only_headers, |name| field_name(&name))?,
        mirrors: mirrors(request_mirror_policies, notes)?,
        ..RouteConfig::default()
    };
    config.index().map_err(Reject::new)
}

fn virtual_host(host: pb::VirtualHost, direct_bytes: usize, notes: &mut Notes) -> Result<VirtualHost, Reject> {
    let pb::VirtualHost {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy: retry,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = host;
    reject_if_set!(matcher, cors, retry_policy_typed_config, hedge_policy, route_specifiers);
    note_if_set!(notes, "VirtualHost":
        virtual_clusters, rate_limits, include_is_timeout_retry_header, per_request_buffer_limit_bytes,
        request_body_buffer_limit, metadata);
    let filters = overrides(typed_per_filter_config, notes)?;
    let (request_edits, response_edits) = EditFields {
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
    }
    .convert()?;
    if name.is_empty() {
        return Err(Reject::field("name", "empty"));
    }
    if domains.is_empty() {
        return Err(Reject::field("domains", "empty"));
    }
    let require_tls = match TlsRequirementType::try_from(require_tls) {
        Ok(TlsRequirementType::None) => RequireTls::None,
        Ok(TlsRequirementType::ExternalOnly) => RequireTls::ExternalOnly,
        Ok(TlsRequirementType::All) => RequireTls::All,
        Err(_) => return Err(Reject::field("require_tls", format_args!("{require_tls} is not known"))),
    };
    Ok(VirtualHost {
        routes: each("routes", routes, |one| route(&name, one, direct_bytes, notes).map(Arc::new))?,
        name: name.into(),
        domains: each("domains", domains, domain)?,
        require_tls,
        request_edits,
        response_edits,
        attempt_count_in_request: include_request_attempt_count,
        attempt_count_in_response: include_attempt_count_in_response,
        retry: retry.map(|policy| retry_policy(policy, notes)).transpose().at("retry_policy")?.map(Arc::new),
        mirrors: mirrors(request_mirror_policies, notes)?,
        filters,
    })
}

fn domain(domain: String) -> Result<String, Reject> {
    if domain.is_empty() || domain.contains(['\r', '\n', '\0']) {
        return Err(Reject::new(format_args!("{domain:?} is no domain")));
    }
    Ok(domain)
}

fn route(host: &str, route: pb::Route, direct_bytes: usize, notes: &mut Notes) -> Result<Route, Reject> {
    let pb::Route {
        name,
        r#match,
        metadata,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = route;
    reject_if_set!(route_specifiers);
    note_if_set!(notes, "Route":
        metadata, tracing, per_request_buffer_limit_bytes, request_body_buffer_limit);
    let filters = overrides(typed_per_filter_config, notes)?;
    let (request_edits, response_edits) = EditFields {
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
    }
    .convert()?;
    let matches = route_match(r#match.ok_or_else(|| Reject::field("match", "missing"))?, notes).at("match")?;
    let action = match action {
        Some(PbAction::Route(action)) => match forward(action, notes).at("route")? {
            Some(forward) => Action::Forward(Arc::new(forward)),
            None => unknown_action(notes),
        },
        Some(PbAction::Redirect(action)) => Action::Redirect(Arc::new(redirect(action).at("redirect")?)),
        Some(PbAction::DirectResponse(action)) => {
            Action::Direct(Arc::new(direct_response(action, direct_bytes).at("direct_response")?))
        }
        Some(PbAction::FilterAction(_) | PbAction::NonForwardingAction(_)) => unknown_action(notes),
        None => return Err(Reject::new("no action")),
    };
    Ok(Route {
        name: name.into(),
        matches,
        action,
        stats: (!stat_prefix.is_empty()).then(|| format!("{host}.route.{stat_prefix}").into()),
        request_edits,
        response_edits,
        decorator: decorator.and_then(|decorator| {
            let pb::Decorator { operation, propagate } = decorator;
            propagate.is_none_or(|on| on.value).then(|| operation.into())
        }),
        filters,
    })
}

fn unknown_action(notes: &mut Notes) -> Action {
    notes.add("Route.action");
    Action::Direct(Arc::new(DirectResponse { status: 500, body: Bytes::new() }))
}

pub(super) fn route_match(value: pb::RouteMatch, notes: &mut Notes) -> Result<RouteMatch, Reject> {
    let pb::RouteMatch {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = value;
    reject_if_set!(cookies, tls_context, filter_state);
    let path = match path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path),
        Some(PathSpecifier::SafeRegex(pattern)) => PathMatch::Regex(regex(pattern).at("safe_regex")?),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/') || prefix.len() < 2 || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                return Err(Reject::field("path_separated_prefix", format_args!("{prefix:?} is no path of segments")));
            }
            PathMatch::SegmentPrefix(prefix)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => PathMatch::Connect,
        Some(PathSpecifier::PathMatchPolicy(_)) => return Err(Reject::field("path_match_policy", "not supported yet")),
        None => return Err(Reject::new("no path specifier")),
    };
    let fraction = match runtime_fraction {
        Some(RuntimeFractionalPercent { default_value, runtime_key }) => {
            note_if_set!(notes, "RouteMatch.runtime_fraction": runtime_key);
            default_value.map(per_million).transpose().at("runtime_fraction.default_value")?
        }
        None => None,
    };
    Ok(RouteMatch {
        path,
        case_sensitive: case_sensitive.is_none_or(|on| on.value),
        headers: each("headers", headers, header)?,
        query: each("query_parameters", query_parameters, query)?,
        metadata: each("dynamic_metadata", dynamic_metadata, metadata)?,
        grpc: grpc.is_some(),
        fraction,
    })
}
