//! The forms of names: Kubernetes' (`apimachinery/pkg/util/validation`), DNS's, Istio's (`pkg/config/validation/agent`).
//! Each check says what is wrong in words that go after the field's path.

use std::net::IpAddr;

/// RFC 1123 label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63.
pub(crate) fn is_label(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A DNS label of any case, as host names may have.
fn is_host_label(name: &str) -> bool {
    is_label(&name.to_ascii_lowercase())
}

pub(crate) fn label(name: &str) -> Result<(), String> {
    if is_label(name) {
        return Ok(());
    }
    Err(format!("{name:?} is not a DNS label: lower-case letters, digits and '-', at most 63, no '-' at either end"))
}

/// RFC 1123 subdomain: labels joined with dots, at most 253.
pub(crate) fn subdomain(name: &str) -> Result<(), String> {
    if !name.is_empty() && name.len() <= 253 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!("{name:?} is not a DNS name: labels of lower-case letters, digits and '-', joined with '.'"))
}

/// RFC 1035 label: a label that begins with a letter.
pub(crate) fn service_name(name: &str) -> Result<(), String> {
    label(name)?;
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("{name:?} must begin with a letter"));
    }
    Ok(())
}

/// A port's name where a letter is needed: at most 15 (IANA), no `--`.
pub(crate) fn port_name(name: &str) -> Result<(), String> {
    let good =
        is_label(name) && name.len() <= 15 && !name.contains("--") && name.bytes().any(|b| b.is_ascii_lowercase());
    if good {
        Ok(())
    } else {
        Err(format!("{name:?} is not a port name: at most 15 letters, digits and '-', one letter at least"))
    }
}

/// 1 to 65535.
pub(crate) fn port(number: i64) -> Result<(), String> {
    if (1..=65535).contains(&number) { Ok(()) } else { Err(format!("{number} is not a port: 1 to 65535")) }
}

fn is_qualified_part(name: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |c: char| c.is_ascii_alphanumeric();
    !name.is_empty() && name.len() <= 63 && name.bytes().all(inside) && name.starts_with(edge) && name.ends_with(edge)
}

/// The name of a label or annotation: `[prefix/]name`.
pub(crate) fn qualified_name(name: &str) -> Result<(), String> {
    let good = match name.split_once('/') {
        None => is_qualified_part(name),
        Some((prefix, rest)) => subdomain(prefix).is_ok() && is_qualified_part(rest),
    };
    if good {
        Ok(())
    } else {
        Err(format!("{name:?} is not a label's name: [DNS name/]letters, digits, '-', '_', '.'"))
    }
}

/// A label's value.
pub(crate) fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_qualified_part(value) {
        return Ok(());
    }
    Err(format!("{value:?} is not a label's value: at most 63 letters, digits, '-', '_', '.', no mark at either end"))
}

/// A full host name; a dot at its end is fine. The last label must not be a number (else it is a broken IP address).
pub(crate) fn fqdn(name: &str) -> Result<(), String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let labels_good = !bare.is_empty() && bare.len() <= 255 && bare.split('.').all(is_host_label);
    let number_last = bare.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if labels_good && !number_last { Ok(()) } else { Err(format!("{name:?} is not a host name")) }
}

/// A host name whose first label may be, or end in, `*` alone: `*`, `*.example.com`.
pub(crate) fn wildcard_host(name: &str) -> Result<(), String> {
    match name.strip_prefix('*') {
        None => fqdn(name),
        Some("") => Ok(()),
        Some(rest) => match rest.strip_prefix('.') {
            Some(suffix) if fqdn(suffix).is_ok() => Ok(()),
            // Istio takes `*-internal.example.com` too.
            None if fqdn(rest.trim_start_matches('-')).is_ok() => Ok(()),
            _ => Err(format!("{name:?} is not a host name with a wildcard at its head, as *.example.com")),
        },
    }
}

/// An IP address.
pub(crate) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// An IP address, or a block of them: `10.0.0.0/8`.
pub(crate) fn ip_or_block(text: &str) -> Result<(), String> {
    let good = match text.split_once('/') {
        None => is_ip(text),
        Some((address, bits)) => {
            let bits_good = bits.bytes().all(|b| b.is_ascii_digit());
            match (address.parse::<IpAddr>(), bits.parse::<u8>()) {
                (Ok(IpAddr::V4(_)), Ok(bits)) => bits_good && bits <= 32,
                (Ok(IpAddr::V6(_)), Ok(bits)) => bits_good && bits <= 128,
                _ => false,
            }
        }
    };
    if good { Ok(()) } else { Err(format!("{text:?} is not an IP address or CIDR block")) }
}

/// The path of a unix socket, after `unix://`: absolute, or abstract (`@name`).
pub(crate) fn unix_socket(path: &str) -> Result<(), String> {
    if path.len() > 1 && path.starts_with(['/', '@']) && !path.ends_with('/') {
        return Ok(());
    }
    Err(format!("{path:?} is not an absolute path of a socket, or @name"))
}

/// Whether every name that `inner` stands for is one of `outer`'s.
pub(crate) fn covers(outer: &str, inner: &str) -> bool {
    let (outer, inner) = (outer.to_ascii_lowercase(), inner.to_ascii_lowercase());
    match (outer.strip_prefix('*'), inner.strip_prefix('*')) {
        (Some(outer), Some(inner)) => inner.ends_with(outer),
        (Some(outer), None) => inner.len() > outer.len() && inner.ends_with(outer),
        (None, Some(_)) => false,
        (None, None) => outer == inner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["a", "a.b", "A.b.", "*", "*.a", "*.a.b", "*-x.b", "1a.com", "a-b.c1"] {
            assert!(wildcard_host(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "a_b", "*a*", "a.*", "**", "*.", "1.2.3.4", "a/b", "-a", "a-", "*..a"] {
            assert!(wildcard_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_and_their_values() {
        for good in ["app", "app.kubernetes.io/name", "A_b-c.d"] {
            assert!(qualified_name(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "a b", "A.com/x"] {
            assert!(qualified_name(bad).is_err(), "{bad}");
        }
        assert!(label_value("").is_ok());
        assert!(label_value("v1.2_x").is_ok());
        assert!(label_value("v 1").is_err());
        assert!(label_value(&"v".repeat(64)).is_err());
    }

    #[test]
    fn addresses() {
        for good in ["1.2.3.4", "10.0.0.0/8", "::1", "fd00::/64"] {
            assert!(ip_or_block(good).is_ok(), "{good}");
        }
        for bad in ["", "1.2.3", "1.2.3.4/33", "1.2.3.4/+8", "::/129", "a/8", "1.2.3.4/"] {
            assert!(ip_or_block(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn wildcards_cover() {
        assert!(covers("*", "a.b"));
        assert!(covers("*.b", "a.b"));
        assert!(covers("*.b", "*.a.b"));
        assert!(!covers("*.a.b", "*.b"));
        assert!(!covers("*.b", "b"));
        assert!(!covers("a.b", "*.b"));
        assert!(covers("a.b", "A.b"));
    }
}
