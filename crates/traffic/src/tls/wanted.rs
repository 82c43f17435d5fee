//! What a request wants of the TLS of its connection.

use std::sync::Arc;

use crate::cluster::ClusterSettings;
use crate::filter::alpn::Protocols;

/// What the TLS of a connection is to be in place of what the cluster says. A host's connections are kept apart by it: one
/// that was made for another server, or offered something else, is of no use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What is offered by ALPN.
    pub protocols: Option<Protocols>,
    /// The server that is asked for.
    pub server_name: Option<Arc<str>>,
    /// A name that the server's certificate must have, on top of what the cluster demands.
    pub verified_name: Option<Arc<str>>,
}

impl Wanted {
    /// For a request to `authority`, of which filters said what to offer.
    pub fn of(settings: &ClusterSettings, authority: &str, protocols: Option<&Protocols>) -> Wanted {
        let names = settings.names_of_requests.of(authority);
        Wanted { protocols: protocols.cloned(), server_name: names.asked_for, verified_name: names.verified }
    }
}
