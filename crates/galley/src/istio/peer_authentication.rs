//! `PeerAuthentication`: whether workloads are talked to by mutual TLS.
//! Schema: istio/api `security/v1beta1/peer_authentication.proto`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::policy_target::WorkloadSelector;

/// How connections to workloads are taken.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PeerAuthentication {
    /// Workloads this applies to; absent is all of the namespace, or of the mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// At every port; absent is what holds for the namespace, or the mesh.
    pub mtls: Option<MutualTls>,
    /// At single ports of the workload, by number.
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

/// How connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MutualTls {
    /// Which connections.
    pub mode: MutualTlsMode,
}

/// Which connections a workload takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    /// What holds one level up.
    #[default]
    Unset,
    /// Plain text; TLS is not ended.
    Disable,
    /// Plain text and mutual TLS.
    Permissive,
    /// Mutual TLS with a client certificate only.
    Strict,
}
