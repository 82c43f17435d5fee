//! Links, addresses and routes (rtnetlink): the bridge of the node, and the cable from it to each pod.

use super::failure::Failure;
use super::netlink::{Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, Netlink, Refusal, u32_at};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The loopback link's index in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;

const REQUEST: u16 = NLM_F_REQUEST | NLM_F_ACK;
const CREATE: u16 = REQUEST | NLM_F_CREATE | NLM_F_EXCL;

const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// The hardware address that belongs to a pod address, as Kubernetes' bridge plugins derive it. So a pod that takes
/// over the address of a deleted one is reached at once: the neighbours' tables are still right.
pub(super) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// The hardware address of a pod without IPv4 address.
pub(super) fn mac_of_number(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    [0x0a, 0x59, a, b, c, d]
}

fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn failed(step: String, refusal: Refusal) -> Failure {
    let unknown = matches!(refusal.error.raw_os_error(), Some(libc::EOPNOTSUPP));
    let mut why = refusal.words.unwrap_or_default();
    if unknown && step.contains("create") {
        why = "this kernel lacks the link type (modules bridge and veth)".to_owned();
    }
    Failure::kernel(step, &refusal.error).because(why)
}

/// A bridge, up. Its hardware address is fixed, so that it does not change with the first pods.
pub(super) fn create_bridge(netlink: &mut Netlink, name: &str, mac: Mac) -> Result<(), Failure> {
    let mut message = Message::new(NEWLINK, CREATE, &ifinfomsg(0, IFF_UP, IFF_UP));
    message.put_text(IFLA_IFNAME, name);
    message.put(IFLA_ADDRESS, &mac);
    message.plain_nest(IFLA_LINKINFO, |info| info.put_text(IFLA_INFO_KIND, "bridge"));
    netlink.send(&[message]).map_err(|refusal| failed(format!("create the bridge {name}"), refusal))
}

/// A cable: `name` here, a port of `bridge` and up; `peer` in the other namespace, down.
pub(super) fn create_veth(
    netlink: &mut Netlink,
    name: &str,
    bridge: u32,
    peer: &str,
    mac: Mac,
    namespace: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let mut message = Message::new(NEWLINK, CREATE, &ifinfomsg(0, IFF_UP, IFF_UP));
    message.put_text(IFLA_IFNAME, name);
    message.put(IFLA_MASTER, &bridge.to_ne_bytes());
    message.plain_nest(IFLA_LINKINFO, |info| {
        info.put_text(IFLA_INFO_KIND, "veth");
        info.plain_nest(IFLA_INFO_DATA, |data| {
            data.plain_nest(VETH_INFO_PEER, |end| {
                // IFF_UP here would be ENOTCONN: the peer cannot be up before the pair is complete.
                end.bytes(&ifinfomsg(0, 0, 0));
                end.put_text(IFLA_IFNAME, peer);
                end.put(IFLA_ADDRESS, &mac);
                end.put(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
            });
        });
    });
    netlink.send(&[message]).map_err(|refusal| failed(format!("create the veth pair {name}"), refusal))
}

/// Removes a link and its peer.
pub(super) fn delete(netlink: &mut Netlink, name: &str) -> Result<(), Failure> {
    let mut message = Message::new(DELLINK, REQUEST, &ifinfomsg(0, 0, 0));
    message.put_text(IFLA_IFNAME, name);
    netlink.send(&[message]).map_err(|refusal| failed(format!("delete the link {name}"), refusal))
}

/// The index of a link.
pub(super) fn index_of(netlink: &mut Netlink, name: &str) -> Result<u32, Failure> {
    let mut message = Message::new(GETLINK, REQUEST, &ifinfomsg(0, 0, 0));
    message.put_text(IFLA_IFNAME, name);
    let mut found = None;
    let asked = netlink.ask(message, |kind, payload| {
        if kind == NEWLINK {
            found = u32_at(payload, 4);
        }
    });
    asked.map_err(|refusal| failed(format!("find the link {name}"), refusal))?;
    found.ok_or_else(|| Failure::refused(format!("find the link {name}"), "the kernel did not answer"))
}

/// Brings a link up.
pub(super) fn up(netlink: &mut Netlink, index: u32) -> Result<(), Failure> {
    let message = Message::new(NEWLINK, REQUEST, &ifinfomsg(index, IFF_UP, IFF_UP));
    netlink.send(&[message]).map_err(|refusal| failed(format!("bring up link {index}"), refusal))
}

/// Adds an address, usable at once (no duplicate address detection).
pub(super) fn add_address(netlink: &mut Netlink, index: u32, address: IpAddr, prefix: u8) -> Result<(), Failure> {
    let (family, flags) = match address {
        IpAddr::V4(_) => (libc::AF_INET as u8, 0),
        IpAddr::V6(_) => (libc::AF_INET6 as u8, IFA_F_NODAD),
    };
    let mut fixed = [family, prefix, flags, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(NEWADDR, CREATE, &fixed);
    put_address(&mut message, IFA_LOCAL, address);
    put_address(&mut message, IFA_ADDRESS, address);
    netlink.send(&[message]).map_err(|refusal| failed(format!("add the address {address}/{prefix}"), refusal))
}

/// Adds the default route.
pub(super) fn add_default_route(netlink: &mut Netlink, index: u32, gateway: IpAddr) -> Result<(), Failure> {
    let family = if gateway.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fixed = [family as u8, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    let mut message = Message::new(NEWROUTE, CREATE, &fixed);
    put_address(&mut message, RTA_GATEWAY, gateway);
    message.put(RTA_OIF, &index.to_ne_bytes());
    netlink.send(&[message]).map_err(|refusal| failed(format!("add the default route via {gateway}"), refusal))
}

fn put_address(message: &mut Message, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => message.put(kind, &address.octets()),
        IpAddr::V6(address) => message.put(kind, &address.octets()),
    }
}
