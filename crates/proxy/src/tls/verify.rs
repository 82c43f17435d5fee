//! Whether the other side's certificate is good: signed by one that is trusted, within its dates, not revoked, of a name
//! that is asked for, pinned.
//!
//! The order of the checks and what comes of each is Envoy's (its `DefaultCertValidator`).

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_traffic::tls::{Certificate, Validation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder,
};

use super::certificate::{certificate, key_pin, pin};
use super::readable::Readable;
use super::seen::Seen;

/// Checks certificates of one context.
#[derive(Debug)]
pub struct Verifier {
    rules: Validation,
    anchors: Vec<TrustAnchor<'static>>,
    revocations: Vec<CertRevocationList<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
    authorities: Vec<DistinguishedName>,
    mandatory: bool,
    match_server_name: bool,
    seen: Seen,
}

thread_local! {
    // Of the handshake that is being made a step of. rustls tells nobody which certificate it was that is refused.
    static REFUSED: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// The certificate that was refused in the step just made.
pub fn refused() -> Option<Arc<Certificate>> {
    let chain = REFUSED.take();
    certificate(chain.iter().map(|der| &**der)).map(Arc::new)
}

/// Checks certificates of a server that must be of a certain name, whatever else is demanded.
#[derive(Debug)]
pub struct Named {
    /// Demands the rest.
    pub verifier: Arc<Verifier>,
    /// The name.
    pub name: Arc<str>,
}

/// What is wrong with a certificate that the library has no words for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwanted {
    /// None of its names, which are told, is one that is asked for.
    #[error("SAN matcher, certificate SANs are [{0}]")]
    Names(String),
    /// It is not of the host that the request names.
    #[error("verify SAN list")]
    NotNamed,
    /// It is not one of those that are pinned.
    #[error("cert hash and spki")]
    Pins,
    /// Whoever signed it is no authority: not said to be one, or of a version that cannot say so.
    #[error("X509_verify_cert: certificate verification error at depth 1: invalid CA certificate")]
    Issuer,
}

impl From<Unwanted> for Error {
    fn from(unwanted: Unwanted) -> Self {
        CertificateError::Other(OtherError(Arc::new(unwanted))).into()
    }
}

impl Verifier {
    /// `mandatory`: a client must have a certificate. `match_server_name`: a server's must be of the name it was asked by.
    pub fn new(
        rules: Validation,
        algorithms: WebPkiSupportedAlgorithms,
        mandatory: bool,
        match_server_name: bool,
    ) -> Self {
        // What is malformed was refused with the resource.
        let anchors: Vec<TrustAnchor<'static>> = rules
            .authorities
            .iter()
            .filter_map(|der| {
                let der = CertificateDer::from_slice(der);
                webpki::anchor_from_trusted_cert(&der).ok().map(|anchor| anchor.to_owned())
            })
            .collect();
        let revocations = rules
            .revocations
            .iter()
            .filter_map(|der| {
                let der = CertificateRevocationListDer::from(&**der);
                let list = BorrowedCertRevocationList::from_der(&der).ok()?.to_owned().ok()?;
                Some(CertRevocationList::from(list))
            })
            .collect();
        let authorities = match rules.hide_authorities {
            true => Vec::new(),
            false => anchors.iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect(),
        };
        let mandatory = mandatory || Self::demands_one(&rules);
        Self {
            rules,
            anchors,
            revocations,
            algorithms,
            authorities,
            mandatory,
            match_server_name,
            seen: Seen::default(),
        }
    }

    /// Whether a client must have a certificate because only one can have the names or pins that are asked for.
    fn demands_one(rules: &Validation) -> bool {
        let particular = !rules.names.is_empty() || !rules.certificate_pins.is_empty() || !rules.key_pins.is_empty();
        particular && !rules.accept_untrusted
    }

    /// Whether anything is asked of a certificate.
    pub fn asks_for_anything(&self) -> bool {
        !self.rules.authorities.is_empty()
            || !self.rules.names.is_empty()
            || !self.rules.certificate_pins.is_empty()
            || !self.rules.key_pins.is_empty()
    }

    /// Whether what is not good ends the connection.
    pub fn accepts_only_good(&self) -> bool {
        !self.rules.accept_untrusted
    }

