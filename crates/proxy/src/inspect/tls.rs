//! Reads a TLS client hello (RFC 8446 section 4.1.2, RFC 6066 section 3, RFC 7301), without taking part in TLS.

use std::borrow::Cow;

use super::MAX_BYTES;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// Not decided yet.
    NeedMore,
    /// Not a TLS record.
    NotTls,
    /// A whole client hello.
    ClientHello(ClientHello),
    /// TLS records, but not a client hello as it must be; says what is wrong. Envoy goes on as with [`Self::NotTls`].
    Bad(&'static str),
}

/// What a client says before anything is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server's name in lower case.
    pub server_name: Option<String>,
    /// Application protocols offered, in the client's order.
    pub alpn: Vec<String>,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// RFC 8446 section 5.1 allows 2^14; older protocols 2^11 more.
const MAX_RECORD: usize = (1 << 14) + (1 << 11);

/// Looks at the first bytes of a connection.
pub fn tls_client_hello(bytes: &[u8]) -> Inspection {
    let hello = match handshake(bytes) {
        Ok(hello) => hello,
        Err(inspection) => return inspection,
    };
    match client_hello(&hello) {
        Ok(hello) => Inspection::ClientHello(hello),
        Err(Malformed(what)) => Inspection::Bad(what),
    }
}

/// The body of the first handshake message, put together from its records.
fn handshake(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Inspection> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    loop {
        let first = joined.is_empty();
        let wrong = |what| if first { Inspection::NotTls } else { Inspection::Bad(what) };
        if rest.first().is_some_and(|b| *b != HANDSHAKE) || rest.get(1).is_some_and(|b| *b != 3) {
            return Err(wrong("something else between the records of a client hello"));
        }
        let Some((&[_, _, _, high, low], tail)) = rest.split_first_chunk() else { break };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_RECORD {
            return Err(wrong("a record is too long"));
        }
        let record = &tail[..length.min(tail.len())];
        match &mut joined {
            Cow::Borrowed([]) => joined = Cow::Borrowed(record),
            joined => joined.to_mut().extend_from_slice(record),
        }
        if joined.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Inspection::Bad("the first handshake message is not a client hello"));
        }
        if let Some(&[_, a, b, c]) = joined.first_chunk() {
            let body = u32::from_be_bytes([0, a, b, c]) as usize;
            if body > MAX_BYTES {
                return Err(Inspection::Bad("the client hello is too long"));
            }
            if joined.len() >= 4 + body {
                return Ok(match joined {
                    Cow::Borrowed(message) => Cow::Borrowed(&message[4..4 + body]),
                    Cow::Owned(message) => Cow::Owned(message[4..4 + body].to_vec()),
                });
            }
        }
        if tail.len() <= length {
            break;
        }
        rest = &tail[length..];
    }
    Err(if bytes.len() >= MAX_BYTES { Inspection::Bad("the client hello is too long") } else { Inspection::NeedMore })
}

/// What is wrong with a client hello.
struct Malformed(&'static str);

const SHORT: Malformed = Malformed("a field of the client hello is cut short");

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(field)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// A field with its length in one byte.
    fn short(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// A field with its length in two bytes.
    fn long(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    fn end(&self, what: &'static str) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed(what)) }
    }
}

fn client_hello(body: &[u8]) -> Result<ClientHello, Malformed> {
    let mut fields = Fields(body);
    let _version = fields.u16()?;
    let _random = fields.take(32)?;
    if fields.short()?.len() > 32 {
        return Err(Malformed("the session id is too long"));
    }
    let ciphers = fields.long()?;
    if ciphers.is_empty() || ciphers.len() % 2 != 0 {
        return Err(Malformed("the list of cipher suites is empty or odd"));
    }
    if fields.short()?.is_empty() {
        return Err(Malformed("the list of compression methods is empty"));
    }
    let mut hello = ClientHello::default();
    if fields.0.is_empty() {
        // Before TLS 1.3 extensions could be left out altogether.
        return Ok(hello);
    }
    let mut extensions = Fields(fields.long()?);
    fields.end("bytes after the extensions")?;
    let (mut named, mut protocols) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = Fields(extensions.long()?);
        match kind {
            SERVER_NAME if std::mem::replace(&mut named, true) => return Err(Malformed("two server names")),
            SERVER_NAME => hello.server_name = Some(server_name(data)?),
            ALPN if std::mem::replace(&mut protocols, true) => return Err(Malformed("two lists of protocols")),
            ALPN => hello.alpn = alpn(data)?,
            _ => {}
        }
    }
    Ok(hello)
}

fn server_name(mut data: Fields<'_>) -> Result<String, Malformed> {
    let mut list = Fields(data.long()?);
    data.end("bytes after the server name")?;
    if list.u8()? != 0 {
        return Err(Malformed("the server name is not a host name"));
    }
    let name = list.long()?;
    list.end("more than one server name")?;
    if name.is_empty() || name.len() > 255 || !name.iter().all(u8::is_ascii_graphic) {
        return Err(Malformed("the server name is empty, too long or not a host name"));
    }
    Ok(name.iter().map(|b| char::from(b.to_ascii_lowercase())).collect())
}

fn alpn(mut data: Fields<'_>) -> Result<Vec<String>, Malformed> {
    let mut list = Fields(data.long()?);
    data.end("bytes after the protocols")?;
    let mut names = Vec::new();
    while !list.0.is_empty() {
        let name = list.short()?;
        if name.is_empty() {
            return Err(Malformed("a protocol name is empty"));
        }
        names.push(String::from_utf8_lossy(name).into_owned());
    }
    if names.is_empty() { Err(Malformed("the list of protocols is empty")) } else { Ok(names) }
}
