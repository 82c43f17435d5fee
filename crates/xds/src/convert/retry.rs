//! Retry policies of routes and virtual hosts.
//!
//! - reject: retry predicates and priorities other than those named, because requests would go elsewhere or more often
//!   than meant
//! - note: words that `retry_on` does not know, which Envoy passes over too

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::{self as pb, retry_policy as pb_retry};
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use lateen_traffic::retry::{PauseHeader, PauseUnit, RetryOn, RetryPolicy, ToldPause};

use super::address::{duration, timeout, type_name, unpack};
use super::matcher::{field_name, header};
use super::reject::{At as _, Notes, Reject, each, reject_if_set};

pub(super) fn retry_policy(policy: pb::RetryPolicy, notes: &mut Notes) -> Result<RetryPolicy, Reject> {
    let pb::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = policy;
    reject_if_set!(retry_options_predicates, refresh_cluster_on_retry);
    let (on, unknown) = RetryOn::parse(&retry_on);
    notes.add_if(!unknown.is_empty(), "RetryPolicy.retry_on");
    let mut avoid_previous_hosts = false;
    each("retry_host_predicate", retry_host_predicate, |predicate| {
        let pb_retry::RetryHostPredicate { name: _, config_type } = predicate;
        let Some(pb_retry::retry_host_predicate::ConfigType::TypedConfig(any)) = config_type else {
            return Err(Reject::field("typed_config", "missing"));
        };
        match type_name(&any.type_url) {
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" => {
                avoid_previous_hosts = true;
                Ok(())
            }
            other => Err(Reject::field("typed_config", format_args!("{other} is not supported yet"))),
        }
    })?;
    let status_codes = each("retriable_status_codes", retriable_status_codes, |code| {
        u16::try_from(code).map_err(|_| Reject::new(format_args!("{code} is no status code")))
    })?;
    let defaults = RetryPolicy::default();
    let (base_interval, max_interval) = match retry_back_off {
        None => (defaults.base_interval, defaults.max_interval),
        Some(back_off) => intervals(back_off).at("retry_back_off")?,
    };
    Ok(RetryPolicy {
        on,
        status_codes,
        headers: each("retriable_headers", retriable_headers, header)?,
        request_headers: each("retriable_request_headers", retriable_request_headers, header)?,
        num_retries: num_retries.map_or(defaults.num_retries, |retries| retries.value),
        per_try_timeout: timeout("per_try_timeout", per_try_timeout)?.flatten(),
        per_try_idle_timeout: timeout("per_try_idle_timeout", per_try_idle_timeout)?.flatten(),
        base_interval,
        max_interval,
        told_pause: rate_limited_retry_back_off.map(told_pause).transpose().at("rate_limited_retry_back_off")?,
        avoid_previous_hosts,
        host_selection_attempts: match host_selection_retry_max_attempts {
            // Envoy's default.
            0 => 1,
            attempts => u32::try_from(attempts).unwrap_or(1),
        },
        leave_priorities_after: retry_priority.map(previous_priorities).transpose().at("retry_priority")?,
    })
}

fn intervals(back_off: pb_retry::RetryBackOff) -> Result<(Duration, Duration), Reject> {
    let pb_retry::RetryBackOff { base_interval, max_interval } = back_off;
    let base = base_interval.ok_or_else(|| Reject::field("base_interval", "missing"))?;
    let base = duration("base_interval", base)?;
    let max = max_interval.map(|value| duration("max_interval", value)).transpose()?;
    let max = max.unwrap_or(base.saturating_mul(10));
    if base.is_zero() || max < base {
        return Err(Reject::new("intervals must be above 0, the largest last"));
    }
    Ok((base, max))
}

fn told_pause(value: pb_retry::RateLimitedRetryBackOff) -> Result<ToldPause, Reject> {
    let pb_retry::RateLimitedRetryBackOff { reset_headers, max_interval } = value;
    if reset_headers.is_empty() {
        return Err(Reject::field("reset_headers", "empty"));
    }
    let headers = each("reset_headers", reset_headers, |header| {
        let pb_retry::ResetHeader { name, format } = header;
        let unit = match pb_retry::ResetHeaderFormat::try_from(format) {
            Ok(pb_retry::ResetHeaderFormat::Seconds) => PauseUnit::Seconds,
            Ok(pb_retry::ResetHeaderFormat::UnixTimestamp) => PauseUnit::UnixTimestamp,
            Err(_) => return Err(Reject::field("format", format_args!("{format} is not known"))),
        };
        Ok(PauseHeader { name: field_name(&name).at("name")?, unit })
    })?;
    let max_interval = max_interval.map(|value| duration("max_interval", value)).transpose()?;
    if max_interval.is_some_and(|interval| interval.is_zero()) {
        return Err(Reject::field("max_interval", "must be above 0"));
    }
    Ok(ToldPause { headers, max_interval: max_interval.unwrap_or(Duration::from_secs(300)) })
}

fn previous_priorities(value: pb_retry::RetryPriority) -> Result<usize, Reject> {
    let pb_retry::RetryPriority { name: _, config_type } = value;
    let Some(pb_retry::retry_priority::ConfigType::TypedConfig(any)) = config_type else {
        return Err(Reject::field("typed_config", "missing"));
    };
    let Some(PreviousPrioritiesConfig { update_frequency }) = unpack(&any).at("typed_config")? else {
        let reason = format_args!("{} is not supported yet", type_name(&any.type_url));
        return Err(Reject::field("typed_config", reason));
    };
    match usize::try_from(update_frequency) {
        Ok(frequency @ 1..) => Ok(frequency),
        _ => Err(Reject::field("typed_config.update_frequency", "must be above 0")),
    }
}
