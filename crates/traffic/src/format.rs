//! Envoy's format strings: text with `%COMMAND(ARGUMENTS):LENGTH%` operators, used by access logs and header edits.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cluster::EndpointAddress;
use crate::message::{RequestHead, ResponseHead};
use crate::metadata::{Metadata, Value};
use crate::record::Record;

/// Why a format string is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// A `%` without its partner.
    #[error("unterminated operator at byte {0}; a percent sign is written %%")]
    Unterminated(usize),
    /// An operator that does not exist, or is not carried out yet.
    #[error("operator %{0}% is not known")]
    Unknown(String),
    /// An operator's arguments do not fit.
    #[error("operator %{0}%: {1}")]
    Arguments(String, &'static str),
}

/// A compiled format string.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Format {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Operator(Operator, Option<usize>),
}

#[derive(Debug, Clone, PartialEq)]
enum Operator {
    StartTime(Option<Arc<str>>),
    Request(Fields),
    Response(Fields),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    TerminationDetails,
    UpstreamFailure,
    BytesReceived,
    BytesSent,
    Duration,
    UpstreamHost,
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamLocal(Part),
    DownstreamLocal(Part),
    DownstreamRemote(Part),
    DownstreamDirect(Part),
    ServerName,
    RouteName,
    Attempts,
    Metadata(Arc<str>, Box<[Arc<str>]>),
    Tls(Side, TlsFact),
    DownstreamFailure,
}

/// Header names of `REQ(A?B)`: the first that is there.
#[derive(Debug, Clone, PartialEq)]
struct Fields(Arc<str>, Option<Arc<str>>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Whole,
    WithoutPort,
    Port,
}

/// What operators can ask for.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// What happened so far.
    pub record: &'a Record,
    /// The request.
    pub request: &'a RequestHead,
    /// The response, once there is one.
    pub response: Option<&'a ResponseHead>,
}

impl Format {
    /// A format without operators.
    pub fn text(text: &str) -> Self {
        Self { pieces: vec![Piece::Text(text.to_owned())] }
    }

    /// Compiles a format string.
    ///
    /// # Errors
    /// When an operator is unknown or malformed.
    pub fn parse(format: &str) -> Result<Self, FormatError> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            text.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(tail) = after.strip_prefix('%') {
                text.push('%');
                rest = tail;
                continue;
            }
            let end = operator_end(after).ok_or(FormatError::Unterminated(format.len() - rest.len() + at))?;
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            let (operator, length) = Operator::parse(&after[..end])?;
            pieces.push(Piece::Operator(operator, length));
            rest = &after[end + 1..];
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self { pieces })
    }

    /// The text, if there is no operator in it.
    pub fn as_text(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether the result is a number: that of one operator which counts something, and nothing else.
    pub fn is_number(&self) -> bool {
        let [Piece::Operator(operator, None)] = self.pieces.as_slice() else { return false };
        match operator {
            Operator::ResponseCode
            | Operator::BytesReceived
            | Operator::BytesSent
            | Operator::Duration
            | Operator::Attempts => true,
            Operator::UpstreamLocal(part)
            | Operator::DownstreamLocal(part)
            | Operator::DownstreamRemote(part)
            | Operator::DownstreamDirect(part) => *part == Part::Port,
            _ => false,
        }
    }

    /// Writes the result; a value that is not there is written as `missing`.
    pub fn render(&self, facts: Facts<'_>, missing: &str, out: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Operator(operator, length) => {
                    let at = out.len();
                    if !operator.write(facts, out) {
                        out.truncate(at);
                        out.push_str(missing);
                    }
                    if let Some(length) = length {
                        let mut end = (at + length).min(out.len());
                        while !out.is_char_boundary(end) {
                            end -= 1;
                        }
                        out.truncate(end);
                    }
                }
            }
        }
    }
}

