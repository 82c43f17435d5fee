//! How hosts are chosen, and what is hashed.

use std::time::Duration;

use lateen_traffic::cluster::{HashFunction, HashTable, Hashing, LbPolicy, SlowStart};
use lateen_traffic::hashing::HashSource;
use lateen_traffic::route::{Action, WeightedBy};

use super::{cluster, endpoints, routes};

fn lb(fields: &str) -> LbPolicy {
    cluster(&format!("{{name: x, {fields}}}")).unwrap().0.settings.lb
}

fn typed(policy: &str) -> String {
    let base = "type.googleapis.com/envoy.extensions.load_balancing_policies";
    format!(
        "load_balancing_policy: {{policies: [{{typed_extension_config: {{name: p, typed_config: {{'@type': {base}.{policy}}}}}}}]}}"
    )
}

fn ring(minimum: u64, maximum: u64, function: HashFunction, by_hostname: bool) -> LbPolicy {
    LbPolicy::Hash(Hashing { kind: HashTable::Ring { minimum, maximum, function }, by_hostname })
}

#[test]
fn hashing_balancers() {
    const MOST: u64 = 8 << 20;
    assert_eq!(lb("lb_policy: RING_HASH"), ring(1024, MOST, HashFunction::XxHash, false));
    assert_eq!(
        lb(
            "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 5, maximum_ring_size: 9, hash_function: MURMUR_HASH_2}, \
            common_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}"
        ),
        ring(5, 9, HashFunction::Murmur2, true)
    );
    assert_eq!(
        lb(&typed(
            "ring_hash.v3.RingHash, minimum_ring_size: 7, consistent_hashing_lb_config: {use_hostname_for_hashing: true}"
        )),
        ring(7, MOST, HashFunction::XxHash, true)
    );
    let maglev = |size| LbPolicy::Hash(Hashing { kind: HashTable::Maglev { size }, by_hostname: false });
    assert_eq!(lb("lb_policy: MAGLEV"), maglev(65_537));
    assert_eq!(lb("lb_policy: MAGLEV, maglev_lb_config: {table_size: 11}"), maglev(11));
    assert_eq!(lb(&typed("maglev.v3.Maglev, table_size: 13")), maglev(13));
    // Of another policy: says nothing.
    assert_eq!(lb("lb_policy: RANDOM, ring_hash_lb_config: {minimum_ring_size: 5}"), LbPolicy::Random);
}

#[test]
fn slow_start_and_localities() {
    let settings = |fields: &str| cluster(&format!("{{name: x, {fields}}}")).unwrap().0.settings;
    let slow = |seconds, aggression, least| Some(SlowStart { window: Duration::from_secs(seconds), aggression, least });
    let old = settings(
        "lb_policy: LEAST_REQUEST, least_request_lb_config: {slow_start_config: {slow_start_window: 30s, \
         aggression: {default_value: 2.0, runtime_key: x}, min_weight_percent: {value: 20}}}, \
         common_lb_config: {locality_weighted_lb_config: {}}",
    );
    assert_eq!(old.slow_start, slow(30, 2.0, 0.2));
    assert!(old.locality_weighted);
    let new = settings(&typed(
        "round_robin.v3.RoundRobin, slow_start_config: {slow_start_window: 5s}, \
         locality_lb_config: {locality_weighted_lb_config: {}}",
    ));
    assert_eq!(new.slow_start, slow(5, 1.0, 0.1));
    assert!(new.locality_weighted);
    assert!(!settings("lb_policy: RANDOM").locality_weighted);
}

#[test]
fn balancers_refused() {
    for (fields, said) in [
        ("lb_policy: LOAD_BALANCING_POLICY_CONFIG", "lb_policy: LOAD_BALANCING_POLICY_CONFIG without one"),
        (
            "lb_policy: MAGLEV, maglev_lb_config: {table_size: 12}",
            "maglev_lb_config.table_size: 12 is no prime number up to 5000011",
        ),
        (
            "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 9, maximum_ring_size: 8}",
            "ring_hash_lb_config: minimum_ring_size (9) > maximum_ring_size (8)",
        ),
        (
            "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 8388609}",
            "ring_hash_lb_config: a ring has 8388608 places at most",
        ),
        (
            "common_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 150}}",
            "common_lb_config.consistent_hashing_lb_config.hash_balance_factor: not supported yet",
        ),
        (
            "round_robin_lb_config: {slow_start_config: {slow_start_window: 5s, aggression: {default_value: 0}}}",
            "round_robin_lb_config.slow_start_config.aggression: must be above 0",
        ),
    ] {
        assert_eq!(cluster(&format!("{{name: x, {fields}}}")).expect_err(fields).to_string(), said);
    }
}

#[test]
fn hosts_may_bring_a_key() {
    let all = endpoints(
        "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}, \
          metadata: {filter_metadata: {envoy.lb: {hash_key: k}}}}]}]}",
    );
    assert_eq!(all.unwrap().localities[0].endpoints[0].hash_key.as_deref(), Some("k"));
}

#[test]
fn hash_policies() {
    let (config, _) = routes(
        "
virtual_hosts:
- name: a
  domains: ['*']
  routes:
  - match: {prefix: /}
    route:
      weighted_clusters: {clusters: [{name: c, weight: 1}], use_hash_policy: true}
      hash_policy:
      - header: {header_name: X-Key, regex_rewrite: {pattern: {regex: a}, substitution: b}}
      - {cookie: {name: c, ttl: 90.5s, path: /p, attributes: [{name: Secure}]}, terminal: true}
      - connection_properties: {source_ip: true}
      - connection_properties: {}
      - query_parameter: {name: q}
",
    )
    .unwrap();
    let Action::Forward(forward) = &config.virtual_hosts[0].routes[0].action else { panic!("no forward") };
    assert_eq!(forward.weighted_by, WeightedBy::Hash);
    let policies = &forward.hash_policies;
    assert!(matches!(&policies[0].source, HashSource::Header { name, rewrite: Some(_) } if &**name == "x-key"));
    assert!(matches!(&policies[1].source, HashSource::Cookie(cookie) if cookie.ttl == Some(90) && cookie.path == "/p"));
    assert!(policies[1].terminal && !policies[0].terminal);
    assert!(matches!(&policies[2].source, HashSource::SourceIp));
    assert!(matches!(&policies[3].source, HashSource::Query(name) if &**name == "q"));
    assert_eq!(policies.len(), 4);
}

#[test]
fn hash_policies_refused() {
    for (policy, said) in [
        ("{}", "no policy specifier"),
        ("{filter_state: {key: x}}", "filter_state: not supported yet"),
        ("{header: {}}", "header.header_name: \"\" is no header name"),
        ("{cookie: {}}", "cookie.name: empty"),
        (
            "{cookie: {name: a, path: '/;x'}}",
            "cookie: name, path and attributes cannot hold semicolons or control characters",
        ),
        ("{query_parameter: {}}", "query_parameter.name: empty"),
    ] {
        let yaml = format!(
            "{{virtual_hosts: [{{name: a, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: c, hash_policy: [{policy}]}}}}]}}]}}"
        );
        let at = "virtual_hosts[0].routes[0].route.hash_policy[0]";
        let said = if policy == "{}" { format!("{at}: {said}") } else { format!("{at}.{said}") };
        assert_eq!(routes(&yaml).expect_err(policy).to_string(), said);
    }
}
