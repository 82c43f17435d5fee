//! What a proxy may see: the services and rules of the world that are visible to it, and which rule holds for which
//! service.
//!
//! Knows nothing of xDS resources. Proxies with equal keys have equal scopes. Source: Istio `pilot/pkg/model/sidecar.go`,
//! `pilot/pkg/model/push_context.go`.

mod egress;
mod place;

pub use egress::Egress;
pub use place::{Place, PlaceNeeds};

use crate::config::{Config, OutboundTrafficPolicy};
use crate::generate::http::HttpSettings;
use crate::generate::route::{Hashing, RouteScope, Target, Targets};
use crate::host;
use crate::names;
use crate::node::{Families, Interception, Node, NodeType, parse_duration};
use crate::plan::gateway::ServerHost;
use crate::registry::{Entry, Labels, Resolution, Service, Source, selects};
use crate::rules::{Merged, Policy, SidecarRule, VirtualServiceRule};
use crate::world::{self, World};
use lateen_galley::istio::gateway::ServerTlsMode;
use lateen_galley::istio::sidecar::OutboundMode;
use lateen_galley::mesh::{Disabled, ProxyConfig};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
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
    /// Only those some rule asks for.
    pub labels: Labels,
    pub place: Place,
    /// The Sidecar that holds for it.
    pub sidecar: Option<Arc<SidecarRule>>,
    /// Hosts of services to which it passes TLS on by their own server names.
    pub passes_on: Vec<String>,
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
            labels: relevant.map(|(key, value)| (key.clone(), value.clone())).collect(),
            place: Place::new(node, labels, world),
            sidecar: match node.node_type {
                NodeType::Sidecar => world.sidecars.find(&node.namespace, labels).cloned(),
                NodeType::Router => None,
            },
            passes_on: match node.node_type {
                NodeType::Sidecar => Vec::new(),
                NodeType::Router => passes_on(labels, world),
            },
            settings: HttpSettings { named_hosts: named_hosts(node, world), ..settings(node, &world.config) },
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

    /// Loopback addresses of the proxy's families.
    pub fn loopbacks(&self) -> Vec<IpAddr> {
        let loopback = |wildcard: IpAddr| match wildcard {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        self.wildcards().into_iter().map(loopback).collect()
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

/// Hosts of the servers of AUTO_PASSTHROUGH that a gateway has.
fn passes_on(labels: &Labels, world: &World) -> Vec<String> {
    let gateways = world.gateways.iter().filter_map(|object| Some((object, world::gateway(object)?)));
    let selected = gateways.filter(|(_, spec)| selects(&spec.selector, labels));
    let servers =
        selected.flat_map(|(object, spec)| spec.servers.iter().map(move |server| (object.namespace(), server)));
    let hosts = servers
        .filter(|(_, server)| server.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough))
        .flat_map(|(namespace, server)| server.hosts.iter().map(move |host| ServerHost::parse(host, namespace).host));
    hosts.collect::<BTreeSet<String>>().into_iter().collect()
}

/// What is done with traffic to hosts the registry does not know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// It goes on, to where it was going or to the cluster of a proxy.
    GoesTo(String),
    /// 502 for HTTP, a closed connection otherwise.
    Refused,
}

impl Unknown {
    /// The cluster connections go to.
    pub fn cluster(&self) -> &str {
        match self {
            Unknown::GoesTo(cluster) => cluster,
            Unknown::Refused => names::BLACK_HOLE_CLUSTER,
        }
    }
}

/// Which addresses of hosts that requests name are used, if any service it may see asks for them.
fn named_hosts(node: &Node, world: &World) -> Option<Families> {
    let seen = world.registry.named().iter().any(|service| service.export_to.visible_in(&node.namespace));
    seen.then(|| node.families())
}

