use super::*;
use lateen_galley::istio::PortSelector;
use lateen_galley::istio::destination_rule::PortTrafficPolicy;
use lateen_galley::istio::destination_rule::{LbPolicy, SimpleLb};

fn simple(lb: SimpleLb) -> Option<LoadBalancerSettings> {
    Some(LoadBalancerSettings { policy: Some(LbPolicy::Simple(lb)), ..Default::default() })
}

fn connections(max: i32) -> Option<ConnectionPoolSettings> {
    Some(ConnectionPoolSettings { tcp: Some(TcpSettings { max_connections: max, ..Default::default() }), http: None })
}

#[test]
fn a_port_entry_replaces_the_rules_policy_whole() {
    let rule = TrafficPolicy {
        load_balancer: simple(SimpleLb::RoundRobin),
        connection_pool: connections(7),
        port_level_settings: vec![PortTrafficPolicy {
            port: Some(PortSelector { number: 80 }),
            load_balancer: simple(SimpleLb::Random),
            ..Default::default()
        }],
        ..Default::default()
    };
    let of_port = Policy::of(Some(&rule), None, 80);
    assert_eq!((of_port.balancing, of_port.max_connections), (Balancing::Random, u32::MAX));
    let of_other = Policy::of(Some(&rule), None, 81);
    assert_eq!((of_other.balancing, of_other.max_connections), (Balancing::RoundRobin, 7));
}

#[test]
fn a_subset_goes_over_the_rule_block_by_block() {
    let rule = TrafficPolicy {
        load_balancer: simple(SimpleLb::Random),
        connection_pool: connections(7),
        ..Default::default()
    };
    let subset = TrafficPolicy { load_balancer: simple(SimpleLb::RoundRobin), ..Default::default() };
    let policy = Policy::of(Some(&rule), Some(&subset), 80);
    assert_eq!((policy.balancing, policy.max_connections), (Balancing::RoundRobin, 7));
}

#[test]
fn zero_is_no_limit() {
    let policy = Policy::of(Some(&TrafficPolicy { connection_pool: connections(0), ..Default::default() }), None, 80);
    assert_eq!(policy, Policy::default());
}

#[test]
fn http_idle_time_goes_before_the_one_of_tcp() {
    let second = |seconds| Some(Duration::from_secs(seconds).into());
    let pool = ConnectionPoolSettings {
        tcp: Some(TcpSettings { idle_timeout: second(5), ..Default::default() }),
        http: Some(HttpSettings { idle_timeout: second(9), ..Default::default() }),
    };
    let rule = TrafficPolicy { connection_pool: Some(pool), ..Default::default() };
    let policy = Policy::of(Some(&rule), None, 80);
    assert_eq!(policy.idle_timeout, Some(Duration::from_secs(9)));
    assert_eq!(policy.tcp_idle_timeout, Some(Duration::from_secs(5)));
}

#[test]
fn the_mesh_says_what_the_rule_does_not() {
    let second = |seconds| Some(Duration::from_secs(seconds).into());
    let keepalive = |time| TcpKeepalive { probes: 0, time: second(time), interval: None };
    let pool = ConnectionPoolSettings {
        tcp: Some(TcpSettings { tcp_keepalive: Some(keepalive(5)), ..Default::default() }),
        http: Some(HttpSettings { h2_upgrade_policy: H2UpgradePolicy::DoNotUpgrade, ..Default::default() }),
    };
    let rule = TrafficPolicy { connection_pool: Some(pool), ..Default::default() };
    let usual = Keepalive { probes: Some(3), time: Some(Duration::from_secs(60)), interval: None };
    let mesh = Connections {
        connect_timeout: Duration::from_secs(2),
        keepalive: Some(usual.clone()),
        upgrade_to_http2: true,
        ..Connections::default()
    };
    let of_rule = Policy::of(Some(&rule), None, 80).in_mesh(&mesh, true);
    assert_eq!(of_rule.connect_timeout, Some(Duration::from_secs(2)));
    assert_eq!(of_rule.keepalive, Some(Keepalive { time: Some(Duration::from_secs(5)), ..usual.clone() }));
    assert_eq!(of_rule.upgrade_to_http2, Some(false));
    let plain = |http| Policy::default().in_mesh(&mesh, http);
    assert_eq!((plain(true).upgrade_to_http2, plain(false).upgrade_to_http2), (Some(true), Some(false)));
    assert_eq!(plain(true).keepalive, Some(usual));
    let untouched = Policy::default().in_mesh(&Connections::default(), true);
    assert_eq!(untouched.connect_timeout, Some(Duration::from_secs(10)));
    assert_eq!((untouched.keepalive, untouched.upgrade_to_http2), (None, Some(false)));
}
