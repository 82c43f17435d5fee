//! A peer's own certificate for webpki, which reads version 3 alone: one of version 1 is given to it as the one of version 3
//! that says the same. It has no extensions, so it is no authority and has no names; its issuer's signature is looked for
//! under what was signed. Those that vouch for it are given as they are: one of version 1 vouches for others only where it is
//! trusted itself, as with BoringSSL.

use lateen_traffic::tls::Version1;
use rustls::pki_types::{AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm};

/// A certificate that webpki can read.
pub struct Readable<'a> {
    own: &'a CertificateDer<'a>,
    old: Option<Version1<'a>>,
}

impl<'a> Readable<'a> {
    /// Of whatever version it is.
    pub fn of(own: &'a CertificateDer<'_>) -> Self {
        Self { own, old: Version1::read(own) }
    }

    /// As webpki reads it.
    pub fn der(&self) -> CertificateDer<'_> {
        CertificateDer::from_slice(self.old.as_ref().map_or(self.own.as_ref(), |old| &old.as_version3))
    }

    /// These algorithms, for signatures of certificates of which one may be this.
    pub fn signed_by<'b>(&'b self, algorithms: &[&'b dyn SignatureVerificationAlgorithm]) -> Vec<Signed<'b>> {
        algorithms.iter().map(|algorithm| Signed { algorithm: *algorithm, old: self.old.as_ref() }).collect()
    }
}

/// An algorithm that finds the signature of one certificate good if it is that of what was signed.
#[derive(Debug)]
pub struct Signed<'a> {
    algorithm: &'a dyn SignatureVerificationAlgorithm,
    old: Option<&'a Version1<'a>>,
}

impl SignatureVerificationAlgorithm for Signed<'_> {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let signed = match self.old {
            Some(old) if old.signed_as_version3 == message => old.signed,
            _ => message,
        };
        self.algorithm.verify_signature(public_key, signed, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use lateen_traffic::tls::{Certificate, Validation};
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::UnixTime;

    use super::*;
    use crate::tls::certificate::certificate;
    use crate::tls::tests::Authority;
    use crate::tls::verify::Verifier;

    /// Whether it is good an hour before it ends, and an hour after.
    fn good(ca: &Authority, der: &[u8], change: impl FnOnce(&mut Validation)) -> [bool; 2] {
        let mut rules = Validation { authorities: vec![ca.der.clone().into()], ..Validation::default() };
        change(&mut rules);
        let algorithms = default_provider().signature_verification_algorithms;
        let verifier = Verifier::new(rules, algorithms, true, false);
        let end = certificate([der]).unwrap().not_after.duration_since(UNIX_EPOCH).unwrap();
        let hour = Duration::from_secs(3600);
        [end - hour, end + hour].map(|at| {
            let at = UnixTime::since_unix_epoch(at);
            let both =
                [true, false].map(|server| verifier.check(&CertificateDer::from_slice(der), &[], None, server, at));
            assert_eq!(both[0].is_ok(), both[1].is_ok());
            both[0].is_ok()
        })
    }

    #[test]
    fn what_was_signed_as_version_1_is_good_as_that_alone() {
        let (ca, other) = (Authority::new("ours"), Authority::new("ours"));
        let new = ca.pair("spiffe://t/", |params| {
            params.subject_alt_names.clear();
            params.extended_key_usages.clear();
            params.not_before = rcgen::date_time_ymd(2024, 1, 1);
            params.not_after = rcgen::date_time_ymd(2024, 2, 1);
        });
        let old = Authority::version1(&new.chain[0], Some(&ca));
        assert_eq!(good(&ca, &old, |_| ()), [true, false]);
        assert_eq!(good(&ca, &old, |rules| rules.allow_expired = true), [true, true]);
        assert_eq!(good(&other, &old, |_| ()), [false, false], "of another with the same name");
        assert_eq!(good(&ca, &Authority::version1(&new.chain[0], Some(&other)), |_| ()), [false, false]);
        // The signature of the same of version 3 is that of other bytes, and the other way round.
        assert_eq!(good(&ca, &new.chain[0], |_| ()), [true, false]);
        assert_eq!(good(&ca, &Authority::version1(&new.chain[0], None), |_| ()), [false, false]);
        assert_eq!(good(&ca, &Version1::read(&old).unwrap().as_version3, |_| ()), [false, false]);
        let read: Certificate = certificate([&*old]).unwrap();
        assert!(read.dns_names.is_empty() && read.uri_names.is_empty());
        assert_eq!(
            good(&ca, &old, |rules| rules.names.clone_from(&ca.rules("").names)),
            [false, false],
            "it has no name"
        );
    }
}
