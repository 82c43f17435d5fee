//! One corpus through two proxies: Envoy, then ours, on the same configuration, and every fact that
//! differs told.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::ads::ControlPlane;
use crate::bootstrap::{self, Flavour, Layout};
use crate::case::{Case, Instead, Seen};
use crate::client;
use crate::h2_upstream::{self, H2Act, H2Scripts};
use crate::load::Target;
use crate::peers;
use crate::ports;
use crate::proxy::{Kind, Proxy};
use crate::upstream::{self, Stage};
use crate::wait;

/// How many cases run at a time.
const TOGETHER: usize = 64;

/// The listener at which a run is told to be over.
const END: &str = "the end";

/// Listeners and clusters as Envoy's JSON.
pub type Resources = (Vec<Value>, Vec<Value>);

/// A configuration and the cases to play on it.
pub struct World {
    pub name: &'static str,
    pub listeners: &'static [&'static str],
    /// HTTP/1 and TCP upstreams. `dead` (nobody listens) and `full` (connecting times out) are
    /// always there.
    pub upstreams: &'static [&'static str],
    /// HTTP/2 upstreams.
    pub h2_upstreams: &'static [&'static str],
    pub resources: fn(&Layout) -> Resources,
    pub cases: Vec<Case>,
    /// What HTTP/2 upstreams do with the tries of a case.
    pub h2_scripts: Vec<(String, Vec<H2Act>)>,
}

/// Where the configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    File,
    Ads(Flavour),
}

/// What came of one case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What the client saw.
    pub client: Vec<String>,
    /// What the upstream received.
    pub upstream: Vec<String>,
    /// What the access log says.
    pub log: Vec<String>,
}

impl Outcome {
    /// Status, body and end alone.
    fn for_the_client(self) -> Outcome {
        let told = |line: &String| !line.starts_with("< ") || line.starts_with("< HTTP") || line.starts_with("< body");
        Outcome { client: self.client.into_iter().filter(told).collect(), upstream: Vec::new(), log: Vec::new() }
    }
}

/// Plays all cases of `world` through one proxy.
pub async fn play(world: &World, kind: Kind, source: Source) -> BTreeMap<String, Outcome> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let stage = Arc::new(Stage::default());
    let h2_scripts = Arc::new(H2Scripts::default());
    for case in &world.cases {
        stage.script(&case.name, case.script.clone());
        for (upstream, script) in &case.apart {
            stage.script_at(&case.name, upstream, script.clone());
        }
    }
    for (case, acts) in &world.h2_scripts {
        h2_scripts.script(case, acts.clone());
    }
    let full = FullUpstream::new();
    let mut upstreams = vec![("dead", ports::free()), ("full", full.port)];
    for name in world.upstreams {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        upstreams.push((name, listener.local_addr().expect("its address").port()));
        upstream::serve(stage.clone(), name, listener);
    }
    for name in world.h2_upstreams {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        upstreams.push((name, listener.local_addr().expect("its address").port()));
        h2_upstream::serve(stage.clone(), h2_scripts.clone(), name, listener);
    }
    let mut layout = Layout::new(dir.path(), &[world.listeners, &[END]].concat(), &upstreams);
    let (mut listeners, clusters) = (world.resources)(&layout);
    let over = json!([{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]);
    listeners.push(bootstrap::listener(&layout, END, bootstrap::http(&layout, END, over, json!({}))));
    let mut control = None;
    let file = match source {
        Source::File => bootstrap::fixed(&layout, &listeners, &clusters),
        Source::Ads(flavour) => {
            let started = ControlPlane::start(&listeners, &clusters).await;
            layout.ads = Some(started.port);
            control = Some(started);
            bootstrap::from_ads(&layout, flavour)
        }
    };
    let proxy = Proxy::start(kind, &file, layout.admin, dir.path()).await;

    let layout = &layout;
    let stage = &stage;
    let facts: Vec<Vec<String>> = futures::stream::iter(world.cases.iter().enumerate())
        .map(|(index, case)| {
            let to = SocketAddr::from(([127, 0, 0, 1], layout.listener(case.listener)));
            client::play(case, own_address(index), to, stage)
        })
        .buffered(TOGETHER)
        .collect()
        .await;

    let log = settled_log(&proxy, layout).await;
    let mut outcomes = BTreeMap::new();
    for (index, (case, facts)) in world.cases.iter().zip(facts).enumerate() {
        let mut upstream = Vec::new();
        let mut all = if case.ignore_upstream { Vec::new() } else { stage.received(&case.name) };
        if !case.apart.is_empty() {
            all.sort_by(|a, b| a.upstream.cmp(&b.upstream));
        }
        for (earlier, mut received) in all.into_iter().enumerate() {
            if case.unordered.contains(&&*received.upstream) {
                received.message.headers.sort();
            }
            upstream.push(format!("at {}", received.upstream));
            let head = upstream.len();
            client::describe(&received.message, ">", case.ignore_upstream_body, &mut upstream);
            settle_retry(&mut upstream[head..], earlier > 0);
            if !received.raw.is_empty() {
                upstream.push(format!("> raw {}", client::show(&received.raw)));
            }
        }
        let peer = own_address(index).to_string();
        let own = |lines: Vec<String>| {
            lines.iter().map(|line| settle(&layout.nameless(line)).replace(&peer, "<peer>")).collect()
        };
        let outcome = Outcome {
            client: own(facts),
            upstream: own(upstream),
            log: log.get(&peer).into_iter().flatten().map(|fields| log_line(fields, case, layout)).collect(),
        };
        outcomes.insert(case.name.clone(), if case.by_chance { outcome.for_the_client() } else { outcome });
    }
    let refusals = control.map(|control| control.refusals()).unwrap_or_default();
    assert!(refusals.is_empty(), "{}: {} refuses what it is told: {refusals:#?}", world.name, kind.name());
    drop(proxy);
    record(world, kind, source, &outcomes);
    outcomes
}

