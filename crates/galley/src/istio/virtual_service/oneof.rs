//! The wire form of messages with a `oneof`: its fields side by side, at most one of them set.

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

use super::http::{Body, HttpRedirect, RedirectPort, RedirectPortSelection};
use super::policy::{Abort, AbortError, Delay, DelayKind};
use crate::istio::{Duration, Percent, only_one};

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename = "HTTPRedirect", rename_all = "camelCase")]
pub(super) struct RedirectFields {
    uri: String,
    prefix_rewrite: String,
    authority: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    derive_port: Option<RedirectPortSelection>,
    scheme: String,
    redirect_code: u32,
}

impl TryFrom<RedirectFields> for HttpRedirect {
    type Error = String;

    fn try_from(fields: RedirectFields) -> Result<Self, String> {
        let RedirectFields { uri, prefix_rewrite, authority, port, derive_port, scheme, redirect_code } = fields;
        only_one(&[("port", port.is_some()), ("derivePort", derive_port.is_some())])?;
        let port = port.map(RedirectPort::Number).or(derive_port.map(RedirectPort::Derive));
        Ok(Self { uri, prefix_rewrite, authority, port, scheme, redirect_code })
    }
}

impl From<HttpRedirect> for RedirectFields {
    fn from(value: HttpRedirect) -> Self {
        let HttpRedirect { uri, prefix_rewrite, authority, port, scheme, redirect_code } = value;
        let (port, derive_port) = match port {
            None => (None, None),
            Some(RedirectPort::Number(number)) => (Some(number), None),
            Some(RedirectPort::Derive(selection)) => (None, Some(selection)),
        };
        Self { uri, prefix_rewrite, authority, port, derive_port, scheme, redirect_code }
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename = "HTTPBody")]
pub(super) struct BodyFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    string: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<ByteString>,
}

impl TryFrom<BodyFields> for Body {
    type Error = String;

    fn try_from(BodyFields { string, bytes }: BodyFields) -> Result<Self, String> {
        only_one(&[("string", string.is_some()), ("bytes", bytes.is_some())])?;
        Ok(match (string, bytes) {
            (Some(text), _) => Self::String(text),
            (_, Some(bytes)) => Self::Bytes(bytes.0),
            (None, None) => Self::Empty,
        })
    }
}

impl From<Body> for BodyFields {
    fn from(value: Body) -> Self {
        match value {
            Body::Empty => Self::default(),
            Body::String(text) => Self { string: Some(text), bytes: None },
            Body::Bytes(bytes) => Self { string: None, bytes: Some(ByteString(bytes)) },
        }
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename = "Delay", rename_all = "camelCase")]
pub(super) struct DelayFields {
    percent: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed_delay: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exponential_delay: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percentage: Option<Percent>,
}

impl TryFrom<DelayFields> for Delay {
    type Error = String;

    fn try_from(fields: DelayFields) -> Result<Self, String> {
        let DelayFields { percent, fixed_delay, exponential_delay, percentage } = fields;
        only_one(&[("fixedDelay", fixed_delay.is_some()), ("exponentialDelay", exponential_delay.is_some())])?;
        let kind = fixed_delay.map(DelayKind::Fixed).or(exponential_delay.map(DelayKind::Exponential));
        Ok(Self { percent, kind, percentage })
    }
}

impl From<Delay> for DelayFields {
    fn from(Delay { percent, kind, percentage }: Delay) -> Self {
        let (fixed_delay, exponential_delay) = match kind {
            None => (None, None),
            Some(DelayKind::Fixed(length)) => (Some(length), None),
            Some(DelayKind::Exponential(length)) => (None, Some(length)),
        };
        Self { percent, fixed_delay, exponential_delay, percentage }
    }
}

/// Istio's API has it no more.
fn is_zero(percent: &i32) -> bool {
    *percent == 0
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename = "Abort", rename_all = "camelCase")]
pub(super) struct AbortFields {
    #[serde(skip_serializing_if = "is_zero")]
    percent: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http2_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percentage: Option<Percent>,
}

impl TryFrom<AbortFields> for Abort {
    type Error = String;

    fn try_from(fields: AbortFields) -> Result<Self, String> {
        let AbortFields { percent, http_status, grpc_status, http2_error, percentage } = fields;
        only_one(&[
            ("httpStatus", http_status.is_some()),
            ("grpcStatus", grpc_status.is_some()),
            ("http2Error", http2_error.is_some()),
        ])?;
        let error = http_status
            .map(AbortError::HttpStatus)
            .or(grpc_status.map(AbortError::GrpcStatus))
            .or(http2_error.map(AbortError::Http2Error));
        Ok(Self { percent, error, percentage })
    }
}

impl From<Abort> for AbortFields {
    fn from(Abort { percent, error, percentage }: Abort) -> Self {
        let mut fields = Self { percent, percentage, ..Self::default() };
        match error {
            None => {}
            Some(AbortError::HttpStatus(status)) => fields.http_status = Some(status),
            Some(AbortError::GrpcStatus(status)) => fields.grpc_status = Some(status),
            Some(AbortError::Http2Error(error)) => fields.http2_error = Some(error),
        }
        fields
    }
}
