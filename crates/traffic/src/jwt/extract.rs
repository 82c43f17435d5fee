//! Where requests have tokens, and how they are taken out.

use std::sync::Arc;

use crate::headers::Headers;
use crate::message::RequestHead;

/// A place of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A header (lower case), and what comes before the token.
    Header(Arc<str>, String),
    /// A query parameter.
    Param(String),
    /// A cookie.
    Cookie(String),
}

impl Place {
    /// Where tokens are if nothing else is said (RFC 6750 sections 2.1 and 2.3).
    pub fn usual() -> Vec<Place> {
        vec![Self::Header("authorization".into(), "Bearer ".to_owned()), Self::Param("access_token".to_owned())]
    }

    /// The order in which tokens are looked for.
    pub(super) fn order(&self) -> (u8, String) {
        match self {
            Self::Header(name, before) => (0, format!("{name}{before}")),
            Self::Param(name) => (1, name.clone()),
            Self::Cookie(name) => (2, name.clone()),
        }
    }

    /// The tokens of a request.
    pub(super) fn tokens(&self, request: &RequestHead) -> Vec<String> {
        match self {
            Self::Header(name, before) => {
                let value = |value| Some(after(std::str::from_utf8(value).ok()?, before)?.to_owned());
                request.headers.get_all(name).filter_map(value).collect()
            }
            Self::Param(name) => {
                let mut pairs = pairs(request.query().unwrap_or_default());
                pairs.find(|(n, _)| n == name).map(|(_, value)| value).into_iter().collect()
            }
            Self::Cookie(name) => cookie(&request.headers, name).into_iter().collect(),
        }
    }

    /// Takes them out. Cookies stay, as in Envoy.
    pub(super) fn remove(&self, request: &mut RequestHead) {
        match self {
            Self::Header(name, _) => {
                request.headers.remove(name);
            }
            Self::Param(name) => {
                let Some((path, query)) = request.path.split_once('?') else { return };
                let (query, fragment) = query.split_at(query.find('#').unwrap_or(query.len()));
                let kept: Vec<&str> = query.split('&').filter(|pair| decode(key_of(pair)) != *name).collect();
                let question = if kept.is_empty() { "" } else { "?" };
                request.path = format!("{path}{question}{}{fragment}", kept.join("&"));
            }
            Self::Cookie(_) => {}
        }
    }
}

/// What follows the prefix, wherever that stands; other characters than a token's before it are passed over.
fn after<'a>(value: &'a str, before: &str) -> Option<&'a str> {
    if before.is_empty() {
        return Some(value);
    }
    let start = value.find(before)? + before.len();
    let of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    Some(match value[start..].find(of_token) {
        Some(at) => &value[start + at..],
        None => value,
    })
}

fn key_of(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let query = query.split('#').next().unwrap_or_default();
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// Percent-decoding; what is not encoded well stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |offset: usize| bytes.get(at + offset).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn cookie(headers: &Headers, name: &str) -> Option<String> {
    let lines = headers.get_all("cookie").filter_map(|line| std::str::from_utf8(line).ok());
    let mut cookies = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let (_, value) = cookies.find(|(n, _)| n.trim() == name)?;
    let value = value.trim();
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    Some(inner.to_owned())
}