    /// Checks a certificate whatever is made of what is found.
    pub fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: Option<&str>,
        of_server: bool,
        now: UnixTime,
    ) -> Result<(), Error> {
        if !self.rules.authorities.is_empty() {
            self.check_chain(end_entity, intermediates, of_server, now)?;
        }
        let names_server = server.filter(|_| self.match_server_name);
        if !self.rules.names.is_empty() || names_server.is_some() {
            let read = self.seen.read(end_entity, intermediates).ok_or(CertificateError::BadEncoding)?;
            if !self.rules.names_match(&read) || names_server.is_some_and(|name| !read.is_of_server(name)) {
                return Err(Unwanted::Names(names_of(&read)).into());
            }
        }
        let (certificates, keys) = (&self.rules.certificate_pins, &self.rules.key_pins);
        if !certificates.is_empty() || !keys.is_empty() {
            let is = |pins: &[[u8; 32]], found: Option<[u8; 32]>| found.is_some_and(|found| pins.contains(&found));
            if !is(certificates, pin(end_entity)) && !is(keys, key_pin(end_entity)) {
                return Err(Unwanted::Pins.into());
            }
        }
        Ok(())
    }

    /// Checks that a certificate is of a server that a request names.
    fn check_name(&self, end_entity: &CertificateDer<'_>, name: &str) -> Result<(), Error> {
        let read = certificate([end_entity.as_ref()]).ok_or(CertificateError::BadEncoding)?;
        if read.is_of_server(name) { Ok(()) } else { Err(Unwanted::NotNamed.into()) }
    }

    fn check_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        of_server: bool,
        now: UnixTime,
    ) -> Result<(), Error> {
        // A certificate that is trusted itself needs nobody to vouch for it.
        if self.rules.authorities.iter().any(|trusted| **trusted == **end_entity) {
            let read = certificate([end_entity.as_ref()]).ok_or(CertificateError::BadEncoding)?;
            return self.check_dates(&read, UNIX_EPOCH + Duration::from_secs(now.as_secs()));
        }
        if self.seen.is_good(end_entity, intermediates, of_server, now) {
            return Ok(());
        }
        let readable = Readable::of(end_entity);
        let der = readable.der();
        let parsed = EndEntityCert::try_from(&der).map_err(|_| CertificateError::BadEncoding)?;
        let algorithms = readable.signed_by(self.algorithms.all);
        let algorithms: Vec<_> = algorithms.iter().map(|one| one as &dyn SignatureVerificationAlgorithm).collect();
        let lists: Vec<&CertRevocationList<'_>> = self.revocations.iter().collect();
        let depth = match self.rules.revocation_of_leaf_only {
            true => RevocationCheckDepth::EndEntity,
            false => RevocationCheckDepth::Chain,
        };
        let revocation = RevocationOptionsBuilder::new(&lists)
            .ok()
            .map(|options| options.with_depth(depth).with_expiration_policy(ExpirationPolicy::Enforce).build());
        let usage = || if of_server { KeyUsage::server_auth() } else { KeyUsage::client_auth() };
        let verify = |at| {
            parsed.verify_for_usage(&algorithms, &self.anchors, intermediates, at, usage(), revocation, None).map(drop)
        };
        let mut checked = verify(now);
        if self.rules.allow_expired
            && matches!(checked, Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }))
        {
            let read = certificate([end_entity.as_ref()]).ok_or(CertificateError::BadEncoding)?;
            let then = read.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            checked = verify(UnixTime::since_unix_epoch(then));
        }
        // A list of those that are revoked has dates too.
        if checked.is_ok() && self.revocations.is_empty() && !self.rules.allow_expired {
            self.seen.found_good(end_entity, intermediates, of_server);
        }
        checked.map_err(explain)
    }

    /// What the first certificate of a chain says; `None` if it is malformed.
    pub fn read(&self, end_entity: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Option<Arc<Certificate>> {
        self.seen.read(end_entity, rest)
    }

    /// Whether a certificate that was found good earlier still is, by its dates.
    pub fn check_dates(&self, certificate: &Certificate, now: SystemTime) -> Result<(), Error> {
        if self.rules.allow_expired || self.rules.accept_untrusted || self.rules.authorities.is_empty() {
            return Ok(());
        }
        match () {
            () if now > certificate.not_after => Err(CertificateError::Expired.into()),
            () if now < certificate.not_before => Err(CertificateError::NotValidYet.into()),
            () => Ok(()),
        }
    }

    fn accept(
        &self,
        checked: Result<(), Error>,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        if self.rules.accept_untrusted {
            return Ok(());
        }
        if checked.is_err() {
            let chain = std::iter::once(end_entity).chain(intermediates);
            REFUSED.set(chain.map(|der| der.as_ref().into()).collect());
        }
        checked
    }
}

fn names_of(certificate: &Certificate) -> String {
    let Certificate { dns_names, uri_names, email_names, ip_names, .. } = certificate;
    let text = dns_names.iter().chain(uri_names).chain(email_names).cloned();
    text.chain(ip_names.iter().map(ToString::to_string)).collect::<Vec<_>>().join(", ")
}

fn explain(error: webpki::Error) -> Error {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::CertExpired { .. } | E::InvalidCertValidity => CertificateError::Expired,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        E::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::EndEntityUsedAsCa | E::UnsupportedCertVersion => return Unwanted::Issuer.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
    .into()
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authorities
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let checked = self.check(end_entity, intermediates, None, false, now);
        self.accept(checked, end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, &Readable::of(cert).der(), dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, &Readable::of(cert).der(), dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = server_name.to_str();
        let checked = self.check(end_entity, intermediates, Some(&name), true, now);
        self.accept(checked, end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, &Readable::of(cert).der(), dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, &Readable::of(cert).der(), dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let asked = server_name.to_str();
        let checked = self.verifier.check(end_entity, intermediates, Some(&asked), true, now);
        let checked = checked.and_then(|()| self.verifier.check_name(end_entity, &self.name));
        self.verifier.accept(checked, end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(&*self.verifier, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(&*self.verifier, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(&*self.verifier)
    }
}
