//! Load assignments: the hosts of a cluster.
//!
//! - reject: overload drops, endpoints by reference, lists by another service (LEDS)
//! - note: metadata apart from the hash key and what chooses a transport, further addresses of a host

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{self as core, HealthStatus};
use envoy_types::pb::envoy::config::endpoint::v3::{self as pb, cluster_load_assignment, lb_endpoint::HostIdentifier};
use envoy_types::pb::google::protobuf::value::Kind;
use lateen_traffic::cluster::{Endpoint, EndpointAddress, Endpoints, Health, Locality, LocalityEndpoints};

use super::address::endpoint_address;
use super::cluster::transport_labels as transport_labels_of;
use super::health_check::checked_as;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};

/// Which addresses the hosts of a cluster may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IP addresses and pipes: what discovery sends must be ready to connect to.
    Ready,
    /// DNS names too.
    Names,
}

/// Converts a load assignment, from EDS or inside a cluster.
pub fn endpoints(
    assignment: pb::ClusterLoadAssignment,
    allowed: Addresses,
    notes: &mut Notes,
) -> Result<Endpoints, Reject> {
    let pb::ClusterLoadAssignment { cluster_name: _, endpoints, named_endpoints, policy } = assignment;
    reject_if_set!(named_endpoints);
    let mut overprovisioning_factor = 140;
    if let Some(policy) = policy {
        let cluster_load_assignment::Policy {
            drop_overloads,
            overprovisioning_factor: factor,
            endpoint_stale_after,
            weighted_priority_health,
        } = policy;
        (|| {
            reject_if_set!(drop_overloads, endpoint_stale_after, weighted_priority_health);
            Ok(())
        })()
        .at("policy")?;
        if let Some(factor) = factor {
            overprovisioning_factor = factor.value;
        }
    }
    let localities = each("endpoints", endpoints, |locality| locality_endpoints(locality, allowed, notes))?;
    Ok(Endpoints { localities, overprovisioning_factor })
}

fn locality_endpoints(
    value: pb::LocalityLbEndpoints,
    allowed: Addresses,
    notes: &mut Notes,
) -> Result<LocalityEndpoints, Reject> {
    let pb::LocalityLbEndpoints {
        locality,
        metadata,
        lb_endpoints,
        load_balancing_weight,
        priority,
        proximity,
        lb_config,
    } = value;
    note_if_set!(notes, "LocalityLbEndpoints": metadata, proximity);
    if priority > 128 {
        return Err(Reject::field("priority", format_args!("{priority} is more than 128")));
    }
    let lb_endpoints = match lb_config {
        None => lb_endpoints,
        Some(pb::locality_lb_endpoints::LbConfig::LoadBalancerEndpoints(list)) => {
            let pb::locality_lb_endpoints::LbEndpointList { lb_endpoints } = list;
            lb_endpoints
        }
        Some(pb::locality_lb_endpoints::LbConfig::LedsClusterLocalityConfig(_)) => {
            return Err(Reject::field("leds_cluster_locality_config", "not supported yet"));
        }
    };
    let core::Locality { region, zone, sub_zone } = locality.unwrap_or_default();
    Ok(LocalityEndpoints {
        locality: Locality { region, zone, sub_zone },
        priority,
        weight: load_balancing_weight.map(|weight| weight.value),
        endpoints: each("lb_endpoints", lb_endpoints, |endpoint| lb_endpoint(endpoint, allowed, notes).map(Arc::new))?,
    })
}

fn lb_endpoint(value: pb::LbEndpoint, allowed: Addresses, notes: &mut Notes) -> Result<Endpoint, Reject> {
    let pb::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = value;
    let hash_key = metadata.as_ref().and_then(hash_key);
    let transport_labels = metadata.as_ref().and_then(|all| all.filter_metadata.get("envoy.transport_socket_match"));
    let transport_labels = transport_labels.cloned().map(transport_labels_of).transpose();
    let transport_labels = transport_labels.at(r#"metadata.filter_metadata["envoy.transport_socket_match"]"#)?;
    note_if_set!(notes, "LbEndpoint": metadata);
    let weight = load_balancing_weight.map_or(1, |weight| weight.value);
    if weight == 0 {
        return Err(Reject::field("load_balancing_weight", "must be at least 1"));
    }
    let health = match HealthStatus::try_from(health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Health::Unhealthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Err(_) => return Err(Reject::field("health_status", format_args!("{health_status} is not known"))),
    };
    let endpoint = match host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => return Err(Reject::field("endpoint_name", "not supported yet")),
        None => return Err(Reject::field("endpoint", "missing")),
    };
    let pb::Endpoint { address, health_check_config, hostname, additional_addresses, observability_name } = endpoint;
    note_if_set!(notes, "Endpoint": observability_name);
    let checked_as = health_check_config.map_or(Ok(None), checked_as).at("endpoint.health_check_config")?;
    // Tried by Envoy when the first does not answer.
    note_if_set!(notes, "Endpoint": additional_addresses);
    let address = address.ok_or_else(|| Reject::field("endpoint.address", "missing"))?;
    let address = endpoint_address(address).at("endpoint.address")?;
    if let (EndpointAddress::Dns { host, .. }, Addresses::Ready) = (&address, allowed) {
        let reason = format_args!(
            "malformed IP address: {host}; only a cluster of type STRICT_DNS or LOGICAL_DNS resolves names"
        );
        return Err(Reject::field("endpoint.address.socket_address.address", reason));
    }
    Ok(Endpoint {
        address,
        hostname: hostname.into(),
        weight,
        health,
        hash_key,
        checked_as,
        transport_labels: transport_labels.unwrap_or_default(),
    })
}

/// What stands for the host's address where hashes choose hosts.
fn hash_key(metadata: &core::Metadata) -> Option<Arc<str>> {
    match metadata.filter_metadata.get("envoy.lb")?.fields.get("hash_key")?.kind.as_ref()? {
        Kind::StringValue(key) if !key.is_empty() => Some(key.as_str().into()),
        _ => None,
    }
}
