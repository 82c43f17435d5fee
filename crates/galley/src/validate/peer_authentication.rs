//! PeerAuthentication: istio `pkg/config/validation/validation.go` (ValidatePeerAuthentication), and the rules of its
//! custom resource definition.

use super::{Findings, policy_target};
use crate::istio::PeerAuthentication;
use crate::mesh;

pub(super) fn check(own: &str, spec: &PeerAuthentication, findings: &mut Findings) {
    let PeerAuthentication { selector, mtls: _, port_level_mtls } = spec;
    policy_target::check(selector.as_ref(), None, &[], findings);
    let selects = selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    if !selects && !port_level_mtls.is_empty() {
        findings.error("spec.portLevelMtls", "needs a selector: whole namespaces have no ports");
    }
    for port in port_level_mtls.keys() {
        if !port.parse::<u16>().is_ok_and(|number| number != 0 && number.to_string() == *port) {
            findings.error(format!("spec.portLevelMtls[{port:?}]"), "is no port number from 1 to 65535");
        }
    }
    if selects && own == mesh::NAMESPACE {
        findings
            .warning("spec.selector", "selects nothing in the root namespace, where only the whole mesh is spoken of");
    }
}
