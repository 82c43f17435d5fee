//! What policies apply to. Schemas: istio/api `type/v1beta1/selector.proto`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Workloads by their labels.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// All of these; empty is every workload.
    pub match_labels: BTreeMap<String, String>,
}

/// An object of the policy's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyTargetReference {
    /// Its API group; empty for Kubernetes' core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Must be empty.
    pub namespace: String,
}

impl PolicyTargetReference {
    /// The Gateway of the Gateway API that it refers to, if it does: its workloads are the pods of the policy's namespace
    /// with the label [`GATEWAY_NAME`].
    pub fn gateway(&self) -> Option<&str> {
        let is_gateway = self.group == "gateway.networking.k8s.io" && self.kind == "Gateway";
        (is_gateway && self.namespace.is_empty()).then_some(&self.name)
    }
}

/// Label of the pods of a Gateway, whose name it says.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
