//! Injected faults: delays and aborts (Envoy's filter `envoy.filters.http.fault`).
//!
//! A delay comes first; whether the request is aborted is decided after it. A fault that a route configures replaces
//! the connection manager's as a whole.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::{Asked, Step};
use crate::Dice;
use crate::headers::Headers;
use crate::matcher::HeaderMatcher;
use crate::message::RequestHead;
use crate::record::Flags;
use crate::reply::LocalReply;

/// Envoy's `HTTPFault`. Without delay and abort it does nothing.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// Requests wait.
    pub delay: Option<Delay>,
    /// Requests are answered here.
    pub abort: Option<Abort>,
    /// Only requests to this cluster.
    pub upstream_cluster: Option<Arc<str>>,
    /// Only requests that all of these match.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests of these nodes, as `x-envoy-downstream-service-node` names them; empty: of all.
    pub downstream_nodes: Vec<Arc<str>>,
    /// No further faults while so many requests suffer one.
    pub max_active: Option<u32>,
}

/// How long requests wait, and how many.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    /// How long; `None`: as many milliseconds as `x-envoy-fault-delay-request` says.
    pub fixed: Option<Duration>,
    /// How many.
    pub percentage: Percentage,
}

/// How requests are answered, and how many.
#[derive(Debug, Clone)]
pub struct Abort {
    /// How.
    pub with: AbortWith,
    /// How many.
    pub percentage: Percentage,
    /// The body.
    pub body: Cow<'static, str>,
}

/// The body of an aborted request unless another is configured.
pub const ABORT_BODY: &str = "fault filter abort";

/// The status of an aborted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortWith {
    /// This HTTP status.
    Http(u16),
    /// HTTP status 200 and, for gRPC requests, this gRPC status.
    Grpc(u32),
    /// What `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` says, if either is there.
    Header,
}

/// A share of all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentage {
    /// So many …
    pub numerator: u32,
    /// … out of so many. Not 0.
    pub denominator: u32,
}

impl Percentage {
    /// Throws the dice.
    pub fn hits(self, dice: &mut dyn Dice) -> bool {
        match self.numerator {
            0 => false,
            n if n >= self.denominator => true,
            n => dice.below(u64::from(self.denominator)) < u64::from(n),
        }
    }

    /// A header may lower the share, not raise it.
    fn lowered_by(self, headers: &Headers, name: &str) -> Self {
        match headers.get_str(name).and_then(|n| n.parse::<u32>().ok()) {
            Some(n) => Self { numerator: self.numerator.min(n), ..self },
            None => self,
        }
    }
}

/// How far a fault filter is with a request.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stage: Stage,
    // The request counts as one that suffers a fault.
    active: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Delay,
    Abort,
    Done,
}

impl Progress {
    /// `None`: the filter is through.
    pub(super) fn step(&mut self, fault: &Fault, asked: &Asked<'_>, dice: &mut dyn Dice) -> Option<Step> {
        if self.stage == Stage::Delay {
            if !fault.concerns(asked) {
                return None;
            }
            self.stage = Stage::Abort;
            if let Some(wait) = fault.delay.and_then(|d| d.roll(asked.request, dice)) {
                return Some(if self.admits(fault, asked) { Step::Delay(wait) } else { Step::FaultsOverflow });
            }
        }
        if self.stage == Stage::Done {
            return None;
        }
        self.stage = Stage::Done;
        let reply = fault.abort.as_ref()?.roll(asked.request, dice)?;
        Some(if self.admits(fault, asked) { Step::Abort(reply) } else { Step::FaultsOverflow })
    }

    /// A request that is delayed and then aborted counts once.
    fn admits(&mut self, fault: &Fault, asked: &Asked<'_>) -> bool {
        self.active = self.active || fault.max_active.is_none_or(|most| (asked.active_faults)() < u64::from(most));
        self.active
    }
}

impl Fault {
    fn concerns(&self, asked: &Asked<'_>) -> bool {
        if self.delay.is_none() && self.abort.is_none() {
            return false;
        }
        let request = asked.request;
        let to_cluster = self
            .upstream_cluster
            .as_deref()
            .is_none_or(|wanted| asked.routed.and_then(|r| r.cluster(request)) == Some(wanted));
        let node = || request.headers.get_str("x-envoy-downstream-service-node");
        to_cluster
            && (self.downstream_nodes.is_empty() || self.downstream_nodes.iter().any(|n| Some(&**n) == node()))
            && self.headers.iter().all(|m| m.matches(request))
    }
}

impl Delay {
    fn roll(self, request: &RequestHead, dice: &mut dyn Dice) -> Option<Duration> {
        let headers = &request.headers;
        let (wait, percentage) = match self.fixed {
            Some(wait) => (wait, self.percentage),
            None => {
                let asked = headers.get_str("x-envoy-fault-delay-request")?.parse().ok()?;
                let share = self.percentage.lowered_by(headers, "x-envoy-fault-delay-request-percentage");
                (Duration::from_millis(asked), share)
            }
        };
        // Envoy counts in milliseconds.
        (wait.as_millis() > 0 && percentage.hits(dice)).then_some(wait)
    }
}

impl Abort {
    fn roll(&self, request: &RequestHead, dice: &mut dyn Dice) -> Option<LocalReply> {
        let headers = &request.headers;
        let (status, grpc_status, percentage) = match self.with {
            AbortWith::Http(status) => (status, None, self.percentage),
            AbortWith::Grpc(status) => (200, Some(status), self.percentage),
            AbortWith::Header => {
                let number = |name| headers.get_str(name).and_then(|n| n.parse::<u32>().ok());
                let http = number("x-envoy-fault-abort-request").filter(|status| (200..600).contains(status));
                let (status, grpc) = match http.and_then(|status| u16::try_from(status).ok()) {
                    Some(status) => (status, None),
                    None => (200, Some(number("x-envoy-fault-abort-grpc-request")?)),
                };
                (status, grpc, self.percentage.lowered_by(headers, "x-envoy-fault-abort-request-percentage"))
            }
        };
        percentage.hits(dice).then(|| LocalReply {
            body: self.body.clone(),
            grpc_status,
            ..LocalReply::fixed(status, "", Flags::FAULT_INJECTED, "fault_filter_abort")
        })
    }
}
