//! Which namespaces the mesh knows of: those that the mesh's `discoverySelectors` choose; all without any.
//!
//! Source: Istio `pkg/kube/namespace/filter.go`.

use lateen_galley::mesh::{self, LabelSelector};
use lateen_galley::{Kind, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is left out of snapshots, and of which it was left out last.
#[derive(Debug, Default)]
pub struct Discovery {
    selectors: Vec<LabelSelector>,
    /// Namespaces that are chosen.
    namespaces: BTreeSet<String>,
    all: Arc<Snapshot>,
    seen: Arc<Snapshot>,
}

impl Discovery {
    /// What the mesh knows of a snapshot. Kinds of which nothing changed stay the very same.
    pub fn see(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let same = |before: &Snapshot, kind: Kind| before.same(&snapshot, kind);
        let mut others_chosen = false;
        if !same(&self.all, Kind::ConfigMap) {
            let selectors = mesh::of_snapshot(&snapshot).map(|mesh| mesh.discovery_selectors).unwrap_or_default();
            others_chosen |= selectors != self.selectors;
            self.selectors = selectors;
        }
        if others_chosen || !same(&self.all, Kind::Namespace) {
            let namespaces = self.choose(&snapshot);
            others_chosen |= namespaces != self.namespaces;
            self.namespaces = namespaces;
        }
        let seen = if self.selectors.is_empty() {
            Arc::clone(&snapshot)
        } else {
            let (kept, changed): (Vec<Kind>, Vec<Kind>) =
                Kind::all().partition(|kind| !others_chosen && same(&self.all, *kind));
            let mut seen = snapshot.with(&kept, &self.seen);
            seen.set_revision(snapshot.revision());
            for kind in changed {
                // The mesh's own settings are found wherever they are.
                let own = |namespace: &str| kind == Kind::ConfigMap && namespace == mesh::NAMESPACE;
                let chosen = |namespace: &str| namespace.is_empty() || self.namespaces.contains(namespace);
                seen.retain_namespaces(kind, |namespace| own(namespace) || chosen(namespace));
            }
            Arc::new(seen)
        };
        (self.all, self.seen) = (snapshot, Arc::clone(&seen));
        seen
    }

    fn choose(&self, snapshot: &Snapshot) -> BTreeSet<String> {
        let none = BTreeMap::new();
        let chosen = |object: &&Arc<lateen_galley::Object>| {
            let labels = object.labels().unwrap_or(&none);
            self.selectors.iter().any(|selector| selector.selects(labels))
        };
        snapshot.objects(Kind::Namespace).filter(chosen).map(|object| object.name().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_galley::Object;
    use serde_json::{Value, json};

    fn put(snapshot: &mut Snapshot, value: Value) {
        snapshot.insert(Arc::new(Object::decode(value).unwrap()));
    }

    fn namespace(name: &str, mesh: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"mesh": mesh}}})
    }

    fn account(namespace: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": namespace}})
    }

    fn settings(selectors: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": format!("discoverySelectors: {selectors}")},
        })
    }

    #[test]
    fn only_what_is_in_chosen_namespaces_is_known() {
        let mut all = Snapshot::default();
        for (name, mesh) in [("shop", "yes"), ("bank", "no"), ("istio-system", "no")] {
            put(&mut all, namespace(name, mesh));
            put(&mut all, account(name));
        }
        let mut discovery = Discovery::default();
        let mut known = |all: &Snapshot| {
            let seen = discovery.see(Arc::new(all.clone()));
            assert_eq!(seen.count(Kind::Namespace), 3);
            let accounts = seen.objects(Kind::ServiceAccount);
            (accounts.map(|object| object.namespace().to_owned()).collect::<Vec<_>>().join(" "), seen)
        };
        assert_eq!(known(&all).0, "bank istio-system shop");
        put(&mut all, settings("[{matchLabels: {mesh: 'yes'}}]"));
        let (found, seen) = known(&all);
        assert_eq!((found.as_str(), seen.count(Kind::ConfigMap)), ("shop", 1));
        all.set_revision(7);
        let (_, again) = known(&all);
        assert!(again.same(&seen, Kind::ServiceAccount) && again.revision() == 7);

        put(&mut all, namespace("bank", "yes"));
        assert_eq!(known(&all).0, "bank shop");
        let either = "[{matchExpressions: [{key: kubernetes.io/metadata.name, operator: Exists}]}, \
                      {matchExpressions: [{key: mesh, operator: NotIn, values: ['yes']}]}]";
        put(&mut all, settings(either));
        assert_eq!(known(&all).0, "istio-system");
        put(&mut all, settings("[]"));
        assert_eq!(known(&all).0, "bank istio-system shop");
    }
}
