//! Hash policies: what of a request is hashed to choose a host, or a cluster, by (Envoy's `RouteAction.HashPolicy`).

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use regex::Regex;

use crate::message::RequestHead;

/// 64-bit xxHash.
pub fn xxhash(bytes: &[u8], seed: u64) -> u64 {
    twox_hash::XxHash64::oneshot(seed, bytes)
}

/// The hash of a client's address.
pub fn of_address(address: IpAddr) -> u64 {
    xxhash(address.to_canonical().to_string().as_bytes(), 0)
}

/// One thing that is hashed.
#[derive(Debug, Clone)]
pub struct HashPolicy {
    /// What.
    pub source: HashSource,
    /// If there is a hash by then, what follows does not count.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Debug, Clone)]
pub enum HashSource {
    /// All values of a header, in alphabetical order. In each, matches of a pattern are replaced first.
    Header { name: Arc<str>, rewrite: Option<(Regex, String)> },
    /// A cookie.
    Cookie(Arc<HashCookie>),
    /// The client's address without port.
    SourceIp,
    /// The first value of a query parameter.
    Query(Arc<str>),
}

/// A cookie that is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Path of one that is made, if not empty.
    pub path: String,
    /// If set, a client without the cookie gets one that lasts so many seconds; 0 lasts as long as the browser.
    pub ttl: Option<u64>,
    /// Further attributes of one that is made.
    pub attributes: Vec<(String, String)>,
}

/// The connection a request came on.
#[derive(Debug, Clone, Copy)]
pub struct Downstream {
    /// The client, perhaps behind further proxies.
    pub client: IpAddr,
    /// Who connected.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
}

/// Cookies made for a client, as `set-cookie` has them. One is made once, however often it is hashed.
#[derive(Debug, Default)]
pub struct NewCookies(Vec<(Arc<HashCookie>, String)>);

impl NewCookies {
    /// Values of `set-cookie`.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, header)| header.as_str())
    }

    /// The hash of the value of a cookie that is made, or was made before. All requests of a connection get the same.
    fn hash(&mut self, cookie: &Arc<HashCookie>, ttl: u64, downstream: &Downstream) -> u64 {
        let connection = format!("{}{}", downstream.peer, downstream.local);
        let value = format!("{:016x}", xxhash(connection.as_bytes(), 0));
        let known = |(made, _): &(Arc<HashCookie>, String)| made.name == cookie.name && made.path == cookie.path;
        if !self.0.iter().any(known) {
            self.0.push((Arc::clone(cookie), set_cookie(cookie, &value, ttl)));
        }
        xxhash(value.as_bytes(), 0)
    }
}

/// The hash of a request; `None` if there is nothing to hash.
pub fn hash(
    policies: &[HashPolicy],
    request: &RequestHead,
    downstream: &Downstream,
    cookies: &mut NewCookies,
) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        if let Some(new) = policy.source.hash(request, downstream, cookies) {
            // Turned, so that equal hashes do not cancel each other out.
            hash = Some(hash.unwrap_or(0).rotate_left(1) ^ new);
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

impl HashSource {
    fn hash(&self, request: &RequestHead, downstream: &Downstream, cookies: &mut NewCookies) -> Option<u64> {
        match self {
            Self::Header { name, rewrite } => of_header(request, name, rewrite.as_ref()),
            Self::Cookie(cookie) => match (of_request(request, &cookie.name), cookie.ttl) {
                (Some(value), _) => Some(xxhash(value, 0)),
                (None, Some(ttl)) => Some(cookies.hash(cookie, ttl, downstream)),
                (None, None) => None,
            },
            Self::SourceIp => Some(of_address(downstream.client)),
            Self::Query(name) => {
                let mut pairs = request.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs.find(|(key, _)| **key == **name).map(|(_, value)| xxhash(value.as_bytes(), 0))
            }
        }
    }
}

fn of_header(request: &RequestHead, name: &str, rewrite: Option<&(Regex, String)>) -> Option<u64> {
    let one = |value: &[u8], seed: u64| match rewrite {
        None => xxhash(value, seed),
        Some((pattern, substitution)) => xxhash(&rewritten(value, pattern, substitution), seed),
    };
    if name.starts_with(':') || name == "host" {
        return request.field(name).filter(|value| !value.is_empty()).map(|value| one(value, 0));
    }
    let mut values = request.headers.get_all(name);
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(one(first, 0)) };
    // Each value is the seed of the next.
    let all = [first, second].into_iter().chain(values);
    let Some((pattern, substitution)) = rewrite else {
        let mut all: Vec<&[u8]> = all.collect();
        all.sort_unstable();
        return Some(all.iter().fold(0, |seed, value| xxhash(value, seed)));
    };
    let mut all: Vec<Vec<u8>> = all.map(|value| rewritten(value, pattern, substitution)).collect();
    all.sort_unstable();
    Some(all.iter().fold(0, |seed, value| xxhash(value, seed)))
}

fn rewritten(value: &[u8], pattern: &Regex, substitution: &str) -> Vec<u8> {
    match std::str::from_utf8(value) {
        Ok(text) => crate::route::substitute(text, pattern, substitution).into_bytes(),
        // Patterns are for text.
        Err(_) => value.to_vec(),
    }
}

/// The value of a cookie that the client sent, without quotes; `None` also if it is empty.
fn of_request<'a>(request: &'a RequestHead, name: &str) -> Option<&'a [u8]> {
    let pairs = request.headers.get_all("cookie").flat_map(|header| header.split(|byte| *byte == b';'));
    let value = pairs
        .filter_map(|pair| {
            let pair = pair.trim_ascii_start();
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            Some((&pair[..equals], &pair[equals + 1..]))
        })
        .find(|(key, _)| *key == name.as_bytes())
        .map(|(_, value)| value)?;
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    (!bare.is_empty()).then_some(bare)
}

fn set_cookie(cookie: &HashCookie, value: &str, ttl: u64) -> String {
    let mut text = format!("{}=\"{value}\"", cookie.name);
    // Writing to a string does not fail.
    if ttl > 0 {
        let _ = write!(text, "; Max-Age={ttl}");
    }
    if !cookie.path.is_empty() {
        let _ = write!(text, "; Path={}", cookie.path);
    }
    for (name, value) in &cookie.attributes {
        let _ = if value.is_empty() { write!(text, "; {name}") } else { write!(text, "; {name}={value}") };
    }
    text.push_str("; HttpOnly");
    text
}

#[cfg(test)]
mod tests;
