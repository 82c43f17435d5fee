//! What leads to a sidecar's own workload: the ports of its services, or those its Sidecar names.
//!
//! Source: Istio `core/listener_inbound.go` (buildInboundChainConfigs), `core/cluster.go` (buildInboundClusters,
//! buildInboundClustersFromSidecar).

use super::Memo;
use super::clusters::label;
use crate::generate::cluster::{FixedCluster, FixedKind, InboundCluster, ServiceLabel, Upstream};
use crate::generate::inbound::{BoundInbound, InboundPort, InboundTls, VirtualInbound};
use crate::names;
use crate::node::{Interception, Node};
use crate::registry::{EndpointAddress, Instance, Labels, Protocol};
use crate::rules::{Access, PeerModes, Policy, SidecarRule};
use crate::scope::ScopeKey;
use crate::world::World;
use lateen_galley::istio::destination_rule::ConnectionPoolSettings;
use lateen_galley::istio::sidecar::{CaptureMode, IngressListener};
use lateen_xds::Resource;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// A proxy, and what is made for it.
pub struct Inbound<'a> {
    world: &'a World,
    key: &'a ScopeKey,
    node: &'a Node,
    by_target: BTreeMap<u16, Vec<Instance>>,
    access: Arc<Access>,
    modes: PeerModes,
    tls: Arc<InboundTls>,
}

