//! Header fields in wire order, in one allocation.
//!
//! A request passes through the proxy in microseconds, and most of its headers are only copied. So the fields of one
//! message share an arena: adding a field appends bytes, a look-up compares lengths first, and clearing keeps the
//! memory for the next message of the connection.

use std::fmt;

#[derive(Clone, Copy)]
struct Entry {
    name: u32,
    value: u32,
    value_len: u32,
    name_len: u16,
}

/// Header fields: names lower case, values raw bytes, order kept, repeated names allowed.
///
/// The total size is bounded by the codec's limit on message heads, far below the 4 GiB an arena can address.
#[derive(Clone, Default)]
pub struct Headers {
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

/// Fields of requests that Envoy keeps as one value: given twice, they become one list (RFC 9110 section 5.3).
const JOINED: [&str; 5] = ["accept", "authorization", "origin", "user-agent", "x-forwarded-for"];

/// The one of them that `name` is.
fn joins(name: &[u8]) -> Option<&'static str> {
    let may_join = matches!(name.len(), 6 | 10 | 13 | 15);
    JOINED.into_iter().find(|joined| may_join && name.eq_ignore_ascii_case(joined.as_bytes()))
}

/// One list of two; an empty item is none.
fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    match (first, second) {
        ([], only) | (only, []) => only.to_vec(),
        (first, second) => [first, second].join(&b","[..]),
    }
}

impl Headers {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes all fields, keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
    }

    /// Bytes that names and values have room for.
    pub fn capacity(&self) -> usize {
        self.arena.capacity()
    }

    /// The fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.as_bytes().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), value))
    }

    /// The same with names as they are kept, for who only passes them on.
    pub fn as_bytes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|e| (name_of(&self.arena, e), self.value_of(e)))
    }

    /// The first value of a field. `name` must be lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.iter().find(|e| self.named(e, name)).map(|e| self.value_of(e))
    }

    /// The first value of a field as text, if it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// All values of a field, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.entries.iter().filter(move |e| self.named(e, name)).map(|e| self.value_of(e))
    }

    /// Whether a field is there.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.iter().any(|e| self.named(e, name))
    }

    /// Adds a field at the end. The name is lower-cased.
    pub fn append(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (name, value) = (name.as_ref(), value.as_ref());
        let Ok(name_len) = u16::try_from(name.len()) else { return };
        let at = self.arena.len();
        self.arena.extend_from_slice(name);
        self.arena[at..].make_ascii_lowercase();
        self.arena.extend_from_slice(value);
        self.entries.push(Entry {
            name: at as u32,
            name_len,
            value: (at + name.len()) as u32,
            value_len: value.len() as u32,
        });
    }

    /// Adds a field of a request. Those that Envoy keeps as one value become one list when they come again.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: &[u8]) {
        let first = joins(name.as_ref()).and_then(|name| Some((name, self.get(name)?)));
        match first.map(|(name, first)| (name, joined(first, value))) {
            Some((name, list)) => self.set(name, list),
            None => self.append(name, value),
        }
    }

    /// Makes one list of what edits of a request have added to fields that are kept as one value.
    pub fn join(&mut self) {
        for name in JOINED {
            if self.get_all(name).nth(1).is_some() {
                let list = self.get_all(name).map(<[u8]>::to_vec).reduce(|list, value| joined(&list, &value));
                self.set(name, list.unwrap_or_default());
            }
        }
    }

    /// Sets a field to one value: in the place of its first occurrence, else at the end.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let Some(first) = self.entries.iter().position(|e| self.named(e, name)) else {
            self.append(name, value);
            return;
        };
        let value = value.as_ref();
        let at = self.arena.len() as u32;
        self.arena.extend_from_slice(value);
        self.entries[first].value = at;
        self.entries[first].value_len = value.len() as u32;
        let mut index = 0;
        let Self { arena, entries } = self;
        entries.retain(|e| {
            index += 1;
            index - 1 <= first || !named(arena, e, name)
        });
    }

    /// Removes all occurrences of a field; tells whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.entries.len();
        let Self { arena, entries } = self;
        entries.retain(|e| !named(arena, e, name));
        entries.len() != before
    }

    /// Keeps the fields whose name `keep` is true for.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        let Self { arena, entries } = self;
        entries.retain(|e| keep(name_of(arena, e)));
    }

    /// Bytes of all names and values.
    pub fn byte_size(&self) -> usize {
        self.entries.iter().map(|e| e.name_len as usize + e.value_len as usize).sum()
    }

    fn named(&self, entry: &Entry, name: &str) -> bool {
        named(&self.arena, entry, name)
    }

    fn value_of(&self, e: &Entry) -> &[u8] {
        &self.arena[e.value as usize..e.value as usize + e.value_len as usize]
    }
}

fn named(arena: &[u8], e: &Entry, name: &str) -> bool {
    e.name_len as usize == name.len() && name_of(arena, e) == name.as_bytes()
}

fn name_of<'a>(arena: &'a [u8], e: &Entry) -> &'a [u8] {
    &arena[e.name as usize..e.name as usize + e.name_len as usize]
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(n, v)| (n, String::from_utf8_lossy(v)))).finish()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut headers = Self::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_takes_the_first_place_and_drops_the_rest() {
        let mut h: Headers = [("A", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        h.set("a", "9");
        assert_eq!(h.iter().collect::<Vec<_>>(), [("a", &b"9"[..]), ("b", b"2")]);
        h.set("c", "4");
        assert!(h.remove("b") && !h.remove("b"));
        assert_eq!(h.iter().collect::<Vec<_>>(), [("a", &b"9"[..]), ("c", b"4")]);
    }

    proptest::proptest! {
        #[test]
        fn behaves_like_a_list(ops in proptest::collection::vec((0u8..4, "[a-c]", "[x-z]{0,3}"), 0..40)) {
            let mut headers = Headers::new();
            let mut list: Vec<(String, String)> = Vec::new();
            for (op, name, value) in ops {
                match op {
                    0 | 1 => {
                        headers.append(&name, &value);
                        list.push((name, value));
                    }
                    2 => {
                        headers.remove(&name);
                        list.retain(|(n, _)| *n != name);
                    }
                    _ => {
                        headers.set(&name, &value);
                        match list.iter().position(|(n, _)| *n == name) {
                            Some(at) => {
                                list[at].1 = value;
                                let mut i = 0;
                                list.retain(|(n, _)| { i += 1; i - 1 <= at || *n != name });
                            }
                            None => list.push((name, value)),
                        }
                    }
                }
                let seen: Vec<_> = headers.iter().map(|(n, v)| (n.to_owned(), String::from_utf8(v.to_vec()).unwrap())).collect();
                proptest::prop_assert_eq!(&seen, &list);
            }
        }
    }
}
