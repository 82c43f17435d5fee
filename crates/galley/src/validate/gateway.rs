//! Gateway: istio `pkg/config/validation/validation.go`.

use std::collections::BTreeSet;

use base64::Engine as _;

use super::{Findings, names, shared};
use crate::ciphers;
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

fn server_tls(path: &str, tls: &ServerTlsSettings, findings: &mut Findings) {
    let ServerTlsSettings {
        https_redirect: _,
        mode,
        server_certificate,
        private_key,
        ca_certificates,
        ca_crl,
        credential_name,
        credential_names,
        ca_cert_credential_name,
        tls_certificates,
        subject_alt_names,
        verify_certificate_spki,
        verify_certificate_hash,
        min_protocol_version,
        max_protocol_version,
        cipher_suites,
        ecdh_curves,
        insecure_skip_verify,
    } = tls;
    ciphers::check_suites(&format!("{path}.cipherSuites"), cipher_suites, findings);
    ciphers::check_groups(&format!("{path}.ecdhCurves"), ecdh_curves, findings);
    if *max_protocol_version != TlsProtocol::Auto && max_protocol_version < min_protocol_version {
        findings.error(format!("{path}.maxProtocolVersion"), "is older than minProtocolVersion");
    }
    let file_pair = !server_certificate.is_empty() && !private_key.is_empty();
    let sources = [
        ("serverCertificate", file_pair),
        ("credentialName", !credential_name.is_empty()),
        ("credentialNames", !credential_names.is_empty()),
        ("tlsCertificates", !tls_certificates.is_empty()),
    ];
    let given: Vec<&str> = sources.iter().filter_map(|(name, given)| given.then_some(*name)).collect();
    let any_file = [server_certificate, private_key, ca_certificates].iter().any(|file| !file.is_empty());
    if *mode == ServerTlsMode::IstioMutual {
        if any_file || !given.is_empty() {
            findings.error(path, "mode ISTIO_MUTUAL uses the mesh's certificates, and no other");
        }
        return;
    }
    if mode.passes_on() {
        if any_file || !given.is_empty() || !ca_crl.is_empty() {
            findings.warning(path, "certificates are not used when TLS is passed through");
        }
        return;
    }
    if given.len() > 1 {
        findings.error(path, format!("only one of {} can be given", given.join(", ")));
    }
    if tls_certificates.len() > 2 {
        findings.warning(format!("{path}.tlsCertificates"), "two are usual, one a kind of key");
    }
    if !ca_crl.is_empty() && (*mode == ServerTlsMode::Simple || !credential_name.is_empty()) {
        findings.error(format!("{path}.caCrl"), "goes with mutual modes and certificate files only");
    }
    // Without authorities to check certificates by, clients could claim any name.
    if *mode == ServerTlsMode::Simple {
        for (field, given) in [
            ("subjectAltNames", !subject_alt_names.is_empty()),
            ("verifyCertificateSpki", !verify_certificate_spki.is_empty()),
            ("verifyCertificateHash", !verify_certificate_hash.is_empty()),
            ("insecureSkipVerify", insecure_skip_verify.is_some()),
        ] {
            if given {
                findings
                    .error(format!("{path}.{field}"), "is of clients' certificates: it goes with mutual modes only");
            }
        }
    }
    pins(path, verify_certificate_spki, verify_certificate_hash, findings);
    let names = credential_names.iter().enumerate().map(|(index, name)| (format!("credentialNames[{index}]"), name));
    for (field, name) in [("credentialName".to_owned(), credential_name)].into_iter().chain(names) {
        findings.check(&format!("{path}.{field}"), credential(name, &["kubernetes://"]));
    }
    let of_authorities = credential(ca_cert_credential_name, &["kubernetes://", "configmap://"]);
    findings.check(&format!("{path}.caCertCredentialName"), of_authorities);
    if !credential_name.is_empty() || !credential_names.is_empty() {
        if !ca_certificates.is_empty() {
            let message = "is not used beside a credential, which has authorities of its own";
            findings.warning(format!("{path}.caCertificates"), message);
        }
        return;
    }
    if !ca_cert_credential_name.is_empty() {
        findings.error(format!("{path}.caCertCredentialName"), "goes with credentialName only");
    }
    if *mode != ServerTlsMode::Simple && ca_certificates.is_empty() {
        findings.error(format!("{path}.caCertificates"), "required in mutual modes");
    }
    if tls_certificates.is_empty() {
        pair(path, server_certificate, private_key, findings);
    }
    for (index, certificate) in tls_certificates.iter().enumerate() {
        let at = format!("{path}.tlsCertificates[{index}]");
        pair(&at, &certificate.server_certificate, &certificate.private_key, findings);
        if !certificate.ca_certificates.is_empty() {
            findings.warning(format!("{at}.caCertificates"), format!("is not used: {path}.caCertificates is"));
        }
    }
}

fn pair(path: &str, certificate: &str, key: &str, findings: &mut Findings) {
    for (field, file) in [("serverCertificate", certificate), ("privateKey", key)] {
        if file.is_empty() {
            findings.error(format!("{path}.{field}"), "required (or credentialName)");
        }
    }
}

/// SHA-256 of what is accepted, as Envoy takes them.
fn pins(path: &str, keys: &[String], certificates: &[String], findings: &mut Findings) {
    for (index, pin) in keys.iter().enumerate() {
        if !base64::engine::general_purpose::STANDARD.decode(pin).is_ok_and(|hash| hash.len() == 32) {
            let message = format!("{pin:?} is not a SHA-256 in base64");
            findings.error(format!("{path}.verifyCertificateSpki[{index}]"), message);
        }
    }
    for (index, pin) in certificates.iter().enumerate() {
        let digits = pin.bytes().filter(|byte| *byte != b':');
        if digits.clone().count() != 64 || !digits.into_iter().all(|digit| digit.is_ascii_hexdigit()) {
            let message = format!("{pin:?} is not a SHA-256 in hexadecimal");
            findings.error(format!("{path}.verifyCertificateHash[{index}]"), message);
        }
    }
}

/// The name of a Secret, alone or with a namespace, or with one of the schemes that say what it is.
fn credential(name: &str, schemes: &[&str]) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    let object = schemes.iter().find_map(|scheme| name.strip_prefix(scheme)).unwrap_or(name);
    if let Some((scheme, _)) = object.split_once("://") {
        return Err(format!("{scheme}:// is not supported; there are {}", schemes.join(", ")));
    }
    match object.split('/').collect::<Vec<_>>().as_slice() {
        [object] if !name.starts_with("configmap://") => names::subdomain(object),
        [namespace, object] => names::label(namespace).and_then(|()| names::subdomain(object)),
        _ => Err(format!("{name:?} is not NAME or NAMESPACE/NAME")),
    }
}
