//! When a failed attempt is made again, and after what pause (Envoy's `RetryPolicy`).

use std::time::Duration;

use crate::forwarding::is_of;
use crate::headers::Headers;
use crate::matcher::HeaderMatcher;
use crate::message::{RequestHead, ResponseHead};

mod pause;
mod window;

pub use pause::{PauseHeader, PauseUnit, ToldPause};
pub use window::Window;

/// Envoy's `RetryPolicy`.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// What is retried.
    pub on: RetryOn,
    /// Statuses retried when [`RetryOn::retriable_status_codes`] is set.
    pub status_codes: Vec<u16>,
    /// Answers with one of these headers are retried when [`RetryOn::retriable_headers`] is set.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests with one of these headers are tried again; empty: all.
    pub request_headers: Vec<HeaderMatcher>,
    /// Retries after the first attempt. Default 1.
    pub num_retries: u32,
    /// Time for one attempt; without effect unless below the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Time for one attempt in which nothing of it moves, in either direction.
    pub per_try_idle_timeout: Option<Duration>,
    /// Pause before the n-th retry: random below `base`·(2^n−1), at most `max_interval`. Default 25 ms.
    pub base_interval: Duration,
    /// Upper limit of the pause. Default ten times the base.
    pub max_interval: Duration,
    /// Pauses that answers tell, in place of those.
    pub told_pause: Option<ToldPause>,
    /// Prefer hosts not tried before.
    pub avoid_previous_hosts: bool,
    /// How often a host is chosen anew to avoid those tried before.
    pub host_selection_attempts: u32,
    /// After each so many attempts, leave out the priorities of the hosts tried so far
    /// (`envoy.retry_priorities.previous_priorities`); at least 1.
    pub leave_priorities_after: Option<usize>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            on: RetryOn::default(),
            status_codes: Vec::new(),
            headers: Vec::new(),
            request_headers: Vec::new(),
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            told_pause: None,
            avoid_previous_hosts: false,
            host_selection_attempts: 1,
            leave_priorities_after: None,
        }
    }
}

/// The conditions of `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)] // Named as Envoy's router documentation explains them.
pub struct RetryOn {
    pub five_xx: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub envoy_ratelimited: bool,
    pub retriable_4xx: bool,
    pub refused_stream: bool,
    pub retriable_status_codes: bool,
    pub retriable_headers: bool,
    pub http3_post_connect_failure: bool,
    /// gRPC status codes, bit n for code n.
    pub grpc_codes: u32,
}

impl RetryOn {
    /// Adds the conditions of another list.
    pub fn add(&mut self, other: Self) {
        self.five_xx |= other.five_xx;
        self.gateway_error |= other.gateway_error;
        self.reset |= other.reset;
        self.reset_before_request |= other.reset_before_request;
        self.connect_failure |= other.connect_failure;
        self.envoy_ratelimited |= other.envoy_ratelimited;
        self.retriable_4xx |= other.retriable_4xx;
        self.refused_stream |= other.refused_stream;
        self.retriable_status_codes |= other.retriable_status_codes;
        self.retriable_headers |= other.retriable_headers;
        self.http3_post_connect_failure |= other.http3_post_connect_failure;
        self.grpc_codes |= other.grpc_codes;
    }

    /// Those of a request's headers: each has words of its own.
    fn asked(http: Option<&str>, grpc: Option<&str>) -> Self {
        let of = |list: Option<&str>| Self::parse(list.unwrap_or_default()).0;
        Self { grpc_codes: of(grpc).grpc_codes, ..of(http) }
    }

    /// Reads a comma-separated list; unknown words are returned.
    pub fn parse(list: &str) -> (Self, Vec<&str>) {
        let mut on = Self::default();
        let mut unknown = Vec::new();
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "5xx" => on.five_xx = true,
                "gateway-error" => on.gateway_error = true,
                "reset" => on.reset = true,
                "reset-before-request" => on.reset_before_request = true,
                "connect-failure" => on.connect_failure = true,
                "envoy-ratelimited" => on.envoy_ratelimited = true,
                "retriable-4xx" => on.retriable_4xx = true,
                "refused-stream" => on.refused_stream = true,
                "retriable-status-codes" => on.retriable_status_codes = true,
                "retriable-headers" => on.retriable_headers = true,
                "http3-post-connect-failure" => on.http3_post_connect_failure = true,
                "cancelled" => on.grpc_codes |= 1 << 1,
                "deadline-exceeded" => on.grpc_codes |= 1 << 4,
                "resource-exhausted" => on.grpc_codes |= 1 << 8,
                "internal" => on.grpc_codes |= 1 << 13,
                "unavailable" => on.grpc_codes |= 1 << 14,
                other => unknown.push(other),
            }
        }
        (on, unknown)
    }
}

