//! Requests and connections of a round, and what upstreams do with them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::dice::Dice;
use super::rules::Subject;
use super::scenery::{GATEWAY_PORTS, OWN_PORTS, Service, Speaks};
use super::tls;
use super::words::{HEADERS, METHODS, PATHS, TAILS, VALUES};
use crate::case::{Case, Do};
use crate::h2_upstream::H2Act;
use crate::stand::{GATEWAY, GREETING, POD, Placed, Role};
use crate::upstream::{Act, Script, send};

/// Draws request number `index` of a round.
pub fn draw(dice: &mut Dice, subject: &Subject<'_>, index: usize) -> Placed {
    let name = format!("r{}-{index}", subject.round);
    match dice.below(100) {
        0..46 => at_gateway(dice, subject, &name),
        46..50 => {
            let host = public_name(dice, subject);
            hello(dice, &name, Role::Gateway, at(GATEWAY, GATEWAY_PORTS[2].target), &host)
        }
        50..53 => {
            let port = GATEWAY_PORTS[3 + dice.below(2)].target;
            tcp(dice, &name, Role::Gateway, at(GATEWAY, port))
        }
        53..90 => from_workload(dice, subject, &name),
        _ => to_workload(dice, subject, &name),
    }
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

fn placed(case: Case, role: Role, to: SocketAddr) -> Placed {
    Placed { case, role, to, h2_script: Vec::new(), client: 0 }
}

fn public_name(dice: &mut Dice, subject: &Subject<'_>) -> String {
    let round = subject.round;
    match dice.below(12) {
        0 => "unknown.test".to_owned(),
        1 => format!("moved{round}.test"),
        2 => format!("w{round}.test"),
        3 => format!("d{round}.test"),
        _ => dice.pick(&subject.public_hosts()).clone(),
    }
}

fn at_gateway(dice: &mut Dice, subject: &Subject<'_>, name: &str) -> Placed {
    let port = if dice.chance(85) { GATEWAY_PORTS[0] } else { GATEWAY_PORTS[1] };
    let mut host = public_name(dice, subject);
    match dice.below(20) {
        0 => host = host.to_ascii_uppercase(),
        1 => host.push_str(":80"),
        2 => host.push_str(":8090"),
        3 => host.push('.'),
        _ => {}
    }
    http(dice, name, Role::Gateway, at(GATEWAY, port.target), &host)
}

fn from_workload(dice: &mut Dice, subject: &Subject<'_>, name: &str) -> Placed {
    let role = Role::Sidecar;
    if dice.chance(20) {
        // A service written by hand, or nobody's address.
        let entry = dice.pick(&subject.entries()).clone();
        let address = match dice.below(5) {
            0 => Ipv4Addr::new(10, 90, 1, entry.address.octets()[3]),
            _ => entry.address,
        };
        let host = entry.asked(dice, subject.round);
        return match dice.below(6) {
            0 => tcp(dice, name, role, at(address, 9000)),
            1 => hello(dice, name, role, at(address, entry.tls), &host),
            _ => {
                let port = *dice.pick(entry.http);
                http(dice, name, role, at(address, port), &host)
            }
        };
    }
    let service = dice.pick(subject.services);
    let port = *dice.pick(&service.ports);
    let address = match service.headless || dice.chance(8) {
        true => service.pod(dice).unwrap_or(service.address),
        false => service.address,
    };
    let to = at(address, port.number);
    match port.speaks {
        Speaks::Tcp => tcp(dice, name, role, to),
        Speaks::ServerFirst => greeted(dice, name, to),
        Speaks::Tls => hello(dice, name, role, to, &service.host()),
        Speaks::Auto if dice.chance(30) => tcp(dice, name, role, to),
        Speaks::Auto if dice.chance(20) => hello(dice, name, role, to, &service.host()),
        _ if dice.chance(3) => tcp(dice, name, role, to),
        _ if dice.chance(2) => hello(dice, name, role, to, &service.host()),
        _ => {
            let host = host_of(dice, service, port.number);
            http(dice, name, role, to, &host)
        }
    }
}

fn host_of(dice: &mut Dice, service: &Service, port: u16) -> String {
    let (name, namespace) = (&service.name, service.namespace);
    let host = match dice.below(12) {
        0 | 1 => name.clone(),
        2 | 3 => format!("{name}.{namespace}"),
        4 => format!("{name}.{namespace}.svc"),
        5 => service.address.to_string(),
        6 => "unknown.test".to_owned(),
        _ => service.host(),
    };
    match dice.below(20) {
        0 => host.to_ascii_uppercase(),
        1 => format!("{host}:{port}"),
        2 => format!("{host}:81"),
        3 => format!("{host}."),
        _ => host,
    }
}

fn to_workload(dice: &mut Dice, subject: &Subject<'_>, name: &str) -> Placed {
    let port = dice.pick(&OWN_PORTS);
    // One that no service has.
    let target = if dice.chance(10) { 8081 } else { port.target };
    let to = at(POD, target);
    match port.speaks {
        Speaks::ServerFirst if target != 8081 => greeted(dice, name, to),
        Speaks::Tcp => tcp(dice, name, Role::Sidecar, to),
        Speaks::Auto if dice.chance(30) => tcp(dice, name, Role::Sidecar, to),
        _ => {
            let host = if dice.chance(80) { "client.shop".to_owned() } else { public_name(dice, subject) };
            http(dice, name, Role::Sidecar, to, &host)
        }
    }
}

fn http(dice: &mut Dice, name: &str, role: Role, to: SocketAddr, host: &str) -> Placed {
    // Whether a body is read before it is known that a name does not exist depends on who asked for it before.
    let method = if host.starts_with("gone.") { "GET" } else { dice.word(METHODS) };
    let (script, h2_script) = answers(dice, method);
    let case = if dice.chance(30) { h2(dice, name, method, host) } else { http1(dice, name, method, host) };
    Placed { h2_script, ..placed(case.tries(script), role, to) }
}

fn target(dice: &mut Dice) -> String {
    let mut path = dice.word(PATHS).to_owned();
    if dice.chance(60) {
        path.push_str(dice.word(TAILS));
    }
    let pairs: Vec<String> = (0..dice.below(3))
        .map(|_| match dice.chance(80) {
            true => format!("{}={}", dice.word(&["q", "r", "Q"]), dice.word(&["1", "2", "ab", "", "%31"])),
            false => dice.word(&["q", "r", ""]).to_owned(),
        })
        .collect();
    // Envoy makes two slashes of a path of nothing but slashes; see the rows on paths.
    if path.trim_matches('/').is_empty() {
        path = "/".to_owned();
    }
    if !pairs.is_empty() {
        path = format!("{path}?{}", pairs.join("&"));
    }
    path
}

/// Header names and values, some twice.
fn headers(dice: &mut Dice) -> Vec<(&'static str, &'static str)> {
    let mut headers: Vec<(&str, &str)> = Vec::new();
    for _ in 0..dice.below(4) {
        headers.push((dice.word(HEADERS), dice.word(VALUES)));
    }
    match dice.below(25) {
        0 => headers.push(("content-type", "application/grpc")),
        1 => headers.push(("x-forwarded-for", "1.2.3.4")),
        2 => headers.push(("x-forwarded-proto", "https")),
        3 => headers.push(("x-envoy-retry-on", "5xx")),
        4 => headers.push(("x-request-id", "chosen")),
        5 | 6 => headers
            .push(("origin", dice.word(&["http://good.test", "http://prefixed", "http://a.re", "http://bad.test"]))),
        7 => headers.push(("x-envoy-upstream-rq-timeout-ms", "5")),
        8 => headers.push(("x-envoy-attempt-count", "9")),
        _ => {}
    }
    headers
}

/// What makes an OPTIONS request a preflight.
fn preflight(dice: &mut Dice, method: &str) -> Vec<(&'static str, &'static str)> {
    if method != "OPTIONS" || !dice.chance(70) {
        return Vec::new();
    }
    let origin = dice.word(&["http://good.test", "http://prefixed", "http://a.re", "http://bad.test"]);
    vec![("origin", origin), ("access-control-request-method", dice.word(&["GET", "PUT"]))]
}

fn http1(dice: &mut Dice, name: &str, method: &str, host: &str) -> Case {
    let target = target(dice);
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    head.push_str(&format!("{}: {host}\r\n", dice.word(&["host", "Host", "HOST"])));
    let mut all = headers(dice);
    all.extend(preflight(dice, method));
    // Envoy looks for a route before it refuses such a path, but only for clients that say their protocol.
    all.retain(|(header, _)| *header != "x-forwarded-proto" || !target.contains('#'));
    for (header, value) in all {
        let header = if dice.chance(30) { header.to_ascii_uppercase() } else { header.to_owned() };
        head.push_str(&format!("{header}:{}{value}\r\n", dice.word(&[" ", "", "  ", "\t"])));
    }
    head.push_str("@@\r\n");
    let mut bytes = Case::of(name).marked(head.as_bytes());
    bytes.extend(body(dice, method));
    let mut acts = pieces(dice, &bytes);
    acts.push(if method == "HEAD" { Do::AnswerToHead } else { Do::Answer });
    Case::of(name).client(acts)
}

/// The end of the head, and a body.
fn body(dice: &mut Dice, method: &str) -> Vec<u8> {
    if matches!(method, "GET" | "HEAD" | "OPTIONS") || dice.chance(30) {
        return b"\r\n".to_vec();
    }
    let length = *dice.pick(&[0, 1, 100, 5000]);
    let body = dice.bytes(length);
    if dice.chance(50) {
        return [format!("content-length: {length}\r\n\r\n").into_bytes(), body].concat();
    }
    [b"transfer-encoding: chunked\r\n\r\n".to_vec(), chunks(dice, &body)].concat()
}

fn chunks(dice: &mut Dice, mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while !body.is_empty() {
        let (chunk, rest) = body.split_at(1 + dice.below(body.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        body = rest;
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// The bytes in one to three writes.
fn pieces(dice: &mut Dice, bytes: &[u8]) -> Vec<Do> {
    let mut rest = bytes;
    let mut out = Vec::new();
    for _ in 0..dice.below(3) {
        let (piece, next) = rest.split_at(dice.below(rest.len() + 1));
        out.push(Do::Send(piece.to_vec()));
        rest = next;
    }
    out.push(Do::Send(rest.to_vec()));
    out
}

fn h2(dice: &mut Dice, name: &str, method: &str, host: &str) -> Case {
    // The client's URI type knows no fragments and no backslashes.
    let path = target(dice).replace(['#', '\\'], "");
    let uri = format!("http://{host}{path}");
    let mut all = headers(dice);
    all.extend(preflight(dice, method));
    let case = Case::h2(name, method, &uri, &all);
    if matches!(method, "GET" | "HEAD" | "OPTIONS") || dice.chance(30) {
        return case;
    }
    let length = *dice.pick(&[1, 100, 5000]);
    let trailers: &[(&str, &str)] = if dice.chance(30) { &[("x-trailer", "1")] } else { &[] };
    case.h2_body(&dice.bytes(length), trailers)
}

/// What upstreams do with each try, over HTTP/1 and over HTTP/2.
fn answers(dice: &mut Dice, method: &str) -> (Script, Vec<H2Act>) {
    let tries = if dice.chance(25) { 3 } else { 1 };
    let (mut script, mut acts) = (Script::new(), Vec::new());
    for _ in 0..tries {
        if dice.chance(8) {
            let code = *dice.pick(&[2, 7, 8]);
            script.push(vec![Act::ReadBody, if code == 7 { Act::Fin } else { Act::Reset }]);
            acts.push(H2Act::Reset(code));
            continue;
        }
        let status =
            *dice.pick(&[200, 200, 200, 200, 200, 200, 201, 204, 301, 304, 404, 409, 418, 429, 500, 502, 503, 504]);
        let mut headers: Vec<(String, String)> = Vec::new();
        for _ in 0..dice.below(3) {
            let header = dice.word(&["x-a", "x-b", "server", "set-cookie", "x-version"]);
            let value = dice.word(&["1", "a", "b", "true", "a,b"]);
            headers.push((header.to_owned(), value.to_owned()));
        }
        let bodiless = method == "HEAD" || status == 204 || status == 304;
        let length = *dice.pick(&[0, 3, 300, 40_000]);
        let body = if bodiless { Vec::new() } else { dice.bytes(length) };
        let mut bytes = format!("HTTP/1.1 {status} Something\r\n").into_bytes();
        for (header, value) in &headers {
            bytes.extend_from_slice(format!("{header}: {value}\r\n").as_bytes());
        }
        if bodiless {
            bytes.extend_from_slice(b"\r\n");
        } else if dice.chance(50) {
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(&body);
        } else {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            bytes.extend(chunks(dice, &body));
        }
        let mut all = vec![Act::ReadBody];
        if dice.chance(1) {
            all.push(Act::Pause(Duration::from_secs(3)));
        }
        all.push(Act::Send(bytes));
        script.push(all);
        acts.push(H2Act::Answer(status, headers, body, Vec::new()));
    }
    (script, acts)
}

/// Bytes that are neither HTTP nor TLS.
pub(super) fn tcp(dice: &mut Dice, name: &str, role: Role, to: SocketAddr) -> Placed {
    let said = format!("x-case: {name}\r\n\r\n");
    let answer = format!("heard {}", dice.below(1000));
    let case = Case::of(name).client(vec![Do::Send(said.into_bytes()), Do::End]);
    placed(case.upstream(vec![send(answer), Act::Fin]), role, to)
}

/// The server speaks first.
fn greeted(dice: &mut Dice, name: &str, to: SocketAddr) -> Placed {
    let word = format!("and thanks {}", dice.below(1000));
    let acts = vec![Do::Exactly(GREETING.len()), Do::Send(word.into_bytes()), Do::End];
    placed(Case::of(name).client(acts), Role::Sidecar, to)
}

/// The first message of a TLS client, with a server name.
fn hello(dice: &mut Dice, name: &str, role: Role, to: SocketAddr, host: &str) -> Placed {
    let host = match dice.below(8) {
        0 => String::new(),
        1 => "unknown.test".to_owned(),
        2 => host.to_ascii_uppercase(),
        _ => host.to_owned(),
    };
    let alpn: &[&str] = [&["h2", "http/1.1"][..], &["http/1.1"], &[]][dice.below(3)];
    let hello = tls::client_hello(dice, &host, alpn);
    let mut acts = pieces(dice, &hello);
    acts.push(Do::End);
    placed(Case::of(name).client(acts), role, to)
}
