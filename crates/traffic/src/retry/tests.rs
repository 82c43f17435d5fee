use super::*;
use crate::matcher::{HeaderCheck, StringMatcher};

fn policy(list: &str) -> RetryPolicy {
    let (on, unknown) = RetryOn::parse(list);
    assert!(unknown.is_empty());
    RetryPolicy { on, ..Default::default() }
}

fn status(status: u16) -> ResponseHead {
    ResponseHead::new(status)
}

fn with(code: u16, name: &str, value: &str) -> ResponseHead {
    ResponseHead { headers: [(name, value)].into_iter().collect(), ..status(code) }
}

#[test]
fn istios_default_retries_connections_not_answers() {
    let p = policy("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes");
    assert!(p.wants(Failed::Connecting) && p.wants(Failed::RefusedStream));
    assert!(!p.wants(Failed::Reset { sent: true }) && !p.wants_another(&status(503)) && !p.wants_another(&status(500)));
    let grpc = |code| with(200, "grpc-status", code);
    assert!(p.wants_another(&grpc("14")) && p.wants_another(&grpc("1")) && !p.wants_another(&grpc("13")));
    assert!(!p.wants_another(&grpc("46")) && !p.wants_another(&grpc("-1")));
    assert!(!p.wants(Failed::Overflow));
}

#[test]
fn each_condition_takes_its_own() {
    assert!(policy("5xx").wants_another(&status(500)) && !policy("gateway-error").wants_another(&status(500)));
    assert!(policy("gateway-error").wants_another(&status(504)) && policy("retriable-4xx").wants_another(&status(409)));
    assert!(!policy("retriable-4xx").wants_another(&status(404)));
    let p = policy("reset-before-request");
    assert!(p.wants(Failed::Reset { sent: false }) && !p.wants(Failed::Reset { sent: true }));
    assert_eq!(RetryOn::parse("5xx, nonsense").1, ["nonsense"]);
}

#[test]
fn an_answer_that_is_rate_limited_is_retried_for_that_alone() {
    let limited = with(503, "x-envoy-ratelimited", "true");
    assert!(!policy("5xx,gateway-error").wants_another(&limited));
    assert!(policy("envoy-ratelimited").wants_another(&limited));
    assert!(!policy("envoy-ratelimited").wants_another(&status(429)));
}

#[test]
fn headers_of_answers_and_requests_decide() {
    let value = HeaderCheck::Value(StringMatcher::exact("yes"));
    let again = HeaderMatcher { check: value, ..HeaderMatcher::present("X-Again") };
    let p = RetryPolicy { headers: vec![again.clone()], request_headers: vec![again], ..policy("retriable-headers") };
    assert!(p.wants_another(&with(200, "x-again", "yes")) && !p.wants_another(&with(200, "x-again", "no")));
    let off = RetryPolicy { on: RetryOn::default(), ..p.clone() };
    assert!(!off.wants_another(&with(200, "x-again", "yes")));
    let mut request = RequestHead::default();
    assert!(!p.is_for(&request) && policy("5xx").is_for(&request));
    request.headers.append("x-again", "yes");
    assert!(p.is_for(&request));
}

#[test]
fn requests_ask_with_words_of_each_header() {
    let of = |fields: &[(&str, &str)]| RetryPolicy::asked(None, &mut fields.iter().copied().collect());
    assert!(of(&[("x-other", "5xx")]).is_none() && of(&[("x-envoy-max-retries", "9")]).is_none());
    assert!(of(&[("x-envoy-retry-on", "cancelled")]).is_none() && of(&[("x-envoy-retry-grpc-on", "5xx")]).is_none());
    let both = of(&[("x-envoy-retry-grpc-on", "cancelled"), ("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "4")]);
    let both = both.unwrap();
    assert!(both.on.five_xx && both.on.grpc_codes == 2 && both.num_retries == 4);
    let named = of(&[("x-envoy-retry-on", "retriable-headers"), ("x-envoy-retriable-header-names", " X-A,x-b,, ")]);
    let named = named.unwrap();
    assert!(named.wants_another(&with(200, "x-a", "")) && named.wants_another(&with(200, "x-b", "1")));
    assert!(!named.wants_another(&status(200)));
}

#[test]
fn pauses_grow_and_are_capped() {
    let p = policy("5xx");
    let mut most = || u64::MAX;
    let ms: Vec<_> = (1..7).map(|n| p.pause(n, &mut most).as_millis()).collect();
    assert_eq!(ms, [24, 74, 174, 250, 250, 250]);
    assert_eq!(p.pause(90, &mut (|| 0)), Duration::ZERO);
}

#[test]
fn answers_tell_pauses() {
    let of = |name: &str, unit| PauseHeader { name: name.into(), unit };
    let told = ToldPause {
        headers: vec![of("retry-after", PauseUnit::Seconds), of("x-reset", PauseUnit::UnixTimestamp)],
        max_interval: Duration::from_secs(10),
    };
    let now = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let pause = |fields: &[(&str, &str)], dice: u64| told.of(&fields.iter().copied().collect(), now, &mut (|| dice));
    assert_eq!(pause(&[("retry-after", "2")], 0), Some(Duration::from_secs(2)));
    assert_eq!(pause(&[("retry-after", "2")], u64::MAX), Some(Duration::from_millis(2999)));
    assert_eq!(pause(&[("retry-after", "soon"), ("x-reset", "1003")], 0), Some(Duration::from_secs(3)));
    // None, too long, in the past, not there.
    for fields in [
        &[("retry-after", "0")][..],
        &[("retry-after", "11")],
        &[("x-reset", "999")],
        &[("x-reset", "18446744073709551615")],
        &[],
    ] {
        assert_eq!(pause(fields, 0), None, "{fields:?}");
    }
}

#[test]
fn a_window_forgets_a_tenth_at_a_time() {
    let (window, interval) = (Window::default(), Duration::from_secs(10));
    let counted = |milliseconds| window.count(interval, Duration::from_millis(milliseconds));
    let begin = |milliseconds| window.begin(interval, Duration::from_millis(milliseconds));
    assert_eq!(counted(0), 0);
    for at in [100, 900, 1000, 5500, 5500] {
        begin(at);
    }
    assert_eq!(counted(5500), 5);
    assert_eq!(counted(9999), 5);
    assert_eq!(counted(10_000), 3);
    assert_eq!(counted(11_000), 2);
    begin(15_500);
    assert_eq!(counted(15_500), 1);
    assert_eq!(counted(5_000_000), 0);
}

#[test]
fn a_window_of_no_length_counts_nothing_of_before() {
    let (window, interval) = (Window::default(), Duration::from_nanos(1));
    window.begin(interval, Duration::from_secs(1));
    assert_eq!(window.count(interval, Duration::from_secs(2)), 0);
}
