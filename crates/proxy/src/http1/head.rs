//! Message heads: from bytes to [`RequestHead`] and [`ResponseHead`], with everything refused that two parties could
//! read in two ways (RFC 9112 sections 3, 5 and 6).

use std::mem::MaybeUninit;

use lateen_traffic::hcm::{Http1Settings, RequestLimits, Underscores};
use lateen_traffic::record::Flags;
use lateen_traffic::reply::LocalReply;
use lateen_traffic::{Headers, Protocol, RequestHead, ResponseHead};

use super::target;

/// Header fields that fit on the stack while a head is read.
const ON_STACK: usize = 128;

/// Methods that are served, as Envoy's HTTP/1 codec.
const METHODS: [&str; 34] = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "M-SEARCH",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection ends (responses only).
    UntilClose,
}

/// What a head says about its connection and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wire {
    /// Bytes of the head.
    pub length: usize,
    /// How the body ends.
    pub framing: Framing,
    /// The connection can be used again afterwards.
    pub keep_alive: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
}

/// Why a request head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// Not HTTP/1, or against its grammar.
    Codec,
    /// A control character in a value.
    InvalidCharacters,
    /// Longer than allowed.
    TooLarge,
    /// More fields than allowed.
    TooManyHeaders,
    /// A transfer coding other than one `chunked`.
    TransferEncoding,
    /// `content-length` and `transfer-encoding` together.
    LengthAndChunked,
    /// An HTTP version that is not served.
    Version,
    /// No `host`.
    MissingHost,
    /// A `host` that is no authority.
    InvalidAuthority,
    /// An absolute URL of a scheme that is not HTTP's.
    InvalidScheme,
    /// An absolute URL of https where the client does not speak TLS.
    HttpsInClear,
    /// `*` with another method than OPTIONS, or a URL with no host, two users or a port that is no number.
    InvalidUrl,
    /// An underscore in a name.
    Underscore,
    /// `connection` names a field that it may not take away.
    Connection,
}

impl BadRequest {
    /// The answer.
    pub fn reply(self) -> LocalReply {
        let bad = |details| LocalReply::fixed(400, "Bad Request", Flags::DOWNSTREAM_PROTOCOL_ERROR, details);
        let other = |status, body, details| LocalReply::fixed(status, body, Flags::DOWNSTREAM_PROTOCOL_ERROR, details);
        match self {
            Self::Codec => bad("http1.codec_error"),
            Self::InvalidCharacters => bad("http1.invalid_characters"),
            Self::TooLarge => other(431, "Request Header Fields Too Large", "http1.headers_too_large"),
            Self::TooManyHeaders => other(431, "Request Header Fields Too Large", "http1.too_many_headers"),
            Self::TransferEncoding => other(501, "Not Implemented", "http1.invalid_transfer_encoding"),
            Self::LengthAndChunked => bad("http1.content_length_and_chunked_not_allowed"),
            Self::Version => other(426, "Upgrade Required", "low_version"),
            Self::MissingHost => LocalReply::fixed(400, "", Flags::NONE, "missing_host_header"),
            Self::InvalidAuthority => bad("http.invalid_authority"),
            Self::InvalidScheme => bad("http1.invalid_scheme"),
            Self::HttpsInClear => other(403, "Forbidden", "http1.https_url_on_plaintext_connection"),
            Self::InvalidUrl => bad("http1.invalid_url"),
            Self::Underscore => bad("http1.unexpected_underscore"),
            Self::Connection => bad("http1.connection_header_rejected"),
        }
    }
}

/// Settings of request parsing.
#[derive(Debug, Clone, Copy)]
pub struct RequestRules<'a> {
    /// Limits.
    pub limits: &'a RequestLimits,
    /// HTTP/1 settings.
    pub http1: &'a Http1Settings,
    /// An absolute URL may be of https: there is TLS, or another proxy before this one may have ended it.
    pub https: bool,
}

