//! `AuthorizationPolicy`: who may do what with workloads.
//! Schema: istio/api `security/v1beta1/authorization_policy.proto`.

use serde::{Deserialize, Serialize};

use super::policy_target::{PolicyTargetReference, WorkloadSelector};

/// Annotation of policies that are only tried: `"true"`.
pub const DRY_RUN: &str = "istio.io/dry-run";

/// Rules about requests to workloads. Without rules nothing matches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// Workloads this applies to; absent is all of the namespace, or of the mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// What it applies to instead; deprecated.
    pub target_ref: Option<PolicyTargetReference>,
    /// What it applies to instead.
    pub target_refs: Vec<PolicyTargetReference>,
    /// One of them has to match.
    pub rules: Vec<Rule>,
    /// What happens to what matches.
    pub action: Action,
    /// Who is asked, for CUSTOM.
    pub provider: Option<Provider>,
}

/// What happens to requests that a policy matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// They may pass; those that no such policy matches may not.
    #[default]
    Allow,
    /// They may not.
    Deny,
    /// They are marked in the log.
    Audit,
    /// A provider of the mesh's settings is asked.
    Custom,
}

/// An extension provider of the mesh's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Provider {
    /// Its name.
    pub name: String,
}

/// Matches if a source, an operation and all conditions do. What is empty matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// One of these.
    pub from: Vec<From>,
    /// One of these.
    pub to: Vec<To>,
    /// All of these.
    pub when: Vec<Condition>,
}

/// Where requests come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct From {
    /// Required.
    pub source: Option<Source>,
}

/// What requests do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct To {
    /// Required.
    pub operation: Option<Operation>,
}

/// Who sends requests: every list that is not empty has to match, by one of its values. Values are exact, `*` (present),
/// `prefix*` or `*suffix` unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Source {
    /// Identities of peers, `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub principals: Vec<String>,
    /// None of these identities.
    pub not_principals: Vec<String>,
    /// Subjects of tokens, `ISSUER/SUBJECT`.
    pub request_principals: Vec<String>,
    /// None of these subjects.
    pub not_request_principals: Vec<String>,
    /// Namespaces of peers.
    pub namespaces: Vec<String>,
    /// None of these namespaces.
    pub not_namespaces: Vec<String>,
    /// Service accounts of peers, `NAMESPACE/ACCOUNT` or `ACCOUNT` of the policy's namespace. No wildcards.
    pub service_accounts: Vec<String>,
    /// None of these service accounts.
    pub not_service_accounts: Vec<String>,
    /// Trust domains of peers.
    pub trust_domains: Vec<String>,
    /// None of these trust domains.
    pub not_trust_domains: Vec<String>,
    /// Addresses or ranges of the connection's other end.
    pub ip_blocks: Vec<String>,
    /// None of these.
    pub not_ip_blocks: Vec<String>,
    /// Addresses or ranges of the client, as proxies in front tell it.
    pub remote_ip_blocks: Vec<String>,
    /// None of these.
    pub not_remote_ip_blocks: Vec<String>,
}

/// What is asked for: every list that is not empty has to match, by one of its values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Operation {
    /// Hosts; letter case does not count.
    pub hosts: Vec<String>,
    /// None of these hosts.
    pub not_hosts: Vec<String>,
    /// Port numbers.
    pub ports: Vec<String>,
    /// None of these ports.
    pub not_ports: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// None of these methods.
    pub not_methods: Vec<String>,
    /// Paths, or templates of them: `{*}` is one segment, `{**}` any number.
    pub paths: Vec<String>,
    /// None of these paths.
    pub not_paths: Vec<String>,
}

/// A further condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// An attribute, for example `request.headers[x-role]`.
    pub key: String,
    /// It is one of these …
    pub values: Vec<String>,
    /// … and none of these.
    pub not_values: Vec<String>,
}
