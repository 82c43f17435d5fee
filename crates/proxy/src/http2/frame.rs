//! Frames: their heads, and what SETTINGS say (RFC 9113 sections 4, 6 and 7). Knows nothing of streams or sockets.

use bytes::{BufMut as _, BytesMut};

/// The client's connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's head.
pub const HEAD: usize = 9;
/// The longest payload that we take, and send: the least that RFC 9113 section 4.2 allows a peer to ask for.
pub const MAX_PAYLOAD: usize = 16_384;
/// A window before SETTINGS change it.
pub const DEFAULT_WINDOW: u32 = 65_535;
/// The largest window.
pub const MAX_WINDOW: i64 = (1 << 31) - 1;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const WITH_PRIORITY: u8 = 0x20;

/// An error code (RFC 9113 section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    /// The head that `bytes` begin with, if it is all there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [x, y, z, kind, flags, a, b, c, d] = *bytes.first_chunk::<HEAD>()?;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1) })
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Writes it.
    pub fn write(self, out: &mut BytesMut) {
        out.extend_from_slice(&self.bytes());
    }

    /// Writes it where room was left for it.
    pub fn write_at(self, out: &mut BytesMut, at: usize) {
        out[at..at + HEAD].copy_from_slice(&self.bytes());
    }

    fn bytes(self) -> [u8; HEAD] {
        let [_, x, y, z] = (self.length as u32).to_be_bytes();
        let [a, b, c, d] = self.stream.to_be_bytes();
        [x, y, z, self.kind, self.flags, a, b, c, d]
    }
}

/// Writes a frame whose payload is one number, as those of RST_STREAM and WINDOW_UPDATE are.
pub fn write_number(kind: u8, stream: u32, number: u32, out: &mut BytesMut) {
    Head { length: 4, kind, flags: 0, stream }.write(out);
    out.put_u32(number);
}

/// Writes a GOAWAY frame.
pub fn write_goaway(last: u32, reason: Reason, out: &mut BytesMut) {
    Head { length: 8, kind: GOAWAY, flags: 0, stream: 0 }.write(out);
    out.put_u32(last);
    out.put_u32(reason.0);
}

/// Writes a PING frame.
pub fn write_ping(flags: u8, opaque: [u8; 8], out: &mut BytesMut) {
    Head { length: 8, kind: PING, flags, stream: 0 }.write(out);
    out.extend_from_slice(&opaque);
}

/// A payload without its padding and, of HEADERS, its priority; `None` if there is less than they say.
pub fn unpadded<'a>(head: &Head, payload: &'a [u8]) -> Option<&'a [u8]> {
    let (padding, rest) = match head.has(PADDED) {
        true => payload.split_first().map(|(n, rest)| (usize::from(*n), rest))?,
        false => (0, payload),
    };
    let rest = match head.kind == HEADERS && head.has(WITH_PRIORITY) {
        true => rest.get(5..)?,
        false => rest,
    };
    rest.get(..rest.len().checked_sub(padding)?)
}

/// What is set (RFC 9113 section 6.5.2, RFC 8441 section 3).
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Writes SETTINGS.
pub fn write_settings(settings: &[(u16, u32)], out: &mut BytesMut) {
    Head { length: settings.len() * 6, kind: SETTINGS, flags: 0, stream: 0 }.write(out);
    for (name, value) in settings {
        out.put_u16(*name);
        out.put_u32(*value);
    }
}

/// The settings of a payload.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(6).filter_map(|pair| match *pair {
        [x, y, a, b, c, d] => Some((u16::from_be_bytes([x, y]), u32::from_be_bytes([a, b, c, d]))),
        _ => None,
    })
}

/// The number that a payload is, or begins with.
pub fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let head = Head { length: 70_000, kind: DATA, flags: PADDED | END_STREAM, stream: 7 };
        let mut out = BytesMut::new();
        head.write(&mut out);
        assert_eq!(Head::read(&out), Some(head));
        assert_eq!(Head::read(&out[..8]), None);
        // The reserved bit says nothing.
        out[5] |= 0x80;
        assert_eq!(Head::read(&out), Some(head));
    }

    #[test]
    fn padding_and_priority_are_taken_away() {
        let head = |kind, flags| Head { length: 0, kind, flags, stream: 1 };
        assert_eq!(unpadded(&head(DATA, 0), b"ab"), Some(&b"ab"[..]));
        assert_eq!(unpadded(&head(DATA, PADDED), b"\x01ab"), Some(&b"a"[..]));
        assert_eq!(unpadded(&head(DATA, PADDED), b"\x02ab"), Some(&b""[..]));
        assert_eq!(unpadded(&head(DATA, PADDED), b"\x03ab"), None);
        assert_eq!(unpadded(&head(DATA, PADDED), b""), None);
        assert_eq!(unpadded(&head(HEADERS, PADDED | WITH_PRIORITY), b"\x01\0\0\0\0\0ab"), Some(&b"a"[..]));
        assert_eq!(unpadded(&head(HEADERS, WITH_PRIORITY), b"\0\0\0\0"), None);
    }

    #[test]
    fn settings_are_pairs() {
        let mut out = BytesMut::new();
        write_settings(&[(setting::MAX_FRAME_SIZE, 1 << 20), (99, 7)], &mut out);
        let read: Vec<_> = settings(&out[HEAD..]).collect();
        assert_eq!((out.len(), read), (HEAD + 12, vec![(5, 1 << 20), (99, 7)]));
    }
}
