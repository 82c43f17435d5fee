//! The same requests in a mesh that is only computed: what it decides is held against what Envoy did.
//!
//! Of each request the access log's line is compared (route, cluster, host, status, flags, details), what each upstream
//! was asked (place, method, path, host, headers), and what the client was answered (status, headers). Bodies, and how
//! messages are framed, are the wire's affair, which is not computed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use lateen_galley::Snapshot;
use lateen_simulation::{
    Answer, Application, Broken, Cast, Directory, Heard, Hello, Place, Request, Said, Target, Trace, World,
};
use lateen_traffic::{Protocol, RequestHead, ResponseHead};
use lateen_xds::bootstrap::Bootstrap;
use lateen_xds::json::Schema;
use serde_json::json;

use crate::case::Do;
use crate::differential::{Outcome, settle};
use crate::h2_upstream::H2Act;
use crate::message::{Message, Reader, Side};
use crate::network;
use crate::proxy::Kind;
use crate::stand::{self, GATEWAY, POD, Placed, Role, SERVER_FIRST_PORT, UPSTREAM_PORTS};
use crate::upstream::{Act, Script};

/// Header lines that are the wire's affair, or the clock's.
const UNTOLD: [&str; 7] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "date",
    "x-envoy-upstream-service-time",
    "keep-alive",
    "trailer",
];
/// Places in the access log's line of bytes received and sent, and of the proxy's end of upstream connections, which in
/// the stands' networks is the upstream's own address.
const UNTOLD_IN_LOG: [usize; 3] = [6, 7, 16];

/// A computed stand for each role.
pub struct Offline {
    schema: Schema,
}

impl Offline {
    /// # Panics
    /// When Envoy's schema cannot be read.
    pub fn new() -> Offline {
        Offline { schema: Schema::load().expect("Envoy's schema") }
    }

    /// What becomes of the requests, told as a stand tells it.
    pub fn play(&self, snapshot: &Arc<Snapshot>, requests: &[Placed]) -> BTreeMap<String, (Outcome, Trace)> {
        let mut outcomes = BTreeMap::new();
        for role in [Role::Gateway, Role::Sidecar] {
            let world = self.world(snapshot, role, requests);
            for placed in requests.iter().filter(|placed| placed.role == role) {
                outcomes.insert(placed.case.name.clone(), play(&world, placed));
            }
        }
        outcomes
    }

    fn world(&self, snapshot: &Arc<Snapshot>, role: Role, requests: &[Placed]) -> Computed {
        let stage = Rc::new(Upstreams::of(requests));
        let pod = |name: &str, namespace: &str, address: IpAddr, proxied: Option<Role>| Cast {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            addresses: vec![address],
            bootstrap: proxied.map(|role| self.bootstrap(role)),
            application: Rc::clone(&stage) as Rc<dyn Application>,
        };
        let cast = match role {
            Role::Gateway => vec![pod("ingress", "istio-system", GATEWAY.into(), Some(role))],
            Role::Sidecar => vec![pod("client", "shop", POD.into(), Some(role))],
        };
        let directory = Directory {
            names: Box::new(|name, _| Some(address_in(name).into_iter().collect())),
            services: Box::new(|_| None),
            inside: Box::new(|_| false),
            outside: Rc::clone(&stage) as Rc<dyn Application>,
        };
        let now = std::time::SystemTime::now();
        let world = World::new(
            Arc::clone(snapshot),
            cast,
            directory,
            Default::default(),
            lateen_pilot::Config::default(),
            1,
            now,
        );
        Computed { world, stage }
    }

    fn bootstrap(&self, role: Role) -> Bootstrap {
        let file = json!({"node": role.node(Kind::Lateen), "admin": {"address": {"socket_address":
            {"address": "127.0.0.1", "port_value": 15000}}}});
        Bootstrap::parse(&file.to_string(), &self.schema).expect("a bootstrap")
    }
}

/// The address of a name that has one in it, as the stands' name server knows them.
fn address_in(name: &str) -> Option<IpAddr> {
    name.strip_prefix("ip-")?.split('.').next()?.replace('-', ".").parse().ok()
}

impl Default for Offline {
    fn default() -> Offline {
        Offline::new()
    }
}

struct Computed {
    world: Rc<World>,
    stage: Rc<Upstreams>,
}

