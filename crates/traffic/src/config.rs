//! One whole configuration of a proxy: immutable, published at once, shared by all workers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::listener::Listener;
use crate::route::RouteConfig;
use crate::tls::{Secret, SecretName};

/// Everything a proxy serves by. The maps are behind `Arc`s of their own, so that a change of one kind of resource
/// copies nothing of the others.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Listeners by name.
    pub listeners: Arc<BTreeMap<Arc<str>, Arc<Listener>>>,
    /// Route configurations that listeners name (RDS), by name. Inline ones are inside their connection manager.
    pub routes: Arc<HashMap<Arc<str>, Arc<RouteConfig>>>,
    /// Clusters by name.
    pub clusters: Arc<HashMap<Arc<str>, Arc<Cluster>>>,
    /// Secrets that listeners and clusters name. One that is missing is not there yet, or does not exist: who needs it
    /// makes no handshake.
    pub secrets: Arc<HashMap<SecretName, Secret>>,
}
