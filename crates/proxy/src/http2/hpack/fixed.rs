//! The static table (RFC 7541, appendix A), found by index and by name.

/// A field: name and value.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// The field of an index from 1 on.
#[inline]
pub fn field(index: usize) -> Option<Field<'static>> {
    FIELDS.get(index.checked_sub(1)?).copied()
}

/// The first index of a name with this [`hash`].
#[inline]
pub fn find(name: &[u8], hash: u64) -> Option<usize> {
    let index = usize::from(SLOTS[slot(hash)]);
    field(index).filter(|field| field.0 == name).map(|_| index)
}

/// The index of a value, from the first index of its name on.
#[inline]
pub fn find_value(first: usize, value: &[u8]) -> Option<usize> {
    let last = match first {
        METHOD | PATH | SCHEME => first + 1,
        STATUS => first + 6,
        _ => first,
    };
    (first..=last).find(|index| field(*index).is_some_and(|field| field.1 == value))
}

const METHOD: usize = 2;
const PATH: usize = 4;
const SCHEME: usize = 6;
const STATUS: usize = 8;

/// Of a name. Each name of the static table gets a slot of its own with this seed, as `SLOTS` proves.
pub const fn hash(name: &[u8]) -> u64 {
    hash_on(SEED, name)
}

/// Of bytes after others. Who chooses the bytes can make two collide: an index by it is no more than a guess.
#[inline]
pub const fn hash_on(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = seed ^ bytes.len() as u64;
    if let Some(last) = bytes.last_chunk::<8>() {
        let mut rest = bytes;
        while let Some((word, after)) = rest.split_first_chunk::<8>() {
            state = mix(state, u64::from_le_bytes(*word));
            rest = after;
        }
        return if rest.is_empty() { state } else { mix(state, u64::from_le_bytes(*last)) };
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        return mix(state, u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << 32);
    }
    let (mut word, mut rest) = (0, bytes);
    while let Some((byte, after)) = rest.split_first() {
        word = word << 8 | *byte as u64;
        rest = after;
    }
    mix(state, word)
}

const fn mix(state: u64, word: u64) -> u64 {
    let product = (state ^ word) as u128 * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

const fn slot(hash: u64) -> usize {
    (hash >> 56) as usize
}

const SEED: u64 = 0x455e_7472_b2ce_9a4d;

/// The first index of each name, 0 for none.
static SLOTS: [u8; 256] = {
    let mut slots = [0; 256];
    let mut index = FIELDS.len();
    while index > 0 {
        let slot = slot(hash(FIELDS[index - 1].0));
        assert!(slots[slot] == 0 || same(FIELDS[slots[slot] as usize - 1].0, FIELDS[index - 1].0));
        slots[slot] = index as u8;
        index -= 1;
    }
    slots
};

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Fields of the static table.
pub const LEN: usize = FIELDS.len();

const FIELDS: [Field<'static>; 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];
