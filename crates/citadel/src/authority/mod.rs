//! The certificate authority: who signs, whom it trusts, and how one root follows another. Pure: the time is an
//! argument, keys come with the data, and nothing is read or written here.
//!
//! A root is followed by another in three steps, so that at no moment anybody meets a certificate by a root that it
//! does not know:
//!
//! 1. announced: the new root is in the bundle, the old one still signs; until everybody has heard of it
//! 2. signing: the new one signs, the old root stays in the bundle
//! 3. done: the last certificate signed under the old root has expired, and it leaves the bundle

mod issuer;

#[cfg(test)]
mod issuer_tests;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

pub use issuer::{Files, Issuer, IssuerError};

use crate::certificate;
use crate::key::KeyType;
use crate::request::{RequestError, SigningRequest};
use crate::spiffe::{Identity, TrustDomain, TrustDomains};

/// How far back a certificate's validity begins, for peers whose clocks are behind (Istio's value).
pub const BACK_DATING: Duration = Duration::from_secs(120);
/// Shortest life of a certificate: a request for less gets this much.
const SHORTEST: Duration = Duration::from_secs(1);

/// A root of the authority's own is followed by the next when this part of its life is left (Istio's value)...
const ROOT_LEFT: f64 = 0.2;
/// ...or up to this much more: meshes that began together do not rotate together.
const ROOT_JITTER: f64 = 0.05;

/// How certificates are made out.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose names are given.
    pub trust_domains: TrustDomains,
    /// Life of a certificate when its request says nothing.
    pub default_ttl: Duration,
    /// Longest life given, whatever a request says.
    pub max_ttl: Duration,
    /// How long a new root is announced before it signs: within it everybody must have heard.
    pub announce: Duration,
    /// Life of a root that is made.
    pub root_life: Duration,
    /// Its key.
    pub key_type: KeyType,
}

impl Default for Settings {
    /// Istio's values.
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            trust_domains: TrustDomain::default().into(),
            default_ttl: 24 * HOUR,
            max_ttl: 24 * HOUR,
            announce: HOUR / 12,
            root_life: 10 * 365 * 24 * HOUR,
            key_type: KeyType::default(),
        }
    }
}

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("the authority's own certificate has expired: bring a new one in the Secret cacerts")]
    Expired,
    #[error("another authority signs for this mesh's workloads")]
    Elsewhere,
    #[error("the authority cannot sign: {0}")]
    Sign(rcgen::Error),
}

/// What a caller gets.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate, then the intermediates up to below the root.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_after: SystemTime,
}

/// A root on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retiring {
    pub root: CertificateDer<'static>,
    /// When the last certificate signed under it has expired.
    pub until: SystemTime,
}

/// The authority.
#[derive(Debug)]
pub struct Authority {
    settings: Settings,
    signing: Issuer,
    /// Signs from that time on.
    announced: Option<(Issuer, SystemTime)>,
    retiring: Vec<Retiring>,
    /// When the last certificate of a workload's has expired that was signed under the root that signs.
    issued_until: SystemTime,
}

impl Authority {
    /// An authority with a first issuer.
    pub fn new(settings: Settings, signing: Issuer) -> Self {
        Self { settings, signing, announced: None, retiring: Vec::new(), issued_until: SystemTime::UNIX_EPOCH }
    }

    /// An authority as it was kept.
    pub fn kept(
        settings: Settings,
        signing: Issuer,
        announced: Option<(Issuer, SystemTime)>,
        retiring: Vec<Retiring>,
        issued_until: SystemTime,
    ) -> Self {
        Self { settings, signing, announced, retiring, issued_until }
    }