/// How an attempt without an answer ended, as far as retries are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// No connection.
    Connecting,
    /// Reset, closed, garbage, or the try's timeout. `sent`: some of the request went out before.
    Reset { sent: bool },
    /// The upstream said that it did not begin (REFUSED_STREAM, or GOAWAY below the stream).
    RefusedStream,
    /// A circuit-breaker limit of ours: never retried.
    Overflow,
}

impl RetryPolicy {
    /// Whether an attempt that failed so is worth another.
    pub fn wants(&self, failed: Failed) -> bool {
        let on = &self.on;
        match failed {
            Failed::Connecting => {
                on.connect_failure || on.five_xx || on.gateway_error || on.reset || on.reset_before_request
            }
            Failed::Reset { sent } => on.five_xx || on.gateway_error || on.reset || (on.reset_before_request && !sent),
            Failed::RefusedStream => on.refused_stream || on.five_xx || on.gateway_error || on.reset,
            Failed::Overflow => false,
        }
    }

    /// Whether an attempt with this answer is worth another. A `grpc-status` counts when it came with the head
    /// (a trailers-only answer).
    pub fn wants_another(&self, answer: &ResponseHead) -> bool {
        let (on, status, headers) = (&self.on, answer.status, &answer.headers);
        if headers.contains("x-envoy-ratelimited") {
            return on.envoy_ratelimited;
        }
        (on.five_xx && (500..600).contains(&status))
            || (on.gateway_error && (502..=504).contains(&status))
            || (on.retriable_4xx && status == 409)
            || (on.retriable_status_codes && self.status_codes.contains(&status))
            || (on.retriable_headers && self.headers.iter().any(|matcher| matcher.matches_response(answer)))
            || (on.grpc_codes != 0
                && headers
                    .get_str("grpc-status")
                    .and_then(|code| code.parse::<u32>().ok())
                    .is_some_and(|code| code < 32 && on.grpc_codes & (1 << code) != 0))
    }

    /// Whether the request is one of those that may be tried again.
    pub fn is_for(&self, request: &RequestHead) -> bool {
        self.request_headers.is_empty() || self.request_headers.iter().any(|matcher| matcher.matches(request))
    }

    /// The policy with what the request asks for in its headers: conditions are added, the count is replaced (Envoy's
    /// router: `x-envoy-retry-on` and kin), and what asks is taken out. `None` when it asks for nothing, as all do whose
    /// client is not trusted to.
    pub fn asked(base: Option<&Self>, headers: &mut Headers) -> Option<Self> {
        if !ASKING.iter().any(|name| headers.contains(name)) {
            return None;
        }
        let asked = Self::with_asked(base, headers);
        headers.retain(|name| !is_of(&ASKING, name));
        asked
    }

    fn with_asked(base: Option<&Self>, headers: &Headers) -> Option<Self> {
        let text = |name| headers.get_str(name);
        let conditions = RetryOn::asked(text("x-envoy-retry-on"), text("x-envoy-retry-grpc-on"));
        if base.is_none() && conditions == RetryOn::default() {
            return None;
        }
        let mut policy = base.cloned().unwrap_or_default();
        policy.on.add(conditions);
        if let Some(count) = text("x-envoy-max-retries").and_then(|n| n.parse().ok()) {
            policy.num_retries = count;
        }
        if let Some(codes) = text("x-envoy-retriable-status-codes") {
            policy.status_codes.extend(codes.split(',').filter_map(|code| code.trim().parse::<u16>().ok()));
        }
        if let Some(names) = text("x-envoy-retriable-header-names") {
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            policy.headers.extend(names.map(HeaderMatcher::present));
        }
        Some(policy)
    }
}

/// What a request asks for retries with; none of it is for the upstream.
pub(crate) const ASKING: [&str; 5] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
];

#[cfg(test)]
mod tests;
