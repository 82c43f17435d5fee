//! What a workload's proxy says of its workload: Istio's `HealthInformation`, a request on the ADS stream of a type that
//! has no resources. Healthy without `error_detail`, else why not (istio `pilot/pkg/xds/ads.go`,
//! `pkg/istio-agent/xds_proxy.go`).

use std::sync::Arc;

use envoy_types::pb::google::rpc::Status;

use crate::ResourceType;

/// The type of such requests.
pub const TYPE_URL: &str = "type.googleapis.com/istio.v1.HealthInformation";

/// Longest explanation kept, in characters.
const MAX_MESSAGE_CHARS: usize = 1024;

/// How a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadHealth {
    Healthy,
    /// And why.
    Unhealthy(String),
}

impl WorkloadHealth {
    /// Reads a request; nothing if it is of another type.
    pub(crate) fn of_request(type_url: &str, error: Option<&Status>) -> Option<WorkloadHealth> {
        (type_url == TYPE_URL).then(|| match error {
            None => WorkloadHealth::Healthy,
            Some(error) => WorkloadHealth::Unhealthy(error.message.chars().take(MAX_MESSAGE_CHARS).collect()),
        })
    }

    /// The type and the error of a request.
    pub(crate) fn request(&self) -> (ResourceType, Option<String>) {
        let error = match self {
            WorkloadHealth::Healthy => None,
            WorkloadHealth::Unhealthy(why) => Some(why.clone()),
        };
        (ResourceType::Other(Arc::from(TYPE_URL)), error)
    }
}
