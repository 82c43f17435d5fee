//! The table of a gateway's listeners: (address, port) -> servers of all its Gateways -> who shares, who is refused.
//!
//! A pure function of the Gateways in order of age; knows nothing of routes or protobuf. Source: Istio
//! `pilot/pkg/model/gateway.go` (mergeGateways).

use crate::registry::Protocol;
use lateen_galley::istio::gateway::{Gateway, Server, ServerTlsMode, ServerTlsSettings};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A Gateway resource.
#[derive(Clone, Debug)]
pub struct Claimant<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub spec: &'a Gateway,
}

/// A host of a server, and whose VirtualServices it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerHost {
    /// Of any namespace if none.
    pub namespace: Option<String>,
    /// Lower case; may begin with `*`.
    pub host: String,
}

/// What a server does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerKind {
    /// Plain HTTP.
    Http {
        /// Answer everything with a redirect to https.
        https_redirect: bool,
    },
    /// HTTP over TLS, which ends here.
    Https,
    /// Plain TCP.
    Tcp,
    /// Bytes over TLS, which ends here.
    Tls,
    /// TLS forwarded as it is, by server name.
    Passthrough,
    /// The same, and the mesh's own server names say which service is meant.
    AutoPassthrough,
}

impl ServerKind {
    /// Those of one family can share a port.
    fn family(self) -> Family {
        match self {
            ServerKind::Http { .. } => Family::Http,
            ServerKind::Tcp => Family::Tcp,
            ServerKind::Https | ServerKind::Tls | ServerKind::Passthrough | ServerKind::AutoPassthrough => Family::Tls,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Told apart by `Host`.
    Http,
    /// Not told apart.
    Tcp,
    /// Told apart by server name.
    Tls,
}

/// A server as planned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlannedServer {
    /// `NAMESPACE/NAME` of its Gateway.
    pub gateway: String,
    /// What its statistics are called; empty if it does not say.
    pub name: String,
    /// The port clients talk to.
    pub port: u16,
    /// The port's name.
    pub port_name: String,
    pub hosts: Vec<ServerHost>,
    pub kind: ServerKind,
    /// How TLS is spoken where it ends here.
    pub tls: Option<Arc<ServerTlsSettings>>,
    /// The first server of a port decides for gRPC-Web.
    pub grpc_web: bool,
}

/// A listener as planned: all servers are plain HTTP, or the only one is plain TCP, or all speak TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlannedListener {
    pub servers: Vec<PlannedServer>,
}

/// A server that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub gateway: String,
    /// Index of the server in its Gateway.
    pub server: usize,
    pub reason: Reason,
}

/// Why a server is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    NoPort,
    BadBind(String),
    /// An unprivileged gateway cannot bind the port.
    Privileged(u16),
    /// An older server on the port speaks another protocol.
    Protocol(u16),
    /// An older server on the port has the host.
    DuplicateHosts(Vec<String>),
    /// A port that speaks TLS without a word on how.
    NoTls,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoPort => f.write_str("it has no port between 1 and 65535"),
            Reason::BadBind(bind) => write!(f, "bind {bind:?} is not an IP address"),
            Reason::Privileged(port) => write!(f, "the gateway may not listen on port {port}"),
            Reason::Protocol(port) => write!(f, "an older server on port {port} speaks another protocol"),
            Reason::DuplicateHosts(hosts) => write!(f, "an older server on the port has {}", hosts.join(", ")),
            Reason::NoTls => f.write_str("its protocol is TLS, and it has no TLS settings"),
        }
    }
}

/// Address (none: all) and port of a listener; the port is the workload's.
pub type ListenerKey = (Option<IpAddr>, u16);

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub listeners: BTreeMap<ListenerKey, PlannedListener>,
    pub refused: Vec<Refused>,
}

/// Merges the Gateways of a workload, the oldest first. `target` gives the workload's port for a port clients talk to.
pub fn plan(gateways: &[Claimant<'_>], target: &dyn Fn(u16) -> u16, unprivileged: bool) -> Plan {
    let mut plan = Plan::default();
    for gateway in gateways {
        let name = format!("{}/{}", gateway.namespace, gateway.name);
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            if let Err(reason) = plan.add(server, &name, gateway.namespace, target, unprivileged) {
                plan.refused.push(Refused { gateway: name.clone(), server: index, reason });
            }
        }
    }
    plan.listeners.retain(|_, listener| !listener.servers.is_empty());
    plan
}

