//! Who sends: from outside of the cluster, or from a pod.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use crate::message::{Heard, Said};
use crate::trace::{Decision, Trace};
use crate::world::{Origin, Pod, World};

/// Where a client wants to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name or an address.
    pub host: String,
    pub port: u16,
}

impl World {
    /// Connects from outside to an address of the cluster, and says something.
    pub async fn from_outside(self: &Rc<Self>, peer: SocketAddr, to: SocketAddr, said: Said, trace: &Trace) -> Heard {
        self.hop().await;
        match self.reach(Origin::Outside, to) {
            Some(reached) => reached.take(self, peer, said, trace).await,
            None => Heard::closed(format!("nobody is at {to}")),
        }
    }

    /// Connects from a pod's own program, whose sidecar takes the connection over if there is one.
    pub async fn from_pod(
        self: &Rc<Self>,
        pod: &Rc<Pod>,
        target: &Target,
        peer: SocketAddr,
        said: Said,
        trace: &Trace,
    ) -> Heard {
        let Some(ip) = self.look_up(&target.host, &pod.namespace) else {
            return Heard::closed(format!("{} has no address", target.host));
        };
        let to = SocketAddr::new(ip, target.port);
        trace.tell(self, || Decision::Resolved { host: target.host.clone(), address: to });
        let own = ip.is_loopback() || pod.addresses.contains(&ip);
        if let (false, Some(proxy)) = (own, pod.sidecar(self)) {
            return proxy.take_outbound(self, peer, to, said, trace).await;
        }
        self.hop().await;
        match self.reach(Origin::Program(pod), to) {
            Some(reached) => reached.take(self, peer, said, trace).await,
            None => Heard::closed(format!("nobody is at {to}")),
        }
    }

    /// The address that a program in a namespace connects to for a host.
    fn look_up(&self, host: &str, namespace: &str) -> Option<IpAddr> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse() {
            return Some(ip);
        }
        let found = self.addresses(bare, namespace);
        found.iter().find(|ip| ip.is_ipv4()).or(found.first()).copied()
    }
}

/// An address for a name of the outside world, the same each time (RFC 2544's range, which nobody has).
pub(crate) fn outside_address(name: &str) -> IpAddr {
    let hash = lateen_traffic::hashing::xxhash(name.as_bytes(), 0).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(198, 18 | hash[0] & 1, hash[1], hash[2].max(1)))
}
