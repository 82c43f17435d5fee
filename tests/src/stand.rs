//! One proxy in a network of its own, told by a pilot what to do, with every upstream address answered: the stand on
//! which requests are played against what becomes of Istio's resources.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use lateen_citadel::authority::Files;
use lateen_pilot::Pilot;
use lateen_pilot::node::NodeType;
use lateen_pilot::push::{Proxy as Connected, State};
use lateen_xds::ResourceType;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::agent;
use crate::bootstrap::{self, Flavour, Layout};
use crate::case::Case;
use crate::client;
use crate::differential::{Outcome, settle};
use crate::drawn::identities::Identities;
use crate::drawn::scenery::GATEWAY_PORTS;
use crate::h2_upstream::{self, H2Act, H2Scripts};
use crate::load::Target;
use crate::names;
use crate::network;
use crate::proxy::{Kind, Proxy};
use crate::upstream::{self, Act, Received, Stage};
use crate::wait;

/// Address of the gateway's pod; clients reach its ports as they are.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
/// Address of the sidecar's pod: clients that call it come in at 15006, and those that call others at 15001.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
/// Ports at which every address answers whatever is spoken there.
pub const UPSTREAM_PORTS: [u16; 6] = [8080, 8081, 8082, 8088, 9000, 9443];
/// The port at which every address speaks first.
pub const SERVER_FIRST_PORT: u16 = 9001;
/// What is said there.
pub const GREETING: &[u8] = b"welcome\n";
/// Where a gateway tells which configuration it has.
pub const GATEWAY_PROBE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(GATEWAY), 19999);
/// Where a sidecar does.
pub const SIDECAR_PROBE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 97, 255, 1)), 19998);
/// Whose certificate the proxy has.
pub const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/default";
/// The case under which upstreams' requests are told that name none.
pub const STRAYS: &str = "";
/// How many cases run at a time.
const TOGETHER: usize = 32;

/// What the proxy is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Gateway,
    Sidecar,
}

impl Role {
    pub(crate) fn node(self, kind: Kind) -> Value {
        let (role, address, workload, namespace, labels) = match self {
            Role::Gateway => ("router", GATEWAY, "ingress", "istio-system", json!({"istio": "ingressgateway"})),
            Role::Sidecar => ("sidecar", POD, "client", "shop", json!({"app": "client", "version": "v1", "team": "a"})),
        };
        json!({
            "id": format!("{role}~{address}~{workload}-{}.{namespace}~{namespace}.svc.cluster.local", kind.name()),
            "cluster": format!("{workload}.{namespace}"),
            "metadata": {
                "NAMESPACE": namespace, "INSTANCE_IPS": address.to_string(), "LABELS": labels,
                "INTERCEPTION_MODE": "REDIRECT",
            },
        })
    }

    fn probe(self) -> SocketAddr {
        match self {
            Role::Gateway => GATEWAY_PROBE,
            Role::Sidecar => SIDECAR_PROBE,
        }
    }
}

/// A case with where it is played and what the upstream does.
#[derive(Clone, Debug)]
pub struct Placed {
    pub case: Case,
    pub role: Role,
    pub to: SocketAddr,
    /// What HTTP/2 upstreams do with its tries.
    pub h2_script: Vec<H2Act>,
    /// The network address of its client, by number: unique in a run.
    pub client: u32,
}

struct Play {
    /// The round that must be in force.
    round: u64,
    cases: Vec<Placed>,
    done: oneshot::Sender<BTreeMap<String, Outcome>>,
}

/// A running proxy and its surroundings, in a thread of its own.
pub struct Stand {
    pub kind: Kind,
    pub role: Role,
    plays: mpsc::UnboundedSender<Play>,
}

