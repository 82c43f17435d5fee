//! TLS of a server: istio `pkg/config/validation/validation.go` (validateTLSOptions); what has an effect in which mode,
//! `pilot/pkg/networking/core/listener.go` (BuildListenerTLSContext).

use base64::Engine as _;

use crate::ciphers;
use crate::istio::gateway::{ServerTlsMode, ServerTlsSettings, TlsProtocol};
use crate::validate::{Findings, names, shared};

pub(super) fn check(path: &str, tls: &ServerTlsSettings, findings: &mut Findings) {
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
    without_effect(path, tls, findings);
    if mode.passes_on() {
        return;
    }
    pins(path, verify_certificate_spki, verify_certificate_hash, findings);
    if *mode == ServerTlsMode::IstioMutual {
        if any_file || !given.is_empty() {
            findings.error(path, "mode ISTIO_MUTUAL uses the mesh's certificates, and no other");
        }
        if !ca_crl.is_empty() {
            let message =
                "is not supported in mode ISTIO_MUTUAL: what the mesh's authority revoked is in its Secret cacerts";
            findings.error(format!("{path}.caCrl"), message);
        }
        return;
    }
    let of_secrets = !credential_name.is_empty() || !credential_names.is_empty();
    if given.len() > 1 {
        findings.error(path, format!("only one of {} can be given", given.join(", ")));
    }
    if tls_certificates.len() > 2 {
        findings.warning(format!("{path}.tlsCertificates"), "two are usual, one a kind of key");
    }
    if !ca_crl.is_empty() && (*mode == ServerTlsMode::Simple || of_secrets) {
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
    let names = credential_names.iter().enumerate().map(|(index, name)| (format!("credentialNames[{index}]"), name));
    for (field, name) in [("credentialName".to_owned(), credential_name)].into_iter().chain(names) {
        findings.check(&format!("{path}.{field}"), credential(name, &["kubernetes://"]));
    }
    let of_authorities = credential(ca_cert_credential_name, &["kubernetes://", "configmap://"]);
    findings.check(&format!("{path}.caCertCredentialName"), of_authorities);
    if of_secrets {
        let half = |field, file: &str| (field, !file.is_empty() && !file_pair);
        for (field, given) in [
            half("serverCertificate", server_certificate),
            half("privateKey", private_key),
            ("caCertificates", !ca_certificates.is_empty() && mode.looks_at_clients()),
        ] {
            if given {
                let message = "is not used beside a credential, which has a certificate and authorities of its own";
                findings.warning(format!("{path}.{field}"), message);
            }
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

fn without_effect(path: &str, tls: &ServerTlsSettings, findings: &mut Findings) {
    use ServerTlsMode as Mode;
    let mode = tls.mode;
    let (ends, own) = (!mode.passes_on(), !mode.passes_on() && mode != Mode::IstioMutual);
    let of_clients = mode.looks_at_clients();
    let any = |list: &[String]| !list.is_empty();
    // Beside what is refused in a mode.
    let fields = [
        ("serverCertificate", !tls.server_certificate.is_empty(), ends),
        ("privateKey", !tls.private_key.is_empty(), ends),
        ("tlsCertificates", !tls.tls_certificates.is_empty(), ends),
        ("credentialName", !tls.credential_name.is_empty(), ends),
        ("credentialNames", any(&tls.credential_names), ends),
        ("caCertificates", !tls.ca_certificates.is_empty(), of_clients),
        ("caCertCredentialName", !tls.ca_cert_credential_name.is_empty(), own && of_clients),
        ("caCrl", !tls.ca_crl.is_empty(), ends),
        ("subjectAltNames", any(&tls.subject_alt_names), ends),
        ("verifyCertificateSpki", any(&tls.verify_certificate_spki), ends),
        ("verifyCertificateHash", any(&tls.verify_certificate_hash), ends),
        ("insecureSkipVerify", tls.insecure_skip_verify.is_some(), ends),
        ("minProtocolVersion", tls.min_protocol_version != TlsProtocol::Auto, own),
        ("maxProtocolVersion", tls.max_protocol_version != TlsProtocol::Auto, own),
        ("cipherSuites", any(&tls.cipher_suites), own),
        ("ecdhCurves", any(&tls.ecdh_curves), own),
    ];
    let mode = match mode {
        Mode::Passthrough => "PASSTHROUGH",
        Mode::Simple => "SIMPLE",
        Mode::Mutual => "MUTUAL",
        Mode::AutoPassthrough => "AUTO_PASSTHROUGH",
        Mode::IstioMutual => "ISTIO_MUTUAL",
        Mode::OptionalMutual => "OPTIONAL_MUTUAL",
    };
    shared::without_effect(path, mode, &fields, findings);
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
