//! Everything proxies' configuration is made of, at one moment.
//!
//! Knows nothing of connected proxies. Parts that did not change are shared with the world before.

use crate::config::Config;
use crate::registry::Registry;
use crate::rules::{
    AccessRules, DestinationRules, Keys, Merged, PeerRules, Sidecars, VirtualServiceRule, oldest_first,
};
use crate::scope::PlaceNeeds;
use lateen_galley::istio::Gateway;
use lateen_galley::{Config as IstioConfig, Kind, Object, Snapshot};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Kinds of objects that only the endpoints of services depend on.
pub const ENDPOINT_KINDS: [Kind; 4] = [Kind::Endpoints, Kind::EndpointSlice, Kind::Pod, Kind::WorkloadEntry];
/// Kinds of objects that say how traffic goes.
const TRAFFIC_KINDS: [Kind; 4] = [Kind::VirtualService, Kind::DestinationRule, Kind::Gateway, Kind::Sidecar];
/// Kinds of objects that say who may do what, and how workloads take connections.
const SECURITY_KINDS: [Kind; 5] =
    [Kind::AuthorizationPolicy, Kind::RequestAuthentication, Kind::PeerAuthentication, Kind::MeshPolicy, Kind::Policy];

/// All services and rules.
#[derive(Clone, Debug)]
pub struct World {
    /// What the control plane was started with.
    base: Arc<Config>,
    /// The same with the mesh's own settings over it.
    pub config: Arc<Config>,
    snapshot: Arc<Snapshot>,
    pub registry: Registry,
    /// All VirtualServices with hosts, their delegates' routes put in, the oldest first.
    pub virtual_services: Arc<Vec<VirtualServiceRule>>,
    pub destination_rules: Arc<DestinationRules>,
    pub sidecars: Arc<Sidecars>,
    /// Who may do what, and which tokens are understood.
    pub access: Arc<AccessRules>,
    /// How workloads take connections.
    pub peers: Arc<PeerRules>,
    /// Keys of issuers that were fetched.
    keys: Arc<Keys>,
    /// All Gateways, the oldest first.
    pub gateways: Arc<Vec<Arc<Object>>>,
    /// Keys of labels that rules tell proxies apart by. Proxies alike in these get the same outbound configuration.
    pub label_keys: Arc<BTreeSet<String>>,
    /// What of proxies' places counts.
    pub place_needs: PlaceNeeds,
}

/// What differs between two worlds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This at most.
    Parts(EndpointChange, RuleChange),
    Anything,
}

/// Endpoints and workloads that are others than they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointChange {
    /// Hosts with other endpoints.
    pub hosts: Vec<Arc<str>>,
    /// Addresses of endpoints and workloads that came, went or became others.
    pub addresses: BTreeSet<IpAddr>,
    /// Namespaces and names of such pods.
    pub pods: BTreeSet<(String, String)>,
}

/// Rules that are others than they were, each as it was and as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleChange {
    pub virtual_services: Vec<VirtualServiceRule>,
    pub destination_rules: Vec<Arc<Merged>>,
}

impl EndpointChange {
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.addresses.is_empty() && self.pods.is_empty()
    }
}

impl RuleChange {
    pub fn is_empty(&self) -> bool {
        self.virtual_services.is_empty() && self.destination_rules.is_empty()
    }
}

impl World {
    /// The world before the first snapshot: empty.
    pub fn empty(config: Arc<Config>) -> World {
        World {
            base: Arc::clone(&config),
            config,
            snapshot: Arc::default(),
            registry: Registry::default(),
            virtual_services: Arc::default(),
            destination_rules: Arc::default(),
            sidecars: Arc::default(),
            access: Arc::default(),
            peers: Arc::default(),
            keys: Arc::default(),
            gateways: Arc::default(),
            label_keys: Arc::default(),
            place_needs: PlaceNeeds::default(),
        }
    }

    /// The world of a later snapshot.
    pub fn advance(&self, snapshot: Arc<Snapshot>) -> World {
        let same = |kinds: &[Kind]| kinds.iter().all(|kind| self.snapshot.same(&snapshot, *kind));
        let config = match same(&[Kind::ConfigMap]) {
            true => Arc::clone(&self.config),
            false => Some(self.base.of_mesh(&snapshot))
                .filter(|config| *config != *self.config)
                .map_or_else(|| Arc::clone(&self.config), Arc::new),
        };
        let config_same = Arc::ptr_eq(&config, &self.config);
        let services_same = config_same && same(&[Kind::Service, Kind::ServiceEntry]);
        let registry = match services_same {
            true if same(&ENDPOINT_KINDS) => self.registry.clone(),
            true => self.registry.follow(&self.snapshot, &snapshot, &config),
            false => Registry::new(&snapshot, &config, &self.registry),
        };
        let localities = config.locality_lb_setting.as_ref();
        let named_same = !self.peers.name_services || same(&[Kind::Service, Kind::Pod]);
        if config_same && named_same && same(&TRAFFIC_KINDS) && same(&SECURITY_KINDS) {
            let place_needs = match services_same {
                true => self.place_needs,
                false => PlaceNeeds::of(&registry, &self.destination_rules, localities),
            };
            return World { snapshot, registry, place_needs, ..self.clone() };
        }
        let kept = |kind: Kind| config_same && same(&[kind]);
        let virtual_services = match kept(Kind::VirtualService) {
            true => Arc::clone(&self.virtual_services),
            false => Arc::new(self.virtual_services(&snapshot, &config)),
        };
        let destination_rules = match kept(Kind::DestinationRule) {
            true => Arc::clone(&self.destination_rules),
            false if config_same => Arc::new(self.destination_rules.follow(&self.snapshot, &snapshot, &config)),
            false => Arc::new(DestinationRules::new(&snapshot, &config)),
        };
        let sidecars = match kept(Kind::Sidecar) {
            true => Arc::clone(&self.sidecars),
            false => Arc::new(Sidecars::new(&snapshot, &config.root_namespace)),
        };
        let gateways = match kept(Kind::Gateway) {
            true => Arc::clone(&self.gateways),
            false => Arc::new(oldest_first(snapshot.objects(Kind::Gateway)).into_iter().cloned().collect()),
        };
        let mut label_keys = label_keys(&virtual_services, &destination_rules);
        label_keys.extend(localities.into_iter().flat_map(|mesh| &mesh.failover_priority).cloned());
        let place_needs = PlaceNeeds::of(&registry, &destination_rules, localities);
        let others_same = config_same && named_same && same(&SECURITY_KINDS);
        let (peers, access) = match others_same {
            true => (Arc::clone(&self.peers), Arc::clone(&self.access)),
            false => (
                Arc::new(PeerRules::new(&snapshot, &config)),
                Arc::new(AccessRules::new(&snapshot, &config, &self.keys)),
            ),
        };
        World {
            base: Arc::clone(&self.base),
            config,
            snapshot,
            registry,
            virtual_services,
            destination_rules,
            sidecars,
            access,
            peers,
            keys: Arc::clone(&self.keys),
            gateways,
            label_keys: Arc::new(label_keys),
            place_needs,
        }
    }

