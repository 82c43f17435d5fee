//! Endpoints of a cluster, sent apart (EDS) or written into it.
//!
//! Source: Istio `xds/endpoints/endpoint_builder.go`.

use super::locality::{self, Preference};
use super::{transport, wire};
use crate::registry::{Endpoint, EndpointAddress};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EndpointMessage, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::google::protobuf::Struct;
use std::collections::HashMap;
use std::sync::Arc;

/// The endpoints of a cluster.
pub type Assignment = Arc<[Endpoint]>;

/// The endpoints of the cluster of this name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterEndpoints {
    pub cluster: String,
    pub endpoints: Assignment,
    /// Which of them the client prefers, if any.
    pub preference: Option<Arc<Preference>>,
}

impl ClusterEndpoints {
    /// The assignment.
    pub fn build(&self) -> ClusterLoadAssignment {
        message(&self.cluster, &self.endpoints, self.preference.as_deref())
    }
}

/// Endpoints by locality, as the client prefers them.
pub fn message(cluster: &str, endpoints: &[Endpoint], preference: Option<&Preference>) -> ClusterLoadAssignment {
    let endpoints = locality::groups(endpoints, preference)
        .into_iter()
        .map(|group| LocalityLbEndpoints {
            locality: Some(core::Locality {
                region: group.locality.region.clone(),
                zone: group.locality.zone.clone(),
                sub_zone: group.locality.subzone.clone(),
            }),
            load_balancing_weight: Some(wire::number(group.weight)),
            priority: group.priority,
            lb_endpoints: group.endpoints.into_iter().map(lb_endpoint).collect(),
            ..Default::default()
        })
        .collect();
    ClusterLoadAssignment { cluster_name: cluster.to_owned(), endpoints, ..Default::default() }
}

/// A single endpoint, nothing else being known of it.
pub fn single(cluster: &str, address: &EndpointAddress, port: u16) -> ClusterLoadAssignment {
    let endpoint = EndpointMessage { address: Some(wire::endpoint_address(address, port)), ..Default::default() };
    let lb_endpoints =
        vec![LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }];
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints, ..Default::default() }],
        ..Default::default()
    }
}

fn lb_endpoint(endpoint: &Endpoint) -> LbEndpoint {
    let health = if endpoint.healthy { core::HealthStatus::Healthy } else { core::HealthStatus::Unhealthy };
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(EndpointMessage {
            address: Some(wire::endpoint_address(&endpoint.address, endpoint.port)),
            ..Default::default()
        })),
        health_status: health.into(),
        load_balancing_weight: Some(wire::number(endpoint.weight.max(1))),
        metadata: metadata(endpoint),
    }
}

fn metadata(endpoint: &Endpoint) -> Option<core::Metadata> {
    let workload =
        workload(endpoint).map(|text| ("istio".to_owned(), wire::structure([("workload", wire::text(&text))])));
    let mesh = endpoint.mutual_tls.then(|| (transport::CHOICE.to_owned(), transport::spoken()));
    let filter_metadata: HashMap<String, Struct> = workload.into_iter().chain(mesh).collect();
    (!filter_metadata.is_empty()).then(|| core::Metadata { filter_metadata, ..Default::default() })
}

/// `workload;namespace;canonical-name;canonical-revision;cluster`, which telemetry of the client reads.
fn workload(endpoint: &Endpoint) -> Option<String> {
    let workload = &endpoint.workload;
    let label = |keys: &[&str]| keys.iter().find_map(|key| endpoint.labels.get(*key)).map(String::as_str);
    let name = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
        .unwrap_or(if workload.name.is_empty() { "" } else { workload.name.as_str() });
    let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"])
        .filter(|revision| *revision != "latest")
        .unwrap_or_default();
    if workload.name.is_empty() && name.is_empty() {
        return None;
    }
    Some(format!("{};{};{name};{revision};Kubernetes", workload.name, workload.namespace))
}