/// Reads a request head from the beginning of `bytes` into `head`; `None` when it is not complete.
///
/// # Errors
/// [`BadRequest`] as soon as it is sure.
pub fn parse_request(
    bytes: &[u8],
    rules: RequestRules<'_>,
    head: &mut RequestHead,
) -> Result<Option<Wire>, BadRequest> {
    let limits = rules.limits;
    let mut stack = [const { MaybeUninit::uninit() }; ON_STACK];
    let mut heap;
    let space: &mut [MaybeUninit<httparse::Header<'_>>] = if limits.max_headers < ON_STACK {
        &mut stack
    } else {
        heap = vec![MaybeUninit::uninit(); limits.max_headers + 1];
        &mut heap
    };
    let mut config = httparse::ParserConfig::default();
    config.allow_multiple_spaces_in_request_line_delimiters(true);
    let mut parsed = httparse::Request::new(&mut []);
    let length = match config.parse_request_with_uninit_headers(&mut parsed, bytes, space) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) if bytes.len() > limits.max_head_bytes => return Err(BadRequest::TooLarge),
        Ok(httparse::Status::Partial) => return partial_method(bytes).map(|()| None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::TooManyHeaders),
        Err(httparse::Error::HeaderValue) => return Err(BadRequest::InvalidCharacters),
        Err(httparse::Error::Version) => return Err(version_error(bytes)),
        Err(_) => return Err(BadRequest::Codec),
    };
    if length > limits.max_head_bytes {
        return Err(BadRequest::TooLarge);
    }
    if parsed.headers.len() > limits.max_headers {
        return Err(BadRequest::TooManyHeaders);
    }
    let method = parsed.method.unwrap_or_default();
    if !METHODS.contains(&method) {
        return Err(BadRequest::Codec);
    }
    head.clear();
    head.method.push_str(method);
    head.protocol = if parsed.version == Some(1) { Protocol::Http11 } else { Protocol::Http10 };
    if head.protocol == Protocol::Http10 && !rules.http1.accept_http_10 {
        return Err(BadRequest::Version);
    }

    let mut wire = Wire { length, keep_alive: head.protocol == Protocol::Http11, ..Wire::default() };
    let mut host: Option<&[u8]> = None;
    let mut content_length: Option<u64> = None;
    let mut coding: Option<Result<(), BadRequest>> = None;
    let mut upgrade: Option<&[u8]> = None;
    let mut connection_upgrade = false;
    for field in parsed.headers.iter() {
        let (name, value) = (field.name, field.value);
        if name.contains('_') {
            match limits.underscores {
                Underscores::Allow => {}
                Underscores::Reject => return Err(BadRequest::Underscore),
                Underscores::Drop => continue,
            }
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                // A second Host could be read by the next hop instead of the first.
                if host.replace(value).is_some() {
                    return Err(BadRequest::Codec);
                }
                continue;
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                wire.expects_continue |=
                    head.protocol == Protocol::Http11 && value.eq_ignore_ascii_case(b"100-continue");
            }
            7 if name.eq_ignore_ascii_case("upgrade") => upgrade = Some(value),
            10 if name.eq_ignore_ascii_case("connection") => {
                for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    if token.eq_ignore_ascii_case(b"close") {
                        wire.keep_alive = false;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") && head.protocol == Protocol::Http10 {
                        wire.keep_alive = true;
                    } else if token.eq_ignore_ascii_case(b"upgrade") {
                        connection_upgrade = true;
                    } else if token.len() > 12 && token[..12].eq_ignore_ascii_case(b"x-forwarded-") {
                        return Err(BadRequest::Connection);
                    }
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let again = content_length.replace(digits(value).ok_or(BadRequest::Codec)?).is_some();
                if again {
                    return Err(BadRequest::Codec);
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                let chunked = value.eq_ignore_ascii_case(b"chunked") && head.protocol == Protocol::Http11;
                let known = chunked && coding.is_none();
                coding = Some(if known { Ok(()) } else { Err(BadRequest::TransferEncoding) });
                continue;
            }
            _ => {}
        }
        head.headers.add(name, value);
    }
    wire.framing = match (content_length, coding) {
        (Some(_), Some(_)) => return Err(BadRequest::LengthAndChunked),
        (None, Some(known)) => known.map(|()| Framing::Chunked)?,
        (Some(0) | None, None) => Framing::None,
        (Some(n), None) => Framing::Length(n),
    };
    if let (Some(protocol), true) = (upgrade, connection_upgrade) {
        head.upgrade.push_str(&String::from_utf8_lossy(protocol).to_ascii_lowercase());
    }
    target::read(parsed.path.unwrap_or_default(), host, rules, head)?;
    Ok(Some(wire))
}