/// How a proxy serves HTTP: as it says itself, else as the mesh says.
fn settings(node: &Node, mesh: &Config) -> HttpSettings {
    // Its workload's health is told, not configured.
    let ProxyConfig { gateway_topology, proxy_headers, proxy_metadata, readiness_probe: _ } =
        node.proxy_config.over(&mesh.proxy);
    let variable = |name: &str| proxy_metadata.get(name).map(String::as_str);
    HttpSettings {
        access_log: mesh.access_log.clone(),
        accept_http_10: node.accept_http_10 || variable("ISTIO_META_HTTP10") == Some("1"),
        idle_timeout: node.idle_timeout.or_else(|| parse_duration(variable("ISTIO_META_IDLE_TIMEOUT")?)),
        normalization: mesh.normalization,
        detection_timeout: mesh.detection_timeout,
        topology: gateway_topology.unwrap_or_default(),
        headers: proxy_headers.unwrap_or_default(),
        alpn: node.own,
        named_hosts: None,
    }
}

/// What holds for a service where a proxy is, whichever other services there are: it can be asked of one at a time.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub world: &'a World,
    pub key: &'a ScopeKey,
}

/// A proxy's view of the world, and all that is in it.
#[derive(Debug)]
pub struct Scope<'a> {
    view: View<'a>,
    /// Services it reaches, the oldest first, no host twice.
    services: Vec<Entry>,
    by_host: HashMap<Arc<str>, usize>,
    rules: Vec<&'a VirtualServiceRule>,
    egress: Vec<Egress<'a>>,
}

/// A scope is a view too.
impl<'a> Deref for Scope<'a> {
    type Target = View<'a>;

    fn deref(&self) -> &View<'a> {
        &self.view
    }
}

/// Of services with the same host: the own namespace's, else Kubernetes', else the oldest. The oldest host first.
fn one_of_each_host<E: std::borrow::Borrow<Entry>>(mut services: Vec<E>, key: &ScopeKey) -> Vec<E> {
    services.sort_by(|a, b| {
        let (a, b) = (&a.borrow().service, &b.borrow().service);
        let own = |namespace: &str| namespace != key.namespace;
        let order =
            |service: &crate::registry::Service| (own(&service.namespace), service.source != Source::Kubernetes);
        a.host.cmp(&b.host).then_with(|| order(a).cmp(&order(b))).then_with(|| a.claim_order().cmp(&b.claim_order()))
    });
    services.dedup_by(|later, first| later.borrow().service.host == first.borrow().service.host);
    services.sort_by(|a, b| a.borrow().service.claim_order().cmp(&b.borrow().service.claim_order()));
    services
}

impl<'a> View<'a> {
    /// What is done with traffic to unknown hosts: the Sidecar's word, else the mesh's.
    pub fn unknown(&self) -> Unknown {
        let own = self.key.sidecar.as_ref().and_then(|sidecar| sidecar.spec().outbound_traffic_policy.as_ref());
        let passthrough = || Unknown::GoesTo(names::PASSTHROUGH_CLUSTER.to_owned());
        match own {
            None => match self.world.config.outbound_traffic_policy {
                OutboundTrafficPolicy::AllowAny => passthrough(),
                OutboundTrafficPolicy::RegistryOnly => Unknown::Refused,
            },
            Some(policy) if policy.mode == OutboundMode::RegistryOnly => Unknown::Refused,
            Some(policy) => match &policy.egress_proxy {
                None => passthrough(),
                Some(proxy) => {
                    let host = host::resolve(&proxy.host, &self.key.namespace, &self.world.config.domain);
                    let port = proxy.port.and_then(|port| u16::try_from(port.number).ok()).unwrap_or(0);
                    Unknown::GoesTo(names::outbound_cluster(port, &proxy.subset, &host))
                }
            },
        }
    }

