//! The address of this machine, or of the pod whose network the proxy lives in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first IPv4 address of an interface that is not loopback, else the first such IPv6 address, else 127.0.0.1: what
/// a copied request says of where it comes from.
pub fn own_address() -> IpAddr {
    let all = addresses();
    let usable = |ip: &&IpAddr| !ip.is_loopback() && !link_local(ip);
    let first = all.iter().filter(usable).find(|ip| ip.is_ipv4()).or_else(|| all.iter().find(usable));
    first.copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The addresses of all interfaces, in the system's order.
fn addresses() -> Vec<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the pointer that the call writes on success.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: `at` is an entry of the list, which lives until it is freed below.
        let entry = unsafe { &*at };
        if !entry.ifa_addr.is_null() {
            // SAFETY: the address is there, and its family says which of the kernel's structs it is.
            let ip = unsafe {
                match i32::from((*entry.ifa_addr).sa_family) {
                    libc::AF_INET => {
                        let v4 = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                        Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
                    }
                    libc::AF_INET6 => {
                        let v6 = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                        Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
                    }
                    _ => None,
                }
            };
            found.extend(ip);
        }
        at = entry.ifa_next;
    }
    // SAFETY: `list` came from getifaddrs and is freed once.
    unsafe { libc::freeifaddrs(list) };
    found
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_always_one() {
        assert!(super::addresses().iter().any(std::net::IpAddr::is_loopback));
        assert!(!super::own_address().is_unspecified());
    }
}
