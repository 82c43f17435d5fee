//! Outlier detection of clusters.
//!
//! - reject: monitors by extension, degrading hosts by what they answer, failures told by other than a response's head

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::common::matcher::v3::{HttpHeadersMatch, MatchPredicate, match_predicate::Rule};
use envoy_types::pb::google::protobuf::{BoolValue, Duration as ProtoDuration, UInt32Value};
use lateen_traffic::outlier::{Enforcing, ErrorMatch, FailurePercentage, OutlierDetection, SuccessRate};

use super::address::duration;
use super::matcher;
use super::reject::{At as _, Reject, each, reject_if_set};

pub(super) fn outlier(value: pb::OutlierDetection) -> Result<OutlierDetection, Reject> {
    let pb::OutlierDetection {
        consecutive_5xx,
        interval,
        base_ejection_time,
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        failure_percentage_threshold,
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
        max_ejection_time,
        max_ejection_time_jitter,
        successful_active_health_check_uneject_host,
        monitors,
        always_eject_one_host,
        detect_degraded_hosts,
    } = value;
    reject_if_set!(monitors);
    if flag(detect_degraded_hosts, false) {
        return Err(Reject::field("detect_degraded_hosts", "not supported yet"));
    }
    let defaults = OutlierDetection::default();
    let base_ejection_time = time("base_ejection_time", base_ejection_time, defaults.base_ejection_time)?;
    let longest = defaults.max_ejection_time.max(base_ejection_time);
    let max_ejection_time = time("max_ejection_time", max_ejection_time, longest)?;
    if max_ejection_time < base_ejection_time {
        return Err(Reject::field("max_ejection_time", "is less than base_ejection_time"));
    }
    let jitter = max_ejection_time_jitter.map(|value| duration("max_ejection_time_jitter", value)).transpose()?;
    let (enforcing, rate, share) = (defaults.enforcing, defaults.success_rate, defaults.failure_percentage);
    let percent = |field: &str, value: Option<UInt32Value>, default: u32| match number(value, default) {
        value @ 0..=100 => Ok(value),
        value => Err(Reject::field(field, format_args!("{value} is no percentage"))),
    };
    Ok(OutlierDetection {
        consecutive_5xx: number(consecutive_5xx, defaults.consecutive_5xx),
        consecutive_gateway_failure: number(consecutive_gateway_failure, defaults.consecutive_gateway_failure),
        split_local_origin: split_external_local_origin_errors,
        consecutive_local_origin_failure: number(
            consecutive_local_origin_failure,
            defaults.consecutive_local_origin_failure,
        ),
        interval: time("interval", interval, defaults.interval)?,
        base_ejection_time,
        max_ejection_time,
        max_ejection_time_jitter: jitter.unwrap_or_default(),
        max_ejection_percent: percent("max_ejection_percent", max_ejection_percent, defaults.max_ejection_percent)?,
        always_eject_one_host: flag(always_eject_one_host, false),
        enforcing: Enforcing {
            consecutive_5xx: percent(
                "enforcing_consecutive_5xx",
                enforcing_consecutive_5xx,
                enforcing.consecutive_5xx,
            )?,
            consecutive_gateway_failure: percent(
                "enforcing_consecutive_gateway_failure",
                enforcing_consecutive_gateway_failure,
                enforcing.consecutive_gateway_failure,
            )?,
            consecutive_local_origin_failure: percent(
                "enforcing_consecutive_local_origin_failure",
                enforcing_consecutive_local_origin_failure,
                enforcing.consecutive_local_origin_failure,
            )?,
            success_rate: percent("enforcing_success_rate", enforcing_success_rate, enforcing.success_rate)?,
            local_origin_success_rate: percent(
                "enforcing_local_origin_success_rate",
                enforcing_local_origin_success_rate,
                enforcing.local_origin_success_rate,
            )?,
            failure_percentage: percent(
                "enforcing_failure_percentage",
                enforcing_failure_percentage,
                enforcing.failure_percentage,
            )?,
            local_origin_failure_percentage: percent(
                "enforcing_failure_percentage_local_origin",
                enforcing_failure_percentage_local_origin,
                enforcing.local_origin_failure_percentage,
            )?,
        },
        success_rate: SuccessRate {
            minimum_hosts: number(success_rate_minimum_hosts, rate.minimum_hosts),
            request_volume: number(success_rate_request_volume, rate.request_volume),
            stdev_factor: number(success_rate_stdev_factor, rate.stdev_factor),
        },
        failure_percentage: FailurePercentage {
            threshold: percent("failure_percentage_threshold", failure_percentage_threshold, share.threshold)?,
            minimum_hosts: number(failure_percentage_minimum_hosts, share.minimum_hosts),
            request_volume: number(failure_percentage_request_volume, share.request_volume),
        },
        active_check_ends_ejection: flag(
            successful_active_health_check_uneject_host,
            defaults.active_check_ends_ejection,
        ),
    })
}

fn number(value: Option<UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

fn flag(value: Option<BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

fn time(field: &str, value: Option<ProtoDuration>, default: Duration) -> Result<Duration, Reject> {
    match value.map(|value| duration(field, value)).transpose()? {
        Some(Duration::ZERO) => Err(Reject::field(field, "must be above 0")),
        value => Ok(value.unwrap_or(default)),
    }
}

/// Which answers are failures.
pub(super) fn error_match(value: MatchPredicate) -> Result<ErrorMatch, Reject> {
    let MatchPredicate { rule } = value;
    match rule {
        Some(Rule::OrMatch(set)) => Ok(ErrorMatch::Any(each("or_match.rules", set.rules, error_match)?)),
        Some(Rule::AndMatch(set)) => Ok(ErrorMatch::All(each("and_match.rules", set.rules, error_match)?)),
        Some(Rule::NotMatch(rule)) => Ok(ErrorMatch::Not(Box::new(error_match(*rule).at("not_match")?))),
        Some(Rule::AnyMatch(_)) => Ok(ErrorMatch::Always),
        Some(Rule::HttpResponseHeadersMatch(HttpHeadersMatch { headers })) => {
            Ok(ErrorMatch::Headers(each("http_response_headers_match.headers", headers, matcher::header)?))
        }
        Some(
            Rule::HttpRequestHeadersMatch(_)
            | Rule::HttpRequestTrailersMatch(_)
            | Rule::HttpResponseTrailersMatch(_)
            | Rule::HttpRequestGenericBodyMatch(_)
            | Rule::HttpResponseGenericBodyMatch(_),
        ) => Err(Reject::new("only headers of responses are matched")),
        None => Err(Reject::new("no rule")),
    }
}
