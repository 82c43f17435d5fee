//! Answers the proxy gives by itself, with Envoy's statuses, bodies, flags and details.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::message::{RequestHead, ResponseHead};
use crate::record::Flags;

/// An answer of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReply {
    /// Status code.
    pub status: u16,
    /// Body, plain text; may be empty.
    pub body: Cow<'static, str>,
    /// Flags for the record.
    pub flags: Flags,
    /// Details for the record.
    pub details: Cow<'static, str>,
    /// Say `x-envoy-overloaded: true`.
    pub overloaded: bool,
    /// What a gRPC client is told; else what stands for the status ([`grpc_status`]).
    pub grpc_status: Option<u32>,
}

impl LocalReply {
    /// An answer from constants.
    pub const fn fixed(status: u16, body: &'static str, flags: Flags, details: &'static str) -> Self {
        Self {
            status,
            body: Cow::Borrowed(body),
            flags,
            details: Cow::Borrowed(details),
            overloaded: false,
            grpc_status: None,
        }
    }
}

/// The gRPC status that stands for an HTTP status (Envoy's `httpToGrpcStatus`).
pub fn grpc_status(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// No virtual host or no route.
pub const ROUTE_NOT_FOUND: LocalReply = LocalReply::fixed(404, "", Flags::NO_ROUTE, "route_not_found");
/// No host to send to.
pub const NO_HEALTHY_UPSTREAM: LocalReply =
    LocalReply::fixed(503, "no healthy upstream", Flags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream");
/// The route's timeout.
pub const RESPONSE_TIMEOUT: LocalReply =
    LocalReply::fixed(504, "upstream request timeout", Flags::UPSTREAM_TIMEOUT, "response_timeout");
/// The last try's timeout.
pub const PER_TRY_TIMEOUT: LocalReply =
    LocalReply::fixed(504, "upstream request timeout", Flags::UPSTREAM_TIMEOUT, "upstream_per_try_timeout");
/// Nothing moved in the last try.
pub const PER_TRY_IDLE_TIMEOUT: LocalReply =
    LocalReply::fixed(504, "upstream request timeout", Flags::UPSTREAM_TIMEOUT, "upstream_per_try_idle_timeout");
/// No activity while waiting for the upstream.
pub const STREAM_IDLE_UPSTREAM: LocalReply =
    LocalReply::fixed(504, "stream timeout", Flags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout");
/// No activity while waiting for the rest of the request.
pub const STREAM_IDLE_DOWNSTREAM: LocalReply =
    LocalReply::fixed(408, "stream timeout", Flags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout");
/// The head did not arrive in time.
pub const REQUEST_HEADER_TIMEOUT: LocalReply =
    LocalReply::fixed(408, "request header timeout", Flags::NONE, "request_header_timeout");
/// The request did not arrive in time.
pub const REQUEST_TIMEOUT: LocalReply =
    LocalReply::fixed(408, "request timeout", Flags::NONE, "request_overall_timeout");
/// The connection manager's limit on streams.
pub const MAX_STREAM_DURATION: LocalReply =
    LocalReply::fixed(504, "downstream duration timeout", Flags::NONE, "max_duration_timeout");
/// An upgrade that is not allowed.
pub const UPGRADE_FAILED: LocalReply = LocalReply::fixed(403, "", Flags::NONE, "upgrade_failed");
/// `OPTIONS *`, or a path that is none.
pub const ABSOLUTE_PATH_REJECTED: LocalReply = LocalReply::fixed(404, "", Flags::NONE, "absolute_path_rejected");
/// A path that may not be normalised.
pub const PATH_NORMALIZATION_FAILED: LocalReply = LocalReply::fixed(400, "", Flags::NONE, "path_normalization_failed");

/// The `connection` header takes away what the request cannot do without.
pub const MISSING_HOST: LocalReply = LocalReply::fixed(400, "", Flags::NONE, "missing_host_header");

/// The client broke HTTP/1 inside its body.
pub const BROKEN_BODY: LocalReply =
    LocalReply::fixed(400, "Bad Request", Flags::DOWNSTREAM_PROTOCOL_ERROR, "http1.codec_error");

/// The route's cluster does not exist.
pub fn cluster_not_found(status: u16) -> LocalReply {
    LocalReply::fixed(status, "", Flags::NO_CLUSTER, "cluster_not_found")
}

/// Why the host that a request names has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameFailure {
    /// It was not found; the reason as the resolver words it.
    Unresolved(Arc<str>),
    /// Too many names are kept already.
    CacheFull,
    /// Too many requests wait for lookups already.
    TooManyWait,
}

impl NameFailure {
    /// The answer (Envoy's dynamic forward proxy filter).
    pub fn reply(&self) -> LocalReply {
        match self {
            Self::Unresolved(reason) => LocalReply {
                details: format!("dns_resolution_failure{{{}}}", reason.replace([' ', '\t', '\n'], "_")).into(),
                ..LocalReply::fixed(503, "DNS resolution failure", Flags::DNS_FAILURE, "")
            },
            Self::CacheFull => LocalReply::fixed(503, "DNS cache overflow", Flags::NONE, "dns_cache_overflow"),
            Self::TooManyWait => LocalReply::fixed(
                503,
                "Dynamic forward proxy pending request overflow",
                Flags::NONE,
                "dynamic_forward_proxy_pending_request_overflow",
            ),
        }
    }
}

/// Why an upstream gave no (whole) answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// No connection; the reason as the system words it.
    Connect(Cow<'static, str>),
    /// No TLS over the connection; the reason in the words of Envoy's log, empty if there is none.
    Tls(Cow<'static, str>),
    /// No connection in time.
    ConnectTimeout,
    /// Closed or reset.
    Termination,
    /// HTTP was broken.
    Protocol,
    /// HTTP/2: the stream was reset.
    RemoteReset,
    /// HTTP/2: the stream was refused.
    RefusedStream,
    /// A circuit-breaker limit of ours.
    Overflow,
}

impl UpstreamFailure {
    /// The reason as the body tells it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Tls(_) => "remote connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::Termination => "connection termination",
            Self::Protocol => "protocol error",
            Self::RemoteReset => "remote reset",
            Self::RefusedStream => "remote refused stream reset",
            Self::Overflow => "overflow",
        }
    }

    /// The flag for the record. This is the one place where failures become Envoy's response flags.
    pub fn flags(&self) -> Flags {
        match self {
            Self::Connect(_) | Self::Tls(_) | Self::ConnectTimeout => Flags::UPSTREAM_CONNECTION_FAILURE,
            Self::Termination => Flags::UPSTREAM_TERMINATION,
            Self::Protocol => Flags::UPSTREAM_PROTOCOL_ERROR,
            Self::RemoteReset | Self::RefusedStream => Flags::UPSTREAM_REMOTE_RESET,
            Self::Overflow => Flags::UPSTREAM_OVERFLOW,
        }
    }

    /// Why the transport failed, as the log words it; empty where there is nothing to add.
    pub fn transport_reason(&self) -> Cow<'static, str> {
        match self {
            Self::Connect(reason) => format!("delayed_connect_error:_{}", reason.replace(' ', "_")).into(),
            Self::Tls(reason) => reason.replace(' ', "_").into(),
            _ => Cow::Borrowed(""),
        }
    }

    /// The answer when no response had begun. `retried`: this was not the first attempt.
    pub fn reply(&self, retried: bool) -> LocalReply {
        LocalReply {
            status: if *self == Self::Protocol { 502 } else { 503 },
            body: format!(
                "upstream connect error or disconnect/reset before headers. {}reset reason: {}",
                if retried { "retried and the latest " } else { "" },
                self.reason()
            )
            .into(),
            flags: self.flags(),
            details: self.details("before"),
            overloaded: *self == Self::Overflow,
            grpc_status: None,
        }
    }

    /// Details when a response had begun.
    pub fn details_after(&self) -> Cow<'static, str> {
        self.details("after")
    }

    fn details(&self, when: &str) -> Cow<'static, str> {
        let mut reason = self.reason().replace(' ', "_");
        let transport = self.transport_reason();
        if !transport.is_empty() {
            reason.push('|');
            reason.push_str(&transport);
        }
        format!("upstream_reset_{when}_response_started{{{reason}}}").into()
    }
}

