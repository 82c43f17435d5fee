//! Retry policies of routes.
//!
//! Source: Istio `core/route/retry/retry.go`.

use super::wire;
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy,
    retry_policy::{
        RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate::ConfigType as PredicateConfig,
        retry_priority::ConfigType as PriorityConfig,
    },
};
use envoy_types::pb::envoy::extensions::retry::{
    host::previous_hosts::v3::PreviousHostsPredicate, priority::previous_priorities::v3::PreviousPrioritiesConfig,
};
use lateen_galley::istio::virtual_service::HttpRetry;

const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// What a route without retries of its own does, where the mesh does not say either: nothing is sent twice that may have been received.
pub fn outbound() -> RetryPolicy {
    RetryPolicy {
        num_retries: Some(wire::number(2)),
        retry_on: RETRY_ON.to_owned(),
        host_selection_retry_max_attempts: 5,
        retry_host_predicate: vec![not_the_same_host()],
        ..Default::default()
    }
}

/// Retries towards the proxy's own workload.
pub fn inbound() -> RetryPolicy {
    RetryPolicy {
        num_retries: Some(wire::number(2)),
        retry_on: "reset-before-request".to_owned(),
        ..Default::default()
    }
}

/// The policy a route asks for; `None` when it asks for no retries.
pub fn of(retry: Option<&HttpRetry>) -> Option<RetryPolicy> {
    let Some(retry) = retry else { return Some(outbound()) };
    let attempts = u32::try_from(retry.attempts).ok().filter(|attempts| *attempts > 0)?;
    let mut policy = RetryPolicy { num_retries: Some(wire::number(attempts)), ..outbound() };
    if !retry.retry_on.is_empty() {
        (policy.retry_on, policy.retriable_status_codes) = conditions(&retry.retry_on);
    }
    policy.per_try_timeout = retry.per_try_timeout.map(|timeout| wire::duration(timeout.get()));
    if retry.retry_ignore_previous_hosts == Some(false) {
        policy.retry_host_predicate.clear();
    }
    if retry.retry_remote_localities == Some(true) {
        policy.retry_priority = Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(PriorityConfig::TypedConfig(wire::any(&PreviousPrioritiesConfig {
                update_frequency: 2,
            }))),
        });
    }
    policy.retry_back_off = retry
        .backoff
        .map(|backoff| RetryBackOff { base_interval: Some(wire::duration(backoff.get())), ..Default::default() });
    Some(policy)
}

/// Splits `retryOn` into Envoy's conditions and status codes.
fn conditions(retry_on: &str) -> (String, Vec<u32>) {
    let mut names = Vec::new();
    let mut codes = Vec::new();
    for part in retry_on.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<u32>() {
            Ok(code @ 100..=599) => codes.push(code),
            _ => names.push(part),
        }
    }
    if !codes.is_empty() && !names.contains(&"retriable-status-codes") {
        names.push("retriable-status-codes");
    }
    (names.join(","), codes)
}

fn not_the_same_host() -> RetryHostPredicate {
    RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(PredicateConfig::TypedConfig(wire::any(&PreviousHostsPredicate::default()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(attempts: i32, retry_on: &str) -> HttpRetry {
        HttpRetry { attempts, retry_on: retry_on.to_owned(), ..Default::default() }
    }

    #[test]
    fn numbers_are_status_codes() {
        let policy = of(Some(&retry(3, "5xx, 503,gateway-error,404"))).unwrap();
        assert_eq!(policy.retry_on, "5xx,gateway-error,retriable-status-codes");
        assert_eq!(policy.retriable_status_codes, [503, 404]);
        assert_eq!(policy.num_retries.unwrap().value, 3);
    }

    #[test]
    fn no_attempts_are_no_policy() {
        assert_eq!(of(Some(&retry(0, "5xx"))), None);
        assert_eq!(of(Some(&retry(-1, ""))), None);
        assert_eq!(of(None), Some(outbound()));
    }
}
