//! Entries in order.

use crate::node::{self, Child, Node};
use std::borrow::Borrow;
use std::slice;

/// The entries of a map in order of their keys.
pub struct Iter<'a, K, V> {
    /// What is left of the inner nodes on the way to the leaf.
    above: Vec<slice::Iter<'a, Child<K, V>>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iter<'a, K, V> {
    pub(crate) fn new(root: &'a Node<K, V>) -> Self {
        let mut iter = Self { above: Vec::new(), leaf: [].iter() };
        iter.enter(root);
        iter
    }

    pub(crate) fn starting_at<Q: Ord + ?Sized>(root: &'a Node<K, V>, first: &Q) -> Self
    where
        K: Borrow<Q>,
    {
        let mut iter = Self { above: Vec::new(), leaf: [].iter() };
        let mut node = root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = node::place(entries, first).unwrap_or_else(|at| at);
                    iter.leaf = entries[at..].iter();
                    return iter;
                }
                Node::Inner(children) => {
                    let mut rest = children[node::child(children, first)..].iter();
                    let Some((_, next)) = rest.next() else { return iter };
                    iter.above.push(rest);
                    node = next;
                }
            }
        }
    }

    fn enter(&mut self, node: &'a Node<K, V>) {
        match node {
            Node::Leaf(entries) => self.leaf = entries.iter(),
            Node::Inner(children) => self.above.push(children.iter()),
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some((_, next)) => self.enter(next),
                None => drop(self.above.pop()),
            }
        }
    }
}
