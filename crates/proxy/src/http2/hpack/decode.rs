//! From blocks to fields (RFC 7541, section 6).

use super::fixed::{self, Field};
use super::table::{Name, Table};
use super::{DEFAULT_SIZE, Malformed, huffman};

/// Bytes that go on after the prefix of an integer. No number that means anything here has more.
const MOST_BYTES: u32 = 5;
/// Memory for Huffman coded strings that is kept from block to block.
const KEPT: usize = 16 * 1024;

/// What a peer's blocks are decoded by.
pub struct Decoder {
    pub(super) table: Table,
    most: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// `most`: the SETTINGS_HEADER_TABLE_SIZE that the peer is told, which bounds what it may make of its table. Until
    /// it says so, the table has the default size: it may not have heard of another one yet.
    pub fn new(most: usize) -> Self {
        Self { table: Table::new(DEFAULT_SIZE, most), most, name: Vec::new(), value: Vec::new() }
    }

    /// Decodes a whole block; tells each field (name, value) in order. An index of one byte may stand for a field as
    /// large as the table: who keeps fields counts them, and reads on to the end of the block when it has enough.
    pub fn decode(&mut self, block: &[u8], field: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        let decoded = self.fields(block, field);
        for scratch in [&mut self.name, &mut self.value] {
            if scratch.capacity() > KEPT {
                *scratch = Vec::new();
            }
        }
        decoded
    }

    fn fields(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        let mut rest = block;
        let mut begun = false;
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            match first {
                0x80.. => {
                    let (name, value) = indexed(&self.table, integer(first, 7, &mut rest)?)?;
                    field(name, value);
                }
                0x40..0x80 => self.literal(integer(first, 6, &mut rest)?, true, &mut rest, &mut field)?,
                0x20..0x40 => {
                    let size = integer(first, 5, &mut rest)?;
                    if begun || size > self.most {
                        return Err(Malformed);
                    }
                    self.table.resize(size);
                    continue;
                }
                0x00..0x20 => self.literal(integer(first, 4, &mut rest)?, false, &mut rest, &mut field)?,
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(
        &mut self,
        index: usize,
        keep: bool,
        rest: &mut &[u8],
        field: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Malformed> {
        let name = match index {
            0 => Name::Given(string(rest, &mut self.name)?),
            1..=fixed::LEN => Name::Given(fixed::field(index).ok_or(Malformed)?.0),
            _ => Name::Of(index - fixed::LEN - 1),
        };
        let value = string(rest, &mut self.value)?;
        field(self.table.name(name).ok_or(Malformed)?, value);
        if keep {
            self.table.insert(name, value);
        }
        Ok(())
    }
}

#[inline]
fn indexed(table: &Table, index: usize) -> Result<Field<'_>, Malformed> {
    match index.checked_sub(fixed::LEN + 1) {
        Some(age) => table.get(age),
        None => fixed::field(index),
    }
    .ok_or(Malformed)
}

/// The integer whose prefix is the lowest `bits` of `first` (section 5.1).
#[inline]
fn integer(first: u8, bits: u32, rest: &mut &[u8]) -> Result<usize, Malformed> {
    let prefix = (1 << bits) - 1;
    if first & prefix < prefix {
        return Ok(usize::from(first & prefix));
    }
    let mut value = u64::from(prefix);
    for byte in 0..MOST_BYTES {
        let (&next, after) = rest.split_first().ok_or(Malformed)?;
        *rest = after;
        value += u64::from(next & 0x7f) << (7 * byte);
        if next < 0x80 {
            return usize::try_from(value).map_err(|_| Malformed);
        }
    }
    Err(Malformed)
}

/// A string of the block, or in `scratch` if it is Huffman coded (section 5.2).
#[inline]
fn string<'a, 'b: 'a>(rest: &mut &'b [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    let (&first, after) = rest.split_first().ok_or(Malformed)?;
    *rest = after;
    let len = integer(first, 7, rest)?;
    let (string, after) = rest.split_at_checked(len).ok_or(Malformed)?;
    *rest = after;
    if first < 0x80 {
        return Ok(string);
    }
    scratch.clear();
    huffman::decode(string, scratch)?;
    Ok(scratch)
}
