//! MeshPolicy and Policy of Istio before 1.6: its `pkg/config/validation/validation.go` (ValidateAuthenticationPolicy).
//! What they mean is told, and what no PeerAuthentication can say is refused.

use super::{Findings, names};
use crate::istio::authentication::{Policy, PrincipalBinding, Target, TargetPort};
use crate::istio::peer_authentication::MutualTlsMode;

/// The only name of a policy for all.
const FOR_ALL: &str = "default";

pub(super) fn check(name: &str, of_mesh: bool, spec: &Policy, findings: &mut Findings) {
    let Policy { targets, peers, peer_is_optional: _, origins, origin_is_optional, principal_binding } = spec;
    if of_mesh && name != FOR_ALL {
        findings.error("metadata.name", format!("must be {FOR_ALL:?}: there is one for the mesh"));
    }
    if of_mesh && !targets.is_empty() {
        findings.error("spec.targets", "must be empty: it is for the whole mesh");
    } else if !of_mesh && (name == FOR_ALL) != targets.is_empty() {
        findings.error("spec.targets", format!("needed, unless the policy is called {FOR_ALL:?} and is for all"));
    }
    for (index, Target { name, ports }) in targets.iter().enumerate() {
        let at = format!("spec.targets[{index}]");
        if !names::is_label(name) {
            findings.error(
                format!("{at}.name"),
                format!("{name:?} is no service's name: it is one of this namespace, in short"),
            );
        }
        for (index, TargetPort { number, name }) in ports.iter().enumerate() {
            if (*number == 0) == name.is_empty() {
                findings.error(format!("{at}.ports[{index}]"), "needs one of number and name");
            }
        }
    }
    if peers.len() > 1 {
        findings.error("spec.peers", "more than one way for peers to prove who they are");
    }
    for (index, peer) in peers.iter().enumerate() {
        let at = format!("spec.peers[{index}]");
        if peer.jwt.is_some() {
            findings.error(format!("{at}.jwt"), "write a RequestAuthentication for tokens");
        }
        if peer.mtls.is_some_and(|mtls| mtls.allow_tls) {
            findings.error(format!("{at}.mtls.allowTls"), "TLS without a client certificate is not taken in the mesh");
        }
    }
    if !origins.is_empty() || *origin_is_optional || *principal_binding == PrincipalBinding::UseOrigin {
        let message = "write a RequestAuthentication for tokens, and an AuthorizationPolicy that demands them";
        findings.error("spec.origins", message);
    }
    let mode = match spec.mode() {
        MutualTlsMode::Strict => "STRICT",
        MutualTlsMode::Permissive => "PERMISSIVE",
        MutualTlsMode::Disable | MutualTlsMode::Unset => "DISABLE",
    };
    let message = format!("is of Istio before 1.6, and read as a PeerAuthentication with mtls: {{mode: {mode}}}");
    findings.warning("apiVersion", message);
}
