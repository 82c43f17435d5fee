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

/// Clients of HTTP have mostly spoken by then.
const SILENCE: Duration = Duration::from_millis(5);

/// Ready when the server has spoken; never if it does not, cannot be reached, or is none to ask. `facts` are what is known
/// of the connection before its first byte.
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
        tokio::time::sleep(SILENCE).await;
        if let Some(ready) = tcp::ask(worker, proxy, original, source, destination).await
            && ready.speaks().await
        {
            return ready;
        }
    }
    std::future::pending().await
}
