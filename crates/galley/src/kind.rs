//! The kinds of objects there are, and every name they go by.

mod lookup;

pub use lookup::{LookupError, by_api_version, by_path, by_typed_name};

/// The API group of Istio's networking kinds.
pub const NETWORKING: &str = "networking.istio.io";

/// The API group of Istio's security kinds.
pub const SECURITY: &str = "security.istio.io";

/// The API group of what Istio before 1.6 had in place of its security kinds.
pub const AUTHENTICATION: &str = "authentication.istio.io";

/// A kind of object, whatever version of its group it is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Namespace,
    ServiceAccount,
    Secret,
    ConfigMap,
    Service,
    Endpoints,
    EndpointSlice,
    Pod,
    Deployment,
    Gateway,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
    Sidecar,
    AuthorizationPolicy,
    RequestAuthentication,
    PeerAuthentication,
    MeshPolicy,
    Policy,
}

/// Every name of a kind, and how its API behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindInfo {
    /// The kind described.
    pub kind: Kind,
    /// Its API group; empty for Kubernetes' core group.
    pub group: &'static str,
    /// Versions served, the preferred one first. All have the same schema.
    pub versions: &'static [&'static str],
    /// As in a manifest's `kind`.
    pub name: &'static str,
    /// As in REST paths.
    pub plural: &'static str,
    /// Lower-case name of one.
    pub singular: &'static str,
    /// What people type.
    pub short_names: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Groups of kinds people type, `all` among them.
    pub categories: &'static [&'static str],
    /// Whether `status` is written through a path of its own.
    pub has_status: bool,
    /// Whether `metadata.generation` counts changes of the spec.
    pub has_generation: bool,
}

impl KindInfo {
    /// `v1`, `apps/v1`, `networking.istio.io/v1`: the preferred one.
    pub fn api_version(&self) -> String {
        self.api_version_in(self.versions.first().copied().unwrap_or("v1"))
    }

    /// The `apiVersion` of this group with the given version.
    pub fn api_version_in(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// `virtualservices.networking.istio.io`; for the core group the plural alone.
    pub fn full_name(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `VirtualServiceList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.name)
    }
}

const CORE: KindInfo = KindInfo {
    kind: Kind::Namespace,
    group: "",
    versions: &["v1"],
    name: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &[],
    namespaced: true,
    categories: &[],
    has_status: false,
    has_generation: false,
};

const ISTIO: KindInfo = KindInfo {
    group: NETWORKING,
    versions: &["v1", "v1beta1", "v1alpha3"],
    categories: &["istio-io", "networking-istio-io"],
    has_status: true,
    has_generation: true,
    ..CORE
};

const ISTIO_SECURITY: KindInfo =
    KindInfo { group: SECURITY, versions: &["v1", "v1beta1"], categories: &["istio-io", "security-istio-io"], ..ISTIO };

const OLD_AUTHENTICATION: KindInfo = KindInfo {
    group: AUTHENTICATION,
    versions: &["v1alpha1"],
    categories: &["istio-io", "authentication-istio-io"],
    ..ISTIO
};

static TABLE: [KindInfo; Kind::COUNT] = [
    KindInfo { namespaced: false, short_names: &["ns"], has_status: true, ..CORE },
    KindInfo {
        kind: Kind::ServiceAccount,
        name: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        ..CORE
    },
    KindInfo { kind: Kind::Secret, name: "Secret", plural: "secrets", singular: "secret", ..CORE },
    KindInfo {
        kind: Kind::ConfigMap,
        name: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        ..CORE
    },
    KindInfo {
        kind: Kind::Service,
        name: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        has_status: true,
        ..CORE
    },
    KindInfo {
        kind: Kind::Endpoints,
        name: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        ..CORE
    },
    KindInfo {
        kind: Kind::EndpointSlice,
        group: "discovery.k8s.io",
        name: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        has_generation: true,
        ..CORE
    },
    KindInfo {
        kind: Kind::Pod,
        name: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        has_status: true,
        has_generation: true,
        ..CORE
    },
    KindInfo {
        kind: Kind::Deployment,
        group: "apps",
        name: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        has_status: true,
        has_generation: true,
        ..CORE
    },
    KindInfo {
        kind: Kind::Gateway,
        name: "Gateway",
        plural: "gateways",
        singular: "gateway",
        short_names: &["gw"],
        ..ISTIO
    },
    KindInfo {
        kind: Kind::VirtualService,
        name: "VirtualService",
        plural: "virtualservices",
        singular: "virtualservice",
        short_names: &["vs"],
        ..ISTIO
    },
    KindInfo {
        kind: Kind::DestinationRule,
        name: "DestinationRule",
        plural: "destinationrules",
        singular: "destinationrule",
        short_names: &["dr"],
        ..ISTIO
    },
    KindInfo {
        kind: Kind::ServiceEntry,
        name: "ServiceEntry",
        plural: "serviceentries",
        singular: "serviceentry",
        short_names: &["se"],
        ..ISTIO
    },
    KindInfo {
        kind: Kind::WorkloadEntry,
        name: "WorkloadEntry",
        plural: "workloadentries",
        singular: "workloadentry",
        short_names: &["we"],
        ..ISTIO
    },
    KindInfo {
        kind: Kind::WorkloadGroup,
        name: "WorkloadGroup",
        plural: "workloadgroups",
        singular: "workloadgroup",
        short_names: &["wg"],
        ..ISTIO
    },
    KindInfo { kind: Kind::Sidecar, name: "Sidecar", plural: "sidecars", singular: "sidecar", ..ISTIO },
    KindInfo {
        kind: Kind::AuthorizationPolicy,
        name: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        singular: "authorizationpolicy",
        short_names: &["ap"],
        ..ISTIO_SECURITY
    },
    KindInfo {
        kind: Kind::RequestAuthentication,
        name: "RequestAuthentication",
        plural: "requestauthentications",
        singular: "requestauthentication",
        short_names: &["ra"],
        ..ISTIO_SECURITY
    },
    KindInfo {
        kind: Kind::PeerAuthentication,
        name: "PeerAuthentication",
        plural: "peerauthentications",
        singular: "peerauthentication",
        short_names: &["pa"],
        ..ISTIO_SECURITY
    },
    KindInfo {
        kind: Kind::MeshPolicy,
        name: "MeshPolicy",
        plural: "meshpolicies",
        singular: "meshpolicy",
        namespaced: false,
        ..OLD_AUTHENTICATION
    },
    KindInfo { kind: Kind::Policy, name: "Policy", plural: "policies", singular: "policy", ..OLD_AUTHENTICATION },
];

impl Kind {
    /// How many kinds there are.
    pub const COUNT: usize = Kind::Policy as usize + 1;

    /// Every kind's description, in the order in which objects of a batch depend on each other.
    pub fn table() -> &'static [KindInfo] {
        &TABLE
    }

    /// Every kind.
    pub fn all() -> impl Iterator<Item = Kind> {
        TABLE.iter().map(|info| info.kind)
    }

    /// This kind's names and behaviour.
    pub fn info(self) -> &'static KindInfo {
        &TABLE[self as usize]
    }

    /// As in a manifest's `kind`.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Whether it is one of Istio's.
    pub fn is_istio(self) -> bool {
        [NETWORKING, SECURITY, AUTHENTICATION].contains(&self.info().group)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
