use super::*;

#[test]
fn masks_cover_the_prefix_bit_by_bit() {
    assert_eq!(mask(4, 0), [0, 0, 0, 0]);
    assert_eq!(mask(4, 8), [255, 0, 0, 0]);
    assert_eq!(mask(4, 12), [255, 240, 0, 0]);
    assert_eq!(mask(4, 32), [255, 255, 255, 255]);
    assert_eq!(mask(16, 10)[..3], [255, 192, 0]);
}

/// A packet as the rules see it.
struct Packet {
    mark: u32,
    leaves_by: u32,
    protocol: u8,
    source: IpAddr,
    to: IpAddr,
    port: u16,
}

fn holds(condition: Match, packet: &Packet) -> bool {
    let within = |network: Network| -> Option<bool> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let (to, network_octets) = (octets(packet.to), octets(network.address));
        let mask = mask(to.len(), network.prefix);
        (to.len() == network_octets.len())
            .then(|| (0..to.len()).all(|i| to[i] & mask[i] == network_octets[i] & mask[i]))
    };
    match condition {
        Match::Mark(mark) => packet.mark == mark,
        Match::LeavesBy(index) => packet.leaves_by == index,
        Match::Protocol(protocol) => packet.protocol == protocol,
        Match::Port(port) => packet.port == port,
        Match::PortIsNot(port) => packet.port != port,
        Match::Source(address) => packet.source == address,
        Match::Destination(network) => within(network) == Some(true),
        Match::DestinationIsNot(network) => within(network) == Some(false),
    }
}

fn decide(rules: &[Rule], chain: Chain, packet: &Packet) -> Verdict {
    let hit = rules.iter().find(|rule| rule.chain == chain && rule.matches.iter().all(|it| holds(*it, packet)));
    hit.map_or(Verdict::Accept, |rule| rule.verdict)
}

fn tcp(to: &str, port: u16) -> Packet {
    let to: IpAddr = to.parse().unwrap();
    let source = if to.is_ipv4() { "10.244.0.7" } else { "fd00:10:244::7" }.parse().unwrap();
    Packet { mark: 0, leaves_by: 2, protocol: TCP, source, to, port }
}

#[test]
fn what_leaves_a_pod() {
    let rules = pod_rules(&NodeConfig::default());
    let out = |packet: Packet| decide(&rules, Chain::Output, &packet);
    let marked = |packet: Packet| Packet { mark: SIDECAR_MARK, ..packet };
    let itself = |packet: Packet| Packet { leaves_by: LOOPBACK, ..packet };

    for to in ["10.96.3.4", "10.244.0.9", "1.1.1.1", "fd00:10:244::9", "2606:4700::1111"] {
        assert_eq!(out(tcp(to, 80)), Verdict::Redirect(OUTBOUND_PORT), "{to}");
        assert_eq!(out(marked(tcp(to, 80))), Verdict::Accept, "{to} marked");
        assert_eq!(out(Packet { protocol: UDP, ..tcp(to, 80) }), Verdict::Accept, "{to} udp");
    }
    for to in ["10.244.0.7", "fd00:10:244::7"] {
        assert_eq!(out(itself(tcp(to, 80))), Verdict::Accept, "the app to its own pod");
        assert_eq!(out(marked(itself(tcp(to, 80)))), Verdict::Redirect(INBOUND_PORT), "the sidecar to its own pod");
        assert_eq!(out(marked(itself(tcp(to, TUNNEL_PORT)))), Verdict::Accept, "the tunnel is never redirected");
    }
    let passed = Packet { source: PASS_THROUGH_V4.into(), ..marked(itself(tcp("10.244.0.7", 80))) };
    assert_eq!(out(passed), Verdict::Accept, "the sidecar to its app");
    let passed = Packet { source: PASS_THROUGH_V6.into(), ..marked(itself(tcp("fd00:10:244::7", 80))) };
    assert_eq!(out(passed), Verdict::Accept, "the sidecar to its app");
    for to in ["127.0.0.1", "::1"] {
        assert_eq!(out(itself(tcp(to, 80))), Verdict::Accept, "{to}");
        assert_eq!(out(marked(itself(tcp(to, 80)))), Verdict::Accept, "{to}");
    }
    for resolver in ["10.244.0.1", "fd00:10:244::1"] {
        assert_eq!(out(tcp(resolver, 53)), Verdict::Accept, "DNS over TCP to {resolver}");
        assert_eq!(out(tcp(resolver, 80)), Verdict::Redirect(OUTBOUND_PORT));
    }
    assert_eq!(out(tcp("8.8.8.8", 53)), Verdict::Redirect(OUTBOUND_PORT));
}

#[test]
fn what_arrives_at_a_pod() {
    let rules = pod_rules(&NodeConfig::default());
    for to in ["10.244.0.7", "fd00:10:244::7"] {
        let arrives = |port| decide(&rules, Chain::Prerouting, &tcp(to, port));
        assert_eq!(arrives(80), Verdict::Redirect(INBOUND_PORT));
        for port in SIDECAR_PORTS {
            assert_eq!(arrives(port), Verdict::Accept);
        }
        assert_eq!(decide(&rules, Chain::Prerouting, &Packet { protocol: UDP, ..tcp(to, 53) }), Verdict::Accept);
    }
}

#[test]
fn what_arrives_at_the_node() {
    let config = NodeConfig::default();
    let rules = node_rules(&config);
    let arrives = |packet: Packet| decide(&rules, Chain::Prerouting, &packet);
    for to in ["10.96.3.4", "240.240.0.9", "1.1.1.1", "2606:4700::1111"] {
        assert_eq!(arrives(tcp(to, 80)), Verdict::Redirect(config.relay_port), "{to}");
        assert_eq!(arrives(Packet { protocol: UDP, ..tcp(to, 80) }), Verdict::Accept, "{to} udp");
    }
    for to in ["10.244.0.1", "10.244.9.9", "fd00:10:244::1", "fe80::1"] {
        assert_eq!(arrives(tcp(to, 15010)), Verdict::Accept, "{to}");
    }
    assert_eq!(arrives(tcp("10.96.0.10", 53)), Verdict::Redirect(53));
    assert_eq!(arrives(Packet { protocol: UDP, ..tcp("10.96.0.10", 53) }), Verdict::Redirect(53));
    assert_eq!(arrives(tcp("10.96.0.10", 80)), Verdict::Redirect(config.relay_port));
}

#[test]
fn the_batch_is_one_table_two_chains_and_the_rules_between_its_marks() {
    let rules = pod_rules(&NodeConfig::default());
    assert_eq!(batch(&rules).len(), rules.len() + 5);
}
