//! Keys of tokens' issuers on their way to pilot. What is said of access waits until each place that it names was asked for
//! keys once, so that no good token is refused meanwhile, but no longer than [`PATIENCE`]: then tokens of that place are
//! refused until its keys are there. Everything else goes on; at start, when nothing holds yet that access could stay as,
//! everything waits.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_citadel::issuers::{Dialer, Fetcher, Keeper, Known, Source, Stream, Wanted};
use lateen_galley::{Kind, Snapshot};
use lateen_local::client::Client;
use lateen_pilot::Pilot;
use lateen_pilot::discovery::Discovery;
use lateen_pilot::rules::{Keys, KeysAt, keys_wanted};
use lateen_traffic::jwt::KeySet;
use tokio::net::TcpStream;

use super::identity::Snapshots;

/// Kinds that say what is allowed to whom.
const ACCESS: [Kind; 2] = [Kind::RequestAuthentication, Kind::AuthorizationPolicy];

/// How long what is said of access waits for keys, whoever's: a place that never answers holds up no other's rules.
const PATIENCE: Duration = Duration::from_secs(10);

/// How keys are fetched.
pub struct Options {
    /// How often.
    pub refresh: Duration,
    /// Certificates trusted beside the system's.
    pub roots: Option<PathBuf>,
}

/// Tells pilot of snapshots, and of the keys they ask for, until there are no more.
pub async fn feed(pilot: Pilot, options: Options, client: Client, mut snapshots: Snapshots) {
    let check = |text: &str| KeySet::parse(text).map(drop).map_err(|error| error.to_string());
    let keeper = Keeper::start(Fetcher { dial: dialer(client), roots: options.roots, check }, options.refresh);
    let mut known = keeper.known();
    let mut wanted = Wanted::new();
    let mut wait = Wait::default();
    // What pilot was told last with all that it says of access.
    let mut whole: Option<Snapshot> = None;
    let mut read: Option<Arc<Snapshot>> = None;
    let mut discovery = Discovery::default();
    loop {
        let now = snapshots.borrow_and_update().clone();
        // Nobody is asked for the keys of rules that the mesh does not know of.
        if let Some(now) = now.clone().map(|now| discovery.see(Arc::new(now))) {
            if read.as_ref().is_none_or(|read| !read.same(&now, Kind::RequestAuthentication)) {
                wanted = keys_wanted(&now).into_iter().map(|(at, patience)| (source(at), patience)).collect();
                keeper.want(wanted.clone());
            }
            read = Some(now);
        }
        let Known { keys, asked } = known.borrow_and_update().clone();
        let keys: Keys = keys.into_iter().map(|(source, keys)| (place(source), keys)).collect();
        pilot.learn(Arc::new(keys));
        let rest = wait.rest(&wanted, &asked, Instant::now());
        if let Some(now) = now {
            if rest.is_none() {
                pilot.update(Arc::new(now.clone()));
                whole = Some(now);
            } else if let Some(whole) = &whole {
                let mut partly = now.with(&ACCESS, whole);
                partly.set_revision(whole.revision());
                pilot.update(Arc::new(partly));
            }
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            changed = known.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(rest.unwrap_or_default()), if rest.is_some() => {}
        }
    }
}

/// The wait for places that were not asked yet. It ends for all of them at once, so that places which come and go
/// do not prolong it.
#[derive(Debug, Default)]
struct Wait {
    since: Option<Instant>,
    /// Waited for in vain.
    passed: BTreeSet<Source>,
}

impl Wait {
    /// How long is still to be waited; `None`: there is nothing to wait for.
    fn rest(&mut self, wanted: &Wanted, asked: &BTreeSet<Source>, now: Instant) -> Option<Duration> {
        self.passed.retain(|source| wanted.contains_key(source) && !asked.contains(source));
        let missing = |source: &&Source| !asked.contains(*source) && !self.passed.contains(*source);
        let missing: Vec<Source> = wanted.keys().filter(missing).cloned().collect();
        if missing.is_empty() {
            self.since = None;
            return None;
        }
        let waited = now.saturating_duration_since(*self.since.get_or_insert(now));
        if waited < PATIENCE {
            return Some(PATIENCE - waited);
        }
        for source in missing {
            tracing::warn!(%source, "no answer yet: rules hold without its keys, tokens of it are refused until they come");
            self.passed.insert(source);
        }
        self.since = None;
        None
    }
}

fn source(at: KeysAt) -> Source {
    match at {
        KeysAt::Address(address) => Source::Address(address.into()),
        KeysAt::Issuer(issuer) => Source::Issuer(issuer.into()),
    }
}

fn place(source: Source) -> KeysAt {
    match source {
        Source::Address(address) => KeysAt::Address(address.to_string()),
        Source::Issuer(issuer) => KeysAt::Issuer(issuer.to_string()),
    }
}

/// Hosts of the cluster are reached in its own network, others from here.
fn dialer(client: Client) -> Dialer {
    Arc::new(move |host, port| {
        let client = client.clone();
        Box::pin(async move {
            match client.tunnel(&host, port).await.map_err(io::Error::other)? {
                Some(inside) => Ok(Box::new(inside) as Box<dyn Stream>),
                None => Ok(Box::new(TcpStream::connect((host, port)).await?) as Box<dyn Stream>),
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &[&str]) -> BTreeSet<Source> {
        names.iter().map(|name| Source::Address((*name).into())).collect()
    }

    fn wanted(names: &[&str]) -> Wanted {
        // Each may take longer than anybody waits.
        places(names).into_iter().map(|source| (source, PATIENCE * 6)).collect()
    }

    #[test]
    fn a_place_that_hangs_holds_rules_up_once_and_for_ten_seconds() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut wait = Wait::default();
        assert_eq!(wait.rest(&wanted(&[]), &places(&[]), start), None);
        assert_eq!(wait.rest(&wanted(&["good", "hangs"]), &places(&[]), start), Some(PATIENCE));
        let good = places(&["good"]);
        assert_eq!(wait.rest(&wanted(&["good", "hangs"]), &good, start + second), Some(PATIENCE - second));
        assert_eq!(wait.rest(&wanted(&["good", "hangs"]), &good, start + PATIENCE), None);
        // Nor does it hold up what changes after that.
        assert_eq!(wait.rest(&wanted(&["good", "hangs"]), &good, start + PATIENCE + second), None);
        let later = start + PATIENCE * 2;
        assert_eq!(wait.rest(&wanted(&["good", "hangs", "new"]), &good, later), Some(PATIENCE));
        assert_eq!(wait.rest(&wanted(&["good", "hangs", "new"]), &places(&["good", "new"]), later + second), None);
        // One that was wanted no more is waited for again.
        assert_eq!(wait.rest(&wanted(&["good"]), &good, later), None);
        assert_eq!(wait.rest(&wanted(&["good", "hangs"]), &good, later), Some(PATIENCE));
    }

    #[test]
    fn places_that_come_and_go_do_not_prolong_the_wait() {
        let start = Instant::now();
        let mut wait = Wait::default();
        for (second, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            let now = start + Duration::from_secs(2 * second as u64);
            assert!(wait.rest(&wanted(&[name]), &places(&[]), now).is_some());
        }
        assert_eq!(wait.rest(&wanted(&["f"]), &places(&[]), start + PATIENCE), None);
    }
}
