use super::*;
use crate::cluster::{HashFunction, HashTable};

mod tables;

struct Fake(Vec<(u32, u32)>);

impl Hosts for Fake {
    fn weight(&self, host: usize) -> u32 {
        self.0[host].0
    }
    fn active(&self, host: usize) -> u32 {
        self.0[host].1
    }
}

/// A small generator with a fixed seed (splitmix64).
fn dice() -> impl FnMut() -> u64 {
    let mut state = 42u64;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn healthy(n: usize) -> HostSet {
    HostSet::new((0..n).map(|_| (0, Health::Healthy)), 0.0, 140)
}

fn count(set: &HostSet, policy: LbPolicy, hosts: &Fake, picks: usize) -> Vec<usize> {
    let (mut turn, mut dice) = (Turn::default(), dice());
    let mut seen = vec![0; hosts.0.len()];
    for _ in 0..picks {
        seen[set.pick(policy, None, hosts, &mut turn, &mut dice).unwrap()] += 1;
    }
    seen
}

#[test]
fn round_robin_alternates_and_honours_weights() {
    let equal = Fake(vec![(1, 0); 3]);
    assert_eq!(count(&healthy(3), LbPolicy::RoundRobin, &equal, 300), [100, 100, 100]);
    let unequal = Fake(vec![(1, 0), (3, 0)]);
    assert_eq!(count(&healthy(2), LbPolicy::RoundRobin, &unequal, 400), [100, 300]);
}

#[test]
fn workers_take_turns_together() {
    let (rotation, mut dice) = (Rotation::default(), dice());
    let mut workers = [(); 3].map(|()| Turn::beginning(&rotation, &mut dice));
    let (set, hosts) = (healthy(2).with_weights([1, 1].into_iter()), Fake(vec![(1, 0); 2]));
    let mut last = None;
    for request in 0..100 {
        // A client's connections reach any worker.
        let picked = set.pick(LbPolicy::RoundRobin, None, &hosts, &mut workers[request * request % 3], &mut dice);
        assert_ne!(picked, last);
        last = picked;
    }
}

#[test]
fn random_disregards_weights() {
    let seen = count(&healthy(2), LbPolicy::Random, &Fake(vec![(1, 0), (3, 0)]), 4000);
    assert!((1900..2100).contains(&seen[0]), "{seen:?}");
}

#[test]
fn least_request_avoids_the_busy_and_spreads_ties() {
    let busy = count(&healthy(2), LbPolicy::LeastRequest { choices: 2 }, &Fake(vec![(1, 9), (1, 0)]), 1000);
    assert!(busy[1] > 700, "{busy:?}");
    let idle = count(&healthy(4), LbPolicy::LeastRequest { choices: 2 }, &Fake(vec![(1, 0); 4]), 400);
    assert_eq!(idle, [100; 4]);
}

#[test]
fn least_request_shares_by_weight_and_load() {
    let policy = LbPolicy::LeastRequest { choices: 2 };
    assert_eq!(count(&healthy(2), policy, &Fake(vec![(1, 0), (3, 0)]), 400), [100, 300]);
    // With three requests in flight the heavier one counts no more than the lighter one.
    let busy = count(&healthy(2), policy, &Fake(vec![(1, 0), (4, 3)]), 400);
    assert_eq!(busy, [200, 200]);
}

/// Hosts of these ages.
struct Aged(Vec<u64>);

impl Hosts for Aged {
    fn weight(&self, _: usize) -> u32 {
        1
    }
    fn active(&self, _: usize) -> u32 {
        0
    }
    fn age(&self, host: usize) -> Duration {
        Duration::from_secs(self.0[host])
    }
}

#[test]
fn new_hosts_warm_up() {
    let slow = |aggression| SlowStart { window: Duration::from_secs(100), aggression, least: 0.1 };
    let share = |policy, aggression, age| {
        let set = healthy(2).with_weights([1, 1].into_iter()).with_slow_start(Some(slow(aggression)));
        let (mut turn, mut dice, mut seen) = (Turn::default(), dice(), 0);
        for _ in 0..1100 {
            seen += usize::from(set.pick(policy, None, &Aged(vec![1000, age]), &mut turn, &mut dice) == Some(1));
        }
        seen
    };
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest { choices: 2 }] {
        // A tenth at first, against a whole share: 1 in 11.
        assert!((98..=102).contains(&share(policy, 1.0, 0)));
        assert!((98..=102).contains(&share(policy, 1.0, 10)));
        // Half its share: 1 in 3.
        assert!((364..=369).contains(&share(policy, 1.0, 50)));
        assert_eq!(share(policy, 1.0, 100), 550);
        assert!(share(policy, 2.0, 25) > share(policy, 1.0, 25));
    }
    assert_eq!(share(LbPolicy::Random, 1.0, 0), share(LbPolicy::Random, 1.0, 1000));
}

