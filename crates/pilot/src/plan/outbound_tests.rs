use super::*;
use crate::generate::tcp::TcpRoute;
use proptest::prelude::*;
use std::collections::HashSet;

const ANY: &str = "0.0.0.0";

fn claim(host: &str, address: &str, port: u16, protocol: Protocol) -> Claim {
    let http = protocol.may_be_http();
    let tcp = protocol.shape() != Some(Shape::Http);
    Claim {
        host: host.to_owned(),
        addresses: vec![address.parse().unwrap()],
        port,
        protocol,
        grpc_web: protocol == Protocol::GrpcWeb,
        route_name: http.then(|| if address == ANY { port.to_string() } else { format!("{host}:{port}") }),
        tcp: if tcp { vec![tcp_chain(host, ChainMatch::default())] } else { Vec::new() },
        exclusive: false,
        bound: false,
    }
}

fn tcp_chain(host: &str, matches: ChainMatch) -> Chain {
    Chain { matches, action: ChainAction::Tcp(TcpRoute::to(host)), origin: None }
}

fn targets(plan: &Plan, address: &str, port: u16) -> Vec<String> {
    plan.listeners[&(address.parse().unwrap(), port)]
        .chains
        .iter()
        .map(|chain| match &chain.action {
            ChainAction::Http { route_name, .. } => format!("http {route_name}"),
            ChainAction::Tcp(route) => format!("tcp {}", route.stat_prefix),
        })
        .collect()
}

#[test]
fn http_services_share_a_port() {
    let plan = plan([claim("a", ANY, 80, Protocol::Http), claim("b", ANY, 80, Protocol::Http2)]);
    assert_eq!(targets(&plan, ANY, 80), ["http 80"]);
    assert_eq!(plan.conflicts, []);
}

#[test]
fn tcp_beside_http_takes_what_is_not_http_whichever_is_older() {
    let tcp_later = plan([claim("a", ANY, 80, Protocol::Http), claim("b", ANY, 80, Protocol::Tcp)]);
    assert_eq!(targets(&tcp_later, ANY, 80), ["http 80", "tcp b"]);
    let tcp_first = plan([claim("b", ANY, 80, Protocol::Tcp), claim("a", ANY, 80, Protocol::Http)]);
    assert_eq!(targets(&tcp_first, ANY, 80), ["tcp b", "http 80"]);
    assert_eq!((tcp_later.conflicts.len(), tcp_first.conflicts.len()), (0, 0));
}

#[test]
fn the_older_of_two_tcp_services_wins_and_the_other_is_told() {
    let plan = plan([claim("old", ANY, 9000, Protocol::Tcp), claim("young", ANY, 9000, Protocol::Tcp)]);
    assert_eq!(targets(&plan, ANY, 9000), ["tcp old"]);
    assert_eq!(
        plan.conflicts,
        [Conflict {
            address: ANY.parse().unwrap(),
            port: 9000,
            host: "young".to_owned(),
            reason: Reason::Taken { owner: "old".to_owned() },
        }]
    );
}

#[test]
fn an_undeclared_port_with_an_address_has_both_chains() {
    let plan = plan([claim("a", "10.96.0.1", 80, Protocol::Auto)]);
    assert_eq!(targets(&plan, "10.96.0.1", 80), ["tcp a", "http a:80"]);
}

#[test]
fn servers_that_speak_first_share_with_nobody() {
    let plan = plan([claim("db", ANY, 3306, Protocol::MySql), claim("web", ANY, 3306, Protocol::Http)]);
    assert_eq!(targets(&plan, ANY, 3306), ["tcp db"]);
    assert_eq!(plan.conflicts[0].reason, Reason::ServerFirst { owner: "db".to_owned() });
}

#[test]
fn the_proxys_own_ports_are_refused_on_all_addresses_only() {
    let plan = plan([claim("a", ANY, 15001, Protocol::Http), claim("b", "10.96.0.1", 15001, Protocol::Tcp)]);
    assert_eq!(plan.listeners.len(), 1);
    assert_eq!(plan.conflicts[0].reason, Reason::Reserved);
}

