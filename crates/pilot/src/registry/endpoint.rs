//! The endpoints behind a service port.
//!
//! Knows nothing of where they were learned nor of xDS. Source: Istio `pilot/pkg/model/service.go` (IstioEndpoint).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Labels of a workload.
pub type Labels = BTreeMap<String, String>;

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    Ip(IpAddr),
    /// A DNS name the proxy resolves itself.
    Name(String),
    /// A Unix domain socket in the proxy's own file system.
    Pipe(String),
}

/// Labels that say where a workload is.
pub const REGION: &str = "topology.kubernetes.io/region";
pub const ZONE: &str = "topology.kubernetes.io/zone";
pub const SUBZONE: &str = "topology.istio.io/subzone";
/// Label of the network a workload is on.
pub const NETWORK: &str = "topology.istio.io/network";
/// Label that says which machine a workload is on.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

impl EndpointAddress {
    /// The address, if it is one of IP.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            EndpointAddress::Ip(ip) => Some(*ip),
            EndpointAddress::Name(_) | EndpointAddress::Pipe(_) => None,
        }
    }
}

/// Region, zone and sub-zone; empty where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}/{}/{}", self.region, self.zone, self.subzone);
        f.write_str(text.trim_end_matches('/'))
    }
}

impl Locality {
    /// Reads `REGION/ZONE/SUBZONE`, missing parts empty.
    pub fn parse(text: &str) -> Locality {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Locality { region: next(), zone: next(), subzone: next() }
    }

    /// Whether it is in `REGION/ZONE/SUBZONE`, of which each part may be `*`, and the last ones be left out.
    pub fn is_in(&self, outer: &str) -> bool {
        let outer = Locality::parse(outer);
        let fits =
            |outer: &str, inner: &str, optional: bool| outer == "*" || (optional && outer.is_empty()) || outer == inner;
        fits(&outer.region, &self.region, false)
            && fits(&outer.zone, &self.zone, true)
            && fits(&outer.subzone, &self.subzone, true)
    }

    /// What stands for a part of it among labels; `None` for other labels.
    pub fn part(&self, label: &str) -> Option<&str> {
        match label {
            REGION => Some(&self.region),
            ZONE => Some(&self.zone),
            SUBZONE => Some(&self.subzone),
            _ => None,
        }
    }
}

/// One endpoint of one service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: EndpointAddress,
    pub port: u16,
    pub labels: Arc<Labels>,
    pub locality: Locality,
    /// Name of the machine it is on, if known.
    pub node: Option<Arc<str>>,
    /// Relative share of traffic; at least 1.
    pub weight: u32,
    pub healthy: bool,
    /// Its proxy takes the mesh's mutual TLS.
    pub mutual_tls: bool,
    pub workload: Workload,
}

impl Endpoint {
    /// A label's value, or what stands for it of where the endpoint is; empty if there is none.
    pub fn topology(&self, label: &str) -> &str {
        let place = self.locality.part(label).filter(|part| !part.is_empty());
        let node = self.node.as_deref().filter(|_| label == HOSTNAME);
        place.or(node).or_else(|| self.labels.get(label).map(String::as_str)).unwrap_or_default()
    }
}

/// Whose endpoint it is; empty fields are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub service_account: String,
}

/// Endpoints of a service by the number of the service port.
pub type PortEndpoints = BTreeMap<u16, Arc<[Endpoint]>>;

/// Whether `labels` has every entry of `selector`.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
