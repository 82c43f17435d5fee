//! How workloads take connections: PeerAuthentications, resolved to one mode for each port of a workload.
//!
//! The narrowest word holds: of a port, of the workload, of its namespace, of the mesh; the oldest of those of one
//! width. Old MeshPolicies and Policies are read as what they meant. Who says nothing (UNSET) leaves it to the next wider one; nobody is PERMISSIVE. Source: Istio
//! `pilot/pkg/security/authn/policy_applier.go` (ComposePeerAuthentication), `pilot/pkg/model/authentication.go`.

use super::{created, oldest_first};
use crate::config::Config as MeshSettings;
use crate::registry::{Labels, selects};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lateen_galley::istio::PeerAuthentication;
use lateen_galley::istio::authentication::{MeshPolicy, Policy, Target, TargetPort};
use lateen_galley::istio::peer_authentication::MutualTlsMode;
use lateen_galley::{Config, Kind, Object, Snapshot};
use std::collections::BTreeMap;

/// Which connections a port of a workload takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerMode {
    /// Plain text.
    Disable,
    /// Plain text and mutual TLS.
    #[default]
    Permissive,
    /// Mutual TLS.
    Strict,
}

impl PeerMode {
    /// None if it is another's to say.
    fn of(mode: MutualTlsMode) -> Option<PeerMode> {
        match mode {
            MutualTlsMode::Unset => None,
            MutualTlsMode::Disable => Some(PeerMode::Disable),
            MutualTlsMode::Permissive => Some(PeerMode::Permissive),
            MutualTlsMode::Strict => Some(PeerMode::Strict),
        }
    }
}

/// How one workload takes connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerModes {
    /// At ports of which nothing else is said.
    pub mode: PeerMode,
    /// By the workload's own port.
    pub ports: BTreeMap<u16, PeerMode>,
}

impl PeerModes {
    /// How connections to a port of the workload are taken.
    pub fn at(&self, port: u16) -> PeerMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

/// What is said of workloads with these labels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OfWorkload {
    selector: Labels,
    mode: Option<PeerMode>,
    ports: BTreeMap<u16, Option<PeerMode>>,
}

impl OfWorkload {
    /// None for one that is for all.
    fn new(spec: &PeerAuthentication) -> Option<OfWorkload> {
        let selector = spec.selector.as_ref().filter(|selector| !selector.match_labels.is_empty())?;
        let ports = spec.port_level_mtls.iter();
        Some(OfWorkload {
            selector: selector.match_labels.clone(),
            mode: spec.mtls.and_then(|mtls| PeerMode::of(mtls.mode)),
            ports: ports.filter_map(|(port, mtls)| Some((port.parse().ok()?, PeerMode::of(mtls.mode)))).collect(),
        })
    }
}

/// The oldest first.
fn all(snapshot: &Snapshot) -> Vec<&Object> {
    let kinds = [Kind::PeerAuthentication, Kind::MeshPolicy, Kind::Policy];
    let mut all: Vec<&Object> =
        kinds.iter().flat_map(|kind| oldest_first(snapshot.objects(*kind))).map(|object| &**object).collect();
    all.sort_by_key(|object| created(object.metadata()));
    all
}

/// What an old policy says of the workloads of a service that it names; none if there is no such service.
fn old_target(target: &Target, spec: &Policy, namespace: &str, snapshot: &Snapshot) -> Option<OfWorkload> {
    let service = snapshot.typed::<Service>(namespace, &target.name)?.spec.as_ref()?;
    let selector = service.selector.clone().filter(|selector| !selector.is_empty())?;
    let mode = PeerMode::of(spec.mode());
    if target.ports.is_empty() {
        return Some(OfWorkload { selector, mode, ports: BTreeMap::new() });
    }
    let pods = snapshot.objects_in(Kind::Pod, namespace).filter_map(|pod| pod.typed::<Pod>());
    let pods: Vec<&Pod> =
        pods.filter(|pod| pod.metadata.labels.as_ref().is_some_and(|labels| selects(&selector, labels))).collect();
    let mut ports = BTreeMap::new();
    for port in service.ports.iter().flatten() {
        let is_it = |TargetPort { number, name }: &TargetPort| match name.as_str() {
            "" => i32::from(*number) == port.port,
            name => port.name.as_deref() == Some(name),
        };
        if !target.ports.iter().any(is_it) {
            continue;
        }
        match &port.target_port {
            None => ports.extend(u16::try_from(port.port).map(|number| (number, mode))),
            Some(IntOrString::Int(number)) => ports.extend(u16::try_from(*number).map(|number| (number, mode))),
            Some(IntOrString::String(name)) => {
                let containers = pods.iter().filter_map(|pod| pod.spec.as_ref()).flat_map(|spec| &spec.containers);
                let named = containers.flat_map(|container| container.ports.iter().flatten());
                let named = named.filter(|port| port.name.as_ref() == Some(name));
                ports.extend(named.filter_map(|port| Some((u16::try_from(port.container_port).ok()?, mode))));
            }
        }
    }
    Some(OfWorkload { selector, mode: None, ports })
}

