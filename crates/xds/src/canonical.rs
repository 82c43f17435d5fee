//! One byte form for one meaning: protobuf messages with the entries of every map in order.
//!
//! Protobuf maps are encoded in whatever order their hash map happens to have, so that the same listener generated
//! twice differs byte for byte. Pushing it again would make every client rebuild it. Knows of messages only what
//! `build.rs` wrote down: where maps, messages and `Any`s stand.

#[derive(Clone, Copy)]
enum Field {
    /// A map, whose entry type is in the table if its values hold maps again.
    Map(Option<usize>),
    Message(usize),
    Any,
}

use Field::{Any, Map, Message};

/// Message name and, by field number, what needs a look; sorted by name.
static TABLE: &[(&str, &[(u32, Field)])] = include!(concat!(env!("OUT_DIR"), "/unordered.rs"));

/// Deeper messages than this are left as they are; prost itself does not decode them.
const MAX_DEPTH: usize = 100;

/// The canonical form of an encoded message. What is not understood (unknown types, malformed bytes) stays as it is.
///
/// `type_name` is the full name, without `type.googleapis.com/`.
pub fn canonical(type_name: &str, encoded: Vec<u8>) -> Vec<u8> {
    let Ok(index) = TABLE.binary_search_by_key(&type_name, |(name, _)| name) else {
        return encoded;
    };
    let mut out = Vec::with_capacity(encoded.len());
    match rewrite(index, &encoded, &mut out, MAX_DEPTH) {
        Some(()) => out,
        None => encoded,
    }
}

/// The entries of one map, gathered until another field begins.
#[derive(Default)]
struct Entries {
    tag: u64,
    bodies: Vec<Vec<u8>>,
}

impl Entries {
    fn flush(&mut self, out: &mut Vec<u8>) {
        self.bodies.sort_unstable();
        for body in self.bodies.drain(..) {
            put_body(self.tag, &body, out);
        }
    }
}

fn rewrite(message: usize, mut input: &[u8], out: &mut Vec<u8>, depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let (_, fields) = TABLE.get(message)?;
    let mut entries = Entries::default();
    while !input.is_empty() {
        let tag = take_varint(&mut input)?;
        if tag != entries.tag {
            entries.flush(out);
        }
        if tag & 7 != 2 {
            put_varint(tag, out);
            copy_scalar(tag, &mut input, out)?;
            continue;
        }
        let body = take_body(&mut input)?;
        let field = fields.iter().find(|(number, _)| u64::from(*number) == tag >> 3).map(|(_, field)| *field);
        match field {
            None => put_body(tag, body, out),
            Some(Message(inner)) => put_body(tag, &rewritten(inner, body, depth)?, out),
            Some(Any) => put_body(tag, &rewrite_any(body, depth)?, out),
            Some(Map(entry)) => {
                entries.tag = tag;
                entries.bodies.push(match entry {
                    Some(entry) => rewritten(entry, body, depth)?,
                    None => body.to_vec(),
                });
            }
        }
    }
    entries.flush(out);
    Some(())
}

fn rewritten(message: usize, body: &[u8], depth: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len());
    rewrite(message, body, &mut out, depth)?;
    Some(out)
}

fn rewrite_any(mut input: &[u8], depth: usize) -> Option<Vec<u8>> {
    const TYPE_URL: u64 = 1 << 3 | 2;
    const VALUE: u64 = 2 << 3 | 2;
    let mut message = None;
    let mut out = Vec::with_capacity(input.len());
    while !input.is_empty() {
        let tag = take_varint(&mut input)?;
        if tag & 7 != 2 {
            put_varint(tag, &mut out);
            copy_scalar(tag, &mut input, &mut out)?;
            continue;
        }
        let body = take_body(&mut input)?;
        match (tag, message) {
            (TYPE_URL, _) => {
                let name = std::str::from_utf8(body).ok()?.rsplit('/').next()?;
                message = TABLE.binary_search_by_key(&name, |(name, _)| name).ok();
                put_body(tag, body, &mut out);
            }
            (VALUE, Some(message)) => put_body(tag, &rewritten(message, body, depth)?, &mut out),
            _ => put_body(tag, body, &mut out),
        }
    }
    Some(out)
}

fn copy_scalar(tag: u64, input: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
    match tag & 7 {
        0 => put_varint(take_varint(input)?, out),
        1 => out.extend_from_slice(take(8, input)?),
        5 => out.extend_from_slice(take(4, input)?),
        _ => return None,
    }
    Some(())
}

fn take<'a>(count: usize, input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(head)
}

fn take_body<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_varint(input)?;
    take(usize::try_from(length).ok()?, input)
}

fn take_varint(input: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(input).ok()
}

fn put_varint(value: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(value, out);
}

fn put_body(tag: u64, body: &[u8], out: &mut Vec<u8>) {
    put_varint(tag, out);
    put_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::core::v3::Metadata;
    use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
    use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind};
    use prost::{Message as _, Name as _};

    use super::canonical;

    fn structure(keys: &[&str]) -> Struct {
        let value = |key: &&str| Value { kind: Some(Kind::StringValue((*key).to_owned())) };
        Struct { fields: keys.iter().map(|key| ((*key).to_owned(), value(key))).collect() }
    }

    fn routes(order: &[&str]) -> RouteConfiguration {
        let metadata = Metadata {
            filter_metadata: order.iter().map(|key| ((*key).to_owned(), structure(order))).collect(),
            ..Default::default()
        };
        let any = Any { type_url: Metadata::type_url(), value: metadata.encode_to_vec() };
        let typed_per_filter_config: HashMap<_, _> = order.iter().map(|key| ((*key).to_owned(), any.clone())).collect();
        let host = VirtualHost {
            name: "one".into(),
            domains: vec!["z".into(), "a".into()],
            metadata: Some(metadata),
            typed_per_filter_config,
            ..Default::default()
        };
        RouteConfiguration { name: "r".into(), virtual_hosts: vec![host], ..Default::default() }
    }

    #[test]
    fn maps_come_out_the_same_whatever_their_order() {
        // Every HashMap has its own random order, so sixteen of them do not agree by chance.
        let name = RouteConfiguration::full_name();
        let forms: std::collections::BTreeSet<Vec<u8>> = (0..16)
            .map(|_| routes(&["a", "b", "c", "d", "e"]).encode_to_vec())
            .map(|bytes| canonical(&name, bytes))
            .collect();
        assert_eq!(forms.len(), 1);
        let decoded = RouteConfiguration::decode(forms.first().unwrap().as_slice()).unwrap();
        assert_eq!(decoded.virtual_hosts[0].metadata, routes(&["e", "d", "c", "b", "a"]).virtual_hosts[0].metadata);
        assert_eq!(decoded.virtual_hosts[0].typed_per_filter_config.len(), 5);
    }

    #[test]
    fn lists_keep_their_order() {
        let of = |names: &[&str]| {
            let host = |name: &&str| VirtualHost { name: (*name).to_owned(), ..Default::default() };
            let config = RouteConfiguration { virtual_hosts: names.iter().map(host).collect(), ..Default::default() };
            canonical(&RouteConfiguration::full_name(), config.encode_to_vec())
        };
        assert_ne!(of(&["b", "a"]), of(&["a", "b"]));
    }

    #[test]
    fn what_is_malformed_stays_as_it_is() {
        let junk = vec![0x12, 0xff, 0x01];
        assert_eq!(canonical(&RouteConfiguration::full_name(), junk.clone()), junk);
    }
}
