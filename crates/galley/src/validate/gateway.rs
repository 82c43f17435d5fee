//! Gateway: istio `pkg/config/validation/validation.go`.

mod tls;

use std::collections::BTreeSet;

use super::{Findings, names, shared};
use crate::istio::Gateway;
use crate::istio::gateway::{Port, Server, ServerTlsSettings};

pub(super) fn check(spec: &Gateway, findings: &mut Findings) {
    if spec.servers.is_empty() {
        findings.error("spec.servers", "required: at least one server");
    }
    let mut seen = BTreeSet::new();
    for (index, server) in spec.servers.iter().enumerate() {
        let at = format!("spec.servers[{index}]");
        check_server(&at, server, findings);
        let Some(port) = &server.port else { continue };
        if !port.name.is_empty() && !seen.insert(&port.name) {
            findings.error(format!("{at}.port.name"), format!("{:?} is given twice", port.name));
        }
    }
    shared::labels("spec.selector", &spec.selector, findings);
}

fn check_server(path: &str, server: &Server, findings: &mut Findings) {
    if server.hosts.is_empty() {
        findings.error(format!("{path}.hosts"), "required: at least one host");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        findings.check(&format!("{path}.hosts[{index}]"), server_host(host));
    }
    let socket = server.bind.strip_prefix("unix://");
    match socket {
        Some(socket) => findings.check(&format!("{path}.bind"), names::unix_socket(socket)),
        None if !server.bind.is_empty() && !names::is_ip(&server.bind) => {
            findings.error(format!("{path}.bind"), format!("{:?} is not an IP address or unix:// path", server.bind));
        }
        None => {}
    }
    if let Some(tls) = &server.tls {
        tls::check(&format!("{path}.tls"), tls, findings);
    }
    match &server.port {
        None => findings.error(format!("{path}.port"), "required"),
        Some(port) => check_port(path, port, socket.is_some(), server.tls.as_ref(), findings),
    }
}

fn check_port(path: &str, port: &Port, socket: bool, tls: Option<&ServerTlsSettings>, findings: &mut Findings) {
    let at = format!("{path}.port");
    if socket {
        if port.number != 0 {
            findings.error(format!("{at}.number"), "must be 0 with a unix socket");
        }
    } else {
        findings.check(&format!("{at}.number"), names::port(port.number.into()));
    }
    if port.name.is_empty() {
        findings.error(format!("{at}.name"), "required");
    }
    if port.target_port != 0 {
        findings.error(format!("{at}.targetPort"), "has no effect at gateways");
    }
    if let Err(message) = shared::protocol(&port.protocol) {
        findings.error(format!("{at}.protocol"), message);
        return;
    }
    match tls {
        None if shared::is_tls(&port.protocol) => {
            findings.error(format!("{path}.tls"), format!("required with protocol {}", port.protocol));
        }
        Some(tls) if !shared::is_tls(&port.protocol) => {
            let passes = tls.mode.passes_on();
            let files = [&tls.ca_certificates, &tls.private_key, &tls.server_certificate];
            if !shared::is_http(&port.protocol) {
                findings.error(format!("{path}.tls"), format!("protocol {} has no TLS", port.protocol));
            } else if !passes || files.iter().any(|file| !file.is_empty()) {
                findings.error(format!("{path}.tls"), "a plain HTTP port has no TLS but httpsRedirect");
            }
        }
        _ => {}
    }
    if tls.is_some_and(|tls| tls.https_redirect) && !shared::is_http(&port.protocol) {
        findings.warning(format!("{path}.tls.httpsRedirect"), "has an effect on HTTP ports only");
    }
}

/// `host` or `namespace/host`; the host is a full name, `*`, `*.suffix` or an IP address.
fn server_host(entry: &str) -> Result<(), String> {
    let host = match entry.split_once('/') {
        None => entry,
        Some((namespace, host)) => {
            if namespace != "*" && namespace != "." {
                names::label(namespace)?;
            }
            host
        }
    };
    if host == "*" || names::is_ip(host) {
        return Ok(());
    }
    if !host.contains('.') {
        return Err(format!("{host:?} is a short name; gateways need full host names"));
    }
    names::wildcard_host(host)
}