#[test]
fn server_names_tell_tls_services_apart() {
    let named = |host: &str| {
        let matches = ChainMatch { server_names: vec![host.to_owned()], ..ChainMatch::default() };
        Claim { tcp: vec![tcp_chain(host, matches)], ..claim(host, ANY, 443, Protocol::Tls) }
    };
    let plan = plan([named("a.com"), named("b.com"), named("A.com")]);
    assert_eq!(targets(&plan, ANY, 443), ["tcp a.com", "tcp b.com"]);
    assert_eq!(plan.conflicts.len(), 1);
}

#[test]
fn what_is_left_of_a_match_is_kept() {
    let block = |text: &str| crate::registry::Cidr::parse(text).unwrap();
    let matches = |names: &[&str], blocks: &[&str]| ChainMatch {
        server_names: names.iter().map(|name| (*name).to_owned()).collect(),
        destinations: blocks.iter().map(|text| block(text)).collect(),
        ..ChainMatch::default()
    };
    let with =
        |host: &str, matches| Claim { tcp: vec![tcp_chain(host, matches)], ..claim(host, ANY, 443, Protocol::Tls) };
    let plan = plan([
        with("old", matches(&["x.com"], &["10.0.0.0/8"])),
        with("young", matches(&["x.com", "y.com"], &["10.0.0.0/8", "11.0.0.0/8"])),
        with("same", matches(&["Y.com"], &["11.1.1.1/8"])),
    ]);
    let chains: Vec<&ChainMatch> =
        plan.listeners[&(ANY.parse().unwrap(), 443)].chains.iter().map(|chain| &chain.matches).collect();
    assert_eq!(
        chains,
        [
            &matches(&["x.com"], &["10.0.0.0/8"]),
            &matches(&["y.com"], &["10.0.0.0/8", "11.0.0.0/8"]),
            &matches(&["x.com"], &["11.0.0.0/8"]),
        ]
    );
    assert_eq!(plan.conflicts.iter().map(|conflict| conflict.host.as_str()).collect::<Vec<_>>(), ["same", "young"]);
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let address = prop::sample::select(vec![ANY, "10.0.0.1", "10.0.0.2"]);
    let port = prop::sample::select(vec![80u16, 443, 3306, 15001]);
    let protocol = prop::sample::select(vec![
        Protocol::Http,
        Protocol::Tcp,
        Protocol::Tls,
        Protocol::Auto,
        Protocol::MySql,
        Protocol::Udp,
    ]);
    ("[a-c]", address, port, protocol).prop_map(|(host, address, port, protocol)| claim(&host, address, port, protocol))
}

proptest! {
    #[test]
    fn no_two_chains_of_a_listener_take_the_same(claims in prop::collection::vec(any_claim(), 0..20)) {
        let plan = plan(claims);
        for planned in plan.listeners.values() {
            let mut atoms = HashSet::new();
            for atom in planned.chains.iter().flat_map(|chain| chain.matches.atoms()) {
                prop_assert!(atoms.insert(atom.clone()), "{atom:?} twice");
            }
            prop_assert!(!planned.chains.is_empty());
        }
    }

    #[test]
    fn every_claim_is_served_or_reported(claims in prop::collection::vec(any_claim(), 0..20)) {
        let plan = plan(claims.clone());
        for claim in claims.iter().filter(|claim| claim.protocol == Protocol::Tcp) {
            let key = (claim.addresses[0], claim.port);
            let served = plan.listeners.get(&key).is_some_and(|planned| {
                planned.chains.iter().any(|chain| claim.tcp.contains(chain))
            });
            let reported = plan.conflicts.iter().any(|conflict| conflict.host == claim.host);
            prop_assert!(served || reported);
        }
    }
}
