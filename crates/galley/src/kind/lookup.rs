//! From a name to a kind: names in manifests, in REST paths, and on the command line.

use super::{Kind, KindInfo};
use crate::nearest::{did_you_mean, nearest};

/// Why a name is no kind that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// A kind that exists elsewhere, and that this version cannot carry out.
    #[error("{name} ({group}) is not supported yet")]
    NotYet {
        /// As in a manifest's `kind`.
        name: &'static str,
        /// Its API group, `core` for Kubernetes' own.
        group: &'static str,
    },
    /// A kind of somebody else's, whose objects change nothing of what the mesh does.
    #[error("{kind} ({group}) is no kind of the mesh: passed over")]
    Foreign {
        /// What was given as `kind`.
        kind: String,
        /// Its API group, `core` for Kubernetes' own.
        group: String,
    },
    /// A kind of the past, whose objects said who may do what. To pass them over would leave open what they closed.
    #[error("{name} ({group}) is carried out no more, and protects nothing; write instead {instead}")]
    Gone {
        /// As in a manifest's `kind`.
        name: &'static str,
        /// Its API group.
        group: &'static str,
        /// What says the same today.
        instead: &'static str,
    },
    /// The kind is known, in another version or group.
    #[error("{name} is not served in {given:?}; use {served}")]
    Version {
        /// As in a manifest's `kind`.
        name: &'static str,
        /// What was given as `apiVersion`.
        given: String,
        /// Versions that are served, joined with commas.
        served: String,
    },
    /// No such kind.
    #[error("no kind {kind:?} in {api_version:?}{hint}")]
    Kind {
        /// What was given as `kind`.
        kind: String,
        /// What was given as `apiVersion`.
        api_version: String,
        /// The nearest known name, or nothing.
        hint: String,
    },
    /// No such name on the command line.
    #[error("the server doesn't have a resource type {typed:?}{hint}")]
    Typed {
        /// What was typed.
        typed: String,
        /// The nearest known name, or nothing.
        hint: String,
    },
}

