//! What a route adds to its requests on the way: faults, copies, cross-origin answers.

use serde::{Deserialize, Serialize};

use super::Destination;
use super::oneof::{AbortFields, DelayFields};
use crate::istio::{Duration, Percent, StringMatch};

/// Cross-origin resource sharing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsPolicy {
    /// Deprecated: exact origins.
    pub allow_origin: Vec<String>,
    /// Origins that may.
    pub allow_origins: Vec<StringMatch>,
    /// `Access-Control-Allow-Methods`.
    pub allow_methods: Vec<String>,
    /// `Access-Control-Allow-Headers`.
    pub allow_headers: Vec<String>,
    /// `Access-Control-Expose-Headers`.
    pub expose_headers: Vec<String>,
    /// `Access-Control-Max-Age`.
    pub max_age: Option<Duration>,
    /// `Access-Control-Allow-Credentials`.
    pub allow_credentials: Option<bool>,
    /// What becomes of preflight requests from other origins.
    pub unmatched_preflights: UnmatchedPreflights,
}

/// What becomes of preflight requests whose origin matches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    /// As `Forward`.
    #[default]
    Unspecified,
    /// Passed on to the service.
    Forward,
    /// Answered here.
    Ignore,
}

/// Faults put in on purpose.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpFaultInjection {
    /// Before the request is passed on.
    pub delay: Option<Delay>,
    /// Instead of passing it on.
    pub abort: Option<Abort>,
}

/// A delay for some requests.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "DelayFields", into = "DelayFields")]
pub struct Delay {
    /// Deprecated form of `percentage`, whole percents.
    pub percent: i32,
    /// How long.
    pub kind: Option<DelayKind>,
    /// How many requests. Absent: none.
    pub percentage: Option<Percent>,
}

/// How long a delay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DelayKind {
    /// Always this long.
    Fixed(Duration),
    /// Not carried out by Istio either.
    Exponential(Duration),
}

/// An error for some requests.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "AbortFields", into = "AbortFields")]
pub struct Abort {
    /// Older form of `percentage`, whole percents.
    pub percent: i32,
    /// What is answered.
    pub error: Option<AbortError>,
    /// How many requests. Absent: none.
    pub percentage: Option<Percent>,
}

/// What an aborted request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbortError {
    /// This status code.
    HttpStatus(i32),
    /// This gRPC status, by name; see [`grpc_status`].
    GrpcStatus(String),
    /// Not carried out by Istio either.
    Http2Error(String),
}

/// A copy of requests.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMirrorPolicy {
    /// Required.
    pub destination: Option<Destination>,
    /// How many requests. Absent: all.
    pub percentage: Option<Percent>,
}

/// The number of a gRPC status by its name (gRPC's "Status codes and their use"), as `grpcStatus` of an abort has it.
pub fn grpc_status(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.iter().zip(0..).find(|(known, _)| **known == name).map(|(_, number)| number)
}
