use super::*;
use crate::tcp::TcpTarget;

fn chain(name: &str, matches: ChainMatch) -> Arc<FilterChain> {
    let tcp = TcpProxy {
        stat_prefix: "t".into(),
        target: TcpTarget::Cluster("c".into()),
        idle_timeout: None,
        max_connect_attempts: 1,
        max_downstream_connection_duration: None,
        hash_source_ip: false,
        named_port: None,
        tunnel: None,
        access_log: Vec::new(),
    };
    Arc::new(FilterChain {
        name: name.into(),
        matches,
        tls: None,
        handshake_timeout: None,
        gates: Box::default(),
        terminal: Terminal::Tcp(Arc::new(tcp)),
    })
}

fn listener(chains: Vec<Arc<FilterChain>>) -> Listener {
    Listener {
        name: "l".into(),
        addresses: vec!["0.0.0.0:15006".parse().unwrap()],
        bind_to_port: true,
        use_original_dst: false,
        original_dst: true,
        tls_inspector: None,
        http_inspector: None,
        proxy_protocol: None,
        inspect_timeout: None,
        continue_on_inspect_timeout: true,
        chains,
        default_chain: None,
        access_log: Vec::new(),
        direction: Direction::Inbound,
        per_connection_buffer: 1 << 20,
        backlog: None,
        ignores_global_limit: false,
    }
}

fn picked<'a>(l: &'a Listener, facts: &ConnectionFacts) -> Option<&'a str> {
    l.find_chain(facts).map(|c| &*c.name)
}

fn to(port: u16) -> ConnectionFacts {
    ConnectionFacts { destination: Some(SocketAddr::from(([10, 0, 0, 1], port))), ..Default::default() }
}

#[test]
fn a_port_wins_over_everything_and_is_not_left_again() {
    let l = listener(vec![
        chain("any", ChainMatch::default()),
        chain(
            "tls",
            ChainMatch {
                destination_port: Some(80),
                transport_protocol: Some(TransportProtocol::Tls),
                ..Default::default()
            },
        ),
    ]);
    assert_eq!(picked(&l, &to(81)), Some("any"));
    // Port 80 has only a TLS chain: plaintext finds nothing, although a chain for any port exists.
    assert_eq!(picked(&l, &to(80)), None);
}

#[test]
fn the_longest_server_name_wins() {
    let names =
        |n: &[&str]| ChainMatch { server_names: n.iter().map(|s| s.to_string()).collect(), ..Default::default() };
    let l = listener(vec![
        chain("wide", names(&["*.test"])),
        chain("near", names(&["*.b.test"])),
        chain("exact", names(&["a.b.test"])),
    ]);
    let sni = |s: &str| ConnectionFacts { server_name: Some(s.into()), ..to(443) };
    assert_eq!(picked(&l, &sni("a.b.test")), Some("exact"));
    assert_eq!(picked(&l, &sni("x.b.test")), Some("near"));
    assert_eq!(picked(&l, &sni("b.test")), Some("wide"));
    assert_eq!(picked(&l, &sni("test")), None);
    assert_eq!(picked(&l, &to(443)), None);
}

#[test]
fn inspected_http_goes_to_its_chain_and_the_rest_to_the_default() {
    let http = ChainMatch {
        application_protocols: vec!["http/1.1".into(), "h2c".into()],
        transport_protocol: Some(TransportProtocol::RawBuffer),
        ..Default::default()
    };
    let mut l = listener(vec![chain("http", http)]);
    l.default_chain = Some(chain("tcp", ChainMatch::default()));
    assert_eq!(picked(&l, &ConnectionFacts { application_protocols: vec!["h2c".into()], ..to(80) }), Some("http"));
    assert_eq!(picked(&l, &to(80)), Some("tcp"));
}

#[test]
fn longer_prefixes_win() {
    let range = |a: &str, n| ChainMatch {
        destination_ranges: vec![Cidr::new(a.parse().unwrap(), n).unwrap()],
        ..Default::default()
    };
    let l = listener(vec![
        chain("8", range("10.0.0.0", 8)),
        chain("32", range("10.0.0.1", 32)),
        chain("0", range("0.0.0.0", 0)),
    ]);
    assert_eq!(picked(&l, &to(1)), Some("32"));
    let other =
        |ip: &str| ConnectionFacts { destination: Some(SocketAddr::new(ip.parse().unwrap(), 1)), ..Default::default() };
    assert_eq!(picked(&l, &other("10.2.0.1")), Some("8"));
    assert_eq!(picked(&l, &other("11.2.0.1")), Some("0"));
}