/// Kinds that manifests written for Istio or Kubernetes contain, and that are not carried out yet: group, kind, plural.
const NOT_YET: &[(&str, &str, &str)] = &[
    ("networking.istio.io", "EnvoyFilter", "envoyfilters"),
    ("networking.istio.io", "ProxyConfig", "proxyconfigs"),
    ("telemetry.istio.io", "Telemetry", "telemetries"),
    ("extensions.istio.io", "WasmPlugin", "wasmplugins"),
    ("extensions.istio.io", "TrafficExtension", "trafficextensions"),
    ("gateway.networking.k8s.io", "GatewayClass", "gatewayclasses"),
    ("gateway.networking.k8s.io", "Gateway", "gateways"),
    ("gateway.networking.k8s.io", "HTTPRoute", "httproutes"),
    ("gateway.networking.k8s.io", "GRPCRoute", "grpcroutes"),
    ("gateway.networking.k8s.io", "TCPRoute", "tcproutes"),
    ("gateway.networking.k8s.io", "TLSRoute", "tlsroutes"),
    ("gateway.networking.k8s.io", "UDPRoute", "udproutes"),
    ("gateway.networking.k8s.io", "ReferenceGrant", "referencegrants"),
    ("gateway.networking.k8s.io", "BackendTLSPolicy", "backendtlspolicies"),
    ("networking.k8s.io", "Ingress", "ingresses"),
    ("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
    ("apps", "StatefulSet", "statefulsets"),
    ("apps", "DaemonSet", "daemonsets"),
    ("apps", "ReplicaSet", "replicasets"),
    ("batch", "Job", "jobs"),
    ("batch", "CronJob", "cronjobs"),
    ("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    ("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("rbac.authorization.k8s.io", "Role", "roles"),
    ("rbac.authorization.k8s.io", "RoleBinding", "rolebindings"),
    ("rbac.authorization.k8s.io", "ClusterRole", "clusterroles"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings"),
    ("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions"),
    ("", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("", "PersistentVolume", "persistentvolumes"),
    ("", "Node", "nodes"),
];

/// Kinds of Istio before 1.6 that said who may do what: group, kind, plural, and what says it today.
const GONE: &[(&str, &str, &str, &str)] = &[
    ("rbac.istio.io", "ServiceRole", "serviceroles", RULES),
    ("rbac.istio.io", "ServiceRoleBinding", "servicerolebindings", RULES),
    ("rbac.istio.io", "AuthorizationPolicy", "authorizationpolicies", RULES),
    ("rbac.istio.io", "RbacConfig", "rbacconfigs", EVERYBODY_OUT),
    ("rbac.istio.io", "ClusterRbacConfig", "clusterrbacconfigs", EVERYBODY_OUT),
];

const RULES: &str = "an AuthorizationPolicy (security.istio.io/v1): the role's services are its selector, \
                     the role's rules its rules' to, the binding's subjects their from";
const EVERYBODY_OUT: &str = "an AuthorizationPolicy (security.istio.io/v1) with spec {}, in each namespace that was included \
                             or for all in istio-system: it lets in only whom others allow";

/// Groups whose kinds say what runs, and what the mesh does with its traffic: none of them is passed over unnoticed.
const OWN_GROUPS: [&str; 11] = [
    "",
    "apps",
    "batch",
    "discovery.k8s.io",
    "networking.istio.io",
    "security.istio.io",
    "authentication.istio.io",
    "rbac.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "networking.k8s.io",
];

/// Kinds of those groups that mean nothing here all the same.
const MEANINGLESS: [(&str, &str); 7] = [
    ("", "PersistentVolumeClaim"),
    ("", "PersistentVolume"),
    ("", "Node"),
    ("", "ResourceQuota"),
    ("", "LimitRange"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "IngressClass"),
];

/// Whether a manifest's kind is none of the mesh's. A kind of ours in a group that is not is a mistake instead.
fn is_foreign(group: &str, kind: &str) -> bool {
    if OWN_GROUPS.contains(&group) {
        return MEANINGLESS.contains(&(group, kind));
    }
    let known_there = NOT_YET.iter().any(|known| known.0 == group && known.1 == kind);
    let misspelt = nearest(group, OWN_GROUPS.into_iter().filter(|own| own.contains('.'))).is_some();
    known_there || !(kind.is_empty() || misspelt || Kind::table().iter().any(|info| info.name == kind))
}

/// Splits `networking.istio.io/v1` into group and version; `v1` has the empty group.
fn group_and_version(api_version: &str) -> (&str, &str) {
    api_version.rsplit_once('/').unwrap_or(("", api_version))
}

/// The kind a manifest's `apiVersion` and `kind` name.
///
/// # Errors
/// [`LookupError`], with the nearest known name.
pub fn by_api_version(api_version: &str, kind: &str) -> Result<Kind, LookupError> {
    let (group, version) = group_and_version(api_version);
    if let Some(info) = Kind::table().iter().find(|info| info.name == kind && info.group == group) {
        if info.versions.contains(&version) {
            return Ok(info.kind);
        }
        return Err(other_version(info, api_version));
    }
    if let Some((group, name, _, instead)) = GONE.iter().find(|gone| gone.0 == group && gone.1 == kind) {
        return Err(LookupError::Gone { name, group, instead });
    }
    if is_foreign(group, kind) {
        let group = if group.is_empty() { "core" } else { group };
        return Err(LookupError::Foreign { kind: kind.to_owned(), group: group.to_owned() });
    }
    if let Some((group, name, _)) = NOT_YET.iter().find(|known| known.0 == group && known.1 == kind) {
        return Err(LookupError::NotYet { name, group: if group.is_empty() { "core" } else { group } });
    }
    if let Some(info) = Kind::table().iter().find(|info| info.name == kind) {
        return Err(other_version(info, api_version));
    }
    let known = Kind::table().iter().map(|info| info.name).chain(NOT_YET.iter().map(|known| known.1));
    Err(LookupError::Kind {
        kind: kind.to_owned(),
        api_version: api_version.to_owned(),
        hint: did_you_mean(kind, known),
    })
}

fn other_version(info: &'static KindInfo, given: &str) -> LookupError {
    let served: Vec<String> = info.versions.iter().map(|version| info.api_version_in(version)).collect();
    LookupError::Version { name: info.name, given: given.to_owned(), served: served.join(", ") }
}

/// The kind a REST path names: `/apis/{group}/{version}/…/{plural}`, or `/api/v1/…/{plural}` with the empty group.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<Kind> {
    Kind::table()
        .iter()
        .find(|info| info.group == group && info.plural == plural && info.versions.contains(&version))
        .map(|info| info.kind)
}

/// The kinds a word on the command line names: `vs`, `virtualservice`, `VirtualServices`,
/// `virtualservices.networking.istio.io`, `virtualservices.v1.networking.istio.io`, a category (`all`, `istio-io`),
/// or several joined with commas.
///
/// # Errors
/// [`LookupError`], with the nearest known name.
pub fn by_typed_name(typed: &str) -> Result<Vec<Kind>, LookupError> {
    let mut kinds = Vec::new();
    for word in typed.split(',') {
        for kind in one_word(word)? {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    Ok(kinds)
}

fn one_word(word: &str) -> Result<Vec<Kind>, LookupError> {
    let lower = word.to_ascii_lowercase();
    let (name, group) = lower.split_once('.').unwrap_or((&lower, ""));
    let is_group = |info: &KindInfo| {
        let (version, rest) = group.split_once('.').unwrap_or((group, ""));
        group.is_empty() || group == info.group || (info.versions.contains(&version) && rest == info.group)
    };
    let is_name = |info: &&KindInfo| info.plural == name || info.singular == name || info.short_names.contains(&name);
    if let Some(info) = Kind::table().iter().find(|info| is_name(info) && is_group(info)) {
        return Ok(vec![info.kind]);
    }
    let category: Vec<Kind> =
        Kind::table().iter().filter(|info| info.categories.contains(&lower.as_str())).map(|info| info.kind).collect();
    if !category.is_empty() {
        return Ok(category);
    }
    let is_gone = |(_, kind, plural, _): &&(&str, &str, &str, &str)| *plural == name || kind.eq_ignore_ascii_case(name);
    if let Some((group, name, _, instead)) = GONE.iter().find(is_gone) {
        return Err(LookupError::Gone { name, group, instead });
    }
    let not_yet = |(known_group, kind, plural): &&(&str, &str, &str)| {
        (*plural == name || kind.eq_ignore_ascii_case(name)) && (group.is_empty() || group == *known_group)
    };
    if let Some((group, name, _)) = NOT_YET.iter().find(not_yet) {
        return Err(LookupError::NotYet { name, group: if group.is_empty() { "core" } else { group } });
    }
    let known = Kind::table().iter().flat_map(|info| [info.plural, info.singular]);
    let hint = nearest(name, known).map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
    Err(LookupError::Typed { typed: word.to_owned(), hint })
}
