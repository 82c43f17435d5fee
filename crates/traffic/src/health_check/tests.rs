use super::*;
use crate::cluster::Health;
use crate::edit::HeaderEdits;
use crate::message::ResponseHead;

fn settings() -> HealthCheck {
    let secs = Duration::from_secs;
    HealthCheck {
        timeout: secs(1),
        interval: secs(10),
        initial_jitter: Duration::ZERO,
        interval_jitter: Duration::ZERO,
        interval_jitter_percent: 0,
        unhealthy_threshold: 3,
        healthy_threshold: 2,
        reuse_connection: true,
        no_traffic_interval: secs(60),
        no_traffic_healthy_interval: secs(70),
        unhealthy_interval: secs(20),
        unhealthy_edge_interval: secs(30),
        healthy_edge_interval: secs(40),
        alpn: None,
        transport_labels: None,
        probe: Probe::Http(http()),
    }
}

fn http() -> HttpProbe {
    let only = |status| Statuses(std::iter::once(status..status + 1).collect());
    HttpProbe {
        http2: false,
        method: "GET".into(),
        host: "".into(),
        path: "/healthz".into(),
        edits: HeaderEdits::default(),
        body: Vec::new(),
        expected: only(200),
        retriable: only(503),
        receive: Vec::new(),
        look_at: 1024,
        service_name: None,
    }
}

fn host() -> (HostHealth, Session) {
    let health = HostHealth::default();
    let session = Session::begin(&health, false);
    (health, session)
}

#[test]
fn the_first_check_decides_at_once_and_later_ones_by_the_threshold() {
    let (health, mut session) = host();
    let mut judge = |outcome| session.judge(&settings(), &health, outcome);
    let well = || health.all_in_all(Health::Healthy) == Health::Healthy;
    assert!(!well());
    assert_eq!((judge(Outcome::Good), well()), (Change::Shown, true));
    assert_eq!((judge(Outcome::Network), well()), (Change::Pending, true));
    assert_eq!((judge(Outcome::Network), well()), (Change::Pending, true));
    // A success between starts the row over.
    assert_eq!((judge(Outcome::Good), well()), (Change::None, true));
    for _ in 0..2 {
        assert_eq!((judge(Outcome::Retriable), well()), (Change::Pending, true));
    }
    assert_eq!((judge(Outcome::TimedOut), well()), (Change::Shown, false));
    assert!(health.has(HealthFlag::ACTIVE_CHECK_TIMEOUT));
    assert_eq!((judge(Outcome::Network), well()), (Change::None, false));
    assert!(!health.has(HealthFlag::ACTIVE_CHECK_TIMEOUT));
    assert_eq!((judge(Outcome::Good), well()), (Change::Pending, false));
    assert_eq!((judge(Outcome::Bad), well()), (Change::None, false));
    assert_eq!((judge(Outcome::Good), well()), (Change::Pending, false));
    assert_eq!((judge(Outcome::Good), well()), (Change::Shown, true));
    // An answer that is none of a healthy host needs no second.
    assert_eq!((judge(Outcome::Bad), well()), (Change::Shown, false));
}

#[test]
fn a_host_that_failed_its_first_check_has_to_reach_the_threshold() {
    let (health, mut session) = host();
    let mut judge = |outcome| session.judge(&settings(), &health, outcome);
    assert_eq!(judge(Outcome::Network), Change::None);
    assert_eq!(judge(Outcome::Good), Change::Pending);
    assert_eq!(judge(Outcome::Good), Change::Shown);
}

#[test]
fn a_host_that_counts_only_when_checked_is_shown_by_any_first_check() {
    let health = HostHealth::default();
    let mut session = Session::begin(&health, true);
    assert!(health.is_excluded());
    assert_eq!(session.judge(&settings(), &health, Outcome::Network), Change::Shown);
    assert!(!health.is_excluded());
}

#[test]
fn degraded_answers_are_shown_both_ways() {
    let (health, mut session) = host();
    let mut judge = |outcome| session.judge(&settings(), &health, outcome);
    assert_eq!(judge(Outcome::Degraded), Change::Shown);
    assert_eq!(health.all_in_all(Health::Healthy), Health::Degraded);
    assert_eq!(judge(Outcome::Degraded), Change::None);
    assert_eq!(judge(Outcome::Good), Change::Shown);
    assert_eq!(health.all_in_all(Health::Healthy), Health::Healthy);
}