/// Leaves what came out in `target/differential`, for reading and comparing by hand.
fn record(world: &World, kind: Kind, source: Source, outcomes: &BTreeMap<String, Outcome>) {
    let dir = peers::target().join("differential");
    let source = match source {
        Source::File => "file",
        Source::Ads(Flavour::Delta) => "delta",
        Source::Ads(Flavour::StateOfTheWorld) => "sotw",
    };
    let mut text = String::new();
    for case in &world.cases {
        text.push_str(&format!("== {}\n{}", case.name, show(&outcomes[&case.name])));
    }
    let file = format!("{}.{source}.{}.txt", world.name.replace(' ', "-"), kind.name());
    let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join(file), text));
    written.expect("the record is written");
}

/// A listener that answers no SYN: its queue is full, so connecting to it times out.
struct FullUpstream {
    port: u16,
    _listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl FullUpstream {
    fn new() -> FullUpstream {
        let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let listener = socket();
        listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(0).expect("a queue of one");
        let address = listener.local_addr().expect("its address");
        let queued = (0..4)
            .map(|_| {
                let client = socket();
                client.set_nonblocking(true).expect("a client that does not wait");
                // In progress for ever, apart from the first, which fills the queue.
                let _ = client.connect(&address);
                client
            })
            .collect();
        let port = address.as_socket().expect("an IP address").port();
        FullUpstream { port, _listener: listener, _queued: queued }
    }
}

/// Every case comes from a loopback address of its own.
fn own_address(index: usize) -> Ipv4Addr {
    let [_, _, high, low] = (index as u32 + 2).to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

/// The whole access log: what a request says that comes when no connection is left is its last line.
async fn settled_log(proxy: &Proxy, layout: &Layout) -> BTreeMap<String, Vec<Vec<String>>> {
    proxy.let_go(false).await;
    let target = Target::new(([127, 0, 0, 1], layout.listener(END)).into(), "a.test", "/the-end");
    wait::until("the last request is answered", || async { target.ask().await.ok() }).await;
    let text = wait::until("the last request is logged", || async {
        let text = std::fs::read_to_string(layout.access_log()).unwrap_or_default();
        let end = text.find("/the-end ").and_then(|at| text[..at].rfind('\n').map(|at| at + 1).or(Some(0)))?;
        Some(text[..end].to_owned())
    })
    .await;
    let mut log: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for line in text.lines() {
        let mut fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
        let address = fields.remove(0);
        log.entry(address).or_default().push(fields);
    }
    log
}

fn log_line(fields: &[String], case: &Case, layout: &Layout) -> String {
    let mut fields = fields.to_vec();
    if case.ignore_bytes {
        for field in fields.iter_mut().skip(2).take(2) {
            "*".clone_into(field);
        }
    }
    layout.nameless(&fields.join("\t"))
}

/// A retry that comes within the millisecond is told all of its route's time; the next run it is told less.
/// `later`: it is not the first of its case; not every route tells which try it is.
fn settle_retry(message: &mut [String], later: bool) {
    let retry = |line: &String| line.starts_with("> x-envoy-attempt-count: ") && !line.ends_with(": 1");
    if later || message.iter().any(retry) {
        for line in message.iter_mut().filter(|line| *line == "> x-envoy-expected-rq-timeout-ms: 15000") {
            "> x-envoy-expected-rq-timeout-ms: <under 15000>".clone_into(line);
        }
    }
}

/// Blanks out what differs from run to run by nature.
pub(crate) fn settle(line: &str) -> String {
    for (name, stand_in) in [("date: ", "<date>"), ("x-envoy-upstream-service-time: ", "<ms>")] {
        if let Some(at) = line.find(name)
            && at <= 12
        {
            return format!("{}{stand_in}", &line[..at + name.len()]);
        }
    }
    // What is left of the route's default timeout at a retry.
    if let Some((name, value)) = line.split_once("x-envoy-expected-rq-timeout-ms: ")
        && value.parse().is_ok_and(|left: u32| (10_000..15_000).contains(&left))
    {
        return format!("{name}x-envoy-expected-rq-timeout-ms: <under 15000>");
    }
    // A cookie made for the connection.
    if let Some((start, rest)) = line.split_once("=\"")
        && line.contains("HttpOnly")
        && rest.len() > 16
        && rest.as_bytes()[..16].iter().all(u8::is_ascii_hexdigit)
    {
        return format!("{start}=\"<hash>{}", &rest[16..]);
    }
    // A request id made by the proxy; one that a client chose is not a UUID in this suite.
    if let Some(at) = line.find("x-request-id: ") {
        let value = &line[at + 14..];
        if value.len() == 36 && value.split('-').map(str::len).eq([8, 4, 4, 4, 12]) {
            return format!("{}<uuid>", &line[..at + 14]);
        }
    }
    line.to_owned()
}

/// Plays `world` through both proxies and compares.
///
/// # Panics
/// When Envoy does not answer as noted, or ours not as Envoy, with all cases that fail.
pub async fn compare(world: &World, source: Source) {
    let envoy = play(world, Kind::Envoy, source).await;
    let mut failures = Vec::new();
    for case in &world.cases {
        for fact in contradictions(&case.seen, &envoy[&case.name]) {
            failures.push(format!("{}: Envoy is not as noted: {fact}\n{}", case.name, show(&envoy[&case.name])));
        }
    }
    report(world, &failures, "not as noted");
    let lateen = play(world, Kind::Lateen, source).await;
    for case in &world.cases {
        let (theirs, ours) = (&envoy[&case.name], &lateen[&case.name]);
        match &case.better {
            Some(better) => {
                for fact in unlike(&better.instead, theirs, ours) {
                    failures.push(format!("{} ({}): {fact}\n{}", case.name, better.reason, show(ours)));
                }
            }
            None if theirs == ours => {}
            None => failures.push(format!("{}\n{}", case.name, difference(theirs, ours))),
        }
    }
    report(world, &failures, "different");
}

fn report(world: &World, failures: &[String], what: &str) {
    assert!(
        failures.is_empty(),
        "{}: {} of {} cases {what}\n\n{}",
        world.name,
        failures.len(),
        world.cases.len(),
        failures.join("\n")
    );
}

fn unlike(instead: &Instead, theirs: &Outcome, ours: &Outcome) -> Vec<String> {
    match instead {
        Instead::Told(facts) => {
            let mut unlike = unlike(&Instead::Facts(facts.clone()), theirs, ours);
            if theirs.log != ours.log {
                unlike.push(format!("the log is not like {:?}", theirs.log));
            }
            unlike
        }
        Instead::Status(status) => contradictions(&Seen { status: Some(*status), ..Seen::default() }, ours),
        Instead::Facts(facts) if *facts != ours.client => vec![format!("not {facts:?}")],
        Instead::Facts(_) => Vec::new(),
    }
}

fn contradictions(seen: &Seen, outcome: &Outcome) -> Vec<String> {
    let mut out = Vec::new();
    let starts: Vec<&String> = outcome
        .client
        .iter()
        .filter(|line| line.starts_with("< HTTP/1") || (line.len() == 5 && line.starts_with("< ")))
        .collect();
    if let Some(status) = seen.status {
        let wanted = status.to_string();
        if !starts.iter().any(|line| line.split(' ').any(|word| word == wanted)) && status != 0 {
            out.push(format!("no answer with status {status}"));
        }
        if status == 0 && !starts.is_empty() {
            out.push("an answer where none was to come".to_owned());
        }
    }
    if let Some(body) = &seen.body {
        let wanted = format!("({}) {body:?}", body.len());
        let found = outcome.client.iter().any(|line| line.starts_with("< body") && line.ends_with(&wanted));
        if !found {
            out.push(format!("no body {wanted}"));
        }
    }
    if let Some(log) = &seen.log
        && !outcome.log.iter().any(|line| line.split('\t').nth(1) == Some(log))
    {
        out.push(format!("no log line with {log}"));
    }
    out
}

/// All facts of an outcome, indented.
pub fn show(outcome: &Outcome) -> String {
    let mut text = String::new();
    for line in outcome.client.iter().chain(&outcome.upstream) {
        text.push_str(&format!("    {line}\n"));
    }
    for line in &outcome.log {
        text.push_str(&format!("    log {line}\n"));
    }
    text
}

/// What Envoy has and ours has not (`-`), and the reverse (`+`), with a line of context.
pub(crate) fn difference(theirs: &Outcome, ours: &Outcome) -> String {
    let mut text = String::new();
    let parts =
        [(&theirs.client, &ours.client, ""), (&theirs.upstream, &ours.upstream, ""), (&theirs.log, &ours.log, "log ")];
    for (theirs, ours, mark) in parts {
        if theirs == ours {
            continue;
        }
        let same = theirs.iter().zip(ours).take_while(|(a, b)| a == b).count();
        let tail = theirs[same..].iter().rev().zip(ours[same..].iter().rev()).take_while(|(a, b)| a == b).count();
        if same > 0 {
            text.push_str(&format!("      {mark}{}\n", theirs[same - 1]));
        }
        for line in &theirs[same..theirs.len() - tail] {
            text.push_str(&format!("    - {mark}{line}\n"));
        }
        for line in &ours[same..ours.len() - tail] {
            text.push_str(&format!("    + {mark}{line}\n"));
        }
    }
    text
}
