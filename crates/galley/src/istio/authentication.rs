//! `MeshPolicy` and `Policy` of `authentication.istio.io/v1alpha1`: how Istio before 1.6 said what PeerAuthentications and
//! RequestAuthentications say. Schema: istio/api 1.4 `authentication/v1alpha1/policy.proto`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How workloads of a namespace, or of its named services, take connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Policy {
    /// Services it is for; without any the whole namespace.
    pub targets: Vec<Target>,
    /// How peers prove who they are; without any nobody does.
    pub peers: Vec<PeerMethod>,
    /// Who proves nothing is taken too.
    pub peer_is_optional: bool,
    /// How end users prove who they are.
    pub origins: Vec<Value>,
    /// Who proves nothing is taken too.
    pub origin_is_optional: bool,
    /// Whose name counts.
    pub principal_binding: PrincipalBinding,
}

/// How all workloads of the mesh take connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MeshPolicy(pub Policy);

/// A service of the policy's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its ports; without any all of them.
    pub ports: Vec<TargetPort>,
}

/// A port of a service, by one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetPort {
    /// The service's number for it.
    pub number: u16,
    /// Its name.
    pub name: String,
}

/// How a peer proves who it is; `mtls` if nothing is said (`mtls:` without a value).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerMethod {
    /// By a certificate.
    pub mtls: Option<Mtls>,
    /// By a token.
    pub jwt: Option<Value>,
}

/// Mutual TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mtls {
    /// TLS without a client certificate is taken too.
    pub allow_tls: bool,
    /// Whether plain text is.
    pub mode: MtlsMode,
}

/// Whether plain text is taken too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MtlsMode {
    /// No.
    #[default]
    Strict,
    /// Yes.
    Permissive,
}

/// Whose name counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PrincipalBinding {
    /// The peer's.
    #[default]
    UsePeer,
    /// The end user's.
    UseOrigin,
}

impl Policy {
    /// What a PeerAuthentication would say.
    pub fn mode(&self) -> super::peer_authentication::MutualTlsMode {
        use super::peer_authentication::MutualTlsMode;
        match self.peers.first().map(|peer| peer.mtls.unwrap_or_default().mode) {
            None => MutualTlsMode::Disable,
            Some(MtlsMode::Strict) if !self.peer_is_optional => MutualTlsMode::Strict,
            Some(MtlsMode::Strict | MtlsMode::Permissive) => MutualTlsMode::Permissive,
        }
    }
}
