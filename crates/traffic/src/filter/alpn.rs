//! What connections to hosts offer by ALPN for the requests that pass (Istio's `istio.alpn`), so that the proxy at the other
//! end knows that HTTP comes, and in which version, before it has read any of it.

use std::sync::Arc;

/// Names of application protocols, the preferred first.
pub type Protocols = Arc<[Arc<str>]>;

/// What is offered in place of what the cluster says, by the HTTP version that is spoken to it. Clusters may keep to their
/// own ([`crate::cluster::ClusterSettings::keeps_protocols`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alpn {
    /// For HTTP/1.1.
    pub http1: Option<Protocols>,
    /// For HTTP/2.
    pub http2: Option<Protocols>,
}

impl Alpn {
    /// What a connection of this version offers, unless it is what its cluster says.
    pub fn of(&self, http2: bool) -> Option<&Protocols> {
        if http2 { self.http2.as_ref() } else { self.http1.as_ref() }
    }
}