/// All PeerAuthentications.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRules {
    mesh: PeerMode,
    /// Of namespaces that say something else than the mesh.
    namespaces: BTreeMap<String, PeerMode>,
    /// By namespace, the oldest first.
    workloads: BTreeMap<String, Vec<OfWorkload>>,
    /// Some of them name services, and so depend on these and their pods.
    pub name_services: bool,
}

impl PeerRules {
    /// Reads all of a snapshot. In the root namespace, those that select workloads select none.
    pub fn new(snapshot: &Snapshot, config: &MeshSettings) -> PeerRules {
        let mut whole: BTreeMap<&str, Option<PeerMode>> = BTreeMap::new();
        let mut workloads: BTreeMap<String, Vec<OfWorkload>> = BTreeMap::new();
        let mut name_services = false;
        for object in all(snapshot) {
            let namespace = match object.kind() {
                Kind::MeshPolicy => config.root_namespace.as_str(),
                _ => object.namespace(),
            };
            let mut of_workloads = Vec::new();
            let mut of_all = |mode| {
                whole.entry(namespace).or_insert(mode);
            };
            if let Some(Config { spec, .. }) = object.typed::<Config<PeerAuthentication>>() {
                match OfWorkload::new(spec) {
                    Some(rule) => of_workloads.push(rule),
                    None => of_all(spec.mtls.and_then(|mtls| PeerMode::of(mtls.mode))),
                }
            } else if let Some(Config { spec: MeshPolicy(spec), .. }) = object.typed::<Config<MeshPolicy>>() {
                of_all(PeerMode::of(spec.mode()));
            } else if let Some(Config { spec, .. }) = object.typed::<Config<Policy>>() {
                if spec.targets.is_empty() {
                    of_all(PeerMode::of(spec.mode()));
                }
                name_services |= !spec.targets.is_empty();
                let targets = spec.targets.iter();
                of_workloads.extend(targets.filter_map(|target| old_target(target, spec, namespace, snapshot)));
            }
            if namespace != config.root_namespace {
                workloads.entry(namespace.to_owned()).or_default().extend(of_workloads);
            }
        }
        let mesh = whole.remove(config.root_namespace.as_str()).flatten().unwrap_or_default();
        let namespaces = whole.into_iter().filter_map(|(name, mode)| Some((name.to_owned(), mode?))).collect();
        PeerRules { mesh, namespaces, workloads, name_services }
    }

    /// How workloads of a namespace take connections of which nothing else is said.
    pub fn of_namespace(&self, namespace: &str) -> PeerMode {
        self.namespaces.get(namespace).copied().unwrap_or(self.mesh)
    }

    /// Whether a port of a workload takes plain text alone.
    pub fn refuses_tls(&self, namespace: &str, labels: &Labels, port: u16) -> bool {
        // Of most workloads nobody says anything.
        let said = self.mesh == PeerMode::Disable
            || self.namespaces.contains_key(namespace)
            || self.workloads.contains_key(namespace);
        said && self.of_workload(namespace, labels).at(port) == PeerMode::Disable
    }

    /// How a workload takes connections.
    pub fn of_workload(&self, namespace: &str, labels: &Labels) -> PeerModes {
        let own = self.workloads.get(namespace).into_iter().flatten();
        let own = own.into_iter().find(|rule| selects(&rule.selector, labels));
        let mode = own.and_then(|rule| rule.mode).unwrap_or_else(|| self.of_namespace(namespace));
        let ports = own.into_iter().flat_map(|rule| &rule.ports);
        PeerModes { mode, ports: ports.map(|(port, said)| (*port, said.unwrap_or(mode))).collect() }
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
