//! The heads of HTTP messages, the same for HTTP/1 and HTTP/2.

use crate::headers::Headers;

/// HTTP version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// As access logs print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A request without its body.
#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    /// Method, as sent.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host and port the client asked for; empty if it sent an empty Host.
    pub authority: String,
    /// There is no authority at all; only of requests that are refused for that.
    pub authority_missing: bool,
    /// Path and query; empty for CONNECT.
    pub path: String,
    /// For extended CONNECT (RFC 8441) and HTTP/1 upgrades: the protocol asked for, lower case; else empty.
    pub upgrade: String,
    /// HTTP version the client spoke.
    pub protocol: Protocol,
    /// Header fields, without `host`.
    pub headers: Headers,
}

impl RequestHead {
    /// Empties the head, keeps the memory.
    pub fn clear(&mut self) {
        self.method.clear();
        self.scheme.clear();
        self.authority.clear();
        self.authority_missing = false;
        self.path.clear();
        self.upgrade.clear();
        self.headers.clear();
    }

    /// Bytes that it keeps for what may come.
    pub fn capacity(&self) -> usize {
        let texts = [&self.method, &self.scheme, &self.authority, &self.path, &self.upgrade];
        texts.into_iter().map(String::capacity).sum::<usize>() + self.headers.capacity()
    }

    /// The path without its query.
    pub fn path_only(&self) -> &str {
        self.path.split(['?', '#']).next().unwrap_or_default()
    }

    /// The query without `?`, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.path.split_once('?').map(|(_, q)| q)
    }

    /// Whether the content type is gRPC's (`application/grpc` or `application/grpc+…`, not grpc-web).
    pub fn is_grpc(&self) -> bool {
        self.headers
            .get("content-type")
            .is_some_and(|t| t.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest[0] == b'+'))
    }

    /// Whether this is a CONNECT, plain or extended.
    pub fn is_connect(&self) -> bool {
        self.method == "CONNECT"
    }

    /// A pseudo header (`:method`, `:path`, `:authority`, `:scheme`) or `host`, or the first value of a field.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        match name {
            ":method" => Some(self.method.as_bytes()),
            ":path" => Some(self.path.as_bytes()),
            ":authority" | "host" => Some(self.authority.as_bytes()),
            ":scheme" => Some(self.scheme.as_bytes()),
            _ => self.headers.get(name),
        }
    }
}

/// A response without its body.
#[derive(Debug, Clone, Default)]
pub struct ResponseHead {
    /// Status code, 100 to 599 (Envoy lets any three digits pass).
    pub status: u16,
    /// Reason phrase of an HTTP/1 upstream; empty if none or unknown.
    pub reason: String,
    /// Header fields.
    pub headers: Headers,
}

impl ResponseHead {
    /// A response with a status and no fields.
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}