impl<'a> Inbound<'a> {
    /// The part of the proxy with this node and these labels.
    pub fn new(world: &'a World, key: &'a ScopeKey, node: &'a Node, labels: &Labels) -> Inbound<'a> {
        let mut by_target: BTreeMap<u16, Vec<Instance>> = BTreeMap::new();
        for instance in world.registry.instances(&node.namespace, &node.addresses, labels) {
            if instance.port.protocol != Protocol::Udp {
                by_target.entry(instance.target).or_default().push(instance);
            }
        }
        let access = Arc::new(world.access.find(&world.registry, &node.namespace, labels));
        let modes = world.peers.of_workload(&node.namespace, labels);
        let tls = Arc::new(InboundTls::of_mesh(&world.config));
        Inbound { world, key, node, by_target, access, modes, tls }
    }

    /// What cannot be carried out as it is said.
    pub fn problems(&self) -> Vec<String> {
        self.access.problems()
    }

    /// Adds what leads to the workload.
    pub fn add(&self, memo: &mut Memo, clusters: &mut Vec<Resource>, listeners: &mut Vec<Resource>) {
        let redirected = self.key.interception != Interception::None;
        let own = self.key.sidecar.as_deref().filter(|sidecar| !sidecar.spec().ingress.is_empty());
        let (ports, bound) = match own {
            Some(sidecar) => self.listed(sidecar, memo, clusters),
            // Listening at the ports of services would take them from the workload.
            None if !redirected => return,
            None => (self.of_services(memo, clusters), Vec::new()),
        };
        let spoken_of = |port: u16| {
            ports.iter().any(|own| own.port == port) || bound.iter().any(|listener| listener.port.port == port)
        };
        let others = self.modes.ports.iter().map(|(port, mode)| (*port, *mode));
        let others = others.filter(|(port, _)| !spoken_of(*port)).collect();
        for listener in bound {
            listeners.push(memo.get(listener));
        }
        if redirected {
            clusters.push(memo.get(FixedCluster {
                kind: FixedKind::InboundPassthrough(self.key.families),
                connections: self.world.config.connections.clone(),
            }));
            listeners.push(memo.get(VirtualInbound {
                addresses: self.key.wildcards(),
                transparent: self.key.interception == Interception::Tproxy,
                ports,
                elsewhere: self.modes.mode,
                others,
                tls: Arc::clone(&self.tls),
                access: Arc::clone(&self.access),
                settings: self.key.settings.clone(),
            }));
        }
    }

    fn of_services(&self, memo: &mut Memo, clusters: &mut Vec<Resource>) -> Vec<InboundPort> {
        let mut ports = Vec::new();
        let loopback = self.key.loopbacks().first().copied().filter(|_| self.world.config.inbound_to_localhost);
        for (target, instances) in &self.by_target {
            // The oldest service decides.
            let Some(first) = instances.first() else { continue };
            let (policy, config) = self.policy(Some(first), first.port.number, self.pool(*target));
            clusters.push(memo.get(InboundCluster {
                port: *target,
                workload_at: loopback.map(|ip| (EndpointAddress::Ip(ip), *target)),
                upstream: upstream(first.port.protocol),
                policy,
                families: self.key.families,
                services: instances.iter().map(|instance| label(&instance.service)).collect(),
                config,
            }));
            ports.push(InboundPort {
                port: *target,
                bind: None,
                protocol: first.port.protocol,
                mode: self.modes.at(*target),
                service_port: first.port.number,
                host: first.service.host.to_string(),
                origin: None,
            });
        }
        ports
    }

    /// The ports a Sidecar names: those traffic is redirected from, and those the proxy listens at itself.
    fn listed(
        &self,
        sidecar: &SidecarRule,
        memo: &mut Memo,
        clusters: &mut Vec<Resource>,
    ) -> (Vec<InboundPort>, Vec<BoundInbound>) {
        let (mut ports, mut bound) = (Vec::new(), Vec::new());
        let host = format!("{}.{}", sidecar.name(), sidecar.namespace());
        for listener in &sidecar.spec().ingress {
            let Some(port) = &listener.port else { continue };
            let Some(number) = u16::try_from(port.number).ok().filter(|number| *number != 0) else { continue };
            let protocol = Protocol::parse(&port.protocol);
            let instance = self.by_target.get(&number).and_then(|instances| instances.first());
            let (policy, config) = self.policy(instance, number, self.pool(number));
            clusters.push(memo.get(InboundCluster {
                port: number,
                workload_at: self.workload_at(listener),
                upstream: upstream(protocol),
                policy,
                families: self.key.families,
                services: vec![match instance {
                    Some(instance) => label(&instance.service),
                    None => ServiceLabel {
                        host: host.clone(),
                        name: sidecar.name().to_owned(),
                        namespace: sidecar.namespace().to_owned(),
                    },
                }],
                config,
            }));
            let bind = listener.bind.parse().ok().or_else(|| self.node.addresses.first().copied());
            let inbound = InboundPort {
                port: number,
                bind,
                protocol,
                mode: self.modes.at(number),
                service_port: number,
                host: host.clone(),
                origin: Some(names::config_path("sidecar", sidecar.namespace(), sidecar.name())),
            };
            let opens = match listener.capture_mode {
                CaptureMode::Default => self.key.interception == Interception::None,
                CaptureMode::Iptables => false,
                CaptureMode::None => true,
            };
            if opens {
                bound.push(BoundInbound {
                    port: inbound,
                    tls: Arc::clone(&self.tls),
                    access: Arc::clone(&self.access),
                    settings: self.key.settings.clone(),
                });
            } else {
                ports.push(inbound);
            }
        }
        ports.sort_by_key(|port| port.port);
        (ports, bound)
    }

    /// The Sidecar's limits for a port of the workload.
    fn pool(&self, number: u16) -> Option<&ConnectionPoolSettings> {
        let spec = self.key.sidecar.as_ref()?.spec();
        let is_it =
            |listener: &&IngressListener| listener.port.as_ref().is_some_and(|port| port.number == u32::from(number));
        let of_port = spec.ingress.iter().find(is_it).and_then(|listener| listener.connection_pool.as_ref());
        of_port.or(spec.inbound_connection_pool.as_ref())
    }

    /// The policy of the service's rule, and the path of that rule. Rules for chosen clients say nothing of what those
    /// clients serve.
    fn policy(
        &self,
        instance: Option<&Instance>,
        port: u16,
        pool: Option<&ConnectionPoolSettings>,
    ) -> (Policy, Option<String>) {
        let rule = instance.and_then(|instance| {
            let service = &instance.service;
            let rules = &self.world.destination_rules;
            rules.find(&self.node.namespace, &Labels::new(), &service.host, &service.namespace)
        });
        let policy = match rule {
            Some(rule) => rule.policy_of_workload(port, pool),
            None => Policy::of_workload(None, port, pool),
        };
        (policy.in_mesh(&self.world.config.connections, false), rule.map(|rule| rule.config_path()))
    }

    /// Where a workload listens that does not listen where clients go.
    fn workload_at(&self, listener: &IngressListener) -> Option<(EndpointAddress, u16)> {
        let endpoint = listener.default_endpoint.as_str();
        if let Some(path) = endpoint.strip_prefix("unix://") {
            return Some((EndpointAddress::Pipe(path.to_owned()), 0));
        }
        let address: SocketAddr = endpoint.parse().ok()?;
        let v4 = address.is_ipv4();
        let of_family = |addresses: Vec<IpAddr>| addresses.into_iter().find(|own| own.is_ipv4() == v4);
        let ip = if address.ip().is_unspecified() {
            let localhost = if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            of_family(self.node.addresses.clone()).unwrap_or(localhost)
        } else {
            let loopbacks = self.key.loopbacks();
            of_family(loopbacks.clone()).or_else(|| loopbacks.first().copied())?
        };
        Some((EndpointAddress::Ip(ip), address.port()))
    }
}

fn upstream(protocol: Protocol) -> Upstream {
    match protocol {
        protocol if protocol.is_http2() => Upstream::Http2,
        Protocol::Auto => Upstream::AsClient,
        _ => Upstream::Http1,
    }
}
