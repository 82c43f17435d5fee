//! TLS as plain data: how a connection's handshake is made, and what it found out, for routes, policies, headers and logs
//! to go by. Speaks none of it.

mod settings;
mod validation;
mod version1;
mod wanted;

pub use settings::{
    CertificateSource, CipherSuite, DownstreamTls, Group, KeyPair, NamedSecret, NamesOfRequests, PrivateKey,
    PrivateKeyFormat, Secret, SecretName, SecretOrigin, SecretServer, ServerNames, TlsSettings, TransportSocket,
    UpstreamTls, ValidationSource,
};
pub use validation::{NameKind, NameMatcher, Validation};
pub use version1::{Version1, as_version3};
pub use wanted::Wanted;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;

/// What is known of a TLS connection once its handshake is over.
#[derive(Debug, Clone, Default)]
pub struct TlsConnection {
    /// The protocol's version.
    pub version: TlsVersion,
    /// The cipher suite, as Envoy's logs name it, for example `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The group of the key exchange, as Envoy's statistics name it, for example `X25519`; empty if none was agreed on.
    pub group: &'static str,
    /// The server's name that was asked for (SNI), in lower case.
    pub server_name: Option<Arc<str>>,
    /// The application protocol agreed on (ALPN).
    pub application_protocol: Option<Arc<str>>,
    /// The other side's certificate, if it brought one.
    pub peer: Option<Arc<Certificate>>,
    /// Whether the peer's certificate was checked and found good. A connection goes on without that only where an
    /// untrusted one is accepted on purpose.
    pub peer_validated: bool,
    /// The certificate shown to the other side, if any.
    pub local: Option<Arc<Certificate>>,
    /// The handshake continued an earlier session.
    pub resumed: bool,
}

/// Versions of TLS. Older ones are not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsVersion {
    /// RFC 5246. As long as none is agreed on, logs name this one, as Envoy's do.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        })
    }
}

/// Whom a certificate is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its names of kind URI; of a workload one, `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub uri_names: Vec<String>,
    /// Its names of kind DNS.
    pub dns_names: Vec<String>,
    /// Its names of kind IP address.
    pub ip_names: Vec<std::net::IpAddr>,
    /// Its names of kind e-mail.
    pub email_names: Vec<String>,
    /// Its subject in the form of RFC 2253, for example `CN=a,O=b`; empty if it has none.
    pub subject: String,
    /// Who signed it, in the form of [`Self::subject`].
    pub issuer: String,
    /// Its number, in hexadecimal.
    pub serial: String,
    /// SHA-256 of the whole certificate, in hexadecimal.
    pub fingerprint: String,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it ends to be valid.
    pub not_after: SystemTime,
    /// The certificate and those that came after it, in DER.
    pub chain: Vec<Box<[u8]>>,
}

impl Certificate {
    /// The first `count` certificates of the chain in PEM, as XFCC and access logs have it.
    pub fn url_encoded(&self, count: usize) -> String {
        let mut out = String::new();
        for der in self.chain.iter().take(count) {
            let encoded = base64::engine::general_purpose::STANDARD.encode(der);
            out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
            for line in encoded.as_bytes().chunks(64) {
                for byte in line {
                    match byte {
                        b'+' => out.push_str("%2B"),
                        b'/' => out.push_str("%2F"),
                        b'=' => out.push_str("%3D"),
                        other => out.push(char::from(*other)),
                    }
                }
                out.push_str("%0A");
            }
            out.push_str("-----END%20CERTIFICATE-----%0A");
        }
        out
    }
}
