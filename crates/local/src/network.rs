//! The cluster's address ranges (kubeadm's and Istio's usual ones), and allocation from them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The node's address: every pod's gateway, its DNS server and the control plane's.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The node's name.
pub const NODE_NAME: &str = "lateen";
/// Pods: 10.244.0.0/16.
pub const PODS: Range = Range { first: Ipv4Addr::new(10, 244, 0, 0), prefix: 16 };
/// Services' cluster IPs: 10.96.0.0/12.
pub const SERVICES: Range = Range { first: Ipv4Addr::new(10, 96, 0, 0), prefix: 12 };
/// The cluster IP at which DNS answers, never given to a Service that does not ask for it.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Addresses of ServiceEntries without one: 240.240.0.0/16 (Istio's automatic allocation).
pub const SERVICE_ENTRIES: Range = Range { first: Ipv4Addr::new(240, 240, 0, 0), prefix: 16 };
/// Node ports, inclusive (Kubernetes' default range).
pub const NODE_PORTS: (u16, u16) = (30000, 32767);

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: Ipv4Addr,
    prefix: u32,
}

impl Range {
    /// Whether the address is in the range.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let host_bits = 32 - self.prefix;
        u32::from(address) >> host_bits == u32::from(self.first) >> host_bits
    }

    /// Takes the first address after `last`, going round once, that is not in `used`. The network's
    /// first two addresses (its own and a gateway's) and its broadcast address are never taken.
    pub fn allocate(self, used: &BTreeSet<Ipv4Addr>, last: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let size = 1u32 << (32 - self.prefix);
        let (low, high) = (2, size - 2);
        let base = u32::from(self.first);
        let start = last.filter(|last| self.contains(*last)).map_or(low, |last| u32::from(last) - base + 1);
        let round = (start.clamp(low, high)..=high).chain(low..start.clamp(low, high));
        round.map(|offset| Ipv4Addr::from(base + offset)).find(|address| !used.contains(address))
    }
}

/// The IPv6 address of the pod that has this IPv4 address: the same number in fd00:10:244::/64.
pub fn pod_v6(v4: Ipv4Addr) -> Ipv6Addr {
    let [_, _, c, d] = v4.octets();
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, u16::from_be_bytes([c, d]))
}

/// Whether the address is in the pod network.
pub fn is_pod(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => PODS.contains(address),
        IpAddr::V6(address) => address.segments().starts_with(&[0xfd00, 0x10, 0x244, 0]),
    }
}

/// Whether nothing but the cluster can give the address a meaning.
pub fn is_virtual(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => SERVICES.contains(address) || SERVICE_ENTRIES.contains(address),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn allocation_goes_round_and_ends_when_all_is_used() {
        let small = Range { first: Ipv4Addr::new(10, 0, 0, 0), prefix: 29 };
        let mut used = BTreeSet::new();
        let mut last = None;
        let mut order = Vec::new();
        while let Some(address) = small.allocate(&used, last) {
            order.push(address.octets()[3]);
            used.insert(address);
            last = Some(address);
        }
        assert_eq!(order, [2, 3, 4, 5, 6]);
        used.remove(&Ipv4Addr::new(10, 0, 0, 3));
        assert_eq!(small.allocate(&used, last), Some(Ipv4Addr::new(10, 0, 0, 3)));
    }

    #[test]
    fn ranges_hold_what_they_should() {
        assert!(is_pod("10.244.3.4".parse().unwrap()) && is_pod("fd00:10:244::5".parse().unwrap()));
        assert!(is_virtual("10.111.0.1".parse().unwrap()) && !is_virtual("10.112.0.1".parse().unwrap()));
        assert!(is_virtual("240.240.1.1".parse().unwrap()) && !is_virtual("240.241.1.1".parse().unwrap()));
        assert_eq!(pod_v6(Ipv4Addr::new(10, 244, 1, 2)), "fd00:10:244::102".parse::<Ipv6Addr>().unwrap());
    }

    proptest! {
        #[test]
        fn an_allocated_address_is_free_and_in_range(used in proptest::collection::btree_set(0u32..2000, 0..200), last in 0u32..2000) {
            let at = |offset| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + offset);
            let used: BTreeSet<Ipv4Addr> = used.into_iter().map(at).collect();
            let given = SERVICES.allocate(&used, Some(at(last))).unwrap();
            prop_assert!(SERVICES.contains(given) && !used.contains(&given));
        }
    }
}
