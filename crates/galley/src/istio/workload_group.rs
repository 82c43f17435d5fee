//! `WorkloadGroup`: what the WorkloadEntries of workloads that come and go have in common.
//! Schema: istio/api `networking/v1alpha3/workload_group.proto`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::WorkloadEntry;

/// Annotation of a pod that stands for a machine outside the cluster: the WorkloadGroup it joins. What the mesh knows of it is
/// its WorkloadEntry; no Service selects it, nor does anything else that selects pods.
pub const MEMBER_ANNOTATION: &str = "lateen.dev/workload-group";

/// A template of WorkloadEntries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadGroup {
    /// Labels and annotations of the entries.
    pub metadata: Option<GroupMetadata>,
    /// The entries themselves, without an address.
    pub template: Option<WorkloadEntry>,
    /// How the workloads' health is found out.
    pub probe: Option<ReadinessProbe>,
}

/// What the entries of a group are called by.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupMetadata {
    /// Label names and values.
    pub labels: BTreeMap<String, String>,
    /// Annotation names and values.
    pub annotations: BTreeMap<String, String>,
}

/// A readiness probe, as Kubernetes' are. Counts and seconds of 0 are the defaults: 0 s of delay, 1 s of patience, every
/// 10 s, 1 success, 3 failures.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReadinessProbe {
    /// Seconds before the first.
    pub initial_delay_seconds: i32,
    /// Seconds until one counts as failed.
    pub timeout_seconds: i32,
    /// Seconds from one to the next.
    pub period_seconds: i32,
    /// Successes in a row that make a failed workload healthy.
    pub success_threshold: i32,
    /// Failures in a row that make a healthy workload failed.
    pub failure_threshold: i32,
    /// By an HTTP request.
    pub http_get: Option<HttpProbe>,
    /// By a connection.
    pub tcp_socket: Option<TcpProbe>,
    /// By a command.
    pub exec: Option<ExecProbe>,
    /// By a gRPC health check.
    pub grpc: Option<GrpcProbe>,
}

/// A probe by an HTTP request; any status from 200 to 399 is a success.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpProbe {
    /// Empty is `/`.
    pub path: String,
    /// 1 to 65535.
    pub port: u32,
    /// Empty is the workload's address.
    pub host: String,
    /// `HTTP` or `HTTPS`; empty is `HTTP`.
    pub scheme: String,
    /// Sent along.
    pub http_headers: Vec<ProbeHeader>,
}

/// A header of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProbeHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A probe by a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpProbe {
    /// Empty is the workload's address.
    pub host: String,
    /// 1 to 65535.
    pub port: u32,
}

/// A probe by a command, healthy when it ends with 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExecProbe {
    /// Program and arguments.
    pub command: Vec<String>,
}

/// A probe by a gRPC health check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcProbe {
    /// 1 to 65535.
    pub port: u32,
    /// The service asked for; empty is the whole server.
    pub service: String,
}
