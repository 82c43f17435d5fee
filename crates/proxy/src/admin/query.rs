//! The query of a request: `a=1&b`.

/// Decoded parameters in their order.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is there, with any value but `false`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "false")
    }

    /// The parameter, if there is exactly one.
    pub(super) fn only(&self) -> Option<(&str, &str)> {
        match self.0.as_slice() {
            [(name, value)] => Some((name, value)),
            _ => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Percent decoding; `+` stays a plus, as it has a meaning in patterns. What is not percent-encoded text stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse(Some("filter=a%2e%7Cb+&usedonly&x=%zz%4&no=false&filter=later"));
        assert_eq!(query.get("filter"), Some("a.|b+"));
        assert!(query.has("usedonly") && !query.has("no") && !query.has("other"));
        assert_eq!(query.get("x"), Some("%zz%4"));
        assert_eq!(query.only(), None);
        assert_eq!(Query::parse(Some("level=debug")).only(), Some(("level", "debug")));
        assert!(Query::parse(None).is_empty() && Query::parse(Some("&")).is_empty());
        assert_eq!(Query::parse(Some("a=%ff")).get("a"), Some("%ff"));
    }

    proptest::proptest! {
        #[test]
        fn any_query_is_fine(text in "\\PC{0,40}") {
            let _ = Query::parse(Some(&text));
        }
    }
}
