//! Requests made so that two parties read them as different ones. Each is sent to Envoy and to the proxy, as a sidecar
//! and as a gateway, where policies deny a path, a host, a header and an identity; behind them stands a server that takes
//! whatever comes. Nothing denied may reach it, however it is wrapped, and nothing that Envoy keeps from it.

mod claims;
mod http1;
mod http2;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lateen_tests::case::{Case, Do};
use lateen_tests::differential::{Outcome, show};
use lateen_tests::drawn::{Round, Run};
use lateen_tests::network;
use lateen_tests::stand::{GATEWAY, POD, Placed, Role, STRAYS};
use serde_json::{Value, json};

use super::attempts::{EDGE, edge, object};

/// A request with what is tried by it.
struct Row {
    name: String,
    acts: Vec<Do>,
    apart: Option<Apart>,
    /// What comes through whole is compared, and statuses: the rest is a matter of frames, or of when it is refused.
    roughly: bool,
}

/// Why the proxy does not do as Envoy does.
#[derive(Clone, Copy)]
enum Apart {
    /// It lets nothing through that Envoy does not.
    Stricter(&'static str),
    /// It may let something through that Envoy does not, which is innocent.
    Harmless,
}

/// What nobody may ask for.
fn denied(name: &str, namespace: &str, labels: Value) -> Value {
    let rules = json!([
        {"to": [{"operation": {"paths": ["/admin*"]}}]},
        {"to": [{"operation": {"hosts": ["admin.test", "admin.test:*"]}}]},
        {"when": [{"key": "request.headers[x-role]", "values": ["admin"]}]},
        {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/admin"]}}]},
    ]);
    let spec = json!({"action": "DENY", "rules": rules, "selector": {"matchLabels": labels}});
    object("AuthorizationPolicy", name, namespace, spec)
}

/// Requests as a server reads them: the lines of each.
fn requests(outcome: Option<&Outcome>) -> Vec<&[String]> {
    let lines = outcome.map_or(&[][..], |outcome| &outcome.upstream[..]);
    lines.split(|line| line.starts_with("at ")).filter(|request| !request.is_empty()).collect()
}

/// What is wrong with a request that came through: it is denied, or could be read in another way yet.
fn guilt(request: &[String]) -> Option<String> {
    let start = request[0].trim_start_matches("> ");
    let head: Vec<&str> = request[1..].iter().map_while(|line| line.strip_prefix("> ")).collect();
    let head: Vec<&str> = head.into_iter().take_while(|line| !line.starts_with("body ")).collect();
    let values = |name: &str| -> Vec<&str> {
        let all = head.iter().filter_map(|line| line.split_once(':'));
        all.filter(|(other, _)| other.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    };
    let host = values("host");
    let target = start.split(' ').nth(1).unwrap_or_default();
    let path = target.split_once("://").map_or(target, |(_, rest)| &rest[rest.find('/').unwrap_or(rest.len())..]);
    let authority = start.split_once("://").and_then(|(_, rest)| rest.split('/').next());
    let authority = authority.iter();
    let is_denied = |host: &str| host.split(':').next().is_some_and(|host| host.eq_ignore_ascii_case("admin.test"));
    let http2 = start.ends_with(" HTTP/2");
    let guilty = [
        ("a path that is denied", path.starts_with("/admin")),
        ("a host that is denied", host.iter().chain(authority).any(|host| is_denied(host))),
        ("a role that is denied", values("x-role").contains(&"admin")),
        ("a client nobody proved", values("x-forwarded-client-cert").iter().any(|cert| cert.contains("admin"))),
        ("not one host", !http2 && host.len() != 1),
        ("two lengths", values("content-length").len() + values("transfer-encoding").len() > 1),
        ("a coding of its own", values("transfer-encoding").iter().any(|coding| *coding != "chunked")),
        ("words in its first line", start.split([' ', '\t', '\x0b', '\x0c']).count() != 3),
        ("a name that is none", head.iter().any(|line| line.split(':').next().is_none_or(|name| name.contains(' ')))),
        ("a control character", request.iter().any(|line| line.contains(['\r', '\n', '\0']))),
    ];
    guilty.iter().find(|(_, is)| *is).map(|(what, _)| format!("{what}: {request:#?}"))
}

/// Start lines of answers.
fn statuses(outcome: &Outcome) -> Vec<&String> {
    outcome.client.iter().filter(|line| line.starts_with("< HTTP/1.1 ")).collect()
}

/// Method, target and host of each request that came through whole.
fn asked(outcome: &Outcome) -> Vec<String> {
    let one = |request: &&[String]| {
        let host = request.iter().find(|line| line.to_ascii_lowercase().starts_with("> host: "));
        format!("{} {}", request[0], host.map_or("", |host| host))
    };
    let is_cut = |request: &&[String]| request.iter().any(|line| line.starts_with("> body ") && line.contains(", cut"));
    requests(Some(outcome)).iter().filter(|request| !is_cut(request)).map(one).collect()
}

/// Plays all rows at a role of both proxies: what became of them at Envoy and at ours, and what differs.
async fn played(test: &str, role: Role, more: &[Value], rows: &[Row]) -> Option<(Outcomes, Outcomes, Vec<String>)> {
    let arguments = ["--exact", &format!("differential::smuggling::{test}"), "--nocapture"];
    if !network::may_enter(&arguments.map(str::to_owned)) {
        return None;
    }
    let to = match role {
        Role::Sidecar => SocketAddr::from((POD, 8080)),
        Role::Gateway => SocketAddr::from((GATEWAY, EDGE)),
    };
    let placed = |(index, row): (usize, &Row)| Placed {
        case: Case::of(&row.name).client(row.acts.clone()),
        role,
        to,
        h2_script: Vec::new(),
        client: index as u32 + 1,
    };
    let rules = [&edge(), more].concat();
    let requests = rows.iter().enumerate().map(placed).collect();
    let mut run = Run::start();
    let ([theirs, ours], differences) = run.outcomes(&Round { number: 0, scenery: Vec::new(), rules, requests }).await;
    assert!(run.refused.is_empty(), "{:?}", run.refused);
    Some((theirs, ours, differences))
}

/// Plays rows where much is denied.
async fn nothing_gets_around(test: &str, role: Role, rows: Vec<Row>, honest: usize) {
    let rules = [
        denied("workload", "shop", json!({"app": "client"})),
        denied("edge", "istio-system", json!({"istio": "ingressgateway"})),
    ];
    let Some((theirs, ours, differences)) = played(test, role, &rules, &rows).await else { return };
    let mut failures = Vec::new();
    for row in &rows[..honest] {
        assert!(!ours[&row.name].upstream.is_empty(), "{}: {}", row.name, show(&ours[&row.name]));
    }
    for row in &rows {
        failures.extend(judged(row, &theirs, &ours, &differences));
    }
    let strays = self::requests(ours.get(STRAYS));
    failures.extend(strays.iter().filter_map(|request| guilt(request)));
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), rows.len(), failures.join("\n"));
}

type Outcomes = BTreeMap<String, Outcome>;

/// What is wrong with what became of a row.
fn judged(row: &Row, theirs: &Outcomes, ours: &Outcomes, differences: &[String]) -> Vec<String> {
    let (theirs, ours) = (&theirs[&row.name], &ours[&row.name]);
    let told = |what: &str| format!("== {}: {what}\nEnvoy\n{}ours\n{}", row.name, show(theirs), show(ours));
    let mut wrong: Vec<String> =
        requests(Some(ours)).iter().filter_map(|one| guilt(one)).map(|what| told(&what)).collect();
    if ours.client.iter().any(|line| line.starts_with("STUCK")) {
        wrong.push(told("no end"));
    }
    let difference = differences.iter().find_map(|text| text.strip_prefix(&*format!("{}\n", row.name)));
    let differs = match row.roughly {
        true => (asked(theirs), statuses(theirs)) != (asked(ours), statuses(ours)),
        false => difference.is_some(),
    };
    let let_through = asked(theirs);
    match row.apart {
        None if differs => {
            let difference = difference.unwrap_or_default();
            wrong.push(format!("== {}: not as at Envoy\n{difference}", row.name));
        }
        Some(Apart::Stricter(why)) if !differs => wrong.push(told(&format!("not so: {why}"))),
        Some(Apart::Stricter(why)) if asked(ours).iter().any(|one| !let_through.contains(one)) => {
            wrong.push(told(&format!("more than Envoy: {why}")));
        }
        _ => {}
    }
    wrong
}

#[tokio::test]
async fn http1_at_a_sidecar() {
    nothing_gets_around("http1_at_a_sidecar", Role::Sidecar, http1::rows(), http1::HONEST).await;
}

#[tokio::test]
async fn http1_at_a_gateway() {
    nothing_gets_around("http1_at_a_gateway", Role::Gateway, http1::rows(), http1::HONEST).await;
}

#[tokio::test]
async fn http2_at_a_sidecar() {
    nothing_gets_around("http2_at_a_sidecar", Role::Sidecar, http2::rows(), http2::HONEST).await;
}

#[tokio::test]
async fn http2_at_a_gateway() {
    nothing_gets_around("http2_at_a_gateway", Role::Gateway, http2::rows(), http2::HONEST).await;
}
