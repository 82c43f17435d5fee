//! `ServiceEntry`: a service put into the registry by hand.
//! Schema: istio/api `networking/v1alpha3/service_entry.proto`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::WorkloadEntry;

/// A service by its hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntry {
    /// DNS names, or `*.suffix`. At least one.
    pub hosts: Vec<String>,
    /// Virtual IP addresses or CIDR blocks.
    pub addresses: Vec<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Whether it is part of the mesh.
    pub location: Location,
    /// How its endpoints' addresses are found.
    pub resolution: Resolution,
    /// Its endpoints, listed here. Not together with `workload_selector`.
    pub endpoints: Vec<WorkloadEntry>,
    /// Its endpoints: the pods and WorkloadEntries of this namespace with these labels.
    pub workload_selector: Option<WorkloadSelector>,
    /// Namespaces that see this: `*`, `.` (its own), `~` (none), or names. Empty means `*`.
    pub export_to: Vec<String>,
    /// Names the server's certificate must have.
    pub subject_alt_names: Vec<String>,
}

/// Labels that pods and WorkloadEntries must all have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Label names and values.
    pub labels: BTreeMap<String, String>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// 1 to 65535.
    pub number: u32,
    /// HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP, TLS; empty is found out.
    pub protocol: String,
    /// Required, unique.
    pub name: String,
    /// The endpoints' port; 0 is `number`.
    pub target_port: u32,
}

/// Whether a service is part of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Outside: no mutual TLS.
    #[default]
    MeshExternal,
    /// Inside.
    MeshInternal,
}

/// How the addresses of a service's endpoints are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// Connections go where the client addressed them.
    #[default]
    None,
    /// The endpoints' own IP addresses.
    Static,
    /// By DNS, every address used.
    Dns,
    /// By DNS, one address at a time.
    DnsRoundRobin,
    /// By DNS, of the host a request names (wildcard hosts).
    DynamicDns,
}
