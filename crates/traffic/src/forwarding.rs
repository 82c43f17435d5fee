//! What a request's headers say about who sent it, and what is passed on: `x-forwarded-*`, `x-request-id`,
//! `x-envoy-*`, `via`, and the hop-by-hop fields (RFC 9110 section 7.6.1).
//!
//! Follows Envoy's HTTP connection manager (its documentation page "HTTP header manipulation").

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Dice;
use crate::hcm::{ClientCertDetails, Edge, ForwardClientCert, Hcm};
use crate::headers::Headers;
use crate::message::RequestHead;
use crate::retry::ASKING;
use crate::tls::{Certificate, TlsConnection};

/// What was found out about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address, as far as it is trusted.
    pub address: SocketAddr,
    /// It counts as internal.
    pub internal: bool,
}

/// Headers that steer retries and timeouts: only internal clients may send them.
const STEERING: [&str; 15] = [
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-max-retries",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-internal",
];

/// Further headers that an edge proxy takes from nobody outside.
const EDGE_ONLY: [&str; 5] = [
    "x-envoy-downstream-service-node",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
];

/// Cleans and completes the headers of a request, before it is routed. `peer` is the client's end of the connection,
/// `tls` what its handshake found out, if it is one of TLS. `own`: the proxy's address, by which others know it.
pub fn prepare_request(
    request: &mut RequestHead,
    hcm: &Hcm,
    peer: SocketAddr,
    own: IpAddr,
    tls: Option<&TlsConnection>,
    dice: &mut dyn Dice,
) -> Client {
    let upgrade = !request.upgrade.is_empty();
    remove_hop_by_hop(&mut request.headers, true, upgrade);
    let edge = &hcm.edge;
    let had_xff = request.headers.contains("x-forwarded-for");
    let scheme = if tls.is_some() { "https" } else { "http" };
    let address;
    if edge.use_remote_address {
        address = match edge.xff_num_trusted_hops {
            0 => peer,
            hops => forwarded_address(&request.headers, hops - 1).map_or(peer, |ip| SocketAddr::new(ip, 0)),
        };
        if edge.xff_num_trusted_hops == 0 && request.headers.contains("x-forwarded-proto") {
            request.headers.set("x-forwarded-proto", scheme);
        }
        if !edge.skip_xff_append {
            append_address(&mut request.headers, peer, own);
        }
    } else {
        address =
            forwarded_address(&request.headers, edge.xff_num_trusted_hops).map_or(peer, |ip| SocketAddr::new(ip, 0));
    }
    if !request.headers.contains("x-forwarded-proto") {
        request.headers.append("x-forwarded-proto", scheme);
    }
    let internal_peer = edge.internal_ranges.iter().any(|r| r.contains(address.ip()));
    let internal = internal_peer && had_xff != edge.use_remote_address;

    if internal {
        request.headers.remove("x-envoy-internal");
        request.headers.append("x-envoy-internal", "true");
    } else {
        let stripped = |name: &[u8]| is_of(&STEERING, name) || name == b"x-envoy-original-url";
        request.headers.retain(|name| !name.starts_with(b"x-envoy-") || !stripped(name));
        if edge.use_remote_address {
            request.headers.retain(|name| !name.starts_with(b"x-envoy-") || !is_of(&EDGE_ONLY, name));
            request.headers.set("x-envoy-external-address", address.ip().to_canonical().to_string());
        }
    }
    if let Some(via) = &hcm.via {
        add_to_list(&mut request.headers, "via", via, ", ");
    }
    // A request that does not name its scheme has that of the client's side, also for redirects and for the upstream.
    if request.scheme.is_empty() {
        request.scheme.push_str(match request.headers.get("x-forwarded-proto") {
            Some(b"https") => "https",
            Some(b"http") => "http",
            _ => scheme,
        });
    }
    request_id(&mut request.headers, hcm, internal, dice);
    client_certificate(&mut request.headers, edge, tls);
    Client { address, internal }
}

/// Whether the request comes from an internal client, as [`prepare_request`] marked it.
pub fn is_internal(headers: &Headers) -> bool {
    headers.get("x-envoy-internal") == Some(b"true")
}

/// Removes what an internal client asked of us, and is not for the next hop; but not what it asked for retries with, which
/// counts together with the route's edits.
pub fn remove_steering(headers: &mut Headers) {
    headers.retain(|name| {
        !name.starts_with(b"x-envoy-")
            || !is_of(&STEERING, name)
            || is_of(&ASKING, name)
            || matches!(
                name,
                b"x-envoy-internal" | b"x-envoy-expected-rq-timeout-ms" | b"x-envoy-force-trace" | b"x-envoy-ip-tags"
            )
    });
}

/// Whether a field's name is one of these.
pub(crate) fn is_of(names: &[&str], name: &[u8]) -> bool {
    names.iter().any(|known| known.as_bytes() == name)
}

fn client_certificate(headers: &mut Headers, edge: &Edge, tls: Option<&TlsConnection>) {
    const NAME: &str = "x-forwarded-client-cert";
    let presented = tls.and_then(|tls| Some((tls, tls.peer.as_deref()?)));
    match (edge.client_cert, presented) {
        (ForwardClientCert::AlwaysForwardOnly, _) | (ForwardClientCert::ForwardOnly, Some(_)) => {}
        (ForwardClientCert::Sanitize, _) | (_, None) => {
            headers.remove(NAME);
        }
        (ForwardClientCert::AppendForward, Some((tls, peer))) => {
            add_to_list(headers, NAME, &told_of(tls, peer, edge.client_cert_details), ",");
        }
        (ForwardClientCert::SanitizeSet, Some((tls, peer))) => {
            headers.set(NAME, told_of(tls, peer, edge.client_cert_details));
        }
    }
}

