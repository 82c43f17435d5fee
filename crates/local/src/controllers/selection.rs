//! Which pods labels select, and what a Service's ports mean to a pod. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lateen_galley::istio::workload_group::MEMBER_ANNOTATION;
use lateen_galley::{Kind, Object, Snapshot};

/// Whether labels hold everything a selector asks for; an empty selector selects nothing.
pub fn selects(selector: &BTreeMap<String, String>, labels: Option<&BTreeMap<String, String>>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The pods of a namespace that a selector selects. Those that stand for machines outside the cluster are none.
pub fn pods<'a>(
    snapshot: &'a Snapshot,
    namespace: &'a str,
    selector: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a Object, &'a Pod)> {
    snapshot
        .objects_in(Kind::Pod, namespace)
        .filter(|object| selects(selector, object.labels()) && object.annotation(MEMBER_ANNOTATION).is_none())
        .filter_map(|object| Some((object.as_ref(), object.typed::<Pod>()?)))
}

/// Whether a pod's condition `Ready` holds.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a pod is being deleted.
pub fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether a pod has ended for good.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A pod's first address.
pub fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

/// The pod's port that a service port leads to; `None` if the pod has no port of that name.
pub fn target_port(port: &ServicePort, pod: &Pod) -> Option<u16> {
    let name = match &port.target_port {
        None => return u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => return u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => name,
    };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let protocol = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let named = ports.find(|candidate| {
        candidate.name.as_ref() == Some(name) && protocol(&candidate.protocol) == protocol(&port.protocol)
    })?;
    u16::try_from(named.container_port).ok()
}
