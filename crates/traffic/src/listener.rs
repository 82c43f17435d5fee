//! Listeners and the choice of a filter chain for a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::ext_authz::ConnectionAuthz;
use crate::hcm::Hcm;
use crate::matcher::Cidr;
use crate::rbac::Rbac;
use crate::tcp::TcpProxy;
use crate::tls::DownstreamTls;

/// Envoy's `Listener`.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Name, for example `virtualOutbound` or `10.96.0.7_80`.
    pub name: Arc<str>,
    /// The address and any additional ones.
    pub addresses: Vec<SocketAddr>,
    /// Open a socket. When false, connections come only from listeners with [`Listener::use_original_dst`].
    pub bind_to_port: bool,
    /// Hand a connection over to the listener of its original destination: exact address and port, else the wildcard
    /// address and port. Connections that find none stay here.
    pub use_original_dst: bool,
    /// Recover the original destination before matching (listener filter `original_dst`).
    pub original_dst: bool,
    /// Connections begin with a PROXY protocol header.
    pub proxy_protocol: Option<ExpectHeader>,
    /// Look for a TLS client hello, unless disabled for the destination port.
    pub tls_inspector: Option<Inspector>,
    /// Look for HTTP in the first bytes, unless disabled for the destination port.
    pub http_inspector: Option<Inspector>,
    /// Time allowed for inspection; `None` is for ever. Envoy's default is 15 s.
    pub inspect_timeout: Option<Duration>,
    /// When inspection times out, go on with what is known instead of closing.
    pub continue_on_inspect_timeout: bool,
    /// Chains, of which [`Listener::find_chain`] picks one.
    pub chains: Vec<Arc<FilterChain>>,
    /// Used when no chain matches.
    pub default_chain: Option<Arc<FilterChain>>,
    /// Logs written for connections that end before a chain is chosen, or as the filter says.
    pub access_log: Vec<AccessLog>,
    /// Which way traffic flows.
    pub direction: Direction,
    /// Bytes buffered a connection in each direction. Envoy's default is 1 MiB.
    pub per_connection_buffer: usize,
    /// Length of the accept queue; the system's limit when `None`.
    pub backlog: Option<u32>,
    /// Its connections are not among those that the process has a limit for.
    pub ignores_global_limit: bool,
}

/// How strictly a PROXY protocol header is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectHeader {
    /// Connections without one are closed.
    Always,
    /// Connections without one are taken as they are.
    Perhaps,
}

/// Which way a listener's traffic flows, seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Not said.
    #[default]
    Unspecified,
    /// To the workload.
    Inbound,
    /// From the workload, or through a gateway.
    Outbound,
}

/// A listener filter that looks at the first bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspector {
    /// Destination port ranges, both ends included, for which it does not run.
    pub disabled_ports: Vec<(u16, u16)>,
}

impl Inspector {
    /// Whether it runs for connections to this destination port.
    pub fn runs_for(&self, port: u16) -> bool {
        !self.disabled_ports.iter().any(|(from, to)| (*from..=*to).contains(&port))
    }
}

/// A filter chain: which connections it takes and what it does with them.
#[derive(Debug, Clone)]
pub struct FilterChain {
    /// Name, for example `0.0.0.0_8080`; empty if none was given.
    pub name: Arc<str>,
    /// Which connections.
    pub matches: ChainMatch,
    /// TLS that is ended here, if any.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Time allowed for the TLS handshake, if limited.
    pub handshake_timeout: Option<Duration>,
    /// Who may use it, as one says of connections. They act in order, on a client's first bytes.
    pub gates: Box<[Gate]>,
    /// What is done.
    pub terminal: Terminal,
}

/// What stands before the last filter of a chain.
#[derive(Debug, Clone)]
pub enum Gate {
    /// Rules.
    Rules(Arc<Rbac>),
    /// The question to an authorization service.
    Ask(Arc<ConnectionAuthz>),
}

