//! The authority in a running process: shared, kept on disk, moved on when its time has come, and its bundle told to
//! whoever wants it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio::sync::watch;

use super::status::{Status, Step};
use crate::authority::{Authority, Files, Issuer, IssuerError, SignError, Signed};
use crate::certificate;
use crate::key::Key;
use crate::request::SigningRequest;
use crate::spiffe::{Identity, TrustDomains};
use crate::store::{Store, StoreError};

/// The longest nap between two looks at the clock: it may be set meanwhile.
const LONGEST_NAP: Duration = Duration::from_secs(60);

/// Lists of revoked certificates.
pub(super) type Revoked = Arc<[CertificateRevocationListDer<'static>]>;

/// A running authority.
#[derive(Debug)]
pub struct Ca {
    work: Mutex<Work>,
    store: Store,
    /// PEM of all roots that the control plane and the mesh's workloads are known by.
    bundle: watch::Sender<Arc<str>>,
    revoked: watch::Sender<Revoked>,
}

#[derive(Debug)]
struct Work {
    authority: Authority,
    /// A person brings the issuer: no other is made.
    brought: bool,
    /// What is on disk is older than the authority.
    unkept: bool,
    /// Roots of another authority, which signs for workloads in place of this one.
    elsewhere: Option<Vec<CertificateDer<'static>>>,
    /// What is kept on disk of when the last certificate expires.
    issued_until_kept: SystemTime,
}

impl Work {
    fn roots(&self) -> Vec<CertificateDer<'static>> {
        let mut roots = self.authority.roots();
        for root in self.elsewhere.iter().flatten() {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        roots
    }
}

impl Ca {
    /// Puts an authority to work that `store` keeps.
    pub fn new(authority: Authority, store: Store) -> Arc<Self> {
        let bundle = watch::Sender::new(Arc::from(authority.bundle()));
        let issued_until_kept = authority.issued_until();
        let work = Work { authority, brought: false, unkept: false, elsewhere: None, issued_until_kept };
        Arc::new(Self { work: Mutex::new(work), store, bundle, revoked: watch::Sender::new(Arc::from([])) })
    }

    /// Whose names are given.
    pub fn trust_domains(&self) -> TrustDomains {
        self.locked().authority.settings().trust_domains.clone()
    }

    /// Gives names under other trust domains from now on.
    pub fn rename(&self, trust_domains: TrustDomains) {
        let own = trust_domains.own.clone();
        if self.locked().authority.rename(trust_domains) {
            tracing::info!(trust_domain = %own, "the mesh's trust domains have changed");
        }
    }

    /// The roots to trust, in PEM, now and whenever they change.
    pub fn bundle(&self) -> watch::Receiver<Arc<str>> {
        self.bundle.subscribe()
    }

    /// Has another authority sign for workloads, which these roots prove; this one still signs for the control plane.
    pub fn sign_elsewhere(&self, roots: Vec<CertificateDer<'static>>) {
        let mut work = self.locked();
        work.elsewhere = Some(roots);
        self.tell(&work);
    }

    /// Refuses callers whose certificates these lists (PEM) name, from now on.
    ///
    /// # Errors
    /// When there is no list in the text, or one is damaged; then those before stay in force.
    pub fn revoke(&self, lists: Option<&str>) -> Result<(), certificate::CertificateError> {
        let lists: Revoked = lists.map(certificate::revocations).transpose()?.unwrap_or_default().into();
        self.revoked.send_if_modified(|now| {
            let changed = *now != lists;
            *now = lists;
            changed
        });
        Ok(())
    }

    pub(super) fn revoked(&self) -> watch::Receiver<Revoked> {
        self.revoked.subscribe()
    }

    /// Has another issuer sign, which a person has brought (the Secret `cacerts`).
    ///
    /// # Errors
    /// When it cannot be one: then everything stays as it was. When it cannot be kept: then it is followed all the same,
    /// and kept at the next look at the clock.
    pub fn follow(&self, files: &Files) -> Result<bool, FollowError> {
        let now = SystemTime::now();
        let mut work = self.locked();
        let issuer = Issuer::from_files(files, &work.authority.settings().trust_domains.own, now)?;
        work.brought = true;
        let followed = work.authority.follow(issuer, now);
        if followed || work.unkept {
            self.keep(&mut work)?;
        }
        Ok(followed)
    }

    /// Nobody brings an issuer any more: the one that signs goes on, and may be followed by one that is made here.
    pub fn left_alone(&self) {
        self.locked().brought = false;
    }

    /// Has a new root follow the one that signs.
    ///
    /// # Errors
    /// When a person brings the issuer, a rotation is under way, or the new root cannot be kept.
    pub fn rotate(&self) -> Result<Status, RotateError> {
        let now = SystemTime::now();
        let mut work = self.locked();
        if work.brought {
            return Err(RotateError::Brought);
        }
        if let Some((_, from)) = work.authority.announced() {
            return Err(RotateError::UnderWay(from.duration_since(now).unwrap_or_default().as_secs()));
        }
        self.make_root(&mut work, now)?;
        Ok(Self::status_of(&work))
    }

    fn make_root(&self, work: &mut Work, now: SystemTime) -> Result<(), FollowError> {
        let settings = work.authority.settings();
        let next = Issuer::self_signed(&settings.trust_domains.own, settings.key_type, settings.root_life, now)?;
        work.authority.follow(next, now);
        tracing::info!("a new root is announced");
        Ok(self.keep(work)?)
    }

    /// Who signs, what is trusted, and what comes next.
    pub fn status(&self) -> Status {
        Self::status_of(&self.locked())
    }

    fn status_of(work: &Work) -> Status {
        let step = match (work.authority.announced(), work.authority.retiring().is_empty()) {
            (Some(_), _) => Step::Announced,
            (None, false) => Step::Signing,
            (None, true) => Step::Done,
        };
        Status::of(&work.authority, work.brought, work.elsewhere.as_deref(), step)
    }

    /// Takes every step of a rotation when it is due, and begins one before the root ends; for ever.
    pub async fn tend(self: Arc<Self>) {
        loop {
            let mut changed = self.bundle.subscribe();
            let now = SystemTime::now();
            let due = self.advance(now);
            let nap = due.and_then(|due| due.duration_since(now).ok()).map_or(LONGEST_NAP, |nap| nap.min(LONGEST_NAP));
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                // A rotation may have begun.
                _ = changed.changed() => {}
            }
        }
    }

    /// Takes the steps that are due; when the next one is.
    fn advance(&self, now: SystemTime) -> Option<SystemTime> {
        let mut work = self.locked();
        let changed = work.authority.advance(now);
        if changed {
            tracing::info!(roots = work.authority.roots().len(), "the authority's roots have changed");
        }
        if (changed || work.unkept)
            && let Err(error) = self.keep(&mut work)
        {
            tracing::error!(%error, "the authority cannot be kept");
        }
        let rotates = work.authority.rotates_at().filter(|_| !work.brought);
        if rotates.is_some_and(|at| at <= now) {
            if let Err(error) = self.make_root(&mut work, now) {
                tracing::error!(%error, "the root ends soon, and cannot be followed by another");
                // At the next look at the clock.
                return work.authority.next_step();
            }
            return work.authority.next_step();
        }
        work.authority.next_step().into_iter().chain(rotates).min()
    }

    /// Signs a workload's request; see [`Authority::sign`].
    pub(super) fn sign(
        &self,
        request: &SigningRequest,
        caller: &Identity,
        ttl: Option<Duration>,
    ) -> Result<(Signed, Arc<str>), SignError> {
        let mut work = self.locked();
        if work.elsewhere.is_some() {
            return Err(SignError::Elsewhere);
        }
        let now = SystemTime::now();
        let signed = work.authority.sign(request, caller, ttl, now)?;
        let until = work.authority.issued_until();
        if until > work.issued_until_kept {
            // Further than it is, so that it is written once in a certificate's life, and not for each.
            let kept = until + until.duration_since(now).unwrap_or_default();
            match self.store.keep_issued_until(kept) {
                Ok(()) => work.issued_until_kept = kept,
                Err(error) => tracing::error!(%error, "after a restart the root may be trusted for too short a time"),
            }
        }
        Ok((signed, Arc::clone(&self.bundle.borrow())))
    }

    /// A certificate for the control plane's own server.
    pub(super) fn sign_server(&self, key: &Key, names: &[String], ttl: Duration) -> Result<Signed, SignError> {
        self.locked().authority.sign_server(key, names, ttl, SystemTime::now())
    }

    fn keep(&self, work: &mut Work) -> Result<(), StoreError> {
        let kept = self.store.keep(&work.authority);
        work.unkept = kept.is_err();
        if kept.is_ok() {
            work.issued_until_kept = work.authority.issued_until();
        }
        self.tell(work);
        kept
    }

    fn tell(&self, work: &Work) {
        let bundle = certificate::to_pem(&work.roots());
        self.bundle.send_if_modified(|told| {
            let changed = **told != *bundle;
            if changed {
                *told = Arc::from(bundle);
            }
            changed
        });
    }

    fn locked(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an issuer is not followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("{0}")]
    Issuer(#[from] IssuerError),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Why the root is not followed by another.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error("the issuer is brought in the Secret cacerts: change it there, and its root is followed")]
    Brought,
    #[error("a rotation is under way: the new root signs in {0} s")]
    UnderWay(u64),
    #[error("{0}")]
    Follow(#[from] FollowError),
}
