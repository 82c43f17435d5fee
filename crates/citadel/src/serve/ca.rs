//! The authority in a running process: shared, kept on disk, moved on when its time has come, and its bundle told to
//! whoever wants it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::authority::{Authority, Files, Issuer, IssuerError, SignError, Signed};
use crate::key::Key;
use crate::request::SigningRequest;
use crate::spiffe::{Identity, TrustDomain};
use crate::store::{Store, StoreError};

/// The longest nap between two looks at the clock: it may be set meanwhile.
const LONGEST_NAP: Duration = Duration::from_secs(60);

/// A running authority.
#[derive(Debug)]
pub struct Ca {
    authority: Mutex<Authority>,
    store: Store,
    /// PEM of all roots to trust.
    bundle: watch::Sender<Arc<str>>,
}

impl Ca {
    /// Puts an authority to work that `store` keeps.
    pub fn new(authority: Authority, store: Store) -> Arc<Self> {
        let bundle = watch::Sender::new(Arc::from(authority.bundle()));
        Arc::new(Self { authority: Mutex::new(authority), store, bundle })
    }

    /// Whose names are given.
    pub fn trust_domain(&self) -> TrustDomain {
        self.locked().settings().trust_domain.clone()
    }

    /// The roots to trust, in PEM, now and whenever they change.
    pub fn bundle(&self) -> watch::Receiver<Arc<str>> {
        self.bundle.subscribe()
    }

    /// Has another issuer sign, which a person has brought (the Secret `cacerts`).
    ///
    /// # Errors
    /// When it cannot be one, or cannot be kept; then everything stays as it was.
    pub fn follow(&self, files: &Files) -> Result<bool, FollowError> {
        let now = SystemTime::now();
        let mut authority = self.locked();
        let issuer = Issuer::from_files(files, &authority.settings().trust_domain, now)?;
        if !authority.follow(issuer, now) {
            return Ok(false);
        }
        self.told(&authority)?;
        Ok(true)
    }

    /// Takes every step of a rotation when it is due; for ever.
    pub async fn tend(self: Arc<Self>) {
        loop {
            let mut changed = self.bundle.subscribe();
            let now = SystemTime::now();
            let due = {
                let mut authority = self.locked();
                if authority.advance(now) {
                    tracing::info!(roots = authority.roots().len(), "the authority's roots have changed");
                    if let Err(error) = self.told(&authority) {
                        tracing::error!(%error, "the authority cannot be kept");
                    }
                }
                authority.next_step()
            };
            let nap = due.and_then(|due| due.duration_since(now).ok()).map_or(LONGEST_NAP, |nap| nap.min(LONGEST_NAP));
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                // A rotation may have begun.
                _ = changed.changed() => {}
            }
        }
    }

    /// Signs a workload's request; see [`Authority::sign`].
    pub(super) fn sign(
        &self,
        request: &SigningRequest,
        caller: &Identity,
        ttl: Option<Duration>,
    ) -> Result<(Signed, Arc<str>), SignError> {
        let authority = self.locked();
        let signed = authority.sign(request, caller, ttl, SystemTime::now())?;
        Ok((signed, Arc::clone(&self.bundle.borrow())))
    }

    /// A certificate for the control plane's own server.
    pub(super) fn sign_server(&self, key: &Key, names: &[String], ttl: Duration) -> Result<Signed, SignError> {
        self.locked().sign_server(key, names, ttl, SystemTime::now())
    }

    fn told(&self, authority: &Authority) -> Result<(), StoreError> {
        let kept = self.store.keep(authority);
        let bundle = authority.bundle();
        self.bundle.send_if_modified(|told| {
            let changed = **told != *bundle;
            if changed {
                *told = Arc::from(bundle);
            }
            changed
        });
        kept
    }

    fn locked(&self) -> MutexGuard<'_, Authority> {
        self.authority.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an issuer that a person brought is not followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("{0}")]
    Issuer(#[from] IssuerError),
    #[error("{0}")]
    Store(#[from] StoreError),
}
