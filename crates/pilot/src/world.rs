//! Everything proxies' configuration is made of, at one moment.
//!
//! Knows nothing of connected proxies. Parts that did not change are shared with the world before.

use crate::config::Config;
use crate::registry::Registry;
use crate::rules::{AccessRules, DestinationRules, Keys, PeerRules, Sidecars, VirtualServiceRule, created};
use crate::scope::PlaceNeeds;
use lateen_galley::istio::Gateway;
use lateen_galley::{Config as IstioConfig, Kind, Object, Snapshot};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Kinds of objects that only the endpoints of services depend on.
pub const ENDPOINT_KINDS: [Kind; 4] = [Kind::Endpoints, Kind::EndpointSlice, Kind::Pod, Kind::WorkloadEntry];
/// Kinds of objects that rules are made of.
const RULE_KINDS: [Kind; 9] = [
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::Gateway,
    Kind::Sidecar,
    Kind::AuthorizationPolicy,
    Kind::RequestAuthentication,
    Kind::PeerAuthentication,
    Kind::MeshPolicy,
    Kind::Policy,
];

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
    Nothing,
    Endpoints(EndpointChange),
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
        if config_same && named_same && same(&RULE_KINDS) {
            let place_needs = match services_same {
                true => self.place_needs,
                false => PlaceNeeds::of(&registry, &self.destination_rules, localities),
            };
            return World { snapshot, registry, place_needs, ..self.clone() };
        }
        let virtual_services = self.virtual_services(&snapshot, &config);
        let destination_rules = DestinationRules::new(&snapshot, &config);
        let sidecars = Sidecars::new(&snapshot, &config.root_namespace);
        let peers = PeerRules::new(&snapshot, &config);
        let access = AccessRules::new(&snapshot, &config, &self.keys);
        let mut label_keys = label_keys(&virtual_services, &destination_rules);
        label_keys.extend(localities.into_iter().flat_map(|mesh| &mesh.failover_priority).cloned());
        let place_needs = PlaceNeeds::of(&registry, &destination_rules, localities);
        let mut gateways: Vec<Arc<Object>> = snapshot.objects(Kind::Gateway).cloned().collect();
        gateways.sort_by(|a, b| {
            let age = |object: &Object| created(object.metadata());
            age(a).cmp(&age(b)).then_with(|| a.name().cmp(b.name())).then_with(|| a.namespace().cmp(b.namespace()))
        });
        World {
            base: Arc::clone(&self.base),
            config,
            snapshot,
            registry,
            virtual_services: Arc::new(virtual_services),
            destination_rules: Arc::new(destination_rules),
            sidecars: Arc::new(sidecars),
            access: Arc::new(access),
            peers: Arc::new(peers),
            keys: Arc::clone(&self.keys),
            gateways: Arc::new(gateways),
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
        let rules_same = same(&self.config, &before.config)
            && same(&self.virtual_services, &before.virtual_services)
            && same(&self.destination_rules, &before.destination_rules)
            && same(&self.sidecars, &before.sidecars)
            && same(&self.access, &before.access)
            && same(&self.peers, &before.peers)
            && same(&self.gateways, &before.gateways);
        match self.registry.endpoint_changes(&before.registry) {
            _ if !rules_same => Change::Anything,
            None => Change::Anything,
            Some(change) if change == EndpointChange::default() => Change::Nothing,
            Some(change) => Change::Endpoints(change),
        }
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
