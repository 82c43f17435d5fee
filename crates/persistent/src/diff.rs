//! What differs between two versions of a map, found by leaving out what they share.

use crate::node::{Child, Node};
use std::cmp::Ordering;
use std::slice;
use std::sync::Arc;

/// The entries that differ, in order of their keys: as they were and as they are; see [`Map::diff`](crate::Map::diff).
pub struct Diff<'a, K, V, S> {
    old: Walk<'a, K, V>,
    new: Walk<'a, K, V>,
    same: S,
}

/// An entry in both, one of which may be none.
type Pair<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

/// A walk through a tree that decides at each node whether to go into it.
struct Walk<'a, K, V> {
    levels: Vec<Level<'a, K, V>>,
}

enum Level<'a, K, V> {
    Root(&'a Arc<Node<K, V>>),
    Inner(slice::Iter<'a, Child<K, V>>),
    Leaf(slice::Iter<'a, (K, V)>),
}

/// What comes next.
enum Next<'a, K, V> {
    Entry(&'a K, &'a V),
    Node(&'a Arc<Node<K, V>>),
}

impl<'a, K: Ord, V, S: Fn(&V, &V) -> bool> Diff<'a, K, V, S> {
    pub(crate) fn new(old: &'a Arc<Node<K, V>>, new: &'a Arc<Node<K, V>>, same: S) -> Self {
        let (old, new) = (Level::Root(old), Level::Root(new));
        Self { old: Walk { levels: vec![old] }, new: Walk { levels: vec![new] }, same }
    }
}

impl<'a, K, V> Walk<'a, K, V> {
    fn peek(&mut self) -> Option<Next<'a, K, V>> {
        loop {
            let next = match self.levels.last()? {
                Level::Root(root) => Some(Next::Node(root)),
                Level::Inner(children) => children.as_slice().first().map(|(_, node)| Next::Node(node)),
                Level::Leaf(entries) => entries.as_slice().first().map(|(key, value)| Next::Entry(key, value)),
            };
            if next.is_some() {
                return next;
            }
            self.levels.pop();
        }
    }

    /// Leaves out what is next.
    fn skip(&mut self) {
        match self.levels.last_mut() {
            Some(Level::Root(_)) => drop(self.levels.pop()),
            Some(Level::Inner(children)) => drop(children.next()),
            Some(Level::Leaf(entries)) => drop(entries.next()),
            None => {}
        }
    }

    /// Goes into the node that is next.
    fn enter(&mut self, node: &'a Node<K, V>) {
        self.skip();
        self.levels.push(match node {
            Node::Inner(children) => Level::Inner(children.iter()),
            Node::Leaf(entries) => Level::Leaf(entries.iter()),
        });
    }
}

/// Levels below a node. All leaves are at the same depth.
fn height<K, V>(mut node: &Node<K, V>) -> usize {
    let mut height = 0;
    while let Node::Inner(children) = node
        && let Some((_, first)) = children.first()
    {
        height += 1;
        node = first;
    }
    height
}

impl<'a, K: Ord, V, S: Fn(&V, &V) -> bool> Iterator for Diff<'a, K, V, S> {
    type Item = Pair<'a, K, V>;

    fn next(&mut self) -> Option<Pair<'a, K, V>> {
        loop {
            match (self.old.peek(), self.new.peek()) {
                (None, None) => return None,
                (Some(Next::Node(old)), Some(Next::Node(new))) if Arc::ptr_eq(old, new) => {
                    self.old.skip();
                    self.new.skip();
                }
                // The higher one is gone into, until like is beside like.
                (Some(Next::Node(old)), Some(Next::Node(new))) => {
                    let (of_old, of_new) = (height(old), height(new));
                    if of_old >= of_new {
                        self.old.enter(old);
                    }
                    if of_new >= of_old {
                        self.new.enter(new);
                    }
                }
                (Some(Next::Node(old)), _) => self.old.enter(old),
                (_, Some(Next::Node(new))) => self.new.enter(new),
                (Some(Next::Entry(key, old)), None) => {
                    self.old.skip();
                    return Some((key, Some(old), None));
                }
                (None, Some(Next::Entry(key, new))) => {
                    self.new.skip();
                    return Some((key, None, Some(new)));
                }
                (Some(Next::Entry(old_key, old)), Some(Next::Entry(key, new))) => match old_key.cmp(key) {
                    Ordering::Less => {
                        self.old.skip();
                        return Some((old_key, Some(old), None));
                    }
                    Ordering::Greater => {
                        self.new.skip();
                        return Some((key, None, Some(new)));
                    }
                    Ordering::Equal => {
                        self.old.skip();
                        self.new.skip();
                        if !(self.same)(old, new) {
                            return Some((key, Some(old), Some(new)));
                        }
                    }
                },
            }
        }
    }
}
