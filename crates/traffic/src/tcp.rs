//! The TCP proxy: bytes from a connection to a cluster and back.

use std::sync::Arc;
use std::time::Duration;

use crate::Dice;
use crate::access_log::AccessLog;
use crate::edit::HeaderEdits;
use crate::route::WeightedCluster;

/// Envoy's `tcp_proxy` network filter.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Where to.
    pub target: TcpTarget,
    /// Closed after this time without a byte in either direction. Envoy's default is one hour; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Connection attempts, at least 1.
    pub max_connect_attempts: u32,
    /// Closed after this time in any case, if set.
    pub max_downstream_connection_duration: Option<Duration>,
    /// The client's address decides about the host, in clusters that hash.
    pub hash_source_ip: bool,
    /// Logs written when the connection ends.
    pub access_log: Vec<AccessLog>,
    /// For clusters whose hosts clients name: the port at which the server names of clients are served.
    pub named_port: Option<u16>,
    /// Hosts are HTTP proxies, and asked for a way on.
    pub tunnel: Option<Tunnel>,
}

/// What an HTTP proxy is asked for (Envoy's `tunneling_config`).
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Host and port at the other end.
    pub hostname: Arc<str>,
    /// Ask by POST, not by CONNECT.
    pub post: bool,
    /// Path of a POST.
    pub path: Arc<str>,
    /// Header fields beside.
    pub headers: HeaderEdits,
}

/// The cluster or clusters of a TCP proxy.
#[derive(Debug, Clone)]
pub enum TcpTarget {
    /// One cluster.
    Cluster(Arc<str>),
    /// Chosen by weight for each connection. Not empty, total not 0.
    Weighted(Vec<WeightedCluster>),
}

impl TcpProxy {
    /// The cluster for a new connection.
    pub fn cluster(&self, dice: &mut dyn Dice) -> Option<&Arc<str>> {
        match &self.target {
            TcpTarget::Cluster(name) => Some(name),
            TcpTarget::Weighted(clusters) => crate::route::pick_weighted(clusters, dice).map(|c| &c.name),
        }
    }
}