#[test]
fn localities_take_their_weight_as_far_as_they_are_healthy() {
    let share = LocalityShare { of_host: vec![0, 0, 1, 1, 2], weights: vec![80, 20, 0] };
    let set = |healthy: [bool; 5]| {
        let health = healthy.map(|up| (0, if up { Health::Healthy } else { Health::Unhealthy }));
        HostSet::new(health.into_iter(), 0.0, 140).with_localities(&share, 140)
    };
    let hosts = Fake(vec![(1, 0); 5]);
    let seen = count(&set([true; 5]), LbPolicy::RoundRobin, &hosts, 10_000);
    assert!((7_700..8_300).contains(&(seen[0] + seen[1])) && seen[4] == 0, "{seen:?}");
    // Each locality has a rotation of its own.
    assert!(seen[0].abs_diff(seen[1]) <= 1 && seen[2].abs_diff(seen[3]) <= 1, "{seen:?}");
    // Half of the first is left: 80 × 0.7 against 20.
    let seen = count(&set([true, false, true, true, true]), LbPolicy::LeastRequest { choices: 2 }, &hosts, 10_000);
    assert!((7_000..7_700).contains(&seen[0]) && seen[1] == 0, "{seen:?}");
    // Nobody is left there.
    let seen = count(&set([false, false, true, true, true]), LbPolicy::Random, &hosts, 1_000);
    assert_eq!(seen[2] + seen[3], 1_000);
    // Only the one without weight is left: better than nobody.
    let seen = count(&set([false, false, false, false, true]), LbPolicy::Random, &hosts, 10);
    assert_eq!(seen[4], 10);
}

#[test]
fn degraded_hosts_take_what_the_healthy_cannot() {
    let hosts = Fake(vec![(1, 0); 4]);
    let health = [Health::Healthy, Health::Healthy, Health::Degraded, Health::Degraded].map(|health| (0, health));
    let seen = count(&HostSet::new(health.into_iter(), 0.0, 140), LbPolicy::RoundRobin, &hosts, 10_000);
    assert!((2_700..3_300).contains(&(seen[2] + seen[3])), "{seen:?}");
    let health = [Health::Healthy, Health::Healthy, Health::Healthy, Health::Degraded].map(|health| (0, health));
    let seen = count(&HostSet::new(health.into_iter(), 0.0, 140), LbPolicy::RoundRobin, &hosts, 100);
    assert_eq!(seen[3], 0);
}

#[test]
fn panic_shares_by_the_number_of_hosts() {
    let hosts = Fake(vec![(1, 0); 4]);
    let down = [0, 0, 0, 1].map(|priority| (priority, Health::Unhealthy));
    let seen = count(&HostSet::new(down.into_iter(), 50.0, 140), LbPolicy::Random, &hosts, 10_000);
    assert!((2_300..2_700).contains(&seen[3]), "{seen:?}");
    // As long as others suffice, a level without health is not in panic.
    let up = [(0, Health::Unhealthy), (0, Health::Unhealthy), (0, Health::Unhealthy), (1, Health::Healthy)];
    let seen = count(&HostSet::new(up.into_iter(), 50.0, 140), LbPolicy::Random, &hosts, 100);
    assert_eq!(seen[3], 100);
}

