//! How TLS is spoken on one side of a filter chain or cluster, and the secrets it takes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{TlsVersion, Validation};

/// TLS with clients (Envoy's `DownstreamTlsContext`).
#[derive(Debug, Clone)]
pub struct DownstreamTls {
    /// What both sides have in common.
    pub settings: TlsSettings,
    /// A client without a certificate is refused. Without it a certificate is asked for only if there is something to
    /// check it by.
    pub require_client_certificate: bool,
    /// A client that names no server is refused.
    pub require_sni: bool,
    /// How long a session can be continued; zero: never.
    pub session_timeout: Duration,
}

/// TLS with hosts (Envoy's `UpstreamTlsContext`).
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// What both sides have in common.
    pub settings: TlsSettings,
    /// The server's name that is asked for, if one is.
    pub server_name: Option<Arc<str>>,
    /// The host's own name is asked for instead, where it has one.
    pub host_name_as_server_name: bool,
    /// The certificate must be of the name asked for, on top of what [`TlsSettings::validation`] demands.
    pub match_server_name: bool,
    /// Sessions kept for each host, to be continued; 0 turns that off.
    pub max_sessions: u32,
}

/// What both sides of TLS have in common.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// The newest version spoken.
    pub max_version: TlsVersion,
    /// Cipher suites of TLS 1.2, the preferred first; empty for all there are. Those of TLS 1.3 are not chosen.
    pub cipher_suites: Vec<CipherSuite>,
    /// Groups of key exchange, the preferred first; empty for all there are.
    pub groups: Vec<Group>,
    /// Application protocols, the preferred first; empty for none.
    pub application_protocols: Vec<Arc<str>>,
    /// Certificates to show, with their keys.
    pub certificates: Vec<CertificateSource>,
    /// How the other side's certificate is checked.
    pub validation: ValidationSource,
}

/// A certificate that the resource brings, or a secret that discovery tells.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// In the resource.
    Inline(Arc<KeyPair>),
    /// A secret.
    Named(NamedSecret),
}

/// How the other side's certificate is checked: by what the resource says, a secret, or both together.
#[derive(Debug, Clone, Default)]
pub struct ValidationSource {
    /// In the resource.
    pub inline: Option<Arc<Validation>>,
    /// A secret, whose lists are added to those of `inline` and whose other values replace them.
    pub named: Option<NamedSecret>,
}

/// A secret that is referred to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSecret {
    /// Which.
    pub name: SecretName,
    /// How long what needs it waits for it before it is served without, refusing handshakes; `None` is for ever.
    pub patience: Option<Duration>,
}

/// The name of a secret, and who tells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName {
    /// Who tells it.
    pub origin: SecretOrigin,
    /// The name, for example `default`.
    pub name: Arc<str>,
}

/// Who tells a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecretOrigin {
    /// The bootstrap.
    Bootstrap,
    /// The control plane, over ADS.
    ControlPlane,
    /// A server of secrets (SDS).
    Server(Arc<SecretServer>),
}

/// A server of secrets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretServer {
    /// The cluster that it is.
    pub cluster: Arc<str>,
    /// It is spoken to in the incremental variant of xDS, else in that of the state of the world.
    pub delta: bool,
    /// `:authority` of the requests; the cluster's name if absent.
    pub authority: Option<Arc<str>>,
}

/// A secret as discovery tells it.
#[derive(Debug, Clone)]
pub enum Secret {
    /// A certificate with its key.
    KeyPair(Arc<KeyPair>),
    /// Rules for the other side's certificate.
    Validation(Arc<Validation>),
}

/// A certificate, those that vouch for it, and its key, which was found to belong to it.
#[derive(Debug)]
pub struct KeyPair {
    /// Certificates in DER, the one with the key first.
    pub chain: Vec<Box<[u8]>>,
    /// The key.
    pub key: PrivateKey,
    /// A stapled OCSP answer in DER.
    pub ocsp: Option<Box<[u8]>>,
    /// The file that `chain` was read from, if it was.
    pub file: Option<Arc<str>>,
}

/// A private key in DER, wiped from memory when it is dropped.
pub struct PrivateKey {
    /// What the bytes are.
    pub format: PrivateKeyFormat,
    der: Zeroizing<Vec<u8>>,
}

/// Encodings of private keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrivateKeyFormat {
    /// RFC 8017.
    Pkcs1,
    /// RFC 5915.
    Sec1,
    /// RFC 5958.
    Pkcs8,
}

