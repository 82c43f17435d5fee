//! Active health checks, carried out on the main thread: a task for each host, which keeps one connection if it may.
//!
//! When to ask and what an answer means `lateen-traffic` decides; which hosts are asked, and who is told, is
//! [`crate::upstream`]'s.

pub mod connection;
pub mod grpc;
pub mod http;
mod tcp;

use std::sync::Arc;
use std::time::SystemTime;

use lateen_traffic::Dice;
use lateen_traffic::cluster::UpstreamBind;
use lateen_traffic::health_check::{Asked, Judged, Outcome, Probe};
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::time::{sleep, timeout};

use crate::tls::context::Contexts;
use crate::upstream::{Check, Shared, Until};
use connection::Connection;

/// Checks all hosts that are to be checked, for ever. Must run inside a `LocalSet`.
pub async fn tend(upstreams: &Shared) {
    loop {
        for (check, until) in upstreams.to_check().await {
            let ways = Ways { bind: upstreams.default_bind.clone(), tls: Arc::clone(&upstreams.tls) };
            tokio::task::spawn_local(follow(check, until, ways));
        }
    }
}

/// How hosts of all clusters are connected to.
struct Ways {
    bind: Option<UpstreamBind>,
    tls: Arc<Contexts>,
}

/// The peer gave no answer of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAnswer;

impl<E: std::error::Error> From<E> for NoAnswer {
    fn from(_: E) -> Self {
        Self
    }
}

/// Checks a host until it is no longer to be checked.
async fn follow(check: Check, until: Until, ways: Ways) {
    let mut random = SmallRng::from_os_rng();
    let mut dice = move || random.next_u64();
    tokio::select! {
        biased;
        _ = until => {}
        () = again_and_again(&check, &ways, &mut dice) => {}
    }
}

async fn again_and_again(check: &Check, ways: &Ways, dice: &mut dyn Dice) {
    let settings = &check.settings;
    let mut connection = None;
    let mut wait = settings.first_wait(dice);
    loop {
        let lost = async {
            match &mut connection {
                Some(Connection::Tcp(tcp)) => tcp.lost().await,
                _ => std::future::pending().await,
            }
        };
        let still_there = tokio::select! {
            biased;
            () = sleep(wait) => true,
            () = lost => false,
        };
        let judged = if still_there {
            check.begins();
            match timeout(settings.timeout, ask(check, &mut connection, ways)).await {
                Ok(Ok(judged)) => judged,
                Ok(Err(NoAnswer)) => Outcome::Network.into(),
                Err(_) => Outcome::TimedOut.into(),
            }
        } else {
            // A connection that is there for answers to come shall stay.
            Outcome::Network.into()
        };
        if matches!(judged.outcome, Outcome::Network | Outcome::TimedOut) {
            connection = None;
        }
        wait = check.ended(judged, dice);
    }
}

/// One check. Leaves the connection for the next where it may be kept.
async fn ask(check: &Check, connection: &mut Option<Connection>, ways: &Ways) -> Result<Judged, NoAnswer> {
    let asked = Asked { name: &check.name, host: &check.host, at: SystemTime::now() };
    let mut used = match connection.take().filter(Connection::is_fresh) {
        Some(kept) => kept,
        None => Connection::open(check, ways).await?,
    };
    let (judged, keep) = match &check.settings.probe {
        Probe::Http(probe) => {
            let answer = http::ask(&mut used, &probe.request(asked), &probe.body, probe.look_at).await?;
            (probe.judge(&answer.head, &answer.body), answer.keep)
        }
        Probe::Grpc(probe) => {
            let request = probe.request(asked, check.settings.timeout);
            (grpc::ask(&mut used, &request, &probe.service).await?.into(), true)
        }
        Probe::Tcp(probe) => (tcp::ask(&mut used, probe).await?.into(), !probe.receive.is_empty()),
    };
    if keep && check.settings.reuse_connection {
        *connection = Some(used);
    }
    Ok(judged)
}