    /// Gives names under other trust domains from now on; whether they are others.
    pub fn rename(&mut self, trust_domains: TrustDomains) -> bool {
        let changed = self.settings.trust_domains != trust_domains;
        self.settings.trust_domains = trust_domains;
        changed
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Who signs.
    pub fn signing(&self) -> &Issuer {
        &self.signing
    }

    /// Who signs next, and from when on.
    pub fn announced(&self) -> Option<&(Issuer, SystemTime)> {
        self.announced.as_ref()
    }

    pub fn retiring(&self) -> &[Retiring] {
        &self.retiring
    }

    /// When the last certificate of a workload's has expired that was signed under the root that signs.
    pub fn issued_until(&self) -> SystemTime {
        self.issued_until
    }

    /// When a root of the authority's own has to be followed by the next; never, if a person brought it.
    pub fn rotates_at(&self) -> Option<SystemTime> {
        let facts = self.signing.facts();
        if self.announced.is_some() || !self.signing.is_own() {
            return None;
        }
        let life = facts.not_after.duration_since(facts.not_before).unwrap_or_default().saturating_sub(BACK_DATING);
        // The dice were thrown when its serial number was drawn: the moment stays the same when this process does not.
        let dice = facts.serial.get(2..4).and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or_default();
        let left = life.mul_f64(ROOT_LEFT + ROOT_JITTER * f64::from(dice) / 255.0);
        // The next one has to be announced, and the old one has to sign meanwhile.
        Some(facts.not_after - left.max(2 * self.settings.announce).min(life / 2))
    }

    /// The roots to trust, the one that signs first.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        let announced = self.announced.iter().flat_map(|(issuer, _)| issuer.roots());
        let retiring = self.retiring.iter().map(|retiring| &retiring.root);
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for root in self.signing.roots().iter().chain(announced).chain(retiring) {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        roots
    }

    /// The roots as PEM.
    pub fn bundle(&self) -> String {
        certificate::to_pem(&self.roots())
    }

    /// Has another issuer sign. Under a root that is trusted already it does at once, under a new one when that has
    /// been announced. The same issuer again changes nothing, and gives false.
    pub fn follow(&mut self, next: Issuer, now: SystemTime) -> bool {
        let current = self.announced.as_ref().map_or(&self.signing, |(issuer, _)| issuer);
        if current.certificate() == next.certificate() && current.roots() == next.roots() {
            return false;
        }
        let known = self.roots();
        if next.roots().iter().all(|root| known.contains(root)) {
            self.sign_with(next, now);
        } else {
            self.announced = Some((next, now + self.settings.announce));
        }
        true
    }

    /// Takes the steps whose time has come; whether there was one.
    pub fn advance(&mut self, now: SystemTime) -> bool {
        let before = self.retiring.len();
        self.retiring.retain(|retiring| retiring.until > now);
        let mut changed = self.retiring.len() != before;
        if self.announced.as_ref().is_some_and(|(_, from)| *from <= now)
            && let Some((next, _)) = self.announced.take()
        {
            self.sign_with(next, now);
            changed = true;
        }
        changed
    }

    /// When the next step is due.
    pub fn next_step(&self) -> Option<SystemTime> {
        let announced = self.announced.as_ref().map(|(_, from)| *from);
        self.retiring.iter().map(|retiring| retiring.until).chain(announced).min()
    }

    fn sign_with(&mut self, next: Issuer, now: SystemTime) {
        let old = std::mem::replace(&mut self.signing, next);
        self.announced = None;
        // Nothing it has signed is valid for longer.
        let until = self.issued_until.max(now);
        let trusted = self.signing.roots();
        for root in old.roots().iter().filter(|root| !trusted.contains(root)) {
            self.retiring.push(Retiring { root: root.clone(), until });
        }
        // What was signed under the next one's roots before is under the root that signs.
        let known = old.roots().iter().any(|root| trusted.contains(root));
        let before = self.retiring.iter().filter(|retiring| trusted.contains(&retiring.root));
        self.issued_until =
            before.map(|retiring| retiring.until).chain(known.then_some(until)).max().unwrap_or(now).max(now);
        self.retiring.retain(|retiring| !trusted.contains(&retiring.root) && retiring.until > now);
    }

    /// Signs a workload's request: for the caller's identity and no other, for at most as long as is allowed.
    ///
    /// # Errors
    /// When the request is not for the caller, or the authority has expired.
    pub fn sign(
        &mut self,
        request: &SigningRequest,
        caller: &Identity,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Signed, SignError> {
        let identity = request.identity(caller, &self.settings.trust_domains)?;
        let ttl = ttl.unwrap_or(self.settings.default_ttl).min(self.settings.max_ttl).max(SHORTEST);
        let signed = self.signing.sign_workload(&request.public_key, &identity, ttl, now)?;
        self.issued_until = self.issued_until.max(signed.not_after);
        Ok(signed)
    }

    /// A certificate for a server of the control plane, under these DNS names.
    ///
    /// # Errors
    /// When the authority has expired, or a name is none.
    pub fn sign_server(
        &self,
        key: &crate::key::Key,
        names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Signed, SignError> {
        self.signing.sign_server(key, names, ttl, now)
    }
}
