//! What Istio's kinds can say and this version cannot carry out yet: refused by name rather than taken and ignored.
//! One table; a feature that comes into being takes its lines out.
//!
//! Paths are in dots, `[]` for every entry of a list.

mod path;

use serde_json::Value;

use crate::kind::Kind;
use crate::object::Object;
use crate::problem::FieldProblem;

/// When a field is more than can be carried out.
#[derive(Debug, Clone, Copy)]
enum When {
    /// It says anything at all. (Zero values say nothing, as in proto3; an empty message does.)
    Given,
    /// It says one of these (case does not matter).
    Is(&'static [&'static str]),
    /// It begins so.
    BeginsWith(&'static str),
}

/// Kind, path, condition, what cannot be done.
type Line = (Kind, &'static str, When, &'static str);

const VIRTUAL_SERVICE: Kind = Kind::VirtualService;
const GATEWAY: Kind = Kind::Gateway;
const SERVICE_ENTRY: Kind = Kind::ServiceEntry;
const SIDECAR: Kind = Kind::Sidecar;
const SERVICE: Kind = Kind::Service;
const AUTHORIZATION: Kind = Kind::AuthorizationPolicy;
const AUTHENTICATION: Kind = Kind::RequestAuthentication;

/// What policies can refer to that is enforced at waypoints alone, of which there are none.
const OF_WAYPOINTS: When = When::Is(&["Service", "ServiceEntry", "GatewayClass"]);

const LINES: &[Line] = &[
    (
        VIRTUAL_SERVICE,
        "spec.tcp[].match[].sourceSubnet",
        When::Given,
        "matching the client's address (Istio does not either)",
    ),
    (GATEWAY, "spec.servers[].bind", When::BeginsWith("unix://"), "listening at a unix socket"),
    (GATEWAY, "spec.servers[].defaultEndpoint", When::Given, "a default endpoint (Istio does not either)"),
    (GATEWAY, "spec.servers[].tls.minProtocolVersion", When::Is(&["TLSV1_0", "TLSV1_1"]), "TLS before 1.2"),
    (GATEWAY, "spec.servers[].tls.maxProtocolVersion", When::Is(&["TLSV1_0", "TLSV1_1"]), "TLS before 1.2"),
    (GATEWAY, "spec.servers[].port.protocol", When::Is(&["UDP"]), "this protocol"),
    (SERVICE_ENTRY, "spec.ports[].protocol", When::Is(&["UDP"]), "this protocol"),
    (SIDECAR, "spec.egress[].bind", When::BeginsWith("unix://"), "listening at a unix socket"),
    (SIDECAR, "spec.egress[].port.protocol", When::Is(&["UDP"]), "this protocol"),
    (SIDECAR, "spec.ingress[].port.protocol", When::Is(&["UDP"]), "this protocol"),
    (SIDECAR, "spec.ingress[].tls", When::Given, "ending TLS at a sidecar"),
    (AUTHORIZATION, "spec.targetRef.kind", OF_WAYPOINTS, "enforcing what only a waypoint could"),
    (AUTHORIZATION, "spec.targetRefs[].kind", OF_WAYPOINTS, "enforcing what only a waypoint could"),
    (AUTHENTICATION, "spec.targetRef.kind", OF_WAYPOINTS, "enforcing what only a waypoint could"),
    (AUTHENTICATION, "spec.targetRefs[].kind", OF_WAYPOINTS, "enforcing what only a waypoint could"),
    (AUTHENTICATION, "spec.jwtRules[].presence", When::Is(&["REQUIRED"]), "demanding a token (a policy can)"),
    (SERVICE, "spec.loadBalancerSourceRanges", When::Given, "refusing clients by their address"),
];

/// Lines of a DestinationRule's policies, wherever one can stand.
const POLICY_LINES: &[(&str, When, &str)] =
    &[("loadBalancer.zoneAwareLbSetting", When::Given, "choosing endpoints by zone")];

const POLICIES: [&str; 4] = [
    "spec.trafficPolicy",
    "spec.trafficPolicy.portLevelSettings[]",
    "spec.subsets[].trafficPolicy",
    "spec.subsets[].trafficPolicy.portLevelSettings[]",
];

/// Every field that says what this version cannot carry out.
pub fn check(object: &Object) -> Vec<FieldProblem> {
    let (kind, raw) = (object.kind(), object.raw());
    let mut problems = Vec::new();
    for (_, path, when, what) in LINES.iter().filter(|line| line.0 == kind) {
        find(raw, path, *when, what, &mut problems);
    }
    if kind == Kind::DestinationRule {
        for place in POLICIES {
            for (path, when, what) in POLICY_LINES {
                find(raw, &format!("{place}.{path}"), *when, what, &mut problems);
            }
        }
    }
    problems
}

fn find(raw: &Value, path: &str, when: When, what: &str, problems: &mut Vec<FieldProblem>) {
    path::visit(raw, path, &mut |at, value| {
        if when.holds(value) {
            let said = value.and_then(Value::as_str).filter(|_| !matches!(when, When::Given | When::BeginsWith(_)));
            let said = said.map(|said| format!(" ({said})")).unwrap_or_default();
            problems.push(FieldProblem::new(at, format!("{what}{said} is not supported yet")));
        }
    });
}

impl When {
    fn holds(self, value: Option<&Value>) -> bool {
        let text = value.and_then(Value::as_str).unwrap_or_default();
        match self {
            Self::Given => value.is_some_and(says_something),
            Self::Is(these) => these.iter().any(|this| this.eq_ignore_ascii_case(text)),
            Self::BeginsWith(head) => text.starts_with(head),
        }
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        // A wrapper says something even when it says no.
        Value::Bool(_) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests;