#[test]
fn health_counts_until_panic() {
    let set = |panic| {
        HostSet::new([(0, Health::Healthy), (0, Health::Unhealthy), (0, Health::Unhealthy)].into_iter(), panic, 140)
    };
    let hosts = Fake(vec![(1, 0); 3]);
    assert_eq!(count(&set(0.0), LbPolicy::RoundRobin, &hosts, 30), [30, 0, 0]);
    assert_eq!(count(&set(50.0), LbPolicy::RoundRobin, &hosts, 30), [10, 10, 10]);
    let none = HostSet::new([(0, Health::Unhealthy)].into_iter(), 0.0, 140);
    assert_eq!(none.pick(LbPolicy::Random, None, &hosts, &mut Turn::default(), &mut dice()), None);
    assert_eq!(healthy(0).pick(LbPolicy::Random, None, &hosts, &mut Turn::default(), &mut dice()), None);
}

#[test]
fn the_next_priority_takes_what_the_first_cannot() {
    let hosts = Fake(vec![(1, 0); 5]);
    let spill = |healthy: usize| {
        let first = (0..4).map(move |i| (0, if i < healthy { Health::Healthy } else { Health::Unhealthy }));
        HostSet::new(first.chain([(1, Health::Healthy)]), 0.0, 140)
    };
    // 3 of 4 healthy: 75 % × 1.4 is more than enough. 2 of 4: 70 % stay.
    assert_eq!(count(&spill(3), LbPolicy::RoundRobin, &hosts, 300)[4], 0);
    let second = count(&spill(2), LbPolicy::RoundRobin, &hosts, 10_000)[4];
    assert!((2_700..3_300).contains(&second), "{second}");
    assert_eq!(count(&spill(0), LbPolicy::RoundRobin, &hosts, 100)[4], 100);
}

#[test]
fn retries_leave_out_the_priorities_tried() {
    // Two hosts of each of three priorities, the last one's out of order.
    let states = [(0, true), (0, true), (1, true), (1, true), (2, false), (2, false)];
    let health = states.map(|(level, up)| (level, if up { Health::Healthy } else { Health::Unhealthy }));
    let set = HostSet::new(health.into_iter(), 0.0, 140);
    let hosts = Fake(vec![(1, 0); 6]);
    let level = |tried: &[usize], every| {
        let loads = set.loads_after(tried, every);
        let picks: std::collections::BTreeSet<_> = (0..20)
            .filter_map(|_| set.pick(LbPolicy::Random, loads.as_ref(), &hosts, &mut Turn::default(), &mut dice()))
            .map(|host| host / 2)
            .collect();
        picks.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(level(&[], 2), [0]);
    assert_eq!(level(&[0], 2), [0], "not yet");
    assert_eq!(level(&[0, 1], 2), [1]);
    assert_eq!(level(&[0, 1, 2], 2), [1], "until the next two");
    assert_eq!(level(&[0, 1, 2, 3], 2), [0], "nobody is left: from the beginning");
    assert_eq!(level(&[0, 1, 2, 3, 0], 2), [0]);
    assert_eq!(level(&[0, 1, 2, 3, 0, 1], 2), [1]);
    assert_eq!(level(&[0], 1), [1]);
    assert_eq!(level(&[99, 98], 2), [0], "hosts that are gone have no priority");
}

proptest::proptest! {
    #[test]
    fn only_usable_hosts_are_picked(health in proptest::collection::vec((0u32..3, 0u8..4), 1..12), policy in 0u8..3, seed in 0u64..1000) {
        let kinds = [Health::Healthy, Health::Degraded, Health::Unhealthy, Health::Draining];
        let states: Vec<_> = health.iter().map(|(p, h)| (*p, kinds[usize::from(*h)])).collect();
        let set = HostSet::new(states.iter().copied(), 0.0, 140);
        let policy = [LbPolicy::Random, LbPolicy::RoundRobin, LbPolicy::LeastRequest { choices: 2 }][usize::from(policy)];
        let mut roll = seed;
        let mut dice = || { roll = roll.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); roll };
        let hosts = Fake(vec![(1, 0); states.len()]);
        match set.pick(policy, None, &hosts, &mut Turn::default(), &mut dice) {
            Some(host) => proptest::prop_assert!(matches!(states[host].1, Health::Healthy | Health::Degraded)),
            None => proptest::prop_assert!(!states.iter().any(|(_, h)| *h == Health::Healthy || *h == Health::Degraded)),
        }
    }
}
