//! HPACK, the compression of header fields in HTTP/2 (RFC 7541), for a proxy whose messages repeat themselves.
//!
//! A field that came before is one index: no memory is asked for, no string is looked at twice. Both tables keep their
//! strings in one buffer that goes round ([`table`]). What is not indexed is sent without Huffman coding: both ends of
//! most connections are ours, and there bits are cheaper than instructions. Peers may use it all the same
//! ([`huffman`]).
//!
//! Knows nothing of frames, streams, or what fields mean: which names are allowed, how large a list may become and
//! which values are secret is for who calls.

mod decode;
mod encode;
mod fixed;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub use self::decode::Decoder;
pub use self::encode::{Encoder, Say};

/// A block that cannot be decoded. The connection ends with COMPRESSION_ERROR (RFC 9113 section 4.3): from here on the
/// table would not be the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header block that cannot be decoded")]
pub struct Malformed;

/// Size of a table in bytes until something else is said (RFC 9113 section 6.5.2).
pub const DEFAULT_SIZE: usize = 4096;
