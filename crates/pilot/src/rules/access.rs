//! Access control: which policies and which tokens hold for a workload.
//!
//! Source: Istio `pilot/pkg/model/authorization.go`, `pilot/pkg/model/authentication.go`.

use super::{digest, oldest_first};
use crate::config::Config as MeshSettings;
use crate::registry::{Labels, Registry, selects};
use lateen_galley::istio::authorization_policy::{Action, DRY_RUN, Rule};
use lateen_galley::istio::policy_target::{GATEWAY_NAME, PolicyTargetReference, WorkloadSelector};
use lateen_galley::istio::request_authentication::JwtRule;
use lateen_galley::istio::{AuthorizationPolicy, RequestAuthentication};
use lateen_galley::mesh::ExtensionProvider;
use lateen_galley::{Config, Kind, Object, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// An AuthorizationPolicy. Two are equal if they say the same.
#[derive(Clone, Debug)]
pub struct AccessPolicy {
    pub namespace: String,
    pub name: String,
    pub action: Action,
    /// It is only tried.
    pub dry_run: bool,
    /// Who is asked, for CUSTOM; else empty.
    pub provider: String,
    pub rules: Vec<Rule>,
    attached: Attached,
    digest: u64,
}

impl AccessPolicy {
    fn new(object: &Object) -> Option<AccessPolicy> {
        let spec = &object.typed::<Config<AuthorizationPolicy>>()?.spec;
        Some(AccessPolicy {
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            action: spec.action,
            dry_run: object.annotation(DRY_RUN).is_some_and(|said| said.starts_with(['1', 't', 'T'])),
            provider: spec.provider.as_ref().map(|provider| provider.name.clone()).unwrap_or_default(),
            rules: spec.rules.clone(),
            attached: Attached::new(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs),
            digest: digest(object),
        })
    }
}

impl PartialEq for AccessPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
            && (&self.namespace, &self.name, self.action, self.dry_run)
                == (&other.namespace, &other.name, other.action, other.dry_run)
            && (&self.provider, &self.attached, &self.rules) == (&other.provider, &other.attached, &other.rules)
    }
}

impl Eq for AccessPolicy {}

impl Hash for AccessPolicy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// Which workloads a policy holds for. Source: Istio `pilot/pkg/model/policyattachment.go` (ShouldAttachPolicy).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attached {
    /// Those with all of these labels.
    Selected(Labels),
    /// Those of the policy's own namespace that are gateways of one of these names.
    Gateways(Vec<String>),
}

impl Attached {
    fn new(
        selector: Option<&WorkloadSelector>,
        target: Option<&PolicyTargetReference>,
        targets: &[PolicyTargetReference],
    ) -> Attached {
        // The list goes before its forerunner.
        let targets = if targets.is_empty() { target.map(std::slice::from_ref).unwrap_or_default() } else { targets };
        if targets.is_empty() {
            return Attached::Selected(selector.map(|selector| selector.match_labels.clone()).unwrap_or_default());
        }
        Attached::Gateways(targets.iter().filter_map(|target| target.gateway().map(str::to_owned)).collect())
    }

    fn holds(&self, in_own_namespace: bool, labels: &Labels) -> bool {
        match self {
            Attached::Selected(selector) => selects(selector, labels),
            Attached::Gateways(names) => {
                in_own_namespace && labels.get(GATEWAY_NAME).is_some_and(|name| names.contains(name))
            }
        }
    }
}

/// A RequestAuthentication's rules, and whom they hold for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tokens {
    namespace: String,
    attached: Attached,
    rules: Vec<JwtKeys>,
}

/// Where an issuer's keys are, if a rule does not hold them itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeysAt {
    /// At this address.
    Address(String),
    /// Where the issuer, by its description at this address, says.
    Issuer(String),
}

impl KeysAt {
    /// Where a rule's keys are; none if it holds them.
    fn of(rule: &JwtRule) -> Option<KeysAt> {
        match (rule.jwks.is_empty(), rule.jwks_uri.is_empty()) {
            (false, _) => None,
            (true, false) => Some(KeysAt::Address(rule.jwks_uri.clone())),
            (true, true) => Some(KeysAt::Issuer(rule.issuer.clone())),
        }
    }
}

