//! Running a test against what a cluster's objects are compiled to, in a mesh that is only computed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::{Either, join_all, select};
use k8s_openapi::api::core::v1::Service;
use lateen_galley::{Kind, Snapshot};
use lateen_local::network;
use lateen_local::rehearsal::{self, Program};
use lateen_pilot::rules::{KeysAt, keys_wanted};
use lateen_simulation::{
    Application, Broken, Cast, ClientTls, Directory, Heard, Pod, Request, Said, Target, Trace, Unknown, World,
};
use lateen_traffic::RequestHead;
use lateen_traffic::proxy_protocol::Told;
use lateen_xds::bootstrap::Bootstrap;
use lateen_xds::json::Schema;

use super::certificates::Certificates;
use super::cookies::Jar;
use super::kind::{INGRESS, Step, TrafficTest};
use super::outcome::{Outcome, Outcomes};
use super::who::Who;
use super::{Plan, Ran, client_address, issued, judge};
use crate::app::Simulated;
use crate::commands;
use crate::commands::ingress;
use crate::error::Error;

/// How long copies may be on their way after a step.
const STRAGGLERS: Duration = Duration::from_secs(60);
/// Between two looks at whether they are there.
const LOOK: Duration = Duration::from_millis(10);
/// Kinds of outcomes that are explained.
const EXPLAINED: usize = 6;

/// A computed mesh to test.
pub struct Offline {
    world: Rc<World>,
    who: Who,
    /// Where the ingress gateway's Service is.
    ingress: Option<IpAddr>,
    steps: u32,
    told: usize,
    /// Keys nobody fetches here; what is not told of them yet.
    unfetched: Vec<String>,
}

/// Why one request went where it went, for all that fared like it.
pub struct Explanation {
    /// How they fared.
    pub outcome: String,
    /// Which request it is.
    pub number: u64,
    /// How many fared so.
    pub alike: u64,
    /// Decision by decision.
    pub trace: Trace,
}

impl Offline {
    /// A mesh with these objects, and what a test puts into it.
    ///
    /// # Errors
    /// When a pod says of itself what cannot be.
    pub fn new(snapshot: Snapshot, test: &TrafficTest, seed: u64) -> Result<Offline, Error> {
        let schema = Schema::load().map_err(Error::unreadable)?;
        let mut cast = Vec::new();
        for pod in rehearsal::cast(&snapshot) {
            let bootstrap = match &pod.bootstrap {
                Some(bootstrap) => Some(Bootstrap::parse(&bootstrap.to_string(), &schema).map_err(Error::unreadable)?),
                None => None,
            };
            let application = application(&pod.programs)
                .map_err(|error| Error::Usage(format!("pod {}/{}: {error}", pod.namespace, pod.name)))?;
            let rehearsal::Cast { name, namespace, addresses, .. } = pod;
            cast.push(Cast { name, namespace, addresses, bootstrap, application });
        }
        let who = Who::new(
            snapshot.objects(Kind::Pod).map(|object| object.raw()),
            snapshot.objects(Kind::DestinationRule).map(|object| object.raw()),
        );
        let ingress = snapshot.typed::<Service>(ingress::NAMESPACE, ingress::SERVICE);
        let ingress = ingress.and_then(|service| service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok());
        let unfetched = keys_wanted(&snapshot).into_keys().map(|at| match at {
            KeysAt::Address(at) | KeysAt::Issuer(at) => format!("keys of {at} are not fetched: its tokens are refused"),
        });
        let unfetched = unfetched.collect();
        let (config, now) = (lateen_pilot::Config::default(), SystemTime::now());
        let (directory, credentials) = (directory(&snapshot), issued::credentials(test));
        let world = World::new(Arc::new(snapshot), cast, directory, credentials, config, seed, now);
        Ok(Offline { world, who, ingress, steps: 0, told: 0, unfetched })
    }

    /// What proxies could not be given so far, or would refuse, since it was last asked.
    pub fn problems(&mut self) -> Vec<String> {
        let new: Vec<String> = self.world.problems().drain(..).skip(self.told).collect();
        self.told += new.len();
        self.unfetched.drain(..).chain(new).collect()
    }

