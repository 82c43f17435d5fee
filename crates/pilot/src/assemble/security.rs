//! How a client's connections to a service are secured: the rule's word, else the mesh's mutual TLS wherever it is spoken.
//!
//! Source: Istio `core/cluster_tls.go` (buildUpstreamTLSSettings), `pilot/pkg/model/push_context.go`
//! (initServiceAccounts, BestEffortInferServiceMTLSMode), `xds/endpoints/mtls_checker.go`.

use crate::generate::transport::{MeshTls, OwnTls, Transport};
use crate::names;
use crate::node::NodeType;
use crate::registry::{Endpoint, Entry, Resolution, Source};
use crate::rules::{Balancing, Merged, PeerMode, Policy};
use crate::scope::View;
use lateen_galley::istio::destination_rule::ClientTlsMode;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A service's side of it, the same for all its ports and subsets.
pub struct Server<'a> {
    view: View<'a>,
    entry: &'a Entry,
    rule: Option<&'a Merged>,
    /// Identities that its endpoints may have.
    identities: Arc<[String]>,
}

impl<'a> Server<'a> {
    pub fn new(view: View<'a>, entry: &'a Entry, rule: Option<&'a Merged>) -> Server<'a> {
        let endpoints = entry.endpoints.values().flat_map(|endpoints| endpoints.iter());
        let accounts: BTreeSet<(&str, &str)> = endpoints
            .map(|endpoint| (endpoint.workload.namespace.as_str(), endpoint.workload.service_account.as_str()))
            .filter(|(_, account)| !account.is_empty())
            .collect();
        let config = &view.world.config;
        let domain = &config.trust_domain;
        let of_accounts =
            accounts.into_iter().map(|(namespace, account)| format!("spiffe://{domain}/ns/{namespace}/sa/{account}"));
        let mut identities: BTreeSet<String> = of_accounts.chain(entry.service.server_names.iter().cloned()).collect();
        // A server may have its name under any of the mesh's trust domains (`pkg/spiffe`, ExpandWithTrustDomains).
        let paths = identities.iter().filter_map(|name| Some(name.strip_prefix("spiffe://")?.split_once("/ns/")?.1));
        let aliased = |path| config.trust_domain_aliases.iter().map(move |alias| format!("spiffe://{alias}/ns/{path}"));
        let aliases: Vec<String> = paths.flat_map(aliased).collect();
        identities.extend(aliases);
        Server { view, entry, rule, identities: identities.into_iter().collect() }
    }

    /// What connections for a port of the service, or of a subset of it, are made of. `known`: the control plane knows
    /// where they go to.
    pub fn transport(&self, policy: &Policy, port: u16, subset: &str, known: bool) -> Transport {
        let service = &self.entry.service;
        let mesh = |server_name: &str, names: &[String]| MeshTls {
            server_name: match server_name {
                "" => names::server_name(port, subset, &service.host),
                name => name.to_owned(),
            },
            names: if names.is_empty() { Arc::clone(&self.identities) } else { names.into() },
            oldest: self.view.world.config.mesh_mtls.min_protocol_version,
        };
        let Some(tls) = &policy.tls else {
            return match self.is_spoken(policy, port) {
                false => Transport::Plain,
                true if known => Transport::MeshWhereSpoken(mesh("", &[])),
                true => Transport::Mesh(mesh("", &[])),
            };
        };
        match tls.mode {
            ClientTlsMode::Disable => Transport::Plain,
            ClientTlsMode::IstioMutual => Transport::Mesh(mesh(&tls.sni, &tls.subject_alt_names)),
            // Meant for gateways: it is no sidecar's Secret, but for those that the rule selects.
            _ if !tls.credential_name.is_empty() && !self.may_have(&tls.credential_name) => Transport::Plain,
            ClientTlsMode::Simple | ClientTlsMode::Mutual => Transport::Own(Arc::new(OwnTls {
                names: match tls.subject_alt_names.as_slice() {
                    [] if service.source == Source::ServiceEntry => self.identities.to_vec(),
                    names => names.to_vec(),
                },
                hosts_named_by_requests: service.resolution == Resolution::Named,
                settings: tls.clone(),
                defaults: self.view.world.config.tls_defaults.clone(),
            })),
        }
    }

    /// Whether the mesh's mutual TLS is spoken though no rule says so: where the control plane does not choose the
    /// endpoint, only if all speak it.
    fn is_spoken(&self, policy: &Policy, port: u16) -> bool {
        let service = &self.entry.service;
        let world = self.view.world;
        if !world.config.automatic_mutual_tls || service.mesh_external {
            return false;
        }
        if world.peers.of_namespace(&service.namespace) == PeerMode::Disable {
            return false;
        }
        let anywhere = service.resolution == Resolution::Passthrough || policy.balancing == Balancing::Passthrough;
        let endpoints: &[Endpoint] = self.entry.endpoints.get(&port).map_or(&[], |endpoints| endpoints);
        !anywhere || (!endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.mutual_tls))
    }

    fn may_have(&self, credential: &str) -> bool {
        self.view.key.node_type == NodeType::Router
            || self.rule.is_some_and(Merged::selects_clients)
            || credential.starts_with("configmap://")
    }

    /// Endpoints, with the mark of those that speak the mesh's TLS only where a client is to go by it: where no rule
    /// says otherwise, nor the workload itself.
    pub fn marked(&self, policy: &Policy, endpoints: Arc<[Endpoint]>) -> Arc<[Endpoint]> {
        let peers = &self.view.world.peers;
        let unmarked = |endpoint: &Endpoint| match &policy.tls {
            Some(tls) => tls.mode != ClientTlsMode::IstioMutual,
            None => peers.refuses_tls(&endpoint.workload.namespace, &endpoint.labels, endpoint.port),
        };
        let changes = |endpoint: &Endpoint| endpoint.mutual_tls && unmarked(endpoint);
        if !endpoints.iter().any(changes) {
            return endpoints;
        }
        let marked = |endpoint: &Endpoint| Endpoint {
            mutual_tls: endpoint.mutual_tls && !unmarked(endpoint),
            ..endpoint.clone()
        };
        endpoints.iter().map(marked).collect()
    }
}