impl Plan {
    fn add(
        &mut self,
        server: &Server,
        gateway: &str,
        namespace: &str,
        target: &dyn Fn(u16) -> u16,
        unprivileged: bool,
    ) -> Result<(), Reason> {
        let port = server.port.as_ref().ok_or(Reason::NoPort)?;
        let number = u16::try_from(port.number).ok().filter(|number| *number != 0).ok_or(Reason::NoPort)?;
        let protocol = Protocol::parse(&port.protocol);
        let bind = match server.bind.as_str() {
            "" => None,
            bind => {
                let address = bind.parse::<IpAddr>().map_err(|_| Reason::BadBind(bind.to_owned()))?;
                (!address.is_unspecified()).then_some(address)
            }
        };
        let listen = target(number);
        if unprivileged && listen < 1024 {
            return Err(Reason::Privileged(listen));
        }
        let kind = kind(server, protocol)?;
        let ends = matches!(kind, ServerKind::Https | ServerKind::Tls);
        let planned = PlannedServer {
            gateway: gateway.to_owned(),
            name: server.name.clone(),
            port: number,
            port_name: port.name.clone(),
            hosts: server.hosts.iter().map(|host| ServerHost::parse(host, namespace)).collect(),
            kind,
            tls: server.tls.clone().filter(|_| ends).map(Arc::new),
            grpc_web: protocol == Protocol::GrpcWeb,
        };
        let listener = self.listeners.entry((bind, listen)).or_default();
        match (listener.servers.first(), kind.family()) {
            (None, _) => {}
            (Some(first), family) if first.kind.family() != family => return Err(Reason::Protocol(listen)),
            (Some(_), Family::Tcp) => return Err(Reason::Protocol(listen)),
            (Some(_), Family::Tls) => {
                let taken: HashSet<&str> =
                    listener.servers.iter().flat_map(|server| &server.hosts).map(|host| host.host.as_str()).collect();
                let mut duplicates: Vec<String> = planned.hosts.iter().map(|host| host.host.clone()).collect();
                duplicates.retain(|host| taken.contains(host.as_str()));
                if !duplicates.is_empty() {
                    return Err(Reason::DuplicateHosts(duplicates));
                }
            }
            (Some(_), Family::Http) => {}
        }
        listener.servers.push(planned);
        Ok(())
    }
}

fn kind(server: &Server, protocol: Protocol) -> Result<ServerKind, Reason> {
    let tls = server.tls.as_ref();
    if protocol.is_http() {
        return Ok(ServerKind::Http { https_redirect: tls.is_some_and(|tls| tls.https_redirect) });
    }
    match tls.map(|tls| tls.mode) {
        None if protocol.is_tls() => Err(Reason::NoTls),
        None => Ok(ServerKind::Tcp),
        Some(ServerTlsMode::AutoPassthrough) => Ok(ServerKind::AutoPassthrough),
        Some(ServerTlsMode::Passthrough) => Ok(ServerKind::Passthrough),
        Some(_) if protocol == Protocol::Https => Ok(ServerKind::Https),
        Some(_) => Ok(ServerKind::Tls),
    }
}

impl ServerHost {
    /// Reads `HOST`, `NAMESPACE/HOST`, `./HOST` (the Gateway's own namespace) or `*/HOST`.
    pub fn parse(text: &str, own: &str) -> ServerHost {
        let (namespace, host) = match text.split_once('/') {
            None | Some(("*", _)) => (None, text.strip_prefix("*/").unwrap_or(text)),
            Some((".", host)) => (Some(own.to_owned()), host),
            Some((namespace, host)) => (Some(namespace.to_owned()), host),
        };
        ServerHost { namespace, host: host.to_ascii_lowercase() }
    }

    /// Whether rules of `namespace` may serve it.
    pub fn admits(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|admitted| admitted == namespace)
    }
}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;
