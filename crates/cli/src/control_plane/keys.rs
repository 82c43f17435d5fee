//! Keys of tokens' issuers on their way to pilot. What is said of access waits until each place that it names was asked for
//! keys once, so that no good token is refused meanwhile; everything else goes on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lateen_citadel::issuers::{Dialer, Fetcher, Keeper, Known, Source, Stream, Wanted};
use lateen_galley::{Kind, Snapshot};
use lateen_local::client::Client;
use lateen_pilot::Pilot;
use lateen_pilot::rules::{Keys, KeysAt, keys_wanted};
use lateen_traffic::jwt::KeySet;
use tokio::net::TcpStream;

use super::identity::Snapshots;

/// Kinds that say what is allowed to whom.
const ACCESS: [Kind; 2] = [Kind::RequestAuthentication, Kind::AuthorizationPolicy];

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
    // What pilot was told last with all that it says of access.
    let mut whole: Option<Snapshot> = None;
    let mut read: Option<Snapshot> = None;
    loop {
        let now = snapshots.borrow_and_update().clone();
        if let Some(now) = &now {
            if read.as_ref().is_none_or(|read| !read.same(now, Kind::RequestAuthentication)) {
                wanted = keys_wanted(now).into_iter().map(|(at, patience)| (source(at), patience)).collect();
                keeper.want(wanted.clone());
            }
            read = Some(now.clone());
        }
        let Known { keys, asked } = known.borrow_and_update().clone();
        let keys: Keys = keys.into_iter().map(|(source, keys)| (place(source), keys)).collect();
        pilot.learn(Arc::new(keys));
        if let Some(now) = now {
            if wanted.keys().all(|source| asked.contains(source)) {
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
        }
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
