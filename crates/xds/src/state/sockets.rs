//! The addresses that listeners listen on, held from before a listener is accepted until the last form of it is gone: one
//! that cannot be had is a refusal with its reason, and nobody takes one away before it is served.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use lateen_traffic::listener::Listener;

use crate::convert::Reject;

/// Takes an address for a listener. Dropping the result lets it go.
pub type Bind = Box<dyn Fn(SocketAddr) -> io::Result<Box<dyn Send>> + Send>;

pub(super) struct Sockets {
    bind: Bind,
    held: BTreeMap<SocketAddr, Box<dyn Send>>,
}

impl Sockets {
    pub fn new(bind: Bind) -> Sockets {
        Sockets { bind, held: BTreeMap::new() }
    }

    /// Holds all addresses of a listener, or none more than before. Refused in the words of Envoy.
    pub fn hold(&mut self, listener: &Listener) -> Result<(), Reject> {
        let mut taken = Vec::new();
        for address in bound(listener).filter(|address| !self.held.contains_key(address)) {
            match (self.bind)(address) {
                Ok(socket) => taken.push((address, socket)),
                Err(error) => {
                    let error = error.to_string();
                    let reason = error.split(" (os error").next().unwrap_or_default();
                    return Err(Reject::new(format_args!("cannot bind '{address}': {reason}")));
                }
            }
        }
        self.held.extend(taken);
        Ok(())
    }

    /// Lets go what none of these listens on.
    pub fn retain<'a>(&mut self, listeners: impl Iterator<Item = &'a Listener> + Clone) {
        self.held.retain(|address, _| listeners.clone().any(|listener| bound(listener).any(|other| other == *address)));
    }
}

/// Holds nothing.
impl Default for Sockets {
    fn default() -> Sockets {
        Sockets::new(Box::new(|_| Ok(Box::new(()))))
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.held.keys()).finish()
    }
}

fn bound(listener: &Listener) -> impl Iterator<Item = SocketAddr> {
    listener.addresses.iter().copied().filter(|_| listener.bind_to_port)
}
