//! Outbound clusters and endpoints of all services a proxy sees.
//!
//! Source: Istio `core/cluster.go` (buildOutboundClusters), `xds/endpoints/endpoint_builder.go`.

use super::security::Server;
use super::{Made, Memo};
use crate::generate::cluster::{Discovery, OutboundCluster, ServiceLabel, Upstream};
use crate::generate::endpoint::ClusterEndpoints;
use crate::generate::transport::Transport;
use crate::names;
use crate::node::NodeType;
use crate::registry::{
    Endpoint, Entry, Labels, Protocol, Resolution, Service, ServicePort, Source, TargetPort, selects,
};
use crate::rules::{Balancing, Policy};
use crate::scope::{Scope, View};
use std::sync::Arc;

/// Adds the clusters and endpoints of all visible services.
pub fn add(scope: &Scope<'_>, memo: &mut Memo, made: &mut Made) {
    for entry in scope.services() {
        add_service(scope, entry, memo, made);
    }
}

/// Adds the clusters and endpoints of one service.
pub fn add_service(scope: &View<'_>, entry: &Entry, memo: &mut Memo, made: &mut Made) {
    let service = &entry.service;
    if service.resolution == Resolution::Alias {
        return;
    }
    let rule = scope.destination_rule(entry);
    let everyone = Labels::new();
    let connections = &scope.world.config.connections;
    let server = Server::new(*scope, entry, rule.map(Arc::as_ref));
    for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
        let whole = std::iter::once(("", &everyone));
        let subsets = rule.iter().flat_map(|rule| rule.subsets());
        // Hosts nobody knows beforehand have no labels.
        let subsets = subsets.filter(|(name, _)| !name.is_empty() && service.resolution != Resolution::Named);
        for (subset, labels) in whole.chain(subsets) {
            let policy = scope.policy_of(entry, subset, port.number).in_mesh(connections, port.protocol.is_http());
            let endpoints = in_service(&policy, scope.reachable(service, chosen(entry, port.number, labels)));
            let endpoints = server.marked(&policy, endpoints);
            let (preference, locality_weighted) = scope.preference(service, &policy);
            let Some(discovery) = discovery(scope, service, port, &endpoints, policy.balancing) else { continue };
            let name = names::outbound_cluster(port.number, subset, &service.host);
            let eds = discovery == Discovery::Eds;
            let known =
                !matches!(discovery, Discovery::OriginalDst { .. }) && policy.balancing != Balancing::Passthrough;
            let transport = server.transport(&policy, port.number, subset, known);
            made.credentials.extend(transport.credentials());
            let twin = (eds && scope.passes_on_to(service)).then(|| {
                // TLS is the client's and the endpoint's: those that do not speak the mesh's are out of reach.
                let endpoints = endpoints.iter().filter(|endpoint| endpoint.mutual_tls).cloned().collect();
                (names::server_name(port.number, subset, &service.host), endpoints)
            });
            if eds {
                let preference = preference.clone();
                made.endpoints.push(memo.get(ClusterEndpoints { cluster: name.clone(), endpoints, preference }));
            }
            let cluster = OutboundCluster {
                name,
                discovery,
                upstream: upstream(scope, port),
                transport,
                policy,
                families: scope.key.families,
                service: label(service),
                subset: subset.to_owned(),
                config: rule.map(|rule| rule.config_path()),
                mesh_external: service.mesh_external,
                // Where endpoints are sent apart, what is preferred of them is no change of the cluster.
                preference: if eds { None } else { preference },
                locality_weighted,
                dns_refresh_rate: connections.dns_refresh_rate,
            };
            if let Some((name, endpoints)) = twin {
                made.endpoints.push(memo.get(ClusterEndpoints { cluster: name.clone(), endpoints, preference: None }));
                let (transport, upstream) = (Transport::Plain, Upstream::Http1);
                made.clusters.push(memo.get(OutboundCluster { name, transport, upstream, ..cluster.clone() }));
            }
            made.clusters.push(memo.get(cluster));
        }
    }
}

/// How telemetry shows a service.
pub fn label(service: &Service) -> ServiceLabel {
    ServiceLabel {
        host: service.host.to_string(),
        // An entry's hosts are services of their own.
        name: match service.source {
            Source::Kubernetes => service.name.clone(),
            Source::ServiceEntry => service.host.to_string(),
        },
        namespace: service.namespace.clone(),
    }
}

fn chosen(entry: &Entry, port: u16, labels: &Labels) -> Arc<[Endpoint]> {
    match entry.endpoints.get(&port) {
        None => Arc::from([]),
        Some(all) if labels.is_empty() => Arc::clone(all),
        Some(all) => all.iter().filter(|endpoint| selects(labels, &endpoint.labels)).cloned().collect(),
    }
}

/// Endpoints that are not ready are sent as such; but not where health may come to be disregarded, for they would get
/// requests then.
fn in_service(policy: &Policy, endpoints: Arc<[Endpoint]>) -> Arc<[Endpoint]> {
    let disregards = policy.outlier.as_ref().is_some_and(|outlier| outlier.min_health_percent > 0);
    if !disregards || endpoints.iter().all(|endpoint| endpoint.healthy) {
        return endpoints;
    }
    endpoints.iter().filter(|endpoint| endpoint.healthy).cloned().collect()
}

fn upstream(scope: &View<'_>, port: &ServicePort) -> Upstream {
    match port.protocol {
        protocol if protocol.is_http2() => Upstream::Http2,
        // A gateway knows what its clients speak only after TLS, where it always offers HTTP/2.
        Protocol::Auto if scope.key.node_type == NodeType::Sidecar => Upstream::AsClient,
        _ => Upstream::Http1,
    }
}

/// How the cluster finds its endpoints; `None` if it would have none to begin with, which Envoy refuses.
fn discovery(
    scope: &View<'_>,
    service: &Service,
    port: &ServicePort,
    endpoints: &Arc<[Endpoint]>,
    balancing: Balancing,
) -> Option<Discovery> {
    let sidecar = scope.key.node_type == NodeType::Sidecar;
    let original = || Discovery::OriginalDst {
        port: match (service.source, &port.target) {
            (Source::ServiceEntry, TargetPort::Number(target)) if *target != port.number => Some(*target),
            _ => None,
        },
    };
    match service.resolution {
        Resolution::Alias => None,
        Resolution::Named => Some(Discovery::Named),
        Resolution::Passthrough if sidecar => Some(original()),
        Resolution::Static | Resolution::Passthrough if balancing == Balancing::Passthrough => Some(original()),
        Resolution::Static | Resolution::Passthrough => Some(Discovery::Eds),
        Resolution::Dns if endpoints.is_empty() => None,
        Resolution::Dns => Some(Discovery::StrictDns(Arc::clone(endpoints))),
        // Envoy takes exactly one name here.
        Resolution::DnsRoundRobin => endpoints.first().map(|first| Discovery::LogicalDns(Arc::from([first.clone()]))),
    }
}
