//! What single policies decided, by their names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::cells::Counter;
use super::rbac::Decisions;
use super::snapshot::{Entry, Value};

/// Policies that are counted apart; of further ones it is only counted how often they decided.
const MOST: usize = 1_000;

/// Decisions by the name of the policy. One worker writes, without a lock, and allocates only for a name's first; others
/// read, and take out names that are gone.
#[derive(Debug, Default)]
pub(super) struct Policies {
    by_name: ArcSwap<HashMap<Arc<str>, Arc<Decisions>>>,
    overflow: Counter,
}

impl Policies {
    pub(super) fn count(&self, name: &Arc<str>, allowed: bool) {
        let known = self.by_name.load();
        if let Some(decisions) = known.get(name) {
            return decisions.count(allowed);
        }
        if known.len() >= MOST {
            return self.overflow.inc();
        }
        let fresh = Arc::new(Decisions::default());
        fresh.count(allowed);
        self.by_name.rcu(|known| {
            let mut more = HashMap::clone(known);
            more.insert(name.clone(), fresh.clone());
            more
        });
    }

    /// Forgets all but these.
    pub(super) fn retain(&self, names: &HashSet<Arc<str>>) {
        if self.by_name.load().keys().any(|name| !names.contains(name)) {
            self.by_name.rcu(|known| {
                let mut fewer = HashMap::clone(known);
                fewer.retain(|name, _| names.contains(name));
                fewer
            });
        }
    }

    /// As in Envoy, a number comes into being with the first decision of its kind.
    pub(super) fn read(&self, shadow: &str, out: &mut Vec<Entry>) {
        let mut add = |name: String, count: &Counter| {
            if count.get() > 0 {
                out.push(Entry { name: name.into(), value: Value::Counter(count.get()) });
            }
        };
        for (name, decisions) in &**self.by_name.load() {
            add(format!("policy.{name}.{shadow}allowed"), &decisions.allowed);
            add(format!("policy.{name}.{shadow}denied"), &decisions.denied);
        }
        add(format!("{shadow}policy_overflow"), &self.overflow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(policies: &Policies) -> Vec<(String, Value)> {
        let mut out = Vec::new();
        policies.read("", &mut out);
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out.into_iter().map(|entry| (entry.name.into_owned(), entry.value)).collect()
    }

    #[test]
    fn each_policy_is_counted_until_it_is_gone() {
        let policies = Policies::default();
        for (name, allowed) in [("a", true), ("b", false), ("a", true), ("b", true)] {
            policies.count(&name.into(), allowed);
        }
        let number = |name: &str, n| (name.to_owned(), Value::Counter(n));
        assert_eq!(
            read(&policies),
            [number("policy.a.allowed", 2), number("policy.b.allowed", 1), number("policy.b.denied", 1)]
        );
        policies.retain(&HashSet::from(["a".into()]));
        policies.count(&"a".into(), true);
        assert_eq!(read(&policies), [number("policy.a.allowed", 3)]);
    }

    #[test]
    fn names_have_a_limit() {
        let policies = Policies::default();
        for name in 0..MOST + 2 {
            policies.count(&name.to_string().into(), false);
        }
        policies.count(&"7".into(), false);
        let all = read(&policies);
        assert_eq!(all.len(), MOST + 1);
        assert!(all.contains(&("policy_overflow".into(), Value::Counter(2))), "{all:?}");
        assert!(all.contains(&("policy.7.denied".into(), Value::Counter(2))), "{all:?}");
    }
}
