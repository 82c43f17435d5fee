//! The cluster's network for a process that stands outside of it: names mean what they mean to pods of the root namespace,
//! and connections go where those of a pod without sidecar would.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Endpoint, Relay};
use crate::dns::{CLUSTER_DOMAIN, Found, Zone};
use crate::network;

/// Names after names after names: longer chains of aliases are not followed.
const LONGEST_CHAIN: usize = 8;

/// A way in. Clones share it.
#[derive(Debug, Clone)]
pub struct Inside {
    zone: watch::Receiver<Arc<Zone>>,
    relay: Relay,
}

impl Inside {
    /// By these names and relays.
    pub fn new(zone: watch::Receiver<Arc<Zone>>, relay: Relay) -> Self {
        Self { zone, relay }
    }

    /// Connects to a port of a host; `None` if the host is not of the cluster.
    pub async fn connect(&self, host: &str, port: u16) -> Option<io::Result<TcpStream>> {
        let place = find(&self.zone.borrow(), host)?;
        Some(match place {
            Place::At(address) => self.relay.connect_to(SocketAddr::new(address, port)).await,
            Place::Outside(name) => self.relay.dialer.connect(&Endpoint::Name(name, port)).await,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    At(IpAddr),
    /// A name that one of the cluster is an alias of.
    Outside(String),
}

fn find(zone: &Zone, host: &str) -> Option<Place> {
    let of_cluster = |address: &IpAddr| network::is_pod(*address) || network::is_virtual(*address);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(Place::At(address)).filter(|_| of_cluster(&address));
    }
    let domains = ["istio-system.svc.", "svc.", ""].map(|part| format!("{host}.{part}{CLUSTER_DOMAIN}"));
    let mut names = domains.into_iter().chain([host.to_owned()]);
    let mut name = names.find(|name| matches!(zone.find(name), Found::Records(_)))?;
    for _ in 0..LONGEST_CHAIN {
        let Found::Records(records) = zone.find(&name) else { return Some(Place::Outside(name)) };
        match &records.alias {
            Some(alias) => name.clone_from(alias),
            None => {
                let addresses = records.v4.iter().copied().map(IpAddr::V4);
                return addresses.filter(of_cluster).map(Place::At).next();
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_they_mean_to_a_pod() {
        let mut zone = Zone::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        zone.add_addresses("keys.shop.svc.cluster.local", [ip("10.96.0.7")]);
        zone.add_addresses("issuer.istio-system.svc.cluster.local", [ip("10.244.0.9")]);
        zone.add_addresses("entry.test", [ip("240.240.0.3")]);
        zone.add_addresses("real.test", [ip("192.0.2.1")]);
        zone.add_alias("alias.shop.svc.cluster.local", "keys.shop.svc.cluster.local");
        zone.add_alias("far.shop.svc.cluster.local", "example.com");
        let at = |text: &str| Some(Place::At(ip(text)));
        for (host, expected) in [
            ("keys.shop", at("10.96.0.7")),
            ("keys.shop.svc", at("10.96.0.7")),
            ("keys.shop.svc.cluster.local", at("10.96.0.7")),
            ("issuer", at("10.244.0.9")),
            ("alias.shop", at("10.96.0.7")),
            ("far.shop", Some(Place::Outside("example.com".to_owned()))),
            ("entry.test", at("240.240.0.3")),
            ("10.96.0.7", at("10.96.0.7")),
            ("real.test", None),
            ("keys", None),
            ("example.com", None),
            ("192.0.2.1", None),
        ] {
            assert_eq!(find(&zone, host), expected, "{host}");
        }
    }
}
