//! Header fields of HTTP/2 as the heads that the router knows, and back (RFC 9113 section 8).

use bytes::BytesMut;
use lateen_traffic::hcm::Underscores;
use lateen_traffic::{Headers, RequestHead, ResponseHead};

use super::hpack::{Decoder, Encoder, Malformed, Say};
use crate::http1::target::valid_authority;

/// What one field adds to the size of a list beyond its bytes (RFC 9113 section 6.5.2).
const FIELD: usize = 32;

/// What is taken of a peer's fields.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Size of a list, by its fields' bytes and 32 more of each.
    pub max_bytes: usize,
    /// Fields of a list, beside those that begin with a colon.
    pub max_fields: usize,
    /// Names with an underscore, of requests.
    pub underscores: Underscores,
    /// Whether extended CONNECT is offered (RFC 8441).
    pub extended_connect: bool,
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A field is not allowed there, or has bytes that are not.
    Field,
    /// What is said does not make a request.
    Message,
    /// A name has an underscore.
    Underscore,
    /// There are too many fields.
    TooMany,
    /// The fields are too large.
    TooLarge,
}

impl Wrong {
    /// In Envoy's words for the access log.
    pub fn details(self) -> &'static str {
        match self {
            Self::Field => "http2.invalid.header.field",
            Self::Message => "http2.violation.of.messaging.rule",
            Self::Underscore => "http2.unexpected_underscore",
            Self::TooMany => "http2.too_many_headers",
            Self::TooLarge => "http2.header_list_size_too_large",
        }
    }
}

/// Reads a request's fields. Gives the length that it announces for its body.
pub fn read_request(
    decoder: &mut Decoder,
    block: &[u8],
    rules: &Rules,
    head: &mut RequestHead,
) -> Result<Result<Option<u64>, Wrong>, Malformed> {
    let mut list = List::new(rules);
    let mut request = Request { rules, head, cookies: Vec::new(), hosts: 0, method: false, path: false, scheme: false };
    decoder.decode(block, |name, value| list.field(name, value, |list, part| request.take(list, part)))?;
    Ok(list.wrong.map_or_else(|| request.complete().map(|()| list.length), Err))
}

/// Reads a response's fields. Gives the length that it announces for its body.
pub fn read_response(
    decoder: &mut Decoder,
    block: &[u8],
    rules: &Rules,
    head: &mut ResponseHead,
) -> Result<Result<Option<u64>, Wrong>, Malformed> {
    let mut list = List::new(rules);
    decoder.decode(block, |name, value| {
        list.field(name, value, |_, part| match part {
            Part::Pseudo(b"status", [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']) if head.status == 0 => {
                head.status = [a, b, c].iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0'));
                Ok(())
            }
            Part::Pseudo(..) => Err(Wrong::Field),
            Part::Field(name, value) => {
                head.headers.append(name, value);
                Ok(())
            }
        });
    })?;
    Ok(match list.wrong {
        Some(wrong) => Err(wrong),
        None if head.status == 0 => Err(Wrong::Message),
        None => Ok(list.length),
    })
}

/// Reads trailer fields.
pub fn read_trailers(
    decoder: &mut Decoder,
    block: &[u8],
    rules: &Rules,
    trailers: &mut Headers,
) -> Result<Result<(), Wrong>, Malformed> {
    let mut list = List::new(rules);
    decoder.decode(block, |name, value| {
        list.field(name, value, |_, part| match part {
            Part::Pseudo(..) | Part::Field(b"content-length", _) => Err(Wrong::Field),
            Part::Field(name, value) => {
                trailers.append(name, value);
                Ok(())
            }
        });
    })?;
    Ok(list.wrong.map_or(Ok(()), Err))
}

/// A field of a list, once it is known to be one.
enum Part<'a> {
    /// One whose name begins with a colon, without that.
    Pseudo(&'a [u8], &'a [u8]),
    /// Any other.
    Field(&'a [u8], &'a [u8]),
}

/// What is known of a list of fields.
struct List<'a> {
    rules: &'a Rules,
    bytes: usize,
    fields: usize,
    // Those of them that are passed over.
    dropped: usize,
    length: Option<u64>,
    wrong: Option<Wrong>,
}

impl<'a> List<'a> {
    fn new(rules: &'a Rules) -> Self {
        Self { rules, bytes: 0, fields: 0, dropped: 0, length: None, wrong: None }
    }

