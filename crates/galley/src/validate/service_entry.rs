//! ServiceEntry and WorkloadEntry: istio `pkg/config/validation/validation.go` and its CRDs' rules.

use std::collections::BTreeSet;

use super::{Findings, names, shared};
use crate::istio::service_entry::Resolution;
use crate::istio::{ServiceEntry, WorkloadEntry};

pub(super) fn check(own_namespace: &str, spec: &ServiceEntry, findings: &mut Findings) {
    for (field, length, most) in [
        ("hosts", spec.hosts.len(), 256),
        ("addresses", spec.addresses.len(), 256),
        ("ports", spec.ports.len(), 256),
        ("endpoints", spec.endpoints.len(), 4096),
    ] {
        if length > most {
            findings.error(format!("spec.{field}"), format!("{length} are more than {most}"));
        }
    }
    hosts(spec, findings);
    for (index, address) in spec.addresses.iter().enumerate() {
        findings.check(&format!("spec.addresses[{index}]"), names::ip_or_block(address));
    }
    let static_or_none = matches!(spec.resolution, Resolution::None | Resolution::Static);
    if spec.addresses.iter().any(|address| address.contains('/')) && !static_or_none {
        findings.error("spec.addresses", "CIDR blocks go with resolution NONE or STATIC only");
    }
    ports(spec, findings);
    if let Some(selector) = &spec.workload_selector {
        if selector.labels.is_empty() {
            findings.warning("spec.workloadSelector.labels", "empty: every workload of the namespace is selected");
        }
        shared::selector("spec.workloadSelector.labels", &selector.labels, findings);
        if !spec.endpoints.is_empty() {
            findings.error("spec", "only one of endpoints, workloadSelector can be given");
        }
    }
    resolution(spec, findings);
    let port_names: BTreeSet<&str> = spec.ports.iter().map(|port| port.name.as_str()).collect();
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        let named = spec.resolution != Resolution::Static;
        workload(&format!("spec.endpoints[{index}]"), endpoint, Some(&port_names), named, findings);
    }
    shared::export_to(own_namespace, &spec.export_to, true, findings);
}

fn hosts(spec: &ServiceEntry, findings: &mut Findings) {
    if spec.hosts.is_empty() {
        findings.error("spec.hosts", "required: at least one host");
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        let at = format!("spec.hosts[{index}]");
        if host == "*" {
            findings.error(at, "\"*\" is no host of a service");
        } else if let Err(message) = names::wildcard_host(host) {
            findings.error(at, message);
        } else if host.starts_with('*') && !host.starts_with("*.") && spec.resolution != Resolution::DynamicDns {
            findings.warning(at, "a wildcard should be a whole label, as *.example.com");
        }
    }
}

fn ports(spec: &ServiceEntry, findings: &mut Findings) {
    let (mut seen_names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        if !seen_names.insert(&port.name) {
            findings.error(format!("{at}.name"), format!("{:?} is given twice", port.name));
        } else {
            findings.check(&format!("{at}.name"), names::label(&port.name));
        }
        if !numbers.insert(port.number) {
            findings.error(format!("{at}.number"), format!("{} is given twice", port.number));
        } else {
            findings.check(&format!("{at}.number"), names::port(port.number.into()));
        }
        if port.target_port != 0 {
            findings.check(&format!("{at}.targetPort"), names::port(port.target_port.into()));
        }
        if !port.protocol.is_empty() {
            findings.check(&format!("{at}.protocol"), shared::protocol(&port.protocol));
        }
    }
    // Plain TCP says nothing by which its host could be told.
    let opaque = |protocol: &str| !shared::is_http(protocol) && !shared::is_tls(protocol);
    if spec.resolution != Resolution::None
        && spec.hosts.len() > 1
        && let Some(index) = spec.ports.iter().position(|port| opaque(&port.protocol))
    {
        findings.error(
            format!("spec.ports[{index}].protocol"),
            "several hosts can be told apart on HTTP and TLS ports only; use one ServiceEntry a host",
        );
    }
}