/// Where an operator ends: at the next `%` outside parentheses.
fn operator_end(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    text.bytes().position(|b| {
        match b {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        b == b'%' && depth == 0
    })
}

impl Operator {
    fn parse(text: &str) -> Result<(Self, Option<usize>), FormatError> {
        let (body, length) = match text.rsplit_once(':') {
            // A colon inside the parentheses belongs to the arguments, as in REQ(:METHOD).
            Some((body, digits))
                if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && !body.ends_with('(') =>
            {
                let length =
                    digits.parse().map_err(|_| FormatError::Arguments(text.into(), "the length is too large"))?;
                (body, Some(length))
            }
            _ => (text, None),
        };
        let (name, arguments) = match body.split_once('(') {
            Some((name, rest)) => {
                let arguments =
                    rest.strip_suffix(')').ok_or_else(|| FormatError::Arguments(text.into(), "`)` is missing"))?;
                (name, Some(arguments))
            }
            None => (body, None),
        };
        let fields = || {
            let list = arguments
                .filter(|a| !a.is_empty())
                .ok_or_else(|| FormatError::Arguments(text.into(), "a header name is needed"))?;
            let (first, second) = match list.split_once('?') {
                Some((a, b)) => (a, Some(b)),
                None => (list, None),
            };
            Ok(Fields(first.to_ascii_lowercase().into(), second.map(|s| s.to_ascii_lowercase().into())))
        };
        let operator = match name {
            "START_TIME" => Self::StartTime(arguments.filter(|a| !a.is_empty()).map(time_format).transpose()?),
            "REQ" => Self::Request(fields()?),
            "RESP" => Self::Response(fields()?),
            "PROTOCOL" => Self::Protocol,
            "RESPONSE_CODE" => Self::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Self::ResponseCodeDetails,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
            "CONNECTION_TERMINATION_DETAILS" => Self::TerminationDetails,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Self::UpstreamFailure,
            "BYTES_RECEIVED" => Self::BytesReceived,
            "BYTES_SENT" => Self::BytesSent,
            "DURATION" => Self::Duration,
            "UPSTREAM_HOST" => Self::UpstreamHost,
            "UPSTREAM_CLUSTER" => Self::UpstreamCluster,
            "UPSTREAM_CLUSTER_RAW" => Self::UpstreamClusterRaw,
            "UPSTREAM_LOCAL_ADDRESS" => Self::UpstreamLocal(Part::Whole),
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::UpstreamLocal(Part::WithoutPort),
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::DownstreamLocal(Part::Whole),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::DownstreamLocal(Part::WithoutPort),
            "DOWNSTREAM_LOCAL_PORT" => Self::DownstreamLocal(Part::Port),
            "DOWNSTREAM_REMOTE_ADDRESS" => Self::DownstreamRemote(Part::Whole),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamRemote(Part::WithoutPort),
            "DOWNSTREAM_REMOTE_PORT" => Self::DownstreamRemote(Part::Port),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Self::DownstreamDirect(Part::Whole),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamDirect(Part::WithoutPort),
            "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Self::DownstreamFailure,
            "REQUESTED_SERVER_NAME" => Self::ServerName,
            "ROUTE_NAME" => Self::RouteName,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Self::Attempts,
            "DYNAMIC_METADATA" => {
                let mut path = arguments.unwrap_or_default().split(':').map(Arc::from);
                let filter: Option<Arc<str>> = path.next().filter(|filter: &Arc<str>| !filter.is_empty());
                let filter = filter.ok_or_else(|| FormatError::Arguments(text.into(), "a filter's name is needed"))?;
                Self::Metadata(filter, path.collect())
            }
            _ => match tls_fact(name) {
                Some((side, fact)) => Self::Tls(side, fact),
                None => return Err(FormatError::Unknown(text.to_owned())),
            },
        };
        Ok((operator, length))
    }

    /// Writes the value; false when there is none.
    fn write(&self, Facts { record, request, response }: Facts<'_>, out: &mut String) -> bool {
        match self {
            Self::StartTime(format) => {
                write_time(record.start, format.as_deref(), out);
                true
            }
            Self::Request(fields) => {
                // A request that could not be read has nothing; one that was read may have an empty authority.
                let known =
                    |name: &str| !request.method.is_empty() && !request.authority_missing && name == ":authority";
                write_field(fields, out, |name| {
                    request.field(name).filter(|v| !v.is_empty() || !name.starts_with(':') || known(name))
                })
            }
            Self::Response(fields) => write_field(fields, out, |name| response?.headers.get(name)),
            Self::Protocol => record.protocol.is_some_and(|p| put(out, p.as_str())),
            Self::ResponseCode => number(out, u64::from(record.code)),
            Self::ResponseCodeDetails => put(out, &record.details),
            Self::ResponseFlags if record.flags.is_empty() => put(out, "-"),
            Self::ResponseFlags => write!(out, "{}", record.flags).is_ok(),
            Self::TerminationDetails => put(out, &record.termination_details),
            Self::UpstreamFailure => put(out, &record.upstream_failure),
            Self::BytesReceived => number(out, record.bytes_received),
            Self::BytesSent => number(out, record.bytes_sent),
            Self::Duration => number(out, record.duration.as_millis() as u64),
            Self::UpstreamHost => record.upstream_host.as_ref().is_some_and(|h| host(out, h)),
            Self::UpstreamCluster => {
                let name = record.upstream_cluster_alt.as_ref().or(record.upstream_cluster.as_ref());
                name.is_some_and(|n| put(out, n))
            }
            Self::UpstreamClusterRaw => record.upstream_cluster.as_ref().is_some_and(|n| put(out, n)),
            Self::UpstreamLocal(part) => record.upstream_local.is_some_and(|a| address(out, a, *part)),
            Self::DownstreamLocal(part) => address(out, record.downstream_local, *part),
            Self::DownstreamRemote(part) => address(out, record.downstream_remote, *part),
            Self::DownstreamDirect(part) => address(out, record.downstream_direct, *part),
            Self::Tls(side, fact) => {
                let connection = match side {
                    Side::Downstream => record.downstream_tls.as_deref(),
                    Side::Upstream => record.upstream_tls.as_deref(),
                };
                connection.is_some_and(|connection| fact.write(connection, out))
            }
            Self::DownstreamFailure => put(out, &record.downstream_failure),
            Self::ServerName => record.server_name.as_ref().is_some_and(|n| put(out, n)),
            Self::RouteName => record.route_name.as_ref().is_some_and(|n| put(out, n)),
            Self::Attempts => number(out, u64::from(record.attempts)),
            Self::Metadata(filter, path) => write_metadata(&record.metadata, filter, path, out),
        }
    }
}

fn put(out: &mut String, text: &str) -> bool {
    out.push_str(text);
    !text.is_empty()
}

fn number(out: &mut String, n: u64) -> bool {
    plain::number(n, out);
    true
}

fn address(out: &mut String, address: SocketAddr, part: Part) -> bool {
    let ip = address.ip().to_canonical();
    match part {
        Part::Whole => plain::address(ip, Some(address.port()), out),
        Part::WithoutPort => plain::address(ip, None, out),
        Part::Port => plain::number(u64::from(address.port()), out),
    }
    true
}

fn host(out: &mut String, host: &EndpointAddress) -> bool {
    match host {
        EndpointAddress::Socket(SocketAddr::V4(host)) => {
            plain::address((*host.ip()).into(), Some(host.port()), out);
            true
        }
        // An IPv6 address may have a scope.
        other => write!(out, "{other}").is_ok(),
    }
}

fn write_field<'a>(Fields(first, second): &Fields, out: &mut String, get: impl Fn(&str) -> Option<&'a [u8]>) -> bool {
    let value = get(first).or_else(|| second.as_deref().and_then(&get));
    let Some(value) = value else { return false };
    match std::str::from_utf8(value) {
        Ok(text) => out.push_str(text),
        Err(_) => out.push_str(&String::from_utf8_lossy(value)),
    }
    true
}

