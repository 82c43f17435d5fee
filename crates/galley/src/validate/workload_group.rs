//! WorkloadGroup: istio `pkg/config/validation/validation.go` (validateReadinessProbe).

use super::{Findings, names, service_entry, shared};
use crate::istio::WorkloadGroup;
use crate::istio::workload_group::ReadinessProbe;

pub(super) fn check(spec: &WorkloadGroup, findings: &mut Findings) {
    match &spec.template {
        None => findings.error("spec.template", "required"),
        Some(template) => {
            if !template.address.is_empty() {
                findings.warning("spec.template.address", "is not used: each workload has its own");
            }
            if !template.labels.is_empty() {
                findings.warning("spec.template.labels", "write labels under spec.metadata");
            }
            service_entry::check_template(template, findings);
        }
    }
    if let Some(metadata) = &spec.metadata {
        shared::labels("spec.metadata.labels", &metadata.labels, findings);
        for name in metadata.annotations.keys() {
            findings.check("spec.metadata.annotations", names::qualified_name(&name.to_ascii_lowercase()));
        }
    }
    if let Some(given) = &spec.probe {
        probe("spec.probe", given, findings);
    }
}

/// A probe at a path.
pub(crate) fn probe(at: &str, probe: &ReadinessProbe, findings: &mut Findings) {
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if value < 0 {
            findings.error(format!("{at}.{field}"), "is less than 0");
        }
    }
    let ways = [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.exec.is_some(), probe.grpc.is_some()];
    if ways.iter().filter(|given| **given).count() != 1 {
        findings.error(at, "exactly one of httpGet, tcpSocket, exec, grpc is needed");
    }
    if let Some(http) = &probe.http_get {
        findings.check(&format!("{at}.httpGet.port"), names::port(http.port.into()));
        if !["", "HTTP", "HTTPS"].contains(&http.scheme.as_str()) {
            findings.error(format!("{at}.httpGet.scheme"), format!("{:?} is neither HTTP nor HTTPS", http.scheme));
        }
        for (index, header) in http.http_headers.iter().enumerate() {
            let at = format!("{at}.httpGet.httpHeaders[{index}].name");
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if header.name.is_empty() || !header.name.bytes().all(good) {
                findings.error(at, format!("{:?} is no header's name", header.name));
            }
        }
    }
    if let Some(tcp) = &probe.tcp_socket {
        findings.check(&format!("{at}.tcpSocket.port"), names::port(tcp.port.into()));
    }
    if let Some(grpc) = &probe.grpc {
        findings.check(&format!("{at}.grpc.port"), names::port(grpc.port.into()));
    }
    if probe.exec.as_ref().is_some_and(|exec| exec.command.is_empty()) {
        findings.error(format!("{at}.exec.command"), "required");
    }
}
