//! The record layer (RFC 8446 section 5, RFC 5246 section 6.2, RFC 5288, RFC 7905): application data and what comes after
//! a handshake, sealed and opened in place.
//!
//! rustls makes the handshake and hands over the keys. Its own record layer allocates and copies each record; here a
//! record is sealed into the buffer that goes to the socket and opened into that of who reads. Knows no sockets.

use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use smallvec::SmallVec;

/// Most bytes of plaintext in a record.
pub const MAX_PLAIN: usize = 1 << 14;
/// Bytes before a record's payload.
pub const HEADER: usize = 5;
/// Most bytes of a record's payload as TLS 1.2 has it; TLS 1.3 allows less.
const MAX_SEALED: usize = MAX_PLAIN + 2048;
/// Bytes after it that prove it.
pub const TAG: usize = 16;
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

    /// Bytes of the nonce that are sent.
    fn explicit(&self) -> usize {
        if self.shape == Shape::Tls12Explicit { 8 } else { 0 }
    }

    /// Appends a record with `plain`, at most [`MAX_PLAIN`] bytes of it, to `out`.
    ///
    /// # Errors
    /// Never for keys that work at all.
    pub fn seal(&mut self, kind: u8, plain: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        let start = out.len();
        out.resize(start + plain.len().min(MAX_PLAIN) + OVERHEAD, 0);
        let sealed = self.seal_into(kind, plain, &mut out[start..]);
        out.truncate(start + sealed.unwrap_or(0));
        sealed.map(drop)
    }

    /// Writes a record with `plain`, at most [`MAX_PLAIN`] bytes of it, to the beginning of `out`, which must have
    /// [`OVERHEAD`] bytes more. Its length.
    ///
    /// # Errors
    /// When there is no room, else never for keys that work at all.
    pub fn seal_into(&mut self, kind: u8, plain: &[u8], out: &mut [u8]) -> Result<usize, RecordError> {
        let plain = &plain[..plain.len().min(MAX_PLAIN)];
        let nonce = self.next_nonce();
        let explicit = self.explicit();
        // What is seen from outside is always data in TLS 1.3, and the kind comes after it.
        let (outer, inner) = if self.shape == Shape::Tls13 { (DATA, &[kind][..]) } else { (kind, &[][..]) };
        let sealed = explicit + plain.len() + inner.len() + TAG;
        let [high, low] = (sealed as u16).to_be_bytes();
        let header = [outer, 3, 3, high, low];
        let record = out.get_mut(..HEADER + sealed).ok_or(RecordError::Key)?;
        let (head, rest) = record.split_at_mut(HEADER + explicit);
        head[..HEADER].copy_from_slice(&header);
        head[HEADER..].copy_from_slice(&nonce[12 - explicit..]);
        let (body, tail) = rest.split_at_mut(plain.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        if self.shape == Shape::Tls13 {
            self.key.seal_out_of_place_scatter(nonce, Aad::from(header), plain, body, inner, tail)
        } else {
            let additional = Aad::from(self.additional(kind, plain.len()));
            self.key.seal_out_of_place_scatter(nonce, additional, plain, body, inner, tail)
        }
        .map_err(|_| RecordError::Key)?;
        Ok(HEADER + sealed)
    }

    /// Opens a whole record in place: its kind, and where in it its plaintext is.
    ///
    /// # Errors
    /// When it is malformed or not the peer's.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), RecordError> {
        let Sealed { kind, nonce, additional, length } = self.sealed(record)?;
        let start = HEADER + self.explicit();
        let (body, tag) = record[start..].split_at_mut(length);
        let opened = self.key.open_in_place_separate_tag(nonce, Aad::from(&*additional), tag, body);
        let (kind, length) = self.inner(kind, opened.map_err(|_| RecordError::Forged)?)?;
        Ok((kind, start..start + length))
    }

    /// Opens a whole record into the beginning of `out`, in which there must be as much room as the record is long, less
    /// its header and tag: its kind, and the length of its plaintext.
    ///
    /// # Errors
    /// When it is malformed or not the peer's. `out` then holds nothing of use.
    pub fn open_into(&mut self, record: &[u8], out: &mut [u8]) -> Result<(u8, usize), RecordError> {
        let Sealed { kind, nonce, additional, length } = self.sealed(record)?;
        let (body, tag) = record[HEADER + self.explicit()..].split_at(length);
        let out = out.get_mut(..length).ok_or(RecordError::Malformed)?;
        let opened = self.key.open_separate_gather(nonce, Aad::from(&*additional), body, tag, out);
        opened.map_err(|_| RecordError::Forged)?;
        self.inner(kind, out)
    }

    /// What opening a whole record takes. Counts it.
    fn sealed(&mut self, record: &[u8]) -> Result<Sealed, RecordError> {
        let (header, payload) = record.split_first_chunk::<HEADER>().ok_or(RecordError::Malformed)?;
        let kind = header[0];
        let explicit = self.explicit();
        let length = payload.len().checked_sub(explicit + TAG).ok_or(RecordError::Malformed)?;
        if self.shape == Shape::Tls13 {
            // With the kind and padding.
            if kind != DATA || !(1..=MAX_PLAIN + 1 + 255 - TAG).contains(&length) {
                return Err(RecordError::Malformed);
            }
            let nonce = Nonce::assume_unique_for_key(self.next_nonce());
            return Ok(Sealed { kind, nonce, additional: SmallVec::from_slice(header), length });
        }
        if length > MAX_PLAIN {
            return Err(RecordError::Malformed);
        }
        let mut nonce = self.next_nonce();
        nonce[12 - explicit..].copy_from_slice(&payload[..explicit]);
        let additional = self.additional(kind, length).into();
        Ok(Sealed { kind, nonce: Nonce::assume_unique_for_key(nonce), additional, length })
    }

    /// The kind of a record and the length of its plaintext, by what was sealed in it.
    fn inner(&self, kind: u8, opened: &[u8]) -> Result<(u8, usize), RecordError> {
        if self.shape != Shape::Tls13 {
            return Ok((kind, opened.len()));
        }
        // Zeros are padding; the last other byte is the kind.
        let at = opened.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Malformed)?;
        if at > MAX_PLAIN {
            return Err(RecordError::Malformed);
        }
        Ok((opened[at], at))
    }
}

/// What opening a record takes.
struct Sealed {
    kind: u8,
    nonce: Nonce,
    additional: SmallVec<[u8; 13]>,
    // Of what is sealed, without the tag.
    length: usize,
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
