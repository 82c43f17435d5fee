//! Hosts that are told who the client is, by the PROXY protocol: what one client's connection told of cannot be another's,
//! so such a host has connections of its own for each client's connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use lateen_traffic::cluster::EndpointAddress;
use lateen_traffic::proxy_protocol::Told;

use super::{Host, Upstream};

/// Hosts remembered before those without connections are forgotten.
const MOST: usize = 256;

/// Hosts of a cluster, each for one connection of a client.
#[derive(Default)]
pub(super) struct ToldHosts(HashMap<(EndpointAddress, Told), Rc<Host>>);

impl ToldHosts {
    /// Forgets those of hosts that are gone.
    pub(super) fn keep_of(&mut self, hosts: &[Rc<Host>]) {
        self.0.retain(|_, told| hosts.iter().any(|host| told.is(host)));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Host>> {
        self.0.values()
    }

    fn get(&mut self, host: Rc<Host>, told: Told) -> Rc<Host> {
        let key = (host.target.clone(), told);
        if let Some(known) = self.0.get(&key).filter(|known| known.is(&host)) {
            return Rc::clone(known);
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, known| Rc::strong_count(known) > 1 || !known.pools.is_empty());
        }
        let made = Rc::new(Host { told: Some((told, Rc::clone(&host))), ..host.again() });
        self.0.insert(key, Rc::clone(&made));
        made
    }
}

impl Upstream {
    /// The host as it is used for a client's connection: another one where the cluster tells hosts of their clients.
    pub fn for_client(&self, host: Rc<Host>, source: SocketAddr, destination: SocketAddr) -> Rc<Host> {
        let mut state = self.state.borrow_mut();
        if state.cluster.settings.proxy_protocol.is_none() {
            return host;
        }
        state.told.get(host, Told { source, destination })
    }
}

impl Host {
    /// Whether this is that host, perhaps for one client's connection.
    pub(super) fn is(&self, host: &Rc<Host>) -> bool {
        std::ptr::eq(self, &**host) || self.told.as_ref().is_some_and(|(_, of)| Rc::ptr_eq(of, host))
    }
}
