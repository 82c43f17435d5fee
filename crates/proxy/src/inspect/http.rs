//! Recognises HTTP by the request line or the HTTP/2 preface.

use super::MAX_BYTES;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpInspection {
    /// Not decided yet.
    NeedMore,
    /// Something else.
    NotHttp,
    /// HTTP.
    Http(HttpVersion),
}

/// What the HTTP inspector tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0, and any version Envoy does not know.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2 with prior knowledge.
    Http2,
}

impl HttpVersion {
    /// The name that filter chains match as an application protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::Http2 => "h2c",
        }
    }
}

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Looks at the first bytes of a connection. As Envoy: any method is taken, an unknown version counts as HTTP/1.0, a
/// line may end without CR and may have several blanks between its parts, or one after them. Unlike Envoy, what cannot
/// become a request line is known at its first wrong byte, not at the end of the line.
pub fn http(bytes: &[u8]) -> HttpInspection {
    if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) {
        return HttpInspection::NeedMore;
    }
    if bytes.starts_with(PREFACE) {
        return HttpInspection::Http(HttpVersion::Http2);
    }
    match bytes.iter().take(MAX_BYTES).position(|b| *b == b'\n') {
        Some(end) => {
            let line = &bytes[..end];
            match request_line(line.strip_suffix(b"\r").unwrap_or(line)) {
                Some(version) => HttpInspection::Http(version),
                None => HttpInspection::NotHttp,
            }
        }
        None if bytes.len() >= MAX_BYTES || !may_become_request_line(bytes) => HttpInspection::NotHttp,
        None => HttpInspection::NeedMore,
    }
}

fn is_blank(b: &u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// RFC 9110 section 5.6.2.
fn is_token(b: &u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b)
}

fn request_line(line: &[u8]) -> Option<HttpVersion> {
    if line.first().is_none_or(is_blank) {
        return None;
    }
    let mut parts = line.split(is_blank).filter(|part| !part.is_empty());
    let (method, target) = (parts.next()?, parts.next()?);
    let version = match parts.next() {
        // HTTP/0.9 has none.
        None => HttpVersion::Http10,
        Some(b"HTTP/1.1") => HttpVersion::Http11,
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            HttpVersion::Http10
        }
        Some(_) => return None,
    };
    (parts.next().is_none() && method.iter().all(is_token) && is_target(method, target)).then_some(version)
}

/// RFC 9112 section 3.2: origin, asterisk, absolute and, for CONNECT, authority form.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    if !target.iter().all(u8::is_ascii_graphic) {
        return false;
    }
    target.starts_with(b"/")
        || target == b"*"
        || method == b"CONNECT"
        || target
            .windows(3)
            .position(|w| w == b"://")
            .is_some_and(|at| at > 0 && target[..at].iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)))
}

/// A line without its end, which may still turn out well.
fn may_become_request_line(start: &[u8]) -> bool {
    let method = start.iter().take_while(|b| is_token(b)).count();
    match start.get(method) {
        None => true,
        // Anything printable may follow; that it makes sense is seen when the line is there.
        Some(b) => {
            method > 0
                && (is_blank(b) || (*b == b'\r' && start.len() == method + 1))
                && start[method..].iter().all(|b| is_blank(b) || b.is_ascii_graphic() || *b == b'\r')
        }
    }
}
