//! The dynamic table (RFC 7541, sections 2.3.2 and 4): the same at both ends of a connection.
//!
//! Strings lie in one buffer, each field in one piece. Fields go in the order in which they came, so the buffer is
//! written round and round. It is twice as large as the table may be: then a field that no longer fits before the end
//! always fits before the oldest one that is left.

use std::collections::VecDeque;

use super::fixed::Field;

/// What a field counts beyond its strings (section 4.1).
const OVERHEAD: usize = 32;
/// Larger is no table: positions in the buffer are kept in 32 bits.
const LARGEST: usize = 1 << 30;

/// What a field counts in a table.
pub const fn size_of(name: usize, value: usize) -> usize {
    name.saturating_add(value).saturating_add(OVERHEAD)
}

/// The name of a field that is put into the table.
#[derive(Clone, Copy)]
pub enum Name<'a> {
    /// These bytes.
    Given(&'a [u8]),
    /// That of the field of this age.
    Of(usize),
}

#[derive(Clone, Copy)]
struct Entry {
    at: u32,
    name: u32,
    value: u32,
}

impl Entry {
    fn len(self) -> usize {
        self.name as usize + self.value as usize
    }
}

/// Fields by age: 0 is the newest.
pub struct Table {
    entries: VecDeque<Entry>,
    pub(super) buffer: Vec<u8>,
    /// Where the newest field ends.
    end: usize,
    pub(super) size: usize,
    max: usize,
    most: usize,
}

impl Table {
    /// An empty table of `max` bytes that may become as large as `most`.
    pub fn new(max: usize, most: usize) -> Self {
        let most = most.max(max).min(LARGEST);
        Self { entries: VecDeque::new(), buffer: Vec::new(), end: 0, size: 0, max: max.min(most), most }
    }

    /// Bytes that fields may count together.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The field of an age.
    #[inline]
    pub fn get(&self, age: usize) -> Option<Field<'_>> {
        let entry = self.entries.get(age)?;
        self.buffer.get(entry.at as usize..)?.get(..entry.len())?.split_at_checked(entry.name as usize)
    }

    /// The bytes of a name.
    pub fn name<'a>(&'a self, name: Name<'a>) -> Option<&'a [u8]> {
        match name {
            Name::Given(name) => Some(name),
            Name::Of(age) => self.get(age).map(|field| field.0),
        }
    }

    /// Makes the table smaller, or larger.
    pub fn resize(&mut self, max: usize) {
        self.max = max.min(self.most);
        self.evict(self.max);
    }

    /// Puts a field in front of all others. One that is larger than the table empties it (section 4.4).
    pub fn insert(&mut self, name: Name<'_>, value: &[u8]) {
        let (name_len, old) = match name {
            Name::Given(name) => (name.len(), 0),
            Name::Of(age) => match self.entries.get(age) {
                Some(entry) => (entry.name as usize, entry.at as usize),
                None => return,
            },
        };
        let size = size_of(name_len, value.len());
        let Some(left) = self.max.checked_sub(size) else { return self.evict(0) };
        self.evict(left);
        let len = name_len + value.len();
        let at = if self.end + len > 2 * self.most { 0 } else { self.end };
        if self.buffer.len() < at + len {
            self.buffer.resize(at + len, 0);
        }
        // What was evicted just now is not yet written over.
        match name {
            Name::Given(name) => self.write(at, name),
            Name::Of(_) => self.buffer.copy_within(old..old + name_len, at),
        }
        self.write(at + name_len, value);
        self.end = at + len;
        self.size += size;
        self.entries.push_front(Entry { at: at as u32, name: name_len as u32, value: value.len() as u32 });
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.buffer.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Drops the oldest fields until the others count no more than `size`.
    fn evict(&mut self, size: usize) {
        while self.size > size {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= size_of(oldest.name as usize, oldest.value as usize);
        }
        if self.entries.is_empty() {
            self.end = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::{Name, Table, size_of};

    proptest::proptest! {
        #[test]
        fn keeps_what_a_list_would(
            ops in proptest::collection::vec((0u8..8, 0usize..60, 0usize..80, 0usize..300), 0..200),
        ) {
            let mut table = Table::new(200, 300);
            let (mut list, mut max) = (VecDeque::<(Vec<u8>, Vec<u8>)>::new(), 200);
            for (nth, (op, name, value, size)) in ops.into_iter().enumerate() {
                if op == 0 {
                    table.resize(size);
                    max = size;
                } else {
                    let value = vec![nth as u8; value];
                    let age = name % 8;
                    let name = match list.get(age) {
                        Some(field) if op > 3 => {
                            table.insert(Name::Of(age), &value);
                            field.0.clone()
                        }
                        _ => {
                            let name = vec![!nth as u8; name];
                            table.insert(Name::Given(&name), &value);
                            name
                        }
                    };
                    list.push_front((name, value));
                }
                while list.iter().map(|(n, v)| size_of(n.len(), v.len())).sum::<usize>() > max {
                    list.pop_back();
                }
                let kept: Vec<_> = (0..).map_while(|age| table.get(age)).collect();
                proptest::prop_assert_eq!(kept, list.iter().map(|(n, v)| (&n[..], &v[..])).collect::<Vec<_>>());
                proptest::prop_assert!(table.buffer.len() <= 600);
            }
        }
    }
}
