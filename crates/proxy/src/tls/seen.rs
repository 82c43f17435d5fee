//! Certificates that peers have shown before. In a mesh a workload shows the same one with each of its connections: what it
//! says is read once, and who vouches for it is found out once. That the peer has its key is proven each time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_traffic::tls::Certificate;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::certificate::certificate;

/// Certificates that are remembered.
const MOST: usize = 64;

/// Certificates that somebody who is trusted vouches for, the oldest first.
#[derive(Debug, Default)]
pub struct Seen(Mutex<VecDeque<Good>>);

/// A certificate, and when it and those that came with it are all valid.
#[derive(Debug)]
struct Good {
    certificate: Arc<Certificate>,
    of_server: bool,
    from: SystemTime,
    until: SystemTime,
}

impl Good {
    fn is(&self, chain: &[&[u8]]) -> bool {
        self.certificate.chain.iter().map(|der| &**der).eq(chain.iter().copied())
    }
}

/// A chain as bytes.
fn bytes<'a>(end_entity: &'a CertificateDer<'_>, intermediates: &'a [CertificateDer<'_>]) -> Vec<&'a [u8]> {
    std::iter::once(end_entity).chain(intermediates).map(|der| der.as_ref()).collect()
}

impl Seen {
    fn kept(&self) -> MutexGuard<'_, VecDeque<Good>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the first certificate of a chain says; `None` if it is malformed.
    pub fn read(&self, end_entity: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Option<Arc<Certificate>> {
        let chain = bytes(end_entity, rest);
        let known = self.kept().iter().find(|good| good.is(&chain)).map(|good| Arc::clone(&good.certificate));
        known.or_else(|| certificate(chain).map(Arc::new))
    }

    /// Whether it was found good for this use before, and all of its chain is valid at this time.
    pub fn is_good(
        &self,
        end_entity: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        of_server: bool,
        now: UnixTime,
    ) -> bool {
        let chain = bytes(end_entity, rest);
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let is_it = |good: &Good| good.of_server == of_server && good.is(&chain);
        self.kept().iter().find(|good| is_it(good)).is_some_and(|good| good.from <= now && now <= good.until)
    }

    /// It was found good for this use.
    pub fn found_good(&self, end_entity: &CertificateDer<'_>, rest: &[CertificateDer<'_>], of_server: bool) {
        let chain = bytes(end_entity, rest);
        let others: Option<Vec<Certificate>> = rest.iter().map(|der| certificate([der.as_ref()])).collect();
        let (Some(own), Some(others)) = (certificate(chain.iter().copied()), others) else { return };
        let all = || std::iter::once(&own).chain(&others);
        let from = all().map(|one| one.not_before).max().unwrap_or(own.not_before);
        let until = all().map(|one| one.not_after).min().unwrap_or(own.not_after);
        let mut kept = self.kept();
        // Found out again after its time, or on two threads at once.
        kept.retain(|good| !(good.of_server == of_server && good.is(&chain)));
        if kept.len() >= MOST {
            kept.pop_front();
        }
        kept.push_back(Good { certificate: Arc::new(own), of_server, from, until });
    }
}

#[cfg(test)]
mod tests {
    use rcgen::date_time_ymd;
    use rustls::crypto::aws_lc_rs::default_provider;

    use super::*;
    use crate::tls::tests::Authority;
    use crate::tls::verify::Verifier;

    fn at(certificate: &Certificate, late: bool) -> UnixTime {
        let middle = certificate.not_before + Duration::from_secs(3600);
        let moment = if late { certificate.not_after + Duration::from_secs(1) } else { middle };
        UnixTime::since_unix_epoch(moment.duration_since(UNIX_EPOCH).unwrap())
    }

    #[test]
    fn what_was_good_is_good_for_its_time_and_use_alone() {
        let ca = Authority::new("ours");
        let pair = ca.pair("spiffe://t/ns/x/sa/a", |params| {
            params.not_before = date_time_ymd(2024, 1, 1);
            params.not_after = date_time_ymd(2024, 2, 1);
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        });
        let der = CertificateDer::from_slice(&pair.chain[0]);
        let read = certificate([&*pair.chain[0]]).unwrap();
        let (then, late) = (at(&read, false), at(&read, true));
        let verifier = |authority: &Authority| {
            let algorithms = default_provider().signature_verification_algorithms;
            Verifier::new((*authority.rules("spiffe://t/")).clone(), algorithms, true, false)
        };
        let good = |verifier: &Verifier, of_server, now| verifier.check(&der, &[], None, of_server, now).is_ok();
        let ours = verifier(&ca);
        // The second time it is known.
        assert!(good(&ours, false, then) && good(&ours, false, then));
        assert!(!good(&ours, false, late) && !good(&ours, true, then));
        assert!(good(&ours, false, then));
        assert!(!good(&verifier(&Authority::new("ours")), false, then), "of another authority with the same name");
    }

    #[test]
    fn a_chain_is_known_as_a_whole() {
        let ca = Authority::new("ours");
        let [a, b] = ["a", "b"].map(|name| ca.pair(&format!("spiffe://t/ns/x/sa/{name}"), |_| ()));
        let [a, b] = [&a, &b].map(|pair| CertificateDer::from_slice(&pair.chain[0]));
        let now = at(&certificate([a.as_ref()]).unwrap(), false);
        let seen = Seen::default();
        assert!(!seen.is_good(&a, &[], false, now));
        seen.found_good(&a, &[], false);
        assert!(seen.is_good(&a, &[], false, now));
        assert!(!seen.is_good(&b, &[], false, now) && !seen.is_good(&a, std::slice::from_ref(&b), false, now));
        assert_eq!(seen.read(&b, &[]).unwrap().uri_names, ["spiffe://t/ns/x/sa/b"]);
        assert!(Arc::ptr_eq(&seen.read(&a, &[]).unwrap(), &seen.read(&a, &[]).unwrap()), "read once");
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let ca = Authority::new("ours");
        let pairs: Vec<_> = (0..=MOST).map(|i| ca.pair(&format!("spiffe://t/ns/x/sa/{i}"), |_| ())).collect();
        let now = at(&certificate([&*pairs[0].chain[0]]).unwrap(), false);
        let seen = Seen::default();
        for pair in &pairs {
            seen.found_good(&CertificateDer::from_slice(&pair.chain[0]), &[], true);
        }
        let good = |pair: usize| seen.is_good(&CertificateDer::from_slice(&pairs[pair].chain[0]), &[], true, now);
        assert!(!good(0) && good(1) && good(MOST));
    }
}
