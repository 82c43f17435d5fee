//! What an authority shows of itself: who signs, which roots are trusted and for how long. Public things only.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::authority::Authority;
use crate::certificate::Facts;

/// An authority, as an operator sees it. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub trust_domain: String,
    pub aliases: Vec<String>,
    pub signer: Signer,
    /// When what signs ends.
    pub signer_ends: u64,
    /// When a new root follows by itself; never, if it is not made here.
    pub rotates: Option<u64>,
    pub step: Step,
    pub roots: Vec<Root>,
    /// What of what it is told it does not follow, in words: for whoever tells it to say.
    #[serde(default)]
    pub troubles: Vec<String>,
}

/// Whose key signs workloads' certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signer {
    /// A root that was made here.
    Own,
    /// What a person brings in the Secret `cacerts`.
    Brought,
    /// Another authority.
    External,
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The new root is told everybody, the old one signs.
    Announced,
    /// The new root signs, the old one is trusted.
    Signing,
    /// There is none under way.
    Done,
}

/// A root that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub subject: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
    pub ends: u64,
    pub role: Role,
    /// When it begins to sign, or is trusted no more.
    pub until: Option<u64>,
}

/// What a root is trusted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// What signs is under it.
    Signing,
    /// What will sign is under it.
    Announced,
    /// What has signed is under it.
    Retiring,
    /// Another authority's.
    External,
}

impl Status {
    pub(super) fn of(
        authority: &Authority,
        brought: bool,
        elsewhere: Option<&[CertificateDer<'static>]>,
        step: Step,
    ) -> Self {
        let signing = authority.signing();
        let mut roots: Vec<Root> = Vec::new();
        let mut add = |list: &[CertificateDer<'static>], role, until: Option<SystemTime>| {
            for root in list.iter().filter_map(|der| Root::of(der, role, until)) {
                if roots.iter().all(|known| known.fingerprint != root.fingerprint) {
                    roots.push(root);
                }
            }
        };
        add(signing.roots(), Role::Signing, None);
        if let Some((next, from)) = authority.announced() {
            add(next.roots(), Role::Announced, Some(*from));
        }
        for retiring in authority.retiring() {
            add(std::slice::from_ref(&retiring.root), Role::Retiring, Some(retiring.until));
        }
        add(elsewhere.unwrap_or_default(), Role::External, None);
        let domains = &authority.settings().trust_domains;
        Self {
            trust_domain: domains.own.to_string(),
            aliases: domains.aliases.iter().map(ToString::to_string).collect(),
            signer: match elsewhere {
                Some(_) => Signer::External,
                None if signing.is_own() && !brought => Signer::Own,
                None => Signer::Brought,
            },
            signer_ends: seconds(signing.not_after()),
            rotates: authority.rotates_at().filter(|_| !brought).map(seconds),
            step,
            roots,
            troubles: Vec::new(),
        }
    }
}

impl Root {
    fn of(der: &CertificateDer<'_>, role: Role, until: Option<SystemTime>) -> Option<Self> {
        let facts = Facts::read(der).ok()?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        Some(Self {
            subject: facts.subject,
            fingerprint: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            ends: seconds(facts.not_after),
            role,
            until: until.map(seconds),
        })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
