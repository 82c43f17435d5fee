//! When a failed attempt is made again, and after what pause (Envoy's `RetryPolicy`).

use std::time::Duration;

use crate::Dice;
use crate::headers::Headers;

/// Envoy's `RetryPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// What is retried.
    pub on: RetryOn,
    /// Statuses retried when [`RetryOn::retriable_status_codes`] is set.
    pub status_codes: Vec<u16>,
    /// Retries after the first attempt. Default 1.
    pub num_retries: u32,
    /// Time for one attempt; without effect unless below the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Pause before the n-th retry: random below `base`·(2^n−1), at most `max_interval`. Default 25 ms.
    pub base_interval: Duration,
    /// Upper limit of the pause. Default ten times the base.
    pub max_interval: Duration,
    /// Prefer hosts not tried before.
    pub avoid_previous_hosts: bool,
    /// How often a host is chosen anew to avoid those tried before.
    pub host_selection_attempts: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            on: RetryOn::default(),
            status_codes: Vec::new(),
            num_retries: 1,
            per_try_timeout: None,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            avoid_previous_hosts: false,
            host_selection_attempts: 1,
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
        self.http3_post_connect_failure |= other.http3_post_connect_failure;
        self.grpc_codes |= other.grpc_codes;
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

/// How an attempt ended, as far as retries are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Response headers came.
    Response {
        /// Status code.
        status: u16,
        /// `grpc-status`, when it came in the headers (a trailers-only answer).
        grpc_status: Option<u32>,
        /// `x-envoy-ratelimited` is there.
        ratelimited: bool,
    },
    /// No connection.
    ConnectFailure,
    /// Reset, closed, garbage, or the try's timeout. `sent`: some of the request went out before.
    Reset { sent: bool },
    /// The upstream said that it did not begin (REFUSED_STREAM, or GOAWAY below the stream).
    RefusedStream,
    /// A circuit-breaker limit of ours: never retried.
    Overflow,
}

impl RetryPolicy {
    /// Whether an attempt that ended so is worth another.
    pub fn wants(&self, attempt: Attempt) -> bool {
        let on = &self.on;
        match attempt {
            Attempt::Response { status, grpc_status, ratelimited } => {
                (on.five_xx && (500..600).contains(&status) && !ratelimited)
                    || (on.gateway_error && (502..=504).contains(&status) && !ratelimited)
                    || (on.retriable_4xx && status == 409)
                    || (on.envoy_ratelimited && ratelimited)
                    || (on.retriable_status_codes && self.status_codes.contains(&status))
                    || grpc_status.is_some_and(|code| code < 32 && on.grpc_codes & (1 << code) != 0)
            }
            Attempt::ConnectFailure => {
                on.connect_failure || on.five_xx || on.gateway_error || on.reset || on.reset_before_request
            }
            Attempt::Reset { sent } => on.five_xx || on.gateway_error || on.reset || (on.reset_before_request && !sent),
            Attempt::RefusedStream => on.refused_stream || on.five_xx || on.gateway_error || on.reset,
            Attempt::Overflow => false,
        }
    }

    /// The policy with what an internal client asks for in its headers: conditions are added, the count is replaced
    /// (Envoy's router: `x-envoy-retry-on` and kin). `None` when neither says anything.
    pub fn asked(base: Option<&Self>, headers: &Headers) -> Option<Self> {
        let text = |name| headers.get_str(name);
        let conditions = [text("x-envoy-retry-on"), text("x-envoy-retry-grpc-on")];
        let per_try = text("x-envoy-upstream-rq-per-try-timeout-ms").and_then(|ms| ms.parse().ok());
        if base.is_none() && per_try.is_none() && conditions.iter().all(Option::is_none) {
            return None;
        }
        let mut policy = base.cloned().unwrap_or_default();
        for list in conditions.into_iter().flatten() {
            policy.on.add(RetryOn::parse(list).0);
        }
        if let Some(count) = text("x-envoy-max-retries").and_then(|n| n.parse().ok()) {
            policy.num_retries = count;
        }
        if let Some(codes) = text("x-envoy-retriable-status-codes") {
            policy.status_codes.extend(codes.split(',').filter_map(|code| code.trim().parse::<u16>().ok()));
        }
        policy.per_try_timeout = per_try.map(Duration::from_millis).or(policy.per_try_timeout);
        Some(policy)
    }

    /// The pause before the `n`-th retry, counted from 1.
    pub fn pause(&self, n: u32, dice: &mut dyn Dice) -> Duration {
        let factor = 1u64.checked_shl(n).unwrap_or(u64::MAX).saturating_sub(1);
        let base = u64::try_from(self.base_interval.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(dice.below(base.saturating_mul(factor).max(1)));
        pause.min(self.max_interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(list: &str) -> RetryPolicy {
        let (on, unknown) = RetryOn::parse(list);
        assert!(unknown.is_empty());
        RetryPolicy { on, ..Default::default() }
    }

    fn status(status: u16) -> Attempt {
        Attempt::Response { status, grpc_status: None, ratelimited: false }
    }

    #[test]
    fn istios_default_retries_connections_not_answers() {
        let p = policy("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes");
        assert!(p.wants(Attempt::ConnectFailure) && p.wants(Attempt::RefusedStream));
        assert!(!p.wants(Attempt::Reset { sent: true }) && !p.wants(status(503)) && !p.wants(status(500)));
        let grpc = |code| Attempt::Response { status: 200, grpc_status: Some(code), ratelimited: false };
        assert!(p.wants(grpc(14)) && p.wants(grpc(1)) && !p.wants(grpc(13)));
        assert!(!p.wants(Attempt::Overflow));
    }

    #[test]
    fn each_condition_takes_its_own() {
        assert!(policy("5xx").wants(status(500)) && !policy("gateway-error").wants(status(500)));
        assert!(policy("gateway-error").wants(status(504)) && policy("retriable-4xx").wants(status(409)));
        assert!(!policy("retriable-4xx").wants(status(404)));
        let p = policy("reset-before-request");
        assert!(p.wants(Attempt::Reset { sent: false }) && !p.wants(Attempt::Reset { sent: true }));
        assert_eq!(RetryOn::parse("5xx, nonsense").1, ["nonsense"]);
    }

    #[test]
    fn pauses_grow_and_are_capped() {
        let p = policy("5xx");
        let mut most = || u64::MAX;
        let ms: Vec<_> = (1..7).map(|n| p.pause(n, &mut most).as_millis()).collect();
        assert_eq!(ms, [24, 74, 174, 250, 250, 250]);
        assert_eq!(p.pause(90, &mut (|| 0)), Duration::ZERO);
    }
}
