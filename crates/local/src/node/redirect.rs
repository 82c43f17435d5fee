//! Redirect rules (nf_tables over netlink): which connections of a pod go to its sidecar, and which packets that
//! arrive at the node go to the supervisor.
//!
//! The rules are plain data, decided in `pod_rules` and `node_rules`; the rest writes them down for the kernel. A
//! table is added in one batch, all or nothing. The pod's rules follow Istio's (tools/istio-iptables), with the mark in
//! place of user ids: without privilege there is only one real user id.

use super::failure::Failure;
use super::link::LOOPBACK;
use super::netlink::{Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, Netlink};
use super::{INBOUND_PORT, NodeConfig, OUTBOUND_PORT, SIDECAR_MARK};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Sidecars connect to their own app from this address, which is how the rules tell that connection from others.
pub(super) const PASS_THROUGH_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6.
pub(super) const PASS_THROUGH_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
/// HBONE: never redirected.
const TUNNEL_PORT: u16 = 15008;
/// The sidecar's own ports, reached directly: inbound listener, tunnel, merged metrics, health, Envoy's metrics.
const SIDECAR_PORTS: [u16; 5] = [INBOUND_PORT, TUNNEL_PORT, 15020, 15021, 15090];
const DNS_PORT: u16 = 53;

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// Where in a packet's way a rule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    /// Packets that arrive.
    Prerouting,
    /// Packets made here.
    Output,
}

/// A condition; all of a rule's must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    Mark(u32),
    LeavesBy(u32),
    Protocol(u8),
    Port(u16),
    PortIsNot(u16),
    Source(IpAddr),
    Destination(Network),
    /// Of the same IP version, and not in it.
    DestinationIsNot(Network),
}

/// Addresses with a common prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) address: IpAddr,
    /// In bits.
    pub(super) prefix: u8,
}

/// What happens to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Redirect(u16),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    chain: Chain,
    matches: Vec<Match>,
    verdict: Verdict,
}

fn rule(chain: Chain, matches: &[Match], verdict: Verdict) -> Rule {
    Rule { chain, matches: matches.to_vec(), verdict }
}

fn one(address: impl Into<IpAddr>) -> Network {
    let address = address.into();
    Network { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
}

fn loopback() -> [Network; 2] {
    [Network { address: Ipv4Addr::LOCALHOST.into(), prefix: 8 }, one(Ipv6Addr::LOCALHOST)]
}

/// The rules of a pod with sidecar. DNS over TCP to the node's resolver passes; DNS over UDP is not touched (the
/// sidecar has no DNS proxy, as with Istio's `ISTIO_META_DNS_CAPTURE` off).
pub(super) fn pod_rules(config: &NodeConfig) -> Vec<Rule> {
    use Chain::{Output, Prerouting};
    use Verdict::{Accept, Redirect};
    let mut rules = vec![
        rule(Output, &[Match::Source(PASS_THROUGH_V4.into())], Accept),
        rule(Output, &[Match::Source(PASS_THROUGH_V6.into())], Accept),
    ];
    // The sidecar calling its own pod by a service: through its inbound side, like any other caller.
    for loopback in loopback() {
        let to_itself = [
            Match::Mark(SIDECAR_MARK),
            Match::LeavesBy(LOOPBACK),
            Match::Protocol(TCP),
            Match::DestinationIsNot(loopback),
            Match::PortIsNot(TUNNEL_PORT),
        ];
        rules.push(rule(Output, &to_itself, Redirect(INBOUND_PORT)));
    }
    rules.push(rule(Output, &[Match::Mark(SIDECAR_MARK)], Accept));
    // An app calling its own pod's address does not pass the sidecar.
    rules.push(rule(Output, &[Match::LeavesBy(LOOPBACK), Match::Protocol(TCP)], Accept));
    for resolver in [one(config.ipv4), one(config.ipv6)] {
        let dns = [Match::Destination(resolver), Match::Protocol(TCP), Match::Port(DNS_PORT)];
        rules.push(rule(Output, &dns, Accept));
    }
    for loopback in loopback() {
        rules.push(rule(Output, &[Match::Destination(loopback)], Accept));
    }
    rules.push(rule(Output, &[Match::Protocol(TCP)], Redirect(OUTBOUND_PORT)));
    for port in SIDECAR_PORTS {
        rules.push(rule(Prerouting, &[Match::Protocol(TCP), Match::Port(port)], Accept));
    }
    rules.push(rule(Prerouting, &[Match::Protocol(TCP)], Redirect(INBOUND_PORT)));
    rules
}

/// The rules of the node: what pods send to addresses that no pod has.
pub(super) fn node_rules(config: &NodeConfig) -> Vec<Rule> {
    use Chain::Prerouting;
    use Verdict::{Accept, Redirect};
    let pods = [
        Network { address: config.ipv4.into(), prefix: config.ipv4_prefix },
        Network { address: config.ipv6.into(), prefix: config.ipv6_prefix },
        // Link-local.
        Network { address: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), prefix: 10 },
    ];
    let mut rules: Vec<_> = pods.iter().map(|pods| rule(Prerouting, &[Match::Destination(*pods)], Accept)).collect();
    if let Some(vip) = config.dns_vip {
        for protocol in [UDP, TCP] {
            let dns = [Match::Destination(one(vip)), Match::Protocol(protocol), Match::Port(DNS_PORT)];
            rules.push(rule(Prerouting, &dns, Redirect(DNS_PORT)));
        }
    }
    rules.push(rule(Prerouting, &[Match::Protocol(TCP)], Redirect(config.relay_port)));
    rules
}

