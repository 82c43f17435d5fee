//! A certificate that signs others, its key, and the way from it to a root.

use std::time::{Duration, SystemTime};

use rand::TryRngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{BACK_DATING, SignError, Signed};
use crate::certificate::{self, CertificateError, Facts};
use crate::key::{Key, KeyError, KeyType};
use crate::spiffe::{Identity, TrustDomain};

/// An issuer as the files and the Secret `cacerts` hold it, each a PEM text (Istio's plugged-in CA).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// `ca-cert.pem`: the certificate that signs.
    pub certificate: String,
    /// `ca-key.pem`: its key.
    pub key: Zeroizing<String>,
    /// `root-cert.pem`: what to trust.
    pub root: String,
    /// `cert-chain.pem`: from the certificate that signs up to below the root; may be empty.
    pub chain: String,
}

/// Without the key.
impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { certificate, key: _, root, chain } = self;
        f.debug_struct("Files")
            .field("certificate", certificate)
            .field("root", root)
            .field("chain", chain)
            .finish_non_exhaustive()
    }
}

/// Why an issuer cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("ca-key.pem: {0}")]
    Key(#[from] KeyError),
    #[error("{file}: {source}")]
    Certificate { file: &'static str, source: CertificateError },
    #[error("ca-key.pem is not the key of ca-cert.pem")]
    OtherKey,
    #[error("ca-cert.pem is no certificate of an authority (basic constraints: CA)")]
    NoAuthority,
    #[error("ca-cert.pem has expired")]
    Expired,
    #[error("a certificate that ca-cert.pem has signed does not lead to root-cert.pem: {0}")]
    Chain(CertificateError),
    #[error("no certificate can be made: {0}")]
    Make(rcgen::Error),
    #[error("the system has no randomness to give")]
    Random,
}

/// Signs certificates.
#[derive(Debug)]
pub struct Issuer {
    key: Key,
    certificate: CertificateDer<'static>,
    facts: Facts,
    /// From the signing certificate up to below the root; empty if it is the root.
    between: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    /// When the first of them ends that a certificate needs.
    not_after: SystemTime,
}

/// How the roots are called that are made here; a number follows.
const OWN_NAME: &str = "Lateen root ";

impl Issuer {
    /// A new root of its own.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn self_signed(
        trust_domain: &TrustDomain,
        kind: KeyType,
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, IssuerError> {
        let key = Key::generate(kind)?;
        let serial = serial()?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, trust_domain.as_str());
        // Roots that follow each other must not be taken for each other.
        let number: String = serial.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        name.push(DnType::CommonName, format!("{OWN_NAME}{number}"));
        params.distinguished_name = name;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        (params.not_before, params.not_after) = validity(now, life);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // X509-SVID 3: an authority's certificate names its trust domain.
        let uri = format!("spiffe://{trust_domain}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(IssuerError::Make)?)];
        let made = params.self_signed(key.pair()).map_err(IssuerError::Make)?;
        let certificate = CertificateDer::from(made);
        let facts =
            Facts::read(&certificate).map_err(|source| IssuerError::Certificate { file: "ca-cert.pem", source })?;
        let not_after = facts.not_after;
        Ok(Self { key, roots: vec![certificate.clone()], certificate, facts, between: Vec::new(), not_after })
    }

    /// An issuer that a person brings. Everything is proven before it is used: that the key is the certificate's,
    /// and that what it signs leads to the root.
    ///
    /// # Errors
    /// What does not fit.
    pub fn from_files(files: &Files, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, IssuerError> {
        let read =
            |file, text: &str| certificate::read_pem(text).map_err(|source| IssuerError::Certificate { file, source });
        let certificate = read("ca-cert.pem", &files.certificate)?.swap_remove(0);
        let roots = read("root-cert.pem", &files.root)?;
        let chain = if files.chain.trim().is_empty() { Vec::new() } else { read("cert-chain.pem", &files.chain)? };
        let facts =
            Facts::read(&certificate).map_err(|source| IssuerError::Certificate { file: "ca-cert.pem", source })?;
        let key = Key::from_pem(&files.key)?;
        if key.public() != facts.public_key {
            return Err(IssuerError::OtherKey);
        }
        if !facts.is_authority {
            return Err(IssuerError::NoAuthority);
        }
        if facts.not_after <= now {
            return Err(IssuerError::Expired);
        }
        // People write the signing certificate first in the chain, or leave it out; a root has no place in it.
        let mut between = if roots.contains(&certificate) { Vec::new() } else { vec![certificate.clone()] };
        between.extend(chain.into_iter().filter(|one| *one != certificate && !roots.contains(one)));
        let end = |one: &CertificateDer<'_>| Facts::read(one).ok().map(|facts| facts.not_after);
        // Which of several roots it leads to is not asked: the last to end is.
        let root_end = roots.iter().filter_map(end).max();
        let ends = between.iter().filter_map(end).chain(root_end);
        let not_after = ends.fold(facts.not_after, SystemTime::min);
        let issuer = Self { key, certificate, facts, between, roots, not_after };
        issuer.prove(trust_domain, now)?;
        Ok(issuer)
    }

    /// As files.
    pub fn to_files(&self) -> Files {
        Files {
            certificate: certificate::to_pem([&self.certificate]),
            key: self.key.to_pem(),
            root: certificate::to_pem(&self.roots),
            chain: certificate::to_pem(&self.between),
        }
    }

    /// The certificate that signs.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What to trust.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Whether it is a root that was made here, and no person's.
    pub fn is_own(&self) -> bool {
        self.roots == [self.certificate.clone()] && self.facts.common_name.starts_with(OWN_NAME)
    }

    /// What its certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// When it ends, or something between it and the root does: nothing that it signs is valid for longer.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When its validity began.
    pub fn not_before(&self) -> SystemTime {
        self.facts.not_before
    }

    /// Signs a certificate for nobody and verifies it.
    fn prove(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), IssuerError> {
        let key = Key::generate(KeyType::EcdsaP256)?;
        let nobody = Identity::new(trust_domain.clone(), "proof", "nobody");
        let nobody = nobody.map_err(|error| IssuerError::Chain(error.into()))?;
        match self.sign_workload(key.pair(), &nobody, Duration::from_secs(60), now) {
            Ok(signed) => certificate::verify(&signed.chain, &self.roots, now).map_err(IssuerError::Chain),
            Err(SignError::Sign(error)) => Err(IssuerError::Make(error)),
            Err(_) => Err(IssuerError::Expired),
        }
    }

    pub(super) fn sign_workload(
        &self,
        public_key: &impl PublicKeyData,
        identity: &Identity,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Signed, SignError> {
        let uri = identity.to_string().try_into().map_err(SignError::Sign)?;
        self.sign(public_key, vec![SanType::URI(uri)], ttl, now)
    }

    pub(super) fn sign_server(
        &self,
        key: &Key,
        names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Signed, SignError> {
        let names: Result<Vec<SanType>, rcgen::Error> =
            names.iter().map(|name| Ok(SanType::DnsName(name.clone().try_into()?))).collect();
        self.sign(key.pair(), names.map_err(SignError::Sign)?, ttl, now)
    }

    fn sign(
        &self,
        public_key: &impl PublicKeyData,
        names: Vec<SanType>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Signed, SignError> {
        let not_after = (now + ttl).min(self.not_after);
        if not_after <= now {
            return Err(SignError::Expired);
        }
        let mut params = CertificateParams::default();
        // Without a subject the names are critical, as X509-SVID wants it.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.serial_number = Some(SerialNumber::from_slice(&serial().map_err(|_| SignError::Sign(random()))?));
        let life = not_after.duration_since(now).unwrap_or_default();
        (params.not_before, params.not_after) = validity(now, life);
        // A certificate must not begin before the one that signs it.
        params.not_before = params.not_before.max(OffsetDateTime::from(self.facts.not_before));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = rcgen::Issuer::from_ca_cert_der(&self.certificate, self.key.pair()).map_err(SignError::Sign)?;
        let made = params.signed_by(public_key, &issuer).map_err(SignError::Sign)?;
        let chain = std::iter::once(CertificateDer::from(made)).chain(self.between.iter().cloned()).collect();
        Ok(Signed { chain, not_after })
    }
}

/// From a moment ago until the end of a life that begins now, in whole seconds: X.509 knows no smaller ones.
fn validity(now: SystemTime, life: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let whole = |time: SystemTime| {
        let time = OffsetDateTime::from(time);
        time.replace_nanosecond(0).unwrap_or(time)
    };
    (whole(now - BACK_DATING), whole(now + life))
}

/// 16 random bytes, positive and never zero: RFC 5280 4.1.2.2, and the CA/Browser Forum's wish for 64 bits of chance.
fn serial() -> Result<[u8; 16], IssuerError> {
    let mut serial = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut serial).map_err(|_| IssuerError::Random)?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

fn random() -> rcgen::Error {
    rcgen::Error::RemoteKeyError
}
