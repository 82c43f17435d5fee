//! What a proxy may see: the services and rules of the world that are visible to it, and which rule holds for which
//! service.
//!
//! Knows nothing of xDS resources. Proxies with equal keys have equal scopes. Source: Istio `pilot/pkg/model/sidecar.go`,
//! `pilot/pkg/model/push_context.go`.

use crate::generate::http::HttpSettings;
use crate::generate::route::{Target, Targets};
use crate::names;
use crate::node::{Families, Interception, Node, NodeType};
use crate::registry::{Entry, Labels, Resolution, Source};
use crate::rules::{Merged, Policy, VirtualServiceRule};
use crate::world::World;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// All of a proxy that its outbound configuration depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopeKey {
    pub node_type: NodeType,
    pub namespace: String,
    pub client_domain: String,
    pub families: Families,
    pub interception: Interception,
    pub dns_capture: bool,
    pub grpc_web: bool,
    /// Only those some rule asks for.
    pub labels: Labels,
    pub settings: HttpSettings,
}

impl ScopeKey {
    /// The key of a proxy with these labels.
    pub fn new(node: &Node, labels: &Labels, world: &World) -> ScopeKey {
        let relevant = labels.iter().filter(|(key, _)| world.label_keys.contains(*key));
        ScopeKey {
            node_type: node.node_type,
            namespace: node.namespace.clone(),
            client_domain: node.dns_domain.clone(),
            families: node.families(),
            interception: node.interception,
            dns_capture: node.dns_capture || world.config.automatic_addresses,
            grpc_web: node.grpc_web,
            labels: relevant.map(|(key, value)| (key.clone(), value.clone())).collect(),
            settings: HttpSettings {
                access_log: world.config.access_log,
                accept_http_10: node.accept_http_10,
                idle_timeout: node.idle_timeout,
            },
        }
    }

    /// All addresses of the proxy's families.
    pub fn wildcards(&self) -> Vec<IpAddr> {
        let (v4, v6) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        match self.families {
            Families::V4 => vec![v4],
            Families::V6 => vec![v6],
            Families::Dual => vec![v4, v6],
        }
    }

    /// Whether the proxy can be talked to at addresses of this one's family.
    pub fn has_family_of(&self, address: IpAddr) -> bool {
        match self.families {
            Families::V4 => address.is_ipv4(),
            Families::V6 => address.is_ipv6(),
            Families::Dual => true,
        }
    }
}

/// A proxy's view of the world.
#[derive(Debug)]
pub struct Scope<'a> {
    pub world: &'a World,
    pub key: &'a ScopeKey,
    /// Visible services, the oldest first, no host twice.
    services: Vec<&'a Entry>,
    by_host: HashMap<&'a str, usize>,
    rules: Vec<&'a VirtualServiceRule>,
}

impl<'a> Scope<'a> {
    /// The view of proxies with this key.
    pub fn new(world: &'a World, key: &'a ScopeKey) -> Scope<'a> {
        let mut services: Vec<&Entry> =
            world.registry.entries().filter(|entry| entry.service.export_to.visible_in(&key.namespace)).collect();
        services.sort_by(|a, b| {
            let own = |entry: &Entry| entry.service.namespace != key.namespace;
            let declared = |entry: &Entry| entry.service.source != Source::Kubernetes;
            let order = |entry: &Entry| (own(entry), declared(entry));
            let age = || a.service.claim_order().cmp(&b.service.claim_order());
            a.service.host.cmp(&b.service.host).then_with(|| order(a).cmp(&order(b))).then_with(age)
        });
        // Of services with the same host: the own namespace's, else Kubernetes', else the oldest.
        services.dedup_by(|later, first| later.service.host == first.service.host);
        services.sort_by(|a, b| a.service.claim_order().cmp(&b.service.claim_order()));
        let by_host = services.iter().enumerate().map(|(index, entry)| (&*entry.service.host, index)).collect();
        let mut rules: Vec<&VirtualServiceRule> =
            world.virtual_services.iter().filter(|rule| rule.visible_in(&key.namespace)).collect();
        rules.sort_by_key(|rule| rule.closeness(&key.namespace));
        Scope { world, key, services, by_host, rules }
    }

    /// Visible services, the oldest first.
    pub fn services(&self) -> &[&'a Entry] {
        &self.services
    }

    /// A visible service.
    pub fn service(&self, host: &str) -> Option<&'a Entry> {
        self.by_host.get(host).and_then(|index| self.services.get(*index)).copied()
    }

    /// Visible rules bound to a gateway: private ones, those exported to the proxy's namespace, public ones; the oldest
    /// first in each. `mesh` stands for all sidecars.
    pub fn rules_of(&self, gateway: &str) -> impl Iterator<Item = &'a VirtualServiceRule> {
        self.rules.iter().copied().filter(move |rule| rule.is_bound_to(gateway))
    }

    /// Visible rules of sidecars, in the same order.
    pub fn mesh_rules(&self) -> impl Iterator<Item = &'a VirtualServiceRule> {
        self.rules_of(names::MESH_GATEWAY)
    }

    /// The DestinationRule for a service.
    pub fn destination_rule(&self, entry: &Entry) -> Option<&'a Arc<Merged>> {
        let service = &entry.service;
        self.world.destination_rules.find(&self.key.namespace, &self.key.labels, &service.host, &service.namespace)
    }

    /// The policy for a port of a service, or of a subset of it.
    pub fn policy(&self, host: &str, subset: &str, port: u16) -> Policy {
        self.service(host)
            .and_then(|entry| self.destination_rule(entry))
            .map(|rule| rule.policy(subset, port))
            .unwrap_or_default()
    }

    /// What routes of these rules need to know of the services they send to.
    pub fn targets<'r>(&self, rules: impl Iterator<Item = &'r VirtualServiceRule>) -> Targets {
        let mut targets = Targets::new();
        for rule in rules {
            for host in rule.destination_hosts(&self.world.config.domain) {
                if let Some(target) = self.target(&host) {
                    targets.insert(host, target);
                }
            }
        }
        targets
    }

    fn target(&self, host: &str) -> Option<Target> {
        let service = &self.service(host)?.service;
        let real = match (service.resolution, &service.alias_of) {
            (Resolution::Alias, Some(real)) => real.to_string(),
            _ => host.to_owned(),
        };
        let ports = match self.service(&real) {
            Some(entry) if service.ports.is_empty() => &entry.service.ports,
            _ => &service.ports,
        };
        let only_port = match ports.as_slice() {
            [port] => Some(port.number),
            _ => None,
        };
        Some(Target { host: real, only_port })
    }
}