    /// The DestinationRule for a service.
    pub fn destination_rule(&self, entry: &Entry) -> Option<&'a Arc<Merged>> {
        let service = &entry.service;
        self.world.destination_rules.find(&self.key.namespace, &self.key.labels, &service.host, &service.namespace)
    }

    /// For whom and where routes of a port are made; `gateway` is `mesh` for sidecars.
    pub fn routes_at(&self, port: u16, gateway: &str) -> RouteScope {
        let headers = &self.key.settings.headers;
        RouteScope {
            port,
            gateways: vec![gateway.to_owned()],
            namespace: self.key.namespace.clone(),
            labels: self.key.labels.clone(),
            domain: self.world.config.domain.clone(),
            tls: false,
            retries: self.world.config.retries.clone(),
            forwarded_host: headers.x_forwarded_host.and_then(|header| header.enabled).unwrap_or(false),
            attempt_count: !Disabled::is(headers.attempt_count),
        }
    }

    /// Whether the proxy passes TLS on to a service by its own server names.
    pub fn passes_on_to(&self, service: &Service) -> bool {
        !service.mesh_external
            && matches!(service.resolution, Resolution::Static | Resolution::Passthrough)
            && self.key.passes_on.iter().any(|host| host::is_subset_of(&service.host, host))
    }

    /// The policy for a port of a service, or of a subset of it.
    pub fn policy_of(&self, entry: &Entry, subset: &str, port: u16) -> Policy {
        let policy = self.destination_rule(entry).map(|rule| rule.policy(subset, port)).unwrap_or_default();
        if entry.service.client_affinity { policy.with_client_affinity() } else { policy }
    }
}

impl<'a> Scope<'a> {
    /// The view of proxies with this key.
    pub fn new(world: &'a World, key: &'a ScopeKey) -> Scope<'a> {
        let visible: Vec<&Entry> =
            world.registry.entries().filter(|entry| entry.service.export_to.visible_in(&key.namespace)).collect();
        let mut rules: Vec<&VirtualServiceRule> =
            world.virtual_services.iter().filter(|rule| rule.visible_in(&key.namespace)).collect();
        rules.sort_by_key(|rule| rule.closeness(&key.namespace));
        let listeners = key.sidecar.iter().flat_map(|sidecar| &sidecar.spec().egress);
        let mut egress: Vec<Egress<'a>> =
            listeners.map(|listener| Egress::new(listener, key, &visible, &rules)).collect();
        let services = if egress.is_empty() {
            let all = one_of_each_host(visible, key);
            egress.push(Egress::everything(&all, &rules));
            all.into_iter().cloned().collect()
        } else {
            egress::union(&egress, world, key)
        };
        let by_host =
            services.iter().enumerate().map(|(index, entry)| (Arc::clone(&entry.service.host), index)).collect();
        Scope { view: View { world, key }, services, by_host, rules, egress }
    }

    /// Services it reaches, the oldest first.
    pub fn services(&self) -> &[Entry] {
        &self.services
    }

    /// A service it reaches.
    pub fn service(&self, host: &str) -> Option<&Entry> {
        self.by_host.get(host).and_then(|index| self.services.get(*index))
    }

    /// A sidecar's ways out, in the order in which they claim ports.
    pub fn egress(&self) -> &[Egress<'a>] {
        &self.egress
    }

    /// Visible rules bound to a gateway: private ones, those exported to the proxy's namespace, public ones; the oldest
    /// first in each. `mesh` stands for all sidecars.
    pub fn rules_of(&self, gateway: &str) -> impl Iterator<Item = &'a VirtualServiceRule> {
        self.rules.iter().copied().filter(move |rule| rule.is_bound_to(gateway))
    }

    /// The policy for a port of a service it reaches, or of a subset of it.
    pub fn policy(&self, host: &str, subset: &str, port: u16) -> Policy {
        self.service(host).map(|entry| self.policy_of(entry, subset, port)).unwrap_or_default()
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
        let rule = self.service(&real).and_then(|entry| self.destination_rule(entry));
        let affinity = self.service(&real).is_some_and(|entry| entry.service.client_affinity);
        let rule = rule.filter(|rule| affinity || rule.hashes()).cloned();
        Some(Target { host: real, only_port, hashing: Hashing { rule, affinity } })
    }
}
