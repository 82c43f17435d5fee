//! Netlink as far as pods need it: messages of nested attributes, sent in one go, and their acknowledgements.
//!
//! Knows nothing of what the messages mean; that is `link` and `redirect`.

use super::kernel;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

const NLA_F_NESTED: u16 = 0x8000;
const NLMSG_ERROR: u16 = 2;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER: usize = 16;

/// One message: header fields and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
}

impl Message {
    /// A message that starts with the family's own fixed header.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut message = Self { kind, flags, payload: Vec::with_capacity(128) };
        message.bytes(fixed);
        message
    }

    /// Bytes, padded to four.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.payload.extend_from_slice(bytes);
        self.payload.resize(self.payload.len().next_multiple_of(4), 0);
    }

    /// An attribute.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        // Values are names, addresses and numbers made here: far below the 64 KiB an attribute can hold.
        let length = (4 + value.len()) as u16;
        self.payload.extend_from_slice(&length.to_ne_bytes());
        self.payload.extend_from_slice(&kind.to_ne_bytes());
        self.bytes(value);
    }

    /// A text attribute, NUL-terminated.
    pub(super) fn put_text(&mut self, kind: u16, text: &str) {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value);
    }

    /// A nest of attributes, marked as one.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.plain_nest(kind | NLA_F_NESTED, fill);
    }

    /// A nest of attributes without the mark, as rtnetlink's older ones are written.
    pub(super) fn plain_nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.payload.len();
        self.put(kind, &[]);
        fill(self);
        let length = (self.payload.len() - start) as u16;
        if let Some(place) = self.payload.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn encode(&self, sequence: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&((HEADER + self.payload.len()) as u32).to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.payload);
    }
}

/// What the kernel said no to.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Which message of the batch.
    pub(super) index: usize,
    /// The kernel's error.
    pub(super) error: io::Error,
    /// The kernel's own words, if it had any.
    pub(super) words: Option<String>,
}

/// A netlink socket. It belongs to the network namespace it was opened in, wherever the process is later.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the current network namespace.
    pub(super) fn open(protocol: libc::c_int) -> io::Result<Self> {
        let socket = kernel::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
        // Only better error messages depend on these two.
        let _ = kernel::set_option(socket.as_fd(), libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1i32);
        let _ = kernel::set_option(socket.as_fd(), libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1i32);
        // An answer comes while the request is sent; should one ever be missing, the node must not hang.
        let limit = libc::timeval { tv_sec: 10, tv_usec: 0 };
        kernel::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, limit)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends messages in one go and waits for the acknowledgements they ask for.
    pub(super) fn send(&mut self, messages: &[Message]) -> Result<(), Refusal> {
        self.exchange(messages, &mut |_, _| {})
    }

    /// Sends one message, and hands every answer but its acknowledgement to `answer` (type and payload).
    pub(super) fn ask(&mut self, message: Message, mut answer: impl FnMut(u16, &[u8])) -> Result<(), Refusal> {
        self.exchange(&[message], &mut answer)
    }

    fn exchange(&mut self, messages: &[Message], answer: &mut dyn FnMut(u16, &[u8])) -> Result<(), Refusal> {
        let first = self.sequence.wrapping_add(1);
        let mut out = Vec::with_capacity(8 * 1024);
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.encode(self.sequence, &mut out);
        }
        let refusal = |index, error| Refusal { index, error, words: None };
        // SAFETY: pointer and length describe `out`.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), out.as_ptr().cast(), out.len(), 0) };
        if sent < 0 {
            return Err(refusal(0, io::Error::last_os_error()));
        }
        let mut missing = messages.iter().filter(|message| message.flags & NLM_F_ACK != 0).count();
        let mut buffer = vec![0u8; 32 * 1024];
        while missing > 0 {
            // SAFETY: pointer and length describe `buffer`.
            let got = unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(got) = usize::try_from(got) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(refusal(0, error));
            };
            let mut rest = buffer.get(..got).unwrap_or_default();
            while let Some((header, payload, next)) = split(rest) {
                rest = next;
                let index = header.sequence.wrapping_sub(first) as usize;
                if index >= messages.len() {
                    // Left over from an earlier batch that failed.
                    continue;
                }
                if header.kind != NLMSG_ERROR {
                    answer(header.kind, payload);
                    continue;
                }
                match u32_at(payload, 0).map_or(-libc::EPROTO, |code| code as i32) {
                    0 => missing = missing.saturating_sub(1),
                    code => {
                        let error = io::Error::from_raw_os_error(-code);
                        return Err(Refusal { index, error, words: words(header.flags, payload) });
                    }
                }
            }
        }
        Ok(())
    }
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The first message of a buffer and what follows it.
fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let header = Header { kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)?, sequence: u32_at(bytes, 8)? };
    let payload = bytes.get(HEADER..length)?;
    Some((header, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The kernel's words in an error message (`NLMSGERR_ATTR_MSG`).
fn words(flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let original = if flags & NLM_F_CAPPED != 0 { HEADER } else { u32_at(payload, 4)? as usize };
    let mut rest = payload.get(4 + original.next_multiple_of(4)..)?;
    loop {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        if u16_at(rest, 2)? == NLMSGERR_ATTR_MSG {
            let text = value.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}
