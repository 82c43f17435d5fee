//! The endpoints behind a service port.
//!
//! Knows nothing of where they were learned nor of xDS. Source: Istio `pilot/pkg/model/service.go` (IstioEndpoint).

use std::collections::BTreeMap;
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

/// Region, zone and sub-zone; empty where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

impl Locality {
    /// Reads `REGION/ZONE/SUBZONE`, missing parts empty.
    pub fn parse(text: &str) -> Locality {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Locality { region: next(), zone: next(), subzone: next() }
    }
}

/// One endpoint of one service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: EndpointAddress,
    pub port: u16,
    pub labels: Arc<Labels>,
    pub locality: Locality,
    /// Relative share of traffic; at least 1.
    pub weight: u32,
    pub healthy: bool,
    pub workload: Workload,
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