/// The last filter of a chain.
#[derive(Debug, Clone)]
pub enum Terminal {
    /// HTTP.
    Http(Arc<Hcm>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
}

/// Envoy's `FilterChainMatch`. Empty fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// Original destination port.
    pub destination_port: Option<u16>,
    /// Ranges of the original destination address.
    pub destination_ranges: Vec<Cidr>,
    /// Lower-case server names of TLS; `*.x` takes any name below `x`.
    pub server_names: Vec<String>,
    /// `raw_buffer` or `tls`.
    pub transport_protocol: Option<TransportProtocol>,
    /// ALPN names, or what the HTTP inspector found.
    pub application_protocols: Vec<String>,
    /// Ranges of the peer's address.
    pub direct_source_ranges: Vec<Cidr>,
    /// Where the connection comes from.
    pub source_type: SourceType,
    /// Ranges of the source address.
    pub source_ranges: Vec<Cidr>,
    /// Source ports.
    pub source_ports: Vec<u16>,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportProtocol {
    /// Not TLS, or not inspected.
    #[default]
    RawBuffer,
    /// A TLS client hello.
    Tls,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// The same host.
    SameIpOrLoopback,
    /// Another host.
    External,
}

/// What is known of a connection when its chain is chosen.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFacts {
    /// The address the client meant.
    pub destination: Option<SocketAddr>,
    /// The client's address.
    pub source: Option<SocketAddr>,
    /// TLS server name, lower case.
    pub server_name: Option<String>,
    /// TLS or not.
    pub transport: TransportProtocol,
    /// ALPN names offered, or what the HTTP inspector found (`http/1.0`, `http/1.1`, `h2c`).
    pub application_protocols: Vec<String>,
}

impl Listener {
    /// Picks the filter chain: criterion by criterion in Envoy's order, at each keeping the most specific matches and
    /// never going back ([`FilterChainMatch` in Envoy's listener components]). `None`: close the connection.
    pub fn find_chain(&self, facts: &ConnectionFacts) -> Option<&Arc<FilterChain>> {
        let port = facts.destination.map(|d| d.port());
        let ip = facts.destination.map(|d| d.ip());
        let source = facts.source.map(|s| s.ip());
        let mut left: Vec<&Arc<FilterChain>> = self.chains.iter().collect();

        keep_best(&mut left, |m| match m.destination_port {
            None => Some(0),
            Some(p) => (Some(p) == port).then_some(1),
        });
        keep_best(&mut left, |m| best_range(&m.destination_ranges, ip));
        keep_best(&mut left, |m| server_name_rank(&m.server_names, facts.server_name.as_deref()));
        keep_best(&mut left, |m| match m.transport_protocol {
            None => Some(0),
            Some(t) => (t == facts.transport).then_some(1),
        });
        keep_best(&mut left, |m| {
            if m.application_protocols.is_empty() {
                return Some(0usize);
            }
            // What the client prefers counts.
            let first = facts.application_protocols.iter().position(|p| m.application_protocols.contains(p))?;
            Some(usize::MAX - first)
        });
        keep_best(&mut left, |m| best_range(&m.direct_source_ranges, source));
        keep_best(&mut left, |m| {
            let local = match (source, ip) {
                (Some(s), Some(d)) => s.to_canonical().is_loopback() || s.to_canonical() == d.to_canonical(),
                _ => false,
            };
            match m.source_type {
                SourceType::Any => Some(0),
                SourceType::SameIpOrLoopback => local.then_some(1),
                SourceType::External => (!local).then_some(1),
            }
        });
        keep_best(&mut left, |m| best_range(&m.source_ranges, source));
        keep_best(&mut left, |m| {
            if m.source_ports.is_empty() {
                return Some(0);
            }
            facts.source.is_some_and(|s| m.source_ports.contains(&s.port())).then_some(1)
        });
        left.first().copied().or(self.default_chain.as_ref())
    }

    /// Whether a plain look at the addresses is enough to choose a chain.
    pub fn inspects(&self, port: u16) -> bool {
        [&self.tls_inspector, &self.http_inspector].into_iter().flatten().any(|i| i.runs_for(port))
    }
}

/// Keeps the chains whose match has the highest rank; `None` does not match at all.
fn keep_best<R: Ord>(left: &mut Vec<&Arc<FilterChain>>, rank: impl Fn(&ChainMatch) -> Option<R>) {
    let best = left.iter().filter_map(|c| rank(&c.matches)).max();
    left.retain(|c| best.is_some() && rank(&c.matches) == best);
}

fn best_range(ranges: &[Cidr], ip: Option<IpAddr>) -> Option<u32> {
    if ranges.is_empty() {
        return Some(0);
    }
    let ip = ip?;
    ranges.iter().filter(|r| r.contains(ip)).map(|r| u32::from(r.length()) + 1).max()
}

fn server_name_rank(names: &[String], asked: Option<&str>) -> Option<u32> {
    if names.is_empty() {
        return Some(0);
    }
    let asked = asked?;
    names
        .iter()
        .filter_map(|name| match name.strip_prefix('*') {
            None => (name == asked).then_some(u32::MAX),
            // `*.x` takes names below x, never x itself; a longer suffix is more specific.
            Some(suffix) => (asked.len() > suffix.len() && asked.ends_with(suffix)).then_some(suffix.len() as u32),
        })
        .max()
}

#[cfg(test)]
mod tests;
