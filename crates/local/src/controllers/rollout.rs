//! What a Deployment does next: which pods to make and which to end. A pure function of what it wants
//! and what there is, after Kubernetes' rules for rolling updates.

/// What a Deployment wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// Pods of the current template.
    pub replicas: usize,
    /// How pods of earlier templates are replaced.
    pub strategy: Strategy,
}

/// How pods of earlier templates are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// All old ones end before any new one starts.
    Recreate,
    /// New ones start beside the old ones.
    Rolling {
        /// Pods above `replicas` there may be meanwhile.
        surge: usize,
        /// Ready pods there may be too few meanwhile.
        unavailable: usize,
    },
}

/// A pod of the Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Its name.
    pub name: String,
    /// Whether it was made from the current template.
    pub current: bool,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is already ending.
    pub ending: bool,
    /// When it was made, in any unit that grows.
    pub age_order: i64,
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Pods of the current template to make.
    pub create: usize,
    /// Pods to end.
    pub delete: Vec<String>,
}

/// Decides the next step.
pub fn next(goal: Goal, pods: &[Existing]) -> Step {
    let mut current: Vec<&Existing> = pods.iter().filter(|pod| pod.current && !pod.ending).collect();
    let mut old: Vec<&Existing> = pods.iter().filter(|pod| !pod.current && !pod.ending).collect();
    // First to end: not ready ones, then the youngest.
    let dispensable = |pod: &&Existing| (pod.ready, std::cmp::Reverse(pod.age_order), pod.name.clone());
    current.sort_by_key(dispensable);
    old.sort_by_key(dispensable);

    let mut step = Step::default();
    let surplus = current.len().saturating_sub(goal.replicas);
    step.delete.extend(current.drain(..surplus).map(|pod| pod.name.clone()));
    let lacking = goal.replicas - current.len();

    match goal.strategy {
        Strategy::Recreate => {
            let old_left = pods.iter().any(|pod| !pod.current);
            step.create = if old_left { 0 } else { lacking };
            step.delete.extend(old.iter().map(|pod| pod.name.clone()));
        }
        Strategy::Rolling { surge, unavailable } => {
            // With neither allowed nothing could ever move (Kubernetes resolves both to zero likewise).
            let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
            let room = goal.replicas.saturating_add(surge).saturating_sub(current.len() + old.len());
            step.create = if old.is_empty() { lacking } else { lacking.min(room) };
            let least_ready = goal.replicas.saturating_sub(unavailable);
            let ready = current.iter().chain(&old).filter(|pod| pod.ready).count();
            let mut spare = ready.saturating_sub(least_ready);
            for pod in &old {
                if !pod.ready {
                    step.delete.push(pod.name.clone());
                } else if spare > 0 {
                    spare -= 1;
                    step.delete.push(pod.name.clone());
                }
            }
        }
    }
    step
}

/// `maxSurge` and `maxUnavailable` in pods: a number, or a share of the replicas, rounded up for the
/// surge and down for what may be unavailable. `None` if the text is neither.
pub fn resolve_share(text: &str, replicas: usize, round_up: bool) -> Option<usize> {
    match text.strip_suffix('%') {
        None => text.parse().ok(),
        Some(share) => {
            let share: usize = share.parse().ok()?;
            let hundredths = share.checked_mul(replicas)?;
            Some(if round_up { hundredths.div_ceil(100) } else { hundredths / 100 })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const ROLLING: Strategy = Strategy::Rolling { surge: 1, unavailable: 0 };

    fn pod(name: &str, current: bool, ready: bool) -> Existing {
        Existing { name: name.to_owned(), current, ready, ending: false, age_order: 0 }
    }

    #[test]
    fn a_new_template_is_ready_before_the_old_pod_goes() {
        let goal = Goal { replicas: 1, strategy: ROLLING };
        let old = pod("old", false, true);
        assert_eq!(next(goal, std::slice::from_ref(&old)), Step { create: 1, delete: vec![] });
        assert_eq!(next(goal, &[old.clone(), pod("new", true, false)]), Step::default());
        assert_eq!(next(goal, &[old, pod("new", true, true)]), Step { create: 0, delete: vec!["old".to_owned()] });
    }

    #[test]
    fn scaling_down_ends_what_is_not_ready_first() {
        let goal = Goal { replicas: 1, strategy: ROLLING };
        let step = next(goal, &[pod("a", true, true), pod("b", true, false), pod("c", true, true)]);
        assert_eq!(step.delete.len(), 2);
        assert_eq!(step.delete.first().map(String::as_str), Some("b"));
    }

    #[test]
    fn recreating_waits_for_the_last_old_pod() {
        let goal = Goal { replicas: 2, strategy: Strategy::Recreate };
        let mut old = pod("old", false, true);
        assert_eq!(next(goal, &[old.clone()]), Step { create: 0, delete: vec!["old".to_owned()] });
        old.ending = true;
        assert_eq!(next(goal, &[old]), Step::default());
        assert_eq!(next(goal, &[]).create, 2);
    }

    #[test]
    fn a_pod_that_ends_is_replaced_at_once() {
        let mut ending = pod("a", true, true);
        ending.ending = true;
        assert_eq!(next(Goal { replicas: 1, strategy: ROLLING }, &[ending]).create, 1);
    }

    #[test]
    fn shares_round_as_kubernetes_documents() {
        assert_eq!(resolve_share("25%", 1, true), Some(1));
        assert_eq!(resolve_share("25%", 1, false), Some(0));
        assert_eq!(resolve_share("25%", 10, false), Some(2));
        assert_eq!(resolve_share("3", 10, false), Some(3));
        assert_eq!(resolve_share("x%", 10, false), None);
    }

    proptest! {
        /// Whatever the start, a rollout comes to its end, never has too many pods by its own making,
        /// and never ends a ready pod that is still needed.
        #[test]
        fn every_rollout_ends(
            replicas in 0usize..8,
            surge in 0usize..4,
            unavailable in 0usize..4,
            start in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..10),
        ) {
            let goal = Goal { replicas, strategy: Strategy::Rolling { surge, unavailable } };
            let mut pods: Vec<Existing> =
                start.iter().enumerate().map(|(at, (current, ready))| pod(&at.to_string(), *current, *ready)).collect();
            let least = replicas.saturating_sub(if surge == 0 { unavailable.max(1) } else { unavailable });
            let mut made = 100;
            for _ in 0..100 {
                let step = next(goal, &pods);
                let ready_before = pods.iter().filter(|pod| pod.ready).count();
                pods.retain(|pod| !step.delete.contains(&pod.name));
                let ready_after = pods.iter().filter(|pod| pod.ready).count();
                prop_assert!(ready_after >= least.min(ready_before));
                if step.create > 0 {
                    prop_assert!(pods.len() + step.create <= (replicas + surge).max(start.len()));
                }
                for _ in 0..step.create {
                    made += 1;
                    pods.push(pod(&made.to_string(), true, false));
                }
                // The oldest pod of the new template that is not ready becomes so.
                if let Some(waiting) = pods.iter_mut().find(|pod| pod.current && !pod.ready) {
                    waiting.ready = true;
                }
            }
            prop_assert_eq!(pods.len(), replicas);
            prop_assert!(pods.iter().all(|pod| pod.current && pod.ready));
        }
    }
}