/// Key sets that were fetched: pilot is told them.
pub type Keys = BTreeMap<KeysAt, Arc<str>>;

/// How long a rule waits for its keys that does not say (Istio's default).
const PATIENCE: Duration = Duration::from_secs(5);

/// Where keys are to be fetched, and how long that may take: for rules of one issuer, as long as the most patient says.
pub fn keys_wanted(snapshot: &Snapshot) -> BTreeMap<KeysAt, Duration> {
    let mut wanted = BTreeMap::new();
    for rule in snapshot.list::<Config<RequestAuthentication>>().flat_map(|config| &config.spec.jwt_rules) {
        if let Some(at) = KeysAt::of(rule) {
            let patience = wanted.entry(at).or_insert(Duration::ZERO);
            *patience = (*patience).max(rule.timeout.map_or(PATIENCE, |timeout| timeout.get()));
        }
    }
    wanted
}

/// A rule about tokens, and the keys that verify them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JwtKeys {
    pub rule: Arc<JwtRule>,
    /// A JSON Web Key Set; none if it could not be had.
    pub keys: Option<Arc<str>>,
}

impl JwtKeys {
    fn new(rule: Arc<JwtRule>, fetched: &Keys) -> JwtKeys {
        let keys = match KeysAt::of(&rule) {
            None => Some(Arc::from(rule.jwks.as_str())),
            Some(at) => fetched.get(&at).cloned(),
        };
        JwtKeys { rule, keys }
    }
}

/// What holds for one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// Those of the root namespace first, in each namespace the oldest first.
    pub policies: Vec<Arc<AccessPolicy>>,
    /// By their issuer.
    pub tokens: Vec<JwtKeys>,
    /// The mesh's own trust domain, then its aliases.
    pub trust_domains: Vec<String>,
    /// Those of the mesh's that policies of action CUSTOM name, and that are there.
    pub providers: Vec<Provider>,
}

impl Access {
    /// Policies of action CUSTOM: what is only tried decides nothing, so nobody is asked.
    pub fn custom(&self) -> impl Iterator<Item = &Arc<AccessPolicy>> {
        self.policies.iter().filter(|policy| policy.action == Action::Custom && !policy.dry_run)
    }

    /// Whom policies of action CUSTOM ask. A workload can have one provider, so of several it is none.
    pub fn provider(&self) -> Option<&Provider> {
        let asked = &self.custom().next()?.provider;
        let same = self.custom().all(|policy| policy.provider == *asked);
        self.providers.iter().find(|provider| same && provider.settings.name == *asked)
    }

    /// Why policies deny what they should ask about.
    pub fn problems(&self) -> Vec<String> {
        if self.provider().is_some() {
            return Vec::new();
        }
        let several = self.custom().map(|policy| &policy.provider).collect::<BTreeSet<_>>().len() > 1;
        let of = |policy: &Arc<AccessPolicy>| {
            let AccessPolicy { namespace, name, provider, .. } = &**policy;
            let why = match several {
                true => "others for this workload name another, and it can have one",
                false => "it is none of the mesh's extensionProviders whose service is known",
            };
            format!("AuthorizationPolicy {namespace}/{name} denies what it matches: of provider {provider:?}, {why}")
        };
        self.custom().map(of).collect()
    }
}

/// An extension provider, and the service that it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Provider {
    pub settings: Arc<ExtensionProvider>,
    /// The service's host, and its port.
    pub host: Arc<str>,
    pub port: u16,
}

