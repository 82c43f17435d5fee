//! Certificate signing requests (PKCS #10, RFC 2986), read and doubted.

use rcgen::{CertificateParams, DistinguishedName, KeyUsagePurpose, SanType, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
};
use x509_parser::prelude::{FromDer as _, GeneralName};
use x509_parser::public_key::PublicKey;

use crate::key::Key;
use crate::spiffe::{Identity, TrustDomains};

/// Longest request that is looked at, in bytes of PEM. One with an RSA key of 8192 bits has about 3000.
pub const MAX_BYTES: usize = 16 << 10;
/// RSA keys accepted, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// As much of a name as is told when it is refused, in characters.
const TOLD: usize = 200;

/// Why a request is not signed. All are the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the certificate signing request has {0} bytes, {MAX_BYTES} are allowed")]
    TooLong(usize),
    #[error("the certificate signing request cannot be read: {0}")]
    Unreadable(String),
    #[error("the certificate signing request is not signed with the key it is for")]
    Signature,
    #[error("the certificate signing request is signed by a way not accepted: RSA or ECDSA with SHA-2 is")]
    SignatureAlgorithm,
    #[error("the key is not accepted: ECDSA over P-256 or P-384 and RSA of {} to {} bits are", RSA_BITS.start(), RSA_BITS.end())]
    Key,
    #[error("the certificate signing request asks for {asked}, the caller is {caller}")]
    Identity { asked: String, caller: Identity },
}

/// A request whose signature holds: the sender has the key.
#[derive(Debug)]
pub struct SigningRequest {
    pub(crate) public_key: SubjectPublicKeyInfo,
    /// Every name asked for, as text.
    names: Vec<String>,
}

impl SigningRequest {
    /// Reads the first request of a PEM text and verifies that it is signed with the key it names.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn read(pem: &str) -> Result<Self, RequestError> {
        if pem.len() > MAX_BYTES {
            return Err(RequestError::TooLong(pem.len()));
        }
        let unreadable = |error: &dyn std::fmt::Display| RequestError::Unreadable(error.to_string());
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|error| unreadable(&error))?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|error| unreadable(&error))?;
        if !rest.is_empty() {
            return Err(unreadable(&"there is more after its end"));
        }
        let accepted = [
            OID_PKCS1_SHA256WITHRSA,
            OID_PKCS1_SHA384WITHRSA,
            OID_PKCS1_SHA512WITHRSA,
            OID_SIG_ECDSA_WITH_SHA256,
            OID_SIG_ECDSA_WITH_SHA384,
        ];
        if !accepted.contains(&request.signature_algorithm.algorithm) {
            return Err(RequestError::SignatureAlgorithm);
        }
        let info = &request.certification_request_info;
        match info.subject_pki.parsed().map_err(|_| RequestError::Key)? {
            PublicKey::RSA(key) if RSA_BITS.contains(&key.key_size()) => {}
            // Which curves: what signatures can be verified over below.
            PublicKey::EC(_) => {}
            _ => return Err(RequestError::Key),
        }
        let public_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| RequestError::Key)?;
        request.verify_signature().map_err(|_| RequestError::Signature)?;
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(given) = extension {
                names.extend(given.general_names.iter().map(|name| match name {
                    GeneralName::URI(uri) => (*uri).to_owned(),
                    other => format!("{other:?}"),
                }));
            }
        }
        Ok(Self { public_key, names })
    }

    /// The name it asks for, which has to be the caller's and no other; one that asks for none is content with that. The
    /// caller's service account has a name under each of the mesh's trust domains: a workload that was started under
    /// one keeps it while the mesh moves to another.
    ///
    /// # Errors
    /// The name that is not the caller's.
    pub fn identity(&self, caller: &Identity, mesh: &TrustDomains) -> Result<Identity, RequestError> {
        let mut asked: Option<Identity> = None;
        for name in &self.names {
            let own = name.parse().ok().filter(|identity: &Identity| {
                let domain = identity.trust_domain();
                (domain == caller.trust_domain() || mesh.contain(domain)) && *identity == caller.within(domain.clone())
            });
            // Names are read strictly: what is equal now was the same text.
            match own.filter(|own| asked.as_ref().is_none_or(|asked| asked == own)) {
                Some(own) => asked = Some(own),
                None => {
                    let asked = name.chars().take(TOLD).collect();
                    return Err(RequestError::Identity { asked, caller: caller.clone() });
                }
            }
        }
        Ok(asked.unwrap_or_else(|| caller.clone()))
    }
}

/// A request for this identity and key, in PEM.
///
/// # Errors
/// When the key cannot sign.
pub fn write(key: &Key, identity: &Identity) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serialize_request(key.pair())?.pem()
}
