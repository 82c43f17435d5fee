//! Sidecar: istio `pkg/config/validation/validation.go`.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Findings, destination_rule, names, shared};
use crate::istio::Sidecar;
use crate::istio::sidecar::{
    CaptureMode, EgressListener, IngressListener, OutboundMode, OutboundTrafficPolicy, SidecarPort,
};

pub(super) fn check(own_namespace: &str, spec: &Sidecar, findings: &mut Findings) {
    if let Some(selector) = &spec.workload_selector {
        if selector.labels.is_empty() {
            findings.warning("spec.workloadSelector.labels", "empty: every workload of the namespace is selected");
        }
        shared::selector("spec.workloadSelector.labels", &selector.labels, findings);
    }
    let nothing = spec.egress.is_empty() && spec.ingress.is_empty();
    if nothing && spec.outbound_traffic_policy.is_none() && spec.inbound_connection_pool.is_none() {
        findings.error("spec", "is empty");
    }
    let mut ports = BTreeSet::new();
    for (index, listener) in spec.ingress.iter().enumerate() {
        ingress(&format!("spec.ingress[{index}]"), listener, &mut ports, findings);
    }
    if let Some(pool) = &spec.inbound_connection_pool {
        destination_rule::connection_pool("spec.inboundConnectionPool", pool, findings);
    }
    let (mut ports, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    for (index, listener) in spec.egress.iter().enumerate() {
        let at = format!("spec.egress[{index}]");
        match &listener.port {
            None if index + 1 < spec.egress.len() => {
                findings.error(format!("{at}.port"), "required, but in the last listener");
            }
            None => {}
            Some(port) => {
                egress_port(&at, port, listener, findings);
                let new = if port.number == 0 { sockets.insert(&listener.bind) } else { ports.insert(port.number) };
                if !new {
                    findings.error(format!("{at}.port.number"), "two listeners cannot have one port or socket");
                }
            }
        }
        hosts(&at, own_namespace, listener, findings);
    }
    if let Some(policy) = &spec.outbound_traffic_policy {
        outbound_policy(policy, findings);
    }
}

fn port_form(path: &str, port: &SidecarPort, findings: &mut Findings) {
    if !port.name.is_empty() {
        findings.check(&format!("{path}.port.name"), names::label(&port.name));
    }
    if port.target_port != 0 {
        findings.error(format!("{path}.port.targetPort"), "has no effect in a Sidecar");
    }
    findings.check(&format!("{path}.port.protocol"), shared::protocol(&port.protocol));
}

fn ingress(path: &str, listener: &IngressListener, seen: &mut BTreeSet<u32>, findings: &mut Findings) {
    let Some(port) = &listener.port else {
        findings.error(format!("{path}.port"), "required");
        return;
    };
    port_form(path, port, findings);
    findings.check(&format!("{path}.port.number"), names::port(port.number.into()));
    if !seen.insert(port.number) {
        findings.error(format!("{path}.port.number"), format!("{} is given twice", port.number));
    }
    if !listener.bind.is_empty() && !names::is_ip(&listener.bind) {
        findings.error(format!("{path}.bind"), format!("{:?} is not an IP address", listener.bind));
    }
    if !listener.default_endpoint.is_empty() {
        findings.check(&format!("{path}.defaultEndpoint"), default_endpoint(&listener.default_endpoint));
    }
    if listener.tls.is_some() && !shared::is_tls(&port.protocol) {
        findings.error(format!("{path}.tls"), format!("protocol {} has no TLS", port.protocol));
    }
    if let Some(pool) = &listener.connection_pool {
        destination_rule::connection_pool(&format!("{path}.connectionPool"), pool, findings);
        if pool.http.is_some() && !shared::is_http(&port.protocol) {
            let message = format!("protocol {} is not HTTP: only tcp settings count", port.protocol);
            findings.warning(format!("{path}.connectionPool.http"), message);
        }
    }
}

/// The workload's own addresses, loopback ones, or a socket.
fn default_endpoint(text: &str) -> Result<(), String> {
    if let Some(socket) = text.strip_prefix("unix://") {
        return names::unix_socket(socket);
    }
    let form = || format!("{text:?} is none of 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT, unix://PATH");
    if let Some(port) = text.strip_prefix(':') {
        return names::port(port.parse().map_err(|_| form())?);
    }
    let address: SocketAddr = text.parse().map_err(|_| form())?;
    let own = [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()];
    if !own.contains(&address.ip()) && address.ip() != Ipv6Addr::UNSPECIFIED {
        return Err(form());
    }
    names::port(address.port().into())
}

fn egress_port(path: &str, port: &SidecarPort, listener: &EgressListener, findings: &mut Findings) {
    port_form(path, port, findings);
    if port.number == 0 {
        match listener.bind.strip_prefix("unix://") {
            Some(socket) => findings.check(&format!("{path}.bind"), names::unix_socket(socket)),
            None => findings.error(format!("{path}.bind"), "port 0 needs a unix:// path"),
        }
        if listener.capture_mode == CaptureMode::Iptables {
            findings.error(format!("{path}.captureMode"), "must be DEFAULT or NONE with a unix socket");
        }
        return;
    }
    findings.check(&format!("{path}.port.number"), names::port(port.number.into()));
    if !listener.bind.is_empty() && !names::is_ip(&listener.bind) {
        findings.error(format!("{path}.bind"), format!("{:?} is not an IP address", listener.bind));
    }
}

fn hosts(path: &str, own_namespace: &str, listener: &EgressListener, findings: &mut Findings) {
    if listener.hosts.is_empty() {
        findings.error(format!("{path}.hosts"), "required: at least one host");
    }
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (index, entry) in listener.hosts.iter().enumerate() {
        let at = format!("{path}.hosts[{index}]");
        let Some((namespace, host)) = entry.split_once('/').filter(|(namespace, _)| !namespace.is_empty()) else {
            findings.error(at, format!("{entry:?} is not of the form namespace/host"));
            continue;
        };
        // `~/…` leaves out of all namespaces, `~a/…` of one.
        let (excludes, namespace) = match namespace.strip_prefix('~') {
            Some(rest) => (true, rest),
            None => (false, namespace),
        };
        let any = ["*", "."].contains(&namespace) || (excludes && namespace.is_empty());
        if !any {
            findings.check(&at, names::label(namespace));
        }
        if host != "*" && !names::is_ip(host) {
            if !host.contains('.') {
                findings.error(&at, format!("{host:?} is a short name; a Sidecar needs full host names"));
            } else {
                findings.check(&at, names::wildcard_host(host));
            }
        }
        if excludes {
            continue;
        }
        let namespace = if namespace == "." { own_namespace } else { namespace };
        if seen.contains(&(namespace, "*")) || !seen.insert((namespace, host)) {
            findings.warning(at, format!("{entry:?} is among the hosts before it"));
        }
    }
    if seen.contains(&("*", "*")) && seen.iter().any(|(namespace, _)| *namespace != "*") {
        findings.warning(format!("{path}.hosts"), "\"*/*\" is everything: other hosts add nothing");
    }
}

fn outbound_policy(policy: &OutboundTrafficPolicy, findings: &mut Findings) {
    let at = "spec.outboundTrafficPolicy";
    if policy.mode == OutboundMode::AllowAnyDynamicDns {
        findings.error(format!("{at}.mode"), "ALLOW_ANY_DYNAMIC_DNS is for the whole mesh only (MeshConfig)");
        return;
    }
    let Some(proxy) = &policy.egress_proxy else { return };
    if policy.mode != OutboundMode::AllowAny {
        findings.error(format!("{at}.egressProxy"), "goes with mode ALLOW_ANY only");
    }
    if proxy.port.is_none() {
        findings.error(format!("{at}.egressProxy.port"), "required");
    }
    shared::destination(&format!("{at}.egressProxy"), proxy, findings);
}
