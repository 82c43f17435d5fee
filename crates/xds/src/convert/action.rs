//! What routes do: forward, redirect, answer.
//!
//! - reject: internal redirects, hedging, high priority, rewrites by template, because requests would go elsewhere or
//!   more often than meant
//! - degrade: cluster specifier plugins (the route answers 500)
//! - note: metadata matches, rate limits, tuning of flushes and early data

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::RoutingPriority;
use envoy_types::pb::envoy::config::route::v3::{self as pb, redirect_action, route_action, weighted_cluster};
use lateen_traffic::route::{
    DirectResponse, Forward, HostRewrite, PathRewrite, Redirect, Target, WeightedBy, WeightedCluster,
};

use super::access_log::inline;
use super::address::{duration, port, text, timeout};
use super::matcher::{field_name, substitution};
use super::mirror::mirrors;
use super::overrides::{EditFields, overrides};
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};
use super::retry::retry_policy;

/// `None`: the cluster is chosen in a way that is not known.
pub(super) fn forward(action: pb::RouteAction, notes: &mut Notes) -> Result<Option<Forward>, Reject> {
    let pb::RouteAction {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout: route_timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy: retry,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = action;
    reject_if_set!(
        path_rewrite_policy,
        path_rewrite,
        retry_policy_typed_config,
        cors,
        grpc_timeout_offset,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
    );
    note_if_set!(notes, "RouteAction":
        metadata_match, flush_timeout, early_data_policy, rate_limits, include_vh_rate_limits);
    if priority != RoutingPriority::Default as i32 {
        return Err(Reject::field("priority", "only DEFAULT is supported"));
    }
    let mut weighted_by = WeightedBy::Chance;
    let target = match cluster_specifier {
        Some(route_action::ClusterSpecifier::Cluster(name)) => {
            if name.is_empty() {
                return Err(Reject::field("cluster", "empty"));
            }
            Target::Cluster(name.into())
        }
        Some(route_action::ClusterSpecifier::ClusterHeader(name)) => {
            Target::Header(field_name(&name).at("cluster_header")?)
        }
        Some(route_action::ClusterSpecifier::WeightedClusters(clusters)) => {
            let (clusters, by) = weighted(clusters, notes).at("weighted_clusters")?;
            weighted_by = by;
            Target::Weighted(clusters)
        }
        Some(
            route_action::ClusterSpecifier::ClusterSpecifierPlugin(_)
            | route_action::ClusterSpecifier::InlineClusterSpecifierPlugin(_),
        ) => return Ok(None),
        None => return Err(Reject::new("no cluster")),
    };
    use route_action::ClusterNotFoundResponseCode as NotFound;
    let cluster_not_found_status = match NotFound::try_from(cluster_not_found_response_code) {
        Ok(NotFound::ServiceUnavailable) => 503,
        Ok(NotFound::NotFound) => 404,
        Ok(NotFound::InternalServerError) => 500,
        Err(_) => {
            let reason = format_args!("{cluster_not_found_response_code} is not known");
            return Err(Reject::field("cluster_not_found_response_code", reason));
        }
    };
    let path_rewrite = match (prefix_rewrite.is_empty(), regex_rewrite) {
        (true, None) => PathRewrite::None,
        (false, None) => PathRewrite::Prefix(prefix_rewrite),
        (true, Some(rewrite)) => regex_path_rewrite(rewrite).at("regex_rewrite")?,
        (false, Some(_)) => return Err(Reject::field("regex_rewrite", "prefix_rewrite is set too")),
    };
    let host_rewrite = match host_rewrite_specifier {
        None => HostRewrite::None,
        Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host)) => HostRewrite::Literal(host.into()),
        Some(route_action::HostRewriteSpecifier::AutoHostRewrite(on)) if on.value => HostRewrite::Auto,
        Some(route_action::HostRewriteSpecifier::AutoHostRewrite(_)) => HostRewrite::None,
        Some(route_action::HostRewriteSpecifier::HostRewriteHeader(name)) => {
            HostRewrite::Header(field_name(&name).at("host_rewrite_header")?)
        }
        Some(route_action::HostRewriteSpecifier::HostRewritePathRegex(rewrite)) => {
            let (pattern, substitution) = substitution(rewrite).at("host_rewrite_path_regex")?;
            HostRewrite::Path { pattern, substitution }
        }
        Some(route_action::HostRewriteSpecifier::HostRewrite(_)) => {
            return Err(Reject::field("host_rewrite", "not supported yet"));
        }
    };
    let max_grpc_timeout = max_grpc_timeout.map(|value| duration("max_grpc_timeout", value)).transpose()?;
    let tells_grpc_timeout = max_grpc_timeout.is_some() && max_stream_duration.is_none();
    let (max_stream_duration, grpc_header_max) = match max_stream_duration {
        None => (None, None),
        Some(limits) => stream_duration(limits).at("max_stream_duration")?,
    };
    let (upgrades, terminate_connect) = upgrades(upgrade_configs)?;
    let defaults = Forward::default();
    Ok(Some(Forward {
        target,
        cluster_not_found_status,
        path_rewrite,
        host_rewrite,
        append_x_forwarded_host,
        timeout: timeout("timeout", route_timeout)?.unwrap_or(defaults.timeout),
        // The newer field wins, as in Envoy.
        max_grpc_timeout: grpc_header_max.or(max_grpc_timeout),
        tells_grpc_timeout,
        idle_timeout: timeout("idle_timeout", idle_timeout)?,
        max_stream_duration,
        retry: retry.map(|policy| retry_policy(policy, notes)).transpose().at("retry_policy")?.map(Arc::new),
        mirrors: mirrors(request_mirror_policies, notes)?,
        upgrades,
        terminate_connect,
        hash_policies: each("hash_policy", hash_policy, super::hash_policy::hash_policy)?
            .into_iter()
            .flatten()
            .collect(),
        weighted_by,
    }))
}