    /// The next field; `take` gets it if it is a good one.
    fn field(&mut self, name: &[u8], value: &[u8], take: impl FnOnce(&mut Self, Part<'_>) -> Result<(), Wrong>) {
        if self.wrong.is_none() {
            self.wrong = self.good(name, value).and_then(|part| take(self, part)).err();
        }
    }

    fn good<'f>(&mut self, name: &'f [u8], value: &'f [u8]) -> Result<Part<'f>, Wrong> {
        self.bytes += name.len() + value.len() + FIELD;
        if self.bytes > self.rules.max_bytes {
            return Err(Wrong::TooLarge);
        }
        if !value.iter().all(|b| VALUE[usize::from(*b)]) {
            return Err(Wrong::Field);
        }
        if let Some(name) = name.strip_prefix(b":") {
            return if self.fields == 0 { Ok(Part::Pseudo(name, value)) } else { Err(Wrong::Field) };
        }
        if name.is_empty() || !name.iter().all(|b| NAME[usize::from(*b)]) {
            return Err(Wrong::Field);
        }
        self.fields += 1;
        if self.fields - self.dropped > self.rules.max_fields {
            return Err(Wrong::TooMany);
        }
        // The next one may speak HTTP/1, where blanks around a value are none of it.
        let value = value.trim_ascii();
        match name {
            _ if of_a_connection(name) => return Err(Wrong::Field),
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => return Err(Wrong::Field),
            b"content-length" => {
                // Which of two counts would be anybody's guess.
                if self.length.is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                    return Err(Wrong::Field);
                }
                let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                self.length = Some(length.ok_or(Wrong::Field)?);
            }
            _ => {}
        }
        Ok(Part::Field(name, value))
    }
}

/// Fields that say something of a connection, which no message of HTTP/2 does (RFC 9113 section 8.2.2).
fn of_a_connection(name: &[u8]) -> bool {
    matches!(name.len(), 7 | 10 | 16 | 17)
        && matches!(name, b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade")
}

/// A request that is read.
struct Request<'a> {
    rules: &'a Rules,
    head: &'a mut RequestHead,
    cookies: Vec<u8>,
    hosts: usize,
    method: bool,
    path: bool,
    scheme: bool,
}

impl Request<'_> {
    fn take(&mut self, list: &mut List<'_>, part: Part<'_>) -> Result<(), Wrong> {
        match part {
            Part::Pseudo(name, value) => self.pseudo(name, value),
            // Split for compression only (RFC 9113 section 8.2.3).
            Part::Field(b"cookie", value) => {
                if !self.cookies.is_empty() {
                    self.cookies.extend_from_slice(b"; ");
                }
                self.cookies.extend_from_slice(value);
                Ok(())
            }
            Part::Field(b"host", value) => {
                self.hosts += 1;
                let host = std::str::from_utf8(value).map_err(|_| Wrong::Field)?;
                if self.hosts > 1 {
                    return Err(Wrong::Field);
                }
                if self.head.authority.is_empty() {
                    self.head.authority.push_str(host);
                }
                Ok(())
            }
            Part::Field(name, value) => {
                if self.rules.underscores != Underscores::Allow && name.contains(&b'_') {
                    if self.rules.underscores == Underscores::Reject {
                        return Err(Wrong::Underscore);
                    }
                    list.dropped += 1;
                    return Ok(());
                }
                self.head.headers.add(name, value);
                Ok(())
            }
        }
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Wrong> {
        let text = std::str::from_utf8(value).map_err(|_| Wrong::Field)?;
        let head = &mut *self.head;
        let (place, good) = match name {
            b"method" => (&mut head.method, value.iter().all(|b| TOKEN[usize::from(*b)])),
            b"scheme" => (&mut head.scheme, value.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))),
            b"authority" => (&mut head.authority, true),
            b"path" => (&mut head.path, value.iter().all(|b| (0x21..0x7f).contains(b))),
            b"protocol" if self.rules.extended_connect => {
                (&mut head.upgrade, value.iter().all(|b| TOKEN[usize::from(*b)] || *b == b'/'))
            }
            _ => return Err(Wrong::Field),
        };
        if !place.is_empty() || !good || (text.is_empty() && name != b"authority") {
            return Err(Wrong::Field);
        }
        place.push_str(text);
        match name {
            b"method" => self.method = true,
            b"path" => self.path = true,
            b"scheme" | b"protocol" => {
                self.scheme |= name == b"scheme";
                place.make_ascii_lowercase();
            }
            _ => {}
        }
        Ok(())
    }

    fn complete(self) -> Result<(), Wrong> {
        let head = self.head;
        if !self.cookies.is_empty() {
            head.headers.append("cookie", &self.cookies);
        }
        let whole = match (head.method == "CONNECT", head.upgrade.is_empty()) {
            (true, true) => !self.scheme && !self.path,
            (true, false) => self.scheme && self.path,
            (false, true) => self.method && self.scheme && self.path,
            (false, false) => false,
        };
        let path = head.path.is_empty() || head.path.starts_with('/') || head.path == "*";
        // A user in the authority might be taken for the host (RFC 9113 section 8.3.1).
        let authority = !head.authority.is_empty() && valid_authority(&head.authority) && !head.authority.contains('@');
        if !whole || !path || !authority {
            return Err(Wrong::Message);
        }
        if head.scheme.is_empty() {
            head.scheme.push_str("http");
        }
        Ok(())
    }
}

