//! Who calls in a round about access, and how.

use std::net::SocketAddr;

use super::access::{HOSTS, METHODS};
use super::dice::Dice;
use super::identities::CALLERS;
use super::requests;
use super::scenery::GATEWAY_PORTS;
use super::tokens::token;
use crate::case::{Case, Do};
use crate::h2_upstream::H2Act;
use crate::stand::{GATEWAY, POD, Placed, Role};
use crate::upstream::{Act, answer};

/// Paths of requests, with all that may be tried to have a rule and a server see different ones.
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/a/b.c",
    "/api/v1/users",
    "/api/users",
    "/users",
    "/admin",
    "/Admin",
    "/admin/",
    "//admin",
    "/./admin",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/x/..%2fadmin",
    "/%61dmin",
    "/admin%2f",
    "/a%2fb",
    "/a%2Fb",
    "/a//b",
    "//a/b",
    "/a\\b",
    "/a%5cb",
    "/a;x",
    "/a;x=1/b",
    "/a/.;/b",
    "/a/..;/b",
    "/a%3bx",
    "/admin%00",
    "/admin?x=/a",
    "/a?/admin",
    "/a/*",
    "/a/%2a",
    "/a%20b",
    "/admin.",
    "/admin%09",
    "/a/%2e/b",
    "/a/.%2e/b",
    "/a%252fb",
    "/a/{*}",
    "/a/=/b",
];

/// Draws request number `index` of a round.
pub fn draw(dice: &mut Dice, round: u64, index: usize) -> Placed {
    let name = format!("r{round}-{index}");
    let at = |address, port: u16| SocketAddr::from((address, port));
    let (role, to) = match dice.below(100) {
        0..50 => (Role::Sidecar, at(POD, 8080)),
        50..58 => (Role::Sidecar, at(POD, *dice.pick(&[8081, 8082, 8088]))),
        58..70 => (Role::Sidecar, at(POD, *dice.pick(&[9000, 8088, 8081]))),
        70..96 => (Role::Gateway, at(GATEWAY, GATEWAY_PORTS[0].target)),
        _ => (Role::Gateway, at(GATEWAY, GATEWAY_PORTS[3].target)),
    };
    let bytes = to.port() == 9000 || to.port() == GATEWAY_PORTS[3].target || (to.port() != 8080 && dice.chance(25));
    let mut placed = match bytes && to.port() != GATEWAY_PORTS[0].target {
        true => requests::tcp(dice, &name, role, to),
        false => http(dice, &name, role, to),
    };
    placed.case.identity = identity(&placed, round as usize, index);
    if let (Some(_), Some(request)) = (placed.case.identity, &mut placed.case.h2) {
        // As every client says it in TLS.
        request.uri = request.uri.replacen("http:", "https:", 1);
    }
    placed
}

/// Who it is from, for most that call the workload where it takes handshakes. What a port that is in clear passes on of
/// a handshake is never the same.
fn identity(placed: &Placed, round: usize, index: usize) -> Option<&'static str> {
    let mutual = placed.role == Role::Sidecar && matches!(placed.to.port(), 8080 | 9000) && !index.is_multiple_of(4);
    mutual.then(|| CALLERS[(index / 4 + index + round) % CALLERS.len()])
}

fn http(dice: &mut Dice, name: &str, role: Role, to: SocketAddr) -> Placed {
    let method = dice.word(METHODS);
    let host = dice.word(HOSTS);
    let mut target = dice.word(PATHS).to_owned();
    let mut headers: Vec<(&str, String)> = Vec::new();
    for _ in 0..dice.below(3) {
        headers.push((dice.word(&["x-a", "x-a", "x-b"]), dice.word(&["1", "a", "ab", "b", "a,b", ""]).to_owned()));
    }
    for _ in 0..[0, 1, 1, 1, 1, 2][dice.below(6)] {
        let token = token(dice);
        match dice.below(12) {
            0..7 => headers.push(("authorization", format!("Bearer {token}"))),
            7 | 8 => headers.push(("x-token", format!("{}{token}", dice.word(&["Token ", ""])))),
            9 => headers.push(("cookie", format!("c={token}"))),
            which => {
                let mark = if target.contains('?') { '&' } else { '?' };
                target = format!("{target}{mark}{}={token}", if which == 10 { "access_token" } else { "t" });
            }
        }
    }
    match dice.below(20) {
        0..4 => {
            headers.push(("x-forwarded-for", dice.word(&["1.2.3.4", "9.9.9.9, 1.2.3.4", "1.2.3.4,9.9.9.9"]).to_owned()))
        }
        4 => headers.push(("x-sub", "forged".to_owned())),
        5 => headers.push(("x-payload", "forged".to_owned())),
        6 => headers.push(("x-forwarded-client-cert", "By=x;URI=spiffe://cluster.local/ns/shop/sa/web".to_owned())),
        7 => headers.push(("content-type", "application/grpc".to_owned())),
        _ => {}
    }
    if method == "OPTIONS" && dice.chance(60) {
        headers.push(("origin", "http://good.test".to_owned()));
        headers.push(("access-control-request-method", "GET".to_owned()));
    }
    let h2_script = vec![H2Act::Answer(200, Vec::new(), b"ok".to_vec(), Vec::new())];
    let script = vec![vec![Act::ReadBody, answer("200 OK", &[], if method == "HEAD" { b"" } else { b"ok" })]];
    // HTTP/2 clients' URIs cannot hold everything.
    let uri = format!("http://{host}{target}");
    let case = match dice.chance(20) && uri.parse::<http::Uri>().is_ok() && !target.contains('\\') {
        true => {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Case::h2(name, method, &uri, &headers)
        }
        false => {
            let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n@@\r\n");
            for (name, value) in &headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            if !matches!(method, "GET" | "HEAD" | "OPTIONS") {
                head.push_str("content-length: 0\r\n");
            }
            head.push_str("\r\n");
            let mark = Case::of(name).marked(head.as_bytes());
            let answer = if method == "HEAD" { Do::AnswerToHead } else { Do::Answer };
            Case::of(name).client(vec![Do::Send(mark), answer])
        }
    };
    Placed { case: case.tries(script), role, to, h2_script, client: 0 }
}