type StreamLimits = (Option<Option<Duration>>, Option<Duration>);

fn stream_duration(limits: route_action::MaxStreamDuration) -> Result<StreamLimits, Reject> {
    let route_action::MaxStreamDuration { max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset } =
        limits;
    reject_if_set!(grpc_timeout_header_offset);
    let header_max = grpc_timeout_header_max.map(|value| duration("grpc_timeout_header_max", value)).transpose()?;
    Ok((timeout("max_stream_duration", max_stream_duration)?, header_max))
}

type Upgrades = (Vec<(Arc<str>, bool)>, bool);

fn upgrades(configs: Vec<route_action::UpgradeConfig>) -> Result<Upgrades, Reject> {
    let mut terminate_connect = false;
    let upgrades = each("upgrade_configs", configs, |config| {
        let route_action::UpgradeConfig { upgrade_type, enabled, connect_config } = config;
        if upgrade_type.is_empty() {
            return Err(Reject::field("upgrade_type", "empty"));
        }
        if let Some(route_action::upgrade_config::ConnectConfig { proxy_protocol_config, allow_post }) = connect_config
        {
            reject_if_set!(proxy_protocol_config, allow_post);
            if !upgrade_type.eq_ignore_ascii_case("CONNECT") {
                return Err(Reject::field("connect_config", "only for upgrade_type CONNECT"));
            }
            terminate_connect = true;
        }
        Ok((upgrade_type.to_ascii_lowercase().into(), enabled.is_none_or(|on| on.value)))
    })?;
    Ok((upgrades, terminate_connect))
}