/// What upstreams do, and what they were asked.
#[derive(Default)]
struct Upstreams {
    scripts: BTreeMap<String, (Script, Vec<H2Act>)>,
    tries: RefCell<BTreeMap<String, usize>>,
    received: RefCell<BTreeMap<String, Vec<Vec<String>>>>,
}

impl Upstreams {
    fn of(requests: &[Placed]) -> Upstreams {
        let script = |placed: &Placed| (placed.case.script.clone(), placed.h2_script.clone());
        Upstreams {
            scripts: requests.iter().map(|placed| (placed.case.name.clone(), script(placed))).collect(),
            ..Upstreams::default()
        }
    }

    async fn act(&self, place: Place<'_>, request: Request) -> Result<Answer, Broken> {
        let head = &request.head;
        let case = head.headers.get_str("x-case").unwrap_or_default().to_owned();
        let http2 = head.protocol == Protocol::Http2;
        let mut lines = vec![format!("at {}", place.to)];
        lines.push(format!("> {} {} of {}", head.method, head.path, head.authority));
        lines.extend(head.headers.iter().map(|(name, value)| format!("> {name}: {}", latin1(value))));
        self.received.borrow_mut().entry(case.clone()).or_default().push(lines);
        let copy = head.headers.contains("x-envoy-internal");
        let number = {
            let mut tries = self.tries.borrow_mut();
            let number = tries.entry(case.clone()).or_default();
            *number += usize::from(!copy);
            number.saturating_sub(usize::from(!copy))
        };
        let plain = (Script::new(), Vec::new());
        let (script, acts) = self.scripts.get(&case).unwrap_or(&plain);
        if http2 {
            return match acts.get(number.min(acts.len().saturating_sub(1))) {
                Some(H2Act::Answer(status, headers, body, _)) => {
                    let mut answer = ResponseHead::new(*status);
                    headers.iter().for_each(|(name, value)| answer.headers.append(name, value));
                    let body = if head.method == "HEAD" { Vec::new() } else { body.clone() };
                    Ok(Answer { head: answer, body: body.into(), by: None })
                }
                Some(H2Act::Reset(7)) => Err(Broken::Refused),
                Some(_) => Err(Broken::Reset),
                None => Ok(Answer { head: ResponseHead::new(200), body: "ok".into(), by: None }),
            };
        }
        let Some(acts) = script.get(number.min(script.len().saturating_sub(1))) else {
            return Ok(Answer { head: ResponseHead::new(200), ..Answer::default() });
        };
        for act in acts {
            match act {
                Act::Pause(length) => place.wait(*length).await,
                Act::Send(bytes) => return Ok(parsed(bytes, head.method == "HEAD")),
                Act::Fin | Act::Reset => break,
                _ => {}
            }
        }
        Err(Broken::Closed)
    }
}

/// An answer as an HTTP/1 server sends it.
fn parsed(bytes: &[u8], to_head: bool) -> Answer {
    let side = if to_head { Side::ResponseToHead } else { Side::Response };
    let message = Reader::new(bytes).message(side).now_or_never().flatten().expect("a whole answer");
    let mut head = ResponseHead::new(message.status());
    for (name, value) in &message.headers {
        head.headers.append(name, value);
    }
    Answer { head, body: message.body.into(), by: None }
}

impl Application for Upstreams {
    fn listens(&self, port: u16) -> bool {
        UPSTREAM_PORTS.contains(&port) || port == SERVER_FIRST_PORT
    }

    fn answer<'a>(&'a self, place: Place<'a>, request: Request) -> LocalBoxFuture<'a, Result<Answer, Broken>> {
        Box::pin(self.act(place, request))
    }

    fn reply(&self, _: Place<'_>, bytes: &Bytes) -> Bytes {
        bytes.clone()
    }
}

