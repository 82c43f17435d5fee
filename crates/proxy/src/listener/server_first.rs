//! Servers that speak first, on ports whose protocol is found out by looking at the client's first bytes.
//!
//! Their clients say nothing before the server has, so a look would last for ever, or as long as it is given (Envoy's
//! `listener_filters_timeout`). A client that is silent for a moment may be one of those: then the server is connected to
//! as for a client that is not HTTP, and whichever of the two speaks first decides.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use lateen_traffic::listener::{ConnectionFacts, Listener, Terminal};

use crate::tcp::{self, Ready};
use crate::worker::Worker;

/// Clients of HTTP have mostly spoken by then. A server that cannot be reached is asked again after twice as long, and
/// twice as long again.
const SILENCE: Duration = Duration::from_millis(5);
/// The longest pause before a server is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a server is asked. With the pauses that is about a minute, by when clients of databases have given up; one
/// that is merely held open by a client of HTTP costs nothing after that.
const TRIES: usize = 64;

/// Ready when the server has spoken; never if it does not, remains out of reach, or is none to ask. `facts` are what is
/// known of the connection before its first byte.
pub(super) async fn speaks(
    worker: &Rc<Worker>,
    listener: &Listener,
    facts: &ConnectionFacts,
    original: Option<SocketAddr>,
) -> Ready {
    let silent = listener.find_chain(facts).filter(|_| listener.continue_on_inspect_timeout);
    if let (Some(Terminal::Tcp(proxy)), Some(source), Some(destination)) =
        (silent.map(|chain| &chain.terminal), facts.source, facts.destination)
    {
        let pauses = std::iter::successors(Some(SILENCE), |pause| Some((*pause * 2).min(LONGEST_PAUSE)));
        for pause in pauses.take(TRIES) {
            tokio::time::sleep(pause).await;
            let Some(ready) = tcp::ask(worker, proxy, original, source, destination).await else { continue };
            if ready.speaks().await {
                return ready;
            }
            // It was there, and ended a connection on which nothing was said.
            break;
        }
    }
    std::future::pending().await
}
