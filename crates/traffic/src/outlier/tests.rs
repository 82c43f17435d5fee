use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::cluster::{EndpointAddress, Health};
use crate::health::{HealthFlag, HostHealth};

/// A cluster with a clock of its own. The dice always fall the same way.
struct World {
    settings: Arc<OutlierDetection>,
    hosts: Vec<(EndpointAddress, Arc<HostHealth>)>,
    detector: Detector,
    now: Duration,
    roll: u64,
}

impl World {
    fn new(hosts: usize, settings: OutlierDetection) -> Self {
        let settings = Arc::new(settings);
        let hosts: Vec<_> = (0..hosts)
            .map(|n| {
                let address: SocketAddr = format!("10.0.0.1:{}", n + 1).parse().unwrap();
                (EndpointAddress::Socket(address), Arc::default())
            })
            .collect();
        let mut detector = Detector::new(Arc::clone(&settings), Duration::ZERO);
        detector.members(hosts.iter().map(|(address, health)| (address, health)));
        Self { settings, hosts, detector, now: Duration::ZERO, roll: 0 }
    }

    fn report(&mut self, host: usize, report: Report) {
        let (address, health) = &self.hosts[host];
        let roll = self.roll;
        for cause in health.monitor.report(&self.settings, report) {
            self.detector.suspect(address, cause, self.now, &mut || roll);
        }
    }

    fn answers(&mut self, host: usize, status: u16, count: usize) {
        (0..count).for_each(|_| self.report(host, Report::Answered(status)));
    }

    fn out(&self, host: usize) -> bool {
        self.hosts[host].1.has(HealthFlag::FAILED_OUTLIER_CHECK)
    }

    fn all_out(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|host| self.out(*host)).collect()
    }

    /// Lets time pass, with the sweeps that fall into it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.detector.next_sweep() <= end {
            self.now = self.detector.next_sweep();
            let roll = self.roll;
            self.detector.sweep(self.now, &mut || roll);
        }
        self.now = end;
    }
}

