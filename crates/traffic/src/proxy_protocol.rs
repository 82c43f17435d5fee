//! The PROXY protocol (haproxy.org `proxy-protocol.txt`, versions 1 and 2): a header before a connection's own bytes that
//! tells who the client was and where it wanted to go.
//!
//! Reads as Envoy's listener filter does and writes as its `upstream_proxy_protocol` socket does. Knows no socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Which form of the header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Told {
    /// The client.
    pub source: SocketAddr,
    /// Where it wanted to go.
    pub destination: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Not decided yet.
    NeedMore,
    /// No header.
    Absent,
    /// A header that breaks the rules.
    Bad,
    /// A header of so many bytes; nothing is told of connections a proxy makes for itself (health checks).
    Whole(usize, Option<Told>),
}

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Looks at the first bytes of a connection; called again with more of them until it decides.
pub fn read(bytes: &[u8]) -> Header {
    let begins = |whole: &[u8]| bytes.starts_with(&whole[..whole.len().min(bytes.len())]);
    if begins(SIGNATURE) {
        return if bytes.len() < SIGNATURE.len() { Header::NeedMore } else { read_v2(bytes) };
    }
    if begins(b"PROXY ") {
        return if bytes.len() < b"PROXY ".len() { Header::NeedMore } else { read_v1(bytes) };
    }
    Header::Absent
}

fn read_v1(bytes: &[u8]) -> Header {
    let limit = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = limit.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= LONGEST_LINE { Header::Bad } else { Header::NeedMore };
    };
    let Ok(line) = std::str::from_utf8(&bytes[..end]) else { return Header::Bad };
    let parts: Vec<&str> = line.split(' ').collect();
    match parts.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Header::Whole(end + 2, None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let address = |ip: &str, port: &str| -> Option<SocketAddr> {
                let ip = match *family {
                    "TCP4" => IpAddr::V4(Ipv4Addr::from_str(ip).ok()?),
                    _ => IpAddr::V6(Ipv6Addr::from_str(ip).ok()?),
                };
                Some(SocketAddr::new(ip, port.parse().ok()?))
            };
            match (address(source, from), address(destination, to)) {
                (Some(source), Some(destination)) => Header::Whole(end + 2, Some(Told { source, destination })),
                _ => Header::Bad,
            }
        }
        _ => Header::Bad,
    }
}

fn read_v2(bytes: &[u8]) -> Header {
    let Some(&[command, family, high, low]) = bytes.get(12..16) else { return Header::NeedMore };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let told = match (command, family) {
        (0x20, _) => None,
        // Datagrams count as streams, as with Envoy.
        (0x21, 0x11 | 0x12) if length >= 12 => Some(12),
        (0x21, 0x21 | 0x22) if length >= 36 => Some(36),
        _ => return Header::Bad,
    };
    let Some(body) = bytes.get(16..16 + length) else { return Header::NeedMore };
    let port = |at: usize| body.get(at..at + 2).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    let told = match told {
        Some(12) => {
            let ip = |at: usize| <[u8; 4]>::try_from(&body[at..at + 4]).map(|ip| IpAddr::V4(ip.into()));
            ip(0).ok().zip(ip(4).ok()).map(|(source, destination)| (source, destination, port(8), port(10)))
        }
        Some(_) => {
            let ip = |at: usize| <[u8; 16]>::try_from(&body[at..at + 16]).map(|ip| IpAddr::V6(ip.into()));
            ip(0).ok().zip(ip(16).ok()).map(|(source, destination)| (source, destination, port(32), port(34)))
        }
        None => None,
    };
    let told = told.map(|(source, destination, from, to)| Told {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    });
    Header::Whole(16 + length, told)
}

/// The header that tells of a connection. Both addresses are written in one family: IPv6 if either is.
pub fn write(version: Version, told: Told) -> Vec<u8> {
    let (source, destination) = (told.source.ip().to_canonical(), told.destination.ip().to_canonical());
    let (from, to) = (told.source.port(), told.destination.port());
    match (version, source, destination) {
        (Version::V1, IpAddr::V4(source), IpAddr::V4(destination)) => {
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n").into_bytes()
        }
        (Version::V1, ..) => format!("PROXY TCP6 {} {} {from} {to}\r\n", v6(source), v6(destination)).into_bytes(),
        (Version::V2, IpAddr::V4(source), IpAddr::V4(destination)) => {
            v2(0x11, &[&source.octets(), &destination.octets()], from, to)
        }
        (Version::V2, ..) => v2(0x21, &[&v6(source).octets(), &v6(destination).octets()], from, to),
    }
}

/// The header of a connection that nobody asked for: version 2 says no more, version 1 tells of the connection itself.
pub fn write_local(version: Version, itself: Told) -> Vec<u8> {
    match version {
        Version::V1 => write(version, itself),
        Version::V2 => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
    }
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn v2(family: u8, addresses: &[&[u8]; 2], from: u16, to: u16) -> Vec<u8> {
    let length = addresses[0].len() + addresses[1].len() + 4;
    let mut header = SIGNATURE.to_vec();
    // Version 2, PROXY; the length is at most 36.
    header.extend([0x21, family, 0, u8::try_from(length).unwrap_or(u8::MAX)]);
    header.extend(addresses.iter().flat_map(|address| address.iter()));
    header.extend(from.to_be_bytes());
    header.extend(to.to_be_bytes());
    header
}

#[cfg(test)]
mod tests;