impl PrivateKey {
    /// Takes the bytes over.
    pub fn new(format: PrivateKeyFormat, der: Vec<u8>) -> Self {
        Self { format, der: Zeroizing::new(der) }
    }

    /// The bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?})", self.format)
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal $(| $other:literal)*,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// By the name that Envoy's configuration has for it.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text $(| $other)* => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

names! {
    /// Cipher suites of TLS 1.2 that are spoken: those with forward secrecy and authenticated encryption.
    CipherSuite {
        /// AES-128-GCM, ECDSA certificate.
        EcdsaAes128Gcm = "ECDHE-ECDSA-AES128-GCM-SHA256",
        /// AES-256-GCM, ECDSA certificate.
        EcdsaAes256Gcm = "ECDHE-ECDSA-AES256-GCM-SHA384",
        /// ChaCha20-Poly1305, ECDSA certificate.
        EcdsaChacha20 = "ECDHE-ECDSA-CHACHA20-POLY1305",
        /// AES-128-GCM, RSA certificate.
        RsaAes128Gcm = "ECDHE-RSA-AES128-GCM-SHA256",
        /// AES-256-GCM, RSA certificate.
        RsaAes256Gcm = "ECDHE-RSA-AES256-GCM-SHA384",
        /// ChaCha20-Poly1305, RSA certificate.
        RsaChacha20 = "ECDHE-RSA-CHACHA20-POLY1305",
    }
}

names! {
    /// Groups of key exchange.
    Group {
        /// X25519 with ML-KEM-768, safe from quantum computers.
        X25519MlKem768 = "X25519MLKEM768",
        /// X25519.
        X25519 = "X25519",
        /// NIST's P-256.
        P256 = "P-256" | "secp256r1" | "prime256v1",
        /// NIST's P-384.
        P384 = "P-384" | "secp384r1",
    }
}

/// Which names of a server come from the request that a connection is made for (Envoy's `auto_sni` and
/// `auto_san_validation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamesOfRequests {
    /// The host that the request names is asked for, unless it is an address.
    pub asked_for: bool,
    /// The certificate must be of the host that the request names.
    pub verified: bool,
}

/// The names of a server that come from a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerNames {
    /// What is asked for.
    pub asked_for: Option<Arc<str>>,
    /// What the certificate must be of.
    pub verified: Option<Arc<str>>,
}

impl NamesOfRequests {
    /// The names for a request to this authority.
    pub fn of(self, authority: &str) -> ServerNames {
        if self == NamesOfRequests::default() {
            return ServerNames::default();
        }
        let host = match authority.rsplit_once(':') {
            Some((host, _)) if !authority.ends_with(']') => host,
            _ => authority,
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_address = bare.parse::<std::net::IpAddr>().is_ok();
        let host: Arc<str> = if is_address { bare } else { host }.into();
        ServerNames {
            asked_for: (self.asked_for && !is_address).then(|| Arc::clone(&host)),
            verified: self.verified.then_some(host),
        }
    }
}

/// How bytes are put on an upstream connection.
#[derive(Debug, Clone)]
pub enum TransportSocket {
    /// As they are.
    Plain,
    /// Over TLS.
    Tls(Arc<UpstreamTls>),
}

impl TlsSettings {
    /// The secrets that are needed.
    pub fn secrets(&self) -> impl Iterator<Item = &NamedSecret> {
        let of_certificates = self.certificates.iter().filter_map(|certificate| match certificate {
            CertificateSource::Named(name) => Some(name),
            CertificateSource::Inline(_) => None,
        });
        of_certificates.chain(&self.validation.named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_request_is_its_name_without_port_and_brackets() {
        let names = |authority: &str| {
            let names = NamesOfRequests { asked_for: true, verified: true }.of(authority);
            (names.asked_for.map(|name| name.to_string()), names.verified.map(|name| name.to_string()))
        };
        let both = |name: &str| (Some(name.to_owned()), Some(name.to_owned()));
        let verified = |name: &str| (None, Some(name.to_owned()));
        assert_eq!(names("a.test"), both("a.test"));
        assert_eq!(names("a.test:8443"), both("a.test"));
        assert_eq!(names("192.0.2.1:443"), verified("192.0.2.1"));
        assert_eq!(names("[2001:db8::1]:443"), verified("2001:db8::1"));
        assert_eq!(names("[2001:db8::1]"), verified("2001:db8::1"));
        assert_eq!(NamesOfRequests::default().of("a.test"), ServerNames::default());
    }
}
