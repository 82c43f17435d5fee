//! Workloads of a drawn mesh that call, and what they show in mutual TLS.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_citadel::authority::Files;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::case::{Case, Do};
use crate::tls::Authority;

/// Who calls: other namespaces, accounts and trust domains. `old.test` is at times another name of the mesh's domain,
/// and nobody at others; the last one's domain is never known.
pub const CALLERS: [&str; 8] = [
    "spiffe://cluster.local/ns/shop/sa/web",
    "spiffe://cluster.local/ns/shop/sa/default",
    "spiffe://cluster.local/ns/other/sa/web",
    "spiffe://cluster.local/ns/other/sa/default",
    "spiffe://cluster.local/ns/istio-system/sa/default",
    "spiffe://old.test/ns/shop/sa/web",
    "spiffe://old.test/ns/other/sa/default",
    "spiffe://stranger.test/ns/shop/sa/web",
];

/// The TLS of one caller, by what it speaks inside.
struct Caller {
    http1: TlsConnector,
    http2: TlsConnector,
    bytes: TlsConnector,
}

/// The mesh's authority, and callers with certificates of it.
pub struct Identities {
    authority: Authority,
    /// By identity.
    callers: BTreeMap<&'static str, Caller>,
}

impl Default for Identities {
    fn default() -> Identities {
        Identities::new()
    }
}

impl Identities {
    /// Signs certificates of all [`CALLERS`].
    ///
    /// # Panics
    /// Never.
    pub fn new() -> Identities {
        let authority = Authority::new("mesh");
        let callers = CALLERS.iter().map(|identity| {
            let certified = authority.sign("", identity);
            let config = |protocols: &[&str]| {
                let chain = vec![CertificateDer::from(certified.der.clone())];
                let key = PrivateKeyDer::from_pem_slice(certified.key.as_bytes()).expect("a key");
                let provider = Arc::new(aws_lc_rs::default_provider());
                let anybody = Arc::new(Anybody(Arc::clone(&provider)));
                let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                let config = config.expect("versions").dangerous().with_custom_certificate_verifier(anybody);
                let mut config = config.with_client_auth_cert(chain, key).expect("a certificate");
                config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
                // Each connection proves anew who it is from.
                config.resumption = Resumption::disabled();
                TlsConnector::from(Arc::new(config))
            };
            let caller = Caller {
                http1: config(&["istio-http/1.1", "istio", "http/1.1"]),
                http2: config(&["istio-h2", "istio", "h2"]),
                bytes: config(&["istio"]),
            };
            (*identity, caller)
        });
        let callers = callers.collect();
        Identities { authority, callers }
    }

    /// What a proxy's authority signs with, so that it knows the callers.
    pub fn files(&self) -> Files {
        let Authority { pem, key, .. } = &self.authority;
        Files { certificate: pem.clone(), key: key.clone().into(), root: pem.clone(), chain: String::new() }
    }

    /// The TLS of a case's client.
    pub fn of(&self, case: &Case) -> Option<&TlsConnector> {
        let caller = self.callers.get(case.identity?)?;
        let speaks_http1 = case.client.iter().any(|act| matches!(act, Do::Answer | Do::AnswerToHead));
        Some(match case.h2 {
            Some(_) => &caller.http2,
            None if speaks_http1 => &caller.http1,
            None => &caller.bytes,
        })
    }
}

/// Takes any server: whom these callers trust is not what is looked at.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
