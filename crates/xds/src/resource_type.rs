//! The kinds of xDS resources, in the order in which they are pushed.

use std::fmt;
use std::sync::Arc;

/// A resource's type. The order of the variants is the order of a push: what is named later may refer to what is
/// named earlier, so a client never hears of a route before its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// CDS, `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// EDS, `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoint,
    /// LDS, `envoy.config.listener.v3.Listener`
    Listener,
    /// RDS, `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// SDS, `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
    /// Any other type, by its whole URL.
    Other(Arc<str>),
}

use ResourceType::{Cluster, Endpoint, Listener, Other, Route, Secret};

impl ResourceType {
    /// The four types a proxy cannot do without, in push order.
    pub const CORE: [ResourceType; 4] = [Cluster, Endpoint, Listener, Route];

    /// The types of which a client follows what it refers to, in push order.
    pub const FOLLOWED: [ResourceType; 5] = [Cluster, Endpoint, Listener, Route, Secret];

    /// The type of a `type.googleapis.com/…` URL.
    pub fn from_url(url: &str) -> ResourceType {
        [Cluster, Endpoint, Listener, Route, Secret]
            .into_iter()
            .find(|known| known.url() == url)
            .unwrap_or_else(|| Other(Arc::from(url)))
    }

    /// The type URL, as it stands in requests, responses and `Any`s.
    pub fn url(&self) -> &str {
        match self {
            Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Other(url) => url,
        }
    }

    /// Whether a first request that names nothing asks for everything ("legacy wildcard" of the xDS protocol).
    /// For the other types such a request asks for nothing: Envoy sends it on reconnect when no name is left.
    pub fn nameless_means_all(&self) -> bool {
        matches!(self, Cluster | Listener)
    }

    /// Whether a state-of-the-world response must hold every resource, because absence deletes.
    pub fn absence_deletes(&self) -> bool {
        matches!(self, Cluster | Listener)
    }
}

impl fmt::Display for ResourceType {
    /// The short name people use: `CDS`, `EDS`, …; the URL for other types.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cluster => "CDS",
            Endpoint => "EDS",
            Listener => "LDS",
            Route => "RDS",
            Secret => "SDS",
            Other(url) => url,
        })
    }
}