/// A string as it is, everything else as JSON; without a key, all that the filter told.
fn write_metadata(metadata: &Metadata, filter: &str, path: &[Arc<str>], out: &mut String) -> bool {
    let value = match path {
        [] => {
            let mut all: Vec<_> = metadata.of(filter).map(|(key, value)| (key.clone(), value.clone())).collect();
            all.sort_by(|(a, _), (b, _)| a.cmp(b));
            (!all.is_empty()).then(|| Value::Struct(all.into()))
        }
        path => metadata.get(filter, path).cloned(),
    };
    match value {
        Some(Value::Text(text)) => out.push_str(&text),
        Some(value) => value.write_json(out),
        None => return false,
    }
    true
}

/// Checks a `START_TIME` format by using it.
fn time_format(format: &str) -> Result<Arc<str>, FormatError> {
    let bad = || FormatError::Arguments(format!("START_TIME({format})"), "the time format is not understood");
    jiff::fmt::strtime::format(format, &jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC))
        .map_err(|_| bad())?;
    Ok(format.into())
}

fn write_time(time: SystemTime, format: Option<&str>, out: &mut String) {
    let Some(format) = format else { return plain::moment(time, out) };
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
    let Ok(stamp) = jiff::Timestamp::new(seconds, since.subsec_nanos() as i32) else { return };
    if let Ok(text) = jiff::fmt::strtime::format(format, &stamp.to_zoned(jiff::tz::TimeZone::UTC)) {
        out.push_str(&text);
    }
}