/// Completes the head of an answer of our own, in which `out` may have fields already; gives its body. A gRPC client
/// is told by `grpc-status`: the one given, or what stands for the status.
pub fn local_response(
    status: u16,
    text: &Bytes,
    request: &RequestHead,
    code: Option<u32>,
    out: &mut ResponseHead,
) -> Bytes {
    out.status = status;
    if request.is_grpc() {
        out.status = 200;
        out.headers.remove("content-length");
        out.headers.set("content-type", "application/grpc");
        out.headers.append("grpc-status", code.unwrap_or_else(|| grpc_status(status)).to_string());
        if !text.is_empty() && request.method != "HEAD" {
            out.headers.append("grpc-message", percent_encode(text));
        }
        return Bytes::new();
    }
    if status < 200 || status == 204 || status == 304 || text.is_empty() {
        out.headers.remove("content-length");
        out.headers.remove("content-type");
        return Bytes::new();
    }
    out.headers.set("content-length", text.len().to_string());
    if !out.headers.contains("content-type") {
        out.headers.append("content-type", "text/plain");
    }
    text.clone()
}

/// gRPC's encoding of messages (its HTTP/2 protocol document, "Percent-Encoded").
pub(crate) fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for &b in text {
        // Envoy writes the tilde out too.
        if (0x20..0x7e).contains(&b) && b != b'%' {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_envoys() {
        let refused = UpstreamFailure::Connect("Connection refused".into()).reply(false);
        assert_eq!(refused.body.len(), 98);
        assert_eq!(
            refused.details,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(UpstreamFailure::Protocol.reply(false).status, 502);
        assert!(UpstreamFailure::Overflow.reply(false).overloaded);
        assert_eq!(UpstreamFailure::RemoteReset.details_after(), "upstream_reset_after_response_started{remote_reset}");
    }
}
