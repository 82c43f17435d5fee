//! One whole configuration of a proxy: immutable, published at once, shared by all workers.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Index;
use std::sync::Arc;

use lateen_persistent::Map;

use crate::cluster::Cluster;
use crate::listener::Listener;
use crate::route::RouteConfig;
use crate::tls::{Secret, SecretName};

/// Everything a proxy serves by. Kinds of resources are apart, so that a change of one copies nothing of the others; and
/// of clusters, which there are most of and whose endpoints change most, it copies next to nothing.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Listeners by name.
    pub listeners: Arc<BTreeMap<Arc<str>, Arc<Listener>>>,
    /// Route configurations that listeners name (RDS), by name. Inline ones are inside their connection manager.
    pub routes: Arc<HashMap<Arc<str>, Arc<RouteConfig>>>,
    /// Clusters by name.
    pub clusters: Clusters,
    /// Secrets that listeners and clusters name. One that is missing is not there yet, or does not exist: who needs it
    /// makes no handshake.
    pub secrets: Arc<HashMap<SecretName, Secret>>,
}

/// Clusters by name, in no order that means anything. A clone costs one counter, and two that came of each other share
/// what they have in common.
#[derive(Debug, Clone, Default)]
pub struct Clusters(Map<Name, Arc<Cluster>>);

/// Names are told apart by hashes, which lie where they are looked through; a cluster's long name lies elsewhere and is
/// looked at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    hash: u64,
    name: Arc<str>,
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// A cluster that came, went, or is another than it was.
#[derive(Debug, Clone, Copy)]
pub struct ClusterChange<'a> {
    /// Its name.
    pub name: &'a Arc<str>,
    /// As it was; none if there was none.
    pub was: Option<&'a Arc<Cluster>>,
    /// As it is; none if it went.
    pub is: Option<&'a Arc<Cluster>>,
}

impl Clusters {
    /// The cluster of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        let hash = hash(name);
        self.0.find(|key| key.hash.cmp(&hash).then_with(|| (*key.name).cmp(name)))
    }

    /// Whether there is a cluster of that name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Puts a cluster in, or in place of the one of its name, which is given back.
    pub fn insert(&mut self, name: Arc<str>, cluster: Arc<Cluster>) -> Option<Arc<Cluster>> {
        self.0.insert(Name { hash: hash(&name), name }, cluster)
    }

    /// Takes a cluster out.
    pub fn remove(&mut self, name: &Arc<str>) -> Option<Arc<Cluster>> {
        self.0.remove(&Name { hash: hash(name), name: Arc::clone(name) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All names.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys().map(|key| &key.name)
    }

    /// All clusters.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.0.values()
    }

    /// What is different here from what was before. Costs work for what the two do not share.
    pub fn changes_since<'a>(&'a self, before: &'a Clusters) -> impl Iterator<Item = ClusterChange<'a>> {
        let changes = before.0.diff(&self.0, Arc::ptr_eq);
        changes.map(|(key, was, is)| ClusterChange { name: &key.name, was, is })
    }
}

impl Index<&str> for Clusters {
    type Output = Arc<Cluster>;

    /// # Panics
    /// Where there is no such cluster.
    #[allow(clippy::expect_used)]
    fn index(&self, name: &str) -> &Arc<Cluster> {
        self.get(name).expect("a cluster of that name")
    }
}

impl FromIterator<(Arc<str>, Arc<Cluster>)> for Clusters {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Arc<Cluster>)>>(clusters: I) -> Self {
        let named = |(name, cluster): (Arc<str>, Arc<Cluster>)| (Name { hash: hash(&name), name }, cluster);
        Self(clusters.into_iter().map(named).collect())
    }
}