    /// Runs a step; with explanations if they are wanted.
    ///
    /// # Errors
    /// When requests cannot be sent at all.
    pub fn step(&mut self, step: &Step, test: &TrafficTest) -> Result<(Ran, Vec<Explanation>), Error> {
        self.steps += 1;
        let plan = Plan::of(&step.send, &format!("lateen-test/offline.{}", self.steps), &Certificates::default())?;
        let namespace = test.metadata.namespace.as_str();
        let from = self.sender(&step.send.from, namespace)?;
        let received = |pod: &Rc<Pod>| (pod.name.to_string(), pod.received.get());
        let before: BTreeMap<String, u64> = self.world.pods().iter().map(received).collect();
        let clock = &self.world.clock;
        let sending = Sending {
            world: &self.world,
            from,
            clients: (0..plan.clients).map(|number| Client { number, ..Client::default() }).collect(),
            next: Cell::new(0),
            done: RefCell::default(),
            tls: issued::client(test, &step.send, &plan.host),
            plan,
        };
        let stuck = || Error::Usage("a request waits for what never happens".to_owned());
        clock.run(clock.sleep(step.wait.0)).ok_or_else(stuck)?;
        let began = clock.now();
        let workers = (0..sending.plan.concurrency).map(|_| sending.work());
        clock.run(join_all(workers)).ok_or_else(stuck)?;
        let took = clock.now() - began;
        clock.run(self.stragglers()).ok_or_else(stuck)?;
        let mut done = sending.done.take();
        done.sort_by_key(|(outcome, _)| outcome.number);
        let (requests, traces): (Vec<Outcome>, Vec<Trace>) = done.into_iter().unzip();
        let received = self.world.pods().iter().filter_map(|pod| {
            let count = pod.received.get() - before.get(&*pod.name).copied().unwrap_or(0);
            (count > 0).then(|| (pod.name.to_string(), count))
        });
        let outcomes = Outcomes { requests, received: received.collect() };
        let verdicts = judge::judge(&step.expect, &outcomes, &self.who, namespace);
        let explanations = self.explain(&outcomes.requests, traces);
        Ok((Ran::of(step, took, verdicts), explanations))
    }

    /// Waits for copies of requests that are still on their way.
    async fn stragglers(&self) {
        let clock = &self.world.clock;
        let end = clock.now() + STRAGGLERS;
        while clock.is_busy() && clock.now() < end {
            clock.sleep(LOOK).await;
        }
    }

    fn sender(&self, from: &str, namespace: &str) -> Result<From, Error> {
        if from == INGRESS {
            let missing = || Error::Usage(format!("there is no Service {}/{}", ingress::NAMESPACE, ingress::SERVICE));
            return Ok(From::Outside(self.ingress.ok_or_else(missing)?));
        }
        let named = self.who.workload(from, namespace);
        let found = named.first().and_then(|meant| {
            let mut pods = self.world.pods().iter();
            pods.find(|pod| *pod.name == *meant.name && pod.namespace == meant.namespace)
        });
        found
            .map(|pod| From::Pod(Rc::clone(pod)))
            .ok_or_else(|| Error::Usage(format!("there is no workload {from} in namespace {namespace} to send from")))
    }

    /// One request of each sort, the rarest sorts first.
    fn explain(&self, requests: &[Outcome], traces: Vec<Trace>) -> Vec<Explanation> {
        let mut sorts: BTreeMap<String, Explanation> = BTreeMap::new();
        for (outcome, trace) in requests.iter().zip(traces) {
            let by = if outcome.pod.is_empty() { "nobody" } else { self.who.workload_of(&outcome.pod) };
            let status = outcome.status.map_or_else(|| outcome.failure.clone(), |status| status.to_string());
            let words = format!("{status} from {by}");
            let sort = sorts.entry(words.clone()).or_insert_with(|| Explanation {
                outcome: words,
                number: outcome.number,
                alike: 0,
                trace,
            });
            sort.alike += 1;
        }
        let mut explanations: Vec<Explanation> = sorts.into_values().collect();
        explanations.sort_by_key(|explanation| explanation.alike);
        explanations.truncate(EXPLAINED);
        explanations
    }
}

/// What a pod's programs answer.
fn application(programs: &[Program]) -> Result<Rc<dyn Application>, String> {
    for program in programs {
        if let Some(options) = commands::app::simulated(&program.words, &program.environment) {
            return Ok(Rc::new(Simulated::new(options?)));
        }
    }
    Ok(Rc::new(Unknown))
}

fn directory(snapshot: &Snapshot) -> Directory {
    let names = Rc::new(rehearsal::Directory::new(snapshot));
    let services = Rc::clone(&names);
    Directory {
        names: Box::new(move |name, namespace| names.addresses(name, namespace)),
        services: Box::new(move |address| services.behind(address)),
        inside: Box::new(|address| network::is_pod(address) || network::is_virtual(address)),
        outside: Rc::new(Unknown),
    }
}