/// Says a request.
pub fn write_request(head: &RequestHead, encoder: &mut Encoder, out: &mut BytesMut) {
    encoder.begin(out);
    let tunnel = head.is_connect() && head.upgrade.is_empty();
    encoder.field(b":method", head.method.as_bytes(), Say::Again, out);
    if !tunnel {
        encoder.field(b":scheme", head.scheme.as_bytes(), Say::Again, out);
    }
    encoder.field(b":authority", head.authority.as_bytes(), Say::Again, out);
    if !tunnel {
        encoder.field(b":path", head.path.as_bytes(), Say::Again, out);
        if head.is_connect() {
            encoder.field(b":protocol", head.upgrade.as_bytes(), Say::Again, out);
        }
    }
    write_fields(&head.headers, encoder, out);
}

/// Says a response, interim or final.
pub fn write_response(status: u16, headers: &Headers, encoder: &mut Encoder, out: &mut BytesMut) {
    encoder.begin(out);
    let digits = [100, 10, 1].map(|place| b'0' + (status / place % 10) as u8);
    encoder.field(b":status", &digits, Say::Again, out);
    write_fields(headers, encoder, out);
}

/// Says trailer fields.
pub fn write_trailers(trailers: &Headers, encoder: &mut Encoder, out: &mut BytesMut) {
    encoder.begin(out);
    write_fields(trailers, encoder, out);
}

fn write_fields(headers: &Headers, encoder: &mut Encoder, out: &mut BytesMut) {
    for (name, value) in headers.as_bytes() {
        if !of_a_connection(name) {
            encoder.field(name, value, how(name), out);
        }
    }
}

/// What is never the same is not put into the table of what was said before (RFC 7541 section 2.3.2), where it would
/// push out what comes again; what is a secret neither, so that nobody can guess it by what it is shortened to
/// (section 7.1).
fn how(name: &[u8]) -> Say {
    match name {
        b"authorization" | b"cookie" | b"proxy-authorization" | b"set-cookie" => Say::Secret,
        b"content-length" | b"etag" | b"if-modified-since" | b"if-none-match" | b"location" | b"x-request-id" => {
            Say::Once
        }
        _ => Say::Again,
    }
}

const fn table(allowed: &[u8], upper: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_lowercase() || b.is_ascii_digit() || (upper && b.is_ascii_uppercase());
        byte += 1;
    }
    let mut at = 0;
    while at < allowed.len() {
        table[allowed[at] as usize] = true;
        at += 1;
    }
    table
}

const MARKS: &[u8] = b"!#$%&'*+-.^_`|~";
/// Bytes of a token (RFC 9110 section 5.6.2).
static TOKEN: [bool; 256] = table(MARKS, true);
/// Bytes of a field's name, which is in lower case.
static NAME: [bool; 256] = table(MARKS, false);
/// Bytes of a field's value: whatever is no control character, and tabs.
static VALUE: [bool; 256] = {
    let mut table = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = byte == 0x09;
        byte += 1;
    }
    table[0x7f] = false;
    table
};

#[cfg(test)]
mod tests;
