//! Keys of those who issue tokens to the mesh's users: asked for where the issuers publish them, kept, and asked for again.
//!
//! [`schedule`] decides when and knows neither clock nor socket; [`fetch`] asks once; [`Keeper`] does so again and again.
//! What a key set must look like, and how a host is reached, is told by whoever wants the keys.

mod fetch;
mod schedule;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use fetch::{Check, Dialer, FetchError, Fetcher, Stream};
use schedule::Schedule;

/// Fetches at one time; more wait.
const TOGETHER: usize = 32;

/// Where an issuer has its keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// At this address.
    Address(Arc<str>),
    /// Where the issuer's own description says (OpenID Connect Discovery 1.0 section 4).
    Issuer(Arc<str>),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => f.write_str(address),
            Self::Issuer(issuer) => write!(f, "{}", fetch::description(issuer)),
        }
    }
}

/// Sources, and how long each may take to answer.
pub type Wanted = BTreeMap<Source, Duration>;

/// What is known of the sources that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The last good key set of each that ever had one.
    pub keys: BTreeMap<Source, Arc<str>>,
    /// Those that were asked at least once, whatever came of it.
    pub asked: BTreeSet<Source>,
}

/// Keeps keys: each source is asked at once when it is first wanted, every `refresh` from then on, and sooner after a
/// failure. The last good set stays until there is a better one. Ends when it is dropped.
#[derive(Debug)]
pub struct Keeper {
    wanted: mpsc::UnboundedSender<Wanted>,
    known: watch::Receiver<Known>,
}

impl Keeper {
    /// Begins, wanting nothing; to be called in a runtime.
    pub fn start(fetcher: Fetcher, refresh: Duration) -> Keeper {
        let (wanted, changes) = mpsc::unbounded_channel();
        let (tell, known) = watch::channel(Known::default());
        tokio::spawn(keep(Arc::new(fetcher), Schedule::new(refresh), changes, tell));
        Keeper { wanted, known }
    }

    /// Wants these from now on, and no others.
    pub fn want(&self, wanted: Wanted) {
        // It is there as long as this is.
        let _ = self.wanted.send(wanted);
    }

    /// What is known, as it changes.
    pub fn known(&self) -> watch::Receiver<Known> {
        self.known.clone()
    }
}

async fn keep(
    fetcher: Arc<Fetcher>,
    mut schedule: Schedule,
    mut wanted: mpsc::UnboundedReceiver<Wanted>,
    tell: watch::Sender<Known>,
) {
    let mut fetching = JoinSet::new();
    loop {
        while fetching.len() < TOGETHER
            && let Some((source, patience)) = schedule.take(Instant::now())
        {
            let fetcher = Arc::clone(&fetcher);
            fetching.spawn(async move {
                let outcome = fetcher.fetch(&source, patience).await;
                (source, outcome)
            });
        }
        let due = schedule.due().filter(|_| fetching.len() < TOGETHER);
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            now_wanted = wanted.recv() => match now_wanted {
                Some(now_wanted) => schedule.want(&now_wanted, Instant::now()),
                None => return,
            },
            // A fetch that panicked is asked for again when it is wanted anew.
            Some(done) = fetching.join_next() => if let Ok((source, outcome)) = done {
                match &outcome {
                    Ok(_) => tracing::debug!(%source, "keys fetched"),
                    Err(error) => tracing::warn!(%source, %error, "keys are not to be had"),
                }
                if schedule.done(&source, outcome.ok(), Instant::now(), rand::random()) {
                    tracing::info!(%source, "an issuer has other keys");
                }
            },
            () = wait => {}
        }
        tell.send_if_modified(|known| {
            let now = schedule.known();
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}
