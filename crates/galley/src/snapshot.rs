//! All objects at one moment.

use std::sync::Arc;

use lateen_persistent::Map;

use crate::kind::Kind;
use crate::object::{Object, Typed};
use crate::problem::Key;

type Names = Map<Arc<str>, Arc<Object>>;
type Namespaces = Map<Arc<str>, Names>;

/// An object as it was and as it is; `None` where there was none, or is none.
pub type Change<'a> = (Option<&'a Arc<Object>>, Option<&'a Arc<Object>>);

/// All objects at one moment, in order of namespace and name. A clone costs a few counters, and a change to a clone no
/// more for being one of many objects. Objects of kinds without namespaces are under `""`.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    revision: u64,
    kinds: [Namespaces; Kind::COUNT],
}

impl Snapshot {
    /// The revision of the last change that is in it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Sets the revision, as when a server says which one its list is of.
    pub fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// This snapshot with the objects of these kinds as another has them. Costs a few counters.
    pub fn with(&self, kinds: &[Kind], of: &Snapshot) -> Snapshot {
        let mut mixed = self.clone();
        mixed.revision = of.revision;
        for kind in kinds {
            mixed.kinds[*kind as usize] = of.kinds[*kind as usize].clone();
        }
        mixed
    }

    /// Keeps what is in these namespaces of a kind; `""` is where objects without one are.
    pub fn retain_namespaces(&mut self, kind: Kind, stays: impl Fn(&str) -> bool) {
        self.kinds[kind as usize].retain(|namespace, _| stays(namespace));
    }

    /// Puts an object in, or in place of the one with its key, which is given back.
    pub fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let namespaces = &mut self.kinds[object.kind() as usize];
        match namespaces.get_mut(object.namespace()) {
            Some(names) => names.insert(object.name().into(), object),
            None => {
                let namespace = object.namespace().into();
                namespaces.insert(namespace, [(object.name().into(), object)].into_iter().collect());
                None
            }
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Object>> {
        self.get(key)?;
        let namespaces = &mut self.kinds[key.kind as usize];
        let names = namespaces.get_mut(key.namespace.as_str())?;
        let removed = names.remove(key.name.as_str());
        if names.is_empty() {
            namespaces.remove(key.namespace.as_str());
        }
        removed
    }

    /// The object with that key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.find(key.kind, &key.namespace, &key.name)
    }

    /// The object of that kind and name; the namespace is `""` for kinds without.
    pub fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.kinds[kind as usize].get(namespace)?.get(name)
    }

    /// All objects of a kind.
    pub fn objects(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.kinds[kind as usize].values().flat_map(|names| names.values())
    }

    /// All objects of a kind in a namespace.
    pub fn objects_in<'a>(&'a self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        self.kinds[kind as usize].get(namespace).into_iter().flat_map(|names| names.values())
    }

    /// Every object of every kind.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        Kind::all().flat_map(|kind| self.objects(kind))
    }

    /// The typed object of that name: `snapshot.typed::<Service>("default", "reviews")`.
    pub fn typed<T: Typed>(&self, namespace: &str, name: &str) -> Option<&T> {
        self.find(T::KIND, namespace, name).and_then(|object| object.typed())
    }

    /// All objects of a type: `snapshot.list::<Config<VirtualService>>()`.
    pub fn list<T: Typed>(&self) -> impl Iterator<Item = &T> {
        self.objects(T::KIND).filter_map(|object| object.typed())
    }

    /// All objects of a type in a namespace.
    pub fn list_in<'a, T: Typed>(&'a self, namespace: &str) -> impl Iterator<Item = &'a T> + use<'a, T> {
        self.objects_in(T::KIND, namespace).filter_map(|object| object.typed())
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.kinds[kind as usize].values().map(|names| names.len()).sum()
    }

    /// What differs from an earlier snapshot in objects of a kind: each as it was, and as it is now. Costs work for what
    /// the two do not share; what was written anew differs even if it says the same.
    pub fn changes<'a>(&'a self, before: &'a Self, kind: Kind) -> Vec<Change<'a>> {
        let (old, new) = (&before.kinds[kind as usize], &self.kinds[kind as usize]);
        let mut changes = Vec::new();
        for (_, was, is) in old.diff(new, Names::same) {
            match (was, is) {
                (Some(was), Some(is)) => changes.extend(was.diff(is, Arc::ptr_eq).map(|(_, was, is)| (was, is))),
                (was, is) => {
                    let gone = was.into_iter().flatten().map(|(_, object)| (Some(object), None));
                    changes.extend(gone.chain(is.into_iter().flatten().map(|(_, object)| (None, Some(object)))));
                }
            }
        }
        changes
    }

    /// Whether both hold the very same objects of a kind, found out without looking at them. May be `false` for equal ones.
    pub fn same(&self, other: &Self, kind: Kind) -> bool {
        self.kinds[kind as usize].same(&other.kinds[kind as usize])
    }
}
