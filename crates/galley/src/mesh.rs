//! `MeshConfig` and `ProxyConfig`: settings of the whole mesh, and of single proxies.
//!
//! They are no objects of their own. As with Istio, the mesh's are the key `mesh` of the ConfigMap `istio` in `istio-system`,
//! and a proxy's its pod's annotation `proxy.istio.io/config`, both YAML. Schemas: istio/api `mesh/v1alpha1`.
//! Fields that nothing here carries out are told: refused where traffic would be treated otherwise than meant, else as
//! warnings ([`fates`]). Fields that Istio does not know are refused.

mod config;
mod extension_provider;
mod fates;
mod identity;
mod label_selector;
mod proxy;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::validate::Findings;
use crate::{Snapshot, strict, yaml};
pub use config::{
    AccessLogEncoding, InboundMode, InboundTrafficPolicy, MeshConfig, MeshH2UpgradePolicy, Normalization, OutboundMode,
    OutboundTrafficPolicy, ProxyPathNormalization,
};
pub use extension_provider::{ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider, RequestBody};
pub use identity::{CertificateData, TlsConfig, TlsVersion};
pub use label_selector::{LabelSelector, LabelSelectorOperator, LabelSelectorRequirement};
pub use proxy::{
    CertDetails, Disabled, Enabled, ForwardClientCert, ProxyConfig, ProxyHeaders, ProxyProtocol, SECRET_TTL,
    ServerHeader, Topology,
};

/// Namespace of the ConfigMap.
pub const NAMESPACE: &str = "istio-system";
/// Name of the ConfigMap.
pub const NAME: &str = "istio";
/// Its key for the mesh's settings.
pub const KEY: &str = "mesh";
/// Annotation of pods for their proxies' settings.
pub const ANNOTATION: &str = "proxy.istio.io/config";

/// The settings of the mesh in a snapshot. What cannot be read (the cluster's API refuses it) says nothing.
pub fn of_snapshot(snapshot: &Snapshot) -> Option<MeshConfig> {
    let map = snapshot.typed::<k8s_openapi::api::core::v1::ConfigMap>(NAMESPACE, NAME);
    let text = map.and_then(|map| map.data.as_ref()).and_then(|data| data.get(KEY))?;
    mesh_config(text, "").0
}

/// Reads the settings of the mesh. Nothing is read if there are errors among the findings; their paths begin with `at`.
pub fn mesh_config(text: &str, at: &str) -> (Option<MeshConfig>, Findings) {
    let mut findings = Findings::default();
    let config: Option<MeshConfig> = read(text, at, |value, findings| fates::mesh(value, at, findings), &mut findings);
    let config = config.filter(|config| {
        config.check(at, &mut findings);
        findings.errors.is_empty()
    });
    (config, findings)
}

/// Reads the settings of a proxy; as [`mesh_config`].
pub fn proxy_config(text: &str, at: &str) -> (Option<ProxyConfig>, Findings) {
    let mut findings = Findings::default();
    let config: Option<ProxyConfig> =
        read(text, at, |value, findings| fates::proxy(value, at, findings), &mut findings);
    let config = config.filter(|config| {
        config.check(at, &mut findings);
        findings.errors.is_empty()
    });
    (config, findings)
}

fn read<T: DeserializeOwned + Default>(
    text: &str,
    at: &str,
    take_out_unused: impl FnOnce(&mut Value, &mut Findings),
    findings: &mut Findings,
) -> Option<T> {
    let mut documents = match yaml::documents(text.as_bytes()) {
        Ok(documents) => documents,
        Err(message) => {
            findings.error(at, message);
            return None;
        }
    };
    if documents.len() > 1 {
        findings.error(at, "more than one document");
        return None;
    }
    let Some(document) = documents.pop() else { return Some(T::default()) };
    let mut value = match document.value {
        Ok(value) => value,
        Err(message) => {
            findings.error(at, message);
            return None;
        }
    };
    take_out_unused(&mut value, findings);
    match strict::decode(&value) {
        Ok(config) => Some(config),
        Err(problems) => {
            for problem in problems {
                let path = if problem.path.is_empty() { at.to_owned() } else { format!("{at}: {}", problem.path) };
                findings.error(path, problem.message);
            }
            None
        }
    }
}

#[cfg(test)]
mod tests;
