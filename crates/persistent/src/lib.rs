//! Ordered maps of which any number of versions exist at once, at the price of what tells them apart.
//!
//! A mesh is large and its changes are small: the control plane keeps its objects, services and resources in such maps,
//! so that the next version costs what changed, and so does finding out what that was. Knows nothing of what is kept.

mod diff;
mod iter;
mod node;

pub use diff::Diff;
pub use iter::Iter;

use node::Node;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A map in order of its keys: a B+ tree whose nodes are shared with the maps it was cloned from or to. A clone costs
/// one counter; a change copies the nodes on the way to its place that others hold too, and no more.
pub struct Map<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

impl<K, V> Map<K, V> {
    /// A map without entries.
    pub fn new() -> Self {
        Self { root: Arc::default(), len: 0 }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether both are versions between which nothing was changed, found out without looking at entries. May be `false`
    /// for equal ones.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root) || (self.is_empty() && other.is_empty())
    }

    /// All entries, in order of the keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter::new(&self.root)
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> Map<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The value of a key, with the key as the map has it.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.root.find(|of| of.borrow().cmp(key))
    }

    /// The value of the key that `order` finds equal; it tells how a key is to what is looked for, in the order of keys.
    pub fn find(&self, order: impl Fn(&K) -> Ordering) -> Option<&V> {
        self.root.find(order).map(|(_, value)| value)
    }

    /// Whether there is an entry of that key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries whose keys are not before `first`, in order.
    pub fn from<Q: Ord + ?Sized>(&self, first: &Q) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        Iter::starting_at(&self.root, first)
    }

    /// What differs in a later version: every entry that came, went, or has a value for which `same` says no. Costs work
    /// for the parts that the two do not share.
    pub fn diff<'a, S: Fn(&V, &V) -> bool>(&'a self, later: &'a Self, same: S) -> Diff<'a, K, V, S> {
        Diff::new(&self.root, &later.root, same)
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// Puts a value in, or in place of the one of its key, which is given back.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (old, split) = node::insert(&mut self.root, key, value);
        if let Some(right) = split {
            node::grow(&mut self.root, right);
        }
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes an entry out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // First, so that nothing is copied for what is not there.
        self.get(key)?;
        let old = node::remove(&mut self.root, key);
        node::shrink(&mut self.root);
        self.len -= usize::from(old.is_some());
        old
    }

    /// The value of a key, to be changed in this version.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        node::get_mut(&mut self.root, key)
    }

    /// Keeps the entries that are asked to stay.
    pub fn retain(&mut self, stays: impl Fn(&K, &V) -> bool) {
        let gone: Vec<K> = self.iter().filter(|(key, value)| !stays(key, value)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key);
        }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.diff(other, |a, b| a == b).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for Map<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<'a, K, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K: Ord + Clone, V> FromIterator<(K, V)> for Map<K, V> {
    /// Of several entries with one key the last counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut all: Vec<(K, V)> = entries.into_iter().collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.dedup_by(|later, kept| {
            let one = later.0 == kept.0;
            if one {
                std::mem::swap(later, kept);
            }
            one
        });
        let len = all.len();
        Self { root: node::build(all), len }
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests;
