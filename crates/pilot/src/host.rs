//! Host names with a leading wildcard: matching, intersection, and which of two is more specific.
//!
//! Knows nothing of services or rules. Source: Istio `pkg/config/host/name.go`.

use std::cmp::Ordering;

/// Whether the name begins with `*`.
pub fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether some concrete host name belongs to both: `*.foo.com` and `bar.foo.com`, `*` and anything.
pub fn overlaps(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        (Some(a), None) => b.ends_with(a),
        (None, Some(b)) => a.ends_with(b),
        (None, None) => a == b,
    }
}

/// Whether every host name `inner` stands for is one of `outer`'s.
pub fn is_subset_of(inner: &str, outer: &str) -> bool {
    match (inner.strip_prefix('*'), outer.strip_prefix('*')) {
        (Some(inner), Some(outer)) => inner.ends_with(outer),
        (None, Some(outer)) => inner.ends_with(outer),
        (Some(_), None) => false,
        (None, None) => inner == outer,
    }
}

/// Orders the more specific name first: names without wildcard before those with one, then longer
/// before shorter, then by the alphabet.
pub fn most_specific_first(a: &str, b: &str) -> Ordering {
    is_wildcard(a).cmp(&is_wildcard(b)).then(b.len().cmp(&a.len())).then(a.cmp(b))
}

/// A host name as a rule in `namespace` means it: a name without a dot is a service of that
/// namespace. Wildcards, names with dots and IP addresses stay as they are.
/// Source: Istio `pkg/config/model/…ResolveShortnameToFQDN`.
pub fn resolve(host: &str, namespace: &str, domain: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.is_empty() || host.contains('.') || host.contains(':') || is_wildcard(&host) {
        return host;
    }
    format!("{host}.{namespace}.svc.{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        for (a, b, both, inner) in [
            ("*", "a.com", true, false),
            ("a.com", "*", true, true),
            ("*.a.com", "*.b.a.com", true, false),
            ("*.b.a.com", "*.a.com", true, true),
            ("x.a.com", "*.a.com", true, true),
            ("a.com", "*.a.com", false, false),
            ("a.com", "a.com", true, true),
            ("a.com", "b.com", false, false),
        ] {
            assert_eq!(overlaps(a, b), both, "{a} {b}");
            assert_eq!(is_subset_of(a, b), inner, "{a} {b}");
        }
    }

    #[test]
    fn specific_names_come_first() {
        let mut names = vec!["*", "*.com", "b.com", "*.a.com", "a.com"];
        names.sort_by(|a, b| most_specific_first(a, b));
        assert_eq!(names, ["a.com", "b.com", "*.a.com", "*.com", "*"]);
    }

    #[test]
    fn short_names_belong_to_the_namespace_of_their_rule() {
        assert_eq!(resolve("Reviews", "shop", "cluster.local"), "reviews.shop.svc.cluster.local");
        assert_eq!(resolve("reviews.other", "shop", "cluster.local"), "reviews.other");
        assert_eq!(resolve("*", "shop", "cluster.local"), "*");
    }
}
