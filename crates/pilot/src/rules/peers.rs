//! How workloads take connections: PeerAuthentications, resolved to one mode for each port of a workload.
//!
//! The narrowest word holds: of a port, of the workload, of its namespace, of the mesh; the oldest of those of one
//! width. Who says nothing (UNSET) leaves it to the next wider one; nobody is PERMISSIVE. Source: Istio
//! `pilot/pkg/security/authn/policy_applier.go` (ComposePeerAuthentication), `pilot/pkg/model/authentication.go`.

use super::oldest_first;
use crate::config::Config as MeshSettings;
use crate::registry::{Labels, selects};
use lateen_galley::istio::PeerAuthentication;
use lateen_galley::istio::peer_authentication::MutualTlsMode;
use lateen_galley::{Config, Kind, Snapshot};
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

/// All PeerAuthentications.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRules {
    mesh: PeerMode,
    /// Of namespaces that say something else than the mesh.
    namespaces: BTreeMap<String, PeerMode>,
    /// By namespace, the oldest first.
    workloads: BTreeMap<String, Vec<OfWorkload>>,
}

impl PeerRules {
    /// Reads all of a snapshot. In the root namespace, those that select workloads select none.
    pub fn new(snapshot: &Snapshot, config: &MeshSettings) -> PeerRules {
        let mut whole: BTreeMap<&str, Option<PeerMode>> = BTreeMap::new();
        let mut workloads: BTreeMap<String, Vec<OfWorkload>> = BTreeMap::new();
        for object in oldest_first(snapshot, Kind::PeerAuthentication) {
            let Some(Config { spec, .. }) = object.typed::<Config<PeerAuthentication>>() else { continue };
            let mode = spec.mtls.and_then(|mtls| PeerMode::of(mtls.mode));
            match spec.selector.as_ref().filter(|selector| !selector.match_labels.is_empty()) {
                None => {
                    whole.entry(object.namespace()).or_insert(mode);
                }
                Some(_) if object.namespace() == config.root_namespace => {}
                Some(selector) => {
                    let ports = spec.port_level_mtls.iter();
                    workloads.entry(object.namespace().to_owned()).or_default().push(OfWorkload {
                        selector: selector.match_labels.clone(),
                        mode,
                        ports: ports
                            .filter_map(|(port, mtls)| Some((port.parse().ok()?, PeerMode::of(mtls.mode))))
                            .collect(),
                    });
                }
            }
        }
        let mesh = whole.remove(config.root_namespace.as_str()).flatten().unwrap_or_default();
        let namespaces = whole.into_iter().filter_map(|(name, mode)| Some((name.to_owned(), mode?))).collect();
        PeerRules { mesh, namespaces, workloads }
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
