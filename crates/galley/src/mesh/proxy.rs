//! Settings of single proxies.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::istio::workload_group::ReadinessProbe;
use crate::validate::{self, Findings};

/// What is carried out of `ProxyConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyConfig {
    /// What stands in front of a gateway.
    pub gateway_topology: Option<Topology>,
    /// Headers that proxies add.
    pub proxy_headers: Option<ProxyHeaders>,
    /// How the workload's health is found out, for workloads outside the cluster.
    pub readiness_probe: Option<ReadinessProbe>,
    /// Variables of the proxy's process; `ISTIO_META_HTTP10` and `ISTIO_META_IDLE_TIMEOUT` say how HTTP is served,
    /// `ISTIO_META_AUTO_REGISTER_GROUP` the WorkloadGroup that the workload joins, `SECRET_TTL` how long its
    /// certificates live, `WORKLOAD_RSA_KEY_SIZE` and `ECC_SIGNATURE_ALGORITHM` what their keys are.
    pub proxy_metadata: BTreeMap<String, String>,
}

/// The variable that says how long the workload's certificates live.
pub const SECRET_TTL: &str = "SECRET_TTL";
/// The variable that has keys be RSA, of so many bits: Istio's agent makes such keys without a word.
pub const RSA_KEY_SIZE: &str = "WORKLOAD_RSA_KEY_SIZE";
/// The variable that has keys be of an elliptic curve, which goes over the former.
pub const ECC_ALGORITHM: &str = "ECC_SIGNATURE_ALGORITHM";
/// Variables that have an effect.
const METADATA: [&str; 6] = [
    "ISTIO_META_AUTO_REGISTER_GROUP",
    "ISTIO_META_HTTP10",
    "ISTIO_META_IDLE_TIMEOUT",
    SECRET_TTL,
    RSA_KEY_SIZE,
    ECC_ALGORITHM,
];

/// What is said of keys, and what alone can be said.
const KEYS: [(&str, &str); 2] = [(RSA_KEY_SIZE, "2048"), (ECC_ALGORITHM, "ECDSA")];

/// What stands in front of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Topology {
    /// Proxies whose word on the client's address is taken.
    pub num_trusted_proxies: u32,
    /// What is done with `x-forwarded-client-cert`.
    pub forward_client_cert_details: ForwardClientCert,
    /// Every connection begins with a PROXY protocol header.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Has no fields: being there is what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default)]
pub struct ProxyProtocol {}

/// What is done with `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    /// What is usual on this side of the proxy.
    #[default]
    Undefined,
    /// It is removed.
    Sanitize,
    /// It is passed on, if the client's connection is mutual TLS.
    ForwardOnly,
    /// The client's certificate is appended, if it has one.
    AppendForward,
    /// The client's certificate replaces it, if it has one.
    SanitizeSet,
    /// It is passed on.
    AlwaysForwardOnly,
}

/// Headers that proxies add.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyHeaders {
    /// `x-forwarded-client-cert` at sidecars.
    pub forwarded_client_cert: ForwardClientCert,
    /// Parts of `x-forwarded-client-cert`.
    pub set_current_client_cert_details: Option<CertDetails>,
    /// `x-request-id`.
    pub request_id: Option<Disabled>,
    /// `server`.
    pub server: Option<ServerHeader>,
    /// `x-envoy-attempt-count`.
    pub attempt_count: Option<Disabled>,
    /// Other `x-envoy-*` headers that a proxy adds.
    pub envoy_debug_headers: Option<Disabled>,
    /// `x-forwarded-host`, where the host is rewritten.
    pub x_forwarded_host: Option<Enabled>,
}

/// A header that is there unless it is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default)]
pub struct Disabled {
    /// Whether it is off.
    pub disabled: Option<bool>,
}

impl Disabled {
    /// Whether a header is switched off.
    pub fn is(setting: Option<Disabled>) -> bool {
        setting.and_then(|setting| setting.disabled).unwrap_or(false)
    }
}

/// A header that is not there unless it is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default)]
pub struct Enabled {
    /// Whether it is on.
    pub enabled: Option<bool>,
}

/// The `server` header.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default)]
pub struct ServerHeader {
    /// Whether the upstream's is left as it is.
    pub disabled: Option<bool>,
    /// The proxy's name; empty is the usual one.
    pub value: String,
}

/// Parts of `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default)]
pub struct CertDetails {
    /// Its subject.
    pub subject: Option<bool>,
    /// The certificate itself.
    pub cert: Option<bool>,
    /// Its chain.
    pub chain: Option<bool>,
    /// Its DNS names.
    pub dns: Option<bool>,
    /// Its URIs.
    pub uri: Option<bool>,
}

impl ProxyConfig {
    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        if let Some(probe) = &self.readiness_probe {
            validate::workload_group::probe(&format!("{at}: readinessProbe"), probe, findings);
        }
        for (name, value) in &self.proxy_metadata {
            let path = format!("{at}: proxyMetadata.{name}");
            if !METADATA.contains(&name.as_str()) {
                findings.warning(path, "has no effect here");
            } else if ["ISTIO_META_IDLE_TIMEOUT", SECRET_TTL].contains(&name.as_str())
                && let Err(error) = value.parse::<crate::istio::Duration>()
            {
                findings.error(path, error.to_string());
            } else if let Some((_, only)) = KEYS.iter().find(|(known, only)| known == name && only != value) {
                findings.error(path, format!("{value:?} is not supported, only {only:?}"));
            }
        }
    }

    /// Whether keys of the workload are to be RSA.
    pub fn wants_rsa_keys(&self) -> bool {
        let said = |name| self.proxy_metadata.contains_key(name);
        said(RSA_KEY_SIZE) && !said(ECC_ALGORITHM)
    }

    /// These settings over those of the mesh: what they say of a header or a variable replaces the mesh's word, and
    /// what they say of a gateway's surroundings is merged with it field by field.
    pub fn over(&self, mesh: &ProxyConfig) -> ProxyConfig {
        let mut all = mesh.clone();
        if let Some(own) = &self.gateway_topology {
            let topology = all.gateway_topology.get_or_insert_default();
            if own.num_trusted_proxies != 0 {
                topology.num_trusted_proxies = own.num_trusted_proxies;
            }
            if own.forward_client_cert_details != ForwardClientCert::Undefined {
                topology.forward_client_cert_details = own.forward_client_cert_details;
            }
            topology.proxy_protocol = own.proxy_protocol.or(topology.proxy_protocol);
        }
        if let Some(own) = &self.proxy_headers {
            let headers = all.proxy_headers.get_or_insert_default();
            if own.forwarded_client_cert != ForwardClientCert::Undefined {
                headers.forwarded_client_cert = own.forwarded_client_cert;
            }
            headers.set_current_client_cert_details =
                own.set_current_client_cert_details.or(headers.set_current_client_cert_details);
            headers.request_id = own.request_id.or(headers.request_id);
            headers.server = own.server.clone().or(headers.server.take());
            headers.attempt_count = own.attempt_count.or(headers.attempt_count);
            headers.envoy_debug_headers = own.envoy_debug_headers.or(headers.envoy_debug_headers);
            headers.x_forwarded_host = own.x_forwarded_host.or(headers.x_forwarded_host);
        }
        all.readiness_probe = self.readiness_probe.clone().or(all.readiness_probe);
        all.proxy_metadata.extend(self.proxy_metadata.clone());
        all
    }
}