impl Stand {
    /// Starts it. The pilot must have read a configuration.
    pub fn start(kind: Kind, role: Role, pilot: Pilot, identities: Arc<Identities>) -> Stand {
        let (plays, mut asked) = mpsc::unbounded_channel::<Play>();
        let work = move || {
            network::enter(POD, GATEWAY);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let mut running = Running::start(kind, role, pilot, identities).await;
                while let Some(play) = asked.recv().await {
                    let outcomes = running.play(play.round, &play.cases).await;
                    let _ = play.done.send(outcomes);
                }
            });
        };
        std::thread::Builder::new().name(format!("{}-{role:?}", kind.name())).spawn(work).expect("a thread");
        Stand { kind, role, plays }
    }

    /// Plays the cases of its role among these, once the proxy has the configuration of `round`.
    ///
    /// # Panics
    /// When the stand has failed; its thread says why.
    pub async fn play(&self, round: u64, cases: &[Placed]) -> BTreeMap<String, Outcome> {
        let (done, outcomes) = oneshot::channel();
        let cases = cases.iter().filter(|placed| placed.role == self.role).cloned().collect();
        let sent = self.plays.send(Play { round, cases, done });
        assert!(sent.is_ok(), "{} as {:?} has failed", self.kind.name(), self.role);
        outcomes.await.unwrap_or_else(|_| panic!("{} as {:?} has failed", self.kind.name(), self.role))
    }
}

/// Where the pilot serves ADS in a stand's network.
const ADS: u16 = 15010;

/// Serves a pilot's ADS in this network.
///
/// # Panics
/// When the port is taken.
pub async fn serve_discovery(pilot: &Pilot) {
    let listener = TcpListener::bind(("127.0.0.1", ADS)).await.expect("a port for ADS");
    tokio::spawn(lateen_xds::ads::server::serve(listener, Arc::new(pilot.clone()), std::future::pending()));
}

/// Starts a proxy that plays `role` as the pilot of this network says.
pub async fn proxy(kind: Kind, role: Role, dir: &Path) -> Proxy {
    proxy_under(kind, role, dir, None).await
}

/// The same, with a certificate that `authority` signs.
pub async fn proxy_under(kind: Kind, role: Role, dir: &Path, authority: Option<&Files>) -> Proxy {
    let mut layout = Layout::new(dir, &[], &[]);
    layout.ads = Some(ADS);
    let mut file = bootstrap::from_ads(&layout, Flavour::Delta);
    bootstrap::merge(&mut file, json!({"node": role.node(kind)}));
    agent::start(dir, IDENTITY, authority).await;
    if let Some(clusters) = file["static_resources"]["clusters"].as_array_mut() {
        clusters.push(agent::cluster(&dir.join("sds")));
    }
    Proxy::start(kind, &file, layout.admin, dir).await
}

/// What the pilot knows of a stand's proxy.
fn of(state: &State, kind: Kind, role: Role) -> Option<&Connected> {
    let node_type = match role {
        Role::Gateway => NodeType::Router,
        Role::Sidecar => NodeType::Sidecar,
    };
    state.proxies().find(|proxy| proxy.node.node_type == node_type && proxy.node.workload.contains(kind.name()))
}

/// Whether a proxy has all that the pilot has for it, apart from what it refused.
pub fn told(pilot: &Pilot, kind: Kind, role: Role) -> bool {
    pilot.look(|state| {
        of(state, kind, role).is_some_and(|proxy| {
            let status = proxy.status.borrow();
            let current = status.version == *proxy.resources.borrow().version();
            current
                && proxy.has_asked(&status)
                && status.types.values().all(|of_type| of_type.waiting == of_type.refused.len())
        })
    })
}

struct Running {
    proxy: Proxy,
    role: Role,
    pilot: Pilot,
    identities: Arc<Identities>,
    stage: Arc<Stage>,
    h2_scripts: Arc<H2Scripts>,
    /// How much of the proxy's output has been read.
    read: usize,
    _dir: tempfile::TempDir,
}

impl Running {
    async fn start(kind: Kind, role: Role, pilot: Pilot, identities: Arc<Identities>) -> Running {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let stage = Arc::new(Stage::default());
        let h2_scripts = Arc::new(H2Scripts::default());
        for port in UPSTREAM_PORTS {
            let listener = TcpListener::bind(("0.0.0.0", port)).await.expect("an upstream port");
            tokio::spawn(serve(listener, stage.clone(), h2_scripts.clone()));
        }
        let first = TcpListener::bind(("0.0.0.0", SERVER_FIRST_PORT)).await.expect("an upstream port");
        tokio::spawn(speak_first(first));
        tokio::spawn(names::serve());
        serve_discovery(&pilot).await;
        let proxy = proxy_under(kind, role, dir.path(), Some(&identities.files())).await;
        Running { proxy, role, pilot, identities, stage, h2_scripts, read: 0, _dir: dir }
    }

