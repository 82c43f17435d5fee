//! Service: Kubernetes `pkg/apis/core/validation`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Findings, names, shared};

/// Says of a gateway to which other network it leads.
const NETWORK: &str = "topology.istio.io/network";

const TYPES: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

pub(super) fn check(service: &Service, findings: &mut Findings) {
    let Some(spec) = &service.spec else {
        findings.error("spec", "required");
        return;
    };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if !TYPES.contains(&kind) {
        findings.error("spec.type", format!("{kind:?} is not one of {}", TYPES.join(", ")));
    }
    for (field, value, known) in [
        ("sessionAffinity", &spec.session_affinity, ["None", "ClientIP"].as_slice()),
        ("internalTrafficPolicy", &spec.internal_traffic_policy, &["Cluster", "Local"]),
        ("trafficDistribution", &spec.traffic_distribution, &["PreferClose", "PreferSameZone", "PreferSameNode"]),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !known.contains(value)) {
            findings.error(format!("spec.{field}"), format!("{value:?} is not one of {}", known.join(", ")));
        }
    }
    if service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(NETWORK)) {
        findings.warning(
            format!("metadata.labels[{NETWORK:?}]"),
            "gateways between networks are not used: endpoints are reached directly",
        );
    }
    if let Some(selector) = &spec.selector {
        shared::labels("spec.selector", selector, findings);
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if kind == "ExternalName" {
        external_name(spec, findings);
    } else if headless && kind != "ClusterIP" {
        findings.error("spec.clusterIP", format!("\"None\" does not go together with type {kind}"));
    }
    match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => {}
        Some(address) if !names::is_ip(address) => {
            findings.error("spec.clusterIP", format!("{address:?} is not an IP address or \"None\""));
        }
        Some(_) => {}
    }
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        let at = format!("spec.externalIPs[{index}]");
        match address.parse::<IpAddr>() {
            Err(_) => findings.error(at, format!("{address:?} is not an IP address")),
            Ok(ip) if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() => {
                findings.error(at, format!("{address} can be nobody's"));
            }
            Ok(_) => {}
        }
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless && kind != "ExternalName" {
        findings.error("spec.ports", "required: at least one port");
    }
    check_ports(ports, kind, findings);
}

fn external_name(spec: &ServiceSpec, findings: &mut Findings) {
    match spec.external_name.as_deref().unwrap_or_default() {
        "" => findings.error("spec.externalName", "required with type ExternalName"),
        name => findings.check("spec.externalName", names::fqdn(name)),
    }
    if spec.cluster_ip.as_deref().is_some_and(|address| !address.is_empty()) {
        findings.error("spec.clusterIP", "does not go together with type ExternalName");
    }
}

fn check_ports(ports: &[ServicePort], kind: &str, findings: &mut Findings) {
    let (mut seen_names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            findings.error(format!("{at}.protocol"), format!("{protocol:?} is not one of TCP, UDP, SCTP"));
        }
        findings.check(&format!("{at}.port"), names::port(port.port.into()));
        if !numbers.insert((protocol, port.port)) {
            findings.error(format!("{at}.port"), format!("{} {protocol} is given twice", port.port));
        }
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => findings.error(format!("{at}.name"), "required when there are several ports"),
            "" => {}
            name => {
                findings.check(&format!("{at}.name"), names::label(name));
                if !seen_names.insert(name) {
                    findings.error(format!("{at}.name"), format!("{name:?} is given twice"));
                }
            }
        }
        match &port.target_port {
            None => {}
            Some(IntOrString::Int(number)) => {
                findings.check(&format!("{at}.targetPort"), names::port(i64::from(*number)));
            }
            Some(IntOrString::String(name)) => findings.check(&format!("{at}.targetPort"), names::port_name(name)),
        }
        let Some(number) = port.node_port.filter(|number| *number != 0) else { continue };
        findings.check(&format!("{at}.nodePort"), names::port(number.into()));
        if !["NodePort", "LoadBalancer"].contains(&kind) {
            findings.error(format!("{at}.nodePort"), format!("does not go together with type {kind}"));
        }
        if !node_ports.insert((protocol, number)) {
            findings.error(format!("{at}.nodePort"), format!("{number} is given twice"));
        }
    }
}