#[test]
fn a_host_that_asks_to_be_left_alone_is_excluded_until_a_check_succeeds() {
    let (health, mut session) = host();
    session.judge(&settings(), &health, Outcome::Good);
    health.set(HealthFlag::EXCLUDED_BY_ANSWER, true);
    assert_eq!(session.judge(&settings(), &health, Outcome::Passive), Change::Shown);
    assert!(health.is_excluded());
    session.judge(&settings(), &health, Outcome::Good);
    assert!(health.is_excluded());
    assert_eq!(session.judge(&settings(), &health, Outcome::Good), Change::Shown);
    assert!(!health.is_excluded());
}

#[test]
fn intervals_depend_on_traffic_result_and_change() {
    let settings = settings();
    let wait = |outcome, change, used| settings.wait(outcome, change, used, &mut || 0).as_secs();
    assert_eq!(wait(Outcome::Good, Change::None, true), 10);
    assert_eq!(wait(Outcome::Good, Change::Shown, true), 10);
    assert_eq!(wait(Outcome::Good, Change::Pending, true), 40);
    assert_eq!(wait(Outcome::Bad, Change::None, true), 20);
    assert_eq!(wait(Outcome::Network, Change::Pending, true), 30);
    assert_eq!(wait(Outcome::Network, Change::Pending, false), 60);
    assert_eq!(wait(Outcome::Degraded, Change::Shown, false), 70);
    assert_eq!(wait(Outcome::Good, Change::Pending, false), 60);
}

#[test]
fn jitter_adds_up_and_no_wait_is_nothing() {
    let mut settings = HealthCheck { interval_jitter_percent: 50, ..settings() };
    settings.interval_jitter = Duration::from_secs(2);
    let most = settings.wait(Outcome::Good, Change::None, true, &mut || u64::MAX);
    assert_eq!(most, Duration::from_millis(10_000 + 4_999 + 1_999));
    assert_eq!(settings.first_wait(&mut || u64::MAX), Duration::ZERO);
    settings.initial_jitter = Duration::from_secs(1);
    assert_eq!(settings.first_wait(&mut || u64::MAX), Duration::from_millis(999));
    assert_eq!(settings.first_wait(&mut || 0), Duration::from_millis(1));
}

#[test]
fn answers_are_judged_by_status_body_and_name() {
    let answer = |status, fields: &[(&str, &str)]| {
        let mut head = ResponseHead::new(status);
        head.headers = fields.iter().copied().collect();
        head
    };
    let judge = |probe: &HttpProbe, head: &ResponseHead, body: &[u8]| probe.judge(head, body).outcome;
    let mut probe = http();
    assert_eq!(judge(&probe, &answer(200, &[]), b""), Outcome::Good);
    assert_eq!(judge(&probe, &answer(200, &[("x-envoy-degraded", "")]), b""), Outcome::Degraded);
    assert_eq!(judge(&probe, &answer(204, &[]), b""), Outcome::Bad);
    assert_eq!(judge(&probe, &answer(503, &[]), b""), Outcome::Retriable);
    probe.receive = vec![b"al".to_vec(), b"ve".to_vec()];
    assert_eq!(judge(&probe, &answer(200, &[]), b"alive"), Outcome::Good);
    assert_eq!(judge(&probe, &answer(200, &[]), b"veal"), Outcome::Bad);
    assert_eq!(judge(&probe, &answer(503, &[]), b"dead"), Outcome::Bad);
    probe.service_name = Some(crate::matcher::StringMatcher::exact("one"));
    let named = |name| answer(200, &[("x-envoy-upstream-healthchecked-cluster", name)]);
    assert_eq!(judge(&probe, &named("one"), b"alive"), Outcome::Good);
    assert_eq!(judge(&probe, &named("two"), b"alive"), Outcome::Bad);
    assert_eq!(judge(&probe, &answer(200, &[]), b"alive"), Outcome::Bad);
    assert!(probe.judge(&named("one"), b"alive").looked_at_name);
    let leave = answer(500, &[("x-envoy-immediate-health-check-fail", "true")]);
    assert!(probe.judge(&leave, b"alive").leave_alone);
}

#[test]
fn grpc_timeouts_have_eight_digits_at_most() {
    let probe = GrpcProbe { service: "".into(), authority: "".into(), edits: HeaderEdits::default() };
    let host = crate::cluster::EndpointAddress::ip([127, 0, 0, 1].into(), 80);
    let asked = Asked { name: "a", host: &host, at: std::time::SystemTime::UNIX_EPOCH };
    let said = |timeout| probe.request(asked, timeout).headers.get_str("grpc-timeout").map(str::to_owned);
    assert_eq!(said(Duration::from_millis(1500)).as_deref(), Some("1500m"));
    assert_eq!(said(Duration::from_secs(100_000)).as_deref(), Some("100000S"));
    assert_eq!(said(Duration::from_secs(100_000_000)).as_deref(), Some("1666666M"));
}
