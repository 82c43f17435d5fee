//! Settings of the whole mesh.

use serde::Deserialize;

use super::ProxyConfig;
use super::extension_provider::{self, ExtensionProvider};
use super::identity::{CertificateData, TlsConfig, TlsVersion, trust_domain};
use super::label_selector::LabelSelector;
use crate::istio::Duration;
use crate::istio::destination_rule::{LocalityLoadBalancerSetting, TcpKeepalive};
use crate::istio::virtual_service::HttpRetry;
use crate::validate::{self, Findings};

/// What is carried out of `MeshConfig`. Absent fields keep the control plane's default.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MeshConfig {
    /// How long a connection may say nothing until its protocol counts as not HTTP; 0 is for ever.
    pub protocol_detection_timeout: Option<Duration>,
    /// Where access logs are written; empty is nowhere.
    pub access_log_file: Option<String>,
    /// What is written, instead of Istio's own lines: a line's text, or an object of JSON.
    pub access_log_format: String,
    /// Which of the two.
    pub access_log_encoding: AccessLogEncoding,
    /// Hosts that the registry does not know.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// Where workloads listen.
    pub inbound_traffic_policy: InboundTrafficPolicy,
    /// For Services and ServiceEntries that do not say who sees them.
    pub default_service_export_to: Option<Vec<String>>,
    /// For VirtualServices.
    pub default_virtual_service_export_to: Option<Vec<String>>,
    /// For DestinationRules.
    pub default_destination_rule_export_to: Option<Vec<String>>,
    /// Namespace whose rules hold for all.
    pub root_namespace: Option<String>,
    /// What is done to the paths of requests.
    pub path_normalization: Option<ProxyPathNormalization>,
    /// How places are preferred, for services whose DestinationRule does not say.
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// For routes without retries of their own.
    pub default_http_retry_policy: Option<HttpRetry>,
    /// For connecting to services whose DestinationRule does not say.
    pub connect_timeout: Option<Duration>,
    /// For connections to services; a DestinationRule's fields go over it one by one.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Whether ports declared to speak HTTP/1 are spoken to in HTTP/2, where no DestinationRule says.
    pub h2_upgrade_policy: Option<MeshH2UpgradePolicy>,
    /// How often names of endpoints are resolved anew.
    pub dns_refresh_rate: Option<Duration>,
    /// The first part of workloads' names: `spiffe://TRUST_DOMAIN/…`.
    pub trust_domain: Option<String>,
    /// Trust domains whose workloads are the mesh's own too.
    pub trust_domain_aliases: Vec<String>,
    /// Roots that are trusted beside the mesh's own.
    pub ca_certificates: Vec<CertificateData>,
    /// Whether workloads speak mutual TLS with each other where no DestinationRule says; true if absent.
    pub enable_auto_mtls: Option<bool>,
    /// TLS between workloads.
    #[serde(rename = "meshMTLS")]
    pub mesh_mtls: TlsConfig,
    /// All other TLS.
    pub tls_defaults: TlsConfig,
    /// Services that policies ask.
    pub extension_providers: Vec<ExtensionProvider>,
    /// Namespaces that the mesh knows of; all if none is given.
    pub discovery_selectors: Vec<LabelSelector>,
    /// For proxies without settings of their own.
    pub default_config: ProxyConfig,
}

/// How lines of access logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLogEncoding {
    /// As text.
    #[default]
    Text,
    /// As objects.
    Json,
}

/// Operators of access logs that are extensions of their own.
const OTHER_OPERATORS: [&str; 2] = ["%REQ_WITHOUT_QUERY", "%METADATA"];

/// Hosts that the registry does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct OutboundTrafficPolicy {
    /// What becomes of them.
    pub mode: OutboundMode,
}

/// What becomes of requests to hosts that the registry does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundMode {
    /// They are refused. (Istio's zero value: `outboundTrafficPolicy: {}` says so.)
    #[default]
    RegistryOnly,
    /// They go where they were going.
    AllowAny,
}

/// Where workloads listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct InboundTrafficPolicy {
    /// Where their proxies send what comes for them.
    pub mode: InboundMode,
}

/// Where proxies send what comes for their workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InboundMode {
    /// To the address the client meant.
    #[default]
    Passthrough,
    /// To the loopback address.
    Localhost,
}

/// Whether HTTP/1.1 requests are sent as HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MeshH2UpgradePolicy {
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// What is done to the paths of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ProxyPathNormalization {
    /// Which of the steps.
    pub normalization: Normalization,
}