/// Who sends.
enum From {
    /// Somebody outside, to the ingress gateway's Service.
    Outside(IpAddr),
    Pod(Rc<Pod>),
}

struct Sending<'a> {
    world: &'a Rc<World>,
    from: From,
    plan: Plan,
    tls: Option<ClientTls>,
    clients: Vec<Client>,
    next: Cell<u64>,
    done: RefCell<Vec<(Outcome, Trace)>>,
}

/// One client: the ends of its connections without a request, and its cookies.
#[derive(Default)]
struct Client {
    number: u64,
    idle: RefCell<Vec<SocketAddr>>,
    cookies: RefCell<Jar>,
}

impl Sending<'_> {
    async fn work(&self) {
        loop {
            let number = self.next.get();
            if number >= self.plan.count {
                return;
            }
            self.next.set(number + 1);
            let at = usize::try_from(number % self.plan.clients).unwrap_or(0);
            let Some(client) = self.clients.get(at) else { return };
            let done = self.one(client, number).await;
            self.done.borrow_mut().push(done);
        }
    }

    async fn one(&self, client: &Client, number: u64) -> (Outcome, Trace) {
        let (clock, trace) = (&self.world.clock, Trace::new());
        let began = clock.now();
        let peer = client.idle.borrow_mut().pop();
        let peer = peer.unwrap_or_else(|| self.world.next_source(self.address(client)));
        let exchange = self.exchange(client, peer, &trace);
        let heard = match select(pin!(exchange), clock.sleep(self.plan.timeout)).await {
            Either::Left((heard, _)) => heard,
            Either::Right(_) => Heard::Broken { how: Broken::Closed, why: "no answer in time".to_owned() },
        };
        let mut outcome = Outcome { number, client: client.number, latency: clock.now() - began, ..Outcome::default() };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match heard {
            Heard::Http(answer) => {
                outcome.status = Some(answer.head.status);
                outcome.headers =
                    answer.head.headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
                outcome.body = text(&answer.body);
                outcome.pod = answer.by.as_deref().unwrap_or_default().to_owned();
                if self.plan.cookies {
                    let given = answer.head.headers.get_all("set-cookie");
                    client.cookies.borrow_mut().keep(given.filter_map(|value| std::str::from_utf8(value).ok()));
                }
                client.idle.borrow_mut().push(peer);
            }
            Heard::Bytes { bytes, .. } if bytes.is_empty() => outcome.failure = "closed without an answer".to_owned(),
            Heard::Bytes { bytes, by } => {
                outcome.status = Some(200);
                outcome.body = text(&bytes);
                outcome.pod = by.as_deref().unwrap_or_default().to_owned();
            }
            Heard::Broken { why, .. } => outcome.failure = why,
        }
        (outcome, trace)
    }

    fn address(&self, client: &Client) -> IpAddr {
        match &self.from {
            From::Outside(_) => client_address(client.number),
            From::Pod(pod) => pod.address(),
        }
    }

    async fn exchange(&self, client: &Client, peer: SocketAddr, trace: &Trace) -> Heard {
        let said = match &self.tls {
            Some(tls) => self.said(client).within(tls.clone()),
            None => self.said(client),
        };
        match &self.from {
            From::Outside(ingress) => {
                let to = SocketAddr::new(*ingress, self.plan.port);
                let said = match self.plan.told {
                    Some(ip) => said.telling(Told { source: SocketAddr::new(ip, peer.port()), destination: to }),
                    None => said,
                };
                self.world.from_outside(peer, to, said, trace).await
            }
            From::Pod(pod) => {
                let target = Target { host: self.plan.host.clone(), port: self.plan.port };
                self.world.from_pod(pod, &target, peer, said, trace).await
            }
        }
    }

    fn said(&self, client: &Client) -> Said {
        let plan = &self.plan;
        let body = Bytes::copy_from_slice(plan.body.as_bytes());
        if plan.tcp {
            return Said::Bytes(body);
        }
        let mut head = RequestHead {
            method: plan.method.clone(),
            authority: plan.authority.clone(),
            path: plan.path.clone(),
            ..RequestHead::default()
        };
        for (name, value) in &plan.headers {
            if name.eq_ignore_ascii_case("host") {
                head.authority.clone_from(value);
            } else {
                head.headers.append(name, value);
            }
        }
        if !body.is_empty() {
            head.headers.append("content-length", body.len().to_string());
        }
        if let Some(cookies) = client.cookies.borrow().header() {
            head.headers.append("cookie", cookies);
        }
        Said::Http(Request { head, body })
    }
}
