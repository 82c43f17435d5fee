//! Gateway: istio `pkg/config/validation/validation.go`.

use std::collections::BTreeSet;

use super::{Findings, names, shared};
use crate::istio::Gateway;
use crate::istio::gateway::{Port, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol};

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
        server_tls(&format!("{path}.tls"), tls, findings);
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
            let passes = matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough);
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

fn server_tls(path: &str, tls: &ServerTlsSettings, findings: &mut Findings) {
    if matches!(tls.min_protocol_version, TlsProtocol::V1_0 | TlsProtocol::V1_1) && tls.cipher_suites.is_empty() {
        findings.warning(format!("{path}.minProtocolVersion"), "needs cipherSuites that old versions can use");
    }
    if tls.max_protocol_version != TlsProtocol::Auto && tls.max_protocol_version < tls.min_protocol_version {
        findings.error(format!("{path}.maxProtocolVersion"), "is older than minProtocolVersion");
    }
    let file_pair = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
    let sources = [
        ("serverCertificate", file_pair),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
    ];
    let given: Vec<&str> = sources.iter().filter_map(|(name, given)| given.then_some(*name)).collect();
    let any_file =
        [&tls.server_certificate, &tls.private_key, &tls.ca_certificates].iter().any(|file| !file.is_empty());
    match tls.mode {
        ServerTlsMode::IstioMutual => {
            if any_file || !given.is_empty() {
                findings.error(path, "mode ISTIO_MUTUAL uses the mesh's certificates, and no other");
            }
            return;
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            if any_file || !given.is_empty() || !tls.ca_crl.is_empty() {
                findings.warning(path, "certificates are not used when TLS is passed through");
            }
            return;
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {}
    }
    if given.len() > 1 {
        findings.error(path, format!("only one of {} can be given", given.join(", ")));
    }
    if tls.credential_names.len() > 2 || tls.tls_certificates.len() > 2 {
        findings.error(path, "at most two certificates, one a kind of key");
    }
    if !tls.ca_crl.is_empty() && (tls.mode == ServerTlsMode::Simple || !tls.credential_name.is_empty()) {
        findings.error(format!("{path}.caCrl"), "goes with mutual modes and certificate files only");
    }
    if !tls.credential_name.is_empty() || !tls.credential_names.is_empty() {
        return;
    }
    if tls.mode != ServerTlsMode::Simple && tls.ca_certificates.is_empty() && tls.ca_cert_credential_name.is_empty() {
        findings.error(format!("{path}.caCertificates"), "required in mutual modes");
    }
    if tls.tls_certificates.is_empty() {
        pair(path, &tls.server_certificate, &tls.private_key, findings);
    }
    for (index, certificate) in tls.tls_certificates.iter().enumerate() {
        let at = format!("{path}.tlsCertificates[{index}]");
        pair(&at, &certificate.server_certificate, &certificate.private_key, findings);
    }
}

fn pair(path: &str, certificate: &str, key: &str, findings: &mut Findings) {
    for (field, file) in [("serverCertificate", certificate), ("privateKey", key)] {
        if file.is_empty() {
            findings.error(format!("{path}.{field}"), "required (or credentialName)");
        }
    }
}