fn weighted(value: pb::WeightedCluster, notes: &mut Notes) -> Result<(Vec<WeightedCluster>, WeightedBy), Reject> {
    let pb::WeightedCluster { clusters, total_weight, runtime_key_prefix, random_value_specifier } = value;
    use weighted_cluster::RandomValueSpecifier as By;
    let by = match random_value_specifier {
        Some(By::HeaderName(name)) if !name.is_empty() => WeightedBy::Header(field_name(&name).at("header_name")?),
        Some(By::UseHashPolicy(on)) if on.value => WeightedBy::Hash,
        Some(By::HeaderName(_) | By::UseHashPolicy(_)) | None => WeightedBy::Chance,
    };
    note_if_set!(notes, "WeightedCluster": total_weight, runtime_key_prefix);
    let clusters = each("clusters", clusters, |cluster| cluster_weight(cluster, notes))?;
    let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    if total == 0 {
        return Err(Reject::new("Sum of weights in the weighted_cluster must be greater than 0."));
    }
    if total > u64::from(u32::MAX) {
        return Err(Reject::new(format_args!("the sum of the weights, {total}, is more than {}", u32::MAX)));
    }
    Ok((clusters, by))
}

fn cluster_weight(value: weighted_cluster::ClusterWeight, notes: &mut Notes) -> Result<WeightedCluster, Reject> {
    let weighted_cluster::ClusterWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = value;
    reject_if_set!(cluster_header);
    note_if_set!(notes, "ClusterWeight": metadata_match);
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
    Ok(WeightedCluster {
        name: name.into(),
        weight: weight.map_or(0, |weight| weight.value),
        request_edits,
        response_edits,
        host_rewrite: host_rewrite_specifier
            .map(|weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)| host.into()),
        filters,
    })
}

fn regex_path_rewrite(
    value: envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute,
) -> Result<PathRewrite, Reject> {
    let (pattern, substitution) = substitution(value)?;
    Ok(PathRewrite::Regex { pattern, substitution })
}

pub(super) fn redirect(action: pb::RedirectAction) -> Result<Redirect, Reject> {
    let pb::RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = action;
    use redirect_action::RedirectResponseCode as Code;
    let status = match Code::try_from(response_code) {
        Ok(Code::MovedPermanently) => 301,
        Ok(Code::Found) => 302,
        Ok(Code::SeeOther) => 303,
        Ok(Code::TemporaryRedirect) => 307,
        Ok(Code::PermanentRedirect) => 308,
        Err(_) => return Err(Reject::field("response_code", format_args!("{response_code} is not known"))),
    };
    let scheme = match scheme_rewrite_specifier {
        None | Some(redirect_action::SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(redirect_action::SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(redirect_action::SchemeRewriteSpecifier::SchemeRedirect(scheme)) => text(scheme),
    };
    let (path, path_rewrite) = match path_rewrite_specifier {
        None => (None, PathRewrite::None),
        Some(redirect_action::PathRewriteSpecifier::PathRedirect(path)) => (text(path), PathRewrite::None),
        Some(redirect_action::PathRewriteSpecifier::PrefixRewrite(prefix)) => (None, PathRewrite::Prefix(prefix)),
        Some(redirect_action::PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            (None, regex_path_rewrite(rewrite).at("regex_rewrite")?)
        }
        Some(redirect_action::PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(Reject::field("path_rewrite", "not supported yet"));
        }
    };
    let port = match port_redirect {
        0 => None,
        value => Some(port("port_redirect", value)?),
    };
    Ok(Redirect { status, scheme, host: text(host_redirect), port, path, path_rewrite, strip_query })
}

/// `limit`: the largest body allowed, in bytes.
pub(super) fn direct_response(action: pb::DirectResponseAction, limit: usize) -> Result<DirectResponse, Reject> {
    let pb::DirectResponseAction { status, body, body_format } = action;
    reject_if_set!(body_format);
    let status = match u16::try_from(status) {
        Ok(status) if (200..600).contains(&status) => status,
        _ => return Err(Reject::field("status", format_args!("{status} is not in 200..600"))),
    };
    let body = body.map(inline).transpose().at("body")?.unwrap_or_default();
    if body.len() > limit {
        let reason = format_args!("response body size is {} bytes; maximum is {limit}", body.len());
        return Err(Reject::field("body", reason));
    }
    Ok(DirectResponse { status, body: Bytes::from(body) })
}
