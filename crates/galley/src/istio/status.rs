//! What the control plane writes into the `status` of Istio's kinds.
//! Schema: istio/api `meta/v1alpha1/status.proto` and `networking/v1alpha3/service_entry.proto`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The status of any of Istio's kinds: what something here reads of it. The rest (other conditions, validation messages, fields of
/// later versions) stays in the raw object and is not looked at, as Istio's CRDs leave it open.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, from = "Value", rename_all = "camelCase")]
pub struct IstioStatus {
    /// Addresses given to a ServiceEntry that has none of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<ServiceEntryAddress>,
    /// Whether the condition `Healthy` holds, if it is there.
    #[serde(skip_serializing)]
    pub healthy: Option<bool>,
    /// The generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl From<Value> for IstioStatus {
    fn from(status: Value) -> Self {
        let addresses = status.get("addresses").and_then(Value::as_array).into_iter().flatten();
        Self {
            addresses: addresses.filter_map(|address| ServiceEntryAddress::deserialize(address).ok()).collect(),
            healthy: condition(&status, "Healthy"),
            observed_generation: status.get("observedGeneration").and_then(Value::as_i64),
        }
    }
}

fn condition(status: &Value, kind: &str) -> Option<bool> {
    let conditions = status.get("conditions")?.as_array()?;
    let condition = conditions.iter().find(|condition| condition.get("type").is_some_and(|given| given == kind))?;
    Some(condition.get("status").is_some_and(|said| said == "True"))
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
