//! Operators about TLS.

use std::fmt::Display;
use std::fmt::Write as _;

use super::put;
use crate::tls::{Certificate, TlsConnection};

/// Which connection is meant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

/// What of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TlsFact {
    Version,
    Cipher,
    OfPeer(CertificateFact),
    OfOurs(CertificateFact),
}

/// What of a certificate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum CertificateFact {
    UriNames,
    DnsNames,
    IpNames,
    EmailNames,
    Subject,
    Issuer,
    Serial,
    Fingerprint,
    Whole,
    NotBefore,
    NotAfter,
}

/// An operator by its name.
pub(super) fn tls_fact(name: &str) -> Option<(Side, TlsFact)> {
    use CertificateFact as C;
    let (side, rest) = match name.split_once('_')? {
        ("DOWNSTREAM", rest) => (Side::Downstream, rest),
        ("UPSTREAM", rest) => (Side::Upstream, rest),
        _ => return None,
    };
    let fact = match rest {
        "TLS_VERSION" => TlsFact::Version,
        "TLS_CIPHER" => TlsFact::Cipher,
        _ => {
            let (whose, what) = rest.split_once('_')?;
            let what = match what {
                "URI_SAN" => C::UriNames,
                "DNS_SAN" => C::DnsNames,
                "IP_SAN" => C::IpNames,
                "EMAIL_SAN" => C::EmailNames,
                "SUBJECT" => C::Subject,
                "ISSUER" if whose == "PEER" => C::Issuer,
                "SERIAL" if whose == "PEER" => C::Serial,
                "FINGERPRINT_256" if whose == "PEER" => C::Fingerprint,
                "CERT" if whose == "PEER" => C::Whole,
                "CERT_V_START" if whose == "PEER" => C::NotBefore,
                "CERT_V_END" if whose == "PEER" => C::NotAfter,
                _ => return None,
            };
            match whose {
                "PEER" => TlsFact::OfPeer(what),
                "LOCAL" => TlsFact::OfOurs(what),
                _ => return None,
            }
        }
    };
    Some((side, fact))
}

impl TlsFact {
    /// Writes the value; false when there is none.
    pub(super) fn write(self, connection: &TlsConnection, out: &mut String) -> bool {
        match self {
            Self::Version => write!(out, "{}", connection.version).is_ok(),
            Self::Cipher => put(out, connection.cipher),
            Self::OfPeer(fact) => connection.peer.as_deref().is_some_and(|peer| fact.write(peer, out)),
            Self::OfOurs(fact) => connection.local.as_deref().is_some_and(|own| fact.write(own, out)),
        }
    }
}

impl CertificateFact {
    fn write(self, certificate: &Certificate, out: &mut String) -> bool {
        match self {
            Self::UriNames => list(&certificate.uri_names, out),
            Self::DnsNames => list(&certificate.dns_names, out),
            Self::IpNames => list(&certificate.ip_names, out),
            Self::EmailNames => list(&certificate.email_names, out),
            Self::Subject => put(out, &certificate.subject),
            Self::Issuer => put(out, &certificate.issuer),
            Self::Serial => put(out, &certificate.serial),
            Self::Fingerprint => put(out, &certificate.fingerprint),
            Self::Whole => put(out, &certificate.url_encoded(1)),
            Self::NotBefore => moment(certificate.not_before, out),
            Self::NotAfter => moment(certificate.not_after, out),
        }
    }
}

fn moment(time: std::time::SystemTime, out: &mut String) -> bool {
    super::write_time(time, None, out);
    true
}

fn list(names: &[impl Display], out: &mut String) -> bool {
    for (at, name) in names.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(out, "{}{name}", if at > 0 { "," } else { "" });
    }
    !names.is_empty()
}