fn resolution(spec: &ServiceEntry, findings: &mut Findings) {
    match spec.resolution {
        Resolution::None => {
            if !spec.endpoints.is_empty() {
                findings.error("spec.endpoints", "resolution NONE has no endpoints: clients' own addresses are used");
            }
            if spec.workload_selector.is_some() {
                findings.warning("spec.workloadSelector", "is not used with resolution NONE");
            }
        }
        Resolution::Static => {}
        Resolution::Dns | Resolution::DnsRoundRobin => {
            if spec.endpoints.is_empty() && spec.workload_selector.is_none() {
                for (index, host) in spec.hosts.iter().enumerate().filter(|(_, host)| host.starts_with('*')) {
                    let message = format!("{host:?} cannot be looked up; name endpoints or a full host");
                    findings.error(format!("spec.hosts[{index}]"), message);
                }
            }
            if spec.resolution == Resolution::DnsRoundRobin && spec.endpoints.len() > 1 {
                findings.error("spec.endpoints", "resolution DNS_ROUND_ROBIN has one endpoint at most");
            }
        }
        Resolution::DynamicDns => {
            for (index, host) in spec.hosts.iter().enumerate().filter(|(_, host)| !host.starts_with('*')) {
                findings.error(format!("spec.hosts[{index}]"), format!("{host:?}: DYNAMIC_DNS is for wildcard hosts"));
            }
            for (field, given) in [("addresses", !spec.addresses.is_empty()), ("endpoints", !spec.endpoints.is_empty())]
            {
                if given {
                    findings.error(format!("spec.{field}"), "resolution DYNAMIC_DNS has none");
                }
            }
            for (index, port) in spec.ports.iter().enumerate() {
                let known =
                    ["http", "tls", "grpc", "http2"].iter().any(|known| known.eq_ignore_ascii_case(&port.protocol));
                if !known {
                    findings
                        .error(format!("spec.ports[{index}].protocol"), "DYNAMIC_DNS does HTTP, HTTP2, GRPC and TLS");
                }
            }
        }
    }
}

pub(super) fn check_workload(spec: &WorkloadEntry, findings: &mut Findings) {
    workload("spec", spec, None, true, findings);
}

/// A template of workloads: what a workload has, but for the address.
pub(super) fn check_template(spec: &WorkloadEntry, findings: &mut Findings) {
    ports_and_labels("spec.template", spec, None, findings);
}

/// `port_names`: of the ServiceEntry it is written in; `named`: whether a host name will do as address.
fn workload(
    path: &str,
    workload: &WorkloadEntry,
    port_names: Option<&BTreeSet<&str>>,
    named: bool,
    findings: &mut Findings,
) {
    let at = format!("{path}.address");
    let address = workload.address.as_str();
    if address.is_empty() {
        if workload.network.is_empty() {
            findings.error(&at, "required");
        }
    } else if let Some(socket) = address.strip_prefix("unix://") {
        findings.check(&at, names::unix_socket(socket));
        if !workload.ports.is_empty() {
            findings.error(format!("{path}.ports"), "a unix socket has none");
        }
        if port_names.is_some_and(|names| names.len() != 1) {
            findings.error(&at, "a unix socket needs exactly one service port");
        }
    } else if !names::is_ip(address) {
        if !named {
            findings.error(&at, format!("{address:?} is not an IP address, which resolution STATIC needs"));
        } else if names::fqdn(address).is_err() {
            findings.error(&at, format!("{address:?} is neither an IP address nor a host name"));
        }
    }
    ports_and_labels(path, workload, port_names, findings);
}

fn ports_and_labels(
    path: &str,
    workload: &WorkloadEntry,
    port_names: Option<&BTreeSet<&str>>,
    findings: &mut Findings,
) {
    for (name, number) in &workload.ports {
        let at = format!("{path}.ports[{name:?}]");
        if port_names.is_some_and(|names| !names.contains(name.as_str())) {
            findings.error(&at, "the service has no port of this name");
        }
        findings.check(&at, names::label(name));
        findings.check(&at, names::port(i64::from(*number)));
    }
    shared::labels(&format!("{path}.labels"), &workload.labels, findings);
}
