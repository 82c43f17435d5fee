//! Sticky weights: an annotation by which a VirtualService sends the same client to the same one of several weighted
//! destinations. Istio has no such thing.

use std::fmt;
use std::str::FromStr;

/// Name of the annotation.
pub const STICKY_WEIGHTS: &str = "lateen.dev/sticky-weights";

/// By what clients are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StickyWeights {
    /// By what the destinations' rules choose endpoints by (`consistentHash`).
    ConsistentHash,
    /// By a header.
    Header(String),
    /// By a cookie, if the client sends it.
    Cookie(String),
    /// By a query parameter.
    Query(String),
    /// By the client's address.
    SourceIp,
}

/// The annotation says something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotSticky(String);

impl fmt::Display for NotSticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is none of consistent-hash, header:NAME, cookie:NAME, query:NAME, source-ip", self.0)
    }
}

impl std::error::Error for NotSticky {}

impl FromStr for StickyWeights {
    type Err = NotSticky;

    fn from_str(text: &str) -> Result<Self, NotSticky> {
        let named = text.split_once(':').map(|(kind, name)| (kind, name.trim())).filter(|(_, name)| !name.is_empty());
        match (text, named) {
            ("consistent-hash", _) => Ok(Self::ConsistentHash),
            ("source-ip", _) => Ok(Self::SourceIp),
            (_, Some(("header", name))) => Ok(Self::Header(name.to_owned())),
            (_, Some(("cookie", name))) => Ok(Self::Cookie(name.to_owned())),
            (_, Some(("query", name))) => Ok(Self::Query(name.to_owned())),
            _ => Err(NotSticky(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let read = |text: &str| text.parse::<StickyWeights>();
        assert_eq!(read("consistent-hash"), Ok(StickyWeights::ConsistentHash));
        assert_eq!(read("source-ip"), Ok(StickyWeights::SourceIp));
        assert_eq!(read("header:x-user"), Ok(StickyWeights::Header("x-user".into())));
        assert_eq!(read("header::authority"), Ok(StickyWeights::Header(":authority".into())));
        assert_eq!(read("cookie: user"), Ok(StickyWeights::Cookie("user".into())));
        assert_eq!(read("query:u"), Ok(StickyWeights::Query("u".into())));
        for wrong in ["", "true", "header", "header:", "query: ", "Header:x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
