//! Keeps the workload's certificate: a new key and a request for each, renewed in good time, and the last good one kept
//! while the authority is away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::certificates::{AskError, ask};
use super::control_plane::{self, Server};
use super::renewal;
use super::{Options, Roots};
use crate::certificate::{self, CertificateError, Facts};
use crate::key::{Key, KeyError, KeyType};
use crate::request;
use crate::spiffe::Identity;

/// The workload's certificate and key.
#[derive(Debug)]
pub struct Svid {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Key,
    pub not_after: SystemTime,
    /// What the authority says is to be trusted.
    pub roots: Vec<CertificateDer<'static>>,
}

/// The certificate as it is now; none before the first.
pub type Held = watch::Receiver<Option<Arc<Svid>>>;

/// All there is to trust: the authority's word is as good as the file's, and may come sooner.
pub fn trusted(file: &[CertificateDer<'static>], svid: Option<&Svid>) -> Vec<CertificateDer<'static>> {
    let mut trusted = file.to_vec();
    for root in svid.iter().flat_map(|svid| &svid.roots) {
        if !trusted.contains(root) {
            trusted.push(root.clone());
        }
    }
    trusted
}

/// Why an attempt gave no certificate.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{0}")]
    Ask(#[from] AskError),
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("no request can be made: {0}")]
    Request(rcgen::Error),
    #[error("the authority's answer: {0}")]
    Answer(#[from] CertificateError),
    #[error("the authority's answer: the certificate is for another key")]
    OtherKey,
    #[error("the authority's answer: the certificate is for {0}")]
    OtherIdentity(Identity),
}

/// Gets and renews.
#[derive(Debug)]
pub struct Keeper {
    identity: Identity,
    authority: Server,
    token: PathBuf,
    ttl: Option<Duration>,
    key_type: KeyType,
    mark: Option<u32>,
    roots: watch::Receiver<Roots>,
    held: watch::Sender<Option<Arc<Svid>>>,
}

impl Keeper {
    pub fn new(options: &Options, roots: watch::Receiver<Roots>, held: watch::Sender<Option<Arc<Svid>>>) -> Self {
        Self {
            identity: options.identity.clone(),
            authority: options.authority.clone(),
            token: options.token.clone(),
            ttl: options.ttl,
            key_type: options.key_type,
            mark: options.mark,
            roots,
            held,
        }
    }

    /// Keeps for ever.
    pub async fn run(mut self) {
        if self.roots.wait_for(|roots| !roots.is_empty()).await.is_err() {
            return;
        }
        let mut failures = 0;
        loop {
            let nap = match self.get().await {
                Ok(svid) => {
                    failures = 0;
                    let left = svid.not_after.duration_since(SystemTime::now()).unwrap_or_default();
                    let nap = renewal::after(left, rand::random());
                    tracing::debug!(identity = %self.identity, seconds = left.as_secs(), "certificate received");
                    self.held.send_replace(Some(Arc::new(svid)));
                    nap
                }
                Err(error) => {
                    failures += 1;
                    let nap = renewal::pause(failures, self.left(), rand::random());
                    tracing::warn!(identity = %self.identity, %error, again_in = ?nap, "no certificate received");
                    nap
                }
            };
            // By the clock that goes on while the machine sleeps: a certificate does not stop ageing.
            sleep(nap).await;
        }
    }

    /// What is left of the certificate's life; nothing, if there is none.
    fn left(&self) -> Duration {
        let held = self.held.borrow();
        let left = held.as_ref().map(|svid| svid.not_after.duration_since(SystemTime::now()).unwrap_or_default());
        left.unwrap_or_default()
    }

    async fn get(&self) -> Result<Svid, KeepError> {
        let key = Key::generate(self.key_type)?;
        let csr = request::write(&key, &self.identity).map_err(KeepError::Request)?;
        let roots = trusted(&self.roots.borrow(), self.held.borrow().as_deref());
        let token = tokio::fs::read_to_string(&self.token).await.ok().map(Zeroizing::new);
        // One that has expired would end the handshake, where a token may still do.
        let held = self.held.borrow().clone().filter(|svid| svid.not_after > SystemTime::now());
        let stream = control_plane::connect(&self.authority, &roots, held.as_deref(), self.mark);
        let stream = stream.await.map_err(AskError::Connect)?;
        let answer = ask(stream, csr, self.ttl, token).await?;
        self.read(key, &answer)
    }

    /// Takes an answer apart, trusting nothing of it.
    fn read(&self, key: Key, answer: &[String]) -> Result<Svid, KeepError> {
        let (roots, chain) = answer.split_last().ok_or(CertificateError::None)?;
        let roots = certificate::read_pem(roots)?;
        let chain = certificate::read_pem(&chain.concat())?;
        let facts = Facts::read(chain.first().ok_or(CertificateError::None)?)?;
        if facts.public_key != key.public() {
            return Err(KeepError::OtherKey);
        }
        let identity = facts.identity()?;
        if identity != self.identity {
            return Err(KeepError::OtherIdentity(identity));
        }
        certificate::verify(&chain, &roots, SystemTime::now())?;
        Ok(Svid { chain, key, not_after: facts.not_after, roots })
    }
}

async fn sleep(nap: Duration) {
    /// A machine that was suspended notices at the latest after this.
    const LONGEST: Duration = Duration::from_secs(60);
    let (begun, until) = (Instant::now(), SystemTime::now() + nap);
    while begun.elapsed() < nap {
        let Ok(left) = until.duration_since(SystemTime::now()) else { return };
        tokio::time::sleep(left.min(LONGEST)).await;
    }
}