/// Method and authority are refused early, so that garbage is answered without waiting for a line end.
fn partial_method(bytes: &[u8]) -> Result<(), BadRequest> {
    let start = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(bytes.len());
    let rest = &bytes[start..];
    let token = rest.split(|b| *b == b' ').next().unwrap_or_default();
    let possible = METHODS
        .iter()
        .any(|m| if token.len() == rest.len() { m.as_bytes().starts_with(token) } else { m.as_bytes() == token });
    if possible { Ok(()) } else { Err(BadRequest::Codec) }
}

/// `HTTP/x.y` of another version is told so; anything else after the target is not HTTP at all.
fn version_error(bytes: &[u8]) -> BadRequest {
    if partial_method(bytes).is_err() {
        return BadRequest::Codec;
    }
    let line = bytes.split(|b| *b == b'\n').find(|l| !l.trim_ascii().is_empty()).unwrap_or_default();
    let word = line.trim_ascii().rsplit(|b| *b == b' ').next().unwrap_or_default();
    match word.strip_prefix(b"HTTP/") {
        Some([a, b'.', b]) if a.is_ascii_digit() && b.is_ascii_digit() => BadRequest::Version,
        _ => BadRequest::Codec,
    }
}

fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A response head is against the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's response is not HTTP/1.1")]
pub struct BadResponse;

/// Largest response head and most fields, as Envoy's client codec.
pub const MAX_RESPONSE_HEAD: usize = 80 * 1024;
const MAX_RESPONSE_HEADERS: usize = 100;

/// Reads a response head from the beginning of `bytes` into `head`; `None` when it is not complete. `method` is that
/// of the request.
///
/// # Errors
/// [`BadResponse`] when it is not HTTP/1, or its framing is ambiguous.
pub fn parse_response(bytes: &[u8], method: &str, head: &mut ResponseHead) -> Result<Option<Wire>, BadResponse> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_RESPONSE_HEADERS + 1];
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(false);
    let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut space) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) if bytes.len() > MAX_RESPONSE_HEAD => return Err(BadResponse),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(BadResponse),
    };
    if length > MAX_RESPONSE_HEAD || parsed.headers.len() > MAX_RESPONSE_HEADERS {
        return Err(BadResponse);
    }
    let status = parsed.code.unwrap_or_default();
    if !(100..1000).contains(&status) {
        return Err(BadResponse);
    }
    head.status = status;
    head.reason.clear();
    head.reason.push_str(parsed.reason.unwrap_or_default());
    head.headers.clear();
    let mut wire = Wire { length, keep_alive: parsed.version == Some(1), ..Wire::default() };
    let mut content_length: Option<u64> = None;
    let mut chunked = false;
    for field in parsed.headers.iter() {
        let (name, value) = (field.name, field.value);
        match name.len() {
            10 if name.eq_ignore_ascii_case("connection") => {
                for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    if token.eq_ignore_ascii_case(b"close") {
                        wire.keep_alive = false;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") && parsed.version == Some(0) {
                        wire.keep_alive = true;
                    }
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let n = digits(value).ok_or(BadResponse)?;
                if content_length.replace(n).is_some() {
                    return Err(BadResponse);
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadResponse);
                }
                chunked = true;
                continue;
            }
            _ => {}
        }
        head.headers.append(name, value);
    }
    if chunked && content_length.is_some() || status == 204 && (chunked || content_length.is_some_and(|n| n > 0)) {
        return Err(BadResponse);
    }
    if status == 204 {
        head.headers.remove("content-length");
    }
    wire.framing = if method == "HEAD" || status < 200 || status == 204 || status == 304 {
        Framing::None
    } else if chunked {
        Framing::Chunked
    } else {
        match content_length {
            Some(0) => Framing::None,
            Some(n) => Framing::Length(n),
            None => Framing::UntilClose,
        }
    };
    wire.keep_alive &= wire.framing != Framing::UntilClose;
    Ok(Some(wire))
}