    async fn play(&mut self, round: u64, cases: &[Placed]) -> BTreeMap<String, Outcome> {
        self.stage.clear();
        self.h2_scripts.clear();
        for placed in cases {
            self.stage.script(&placed.case.name, placed.case.script.clone());
            self.h2_scripts.script(&placed.case.name, placed.h2_script.clone());
        }
        self.in_force(round).await;
        self.read = self.proxy.process.output().len();
        let (stage, identities) = (&self.stage, &self.identities);
        // Whichever ends makes room: one that waits for a timeout holds up none.
        let mut facts: Vec<(usize, Vec<String>)> = futures::stream::iter(cases.iter().enumerate())
            .map(async |(index, placed)| {
                let (case, address) = (&placed.case, network::client(placed.client));
                (index, client::play_as(identities.of(case), case, address, placed.to, stage).await)
            })
            .buffer_unordered(TOGETHER)
            .collect()
            .await;
        facts.sort_by_key(|(index, _)| *index);
        let log = self.settled_log(round).await;
        let mut outcomes = BTreeMap::new();
        for (placed, (_, facts)) in cases.iter().zip(facts) {
            let case = &placed.case;
            let address = network::client(placed.client);
            let own = |line: &String| settle(line).replace(&address.to_string(), "<client>");
            let mut received: Vec<Vec<String>> = Vec::new();
            for arrived in self.stage.received(&case.name) {
                received.push(told_upstream(&arrived, case.ignore_upstream_body).iter().map(own).collect());
            }
            // Copies may overtake; tries tell by their number which they are.
            let number = |lines: &[String]| lines.iter().find(|line| line.contains("attempt-count")).cloned();
            received.sort_by(|a, b| {
                let content = a[1..].iter().rev().cmp(b[1..].iter().rev());
                number(a).cmp(&number(b)).then(content).then_with(|| a[0].cmp(&b[0]))
            });
            let outcome = Outcome {
                client: facts.iter().map(own).collect(),
                upstream: received.concat(),
                log: log
                    .get(&address.to_string())
                    .into_iter()
                    .flatten()
                    .map(|line| own(&if cut_off(placed) { without_bytes_sent(line) } else { line.clone() }))
                    .collect(),
            };
            outcomes.insert(case.name.clone(), outcome);
        }
        let strays = self.stage.received(STRAYS);
        if !strays.is_empty() {
            let upstream = strays.iter().flat_map(|stray| told_upstream(stray, false)).collect();
            outcomes.insert(STRAYS.to_owned(), Outcome { upstream, ..Outcome::default() });
        }
        outcomes
    }

    /// Waits until new connections are served by the configuration of `round`.
    async fn in_force(&mut self, round: u64) {
        let target = Target::new(self.role.probe(), "probe.test", "/").from(network::client(0));
        // More than once: what came with it may be a turn of a worker's loop behind.
        for _ in 0..3 {
            let done = wait::within(wait::PATIENCE, || async {
                let answer = target.ask().await.ok().filter(|_| told(&self.pilot, self.proxy.kind, self.role))?;
                (answer.text() == format!("round {round}") && self.listens().await).then_some(())
            })
            .await;
            if done.is_none() {
                let last = target.ask().await;
                panic!("round {round} is not in force: {last:?}\n{}", self.proxy.process.output());
            }
        }
    }

    /// Whether the gateway's ports, and only those it is told of, take connections: sockets follow what is told.
    async fn listens(&self) -> bool {
        if self.role == Role::Sidecar {
            return true;
        }
        let listeners: Vec<String> = self.pilot.look(|state| {
            let own = of(state, self.proxy.kind, self.role);
            let resources = own.map(|proxy| proxy.resources.borrow().clone());
            let names =
                resources.iter().flat_map(|set| set.of_type(&ResourceType::Listener)).map(|it| it.name().to_string());
            names.collect()
        });
        for port in GATEWAY_PORTS.map(|port| port.target) {
            let told = listeners.iter().any(|name| name.ends_with(&format!("_{port}")));
            if TcpStream::connect((GATEWAY, port)).await.is_ok() != told {
                return false;
            }
        }
        true
    }

