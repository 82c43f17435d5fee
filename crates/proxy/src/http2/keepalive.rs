//! PINGs that find out whether an HTTP/2 peer is still there.

use std::rc::Rc;

use lateen_traffic::Dice;
use lateen_traffic::cluster::Http2Keepalive;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Pings;
use crate::io::Io;

/// Ready when a PING stays without an answer; never without settings. To be waited for by who drives the connection,
/// after its events.
pub async fn unanswered(pings: Pings, keepalive: Option<Http2Keepalive>, io: Rc<Io>) {
    let Some(keepalive) = keepalive else { return std::future::pending().await };
    let mut random = SmallRng::from_os_rng();
    let mut dice = || random.next_u64();
    loop {
        let jitter = u64::try_from(keepalive.jitter.as_micros()).unwrap_or(u64::MAX);
        let jitter = std::time::Duration::from_micros(dice.below(jitter));
        sleep(keepalive.interval + jitter).await;
        let mut pong = std::pin::pin!(pings.ping());
        let mut received = io.received();
        loop {
            match timeout_at(Instant::now() + keepalive.timeout, pong.as_mut()).await {
                Ok(()) => break,
                // A peer that sends other things is there; its answer waits behind them.
                Err(_) if io.received() != received => received = io.received(),
                Err(_) => return,
            }
        }
    }
}
