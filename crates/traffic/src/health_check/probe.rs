//! What a host is asked by a check, and which answers are good.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Outcome;
use crate::cluster::EndpointAddress;
use crate::edit::HeaderEdits;
use crate::format::Facts;
use crate::matcher::StringMatcher;
use crate::message::{Protocol, RequestHead, ResponseHead};
use crate::proxy_protocol;
use crate::record::Record;

/// What a host is asked.
#[derive(Debug, Clone)]
pub enum Probe {
    /// An HTTP request.
    Http(HttpProbe),
    /// Bytes over a connection, or just a connection.
    Tcp(TcpProbe),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcProbe),
}

/// An HTTP request, and the answer wanted.
#[derive(Debug, Clone)]
pub struct HttpProbe {
    /// Spoken by HTTP/2, not HTTP/1.1.
    pub http2: bool,
    /// Method, upper case.
    pub method: Arc<str>,
    /// Host; empty for the cluster's name.
    pub host: Arc<str>,
    /// Path and query.
    pub path: Arc<str>,
    /// Edits of the request's fields.
    pub edits: HeaderEdits,
    /// Body; empty for none.
    pub body: Vec<u8>,
    /// Statuses of a host that is well.
    pub expected: Statuses,
    /// Statuses that count towards the threshold, where they are not expected.
    pub retriable: Statuses,
    /// What is to be found in the body, in this order.
    pub receive: Vec<Vec<u8>>,
    /// Bytes of the body that are looked at.
    pub look_at: usize,
    /// Matches what the host says to be (`x-envoy-upstream-healthchecked-cluster`).
    pub service_name: Option<StringMatcher>,
}

/// Who is asked, and when: what a request may tell of itself.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Host name, as the request has it.
    pub name: &'a str,
    /// The host's address.
    pub host: &'a EndpointAddress,
    /// Now.
    pub at: SystemTime,
}

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// Good or not.
    pub outcome: Outcome,
    /// The host asks to be left alone (`x-envoy-immediate-health-check-fail`).
    pub leave_alone: bool,
    /// The service name was looked at.
    pub looked_at_name: bool,
}

impl From<Outcome> for Judged {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, leave_alone: false, looked_at_name: false }
    }
}

/// Ranges of HTTP statuses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statuses(pub Vec<Range<u16>>);

/// Bytes over a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpProbe {
    /// What is sent.
    pub send: Vec<u8>,
    /// What is to be found in what comes back, in this order; a connection is enough if empty.
    pub receive: Vec<Vec<u8>>,
    /// What comes before, if anything.
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Debug, Clone)]
pub struct GrpcProbe {
    /// The service asked about; empty for the server as a whole.
    pub service: Arc<str>,
    /// Host; empty for the cluster's name.
    pub authority: Arc<str>,
    /// Fields added to the request.
    pub edits: HeaderEdits,
}

impl Statuses {
    fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl HttpProbe {
    /// The request.
    pub fn request(&self, asked: Asked<'_>) -> RequestHead {
        let mut request = RequestHead {
            method: self.method.to_string(),
            scheme: "http".to_owned(),
            authority: asked.name.to_owned(),
            path: self.path.to_string(),
            protocol: if self.http2 { Protocol::Http2 } else { Protocol::Http11 },
            ..RequestHead::default()
        };
        request.headers.append("user-agent", USER_AGENT);
        edit(&self.edits, asked, &mut request);
        if !self.body.is_empty() {
            request.headers.append("content-length", self.body.len().to_string());
        }
        request
    }

    /// What the answer comes to. `body` is what was kept of it.
    pub fn judge(&self, answer: &ResponseHead, body: &[u8]) -> Judged {
        let expected = self.expected.contain(answer.status);
        let found = finds(&self.receive, body);
        let leave_alone = !(found && expected) && answer.headers.contains("x-envoy-immediate-health-check-fail");
        let judged = |outcome: Outcome| Judged { leave_alone, ..outcome.into() };
        if !found {
            return judged(Outcome::Bad);
        }
        if !expected {
            return judged(if self.retriable.contain(answer.status) { Outcome::Retriable } else { Outcome::Bad });
        }
        let good = if answer.headers.contains("x-envoy-degraded") { Outcome::Degraded } else { Outcome::Good };
        let Some(name) = &self.service_name else { return judged(good) };
        let said = answer.headers.get_str("x-envoy-upstream-healthchecked-cluster").unwrap_or_default();
        Judged { looked_at_name: true, ..judged(if name.matches(said) { good } else { Outcome::Bad }) }
    }
}

impl GrpcProbe {
    /// The request, without its message.
    pub fn request(&self, asked: Asked<'_>, timeout: Duration) -> RequestHead {
        let mut request = RequestHead {
            method: "POST".to_owned(),
            scheme: "http".to_owned(),
            authority: asked.name.to_owned(),
            path: "/grpc.health.v1.Health/Check".to_owned(),
            protocol: Protocol::Http2,
            ..RequestHead::default()
        };
        for (name, value) in [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", USER_AGENT)] {
            request.headers.append(name, value);
        }
        edit(&self.edits, asked, &mut request);
        request.headers.append("grpc-timeout", grpc_timeout(timeout));
        request
    }
}

const USER_AGENT: &str = "Envoy/HC";

fn edit(edits: &HeaderEdits, asked: Asked<'_>, request: &mut RequestHead) {
    // There is no client; Envoy names these addresses too.
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut record = Record::begin(asked.at, nobody, nobody);
    record.upstream_host = Some(asked.host.clone());
    record.protocol = Some(request.protocol);
    let values = edits.values(Facts { record: &record, request, response: None });
    edits.apply(&mut request.headers, &values);
}

/// At most eight digits and a unit, as fine as they allow.
fn grpc_timeout(timeout: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let millis = timeout.as_millis();
    for (unit, length) in [('m', 1), ('S', 1000), ('M', 60_000)] {
        if millis / length <= MOST {
            return format!("{}{unit}", millis / length);
        }
    }
    format!("{}H", (millis / 3_600_000).min(MOST))
}

/// Whether all parts are in `bytes`, one after the other, with anything between.
pub fn finds(parts: &[Vec<u8>], bytes: &[u8]) -> bool {
    let mut rest = bytes;
    parts.iter().all(|part| {
        let found = if part.is_empty() { Some(0) } else { rest.windows(part.len()).position(|window| window == part) };
        found.is_some_and(|at| {
            rest = &rest[at + part.len()..];
            true
        })
    })
}
