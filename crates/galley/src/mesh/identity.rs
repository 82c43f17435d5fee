//! Who the mesh's workloads are, whom they trust, and how they encrypt.

use serde::Deserialize;

use crate::ciphers;
use crate::validate::{self, Findings};

/// Roots of others that the mesh's workloads trust.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CertificateData {
    /// PEM.
    pub pem: String,
    /// Where they are told.
    pub spiffe_bundle_url: String,
    /// Authorities of the cluster's that they stand for.
    pub cert_signers: Vec<String>,
    /// The trust domains whose workloads they prove; also let in at the mesh's workloads.
    pub trust_domains: Vec<String>,
}

/// How TLS is spoken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsConfig {
    /// No older one is spoken.
    pub min_protocol_version: TlsVersion,
    /// Groups for the exchange of keys, the preferred first; the proxy's own if empty.
    pub ecdh_curves: Vec<String>,
    /// Suites of TLS 1.2, the preferred first; the usual ones if empty.
    pub cipher_suites: Vec<String>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.3 between the mesh's workloads, 1.2 otherwise.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// TLS 1.2.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "TLSV1_3")]
    V1_3,
}

/// Longest trust domain, in bytes (SPIFFE ID 2.1).
const TRUST_DOMAIN_BYTES: usize = 255;

/// A trust domain as Istio allows it: labels of DNS, the last of which may be empty.
pub(super) fn trust_domain(at: &str, name: &str, findings: &mut Findings) {
    let labels = name.strip_suffix('.').unwrap_or(name);
    if name.len() > TRUST_DOMAIN_BYTES || !labels.split('.').all(validate::is_namespace) {
        let shown: String = name.chars().take(80).collect();
        findings.error(at, format!("{shown:?} is no trust domain: labels of lower-case letters, digits and dashes"));
    }
}

impl CertificateData {
    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        if !self.spiffe_bundle_url.is_empty() {
            findings.error(format!("{at}.spiffeBundleUrl"), "not supported yet: give the roots as pem");
        } else if !self.pem.contains("-----BEGIN CERTIFICATE-----") {
            findings.error(format!("{at}.pem"), "no certificate is found in the PEM text");
        }
        if !self.cert_signers.is_empty() {
            findings.error(format!("{at}.certSigners"), "not supported: no signers of the cluster's are asked here");
        }
        for (index, name) in self.trust_domains.iter().enumerate() {
            trust_domain(&format!("{at}.trustDomains[{index}]"), name, findings);
        }
    }
}

impl TlsConfig {
    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        ciphers::check_suites(&format!("{at}.cipherSuites"), &self.cipher_suites, findings);
        ciphers::check_groups(&format!("{at}.ecdhCurves"), &self.ecdh_curves, findings);
    }
}
