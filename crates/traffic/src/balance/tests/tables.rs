//! Rings and Maglev tables.

use super::*;
use crate::hashing::xxhash;

const RING: HashTable = HashTable::Ring { minimum: 1024, maximum: 8_388_608, function: HashFunction::XxHash };
const MAGLEV: HashTable = HashTable::Maglev { size: 65_537 };

/// A set of healthy hosts with these keys and weights.
fn set(kind: HashTable, hosts: &[(String, u32)]) -> HostSet {
    let part = |host: usize| Part { key: hosts[host].0.as_str().into(), weight: f64::from(hosts[host].1) };
    let hashing = Hashing { kind, by_hostname: false };
    healthy(hosts.len()).with_tables(part, |parts| Arc::new(hashing.table(parts)))
}

fn addresses(n: usize) -> Vec<(String, u32)> {
    (0..n).map(|i| (format!("10.0.0.{i}:80"), 1)).collect()
}

fn key(i: usize) -> u64 {
    xxhash(format!("key {i}").as_bytes(), 0)
}

#[test]
fn murmur_is_that_of_the_c_library() {
    // std::hash<std::string> of GCC.
    assert_eq!(murmur::murmur_hash_2(b""), 6_142_509_188_972_423_790);
    assert_eq!(murmur::murmur_hash_2(b"abc"), 3_663_726_644_998_027_833);
    assert_eq!(murmur::murmur_hash_2(b"127.0.0.1:80_1023"), 14_518_758_931_313_565_428);
}

#[test]
fn shares_follow_weights() {
    let hosts: Vec<(String, u32)> =
        [1, 2, 5].into_iter().enumerate().map(|(i, weight)| (format!("10.0.0.{i}:80"), weight)).collect();
    for kind in [RING, HashTable::Ring { minimum: 1024, maximum: 8_388_608, function: HashFunction::Murmur2 }, MAGLEV] {
        let set = set(kind, &hosts);
        let mut seen = [0usize; 3];
        for i in 0..16_000 {
            seen[set.pick_by_hash(key(i), None, 0).unwrap()] += 1;
        }
        for (host, weight) in [2_000, 4_000, 10_000].into_iter().enumerate() {
            assert!(seen[host].abs_diff(weight) < weight / 5, "{kind:?} {seen:?}");
        }
    }
}

#[test]
fn places_are_counted() {
    let of = |kind| {
        let hashing = Hashing { kind, by_hostname: false };
        let part = |host: usize| Part { key: format!("10.0.0.{host}:80").into(), weight: [0.25, 0.75][host] };
        hashing.table(vec![part(0), part(1)]).counts().1
    };
    assert_eq!(of(RING), Counts { places: 1024, fewest: 256, most: 768 });
    let maglev = of(MAGLEV);
    assert_eq!((maglev.places, maglev.fewest + maglev.most), (65_537, 65_537));
    assert!(maglev.fewest.abs_diff(16_384) < 3, "{maglev:?}");
}

#[test]
fn a_ring_is_no_larger_than_it_may_be() {
    let kind = HashTable::Ring { minimum: 1, maximum: 2, function: HashFunction::XxHash };
    let set = set(kind, &addresses(3));
    let reached: std::collections::BTreeSet<_> =
        (0..1000).map(|i| set.pick_by_hash(key(i), None, 0).unwrap()).collect();
    assert_eq!(reached.len(), 2);
}

#[test]
fn the_order_of_hosts_does_not_count() {
    for kind in [RING, MAGLEV] {
        let (ordered, mut turned) = (addresses(7), addresses(7));
        turned.reverse();
        let (a, b) = (set(kind, &ordered), set(kind, &turned));
        for i in 0..500 {
            assert_eq!(a.pick_by_hash(key(i), None, 0).unwrap(), 6 - b.pick_by_hash(key(i), None, 0).unwrap());
        }
    }
}

#[test]
fn other_attempts_find_other_hosts_at_last() {
    for kind in [RING, MAGLEV] {
        let set = set(kind, &addresses(5));
        for i in 0..50 {
            let found: std::collections::BTreeSet<_> =
                (0..40).filter_map(|n| set.pick_by_hash(key(i), None, n)).collect();
            assert_eq!(found.len(), 5);
        }
    }
}

#[test]
fn nobody_is_found_where_nobody_is_healthy() {
    let down = |panic| {
        let part = |host: usize| Part { key: format!("10.0.0.{host}:80").into(), weight: 1.0 };
        let hashing = Hashing { kind: RING, by_hostname: false };
        HostSet::new([(0, Health::Unhealthy), (0, Health::Degraded)].into_iter(), panic, 0)
            .with_tables(part, |parts| Arc::new(hashing.table(parts)))
    };
    assert_eq!(down(0.0).pick_by_hash(7, None, 0), None);
    assert!(down(100.0).pick_by_hash(7, None, 0).is_some());
    assert_eq!(set(RING, &[]).pick_by_hash(7, None, 0), None);
    assert_eq!(set(MAGLEV, &[]).pick_by_hash(7, None, 0), None);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// Most keys of the hosts that stay do too. (The others' shares grow, so some of them move as well.)
    #[test]
    fn a_host_that_goes_disturbs_little(n in 2usize..24, gone in 0usize..24, weights in proptest::collection::vec(1u32..4, 24)) {
        let gone = gone % n;
        let before: Vec<(String, u32)> = (0..n).map(|i| (format!("10.1.{i}.7:8080"), weights[i])).collect();
        let mut after = before.clone();
        after.remove(gone);
        for kind in [RING, HashTable::Maglev { size: 5003 }] {
            let (a, b) = (set(kind, &before), set(kind, &after));
            let moved = (0..1000).filter(|i| {
                let (old, new) = (a.pick_by_hash(key(*i), None, 0).unwrap(), b.pick_by_hash(key(*i), None, 0).unwrap());
                old != gone && before[old] != after[new]
            });
            proptest::prop_assert!(moved.count() < 450, "{kind:?}");
        }
    }
}
