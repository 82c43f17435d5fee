//! A service as proxies see it, whichever kind of resource declared it.
//!
//! Knows nothing of Kubernetes or Istio resources, nor of xDS. Source: Istio `pilot/pkg/model/service.go`.

use super::endpoint::Labels;
use super::protocol::Protocol;
use std::net::IpAddr;
use std::sync::Arc;

/// How a client gets at the endpoints of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// The control plane knows the endpoints' addresses.
    Static,
    /// The connection goes where it was going.
    Passthrough,
    /// The proxy resolves names and uses all addresses.
    Dns,
    /// The proxy resolves the name and uses the first address for new connections.
    DnsRoundRobin,
    /// The proxy resolves the names that requests bring along.
    Named,
    /// Another name of another service: has no listener or cluster of its own.
    Alias,
}

/// Which kind of resource declared a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    Kubernetes,
    ServiceEntry,
}

/// Where a service or rule may be seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExportTo {
    /// Everywhere.
    All,
    /// In these namespaces; none at all if empty.
    Namespaces(Vec<String>),
}

impl ExportTo {
    /// Reads an `exportTo` list: `*` everywhere, `.` the own namespace, `~` nowhere. An empty one is as `default`, and
    /// means everywhere if that is empty too.
    pub fn parse(list: &[String], own: &str, default: &[String]) -> ExportTo {
        let list = if list.is_empty() { default } else { list };
        if list.is_empty() || list.iter().any(|entry| entry == "*") {
            return ExportTo::All;
        }
        if list.iter().any(|entry| entry == "~") {
            return ExportTo::Namespaces(Vec::new());
        }
        let mut namespaces: Vec<String> =
            list.iter().map(|entry| if entry == "." { own.to_owned() } else { entry.clone() }).collect();
        namespaces.sort();
        namespaces.dedup();
        ExportTo::Namespaces(namespaces)
    }

    /// Whether a proxy of `namespace` may see it.
    pub fn visible_in(&self, namespace: &str) -> bool {
        match self {
            ExportTo::All => true,
            ExportTo::Namespaces(namespaces) => namespaces.iter().any(|visible| visible == namespace),
        }
    }
}

/// An address block; a single address has the family's full prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    pub address: IpAddr,
    /// Bits; at most 32 or 128.
    pub prefix: u8,
}

impl Cidr {
    /// A block of one address.
    pub fn single(address: IpAddr) -> Cidr {
        Cidr { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Reads `ADDRESS` or `ADDRESS/BITS`; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Cidr> {
        match text.split_once('/') {
            None => text.parse().ok().map(Cidr::single),
            Some((address, prefix)) => {
                let address: IpAddr = address.parse().ok()?;
                let prefix: u8 = prefix.parse().ok()?;
                (prefix <= Cidr::single(address).prefix).then_some(Cidr { address, prefix })
            }
        }
    }

    /// The only address in the block, if it holds no more than one.
    pub fn address(self) -> Option<IpAddr> {
        (self == Cidr::single(self.address)).then_some(self.address)
    }

    /// The same block with the bits outside its prefix cleared, so that equal blocks compare equal.
    pub fn masked(self) -> Cidr {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Cidr { address, prefix: self.prefix }
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Unique within the service; endpoints name the port they serve by it.
    pub name: String,
    pub number: u16,
    pub protocol: Protocol,
    pub target: TargetPort,
}

/// The port of the workload behind a service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    Number(u16),
    /// The container port of this name; differs from pod to pod.
    Named(String),
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Fully qualified, lower case; may begin with `*`.
    pub host: Arc<str>,
    /// Name of the resource that declared it.
    pub name: String,
    pub namespace: String,
    pub source: Source,
    /// Seconds since 1970; older services win conflicts.
    pub created: i64,
    pub resolution: Resolution,
    /// Virtual addresses; empty for headless services and entries without addresses.
    pub addresses: Vec<Cidr>,
    /// Addresses given out by the cluster's name server for entries without any; in effect for
    /// proxies whose clients ask that name server.
    pub auto_addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    pub export_to: ExportTo,
    /// Declared to be outside the mesh: nobody there has a mesh identity.
    pub mesh_external: bool,
    /// For [`Resolution::Alias`]: the host it stands for.
    pub alias_of: Option<Arc<str>>,
    /// Other hosts that stand for this service.
    pub aliases: Vec<Arc<str>>,
    /// Labels of the workloads behind it; none for services whose endpoints are listed.
    pub selector: Option<Labels>,
    /// Which endpoints are preferred.
    pub distribution: Distribution,
    /// Clients reach endpoints on their own machine alone.
    pub node_local: bool,
    /// A client stays with one endpoint.
    pub client_affinity: bool,
    /// Names that certificates of its servers have one of, as the service itself says.
    pub server_names: Vec<String>,
}

/// Which endpoints of a service are preferred by clients, as the service itself says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Distribution {
    #[default]
    Any,
    SameZone,
    SameNode,
}

/// The older form of `trafficDistribution`.
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

impl Distribution {
    /// Reads `trafficDistribution`, else the annotation.
    pub fn of(field: Option<&str>, annotations: Option<&Labels>) -> Distribution {
        let read = |text: &str| match text.to_ascii_lowercase().as_str() {
            "preferclose" | "prefersamezone" => Some(Distribution::SameZone),
            "prefersamenode" => Some(Distribution::SameNode),
            _ => None,
        };
        let annotation = || annotations?.get(TRAFFIC_DISTRIBUTION).map(String::as_str);
        field.and_then(read).or_else(|| annotation().and_then(read)).unwrap_or_default()
    }
}

impl Service {
    /// The port of this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Virtual addresses in effect for a proxy: declared ones, else the name server's if the proxy's
    /// clients see those.
    pub fn addresses_for(&self, dns_capture: bool) -> Vec<Cidr> {
        if self.addresses.is_empty() && dns_capture {
            return self.auto_addresses.iter().copied().map(Cidr::single).collect();
        }
        self.addresses.clone()
    }

    /// Order in which services claim listeners: by age, then host, then namespace.
    pub fn claim_order(&self) -> (i64, &str, &str) {
        (self.created, &self.host, &self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        assert_eq!(Cidr::parse("10.1.2.3/8").unwrap().masked(), Cidr::parse("10.0.0.0/8").unwrap());
        assert_eq!(Cidr::parse("10.1.2.3/0").unwrap().masked(), Cidr::parse("0.0.0.0/0").unwrap());
        assert_eq!(Cidr::parse("::1/0").unwrap().masked(), Cidr::parse("::/0").unwrap());
        assert_eq!(Cidr::parse("10.1.2.3/33"), None);
        assert_eq!(Cidr::parse("10.1.2.3/32").unwrap().address(), "10.1.2.3".parse().ok());
        assert_eq!(Cidr::parse("10.1.2.3/31").unwrap().address(), None);
    }

    #[test]
    fn export_lists() {
        let list = |entries: &[&str]| {
            let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
            ExportTo::parse(&entries, "own", &[])
        };
        assert!(list(&[]).visible_in("any"));
        assert!(list(&["*"]).visible_in("any"));
        assert!(list(&["."]).visible_in("own"));
        assert!(!list(&["."]).visible_in("other"));
        assert!(list(&["other", "."]).visible_in("other"));
        assert!(!list(&["~"]).visible_in("own"));
        assert!(!list(&["~", "."]).visible_in("own"));
        let private = [".".to_owned()];
        assert!(!ExportTo::parse(&[], "own", &private).visible_in("other"));
        assert!(ExportTo::parse(&["*".to_owned()], "own", &private).visible_in("other"));
    }
}
