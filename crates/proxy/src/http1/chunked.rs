//! The chunked transfer coding (RFC 9112 section 7.1), decoding. Strict: whatever two parties could read in two ways
//! is an error.

use bytes::{Buf, Bytes, BytesMut};

/// Longest chunk-size line and longest trailer section, in bytes.
const MAX_LINE: usize = 4096;
const MAX_TRAILERS: usize = 16 * 1024;

/// The message does not follow the coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid chunked body")]
pub struct ChunkError;

/// Decoder state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decoder {
    /// A chunk-size line comes.
    #[default]
    Size,
    /// So many bytes of data come.
    Data(u64),
    /// The line end after data comes.
    DataEnd,
    /// Trailer fields come; so many bytes of them were read.
    Trailers(usize),
    /// The body is over.
    Done,
}

/// What the decoder found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// Data.
    Data(Bytes),
    /// The end of the body. Trailer fields are read and dropped, as Envoy does by default.
    End,
    /// More input is needed.
    More,
}

impl Decoder {
    /// Takes the next piece from `input`.
    ///
    /// # Errors
    /// When the input is not chunked coding.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, ChunkError> {
        loop {
            match self {
                Self::Size => match line(input, MAX_LINE)? {
                    None => return Ok(Decoded::More),
                    Some(line) => {
                        *self = match size(&line)? {
                            0 => Self::Trailers(0),
                            n => Self::Data(n),
                        };
                    }
                },
                Self::Data(left) => {
                    if input.is_empty() {
                        return Ok(Decoded::More);
                    }
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= n as u64;
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(Decoded::Data(input.split_to(n).freeze()));
                }
                Self::DataEnd => {
                    if input.len() < 2 {
                        return if input.first().is_some_and(|b| *b != b'\r') {
                            Err(ChunkError)
                        } else {
                            Ok(Decoded::More)
                        };
                    }
                    if &input[..2] != b"\r\n" {
                        return Err(ChunkError);
                    }
                    input.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers(read) => match line(input, MAX_LINE)? {
                    None => return Ok(Decoded::More),
                    Some(line) if line.is_empty() => *self = Self::Done,
                    Some(line) => {
                        *read += line.len() + 2;
                        if *read > MAX_TRAILERS || !line.contains(&b':') || line[0].is_ascii_whitespace() {
                            return Err(ChunkError);
                        }
                    }
                },
                Self::Done => return Ok(Decoded::End),
            }
        }
    }
}

/// Takes a line that ends with CRLF; `None` when it is not complete.
fn line(input: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, ChunkError> {
    match input.iter().take(max).position(|b| *b == b'\n') {
        None if input.len() >= max => Err(ChunkError),
        None => Ok(None),
        Some(0) => Err(ChunkError),
        Some(end) if input[end - 1] != b'\r' => Err(ChunkError),
        Some(end) => {
            let mut line = input.split_to(end + 1);
            line.truncate(end - 1);
            Ok(Some(line))
        }
    }
}

fn size(line: &[u8]) -> Result<u64, ChunkError> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    if digits == 0 || digits > 16 || !(rest.is_empty() || rest[0] == b';') || rest.contains(&b'\r') {
        return Err(ChunkError);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| ChunkError)?;
    u64::from_str_radix(text, 16).map_err(|_| ChunkError)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces of `step` bytes.
    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, usize), ChunkError> {
        let (mut decoder, mut buffer, mut out) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut fed = 0;
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(data) => out.extend_from_slice(&data),
                Decoded::End => return Ok((out, input.len() - fed + buffer.len())),
                Decoded::More if fed == input.len() => return Err(ChunkError),
                Decoded::More => {
                    let n = step.min(input.len() - fed);
                    buffer.extend_from_slice(&input[fed..fed + n]);
                    fed += n;
                }
            }
        }
    }

    #[test]
    fn chunks_are_joined_at_any_cut() {
        let input = b"3\r\nabc\r\n5;ext=1\r\ndefgh\r\n0\r\nx-t: 1\r\n\r\nNEXT";
        for step in 1..input.len() {
            assert_eq!(decode(input, step).unwrap(), (b"abcdefgh".to_vec(), 4), "step {step}");
        }
    }

    #[test]
    fn ambiguity_is_refused() {
        for bad in [
            &b"3\nabc\r\n0\r\n\r\n"[..],
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b"zz\r\n",
            b"-1\r\n",
            b"+3\r\nabc\r\n",
            b"10000000000000000\r\n",
            b"3\r\nabcX\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"\r\n",
            b"3 x\r\nabc\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nno-colon\r\n\r\n",
        ] {
            assert!(decode(bad, bad.len()).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_encoded_comes_back(chunks in proptest::collection::vec(proptest::collection::vec(0u8..=255, 1..50), 0..8), step in 1usize..64) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            proptest::prop_assert_eq!(decode(&wire, step).unwrap(), (chunks.concat(), 0));
        }

        #[test]
        fn junk_never_panics(junk in proptest::collection::vec(0u8..=255, 0..200), step in 1usize..9) {
            let _ = decode(&junk, step);
        }
    }
}
