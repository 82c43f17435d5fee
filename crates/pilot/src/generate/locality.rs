//! Endpoints by where they are: which are preferred by a client, and which share each locality gets.
//!
//! Source: Istio `core/loadbalancer/loadbalancer.go`, `pilot/pkg/networking/util` (LbPriority, LocalityMatch).

use crate::registry::{Endpoint, Locality, NETWORK};
use std::collections::BTreeMap;

/// What a client prefers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Preference {
    /// Where the client is.
    pub own: Locality,
    pub rule: PreferenceRule,
}

/// By what endpoints are preferred.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PreferenceRule {
    /// Localities and their share in percent, of the first rule for the client's locality; none for other localities.
    Distribute(Vec<(String, u32)>),
    /// The nearer, the better.
    Failover {
        /// Labels and the client's values: the more of them in order an endpoint has, the better.
        labels: Vec<(String, String)>,
        /// Regions to turn to after the client's own.
        regions: Vec<String>,
        /// Where there are labels, whether nearness counts within them too. Without labels it always does.
        near: bool,
    },
}

/// Endpoints of one locality at one priority.
#[derive(Debug, PartialEq)]
pub struct Group<'a> {
    pub locality: &'a Locality,
    pub priority: u32,
    pub weight: u32,
    pub endpoints: Vec<&'a Endpoint>,
}

/// Endpoints grouped by locality, the groups in order, each weighing what its endpoints weigh together; arranged as the
/// client prefers them.
pub fn groups<'a>(endpoints: &'a [Endpoint], preference: Option<&Preference>) -> Vec<Group<'a>> {
    let mut by_locality: BTreeMap<&Locality, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        by_locality.entry(&endpoint.locality).or_default().push(endpoint);
    }
    let groups = by_locality.into_iter().map(|(locality, endpoints)| Group::new(locality, 0, endpoints)).collect();
    match preference {
        None => groups,
        Some(Preference { rule: PreferenceRule::Distribute(shares), .. }) => distribute(groups, shares),
        Some(Preference { own, rule: PreferenceRule::Failover { labels, regions, near } }) => {
            let groups = if labels.is_empty() { groups } else { by_labels(groups, labels) };
            if labels.is_empty() || *near { by_nearness(groups, own, regions) } else { groups }
        }
    }
}

impl<'a> Group<'a> {
    fn new(locality: &'a Locality, priority: u32, endpoints: Vec<&'a Endpoint>) -> Group<'a> {
        let weight = endpoints.iter().fold(0u32, |sum, endpoint| sum.saturating_add(endpoint.weight.max(1)));
        Group { locality, priority, weight, endpoints }
    }
}

/// Gives each locality its share; those that have none lose their endpoints.
fn distribute<'a>(mut groups: Vec<Group<'a>>, shares: &[(String, u32)]) -> Vec<Group<'a>> {
    let mut left: Vec<usize> = (0..groups.len()).collect();
    for (to, share) in shares {
        let (matching, others): (Vec<usize>, Vec<usize>) = left.iter().partition(|at| groups[**at].locality.is_in(to));
        left = others;
        // Several localities divide the share by their weights.
        let total: u64 = matching.iter().map(|at| u64::from(groups[*at].weight)).sum();
        for at in matching {
            let part = (u64::from(groups[at].weight) * u64::from(*share)).div_ceil(total.max(1));
            groups[at].weight = u32::try_from(part).unwrap_or(u32::MAX);
        }
    }
    for at in left {
        groups[at].endpoints.clear();
    }
    groups
}

/// Splits localities by how many of the labels, from the first, their endpoints have like the client.
fn by_labels<'a>(groups: Vec<Group<'a>>, labels: &[(String, String)]) -> Vec<Group<'a>> {
    // A first label for the network counts for itself: whatever is on another network comes after all that is not.
    let network_first = labels.first().is_some_and(|(key, _)| key == NETWORK);
    let lowest = labels.len() as u32;
    let priority = |endpoint: &Endpoint| -> u32 {
        let mut far = 0;
        for (at, (key, own)) in labels.iter().enumerate() {
            if endpoint.topology(key) == own.as_str() {
                continue;
            }
            if at == 0 && network_first {
                far = lowest;
                continue;
            }
            return far + lowest - at as u32;
        }
        far
    };
    let mut split = Vec::new();
    for group in groups {
        let mut by_priority: BTreeMap<u32, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in group.endpoints {
            by_priority.entry(priority(endpoint)).or_default().push(endpoint);
        }
        split.extend(by_priority.into_iter().map(|(priority, all)| Group::new(group.locality, priority, all)));
    }
    without_gaps(split)
}

/// Same sub-zone first, then zone, then region, then regions to turn to, then the rest; within what was decided before.
fn by_nearness<'a>(mut groups: Vec<Group<'a>>, own: &Locality, regions: &[String]) -> Vec<Group<'a>> {
    for group in &mut groups {
        let there = group.locality;
        let distance = match () {
            () if there.region == own.region && there.zone == own.zone && there.subzone == own.subzone => 0,
            () if there.region == own.region && there.zone == own.zone => 1,
            () if there.region == own.region => 2,
            () if regions.is_empty() || regions.contains(&there.region) => 3,
            () => 4,
        };
        group.priority = group.priority * 5 + distance;
    }
    without_gaps(groups)
}

/// Envoy wants priorities from 0 without gaps.
fn without_gaps(mut groups: Vec<Group<'_>>) -> Vec<Group<'_>> {
    let mut used: Vec<u32> = groups.iter().map(|group| group.priority).collect();
    used.sort_unstable();
    used.dedup();
    for group in &mut groups {
        group.priority = used.iter().position(|priority| *priority == group.priority).unwrap_or(0) as u32;
    }
    groups
}

#[cfg(test)]
#[path = "locality_tests.rs"]
mod tests;
