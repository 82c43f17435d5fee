//! `WorkloadEntry`: one workload that is not a pod.
//! Schema: istio/api `networking/v1alpha3/workload_entry.proto`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One workload; also an endpoint of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadEntry {
    /// An IP address, a host name (with a DNS resolution), or `unix:///path`.
    pub address: String,
    /// Its ports by the service port's name; a port not named here is the service port's target port.
    pub ports: BTreeMap<String, u32>,
    /// Labels, for subsets and selectors.
    pub labels: BTreeMap<String, String>,
    /// The network it is in: its label `topology.istio.io/network`, whatever the others say.
    pub network: String,
    /// `region/zone/subzone`.
    pub locality: String,
    /// Share of the load among its siblings; 0 is 1.
    pub weight: u32,
    /// The service account it runs as.
    pub service_account: String,
}
