//! Sidecars: which one holds for a proxy, and what it lets the proxy see.
//!
//! Source: Istio `pilot/pkg/model/push_context.go` (getSidecarScope), `pilot/pkg/model/sidecar.go`.

use super::{created, digest};
use crate::host;
use crate::registry::{Labels, selects};
use lateen_galley::istio::Sidecar;
use lateen_galley::{Config, Kind, Object, Snapshot};
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A Sidecar, identified by its content. Two are equal if they say the same.
#[derive(Clone, Debug)]
pub struct SidecarRule {
    object: Arc<Object>,
    spec: Arc<Sidecar>,
    digest: u64,
}

impl SidecarRule {
    fn new(object: &Arc<Object>) -> Option<SidecarRule> {
        let config: &Config<Sidecar> = object.typed()?;
        Some(SidecarRule { spec: Arc::new(config.spec.clone()), digest: digest(object), object: Arc::clone(object) })
    }

    pub fn spec(&self) -> &Sidecar {
        &self.spec
    }

    pub fn name(&self) -> &str {
        self.object.name()
    }

    pub fn namespace(&self) -> &str {
        self.object.namespace()
    }

    fn selector(&self) -> Option<&Labels> {
        self.spec.workload_selector.as_ref().map(|selector| &selector.labels)
    }
}

impl PartialEq for SidecarRule {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object)
            || (self.digest == other.digest
                && self.name() == other.name()
                && self.namespace() == other.namespace()
                && self.spec == other.spec)
    }
}

impl Eq for SidecarRule {}

impl Hash for SidecarRule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// All Sidecars, by namespace; in each those with a selector before those without, the older first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecars {
    by_namespace: BTreeMap<String, Vec<Arc<SidecarRule>>>,
    root: String,
}

impl Sidecars {
    /// Reads all Sidecars of a snapshot. One in the namespace `root` holds for namespaces without their own.
    pub fn new(snapshot: &Snapshot, root: &str) -> Sidecars {
        let mut objects: Vec<&Arc<Object>> = snapshot.objects(Kind::Sidecar).collect();
        objects.sort_by(|a, b| {
            let age = |object: &Object| created(object.metadata());
            age(a).cmp(&age(b)).then_with(|| a.name().cmp(b.name()))
        });
        let mut by_namespace: BTreeMap<String, Vec<Arc<SidecarRule>>> = BTreeMap::new();
        for rule in objects.into_iter().filter_map(SidecarRule::new) {
            by_namespace.entry(rule.namespace().to_owned()).or_default().push(Arc::new(rule));
        }
        for of_namespace in by_namespace.values_mut() {
            of_namespace.sort_by_key(|rule| rule.selector().is_none());
        }
        Sidecars { by_namespace, root: root.to_owned() }
    }

    /// The Sidecar of a proxy: the first of its namespace that selects it, else the mesh's.
    pub fn find(&self, namespace: &str, labels: &Labels) -> Option<&Arc<SidecarRule>> {
        let own = self.by_namespace.get(namespace).and_then(|rules| {
            rules.iter().find(|rule| rule.selector().is_none_or(|selector| selects(selector, labels)))
        });
        own.or_else(|| self.by_namespace.get(&self.root)?.iter().find(|rule| rule.selector().is_none()))
    }
}

/// The hosts an egress listener imports.
#[derive(Debug)]
pub struct Imports<'a> {
    /// Full names, and the namespaces they are imported from.
    exact: HashMap<String, Vec<&'a str>>,
    /// Namespace and wildcard.
    wildcards: Vec<(&'a str, String)>,
    /// Namespace and name or wildcard of what is left out.
    excluded: Vec<(&'a str, String)>,
}

/// Stands for every namespace.
const ANY: &str = "*";

impl<'a> Imports<'a> {
    /// Reads a list of `namespace/host`, as a proxy of the namespace `own` means it.
    pub fn new(hosts: &'a [String], own: &'a str) -> Imports<'a> {
        let mut imports = Imports { exact: HashMap::new(), wildcards: Vec::new(), excluded: Vec::new() };
        for (namespace, name) in hosts.iter().filter_map(|entry| entry.split_once('/')) {
            let name = name.to_ascii_lowercase();
            let meant = |namespace: &'a str| match namespace {
                "." => own,
                "" => ANY,
                namespace => namespace,
            };
            if let Some(namespace) = namespace.strip_prefix('~') {
                imports.excluded.push((meant(namespace), name));
            } else if host::is_wildcard(&name) {
                imports.wildcards.push((meant(namespace), name));
            } else {
                imports.exact.entry(name).or_default().push(meant(namespace));
            }
        }
        imports
    }

    /// Whether a service is imported.
    pub fn service(&self, namespace: &str, name: &str) -> bool {
        self.has(namespace, name, host::is_subset_of)
    }

    /// Whether a rule for a host is imported: also one for a wildcard that an imported host belongs to.
    pub fn rule(&self, namespace: &str, name: &str) -> bool {
        self.has(namespace, name, host::overlaps)
    }

    fn has(&self, namespace: &str, name: &str, fits: fn(&str, &str) -> bool) -> bool {
        let here = |from: &str| from == ANY || from == namespace;
        if self.excluded.iter().any(|(from, left_out)| here(from) && host::is_subset_of(name, left_out)) {
            return false;
        }
        if self.exact.get(name).is_some_and(|from| from.iter().any(|from| here(from))) {
            return true;
        }
        let among_exact = host::is_wildcard(name)
            && self.exact.iter().any(|(exact, from)| from.iter().any(|from| here(from)) && fits(name, exact));
        among_exact || self.wildcards.iter().any(|(from, wildcard)| here(from) && fits(name, wildcard))
    }
}

#[cfg(test)]
#[path = "sidecar_tests.rs"]
mod tests;
