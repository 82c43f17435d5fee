//! The record layer (RFC 8446 section 5, RFC 5246 section 6.2, RFC 5288, RFC 7905): application data and what comes after
//! a handshake, sealed and opened in place.
//!
//! rustls makes the handshake and hands over the keys. Its own record layer allocates and copies each record; here a
//! record is sealed in the buffer that goes to the socket and opened in the one that came from it. Knows no sockets.

use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

/// Most bytes of plaintext in a record.
pub const MAX_PLAIN: usize = 1 << 14;
/// Bytes before a record's payload.
pub const HEADER: usize = 5;
/// Most bytes of a record's payload as TLS 1.2 has it; TLS 1.3 allows less.
const MAX_SEALED: usize = MAX_PLAIN + 2048;
const TAG: usize = 16;
/// Most bytes that sealing adds to a record.
pub const OVERHEAD: usize = HEADER + 8 + 1 + TAG;

/// Content types (RFC 8446 section 5.1).
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// Closing and failure.
pub const ALERT: u8 = 21;
/// Tickets and new keys, once the handshake proper is over.
pub const HANDSHAKE: u8 = 22;
/// The bytes that are carried.
pub const DATA: u8 = 23;

/// How nonces and additional data are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Tls13,
    /// TLS 1.2 with AES-GCM: part of the nonce is sent.
    Tls12Explicit,
    /// TLS 1.2 with ChaCha20-Poly1305.
    Tls12,
}

/// The keys of one direction.
pub struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    shape: Shape,
}

/// Why a record is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It was not sealed with the peer's key.
    #[error("a record that the peer did not seal")]
    Forged,
    /// Its header or padding is against the rules.
    #[error("a malformed record")]
    Malformed,
    /// A key cannot be used.
    #[error("a key of no use")]
    Key,
}

impl Keys {
    /// Keys as the handshake left them; `sequence` is the number of the next record.
    ///
    /// # Errors
    /// When they are of a kind that is not known.
    pub fn new(tls13: bool, sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(RecordError::Key),
        };
        let shape = match (tls13, std::ptr::eq(algorithm, &aead::CHACHA20_POLY1305)) {
            (true, _) => Shape::Tls13,
            (false, true) => Shape::Tls12,
            (false, false) => Shape::Tls12Explicit,
        };
        let unbound = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Key)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Key)?;
        Ok(Self { key: LessSafeKey::new(unbound), iv, sequence, shape })
    }

    /// The number of the next record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The nonce of the next record, counted.
    fn next_nonce(&mut self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, of_sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        self.sequence += 1;
        nonce
    }

    /// Additional data of TLS 1.2 for the record that was just counted.
    fn additional(&self, kind: u8, length: usize) -> [u8; 13] {
        let mut data = [0u8; 13];
        data[..8].copy_from_slice(&(self.sequence - 1).to_be_bytes());
        data[8..11].copy_from_slice(&[kind, 3, 3]);
        // At most 2^14.
        data[11..].copy_from_slice(&(length as u16).to_be_bytes());
        data
    }

    /// Appends a record with `plain`, at most [`MAX_PLAIN`] bytes of it, to `out`.
    ///
    /// # Errors
    /// Never for keys that work at all.
    pub fn seal(&mut self, kind: u8, plain: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        let plain = &plain[..plain.len().min(MAX_PLAIN)];
        let nonce = self.next_nonce();
        let start = out.len();
        out.reserve(plain.len() + OVERHEAD);
        // What is seen from outside is always data in TLS 1.3.
        let outer = if self.shape == Shape::Tls13 { DATA } else { kind };
        let sealed = match self.shape {
            Shape::Tls13 => plain.len() + 1 + TAG,
            Shape::Tls12Explicit => 8 + plain.len() + TAG,
            Shape::Tls12 => plain.len() + TAG,
        };
        let [high, low] = (sealed as u16).to_be_bytes();
        let header = [outer, 3, 3, high, low];
        out.extend_from_slice(&header);
        if self.shape == Shape::Tls12Explicit {
            out.extend_from_slice(&nonce[4..]);
        }
        let body = out.len();
        out.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = if self.shape == Shape::Tls13 {
            out.push(kind);
            self.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[body..])
        } else {
            let additional = Aad::from(self.additional(kind, plain.len()));
            self.key.seal_in_place_separate_tag(nonce, additional, &mut out[body..])
        };
        match tag {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            Err(_) => {
                out.truncate(start);
                return Err(RecordError::Key);
            }
        }
        Ok(())
    }

    /// Opens a whole record in place: its kind, and where in it its plaintext is.
    ///
    /// # Errors
    /// When it is malformed or not the peer's.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), RecordError> {
        let (header, payload) = record.split_first_chunk_mut::<HEADER>().ok_or(RecordError::Malformed)?;
        let kind = header[0];
        match self.shape {
            Shape::Tls13 => {
                if kind != DATA || payload.len() > MAX_PLAIN + 1 + 255 || payload.len() <= TAG {
                    return Err(RecordError::Malformed);
                }
                let nonce = Nonce::assume_unique_for_key(self.next_nonce());
                let opened =
                    self.key.open_in_place(nonce, Aad::from(*header), payload).map_err(|_| RecordError::Forged)?;
                // Zeros are padding; the last other byte is the kind.
                let at = opened.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Malformed)?;
                if at > MAX_PLAIN {
                    return Err(RecordError::Malformed);
                }
                Ok((opened[at], HEADER..HEADER + at))
            }
            Shape::Tls12Explicit | Shape::Tls12 => {
                let explicit = if self.shape == Shape::Tls12Explicit { 8 } else { 0 };
                let length = payload.len().checked_sub(explicit + TAG).ok_or(RecordError::Malformed)?;
                if length > MAX_PLAIN {
                    return Err(RecordError::Malformed);
                }
                let mut nonce = self.next_nonce();
                nonce[12 - explicit..].copy_from_slice(&payload[..explicit]);
                let additional = Aad::from(self.additional(kind, length));
                let nonce = Nonce::assume_unique_for_key(nonce);
                self.key.open_in_place(nonce, additional, &mut payload[explicit..]).map_err(|_| RecordError::Forged)?;
                Ok((kind, HEADER + explicit..HEADER + explicit + length))
            }
        }
    }
}

/// The length of the first record in `bytes`, with its header, once that is there.
///
/// # Errors
/// When what is there is no record.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some([kind, major, _, high, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if !(CHANGE_CIPHER_SPEC..=DATA).contains(kind) || *major != 3 || length > MAX_SEALED {
        return Err(RecordError::Malformed);
    }
    Ok(Some(HEADER + length))
}

#[cfg(test)]
mod tests;