const NETFILTER_SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// Priority of destination NAT (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -100;
const TABLE: &str = "lateen";

impl Chain {
    fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "in",
            Self::Output => "out",
        }
    }

    fn hook(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
        }
    }
}

/// Adds the table with its rules, atomically, in the network of `netlink`.
pub(super) fn install(netlink: &mut Netlink, rules: &[Rule]) -> Result<(), Failure> {
    let messages = batch(rules);
    netlink.send(&messages).map_err(|refusal| {
        let which = refusal.index.checked_sub(4).map_or(String::new(), |index| format!(" (rule {})", index + 1));
        let why = match refusal.error.raw_os_error() {
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EINVAL) => {
                "this kernel lacks nf_tables NAT for inet (Linux 5.2; modules nf_tables, nft_chain_nat, nft_redir)"
                    .to_owned()
            }
            _ => refusal.words.unwrap_or_default(),
        };
        Failure::kernel(format!("add the redirect rules{which}"), &refusal.error).because(why)
    })
}

fn batch(rules: &[Rule]) -> Vec<Message> {
    let mark = |kind| Message::new(kind, NLM_F_REQUEST, &nfgenmsg(0, NETFILTER_SUBSYSTEM));
    let mut messages = vec![mark(BATCH_BEGIN), table(), chain(Chain::Prerouting), chain(Chain::Output)];
    messages.extend(rules.iter().map(Rule::message));
    messages.push(mark(BATCH_END));
    messages
}

