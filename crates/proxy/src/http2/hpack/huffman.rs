//! Strings in the Huffman code of RFC 7541 (section 5.2, appendix B).
//!
//! The code is canonical: symbols in the order of their lengths, then of their values, have consecutive codes. So the
//! lengths say all of it. Codes of up to eight bits, which are those of almost all text, are found at one look; longer
//! ones by the length whose codes reach so far.

use super::Malformed;

/// Bits of the longest code.
const LONGEST: u32 = 30;
/// Bits of the longest code that is found at one look.
const SHORT_BITS: u32 = 8;

/// Appends what `input` stands for.
pub fn decode(mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    // No code has less than five bits.
    out.reserve(input.len() / 5 * 8 + 8);
    // The next bits, from the highest one on, and how many of them there are.
    let (mut bits, mut have) = (0u64, 0u32);
    loop {
        if let Some(word) = input.first_chunk::<8>() {
            bits |= u64::from_be_bytes(*word) >> have;
            let bytes = (63 - have) / 8;
            input = input.get(bytes as usize..).unwrap_or_default();
            have += 8 * bytes;
        } else {
            while have <= 56
                && let Some((byte, rest)) = input.split_first()
            {
                bits |= u64::from(*byte) << (56 - have);
                have += 8;
                input = rest;
            }
        }
        if have < LONGEST {
            break;
        }
        while have >= LONGEST {
            let (symbol, len) = next(bits).ok_or(Malformed)?;
            out.push(symbol);
            bits <<= len;
            have -= len;
        }
    }
    while let Some((symbol, len)) = next(bits).filter(|(_, len)| *len <= have) {
        out.push(symbol);
        bits <<= len;
        have -= len;
    }
    // The rest is the beginning of the code that ends a string, less than a byte of it.
    if have < 8 && bits.leading_ones() >= have { Ok(()) } else { Err(Malformed) }
}

/// The symbol whose code `bits` begin with, and its length; none for the end of the string.
#[inline]
fn next(bits: u64) -> Option<(u8, u32)> {
    let [symbol, len] = SHORT[(bits >> (64 - SHORT_BITS)) as usize];
    if len > 0 { Some((symbol, u32::from(len))) } else { next_long((bits >> 32) as u32) }
}

#[cold]
fn next_long(bits: u32) -> Option<(u8, u32)> {
    let codes = CODES.of_length[SHORT_BITS as usize..].iter().find(|codes| bits < codes.beyond)?;
    let index = codes.index + ((bits - codes.first) >> (32 - codes.len)) as usize;
    CODES.symbols.get(index).map(|symbol| (*symbol, codes.len))
}

/// Codes of one length, in the highest bits of 32.
#[derive(Clone, Copy)]
struct OfLength {
    len: u32,
    first: u32,
    /// The first code that is longer.
    beyond: u32,
    /// Where the symbol of the first one is.
    index: usize,
}

struct Codes {
    /// In the order of their codes.
    symbols: [u8; 256],
    of_length: [OfLength; LONGEST as usize],
}

/// All symbols but the end of the string, which has the very last code.
static CODES: Codes = codes();

/// Symbol and length by the bits that come next; length 0 where the code is longer.
static SHORT: [[u8; 2]; 1 << SHORT_BITS] = {
    let codes = codes();
    let mut short = [[0; 2]; 1 << SHORT_BITS];
    let mut len = 1;
    while len <= SHORT_BITS {
        let OfLength { first, beyond, index, .. } = codes.of_length[len as usize - 1];
        let mut bits = first >> (32 - SHORT_BITS);
        while bits < beyond >> (32 - SHORT_BITS) {
            let nth = (bits - (first >> (32 - SHORT_BITS))) >> (SHORT_BITS - len);
            short[bits as usize] = [codes.symbols[index + nth as usize], len as u8];
            bits += 1;
        }
        len += 1;
    }
    short
};

const fn codes() -> Codes {
    let mut symbols = [0; 256];
    let mut of_length = [OfLength { len: 0, first: 0, beyond: 0, index: 0 }; LONGEST as usize];
    let (mut code, mut index, mut len) = (0u32, 0, 1);
    while len <= LONGEST {
        let of = &mut of_length[len as usize - 1];
        *of = OfLength { len, first: code, beyond: code, index };
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as u32 == len {
                symbols[index] = symbol as u8;
                index += 1;
                code += 1 << (32 - len);
            }
            symbol += 1;
        }
        of.beyond = code;
        len += 1;
    }
    Codes { symbols, of_length }
}

/// Bits of each symbol's code.
pub const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];