impl Provider {
    /// The provider, if its service is known. Source: Istio `pilot/pkg/extensionproviders` (LookupCluster).
    fn find(settings: &Arc<ExtensionProvider>, registry: &Registry) -> Option<Provider> {
        let ExtensionProvider { envoy_ext_authz_http, envoy_ext_authz_grpc, .. } = &**settings;
        let (service, port) = match (envoy_ext_authz_http, envoy_ext_authz_grpc) {
            (Some(http), None) => (&http.service, http.port),
            (None, Some(grpc)) => (&grpc.service, grpc.port),
            (Some(_), Some(_)) | (None, None) => return None,
        };
        let (namespace, host) = match service.split_once('/') {
            Some((namespace, host)) => (Some(namespace), host),
            None => (None, service.as_str()),
        };
        let mut known = registry
            .of_host(host)
            .filter(|entry| namespace.is_none_or(|namespace| *namespace == *entry.service.namespace));
        let host = Arc::clone(&known.next()?.service.host);
        // A host that several namespaces have is nobody's unless it is said whose.
        let only = known.next().is_none();
        only.then(|| Some(Provider { settings: settings.clone(), host, port: u16::try_from(port).ok()? })).flatten()
    }
}

/// All policies and token rules, by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRules {
    policies: BTreeMap<String, Vec<Arc<AccessPolicy>>>,
    tokens: BTreeMap<String, Vec<Tokens>>,
    root: String,
    trust_domains: Vec<String>,
    providers: Vec<Arc<ExtensionProvider>>,
}

impl AccessRules {
    /// Reads all of a snapshot. What is in the root namespace holds for all namespaces.
    pub fn new(snapshot: &Snapshot, config: &MeshSettings, keys: &Keys) -> AccessRules {
        let mut rules = AccessRules {
            root: config.root_namespace.clone(),
            trust_domains: config.trust_domains(),
            providers: config.extension_providers.iter().cloned().map(Arc::new).collect(),
            ..AccessRules::default()
        };
        for object in oldest_first(snapshot.objects(Kind::AuthorizationPolicy)) {
            if let Some(policy) = AccessPolicy::new(object) {
                rules.policies.entry(policy.namespace.clone()).or_default().push(Arc::new(policy));
            }
        }
        for object in oldest_first(snapshot.objects(Kind::RequestAuthentication)) {
            let Some(config) = object.typed::<Config<RequestAuthentication>>() else { continue };
            let spec = &config.spec;
            rules.tokens.entry(object.namespace().to_owned()).or_default().push(Tokens {
                namespace: object.namespace().to_owned(),
                attached: Attached::new(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs),
                rules: spec.jwt_rules.iter().map(|rule| JwtKeys::new(Arc::new(rule.clone()), keys)).collect(),
            });
        }
        rules
    }

    /// What holds for a workload. Providers are found among the services of `registry`.
    pub fn find(&self, registry: &Registry, namespace: &str, labels: &Labels) -> Access {
        let own = (namespace != self.root).then_some(namespace);
        let namespaces: Vec<&str> = [self.root.as_str()].into_iter().chain(own).collect();
        let policies = namespaces.iter().filter_map(|namespace| self.policies.get(*namespace)).flatten();
        let tokens = namespaces.iter().filter_map(|namespace| self.tokens.get(*namespace)).flatten();
        let tokens = tokens.filter(|tokens| tokens.attached.holds(tokens.namespace == namespace, labels));
        let tokens = tokens.flat_map(|tokens| &tokens.rules);
        let mut tokens: Vec<JwtKeys> = tokens.cloned().collect();
        tokens.sort_by(|a, b| a.rule.issuer.cmp(&b.rule.issuer));
        let holds = |policy: &&Arc<AccessPolicy>| policy.attached.holds(policy.namespace == namespace, labels);
        let policies: Vec<_> = policies.filter(holds).cloned().collect();
        // Where there is no policy, nothing depends on the mesh's name.
        let trust_domains = if policies.is_empty() { Vec::new() } else { self.trust_domains.clone() };
        let named = |provider: &&Arc<ExtensionProvider>| policies.iter().any(|policy| policy.provider == provider.name);
        let providers = self.providers.iter().filter(named).filter_map(|one| Provider::find(one, registry)).collect();
        Access { policies, tokens, trust_domains, providers }
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