fn all() -> OutlierDetection {
    OutlierDetection { max_ejection_percent: 100, ..OutlierDetection::default() }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_row_of_failures_ejects_and_one_success_breaks_it() {
    let mut world = World::new(2, all());
    world.answers(0, 500, 4);
    world.answers(0, 404, 1);
    world.answers(0, 500, 4);
    assert!(!world.out(0));
    world.answers(0, 503, 1);
    assert!(world.out(0) && !world.out(1));
    assert_eq!(world.hosts[0].1.all_in_all(Health::Healthy), Health::Unhealthy);
    assert_eq!(world.detector.counts().enforced(Cause::Consecutive5xx), 1);
    assert_eq!(world.detector.counts().active, 1);
}

#[test]
fn gateway_failures_are_found_but_not_enforced_unless_asked_for() {
    let mut world = World::new(2, OutlierDetection { consecutive_5xx: 0, ..all() });
    world.answers(0, 502, 4);
    world.answers(0, 500, 1);
    world.answers(0, 503, 4);
    assert_eq!(world.detector.counts().detected(Cause::ConsecutiveGatewayFailure), 0);
    world.answers(0, 504, 1);
    assert_eq!(world.detector.counts().detected(Cause::ConsecutiveGatewayFailure), 1);
    assert!(!world.out(0));
    let enforcing = Enforcing { consecutive_gateway_failure: 100, ..all().enforcing };
    let mut world = World::new(2, OutlierDetection { consecutive_gateway_failure: 2, enforcing, ..all() });
    world.answers(0, 503, 2);
    assert!(world.out(0));
}

#[test]
fn failures_without_an_answer_count_as_5xx_unless_they_are_split_off() {
    let mut world = World::new(2, OutlierDetection { consecutive_5xx: 2, ..all() });
    world.report(0, Report::Failed);
    world.report(0, Report::Connected);
    world.report(0, Report::TimedOut);
    assert!(world.out(0));
    world.report(1, Report::Failed);
    world.report(1, Report::Served);
    world.report(1, Report::Failed);
    assert!(!world.out(1));

    let split =
        OutlierDetection { consecutive_5xx: 2, split_local_origin: true, consecutive_local_origin_failure: 3, ..all() };
    let mut world = World::new(2, split);
    world.report(0, Report::Failed);
    world.report(0, Report::TimedOut);
    world.report(0, Report::Connected);
    world.answers(0, 500, 1);
    assert!(!world.out(0));
    world.answers(0, 500, 1);
    assert!(world.out(0));
    (0..3).for_each(|_| world.report(1, Report::Failed));
    assert!(world.out(1));
    assert_eq!(world.detector.counts().enforced(Cause::ConsecutiveLocalOriginFailure), 1);
}

#[test]
fn the_share_of_hosts_out_is_never_above_the_limit() {
    for (hosts, percent, most) in [(1, 10, 0), (9, 10, 0), (10, 10, 1), (11, 10, 1), (3, 50, 1), (4, 50, 2), (2, 0, 0)]
    {
        let mut world = World::new(hosts, OutlierDetection { max_ejection_percent: percent, ..all() });
        (0..hosts).for_each(|host| world.answers(host, 500, 5));
        assert_eq!(world.all_out().len(), most, "{hosts} hosts, {percent} %");
        assert_eq!(world.detector.counts().overflow, (hosts - most) as u64);
    }
    let one = OutlierDetection { max_ejection_percent: 0, always_eject_one_host: true, ..all() };
    let mut world = World::new(2, one);
    (0..2).for_each(|host| world.answers(host, 500, 5));
    assert_eq!(world.all_out(), [0]);
}

#[test]
fn ejections_get_longer_and_shorter_again() {
    let settings = OutlierDetection { base_ejection_time: 2 * SECOND, interval: SECOND, ..all() };
    let mut world = World::new(2, settings);
    let out_for = |world: &mut World| {
        world.answers(0, 500, 5);
        let begun = world.now;
        while world.out(0) {
            world.pass(SECOND);
        }
        (world.now - begun).as_secs()
    };
    assert_eq!(out_for(&mut world), 2);
    assert_eq!(out_for(&mut world), 4);
    assert_eq!(out_for(&mut world), 6);
    // Each good interval takes one away, the first is that of the return itself.
    world.pass(2 * SECOND);
    assert_eq!(out_for(&mut world), 4);
    world.pass(20 * SECOND);
    assert_eq!(out_for(&mut world), 2);
}

#[test]
fn no_ejection_is_longer_than_the_longest_and_its_jitter() {
    let settings = OutlierDetection {
        base_ejection_time: 2 * SECOND,
        max_ejection_time: 3 * SECOND,
        max_ejection_time_jitter: 2 * SECOND,
        interval: SECOND,
        ..all()
    };
    let mut world = World::new(2, settings);
    world.roll = u64::MAX;
    let enforcing = world.settings.enforcing.consecutive_5xx;
    assert_eq!(enforcing, 100);
    for expected in [4, 5, 5, 5] {
        world.answers(0, 500, 5);
        world.pass(expected * SECOND - Duration::from_millis(1));
        assert!(world.out(0));
        world.pass(Duration::from_millis(1));
        assert!(!world.out(0));
    }
}

#[test]
fn enforcing_is_a_chance() {
    let enforcing = Enforcing { consecutive_5xx: 50, ..all().enforcing };
    let mut world = World::new(2, OutlierDetection { enforcing, ..all() });
    world.roll = u64::MAX;
    world.answers(0, 500, 5);
    assert!(!world.out(0));
    world.roll = 0;
    world.answers(0, 500, 5);
    assert!(world.out(0));
}

#[test]
fn a_host_that_answers_less_well_than_the_others_is_ejected_at_the_sweep() {
    let settings = OutlierDetection { consecutive_5xx: 0, ..all() };
    let mut world = World::new(5, settings.clone());
    (1..5).for_each(|host| world.answers(host, 200, 100));
    (0..50).for_each(|_| {
        world.answers(0, 200, 1);
        world.answers(0, 500, 1);
    });
    world.pass(10 * SECOND);
    assert_eq!(world.all_out(), [0]);
    let (_, rates) = world.detector.success_rates().next().unwrap();
    assert_eq!(rates, SuccessRates { external: Some(50.0), local: None });
    // One request too few, or one host.
    let mut world = World::new(5, settings.clone());
    (1..5).for_each(|host| world.answers(host, 200, 100));
    world.answers(0, 500, 99);
    world.pass(10 * SECOND);
    assert!(world.all_out().is_empty());
    let mut world = World::new(4, settings);
    (1..4).for_each(|host| world.answers(host, 200, 100));
    world.answers(0, 500, 100);
    world.pass(10 * SECOND);
    assert!(world.all_out().is_empty());
}

#[test]
fn a_host_that_fails_too_often_is_ejected_at_the_sweep() {
    let enforcing = Enforcing { success_rate: 0, failure_percentage: 100, ..all().enforcing };
    let mut world = World::new(5, OutlierDetection { consecutive_5xx: 0, enforcing, ..all() });
    for host in 0..5 {
        world.answers(host, 200, 10);
        world.answers(host, 500, if host == 2 { 57 } else { 56 });
    }
    world.pass(10 * SECOND);
    assert_eq!(world.all_out(), [2]);
    assert_eq!(world.detector.counts().enforced(Cause::FailurePercentage), 1);
}

#[test]
fn hosts_that_go_are_forgotten_and_those_that_stay_are_not() {
    let mut world = World::new(3, all());
    world.answers(0, 500, 5);
    world.answers(1, 500, 5);
    let stay: Vec<_> = world.hosts[1..].to_vec();
    world.detector.members(stay.iter().map(|(address, health)| (address, health)));
    assert_eq!(world.detector.counts().active, 1);
    world.answers(0, 500, 5);
    assert_eq!(world.detector.counts().enforced(Cause::Consecutive5xx), 2);
    world.pass(40 * SECOND);
    assert!(!world.out(1));
}

#[test]
fn an_active_check_ends_an_ejection_if_it_may() {
    for may in [true, false] {
        let mut world = World::new(2, OutlierDetection { active_check_ends_ejection: may, ..all() });
        world.answers(0, 500, 5);
        assert_eq!(world.detector.checked(&world.hosts[0].0, world.now), may);
        assert_eq!(world.out(0), !may);
    }
}

#[test]
fn grpc_statuses_count_as_envoy_counts_them() {
    let failing: Vec<u32> = (0..20).filter(|status| status_of_grpc(*status) >= 500).collect();
    assert_eq!(failing, [2, 4, 12, 13, 14, 15, 17, 18, 19]);
}

#[derive(Debug, Clone)]
enum Event {
    Report(usize, Report),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let report = prop_oneof![
        4 => Just(Report::Answered(500)),
        4 => Just(Report::Answered(503)),
        2 => Just(Report::Answered(200)),
        2 => Just(Report::Failed),
        1 => Just(Report::TimedOut),
        1 => Just(Report::Connected),
        1 => Just(Report::Served),
    ];
    let event = prop_oneof![
        20 => (0..8usize, report).prop_map(|(host, report)| Event::Report(host, report)),
        1 => (1..60_000u64).prop_map(Event::Pass),
    ];
    proptest::collection::vec(event, 0..400)
}

proptest! {
    #[test]
    fn whatever_happens_the_limits_hold_and_everybody_comes_back(
        events in events(),
        hosts in 1..8usize,
        percent in 0..101u32,
        split: bool,
        always: bool,
        roll: u64,
    ) {
        let settings = OutlierDetection {
            consecutive_5xx: 3,
            consecutive_gateway_failure: 2,
            split_local_origin: split,
            max_ejection_percent: percent,
            always_eject_one_host: always,
            success_rate: SuccessRate { minimum_hosts: 2, request_volume: 5, stdev_factor: 1000 },
            failure_percentage: FailurePercentage { threshold: 50, minimum_hosts: 2, request_volume: 5 },
            max_ejection_time_jitter: SECOND,
            enforcing: Enforcing { consecutive_gateway_failure: 50, failure_percentage: 50, ..all().enforcing },
            ..OutlierDetection::default()
        };
        let mut world = World::new(hosts, settings);
        world.roll = roll;
        for event in events {
            match event {
                Event::Report(host, report) => world.report(host % hosts, report),
                Event::Pass(ms) => world.pass(Duration::from_millis(ms)),
            }
            let out = world.all_out().len();
            prop_assert!(out * 100 <= hosts * percent as usize || (always && out == 1));
            prop_assert_eq!(world.detector.counts().active, out as u64);
        }
        world.pass(world.settings.max_ejection_time + world.settings.max_ejection_time_jitter + world.settings.interval);
        prop_assert_eq!(world.all_out(), Vec::<usize>::new());
    }
}