/// Steps of path normalisation; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Normalization {
    /// `Base`.
    #[default]
    Default,
    /// Paths stay as they are.
    None,
    /// RFC 3986: dot segments, backslashes, what needs no encoding.
    Base,
    /// Several slashes are one.
    MergeSlashes,
    /// `%2f` and `%5c` are slashes too.
    DecodeAndMergeSlashes,
}

impl MeshConfig {
    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        if let Some(timeout) = self.protocol_detection_timeout.filter(|timeout| !timeout.get().is_zero()) {
            validate::duration(&format!("{at}: protocolDetectionTimeout"), timeout, findings);
        }
        if let Some(file) = self.access_log_file.as_ref().filter(|file| !file.is_empty() && !file.starts_with('/')) {
            findings.error(format!("{at}: accessLogFile"), format!("{file:?} is not an absolute path"));
        }
        for operator in OTHER_OPERATORS.iter().filter(|operator| self.access_log_format.contains(**operator)) {
            findings.error(format!("{at}: accessLogFormat"), format!("{operator}% is not supported yet"));
        }
        for (field, list) in [
            ("defaultServiceExportTo", &self.default_service_export_to),
            ("defaultVirtualServiceExportTo", &self.default_virtual_service_export_to),
            ("defaultDestinationRuleExportTo", &self.default_destination_rule_export_to),
        ] {
            for (index, entry) in list.iter().flatten().enumerate() {
                if !["*", ".", "~"].contains(&entry.as_str()) && !validate::is_namespace(entry) {
                    let path = format!("{at}: {field}[{index}]");
                    findings.error(path, format!("{entry:?} is not a namespace, \".\", \"*\" or \"~\""));
                }
            }
        }
        if let Some(namespace) = self.root_namespace.as_ref().filter(|name| !validate::is_namespace(name)) {
            findings.error(format!("{at}: rootNamespace"), format!("{namespace:?} is not a namespace"));
        }
        if let Some(retries) = &self.default_http_retry_policy {
            validate::retries(&format!("{at}: defaultHttpRetryPolicy"), retries, findings);
        }
        if let Some(TcpKeepalive { probes: _, time, interval }) = &self.tcp_keepalive {
            for (field, time) in [("time", time), ("interval", interval)] {
                // It is told to the system in whole seconds.
                if time.is_some_and(|time| time.get().as_secs() == 0) {
                    findings.error(format!("{at}: tcpKeepalive.{field}"), "a second at least");
                }
            }
        }
        for (field, time) in [("connectTimeout", self.connect_timeout), ("dnsRefreshRate", self.dns_refresh_rate)] {
            if let Some(time) = time {
                validate::duration(&format!("{at}: {field}"), time, findings);
            }
        }
        if let Some(setting) = &self.locality_lb_setting {
            // Whether endpoints are ejected is a DestinationRule's to say.
            validate::localities(&format!("{at}: localityLbSetting"), setting, true, findings);
        }
        if let Some(domain) = &self.trust_domain {
            trust_domain(&format!("{at}: trustDomain"), domain, findings);
        }
        for (index, domain) in self.trust_domain_aliases.iter().enumerate() {
            trust_domain(&format!("{at}: trustDomainAliases[{index}]"), domain, findings);
        }
        for (index, roots) in self.ca_certificates.iter().enumerate() {
            roots.check(&format!("{at}: caCertificates[{index}]"), findings);
        }
        for (index, selector) in self.discovery_selectors.iter().enumerate() {
            selector.check(&format!("{at}: discoverySelectors[{index}]"), findings);
        }
        self.mesh_mtls.check(&format!("{at}: meshMTLS"), findings);
        if !self.mesh_mtls.ecdh_curves.is_empty() {
            findings.error(format!("{at}: meshMTLS.ecdhCurves"), "are not the mesh's to say: use tlsDefaults");
        }
        if !self.mesh_mtls.cipher_suites.is_empty() && self.mesh_mtls.min_protocol_version != TlsVersion::V1_2 {
            let message = "are of TLS 1.2, which is not spoken unless minProtocolVersion is TLSV1_2";
            findings.warning(format!("{at}: meshMTLS.cipherSuites"), message);
        }
        self.tls_defaults.check(&format!("{at}: tlsDefaults"), findings);
        extension_provider::check(&format!("{at}: extensionProviders"), &self.extension_providers, findings);
        self.default_config.check(&format!("{at}: defaultConfig"), findings);
    }
}
