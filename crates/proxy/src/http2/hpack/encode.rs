//! From fields to blocks (RFC 7541, section 6).
//!
//! A field is found in the table by the hash of name and value, a name by its own: each bucket knows its newest field,
//! and each field the one before it in its bucket. Fields leave the table in the order in which they came, so a chain
//! ends where it comes to one that has left, and nothing has to be taken out of it.

use bytes::{BufMut, BytesMut};

use super::DEFAULT_SIZE;
use super::fixed::{self, Field};
use super::table::{Name, Table, size_of};

/// How a field is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It will come again: put it into the table.
    Again,
    /// Another one with each message: not into the table (section 6.2.2).
    Once,
    /// Into no table, here nor behind the peer (section 7.1.3).
    Secret,
}

/// Fields that a table can hold: also what comes round in `links`.
const MOST_FIELDS: usize = DEFAULT_SIZE / size_of(0, 0);
/// Steps along a chain. Whoever makes hashes collide gets literals.
const STEPS: usize = 16;
/// Values of one name that are put into the table without any of them being asked for again.
const PATIENCE: usize = 4;
/// Each time that so many values of such a name have come, one more is tried.
const TRIED_AGAIN: u8 = 64;

/// What our blocks are encoded by.
///
/// Fields that are said [`Say::Again`] with a new value each time would push out of the table what does come again. So
/// when the newest four fields of a name have never been asked for, its values are no longer put into the table, but
/// for one in 64, until one of them does come again or those four have left.
pub struct Encoder {
    pub(super) table: Table,
    /// The number of the next field, round and round.
    next: u32,
    /// Of the fields in the table, by number modulo [`MOST_FIELDS`].
    links: Vec<Link>,
    fields: [u32; 128],
    names: [u32; 64],
    /// The sizes that the next block begins with: the smallest one since the last block, and the last one.
    resized: Option<(usize, usize)>,
}

