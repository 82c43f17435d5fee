//! The one record of what happened to a request or connection, from which logs and statistics are written.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cluster::EndpointAddress;
use crate::message::Protocol;
use crate::metadata::Metadata;
use crate::tls::TlsConnection;

/// What happened to one request (or one TCP connection).
#[derive(Debug, Clone)]
pub struct Record {
    /// When it began.
    pub start: SystemTime,
    /// HTTP version of the client; `None` for TCP and requests that could not be read.
    pub protocol: Option<Protocol>,
    /// Status code answered; 0 when there was no answer.
    pub code: u16,
    /// Why that answer.
    pub details: Cow<'static, str>,
    /// Why the connection ended, for connections that were ended by a filter.
    pub termination_details: Cow<'static, str>,
    /// What went wrong.
    pub flags: Flags,
    /// Body bytes from the client (TCP: all bytes).
    pub bytes_received: u64,
    /// Body bytes to the client (TCP: all bytes).
    pub bytes_sent: u64,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// The host that was chosen last.
    pub upstream_host: Option<EndpointAddress>,
    /// The cluster that was chosen.
    pub upstream_cluster: Option<Arc<str>>,
    /// Its name for statistics, where it differs.
    pub upstream_cluster_alt: Option<Arc<str>>,
    /// Our address on the upstream connection.
    pub upstream_local: Option<SocketAddr>,
    /// Why the upstream connection failed, in words.
    pub upstream_failure: Cow<'static, str>,
    /// The address the client connected to.
    pub downstream_local: SocketAddr,
    /// The client, as far as it is trusted to say who it is.
    pub downstream_remote: SocketAddr,
    /// The peer of the connection.
    pub downstream_direct: SocketAddr,
    /// TLS server name asked for.
    pub server_name: Option<Arc<str>>,
    /// What the client's TLS handshake found out; `None` for a plaintext connection.
    pub downstream_tls: Option<Arc<TlsConnection>>,
    /// Why the client's TLS handshake failed, in words.
    pub downstream_failure: Cow<'static, str>,
    /// What the TLS handshake with the host found out; `None` for a plaintext connection.
    pub upstream_tls: Option<Arc<TlsConnection>>,
    /// Name of the route.
    pub route_name: Option<Arc<str>>,
    /// Attempts made.
    pub attempts: u32,
    /// What filters found out.
    pub metadata: Metadata,
}

impl Record {
    /// A record of something that begins now.
    pub fn begin(start: SystemTime, local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            start,
            protocol: None,
            code: 0,
            details: Cow::Borrowed(""),
            termination_details: Cow::Borrowed(""),
            flags: Flags::default(),
            bytes_received: 0,
            bytes_sent: 0,
            duration: Duration::ZERO,
            upstream_host: None,
            upstream_cluster: None,
            upstream_cluster_alt: None,
            upstream_local: None,
            upstream_failure: Cow::Borrowed(""),
            downstream_local: local,
            downstream_remote: peer,
            downstream_direct: peer,
            server_name: None,
            downstream_tls: None,
            downstream_failure: Cow::Borrowed(""),
            upstream_tls: None,
            route_name: None,
            attempts: 0,
            metadata: Metadata::default(),
        }
    }
}

/// Envoy's response flags: up to eight, in the order in which they were raised, which is the order of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u64);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $short:literal;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Flags = Flags($number);)*
            const ALL: &[(Flags, &str)] = &[$((Flags::$name, $short)),*];
        }
    };
}

flags! {
    /// No healthy upstream host.
    NO_HEALTHY_UPSTREAM = 1, "UH";
    /// The upstream connection could not be made.
    UPSTREAM_CONNECTION_FAILURE = 2, "UF";
    /// A circuit-breaker limit.
    UPSTREAM_OVERFLOW = 3, "UO";
    /// No route, no virtual host, no filter chain.
    NO_ROUTE = 4, "NR";
    /// All retries used up.
    RETRY_LIMIT = 5, "URX";
    /// The cluster does not exist.
    NO_CLUSTER = 6, "NC";
    /// Maximal connection duration reached.
    DURATION_TIMEOUT = 7, "DT";
    /// The client went away.
    DOWNSTREAM_TERMINATION = 8, "DC";
    /// Upstream did not answer in time.
    UPSTREAM_TIMEOUT = 9, "UT";
    /// The client reset its stream.
    DOWNSTREAM_RESET = 10, "DR";
    /// Upstream reset the stream.
    UPSTREAM_REMOTE_RESET = 11, "UR";
    /// Upstream closed the connection.
    UPSTREAM_TERMINATION = 12, "UC";
    /// A stream was idle for too long.
    STREAM_IDLE_TIMEOUT = 13, "SI";
    /// The client broke the protocol.
    DOWNSTREAM_PROTOCOL_ERROR = 14, "DPE";
    /// The upstream broke the protocol.
    UPSTREAM_PROTOCOL_ERROR = 15, "UPE";
    /// Maximal stream duration reached.
    UPSTREAM_MAX_STREAM_DURATION = 16, "UMSDR";
    /// A fault was injected: the request waited.
    DELAY_INJECTED = 17, "DI";
    /// A fault was injected: the request was aborted.
    FAULT_INJECTED = 18, "FI";
    /// An authorization service refused, or did not answer.
    UNAUTHORIZED = 19, "UAEX";
    /// The host that a request names was not found.
    DNS_FAILURE = 20, "DF";
}

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);

    // One flag a byte, the first in the lowest.
    fn numbers(self) -> impl Iterator<Item = u64> {
        self.0.to_le_bytes().into_iter().take_while(|n| *n != 0).map(u64::from)
    }

    /// Raises flags after those that are there.
    pub fn add(&mut self, other: Flags) {
        for number in other.numbers() {
            let count = self.numbers().count();
            if count < 8 && self.numbers().all(|n| n != number) {
                self.0 |= number << (8 * count);
            }
        }
    }

    /// Whether any of `other` is raised.
    pub fn intersects(self, other: Flags) -> bool {
        self.numbers().any(|n| other.numbers().any(|o| o == n))
    }

    /// Whether none is raised.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// A flag by its short name.
    pub fn from_short(name: &str) -> Option<Flags> {
        Self::ALL.iter().find(|(_, short)| *short == name).map(|(flag, _)| *flag)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(mut self, other: Flags) -> Flags {
        self.add(other);
        self
    }
}

impl fmt::Display for Flags {
    /// Comma-separated short names, `-` for none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (i, number) in self.numbers().enumerate() {
            let short = Self::ALL.iter().find(|(flag, _)| flag.0 == number).map_or("", |(_, short)| short);
            write!(f, "{}{short}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}
