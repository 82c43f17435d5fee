//! Where a proxy is, and which endpoints it prefers or is kept to for that.
//!
//! Source: Istio `core/loadbalancer/loadbalancer.go` (GetEffectiveLbSetting), `xds/ads.go` (setTopologyLabels).

use super::{ScopeKey, View};
use crate::generate::locality::{Preference, PreferenceRule};
use crate::node::Node;
use crate::registry::{
    Distribution, Endpoint, HOSTNAME, Labels, Locality, NETWORK, REGION, Registry, SUBZONE, Service, ZONE, locality_of,
};
use crate::rules::{DestinationRules, Policy};
use crate::world::World;
use lateen_galley::istio::destination_rule::LocalityLoadBalancerSetting;
use std::borrow::Cow;
use std::sync::Arc;

/// What of a proxy's place its configuration depends on; the rest is left out, so that more proxies are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    pub locality: Locality,
    /// Name of the machine.
    pub node: Option<Arc<str>>,
}

/// What of places counts in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaceNeeds {
    pub localities: bool,
    pub nodes: bool,
}

impl PlaceNeeds {
    pub fn of(registry: &Registry, rules: &DestinationRules, mesh: Option<&LocalityLoadBalancerSetting>) -> PlaceNeeds {
        let mut needs = PlaceNeeds { localities: rules.prefer_localities(), nodes: rules.prefer_label(HOSTNAME) };
        if let Some(mesh) = mesh {
            needs.localities |= !mesh.distribute.is_empty();
            needs.nodes |= mesh.failover_priority.iter().any(|label| label == HOSTNAME);
        }
        for service in registry.entries().map(|entry| &entry.service) {
            needs.localities |= service.distribution != Distribution::Any;
            needs.nodes |= service.node_local || service.distribution == Distribution::SameNode;
        }
        needs
    }
}

impl Place {
    /// The place of a proxy's workload as far as it counts: what the registry knows, else what the proxy says.
    pub fn new(node: &Node, labels: &Labels, world: &World) -> Place {
        let mut place = Place::default();
        if world.place_needs.localities {
            let told = locality_of(labels);
            place.locality = if told == Locality::default() { node.locality.clone() } else { told };
        }
        if world.place_needs.nodes {
            let known = node.pod().and_then(|(name, namespace)| world.registry.workloads().pod(namespace, name));
            let known = known.and_then(|info| info.node.clone());
            place.node = known.or_else(|| node.node_name.as_deref().map(Arc::from));
        }
        place
    }
}

impl ScopeKey {
    /// The value of a label, or what stands for it of where the proxy is; empty if there is none.
    fn topology(&self, label: &str) -> &str {
        let place = self.place.locality.part(label).filter(|part| !part.is_empty());
        let node = self.place.node.as_deref().filter(|_| label == HOSTNAME);
        place.or(node).or_else(|| self.labels.get(label).map(String::as_str)).unwrap_or_default()
    }
}

impl View<'_> {
    /// Which endpoints of a cluster the proxy prefers, and whether localities take requests by their weights.
    pub fn preference(&self, service: &Service, policy: &Policy) -> (Option<Arc<Preference>>, bool) {
        let mesh = &self.world.config.locality_lb_setting;
        let (setting, forced) = match (&policy.localities, service.distribution) {
            (Some(setting), _) => (Cow::Borrowed(setting), false),
            (None, Distribution::SameZone) => (Cow::Owned(by_labels(&[NETWORK, REGION, ZONE])), true),
            (None, Distribution::SameNode) => {
                (Cow::Owned(by_labels(&[NETWORK, REGION, ZONE, SUBZONE, HOSTNAME])), true)
            }
            (None, Distribution::Any) => match mesh {
                Some(setting) => (Cow::Borrowed(setting), false),
                None => return (None, false),
            },
        };
        if setting.enabled == Some(false) {
            return (None, false);
        }
        let own = self.key.place.locality.clone();
        if !setting.distribute.is_empty() {
            let mine = setting.distribute.iter().find(|rule| own.is_in(&rule.from));
            let rule = mine.map(|rule| {
                PreferenceRule::Distribute(rule.to.iter().map(|(to, share)| (to.clone(), *share)).collect())
            });
            return (rule.map(|rule| Arc::new(Preference { own, rule })), true);
        }
        // Without outlier detection nobody would find out that the nearest endpoints fail.
        if !forced && policy.outlier.is_none() {
            return (None, false);
        }
        let labels = setting.failover_priority.iter().map(|label| match label.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (label.clone(), self.key.topology(label).to_owned()),
        });
        let region = setting.failover.iter().find(|failover| failover.from == own.region);
        let rule = PreferenceRule::Failover {
            labels: labels.collect(),
            regions: region.map(|failover| failover.to.clone()).into_iter().collect(),
            near: setting.failover_priority.is_empty() || !setting.failover.is_empty(),
        };
        let weighted = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
        (Some(Arc::new(Preference { own, rule })), weighted)
    }

    /// Those endpoints that a client on its machine reaches.
    pub fn reachable(&self, service: &Service, endpoints: Arc<[Endpoint]>) -> Arc<[Endpoint]> {
        if !service.node_local {
            return endpoints;
        }
        endpoints.iter().filter(|endpoint| endpoint.node == self.key.place.node).cloned().collect()
    }
}

fn by_labels(labels: &[&str]) -> LocalityLoadBalancerSetting {
    let failover_priority = labels.iter().map(|label| (*label).to_owned()).collect();
    LocalityLoadBalancerSetting { failover_priority, ..Default::default() }
}
