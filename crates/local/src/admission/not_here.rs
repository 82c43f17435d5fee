//! What a manifest asks for that one machine does not do: accepted, as every cluster accepts it, but told, so that
//! nobody relies on it. Fields that only choose among nodes mean nothing with one node and are not told.

use lateen_galley::{FieldProblem, Kind, Object};
use serde_json::Value;

/// Fields of a pod's spec.
const POD: [(&str, &str); 6] = [
    ("activeDeadlineSeconds", "pods are not ended after a time"),
    ("hostIPC", "pods always have an IPC namespace of their own"),
    ("hostPID", "containers always have a process namespace of their own"),
    ("shareProcessNamespace", "containers always have a process namespace of their own"),
    ("setHostnameAsFQDN", "the host name is the short one"),
    ("ephemeralContainers", "they are not run; use exec"),
];
/// Fields of a container.
const CONTAINER: [(&str, &str); 5] = [
    ("resources.limits", "limits are not enforced"),
    ("lifecycle.postStart", "the hook is not run"),
    ("lifecycle.preStop.httpGet", "the hook is not run; exec and sleep are"),
    ("volumeDevices", "there are no block devices"),
    ("stdin", "containers get no input"),
];
/// Fields of a container's security context.
const SECURITY: [(&str, &str); 5] = [
    ("privileged", "containers never have rights over the machine"),
    ("capabilities.add", "containers never have rights over the machine"),
    ("readOnlyRootFilesystem", "the file system is the machine's own"),
    ("runAsNonRoot", "it is not checked"),
    ("seccompProfile", "system calls are not filtered"),
];
/// Fields of a Service's spec.
const SERVICE: [(&str, &str); 3] = [
    ("externalIPs", "they are served inside of the cluster alone"),
    ("loadBalancerIP", "the address is chosen here"),
    ("loadBalancerSourceRanges", "only this machine can connect anyway"),
];
/// Fields of a Deployment's spec.
const DEPLOYMENT: [(&str, &str); 2] = [
    ("paused", "changed templates are rolled out at once"),
    ("minReadySeconds", "ready pods count as available at once"),
];

/// What of an object is not carried out.
pub fn not_carried_out(object: &Object) -> Vec<FieldProblem> {
    let mut found = Vec::new();
    let raw = object.raw();
    match object.kind() {
        Kind::Pod => pod("spec", raw.get("spec"), &mut found),
        Kind::Deployment => {
            fields("spec", raw.get("spec"), &DEPLOYMENT, &mut found);
            pod("spec.template.spec", raw.pointer("/spec/template/spec"), &mut found);
        }
        Kind::Service => {
            fields("spec", raw.get("spec"), &SERVICE, &mut found);
            let ports = raw.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
            let headless = raw.pointer("/spec/clusterIP").and_then(Value::as_str) == Some("None");
            for (index, port) in ports.enumerate().filter(|_| !headless) {
                let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
                if protocol != "TCP" && !protocol.is_empty() {
                    let message = format!(
                        "{protocol} does not reach a Service's address here; a headless Service's pods it does"
                    );
                    found.push(FieldProblem::new(format!("spec.ports[{index}].protocol"), message));
                }
            }
            let families = raw.pointer("/spec/ipFamilies").and_then(Value::as_array).into_iter().flatten();
            if families.into_iter().any(|family| family == "IPv6") {
                found.push(FieldProblem::new("spec.ipFamilies", "Services have IPv4 addresses here"));
            }
            for (field, value, message) in [
                ("sessionAffinity", Some("ClientIP"), "clients without a sidecar are not kept at one pod"),
                ("internalTrafficPolicy", Some("Local"), "clients without a sidecar reach pods of every node"),
                ("trafficDistribution", None, "clients without a sidecar prefer no pods"),
            ] {
                let given = raw.pointer(&format!("/spec/{field}")).and_then(Value::as_str);
                if given.is_some() && (value.is_none() || given == value) {
                    found.push(FieldProblem::new(format!("spec.{field}"), message));
                }
            }
        }
        _ => {}
    }
    found
}

fn pod(path: &str, spec: Option<&Value>, found: &mut Vec<FieldProblem>) {
    fields(path, spec, &POD, found);
    for list in ["initContainers", "containers"] {
        let containers = spec.and_then(|spec| spec.get(list)).and_then(Value::as_array).into_iter().flatten();
        for (index, container) in containers.enumerate() {
            let at = format!("{path}.{list}[{index}]");
            fields(&at, Some(container), &CONTAINER, found);
            fields(&format!("{at}.securityContext"), container.get("securityContext"), &SECURITY, found);
            let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
            for (number, _) in ports.enumerate().filter(|(_, port)| is_given(port.get("hostPort"))) {
                let message = "the port is not opened on the machine; a Service of type NodePort is";
                found.push(FieldProblem::new(format!("{at}.ports[{number}].hostPort"), message));
            }
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                let Some(asked) = container.get(probe) else { continue };
                let tls = asked.pointer("/httpGet/scheme").and_then(Value::as_str) == Some("HTTPS");
                if tls || is_given(asked.get("grpc")) {
                    let message = "only whether the port accepts connections is asked";
                    found.push(FieldProblem::new(format!("{at}.{probe}"), message));
                }
            }
        }
    }
}

fn fields(path: &str, object: Option<&Value>, known: &[(&str, &str)], found: &mut Vec<FieldProblem>) {
    for (field, message) in known {
        let value = field.split('.').try_fold(object, |value, name| Some(value?.get(name)));
        if is_given(value.flatten()) {
            found.push(FieldProblem::new(format!("{path}.{field}"), *message));
        }
    }
}

/// Whether a field asks for anything: absent, false, zero and empty ones do not.
fn is_given(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
    }
}
