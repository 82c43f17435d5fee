//! The agent beside a pod's proxy: where its files are in the pod, and how it is told. The paths are Istio's.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use lateen_galley::Snapshot;
use lateen_galley::mesh::{self, ProxyConfig, SECRET_TTL};

use super::Context;
use crate::dns::CLUSTER_DOMAIN;
use crate::node::SIDECAR_MARK;

/// The proxy's bootstrap.
pub const BOOTSTRAP_DIRECTORY: &str = "/etc/istio/proxy";
/// Its file there.
pub const BOOTSTRAP_FILE: &str = "envoy-rev.json";
/// Where the proxy asks for secrets (SDS).
pub const SECRETS_SOCKET: &str = "/var/run/secrets/workload-spiffe-uds/socket";
/// Where the proxy asks for its configuration (ADS).
pub const DISCOVERY_SOCKET: &str = "/var/run/secrets/workload-spiffe-uds/discovery";
const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";

/// Longest life that is asked for.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The bootstrap's path in a pod.
pub fn bootstrap() -> String {
    format!("{BOOTSTRAP_DIRECTORY}/{BOOTSTRAP_FILE}")
}

/// What a pod's agent is told of its workload and of the control plane, on its command line.
pub fn arguments(context: &Context, pod: &Pod, snapshot: &Snapshot) -> Vec<String> {
    let mesh = mesh::of_snapshot(snapshot).unwrap_or_default();
    let trust_domain = mesh.trust_domain.as_deref().unwrap_or(CLUSTER_DOMAIN);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let identity = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{}", super::service_account(pod));
    let mut arguments = vec![
        ("--identity", identity),
        ("--control-plane", context.control_plane.to_string()),
        ("--roots", ROOTS.to_owned()),
        ("--token", TOKEN.to_owned()),
        ("--secrets-socket", SECRETS_SOCKET.to_owned()),
        ("--discovery-socket", DISCOVERY_SOCKET.to_owned()),
        ("--mark", SIDECAR_MARK.to_string()),
    ];
    if let Some((address, name)) = &context.authority {
        arguments.push(("--ca-address", address.to_string()));
        arguments.push(("--ca-name", name.clone()));
    }
    let proxy = proxy_config(pod, &mesh.default_config);
    if let Some(life) = secret_ttl(&proxy) {
        arguments.push(("--cert-ttl", life));
    }
    if proxy.wants_rsa_keys() {
        arguments.push(("--key-type", "rsa".to_owned()));
    }
    arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

/// The proxy's settings: the pod's own over the mesh's.
fn proxy_config(pod: &Pod, mesh: &ProxyConfig) -> ProxyConfig {
    let annotation = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(mesh::ANNOTATION));
    // What cannot be read was refused when the pod came.
    annotation.and_then(|text| mesh::proxy_config(text, "").0).unwrap_or_default().over(mesh)
}

/// The life of certificates that the proxy's settings say, in seconds.
fn secret_ttl(proxy: &ProxyConfig) -> Option<String> {
    let life: lateen_galley::istio::Duration = proxy.proxy_metadata.get(SECRET_TTL)?.parse().ok()?;
    Some(format!("{}s", life.get().min(LONGEST).as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_s_word_on_its_certificates_goes_over_the_mesh_s() {
        let read = |text| mesh::proxy_config(text, "").0.unwrap();
        let pod = |annotations| -> Pod { serde_json::from_value(json!({"metadata": annotations})).unwrap() };
        let mesh = read("proxyMetadata: {SECRET_TTL: 1h30m}");
        let silent = pod(json!({}));
        let life = |pod: &Pod, mesh: &ProxyConfig| secret_ttl(&proxy_config(pod, mesh));
        assert_eq!(life(&silent, &ProxyConfig::default()), None);
        assert_eq!(life(&silent, &mesh).as_deref(), Some("5400s"));
        let own = pod(json!({"annotations": {"proxy.istio.io/config": "proxyMetadata: {SECRET_TTL: 10s}"}}));
        assert_eq!(life(&own, &mesh).as_deref(), Some("10s"));

        let rsa = read("proxyMetadata: {WORKLOAD_RSA_KEY_SIZE: '2048'}");
        assert!(proxy_config(&silent, &rsa).wants_rsa_keys() && !proxy_config(&silent, &mesh).wants_rsa_keys());
        let text = "proxyMetadata: {ECC_SIGNATURE_ALGORITHM: ECDSA}";
        assert!(!proxy_config(&pod(json!({"annotations": {"proxy.istio.io/config": text}})), &rsa).wants_rsa_keys());
    }
}
