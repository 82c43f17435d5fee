//! What the control plane writes into the `status` of Istio's kinds.
//! Schema: istio/api `meta/v1alpha1/status.proto` and `networking/v1alpha3/service_entry.proto`.

use serde::{Deserialize, Serialize};

/// The status of any of Istio's kinds. Fields not named here stay in the raw object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IstioStatus {
    /// Addresses given to a ServiceEntry that has none of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<ServiceEntryAddress>,
    /// The generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// An address given to a ServiceEntry's host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntryAddress {
    /// An IP address.
    pub value: String,
    /// The host it is for; empty is every host of the entry.
    pub host: String,
}
