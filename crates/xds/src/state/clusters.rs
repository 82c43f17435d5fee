//! Clusters and their endpoints.

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::google::protobuf::Any;
use lateen_traffic::Clusters;
use lateen_traffic::cluster::{Cluster, ClusterSettings, Discovery, Endpoints};

use super::{State, add_user, check_name, decode};
use crate::ResourceType;
use crate::convert::{self, Addresses, Reject, secrets_of_cluster};

/// A cluster as the resource says, waiting for endpoints or served.
#[derive(Clone, Debug)]
pub(super) struct ClusterParts {
    settings: Arc<ClusterSettings>,
    /// `None`: by EDS.
    endpoints: Option<Arc<Endpoints>>,
}

impl ClusterParts {
    pub(super) fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    fn service_name(&self) -> Option<&Arc<str>> {
        match &self.settings.discovery {
            Discovery::Eds { service_name } => Some(service_name),
            _ => None,
        }
    }
}

impl State {
    pub(super) fn put_cluster(&mut self, body: &Any, expected: Option<&Arc<str>>) -> Result<(), Reject> {
        let message: PbCluster = decode(body)?;
        check_name(&message.name, expected)?;
        let converted = convert::cluster(message, &mut self.notes)?;
        let name = Arc::clone(&converted.settings.name);
        if expected.is_none() && (self.config.clusters.contains_key(&name) || self.warming_clusters.contains_key(&name))
        {
            return Err(Reject::new(format_args!("a second cluster {name:?}")));
        }
        let secrets: Vec<_> = secrets_of_cluster(&converted.settings).cloned().collect();
        self.refer_to_secrets(&(ResourceType::Cluster, Arc::clone(&name)), &secrets)?;
        let parts =
            ClusterParts { settings: Arc::new(converted.settings), endpoints: converted.endpoints.map(Arc::new) };
        let older = self.warming_clusters.remove(&name);
        if let (None, Some(service)) = (&parts.endpoints, parts.service_name()) {
            add_user(&mut self.assignment_users, service, &name);
        }
        self.warming_clusters.insert(Arc::clone(&name), parts);
        self.serve_cluster_if_ready(&name);
        self.secret_users_changed |= older.is_some();
        if let Some(service) = older.as_ref().and_then(ClusterParts::service_name) {
            self.release_assignment(service, &name);
        }
        Ok(())
    }

    /// A cluster that waits is served, if it has all it waited for.
    pub(super) fn serve_cluster_if_ready(&mut self, name: &Arc<str>) {
        let Some(parts) = self.warming_clusters.get(name) else { return };
        let endpoints = match (&parts.endpoints, parts.service_name()) {
            (Some(inline), _) => Arc::clone(inline),
            (None, Some(service)) => match self.assignments.get(service) {
                Some(assigned) => Arc::clone(assigned),
                None => return,
            },
            (None, None) => Arc::default(),
        };
        let has_secrets = secrets_of_cluster(&parts.settings).all(|secret| self.has_secret(&secret.name));
        if has_secrets && let Some(parts) = self.warming_clusters.remove(name) {
            self.serve_cluster(name, parts.settings, endpoints);
        }
    }

    /// Puts a cluster in place of what was served under its name.
    fn serve_cluster(&mut self, name: &Arc<str>, settings: Arc<ClusterSettings>, endpoints: Arc<Endpoints>) {
        let cluster = Arc::new(Cluster { settings, endpoints });
        let older = self.change_clusters().insert(Arc::clone(name), cluster);
        self.secret_users_changed |= older.is_some();
        if let Some(older) = older
            && let Discovery::Eds { service_name } = &older.settings.discovery
        {
            self.release_assignment(service_name, name);
        }
    }

    pub(super) fn remove_cluster(&mut self, name: &Arc<str>) {
        let warming = self.warming_clusters.remove(name);
        let served = if self.config.clusters.contains_key(name) { self.change_clusters().remove(name) } else { None };
        self.secret_users_changed |= warming.is_some() || served.is_some();
        let settings = warming.map(|parts| parts.settings).into_iter().chain(served.map(|c| Arc::clone(&c.settings)));
        for settings in settings {
            if let Discovery::Eds { service_name } = &settings.discovery {
                self.release_assignment(service_name, name);
            }
        }
    }

    /// A cluster no longer uses an assignment, unless another form of it still does.
    fn release_assignment(&mut self, service: &Arc<str>, cluster: &Arc<str>) {
        let uses = |settings: &ClusterSettings| match &settings.discovery {
            Discovery::Eds { service_name } => service_name == service,
            _ => false,
        };
        let still = self.config.clusters.get(cluster).is_some_and(|served| uses(&served.settings))
            || self.warming_clusters.get(cluster).is_some_and(|parts| uses(&parts.settings));
        if still {
            return;
        }
        let Some(users) = self.assignment_users.get_mut(service) else { return };
        users.remove(cluster);
        if users.is_empty() {
            self.orphans.push((ResourceType::Endpoint, Arc::clone(service)));
        }
    }

    pub(super) fn put_assignment(&mut self, body: &Any, name: &Arc<str>) -> Result<(), Reject> {
        let message: ClusterLoadAssignment = decode(body)?;
        check_name(&message.cluster_name, Some(name))?;
        let endpoints = Arc::new(convert::endpoints(message, Addresses::Ready, &mut self.notes)?);
        self.assign(name, endpoints);
        Ok(())
    }

    /// Nobody knows the name: clusters that wait for it shall not wait for ever, and one in use keeps what it has.
    pub(super) fn assignment_is_absent(&mut self, name: &Arc<str>) {
        if !self.assignments.contains_key(name) {
            self.assign(name, Arc::default());
        }
    }

    fn assign(&mut self, service: &Arc<str>, endpoints: Arc<Endpoints>) {
        let Some(users) = self.assignment_users.get(service) else {
            // Asked for no longer.
            return;
        };
        let users = users.clone();
        self.assignments.insert(Arc::clone(service), Arc::clone(&endpoints));
        for cluster in users {
            let waits = self.warming_clusters.get(&cluster).is_some_and(|parts| parts.service_name() == Some(service));
            if waits {
                self.serve_cluster_if_ready(&cluster);
            }
            let Some(served) = self.config.clusters.get(&cluster) else { continue };
            if matches!(&served.settings.discovery, Discovery::Eds { service_name } if service_name == service) {
                let settings = Arc::clone(&served.settings);
                let cluster_now = Arc::new(Cluster { settings, endpoints: Arc::clone(&endpoints) });
                self.change_clusters().insert(cluster, cluster_now);
            }
        }
    }

    fn change_clusters(&mut self) -> &mut Clusters {
        self.published = None;
        &mut self.config.clusters
    }
}
