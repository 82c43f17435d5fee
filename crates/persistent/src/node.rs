//! The tree's nodes, and how they are changed: in place where no other map has them, else in a copy.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

/// More entries or children than this, and a node becomes two.
pub const MOST: usize = 32;
/// Neighbours that have no more than this together become one. Less than [`MOST`], so that they do not part again at once.
const FEW: usize = 20;
/// Entries of a node of a map that is made at once, with room for more.
const BUILT: usize = 24;

/// A child with a key that none of its own is before. (Its least key may be greater, once entries were taken out.)
pub type Child<K, V> = (K, Arc<Node<K, V>>);

/// A node. All leaves are at the same depth.
#[derive(Clone)]
pub enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<Child<K, V>>),
}

use Node::{Inner, Leaf};

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Leaf(Vec::new())
    }
}

impl<K, V> Node<K, V> {
    /// The entry whose key `order` finds equal.
    pub fn find(&self, order: impl Fn(&K) -> Ordering) -> Option<(&K, &V)> {
        let mut node = self;
        loop {
            match node {
                Leaf(entries) => {
                    let at = entries.binary_search_by(|(key, _)| order(key)).ok()?;
                    return entries.get(at).map(|(key, value)| (key, value));
                }
                Inner(children) => {
                    let at = children.partition_point(|(first, _)| order(first).is_le()).saturating_sub(1);
                    node = &children.get(at)?.1;
                }
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Leaf(entries) => entries.len(),
            Inner(children) => children.len(),
        }
    }
}

/// Where a key's entry is, or would be.
pub fn place<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(of, _)| of.borrow().cmp(key))
}

/// The child that a key belongs to: the last that begins not after it, else the first.
pub fn child<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[Child<K, V>], key: &Q) -> usize {
    children.partition_point(|(first, _)| first.borrow() <= key).saturating_sub(1)
}

/// Gives back the value there was, and the right half of the node if it became too large.
pub fn insert<K: Ord + Clone, V: Clone>(
    node: &mut Arc<Node<K, V>>,
    key: K,
    value: V,
) -> (Option<V>, Option<Child<K, V>>) {
    match Arc::make_mut(node) {
        Leaf(entries) => match place(entries, &key) {
            Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
            Err(at) => {
                entries.insert(at, (key, value));
                (None, split(entries, Leaf))
            }
        },
        Inner(children) => {
            let at = child(children, &key);
            let (first, next) = &mut children[at];
            if key < *first {
                *first = key.clone();
            }
            let (old, right) = insert(next, key, value);
            if let Some(right) = right {
                children.insert(at + 1, right);
            }
            (old, split(children, Inner))
        }
    }
}

/// The right half of what has become too long, as a node.
fn split<K: Clone, T, V>(items: &mut Vec<(K, T)>, node: impl Fn(Vec<(K, T)>) -> Node<K, V>) -> Option<Child<K, V>> {
    if items.len() <= MOST {
        return None;
    }
    let right = items.split_off(items.len() / 2);
    let first = right.first()?.0.clone();
    Some((first, Arc::new(node(right))))
}

/// Puts a root above the old one and its right half.
pub fn grow<K: Clone, V>(root: &mut Arc<Node<K, V>>, right: Child<K, V>) {
    let left = std::mem::take(root);
    let first = match &*left {
        Leaf(entries) => entries.first().map(|(key, _)| key.clone()),
        Inner(children) => children.first().map(|(key, _)| key.clone()),
    };
    let left = first.map(|first| (first, left));
    *root = Arc::new(Inner(left.into_iter().chain([right]).collect()));
}

pub fn remove<K: Ord + Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized>(node: &mut Arc<Node<K, V>>, key: &Q) -> Option<V> {
    match Arc::make_mut(node) {
        Leaf(entries) => place(entries, key).ok().map(|at| entries.remove(at).1),
        Inner(children) => {
            let at = child(children, key);
            let (_, next) = children.get_mut(at)?;
            let old = remove(next, key);
            if next.len() == 0 {
                // Beside large ones, with which it does not become one.
                children.remove(at);
                return old;
            }
            merge(children, at);
            merge(children, at.saturating_sub(1));
            old
        }
    }
}

/// Makes a child and the one after it one, if they are small.
fn merge<K: Clone, V: Clone>(children: &mut Vec<Child<K, V>>, at: usize) {
    let Some([(_, left), (_, right)]) = children.get_mut(at..at + 2) else { return };
    if left.len() + right.len() > FEW {
        return;
    }
    let right = std::mem::take(right);
    match (Arc::make_mut(left), Arc::unwrap_or_clone(right)) {
        (Leaf(left), Leaf(right)) => left.extend(right),
        (Inner(left), Inner(right)) => left.extend(right),
        // Siblings are at the same depth.
        (Leaf(_), Inner(_)) | (Inner(_), Leaf(_)) => unreachable!("a leaf beside an inner node"),
    }
    children.remove(at + 1);
}

/// Takes roots away that have one child.
pub fn shrink<K, V>(root: &mut Arc<Node<K, V>>) {
    while let Inner(children) = &**root
        && let [(_, only)] = children.as_slice()
    {
        *root = Arc::clone(only);
    }
}

pub fn get_mut<'a, K: Ord + Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized>(
    node: &'a mut Arc<Node<K, V>>,
    key: &Q,
) -> Option<&'a mut V> {
    match Arc::make_mut(node) {
        Leaf(entries) => place(entries, key).ok().and_then(|at| entries.get_mut(at)).map(|(_, value)| value),
        Inner(children) => {
            let at = child(children, key);
            get_mut(&mut children.get_mut(at)?.1, key)
        }
    }
}

/// A tree of entries that are in order.
pub fn build<K: Clone, V>(entries: Vec<(K, V)>) -> Arc<Node<K, V>> {
    let mut level: Vec<Child<K, V>> = parts(entries, Leaf);
    while level.len() > 1 {
        level = parts(level, Inner);
    }
    level.pop().map(|(_, root)| root).unwrap_or_default()
}

fn parts<K: Clone, T, V>(items: Vec<(K, T)>, node: impl Fn(Vec<(K, T)>) -> Node<K, V>) -> Vec<Child<K, V>> {
    let mut items = items.into_iter();
    let mut parts = Vec::with_capacity(items.len().div_ceil(BUILT));
    loop {
        let part: Vec<(K, T)> = items.by_ref().take(BUILT).collect();
        let Some((first, _)) = part.first() else { return parts };
        parts.push((first.clone(), Arc::new(node(part))));
    }
}
