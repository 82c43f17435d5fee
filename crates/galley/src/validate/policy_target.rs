//! What policies apply to: istio `pkg/config/validation/validation.go` (validateWorkloadSelector,
//! validatePolicyTargetReference, validateOneOfSelectorType).

use super::{Findings, shared};
use crate::istio::policy_target::{PolicyTargetReference, WorkloadSelector};

/// Groups and kinds that can be referred to.
const TARGETS: [(&str, &str); 4] = [
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];

pub(super) fn check(
    selector: Option<&WorkloadSelector>,
    target_ref: Option<&PolicyTargetReference>,
    target_refs: &[PolicyTargetReference],
    findings: &mut Findings,
) {
    let given = [selector.is_some(), target_ref.is_some(), !target_refs.is_empty()];
    if given.iter().filter(|given| **given).count() > 1 {
        findings.error("spec", "only one of selector, targetRef, targetRefs may be set");
    }
    if let Some(WorkloadSelector { match_labels }) = selector {
        shared::selector("spec.selector.matchLabels", match_labels, findings);
        if match_labels.is_empty() {
            findings.warning("spec.selector", "has no labels, and so selects every workload");
        }
    }
    if let Some(target) = target_ref {
        reference("spec.targetRef", target, findings);
    }
    if target_refs.len() > 16 {
        findings.error("spec.targetRefs", "more than 16");
    }
    for (index, target) in target_refs.iter().enumerate() {
        reference(&format!("spec.targetRefs[{index}]"), target, findings);
    }
}

fn reference(path: &str, target: &PolicyTargetReference, findings: &mut Findings) {
    let PolicyTargetReference { group, kind, name, namespace } = target;
    if name.is_empty() {
        findings.error(format!("{path}.name"), "required");
    }
    if !namespace.is_empty() {
        findings.error(format!("{path}.namespace"), "other namespaces cannot be referred to");
    }
    let group = if group == "core" { "" } else { group };
    if !TARGETS.contains(&(group, kind)) {
        let known = TARGETS.map(|(_, kind)| kind).join(", ");
        findings.error(format!("{path}.kind"), format!("{kind:?} of group {group:?} is none of {known}"));
    }
}
