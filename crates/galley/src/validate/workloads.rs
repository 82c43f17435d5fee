//! Pods and Deployments: the parts of Kubernetes' `pkg/apis/{core,apps}/validation` that running them relies on.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Findings, names, shared};
use crate::problem::FieldProblem;
use crate::{mesh, strict};

pub(super) fn check_pod(pod: &Pod, findings: &mut Findings) {
    proxy_settings("metadata", Some(&pod.metadata), findings);
    match &pod.spec {
        Some(spec) => pod_spec("spec", spec, findings),
        None => findings.error("spec", "required"),
    }
}

/// What a pod says of its proxy.
fn proxy_settings(path: &str, metadata: Option<&ObjectMeta>, findings: &mut Findings) {
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
    if let Some(text) = annotations.and_then(|annotations| annotations.get(mesh::ANNOTATION)) {
        findings.append(mesh::proxy_config(text, &format!("{path}.annotations[{:?}]", mesh::ANNOTATION)).1);
    }
    annotated::<Volume>(path, "sidecar.istio.io/userVolume", annotations, findings);
    annotated::<VolumeMount>(path, "sidecar.istio.io/userVolumeMount", annotations, findings);
}

/// An annotation that holds objects for the sidecar's pod, in a list or by their names.
fn annotated<T: DeserializeOwned>(
    path: &str,
    name: &str,
    annotations: Option<&BTreeMap<String, String>>,
    findings: &mut Findings,
) {
    let Some(text) = annotations.and_then(|annotations| annotations.get(name)) else { return };
    let at = format!("{path}.annotations[{name:?}]");
    let wrong = match serde_json::from_str(text) {
        Ok(list @ Value::Array(_)) => strict::decode::<Vec<T>>(&list).err(),
        Ok(named @ Value::Object(_)) => strict::decode::<BTreeMap<String, T>>(&named).err(),
        _ => Some(vec![FieldProblem::new("", "is no list of objects in JSON, nor such objects by their names")]),
    };
    for FieldProblem { path, message } in wrong.into_iter().flatten() {
        let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
        findings.error(format!("{at}{dot}{path}"), message);
    }
}

pub(super) fn check_deployment(deployment: &Deployment, findings: &mut Findings) {
    let Some(spec) = &deployment.spec else {
        findings.error("spec", "required");
        return;
    };
    if spec.replicas.is_some_and(|replicas| replicas < 0) {
        findings.error("spec.replicas", "is less than 0");
    }
    if spec.template.spec.as_ref().is_some_and(|pod| pod.restart_policy.as_deref().unwrap_or("Always") != "Always") {
        findings.error("spec.template.spec.restartPolicy", "a Deployment's pods restart Always");
    }
    proxy_settings("spec.template.metadata", spec.template.metadata.as_ref(), findings);
    let empty = Default::default();
    let labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref()).unwrap_or(&empty);
    shared::labels("spec.template.metadata.labels", labels, findings);
    let wanted = spec.selector.match_labels.as_ref().unwrap_or(&empty);
    let expressions = spec.selector.match_expressions.as_deref().unwrap_or_default();
    if wanted.is_empty() && expressions.is_empty() {
        findings.error("spec.selector", "required: without it, the Deployment would own every pod");
    }
    for (name, value) in wanted {
        if labels.get(name) != Some(value) {
            let message = format!("must have {name}: {value:?}, as spec.selector says");
            findings.error("spec.template.metadata.labels", message);
        }
    }
    match &spec.template.spec {
        Some(pod) => pod_spec("spec.template.spec", pod, findings),
        None => findings.error("spec.template.spec", "required"),
    }
}

fn pod_spec(path: &str, spec: &PodSpec, findings: &mut Findings) {
    if spec.containers.is_empty() {
        findings.error(format!("{path}.containers"), "required: at least one container");
    }
    if let Some(policy) =
        spec.restart_policy.as_deref().filter(|policy| !["Always", "OnFailure", "Never"].contains(policy))
    {
        let message = format!("{policy:?} is not one of Always, OnFailure, Never");
        findings.error(format!("{path}.restartPolicy"), message);
    }
    let mut volumes = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = format!("{path}.volumes[{index}].name");
        findings.check(&at, names::label(&volume.name));
        if !volumes.insert(volume.name.as_str()) {
            findings.error(at, format!("{:?} is given twice", volume.name));
        }
    }
    let mut seen = BTreeSet::new();
    for (list, containers) in [
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", spec.containers.as_slice()),
    ] {
        for (index, container) in containers.iter().enumerate() {
            let at = format!("{path}.{list}[{index}]");
            if !seen.insert(container.name.as_str()) {
                findings.error(format!("{at}.name"), format!("{:?} is given twice", container.name));
            }
            check_container(&at, container, &volumes, findings);
        }
    }
}

fn check_container(path: &str, container: &Container, volumes: &BTreeSet<&str>, findings: &mut Findings) {
    if container.name.is_empty() {
        findings.error(format!("{path}.name"), "required");
    } else {
        findings.check(&format!("{path}.name"), names::label(&container.name));
    }
    let mut port_names = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let at = format!("{path}.ports[{index}]");
        findings.check(&format!("{at}.containerPort"), names::port(port.container_port.into()));
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        findings.check(&format!("{at}.name"), names::port_name(name));
        if !port_names.insert(name) {
            findings.error(format!("{at}.name"), format!("{name:?} is given twice"));
        }
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let at = format!("{path}.env[{index}]");
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
            findings.error(format!("{at}.name"), format!("{:?} is not a variable's name", variable.name));
        }
        if variable.value.is_some() && variable.value_from.is_some() {
            findings.error(&at, "only one of value, valueFrom can be given");
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = format!("{path}.volumeMounts[{index}]");
        if !volumes.contains(mount.name.as_str()) {
            findings.error(format!("{at}.name"), format!("the pod has no volume {:?}", mount.name));
        }
        if mount.mount_path.is_empty() {
            findings.error(format!("{at}.mountPath"), "required");
        }
    }
    for (name, given) in [
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        if let Some(given) = given {
            probe(&format!("{path}.{name}"), given, &port_names, findings);
        }
    }
}

fn probe(path: &str, probe: &Probe, port_names: &BTreeSet<&str>, findings: &mut Findings) {
    let mut port = |at: String, port: &IntOrString| match port {
        IntOrString::Int(number) => findings.check(&at, names::port(i64::from(*number))),
        IntOrString::String(name) if port_names.contains(name.as_str()) => {}
        IntOrString::String(name) => findings.error(at, format!("the container has no port {name:?}")),
    };
    let mut ways = 0;
    if let Some(http) = &probe.http_get {
        ways += 1;
        port(format!("{path}.httpGet.port"), &http.port);
    }
    if let Some(tcp) = &probe.tcp_socket {
        ways += 1;
        port(format!("{path}.tcpSocket.port"), &tcp.port);
    }
    if let Some(grpc) = &probe.grpc {
        ways += 1;
        findings.check(&format!("{path}.grpc.port"), names::port(grpc.port.into()));
    }
    ways += i32::from(probe.exec.is_some());
    if ways != 1 {
        findings.error(path, "exactly one of httpGet, tcpSocket, grpc, exec is needed");
    }
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if value.is_some_and(|value| value < 0) {
            findings.error(format!("{path}.{field}"), "is less than 0");
        }
    }
}