/// Writes the head of a request to an HTTP/1.1 upstream.
pub fn write_request(head: &RequestHead, framing: Framing, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(if head.path.is_empty() { head.authority.as_bytes() } else { head.path.as_bytes() });
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(head.authority.as_bytes());
    out.extend_from_slice(b"\r\n");
    write_fields(&head.headers, framing, false, out);
    if !head.upgrade.is_empty() && !head.headers.contains("upgrade") {
        out.extend_from_slice(b"connection: Upgrade\r\nupgrade: ");
        out.extend_from_slice(head.upgrade.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    // Methods that usually bring a body say that they bring none.
    let bodiless = matches!(head.method.as_str(), "GET" | "HEAD" | "DELETE" | "CONNECT" | "TRACE");
    if framing == Framing::None && !bodiless && !head.headers.contains("content-length") {
        out.extend_from_slice(b"content-length: 0\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// What a response head says beside the response itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseWire<'a> {
    /// How the body ends.
    pub framing: Framing,
    /// Say `connection: close`.
    pub close: bool,
    /// The client speaks HTTP/1.0: say that, and `connection: keep-alive` where the connection stays.
    pub http10: bool,
    /// `Proper-Case` names.
    pub proper_case: bool,
    /// The protocol of a 101 whose head does not have it already.
    pub upgrade: Option<&'a str>,
    /// What is said of a body that is not there, if the head does not.
    pub unsaid: Option<Unsaid>,
}

/// What is said of a body that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsaid {
    /// `content-length: 0`.
    Empty,
    /// To HEAD: `transfer-encoding: chunked`, since a GET might have a body.
    Chunked,
}

/// Writes the head of a response to a client.
pub fn write_response(head: &ResponseHead, wire: ResponseWire<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(if wire.http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    let mut status = [b'0'; 3];
    status[0] += (head.status / 100 % 10) as u8;
    status[1] += (head.status / 10 % 10) as u8;
    status[2] += (head.status % 10) as u8;
    out.extend_from_slice(&status);
    out.push(b' ');
    out.extend_from_slice(reason(head.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    write_fields(&head.headers, wire.framing, wire.proper_case, out);
    match wire.upgrade {
        Some(protocol) => {
            out.extend_from_slice(b"connection: Upgrade\r\nupgrade: ");
            out.extend_from_slice(protocol.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        None if wire.close => out.extend_from_slice(b"connection: close\r\n"),
        None if wire.http10 => out.extend_from_slice(b"connection: keep-alive\r\n"),
        None => {}
    }
    match wire.unsaid {
        Some(Unsaid::Empty) => out.extend_from_slice(b"content-length: 0\r\n"),
        Some(Unsaid::Chunked) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        None => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn write_fields(headers: &Headers, framing: Framing, proper_case: bool, out: &mut Vec<u8>) {
    for (name, value) in headers.as_bytes() {
        let at = out.len();
        out.extend_from_slice(name);
        if proper_case {
            let mut upper = true;
            for b in &mut out[at..] {
                if upper {
                    b.make_ascii_uppercase();
                }
                upper = !b.is_ascii_alphanumeric();
            }
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    match framing {
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(n) if !headers.contains("content-length") => {
            out.extend_from_slice(format!("content-length: {n}\r\n").as_bytes());
        }
        Framing::None | Framing::Length(_) | Framing::UntilClose => {}
    }
}

/// The reason phrase Envoy gives a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        418 => return "Unknown",
        599 => return "Last Unassigned Server Error Code",
        _ => {}
    }
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Unknown")
}

#[cfg(test)]
mod tests;
