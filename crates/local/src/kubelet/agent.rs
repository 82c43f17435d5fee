//! The agent beside a pod's proxy: where its files are in the pod, and how it is told. The paths are Istio's.

use std::net::SocketAddr;

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

/// The bootstrap's path in a pod.
pub fn bootstrap() -> String {
    format!("{BOOTSTRAP_DIRECTORY}/{BOOTSTRAP_FILE}")
}

/// What an agent is told of its workload and of the control plane, on its command line.
pub fn arguments(namespace: &str, service_account: &str, control_plane: SocketAddr) -> Vec<String> {
    let identity = format!("spiffe://{CLUSTER_DOMAIN}/ns/{namespace}/sa/{service_account}");
    let arguments = [
        ("--identity", identity),
        ("--control-plane", control_plane.to_string()),
        ("--roots", ROOTS.to_owned()),
        ("--token", TOKEN.to_owned()),
        ("--secrets-socket", SECRETS_SOCKET.to_owned()),
        ("--discovery-socket", DISCOVERY_SOCKET.to_owned()),
        ("--mark", SIDECAR_MARK.to_string()),
    ];
    arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}
