//! Retry policies.

use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::retry::{PauseUnit, RetryPolicy, ToldPause};
use lateen_traffic::route::Action;

use super::routes;

fn policy(fields: &str) -> Result<Arc<RetryPolicy>, String> {
    let route = format!("{{match: {{prefix: /}}, route: {{cluster: c, retry_policy: {{{fields}}}}}}}");
    let (config, _) = routes(&format!("{{virtual_hosts: [{{name: a, domains: ['*'], routes: [{route}]}}]}}"))
        .map_err(|reject| reject.to_string())?;
    let Action::Forward(forward) = &config.virtual_hosts[0].routes[0].action else { panic!("not forwarded") };
    Ok(Arc::clone(forward.retry.as_ref().unwrap()))
}

const PRIORITIES: &str = "retry_priority: {name: p, typed_config: {'@type': \
    type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: ";

#[test]
fn policies_mean_the_same() {
    let given = policy(&format!(
        "retry_on: 'retriable-headers,envoy-ratelimited', per_try_timeout: 2s, per_try_idle_timeout: 0.5s,
         retriable_headers: [{{name: X-A, string_match: {{prefix: a}}}}, {{name: x-b, present_match: true}}],
         retriable_request_headers: [{{name: ':method', string_match: {{exact: GET}}}}],
         rate_limited_retry_back_off: {{reset_headers: [{{name: Retry-After, format: SECONDS}},
           {{name: x-reset, format: UNIX_TIMESTAMP}}], max_interval: 20s}}, {PRIORITIES} 2}}}}"
    ));
    let given = given.unwrap();
    assert!(given.on.retriable_headers && given.on.envoy_ratelimited);
    assert_eq!(given.per_try_timeout, Some(Duration::from_secs(2)));
    assert_eq!(given.per_try_idle_timeout, Some(Duration::from_millis(500)));
    assert_eq!(given.headers.iter().map(|matcher| &*matcher.name).collect::<Vec<_>>(), ["x-a", "x-b"]);
    assert_eq!(&*given.request_headers[0].name, ":method");
    let ToldPause { headers, max_interval } = given.told_pause.as_ref().unwrap();
    let headers: Vec<_> = headers.iter().map(|header| (&*header.name, header.unit)).collect();
    assert_eq!(headers, [("retry-after", PauseUnit::Seconds), ("x-reset", PauseUnit::UnixTimestamp)]);
    assert_eq!((*max_interval, given.leave_priorities_after), (Duration::from_secs(20), Some(2)));

    let plain = policy("rate_limited_retry_back_off: {reset_headers: [{name: a}]}").unwrap();
    assert_eq!(plain.told_pause.as_ref().unwrap().max_interval, Duration::from_secs(300), "Envoy's default");
    assert_eq!((plain.per_try_idle_timeout, plain.leave_priorities_after), (None, None));
}

#[test]
fn policies_refused() {
    for (fields, said) in [
        ("retry_back_off: {max_interval: 1s}", "retry_back_off.base_interval: missing"),
        ("retry_back_off: {base_interval: 0s}", "retry_back_off: intervals must be above 0, the largest last"),
        ("rate_limited_retry_back_off: {}", "rate_limited_retry_back_off.reset_headers: empty"),
        (
            "rate_limited_retry_back_off: {reset_headers: [{name: 'a b'}]}",
            "rate_limited_retry_back_off.reset_headers[0].name: \"a b\" is no header name",
        ),
        (
            "rate_limited_retry_back_off: {reset_headers: [{name: a}], max_interval: 0s}",
            "rate_limited_retry_back_off.max_interval: must be above 0",
        ),
        ("retry_priority: {name: p}", "retry_priority.typed_config: missing"),
        (
            "retry_priority: {name: p, typed_config: {'@type': type.googleapis.com/google.protobuf.Duration, value: 1s}}",
            "retry_priority.typed_config: google.protobuf.Duration is not supported yet",
        ),
        (&format!("{PRIORITIES} 0}}}}"), "retry_priority.typed_config.update_frequency: must be above 0"),
        ("retry_options_predicates: [{name: a}]", "retry_options_predicates: not supported yet"),
    ] {
        let at = "virtual_hosts[0].routes[0].route.retry_policy";
        assert_eq!(policy(fields).unwrap_err(), format!("{at}.{said}"));
    }
}