/// The value of the `date` header (RFC 9110 section 5.6.7).
pub fn http_date(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let stamp = jiff::Timestamp::from_second(i64::try_from(since.as_secs()).unwrap_or(0))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let zoned = stamp.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format("%a, %d %b %Y %H:%M:%S GMT", &zoned).unwrap_or_default()
}

/// A moment, in seconds since 1970, as protobuf's JSON has it (RFC 3339).
pub fn rfc3339(seconds: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(0)).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// The same with milliseconds, as access logs write it.
pub fn rfc3339_millis(time: SystemTime) -> String {
    let mut out = String::with_capacity(24);
    write_time(time, None, &mut out);
    out
}

mod plain;
mod tls;

use tls::{Side, TlsFact, tls_fact};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Flags;

    fn render(format: &str, change: impl FnOnce(&mut Record, &mut RequestHead)) -> String {
        let mut record = Record::begin(
            UNIX_EPOCH + Duration::from_millis(1_700_000_000_007),
            "10.0.0.1:80".parse().unwrap(),
            "[::ffff:10.0.0.2]:4711".parse().unwrap(),
        );
        let mut request =
            RequestHead { method: "GET".into(), path: "/a?b".into(), authority: "host".into(), ..Default::default() };
        request.headers.append("User-Agent", "curl");
        change(&mut record, &mut request);
        let mut out = String::new();
        let response = ResponseHead::new(200);
        Format::parse(format).unwrap().render(
            Facts { record: &record, request: &request, response: Some(&response) },
            "-",
            &mut out,
        );
        out
    }

    #[test]
    fn operators_are_filled_in() {
        assert_eq!(
            render(
                "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%\" %REQ(USER-AGENT):2% 100%%",
                |_, _| ()
            ),
            "[2023-11-14T22:13:20.007Z] \"GET /a?b\" cu 100%"
        );
        assert_eq!(
            render("%RESPONSE_FLAGS% %DOWNSTREAM_REMOTE_ADDRESS% %UPSTREAM_HOST% %RESP(X)% %ROUTE_NAME%", |r, _| {
                r.flags = Flags::RETRY_LIMIT | Flags::UPSTREAM_TIMEOUT;
            }),
            "URX,UT 10.0.0.2:4711 - - -"
        );
        assert_eq!(render("%START_TIME(%Y/%m/%d %H:%M:%S.%3f)%", |_, _| ()), "2023/11/14 22:13:20.007");
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(Format::parse("a %NOPE% b").unwrap_err(), FormatError::Unknown("NOPE".into()));
        assert_eq!(Format::parse("50% off").unwrap_err(), FormatError::Unterminated(2));
        assert!(Format::parse("%REQ()%").is_err() && Format::parse("%REQ(a%").is_err());
        assert_eq!(Format::parse("100%%").unwrap().as_text(), Some("100%"));
    }

    #[test]
    fn dates_are_http_dates() {
        assert_eq!(http_date(UNIX_EPOCH + Duration::from_secs(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in "[%A-Z():?0-9a-z é]{0,40}") {
            let _ = Format::parse(&text);
        }
    }
}