    /// The same world, where other keys were fetched.
    pub fn with_keys(&self, keys: Arc<Keys>) -> World {
        let access = Arc::new(AccessRules::new(&self.snapshot, &self.config, &keys));
        World { access, keys, ..self.clone() }
    }

    /// What differs from an earlier world.
    pub fn change_since(&self, before: &World) -> Change {
        let rest_same = same(&self.config, &before.config)
            && same(&self.sidecars, &before.sidecars)
            && same(&self.access, &before.access)
            && same(&self.peers, &before.peers)
            && same(&self.gateways, &before.gateways)
            // By these proxies are told apart.
            && self.label_keys == before.label_keys
            && self.place_needs == before.place_needs;
        let Some(endpoints) = self.registry.endpoint_changes(&before.registry).filter(|_| rest_same) else {
            return Change::Anything;
        };
        Change::Parts(endpoints, self.rules_changed_since(before))
    }

    fn rules_changed_since(&self, before: &World) -> RuleChange {
        let mut change = RuleChange::default();
        if !Arc::ptr_eq(&self.virtual_services, &before.virtual_services) {
            let named = |rules| -> HashMap<(&str, &str), &VirtualServiceRule> {
                let rules: &Vec<VirtualServiceRule> = rules;
                rules.iter().map(|rule| ((rule.namespace(), rule.name()), rule)).collect()
            };
            let (was, is) = (named(&before.virtual_services), named(&self.virtual_services));
            let gone = was.iter().filter(|(name, rule)| is.get(*name) != Some(*rule));
            let new = is.iter().filter(|(name, rule)| was.get(*name) != Some(*rule));
            change.virtual_services = gone.chain(new).map(|(_, rule)| (*rule).clone()).collect();
        }
        if !Arc::ptr_eq(&self.destination_rules, &before.destination_rules) {
            change.destination_rules = self.destination_rules.changes_since(&before.destination_rules);
        }
        change
    }

    /// The snapshot it was made of.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Rules are costly to take in: those of objects that are still the same are kept, unless they delegate or the mesh's
    /// settings changed.
    fn virtual_services(&self, snapshot: &Snapshot, config: &Arc<Config>) -> Vec<VirtualServiceRule> {
        let known: HashMap<*const Object, &VirtualServiceRule> = self
            .virtual_services
            .iter()
            .filter(|rule| Arc::ptr_eq(config, &self.config) && !rule.delegates())
            .map(|rule| (Arc::as_ptr(rule.object()), rule))
            .collect();
        let (delegates, mut rules): (Vec<_>, Vec<_>) = snapshot
            .objects(Kind::VirtualService)
            .filter_map(|object| match known.get(&Arc::as_ptr(object)) {
                Some(rule) => Some((*rule).clone()),
                None => VirtualServiceRule::new(object, config),
            })
            .partition(VirtualServiceRule::is_delegate);
        let delegates: HashMap<(&str, &str), &VirtualServiceRule> =
            delegates.iter().map(|rule| ((rule.namespace(), rule.name()), rule)).collect();
        for rule in rules.iter_mut().filter(|rule| rule.delegates()) {
            *rule = rule.with_delegates(|namespace, name| delegates.get(&(namespace, name)).copied(), &config.domain);
        }
        rules.sort_by(VirtualServiceRule::by_age);
        rules
    }
}

/// Whether two say the same. Objects read anew are other objects, but no change.
fn same<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// A Gateway, typed.
pub fn gateway(object: &Object) -> Option<&Gateway> {
    object.typed::<IstioConfig<Gateway>>().map(|config| &config.spec)
}

fn label_keys(rules: &[VirtualServiceRule], destination_rules: &DestinationRules) -> BTreeSet<String> {
    let mut keys: BTreeSet<String> = destination_rules.label_keys().map(str::to_owned).collect();
    for spec in rules.iter().map(VirtualServiceRule::spec) {
        let http = spec.http.iter().flat_map(|http| &http.matches).map(|block| &block.source_labels);
        let tls = spec.tls.iter().flat_map(|tls| &tls.matches).map(|block| &block.source_labels);
        let tcp = spec.tcp.iter().flat_map(|tcp| &tcp.matches).map(|block| &block.source_labels);
        keys.extend(http.chain(tls).chain(tcp).flat_map(|labels| labels.keys()).cloned());
    }
    keys
}
