//! What a certificate says of itself, and whether a chain of them leads to a root.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::spiffe::Identity;

/// Certificates in one PEM text; more is no chain or bundle of anybody's.
const MAX_CERTIFICATES: usize = 100;

/// Why a certificate, or a chain of them, is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// PEM or what is in it is damaged.
    #[error("a certificate cannot be read: {0}")]
    Unreadable(String),
    /// An empty file, say.
    #[error("no certificate is found in the PEM text")]
    None,
    /// Certificates, say, where a list is meant.
    #[error("no list of revoked certificates is found in the PEM text")]
    NoList,
    /// An absurdly large file.
    #[error("more than {MAX_CERTIFICATES} certificates in one PEM text")]
    TooMany,
    /// The chain does not lead to a root, or something in it must not do what it does.
    #[error("the chain does not hold: {0}")]
    Chain(String),
    /// An X509-SVID has exactly one URI, which is its name.
    #[error("the certificate names {0} URIs, where one SPIFFE id is expected")]
    Names(usize),
    /// The URI is no identity of a workload.
    #[error("the certificate's name: {0}")]
    Name(#[from] crate::spiffe::SpiffeError),
}

/// What is read in a certificate.
#[derive(Clone, Debug)]
pub struct Facts {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// May sign others.
    pub is_authority: bool,
    /// The URIs among its subject alternative names.
    pub uris: Vec<String>,
    /// `SubjectPublicKeyInfo`, DER.
    pub public_key: Vec<u8>,
    /// Its subject as one line: `O=mesh.example, CN=root`.
    pub subject: String,
    /// The common name in its subject; empty if there is none.
    pub common_name: String,
    /// In hexadecimal, as `openssl x509 -serial` shows it without colons.
    pub serial: String,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let unreadable = |error: &dyn std::fmt::Display| CertificateError::Unreadable(error.to_string());
        let (_, read) = X509Certificate::from_der(der).map_err(|error| unreadable(&error))?;
        let names = read.subject_alternative_name().map_err(|error| unreadable(&error))?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let uri = |name: &GeneralName<'_>| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        };
        let constraints = read.basic_constraints().map_err(|error| unreadable(&error))?;
        Ok(Self {
            not_before: time(read.validity().not_before.timestamp()),
            not_after: time(read.validity().not_after.timestamp()),
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            uris: names.filter_map(uri).collect(),
            public_key: read.public_key().raw.to_vec(),
            subject: read.subject().to_string(),
            common_name: read
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            serial: read.tbs_certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// The identity an X509-SVID proves (X509-SVID 2: exactly one URI).
    ///
    /// # Errors
    /// When it has not exactly one name, or one of another form than Istio's.
    pub fn identity(&self) -> Result<Identity, CertificateError> {
        match self.uris.as_slice() {
            [uri] => Ok(uri.parse()?),
            uris => Err(CertificateError::Names(uris.len())),
        }
    }
}

fn time(seconds: i64) -> SystemTime {
    u64::try_from(seconds).map_or(SystemTime::UNIX_EPOCH, |seconds| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX) * 64))
    })
}

/// The certificates of a PEM text, in its order.
///
/// # Errors
/// When there is none, or one is damaged.
pub fn read_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut read = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        Facts::read(&certificate)?;
        if read.len() == MAX_CERTIFICATES {
            return Err(CertificateError::TooMany);
        }
        read.push(certificate);
    }
    if read.is_empty() { Err(CertificateError::None) } else { Ok(read) }
}

/// Whether a PEM text holds roots, as many as a system has.
///
/// # Errors
/// When there is none, or one is damaged.
pub fn read_roots(pem: &str) -> Result<(), CertificateError> {
    let mut some = false;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        certificate.map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        some = true;
    }
    if some { Ok(()) } else { Err(CertificateError::None) }
}

/// The lists of revoked certificates (RFC 5280 5) of a PEM text.
///
/// # Errors
/// When there is none, or one is damaged.
pub fn revocations(pem: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, CertificateError> {
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()) {
        let list = list.map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        CertificateRevocationList::from_der(&list).map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        lists.push(list);
    }
    if lists.is_empty() { Err(CertificateError::NoList) } else { Ok(lists) }
}

/// Certificates as PEM, one after the other.
pub fn to_pem<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    certificates.into_iter().map(|der| block("CERTIFICATE", der)).collect()
}

/// One block of PEM (RFC 7468).
pub(crate) fn block(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        block.extend(line.iter().map(|byte| char::from(*byte)));
        block.push('\n');
    }
    block + &format!("-----END {label}-----\n")
}

/// The cryptography everything here is done with.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Roots to verify by.
///
/// # Errors
/// When one cannot be a root.
pub fn root_store(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, CertificateError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| CertificateError::Chain(error.to_string()))?;
    }
    Ok(Arc::new(store))
}

/// Whether a chain, the leaf first, leads to one of the roots at this time, and the leaf may name a client of TLS.
///
/// # Errors
/// Why not.
pub fn verify(
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<(), CertificateError> {
    let held = |error: &dyn std::fmt::Display| CertificateError::Chain(error.to_string());
    let (leaf, between) = chain.split_first().ok_or(CertificateError::None)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(root_store(roots)?, provider())
        .build()
        .map_err(|error| held(&error))?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    verifier
        .verify_client_cert(leaf, between, UnixTime::since_unix_epoch(since))
        .map_err(|error| held(&error))
        .map(|_| ())
}