    /// The access log by client: whole when a request that comes last has its line.
    async fn settled_log(&mut self, round: u64) -> BTreeMap<String, Vec<String>> {
        // Copies too may arrive after the answers that their requests got.
        self.proxy.let_go(true).await;
        let path = format!("/end-of-{round}");
        let target = Target::new(self.role.probe(), "probe.test", &path).from(network::client(0));
        wait::until("the last request is answered", || async { target.ask().await.ok() }).await;
        let (process, from) = (&self.proxy.process, self.read);
        let text = wait::until("the last request is logged", || async {
            let text = process.output();
            text.get(from..)?.contains(&format!("{path} ")).then_some(text)
        })
        .await;
        let mut log: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.get(from..).unwrap_or_default().lines() {
            if let Some((client, line)) = log_line(line) {
                log.entry(client).or_default().push(line);
            }
        }
        log
    }
}

/// What an upstream received, as lines.
fn told_upstream(arrived: &Received, ignore_body: bool) -> Vec<String> {
    let mut lines = vec![format!("at {}", arrived.upstream)];
    client::describe(&arrived.message, ">", ignore_body, &mut lines);
    if !arrived.raw.is_empty() {
        lines.push(format!("> raw {}", client::show(&arrived.raw)));
    }
    lines
}

/// Whether an upstream breaks its connection or stream off.
fn cut_off(placed: &Placed) -> bool {
    placed.case.script.iter().flatten().any(|act| matches!(act, Act::Reset))
        || placed.h2_script.iter().any(|act| matches!(act, H2Act::Reset(_)))
}

/// A line of a connection that is not HTTP, without the bytes sent to its client: how many pass before the connection is
/// broken off is a race.
fn without_bytes_sent(line: &str) -> String {
    let mut fields = words(line);
    if fields[0].starts_with("\"- ") {
        fields[7] = "<bytes>".to_owned();
    }
    fields.join(" ")
}

/// A line of the access log in Istio's format: its client, and what does not differ from run to run.
pub(crate) fn log_line(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let mut fields = words(rest);
    // Request, code, flags, details, termination, transport failure, received, sent, duration, service time,
    // forwarded for, agent, request id, authority, upstream host, cluster, upstream local, downstream local,
    // downstream remote, server name, route name.
    if fields.len() != 21 {
        return None;
    }
    let client = fields[18].rsplit_once(':')?.0.to_owned();
    for index in [8, 9] {
        if fields[index] != "-" {
            fields[index] = "<ms>".to_owned();
        }
    }
    if fields[12].trim_matches('"').len() == 36 {
        fields[12] = "<uuid>".to_owned();
    }
    // Ports chosen by the kernel.
    for index in [16, 18] {
        if let Some((address, _)) = fields[index].rsplit_once(':') {
            fields[index] = address.to_owned();
        }
    }
    Some((client, fields.join(" ")))
}

/// Splits at blanks outside quotes. Envoy does not escape quotes inside: such a line has another number of words.
pub(crate) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.push(letter);
            }
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words
}

/// Answers whatever is spoken, at every address of this network.
async fn serve(listener: TcpListener, stage: Arc<Stage>, h2_scripts: Arc<H2Scripts>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, stage.clone(), h2_scripts.clone()));
    }
}

async fn answer(stream: TcpStream, stage: Arc<Stage>, h2_scripts: Arc<H2Scripts>) -> Option<()> {
    let name = stream.local_addr().ok()?.to_string();
    let mut first = [0];
    stream.peek(&mut first).await.ok().filter(|count| *count > 0)?;
    match first[0] {
        // A TLS record: what came is told in clear.
        22 => tell(stream, &name).await,
        b'P' => {
            // `PRI * HTTP/2.0` or `POST`, `PUT`, `PATCH`.
            let mut start = [0; 4];
            while stream.peek(&mut start).await.ok()? < 4 {
                tokio::task::yield_now().await;
            }
            match &start {
                b"PRI " => h2_upstream::connection(stage, h2_scripts, name, stream).await,
                _ => upstream::connection(stage, name, stream).await,
            }
            Some(())
        }
        _ => {
            upstream::connection(stage, name, stream).await;
            Some(())
        }
    }
}

/// Says where it is and what came, then ends.
async fn tell(mut stream: TcpStream, name: &str) -> Option<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.ok()?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut body).await.ok()?;
    stream.write_all(format!("{name} got {}", client::show(&body)).as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

async fn speak_first(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            stream.write_all(GREETING).await.ok()?;
            let mut word = [0; 256];
            let count = stream.read(&mut word).await.ok()?;
            stream.write_all(word.get(..count)?).await.ok()?;
            stream.shutdown().await.ok()
        });
    }
}
