//! What is demanded of the other side's certificate.

use std::net::IpAddr;

use super::Certificate;
use crate::matcher::{StringMatcher, StringPattern};

/// Rules for a certificate (Envoy's `CertificateValidationContext`). What is empty demands nothing.
#[derive(Debug, Clone, Default)]
pub struct Validation {
    /// Authorities whose signature is trusted, in DER. Empty: any certificate is taken for good.
    pub authorities: Vec<Box<[u8]>>,
    /// The file that they were read from, if they were.
    pub file: Option<std::sync::Arc<str>>,
    /// The certificate must have one of these names.
    pub names: Vec<NameMatcher>,
    /// SHA-256 of certificates, one of which it must be, unless one of `key_pins` fits.
    pub certificate_pins: Vec<[u8; 32]>,
    /// SHA-256 of public keys (as a whole `SubjectPublicKeyInfo`), one of which must be its, unless one of
    /// `certificate_pins` fits.
    pub key_pins: Vec<[u8; 32]>,
    /// Lists of revoked certificates, in DER.
    pub revocations: Vec<Box<[u8]>>,
    /// Only the certificate itself is looked up in `revocations`, not those that vouch for it.
    pub revocation_of_leaf_only: bool,
    /// Dates are not looked at.
    pub allow_expired: bool,
    /// The connection goes on whatever is found; what was found is told.
    pub accept_untrusted: bool,
    /// Clients are not told which authorities are trusted.
    pub hide_authorities: bool,
}

/// A name that a certificate may have.
#[derive(Debug, Clone)]
pub struct NameMatcher {
    /// Of which kind; `None` for any.
    pub kind: Option<NameKind>,
    /// Which.
    pub matcher: StringMatcher,
}

/// Kinds of names in certificates (RFC 5280 section 4.2.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// A host's name.
    Dns,
    /// A URI, as workloads have.
    Uri,
    /// An e-mail address.
    Email,
    /// An IP address, compared in its text form.
    Ip,
}

impl NameMatcher {
    /// Whether the certificate has such a name.
    pub fn matches(&self, certificate: &Certificate) -> bool {
        let asks = |kind| self.kind.is_none_or(|of| of == kind);
        asks(NameKind::Uri) && certificate.uri_names.iter().any(|name| self.matcher.matches(name))
            || asks(NameKind::Dns) && certificate.dns_names.iter().any(|name| self.matches_dns(name))
            || asks(NameKind::Email) && certificate.email_names.iter().any(|name| self.matcher.matches(name))
            || asks(NameKind::Ip) && certificate.ip_names.iter().any(|ip| self.matcher.matches(&ip.to_string()))
    }

    /// An exact host name may also be covered by a certificate's wildcard.
    fn matches_dns(&self, name: &str) -> bool {
        match &self.matcher.pattern {
            StringPattern::Exact(host) if self.kind == Some(NameKind::Dns) => covers(name, host),
            _ => self.matcher.matches(name),
        }
    }
}

/// Whether a certificate's name of kind DNS is that of `host`: letter case does not count, and `*` stands for one whole
/// label, the first (RFC 9525 section 6.3).
fn covers(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(parent), Some((label, rest))) => !label.is_empty() && parent.eq_ignore_ascii_case(rest),
        _ => false,
    }
}

impl Validation {
    /// These rules with those of `other`: its lists are added, its other values win where they say something. So Envoy
    /// combines what a resource says with a secret.
    #[must_use]
    pub fn with(&self, other: &Validation) -> Validation {
        let mut all = self.clone();
        if !other.authorities.is_empty() {
            all.authorities.clone_from(&other.authorities);
            all.file.clone_from(&other.file);
        }
        if !other.revocations.is_empty() {
            all.revocations.clone_from(&other.revocations);
        }
        all.names.extend(other.names.iter().cloned());
        all.certificate_pins.extend(&other.certificate_pins);
        all.key_pins.extend(&other.key_pins);
        all.revocation_of_leaf_only |= other.revocation_of_leaf_only;
        all.allow_expired |= other.allow_expired;
        all.accept_untrusted |= other.accept_untrusted;
        all.hide_authorities |= other.hide_authorities;
        all
    }

    /// Whether one of the names demanded is the certificate's, or none is demanded.
    pub fn names_match(&self, certificate: &Certificate) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name.matches(certificate))
    }
}

impl Certificate {
    /// Whether it is that of a server of this name, a host's or an IP address.
    pub fn is_of_server(&self, name: &str) -> bool {
        match name.parse::<IpAddr>() {
            Ok(ip) => self.ip_names.contains(&ip),
            Err(_) => self.dns_names.iter().any(|own| covers(own, name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label() {
        for (name, host, fits) in [
            ("a.test", "A.test", true),
            ("*.a.test", "b.a.test", true),
            ("*.a.test", "a.test", false),
            ("*.a.test", "c.b.a.test", false),
            ("*.a.test", ".a.test", false),
            ("b*.a.test", "bc.a.test", false),
        ] {
            assert_eq!(covers(name, host), fits, "{name} {host}");
        }
    }
}
