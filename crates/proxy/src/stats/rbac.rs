//! What rules about access decided, and which policy did.

use std::collections::HashSet;
use std::sync::Arc;

use lateen_traffic::rbac::{Decision, Rbac, Verdict};

use super::by_prefix::ByPrefix;
use super::cells::Counter;
use super::policies::Policies;
use super::snapshot::{Entry, Value};

/// What the rules of a connection manager or of connections decided on one worker (`http.PREFIX.rbac.`, `tcp.rbac.`).
/// Rules that are only tried are counted apart, as `shadow_allowed` and `shadow_denied`.
#[derive(Debug, Default)]
pub struct RbacStats {
    enforced: ByPrefix<OfPrefix>,
    tried: ByPrefix<OfPrefix>,
}

/// What is counted under one prefix.
#[derive(Debug, Default)]
struct OfPrefix {
    all: Decisions,
    policies: Policies,
}

/// How often rules decided what.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    pub(super) allowed: Counter,
    pub(super) denied: Counter,
}

impl Decisions {
    pub(super) fn count(&self, allowed: bool) {
        if allowed { self.allowed.inc() } else { self.denied.inc() }
    }
}

impl RbacStats {
    /// Counts what is said of a request or connection: under the names of the filter, by `rules`, its own or a route's.
    pub fn count(&self, filter: &Rbac, rules: &Rbac, verdict: &Verdict) {
        let count = |of: &ByPrefix<OfPrefix>, prefix: &Arc<str>, decision: &Decision| {
            let of = of.get(prefix);
            of.all.count(decision.allowed);
            if rules.counts_policies
                && let Some(policy) = &decision.policy
            {
                of.policies.count(policy, decision.allowed);
            }
        };
        if let Some(decision) = &verdict.shadow {
            count(&self.tried, &filter.shadow_stat_prefix, decision);
        }
        if let Some(decision) = &verdict.enforced {
            count(&self.enforced, &filter.stat_prefix, decision);
        }
    }

    /// Forgets policies that are none of these.
    pub(super) fn retain_policies(&self, names: &HashSet<Arc<str>>) {
        for (_, of) in self.enforced.iter().chain(self.tried.iter()) {
            of.policies.retain(names);
        }
    }

    pub(super) fn read(&self, out: &mut Vec<Entry>) {
        for (of, shadow) in [(&self.enforced, ""), (&self.tried, "shadow_")] {
            for (prefix, of) in of.iter() {
                let mut entries = Vec::new();
                for (name, count) in [("allowed", &of.all.allowed), ("denied", &of.all.denied)] {
                    entries.push(Entry { name: format!("{shadow}{name}").into(), value: Value::Counter(count.get()) });
                }
                of.policies.read(shadow, &mut entries);
                out.extend(entries.into_iter().map(|e| Entry { name: format!("{prefix}{}", e.name).into(), ..e }));
            }
        }
    }
}
