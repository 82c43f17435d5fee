//! Statistics that configuration names: written by one worker without a lock while others read.

use std::sync::{Arc, OnceLock};

/// Values by name, of which there are few: each comes into being with its first use, and none goes.
#[derive(Debug)]
pub(super) struct ByPrefix<T>(OnceLock<Box<Entry<T>>>);

#[derive(Debug)]
struct Entry<T> {
    name: Arc<str>,
    value: T,
    next: ByPrefix<T>,
}

impl<T> Default for ByPrefix<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Default> ByPrefix<T> {
    /// The value of a name.
    pub(super) fn get(&self, name: &Arc<str>) -> &T {
        let mut at = self;
        loop {
            let fresh = || Box::new(Entry { name: name.clone(), value: T::default(), next: ByPrefix::default() });
            let entry = at.0.get_or_init(fresh);
            if entry.name == *name {
                return &entry.value;
            }
            at = &entry.next;
        }
    }

    /// All of them, in the order of their first use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        let first = self.0.get();
        std::iter::successors(first, |entry| entry.next.0.get()).map(|entry| (&entry.name, &entry.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counter;

    #[test]
    fn each_name_has_its_value() {
        let counts: ByPrefix<Counter> = ByPrefix::default();
        for name in ["a", "b", "a", "", "a"] {
            counts.get(&name.into()).inc();
        }
        let seen: Vec<(&str, u64)> = counts.iter().map(|(name, count)| (&**name, count.get())).collect();
        assert_eq!(seen, [("a", 3), ("b", 1), ("", 1)]);
    }
}