/// What XFCC tells of a client's certificate, in Envoy's order.
fn told_of(tls: &TlsConnection, peer: &Certificate, details: ClientCertDetails) -> String {
    let mut told = Vec::new();
    told.extend(tls.local.iter().flat_map(|own| &own.uri_names).map(|uri| format!("By={uri}")));
    told.push(format!("Hash={}", peer.fingerprint));
    if details.cert {
        told.push(format!("Cert=\"{}\"", peer.url_encoded(1)));
    }
    if details.chain {
        told.push(format!("Chain=\"{}\"", peer.url_encoded(usize::MAX)));
    }
    if details.subject {
        told.push(format!("Subject=\"{}\"", peer.subject.replace('"', "\\\"")));
    }
    // No good name has a line's end in it, and no field does.
    let names = |names: &[String], kind: &str| {
        let good = names.iter().filter(|name| !name.contains(|c: char| c.is_control()));
        good.map(|name| format!("{kind}={name}")).collect::<Vec<_>>()
    };
    if details.uri {
        let uris = names(&peer.uri_names, "URI");
        // Who has no such name is told to have none.
        told.extend(if uris.is_empty() { vec!["URI=".to_owned()] } else { uris });
    }
    if details.dns {
        told.extend(names(&peer.dns_names, "DNS"));
    }
    told.join(";")
}

fn request_id(headers: &mut Headers, hcm: &Hcm, internal: bool, dice: &mut dyn Dice) {
    let edge = &hcm.edge;
    let distrust = edge.use_remote_address && !internal && !edge.preserve_external_request_id;
    let given = headers.get("x-request-id").is_some_and(|id| !id.is_empty());
    // Without one of its own the proxy has nothing to put in its place.
    if !edge.generate_request_id || given && !distrust {
        return;
    }
    let sampled = hcm.tracing.is_some_and(|t| (dice.below(10_000) as f64) < t.random_sampling * 100.0);
    headers.set("x-request-id", uuid_v4(dice.roll(), dice.roll(), sampled));
}

/// A random UUID (RFC 9562 section 5.4), whose 15th character is `9` instead of `4` when the request is sampled.
fn uuid_v4(high: u64, low: u64, sampled: bool) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut out = [b'-'; 36];
    let mut at = 0;
    for (i, b) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        out[at] = HEX[usize::from(b >> 4)];
        out[at + 1] = HEX[usize::from(b & 15)];
        at += 2;
    }
    if sampled {
        out[14] = b'9';
    }
    out
}

/// The address `skip` places from the end of `x-forwarded-for`.
fn forwarded_address(headers: &Headers, skip: u32) -> Option<IpAddr> {
    let joined;
    let mut values = headers.get_all("x-forwarded-for");
    let first = values.next()?;
    let list: &[u8] = match values.next() {
        None => first,
        Some(_) => {
            joined = headers.get_all("x-forwarded-for").collect::<Vec<_>>().join(&b","[..]);
            &joined
        }
    };
    let text = std::str::from_utf8(list).ok()?;
    let part = text.rsplit(',').nth(usize::try_from(skip).ok()?)?.trim();
    part.parse().ok()
}

fn append_address(headers: &mut Headers, peer: SocketAddr, own: IpAddr) {
    let ip = peer.ip().to_canonical();
    // A loopback peer is not an address that anyone further on could use; nor is where it came to, on this machine.
    let ip = if ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST) { own } else { ip };
    add_to_list(headers, "x-forwarded-for", &ip.to_string(), ",");
}

/// Adds an item to a list in one field, joining what was several.
pub fn add_to_list(headers: &mut Headers, name: &str, item: &str, separator: &str) {
    let mut all = String::new();
    for value in headers.get_all(name) {
        all.push_str(&String::from_utf8_lossy(value));
        all.push_str(separator);
    }
    all.push_str(item);
    headers.set(name, all);
}

/// Removes fields that concern only one connection. On requests also those that `connection` names, except
/// pseudo-fields of routing and identity; `te` is cut down to `trailers`. `upgrade`: the fields of an upgrade stay,
/// since the next hop is to see them.
pub fn remove_hop_by_hop(headers: &mut Headers, request: bool, upgrade: bool) {
    if request {
        if headers.contains("connection") {
            let named: Vec<String> = headers
                .get_all("connection")
                .flat_map(|v| v.split(|b| *b == b','))
                .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
                .filter(|name| !matches!(name.as_str(), "" | "te" | "close" | "keep-alive" | "upgrade"))
                .collect();
            for name in named {
                headers.remove(&name);
            }
        }
        if let Some(te) = headers.get("te") {
            let trailers = te.split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"trailers"));
            if trailers {
                headers.set("te", "trailers");
            } else {
                headers.remove("te");
            }
        }
    }
    headers.retain(|name| match name {
        b"keep-alive" | b"proxy-connection" => false,
        b"connection" | b"upgrade" => upgrade,
        _ => true,
    });
}

#[cfg(test)]
mod tests;