#[derive(Clone, Copy)]
struct Link {
    older_field: u32,
    older_name: u32,
    /// Whether it has been said by its index.
    used: bool,
    /// Values of its name that were not put into the table since.
    passed_over: u8,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder for a peer that has not said how large a table it wants.
    pub fn new() -> Self {
        Self {
            table: Table::new(DEFAULT_SIZE, DEFAULT_SIZE),
            next: 0,
            links: Vec::new(),
            fields: [u32::MAX; 128],
            names: [u32::MAX; 64],
            resized: None,
        }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE. Ours is never larger than the default. The next block says so
    /// (section 4.2).
    pub fn resize(&mut self, peers: usize) {
        let size = peers.min(DEFAULT_SIZE);
        let smallest = self.resized.map_or(self.table.max(), |(smallest, _)| smallest).min(size);
        self.resized = Some((smallest, size));
    }

    /// Begins a block: says sizes that changed.
    pub fn begin(&mut self, out: &mut BytesMut) {
        let Some((smallest, size)) = self.resized.take() else { return };
        for size in [smallest, size] {
            if size != self.table.max() {
                self.table.resize(size);
                integer(size, 0x20, 5, out);
            }
        }
    }

    /// Says a field. `name` is lower case.
    pub fn field(&mut self, name: &[u8], value: &[u8], say: Say, out: &mut BytesMut) {
        let hash = fixed::hash(name);
        let fixed = fixed::find(name, hash);
        if say == Say::Secret {
            let index = fixed.or_else(|| self.find_name(name, hash));
            return literal(index, (name, value), 0x10, 4, out);
        }
        if let Some(index) = fixed.and_then(|first| fixed::find_value(first, value)) {
            return integer(index, 0x80, 7, out);
        }
        let fits = size_of(name.len(), value.len()) <= self.table.max() / 2;
        if say == Say::Once || !fits {
            let index = fixed.or_else(|| self.find_name(name, hash));
            return literal(index, (name, value), 0, 4, out);
        }
        let field_hash = fixed::hash_on(hash, value);
        if let Some(number) = self.find_field((name, value), field_hash) {
            if let Some(link) = self.links.get_mut(place(number)) {
                link.used = true;
            }
            return integer(self.index(number), 0x80, 7, out);
        }
        let (newest, comes_again) = self.expect(name, hash);
        let index = fixed.or(newest.map(|number| self.index(number)));
        if !comes_again {
            return literal(index, (name, value), 0, 4, out);
        }
        literal(index, (name, value), 0x40, 6, out);
        self.insert((name, value), hash, field_hash);
    }

    /// The newest field of a name, and whether its next value may be one that comes again.
    fn expect(&mut self, name: &[u8], hash: u64) -> (Option<u32>, bool) {
        let (mut newest, mut unused) = (None, 0);
        for (number, _) in self.of_name(hash).filter(|(_, field)| field.0 == name).take(PATIENCE) {
            newest.get_or_insert(number);
            if self.links.get(place(number)).is_none_or(|link| link.used) {
                break;
            }
            unused += 1;
        }
        if unused < PATIENCE {
            return (newest, true);
        }
        let link = newest.and_then(|number| self.links.get_mut(place(number)));
        let tried = link.is_none_or(|link| {
            link.passed_over = (link.passed_over + 1) % TRIED_AGAIN;
            link.passed_over == 0
        });
        (newest, tried)
    }

    fn insert(&mut self, (name, value): Field<'_>, hash: u64, field_hash: u64) {
        self.table.insert(Name::Given(name), value);
        let older_field = std::mem::replace(&mut self.fields[field_bucket(field_hash)], self.next);
        let older_name = std::mem::replace(&mut self.names[name_bucket(hash)], self.next);
        let link = Link { older_field, older_name, used: false, passed_over: 0 };
        match self.links.get_mut(place(self.next)) {
            Some(place) => *place = link,
            None => self.links.push(link),
        }
        self.next = self.next.wrapping_add(1);
    }

    fn find_name(&self, name: &[u8], hash: u64) -> Option<usize> {
        self.of_name(hash).find(|(_, field)| field.0 == name).map(|(number, _)| self.index(number))
    }

    fn find_field(&self, field: Field<'_>, hash: u64) -> Option<u32> {
        let newest = self.fields[field_bucket(hash)];
        self.chain(newest, |link| link.older_field).find(|(_, found)| *found == field).map(|(number, _)| number)
    }

    fn of_name(&self, hash: u64) -> impl Iterator<Item = (u32, Field<'_>)> {
        self.chain(self.names[name_bucket(hash)], |link| link.older_name)
    }

    /// Fields of a bucket with their numbers, newest first.
    fn chain(&self, newest: u32, older: impl Fn(&Link) -> u32) -> impl Iterator<Item = (u32, Field<'_>)> {
        std::iter::successors(Some(newest), move |number| self.links.get(place(*number)).map(&older))
            .take(STEPS)
            .map_while(|number| Some((number, self.table.get(self.age(number))?)))
    }

    fn age(&self, number: u32) -> usize {
        self.next.wrapping_sub(number).wrapping_sub(1) as usize
    }

    fn index(&self, number: u32) -> usize {
        fixed::LEN + 1 + self.age(number)
    }
}

fn place(number: u32) -> usize {
    number as usize % MOST_FIELDS
}

fn field_bucket(hash: u64) -> usize {
    (hash % 128) as usize
}

fn name_bucket(hash: u64) -> usize {
    (hash % 64) as usize
}

/// A literal with the name of an index, else with its own. `pattern` and `bits`: which kind.
fn literal(index: Option<usize>, (name, value): Field<'_>, pattern: u8, bits: u32, out: &mut BytesMut) {
    out.reserve(size_of(name.len(), value.len()));
    integer(index.unwrap_or(0), pattern, bits, out);
    if index.is_none() {
        string(name, out);
    }
    string(value, out);
}

fn string(bytes: &[u8], out: &mut BytesMut) {
    integer(bytes.len(), 0, 7, out);
    out.extend_from_slice(bytes);
}

/// An integer after `pattern`, in the lowest `bits` and in what bytes it takes (section 5.1).
fn integer(value: usize, pattern: u8, bits: u32, out: &mut BytesMut) {
    let prefix = (1 << bits) - 1;
    let Some(mut rest) = value.checked_sub(prefix) else { return out.put_u8(pattern | value as u8) };
    out.put_u8(pattern | prefix as u8);
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}
