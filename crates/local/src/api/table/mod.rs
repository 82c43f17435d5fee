//! Tables as the API server renders them for `kubectl get` (`meta.k8s.io/v1` `Table`): the columns of
//! each kind, and what stands in them. Pure: the clock is an argument.
//!
//! Columns are those of Kubernetes' `pkg/printers/internalversion` and of the `additionalPrinterColumns`
//! in Istio's custom resource definitions.

mod age;
mod cells;

#[cfg(test)]
mod tests;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// One column: its title, whether only `-o wide` shows it, and its text for an object.
struct Column {
    title: &'static str,
    kind: &'static str,
    wide: bool,
    cell: fn(&Value, Timestamp) -> Value,
}

const fn column(title: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { title, kind: "string", wide: false, cell }
}

const fn wide(title: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { title, kind: "string", wide: true, cell }
}

const fn number(title: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { title, kind: "integer", wide: false, cell }
}

/// The columns of a resource, named by group and plural.
fn columns(group: &str, resource: &str) -> Vec<Column> {
    let name = || column("Name", cells::name);
    let age = || column("Age", cells::age);
    match (group, resource) {
        ("", "pods") => vec![
            name(),
            column("Ready", cells::pod_ready),
            column("Status", cells::pod_status),
            column("Restarts", cells::pod_restarts),
            age(),
            wide("IP", cells::pod_ip),
            wide("Node", |pod, _| cells::text_or_none(pod, "/spec/nodeName")),
            wide("Nominated Node", |pod, _| cells::text_or_none(pod, "/status/nominatedNodeName")),
            wide("Readiness Gates", cells::pod_gates),
        ],
        ("", "services") => vec![
            name(),
            column("Type", |service, _| cells::text(service, "/spec/type")),
            column("Cluster-IP", cells::service_cluster_ip),
            column("External-IP", cells::service_external_ip),
            column("Port(s)", cells::service_ports),
            age(),
            wide("Selector", |service, _| cells::labels(service, "/spec/selector")),
        ],
        ("", "namespaces") => vec![name(), column("Status", |object, _| cells::text(object, "/status/phase")), age()],
        ("", "serviceaccounts") => vec![name(), number("Secrets", |object, _| cells::count(object, "/secrets")), age()],
        ("", "configmaps") => vec![name(), number("Data", cells::data), age()],
        ("", "secrets") => {
            vec![name(), column("Type", |secret, _| cells::text(secret, "/type")), number("Data", cells::data), age()]
        }
        ("", "endpoints") => vec![name(), column("Endpoints", cells::endpoints), age()],
        ("", "nodes") => vec![
            name(),
            column("Status", cells::node_status),
            column("Version", |node, _| cells::text(node, "/status/nodeInfo/kubeletVersion")),
            age(),
        ],
        ("discovery.k8s.io", "endpointslices") => vec![
            name(),
            column("AddressType", |slice, _| cells::text(slice, "/addressType")),
            column("Ports", cells::slice_ports),
            column("Endpoints", cells::slice_endpoints),
            age(),
        ],
        ("apps", "deployments") => vec![
            name(),
            column("Ready", cells::deployment_ready),
            number("Up-to-date", |deployment, _| cells::number(deployment, "/status/updatedReplicas")),
            number("Available", |deployment, _| cells::number(deployment, "/status/availableReplicas")),
            age(),
            wide("Containers", |object, _| cells::containers(object, "name")),
            wide("Images", |object, _| cells::containers(object, "image")),
            wide("Selector", |object, _| cells::labels(object, "/spec/selector/matchLabels")),
        ],
        ("networking.istio.io", "virtualservices") => vec![
            name(),
            column("Gateways", |object, _| cells::path(object, "/spec/gateways")),
            column("Hosts", |object, _| cells::path(object, "/spec/hosts")),
            age(),
        ],
        ("networking.istio.io", "destinationrules") => {
            vec![name(), column("Host", |object, _| cells::path(object, "/spec/host")), age()]
        }
        ("networking.istio.io", "serviceentries") => vec![
            name(),
            column("Hosts", |object, _| cells::path(object, "/spec/hosts")),
            column("Location", |object, _| cells::path(object, "/spec/location")),
            column("Resolution", |object, _| cells::path(object, "/spec/resolution")),
            age(),
        ],
        ("networking.istio.io", "workloadentries") => {
            vec![name(), age(), column("Address", |object, _| cells::path(object, "/spec/address"))]
        }
        _ => vec![name(), age()],
    }
}

/// Renders objects as a `Table`.
///
/// `revision` is the list's resourceVersion; `headers` is false for the later events of a watch, whose
/// rows belong to columns sent before.
pub fn render(group: &str, resource: &str, objects: &[Value], revision: &str, headers: bool, now: Timestamp) -> Value {
    let columns = columns(group, resource);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(object, now)).collect();
            let metadata = object.get("metadata").cloned().unwrap_or_default();
            json!({
                "cells": cells,
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata},
            })
        })
        .collect();
    let definitions: Vec<Value> = columns
        .iter()
        .filter(|_| headers)
        .map(|column| {
            let format = if column.title == "Name" { "name" } else { "" };
            json!({
                "name": column.title, "type": column.kind, "format": format,
                "description": "", "priority": i32::from(column.wide),
            })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision},
        "columnDefinitions": definitions, "rows": rows,
    })
}
