use super::*;
use crate::registry::EndpointAddress;
use std::sync::Arc;

fn at(place: &str, labels: &[(&str, &str)]) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Name(place.to_owned()),
        port: 80,
        labels: Arc::new(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
        locality: Locality::parse(place),
        node: None,
        weight: 1,
        healthy: true,
        mutual_tls: false,
        workload: Default::default(),
    }
}

/// Locality, priority, weight, number of endpoints.
fn arranged(endpoints: &[Endpoint], own: &str, rule: PreferenceRule) -> Vec<(String, u32, u32, usize)> {
    let preference = Preference { own: Locality::parse(own), rule };
    groups(endpoints, Some(&preference))
        .iter()
        .map(|group| (group.locality.to_string(), group.priority, group.weight, group.endpoints.len()))
        .collect()
}

fn told(groups: &[(&str, u32, u32, usize)]) -> Vec<(String, u32, u32, usize)> {
    groups.iter().map(|(place, priority, weight, count)| ((*place).to_owned(), *priority, *weight, *count)).collect()
}

fn failover(labels: &[(&str, &str)], regions: &[&str], near: bool) -> PreferenceRule {
    PreferenceRule::Failover {
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        regions: regions.iter().map(|region| (*region).to_owned()).collect(),
        near,
    }
}

fn everywhere() -> Vec<Endpoint> {
    ["r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r2/z1/s1", "r3/z1/s1"].map(|place| at(place, &[])).to_vec()
}

#[test]
fn the_nearer_the_better() {
    assert_eq!(
        arranged(&everywhere(), "r1/z1/s1", failover(&[], &[], true)),
        told(&[
            ("r1/z1/s1", 0, 1, 1),
            ("r1/z1/s2", 1, 1, 1),
            ("r1/z2/s1", 2, 1, 1),
            ("r2/z1/s1", 3, 1, 1),
            ("r3/z1/s1", 3, 1, 1)
        ])
    );
    // Nobody is near: priorities begin at 0 all the same.
    assert_eq!(
        arranged(&everywhere()[2..], "r2/z9", failover(&[], &[], true)),
        told(&[("r1/z2/s1", 1, 1, 1), ("r2/z1/s1", 0, 1, 1), ("r3/z1/s1", 1, 1, 1)])
    );
    // A region to turn to goes before the others.
    assert_eq!(
        arranged(&everywhere()[2..], "r1/z1/s1", failover(&[], &["r3"], true)),
        told(&[("r1/z2/s1", 0, 1, 1), ("r2/z1/s1", 2, 1, 1), ("r3/z1/s1", 1, 1, 1)])
    );
}

#[test]
fn labels_count_from_the_first() {
    let endpoints = [
        at("r1", &[("a", "1"), ("b", "1")]),
        at("r1", &[("a", "1"), ("b", "2")]),
        at("r2", &[("a", "2"), ("b", "1")]),
        at("r2", &[("a", "1"), ("b", "1")]),
    ];
    let rule = |near| failover(&[("a", "1"), ("b", "1")], &[], near);
    assert_eq!(
        arranged(&endpoints, "r1", rule(false)),
        told(&[("r1", 0, 1, 1), ("r1", 1, 1, 1), ("r2", 0, 1, 1), ("r2", 2, 1, 1)])
    );
    // Nearness within.
    assert_eq!(
        arranged(&endpoints, "r1", rule(true)),
        told(&[("r1", 0, 1, 1), ("r1", 2, 1, 1), ("r2", 1, 1, 1), ("r2", 3, 1, 1)])
    );
}

#[test]
fn topology_labels_are_where_an_endpoint_is() {
    let mut same_node = at("r1/z1", &[]);
    same_node.node = Some("n1".into());
    let endpoints = [same_node, at("r1/z1", &[]), at("r1/z2", &[])];
    let labels = [
        (NETWORK, ""),
        ("topology.kubernetes.io/region", "r1"),
        ("topology.kubernetes.io/zone", "z1"),
        ("topology.istio.io/subzone", ""),
        ("kubernetes.io/hostname", "n1"),
    ];
    assert_eq!(
        arranged(&endpoints, "r1/z1", failover(&labels, &[], false)),
        told(&[("r1/z1", 0, 1, 1), ("r1/z1", 1, 1, 1), ("r1/z2", 2, 1, 1)])
    );
    // Another network comes after everything of the own one.
    let endpoints = [at("r9", &[]), at("r1", &[(NETWORK, "n")])];
    assert_eq!(
        arranged(&endpoints, "r1", failover(&labels[..2], &[], false)),
        told(&[("r1", 1, 1, 1), ("r9", 0, 1, 1)])
    );
}

#[test]
fn shares_are_divided() {
    let mut endpoints = everywhere();
    endpoints.push(at("r1/z2/s1", &[]));
    let shares = |shares: &[(&str, u32)]| {
        PreferenceRule::Distribute(shares.iter().map(|(to, share)| ((*to).to_owned(), *share)).collect())
    };
    // Of 70 percent two zones' three endpoints get their part each, rounded up.
    assert_eq!(
        arranged(&endpoints, "r1/z1/s1", shares(&[("r1/z1/s1", 20), ("r1/*", 70), ("r2/z1/*", 10)])),
        told(&[
            ("r1/z1/s1", 0, 20, 1),
            ("r1/z1/s2", 0, 24, 1),
            ("r1/z2/s1", 0, 47, 2),
            ("r2/z1/s1", 0, 10, 1),
            ("r3/z1/s1", 0, 1, 0)
        ])
    );
}
