//! TLS that clients speak: istio `pkg/config/validation/agent/validation.go` (ValidateTLS); what has an effect in which mode,
//! `pilot/pkg/networking/core/cluster_tls.go`.

use crate::istio::DestinationRule;
use crate::istio::destination_rule::{ClientTlsMode, ClientTlsSettings};
use crate::validate::{Findings, shared};

pub(super) fn check(path: &str, tls: &ClientTlsSettings, findings: &mut Findings) {
    without_effect(path, tls, findings);
    let with_files = !tls.client_certificate.is_empty()
        || !tls.ca_certificates.is_empty()
        || !tls.private_key.is_empty()
        || !tls.ca_crl.is_empty();
    let verifies = !tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty();
    let own = is_own(tls);
    if tls.insecure_skip_verify == Some(true) && own {
        let secret = tls.mode == ClientTlsMode::Simple && !tls.credential_name.is_empty();
        if verifies || secret {
            findings.error(format!("{path}.insecureSkipVerify"), "contradicts the authorities or names to verify");
        }
    }
    if own && !tls.credential_name.is_empty() {
        if with_files {
            findings.error(path, "only one of credentialName and certificate files can be given");
        }
        return;
    }
    if tls.mode == ClientTlsMode::Mutual {
        for (field, file) in [("clientCertificate", &tls.client_certificate), ("privateKey", &tls.private_key)] {
            if file.is_empty() {
                findings.error(format!("{path}.{field}"), "required in mode MUTUAL");
            }
        }
    }
}

/// Whether certificates are not the mesh's.
fn is_own(tls: &ClientTlsSettings) -> bool {
    matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual)
}

fn without_effect(path: &str, tls: &ClientTlsSettings, findings: &mut Findings) {
    let ClientTlsSettings {
        mode,
        client_certificate,
        private_key,
        ca_certificates,
        credential_name,
        subject_alt_names,
        sni,
        insecure_skip_verify,
        ca_crl,
    } = tls;
    let (own, speaks) = (is_own(tls), *mode != ClientTlsMode::Disable);
    let shows = *mode == ClientTlsMode::Mutual;
    let mode = match mode {
        ClientTlsMode::Disable => "DISABLE",
        ClientTlsMode::Simple => "SIMPLE",
        ClientTlsMode::Mutual => "MUTUAL",
        ClientTlsMode::IstioMutual => "ISTIO_MUTUAL",
    };
    let anybody = *insecure_skip_verify == Some(true);
    let fields = [
        ("clientCertificate", !client_certificate.is_empty(), shows),
        ("privateKey", !private_key.is_empty(), shows),
        ("caCertificates", !ca_certificates.is_empty(), own),
        ("credentialName", !credential_name.is_empty(), own),
        ("subjectAltNames", !subject_alt_names.is_empty(), speaks),
        ("sni", !sni.is_empty(), speaks),
        ("insecureSkipVerify", anybody, own),
        ("caCrl", !ca_crl.is_empty(), own),
    ];
    shared::without_effect(path, mode, &fields, findings);
    if own && anybody && !ca_crl.is_empty() {
        findings.warning(format!("{path}.caCrl"), "has no effect with insecureSkipVerify");
    }
}

/// Secrets are gateways', and of sidecars that a rule selects: others are not told them, and (as with Istio) go without.
pub(super) fn credentials_of_gateways(spec: &DestinationRule, findings: &mut Findings) {
    let of_subsets = spec.subsets.iter().enumerate();
    let of_subsets = of_subsets.filter_map(|(index, subset)| {
        Some((format!("spec.subsets[{index}].trafficPolicy"), subset.traffic_policy.as_ref()?))
    });
    let whole = spec.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    for (path, policy) in whole.chain(of_subsets) {
        let of_ports = policy.port_level_settings.iter().enumerate();
        let of_ports = of_ports.map(|(index, port)| (format!("{path}.portLevelSettings[{index}]"), &port.tls));
        for (path, tls) in std::iter::once((path.clone(), &policy.tls)).chain(of_ports) {
            let named = tls.as_ref().filter(|tls| is_own(tls)).map_or("", |tls| tls.credential_name.as_str());
            if !named.is_empty() && !named.starts_with("configmap://") {
                let message = "is for gateways: without a workloadSelector, sidecars speak plain text here";
                findings.warning(format!("{path}.tls.credentialName"), message);
            }
        }
    }
}