fn play(computed: &Computed, placed: &Placed) -> (Outcome, Trace) {
    let Computed { world, stage } = computed;
    let address = network::client(placed.client);
    let peer = SocketAddr::from((address, 1024));
    let pod = Rc::clone(&world.pods()[0]);
    let log = &pod.proxy(world).expect("a proxy").log;
    log.keep();
    let trace = Trace::new();
    let said = said(placed);
    let heard = world.clock.run(async {
        match placed.role == Role::Gateway || placed.to.ip() == IpAddr::V4(POD) {
            true => world.from_outside(peer, placed.to, said, &trace).await,
            false => {
                let target = Target { host: placed.to.ip().to_string(), port: placed.to.port() };
                world.from_pod(&pod, &target, peer, said, &trace).await
            }
        }
    });
    // Copies may still be on their way.
    world.clock.run(async {
        while world.clock.is_busy() {
            world.clock.sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    let own = |line: &str| settle(line).replace(&address.to_string(), "<client>");
    let client = match heard {
        Some(Heard::Http(answer)) => {
            let mut lines = vec![format!("< {}", answer.head.status)];
            lines.extend(answer.head.headers.iter().map(|(name, value)| format!("< {name}: {}", latin1(value))));
            lines.iter().map(|line| own(line)).collect()
        }
        Some(Heard::Bytes { .. } | Heard::Broken { .. }) | None => Vec::new(),
    };
    let received = stage.received.borrow_mut().remove(&placed.case.name).unwrap_or_default();
    let lines = log.take();
    let log = lines.lines().filter_map(stand::log_line);
    // As a stand tells them apart.
    let log = log.filter(|(client, _)| *client == address.to_string()).map(|(_, line)| own(&line)).collect();
    let upstream = received.concat().iter().map(|line| own(line)).collect();
    (Outcome { client, upstream, log }, trace)
}

/// What the client says, whole.
fn said(placed: &Placed) -> Said {
    if let Some(h2) = &placed.case.h2 {
        let uri: http::Uri = h2.uri.parse().expect("a URI");
        let mut head = RequestHead {
            method: h2.method.clone(),
            scheme: uri.scheme_str().unwrap_or_default().to_owned(),
            authority: uri.authority().map_or("", |authority| authority.as_str()).to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            protocol: Protocol::Http2,
            ..RequestHead::default()
        };
        h2.headers.iter().for_each(|(name, value)| head.headers.append(name, value));
        return Said::Http(Request { head, body: h2.body.clone().into() });
    }
    let mut bytes: Vec<u8> = Vec::new();
    for act in &placed.case.client {
        if let Do::Send(piece) = act {
            bytes.extend_from_slice(piece);
        }
    }
    match bytes.first() {
        Some(22) => Said::Tls(hello(&bytes)),
        _ if bytes.starts_with(b"x-case") || placed.case.client.iter().any(|act| matches!(act, Do::Exactly(_))) => {
            Said::Bytes(bytes.into())
        }
        _ => {
            let message = Reader::new(&bytes[..]).message(Side::Request).now_or_never().flatten();
            Said::Http(request(message.expect("a whole request")))
        }
    }
}

fn request(message: Message) -> Request {
    let mut words = message.start.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut head = RequestHead { method: method.to_owned(), path: path.to_owned(), ..RequestHead::default() };
    for (name, value) in &message.headers {
        let (name, value) = (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']));
        match name.as_str() {
            "host" => head.authority = value.to_owned(),
            "transfer-encoding" => {}
            _ => head.headers.append(&name, value),
        }
    }
    Request { head, body: message.body.into() }
}

/// The server name and the protocols of a client hello (RFC 8446, 4.1.2).
fn hello(bytes: &[u8]) -> Hello {
    let mut hello = Hello { bytes: Bytes::copy_from_slice(bytes), ..Hello::default() };
    // Record, message, version and random; then session, cipher suites and compression, each with its length.
    let rest = bytes.get(43..).unwrap_or_default();
    let (_, rest) = counted(rest, 1);
    let (_, rest) = counted(rest, 2);
    let (_, rest) = counted(rest, 1);
    let (mut extensions, _) = counted(rest, 2);
    while let [kind_high, kind_low, after @ ..] = extensions {
        let (extension, next) = counted(after, 2);
        match [*kind_high, *kind_low] {
            [0, 0] => {
                let name = String::from_utf8_lossy(extension.get(5..).unwrap_or_default());
                hello.server_name = Some(name.to_ascii_lowercase());
            }
            [0, 16] => {
                let mut names = extension.get(2..).unwrap_or_default();
                while !names.is_empty() {
                    let (name, next) = counted(names, 1);
                    hello.application_protocols.push(String::from_utf8_lossy(name).into_owned());
                    names = next;
                }
            }
            _ => {}
        }
        extensions = next;
    }
    hello
}

/// What follows a length of so many bytes, and what is after that.
fn counted(bytes: &[u8], width: usize) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_at(width.min(bytes.len()));
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    rest.split_at(length.min(rest.len()))
}

fn latin1(bytes: &[u8]) -> String {
    crate::message::latin1(bytes)
}

/// What of an outcome is computed: the same of a stand's and of a computed one.
pub fn computed(outcome: &Outcome) -> Outcome {
    Outcome { client: answered(&outcome.client), upstream: asked(&outcome.upstream), log: logged(&outcome.log) }
}

fn told(line: &&String) -> bool {
    let name = line.get(2..).and_then(|rest| rest.split_once(": ")).map_or("", |(name, _)| name);
    !UNTOLD.iter().any(|untold| name.eq_ignore_ascii_case(untold))
}

/// The status, and the headers in order of name.
fn answered(lines: &[String]) -> Vec<String> {
    let head = |line: &&String| {
        line.starts_with("< ")
            && ["< body", "< raw", "< more", "< trailer"].iter().all(|start| !line.starts_with(start))
    };
    let mut lines = lines.iter().filter(head).filter(told);
    let Some(first) = lines.next() else { return Vec::new() };
    let status = first.split(' ').find(|word| word.len() == 3 && word.parse::<u16>().is_ok()).unwrap_or_default();
    let mut headers: Vec<String> = lines.map(|line| line.to_owned()).collect();
    headers.sort();
    [vec![format!("< {status}")], headers].concat()
}

/// A header as any client may write it, with proxies called by the same address: the stands' have none of their own.
fn plain(line: &str) -> String {
    let Some((name, value)) = line.strip_prefix("> ").and_then(|rest| rest.split_once(':')) else {
        return line.to_owned();
    };
    if name.contains(' ') {
        return line.to_owned();
    }
    let (name, mut value) = (name.to_ascii_lowercase(), value.trim().to_owned());
    if name == "x-forwarded-for" {
        for own in [IpAddr::from(GATEWAY), IpAddr::from(POD)] {
            value = value.replace(&own.to_string(), "127.0.0.1");
        }
    }
    format!("> {name}: {value}")
}

/// The requests of upstreams, each with its headers in order of name.
fn asked(lines: &[String]) -> Vec<String> {
    let mut requests: Vec<Vec<String>> = Vec::new();
    let mut current: Vec<String> = Vec::new();
    let mut done = |current: &mut Vec<String>| {
        // Bytes are told by what comes back.
        if let Some(line) = current.get(1).filter(|line| !line.starts_with("> x-case")).cloned() {
            // As HTTP/1 and HTTP/2 tell it, and as it is computed.
            let host = current.iter().find_map(|line| line.strip_prefix("> host: ")).unwrap_or_default().to_owned();
            let mut words = line.trim_start_matches("> ").split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let start = match path.split_once("://").and_then(|(_, rest)| rest.split_once('/')) {
                Some((host, path)) if line.ends_with("HTTP/2") => format!("> {method} /{path} of {host}"),
                _ if line.contains(" of ") => line.clone(),
                _ => format!("> {method} {path} of {host}"),
            };
            let at = current[0].clone();
            let mut headers: Vec<String> = current
                .drain(..)
                .skip(2)
                .filter(|line| line.starts_with("> ") && told(&line))
                .filter(|line| !["> body", "> raw", "> trailer", "> host: "].iter().any(|s| line.starts_with(s)))
                .collect();
            headers.sort();
            requests.push([vec![at, start], headers].concat());
        }
        current.clear();
    };
    for line in lines.iter().map(|line| plain(line)) {
        if line.starts_with("at ") {
            done(&mut current);
        }
        current.push(line);
    }
    done(&mut current);
    // Which of a service's pods was asked is chance.
    requests.sort_by(|a, b| a[1..].cmp(&b[1..]).then_with(|| a[0].cmp(&b[0])));
    requests.concat()
}

fn logged(lines: &[String]) -> Vec<String> {
    let one = |line: &String| {
        let mut words = stand::words(line);
        for at in UNTOLD_IN_LOG {
            if let Some(word) = words.get_mut(at) {
                *word = "*".to_owned();
            }
        }
        words.join(" ")
    };
    lines.iter().map(one).collect()
}