fn nfgenmsg(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn netfilter(kind: u16, flags: u16) -> Message {
    let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    Message::new(NETFILTER_SUBSYSTEM << 8 | kind, flags, &nfgenmsg(NFPROTO_INET, 0))
}

fn table() -> Message {
    let mut message = netfilter(NEWTABLE, NLM_F_CREATE);
    message.put_text(1, TABLE);
    message.put(2, &0u32.to_be_bytes());
    message
}

fn chain(chain: Chain) -> Message {
    let mut message = netfilter(NEWCHAIN, NLM_F_CREATE);
    message.put_text(1, TABLE);
    message.put_text(3, chain.name());
    message.nest(4, |hook| {
        hook.put(1, &chain.hook().to_be_bytes());
        hook.put(2, &PRIORITY.to_be_bytes());
    });
    // Policy: accept.
    message.put(5, &1u32.to_be_bytes());
    message.put_text(7, "nat");
    message
}

impl Rule {
    fn message(&self) -> Message {
        let mut message = netfilter(NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        message.put_text(1, TABLE);
        message.put_text(2, self.chain.name());
        message.nest(4, |list| {
            let mut expressions = Expressions(list);
            for condition in &self.matches {
                expressions.condition(*condition);
            }
            expressions.verdict(self.verdict);
        });
        message
    }
}

// Registers, keys and operators of linux/netfilter/nf_tables.h.
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const META_MARK: u32 = 3;
const META_OIF: u32 = 5;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// Writes the expressions of one rule. Marks and link indexes are compared in host order, ports and addresses in
/// network order.
struct Expressions<'a>(&'a mut Message);

impl Expressions<'_> {
    fn condition(&mut self, condition: Match) {
        match condition {
            Match::Mark(mark) => self.meta(META_MARK, EQUAL, &mark.to_ne_bytes()),
            Match::LeavesBy(index) => self.meta(META_OIF, EQUAL, &index.to_ne_bytes()),
            Match::Protocol(protocol) => self.meta(META_L4PROTO, EQUAL, &[protocol]),
            Match::Port(port) => self.port(EQUAL, port),
            Match::PortIsNot(port) => self.port(NOT_EQUAL, port),
            Match::Source(address) => self.address(true, EQUAL, one(address)),
            Match::Destination(network) => self.address(false, EQUAL, network),
            Match::DestinationIsNot(network) => self.address(false, NOT_EQUAL, network),
        }
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Message)) {
        self.0.nest(1, |element| {
            element.put_text(1, name);
            element.nest(2, fill);
        });
    }

    fn meta(&mut self, key: u32, operator: u32, value: &[u8]) {
        self.expression("meta", |data| {
            data.put(1, &REGISTER.to_be_bytes());
            data.put(2, &key.to_be_bytes());
        });
        self.compare(operator, value);
    }

    fn payload(&mut self, header: u32, offset: u32, length: u32) {
        self.expression("payload", |data| {
            for (kind, value) in [(1, REGISTER), (2, header), (3, offset), (4, length)] {
                data.put(kind, &value.to_be_bytes());
            }
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |data| {
            data.put(1, &REGISTER.to_be_bytes());
            data.put(2, &operator.to_be_bytes());
            data.nest(3, |data| data.put(1, value));
        });
    }

    fn port(&mut self, operator: u32, port: u16) {
        self.payload(TRANSPORT_HEADER, 2, 2);
        self.compare(operator, &port.to_be_bytes());
    }

    fn address(&mut self, source: bool, operator: u32, network: Network) {
        match network.address {
            IpAddr::V4(address) => {
                let offset = if source { 12 } else { 16 };
                self.network(NFPROTO_IPV4, offset, operator, &address.octets(), network.prefix);
            }
            IpAddr::V6(address) => {
                let offset = if source { 8 } else { 24 };
                self.network(NFPROTO_IPV6, offset, operator, &address.octets(), network.prefix);
            }
        }
    }

    fn network(&mut self, version: u8, offset: u32, operator: u32, address: &[u8], prefix: u8) {
        self.meta(META_NFPROTO, EQUAL, &[version]);
        self.payload(NETWORK_HEADER, offset, address.len() as u32);
        let mask = mask(address.len(), prefix);
        let masked: Vec<u8> = address.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        if mask.iter().any(|byte| *byte != 0xff) {
            self.expression("bitwise", |data| {
                data.put(1, &REGISTER.to_be_bytes());
                data.put(2, &REGISTER.to_be_bytes());
                data.put(3, &(mask.len() as u32).to_be_bytes());
                data.nest(4, |data| data.put(1, &mask));
                data.nest(5, |data| data.put(1, &vec![0; mask.len()]));
            });
        }
        self.compare(operator, &masked);
    }

    fn verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Accept => self.expression("immediate", |data| {
                data.put(1, &VERDICT_REGISTER.to_be_bytes());
                // NF_ACCEPT.
                data.nest(2, |data| data.nest(2, |verdict| verdict.put(1, &1u32.to_be_bytes())));
            }),
            Verdict::Redirect(port) => {
                self.expression("immediate", |data| {
                    data.put(1, &REGISTER.to_be_bytes());
                    data.nest(2, |data| data.put(1, &port.to_be_bytes()));
                });
                self.expression("redir", |data| data.put(1, &REGISTER.to_be_bytes()));
            }
        }
    }
}

/// The first `prefix` bits of `length` bytes.
fn mask(length: usize, prefix: u8) -> Vec<u8> {
    let bits = usize::from(prefix);
    (0..length).map(|byte| (0xff00u16 >> bits.saturating_sub(byte * 8).min(8)) as u8).collect()
}

#[cfg(test)]
mod tests;
