//! The cluster that is simulated: its pods, where addresses lead, the clock and the dice that all share.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::LocalBoxFuture;
use lateen_galley::Snapshot;
use lateen_traffic::Dice;
use lateen_xds::bootstrap::Bootstrap;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};

use crate::application::{Application, Place, Spoken};
use crate::client::outside_address;
use crate::clock::Clock;
use crate::compile::Compiler;
use crate::credentials::Credentials;
use crate::message::{Answer, Heard, Hello, Said};
use crate::proxy::Proxy;
use crate::tls::Greeting;
use crate::trace::{Decision, Trace};

/// What one way between two sockets takes.
const HOP: Duration = Duration::from_micros(50);

/// A pod to be simulated.
pub struct Cast {
    pub name: String,
    pub namespace: String,
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// The bootstrap of its proxy, if it has one.
    pub bootstrap: Option<Bootstrap>,
    pub application: Rc<dyn Application>,
}

type Lookup = dyn Fn(&str, &str) -> Option<Vec<IpAddr>>;

/// What the cluster's name server and its virtual addresses know.
pub struct Directory {
    /// The addresses of a name, looked up in a namespace; `None` if it is one of the outside world.
    pub names: Box<Lookup>,
    /// Where connections to a virtual address go; `None` if it is none.
    pub services: Box<dyn Fn(SocketAddr) -> Option<Vec<SocketAddr>>>,
    /// Whether an address can only be one of the cluster's.
    pub inside: Box<dyn Fn(IpAddr) -> bool>,
    /// What everybody outside of the cluster answers.
    pub outside: Rc<dyn Application>,
}

/// A pod at work.
pub struct Pod {
    pub name: Rc<str>,
    pub namespace: String,
    pub addresses: Vec<IpAddr>,
    /// Requests that reached its program.
    pub received: Cell<u64>,
    bootstrap: Option<Bootstrap>,
    proxy: OnceCell<Option<Rc<Proxy>>>,
    application: Rc<dyn Application>,
}

/// A simulated cluster.
pub struct World {
    pub clock: Clock,
    begin: SystemTime,
    dice: RefCell<SmallRng>,
    directory: Directory,
    credentials: Credentials,
    compiler: Compiler,
    pods: Vec<Rc<Pod>>,
    by_address: HashMap<IpAddr, Rc<Pod>>,
    sources: Cell<u16>,
    problems: RefCell<Vec<String>>,
}

/// Who connects.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    Outside,
    /// A pod's own program, past its sidecar.
    Program(&'a Pod),
    /// A pod's proxy.
    Proxy(&'a Pod),
    /// A sidecar, to the program beside it.
    Beside(&'a Pod),
}

/// Who is at an address.
#[derive(Clone)]
pub(crate) enum Reached {
    /// A pod's proxy, which takes what comes for its program.
    Proxy(Rc<Proxy>, SocketAddr),
    /// A pod's program.
    Program(Rc<Pod>, SocketAddr),
    /// Somebody outside of the cluster.
    Outside(SocketAddr),
}

impl World {
    /// A cluster with these objects and pods. `seed` is all that chance has; `begin` is when its clock, which then goes its
    /// own way, is set to (tokens have an end).
    pub fn new(
        snapshot: Arc<Snapshot>,
        cast: Vec<Cast>,
        directory: Directory,
        credentials: Credentials,
        config: lateen_pilot::Config,
        seed: u64,
        begin: SystemTime,
    ) -> Rc<World> {
        let pods: Vec<Rc<Pod>> = cast.into_iter().map(|cast| Rc::new(Pod::new(cast))).collect();
        let addresses = |pod: &Rc<Pod>| pod.addresses.iter().map(|ip| (*ip, Rc::clone(pod))).collect::<Vec<_>>();
        Rc::new(World {
            clock: Clock::default(),
            begin,
            dice: RefCell::new(SmallRng::seed_from_u64(seed)),
            directory,
            credentials,
            compiler: Compiler::new(snapshot, config),
            by_address: pods.iter().flat_map(addresses).collect(),
            pods,
            sources: Cell::new(0),
            problems: RefCell::default(),
        })
    }

    /// All pods.
    pub fn pods(&self) -> &[Rc<Pod>] {
        &self.pods
    }

    /// What proxies that had to do something so far could not be given, or would refuse, in words.
    pub fn problems(&self) -> Vec<String> {
        self.problems.borrow().clone()
    }

    pub(crate) fn problem(&self, of: &Pod, problem: &str) {
        let problem = format!("pod {}/{}: {problem}", of.namespace, of.name);
        let mut known = self.problems.borrow_mut();
        if !known.contains(&problem) {
            known.push(problem);
        }
    }

    /// The dice.
    pub fn dice(&self) -> impl Dice + '_ {
        || self.dice.borrow_mut().next_u64()
    }

    /// The clock's time as a calendar's.
    pub(crate) fn time(&self) -> SystemTime {
        self.begin + self.clock.now()
    }

    /// A client's end of a connection that is made now.
    pub fn next_source(&self, ip: IpAddr) -> SocketAddr {
        let next = self.sources.get().wrapping_add(1);
        self.sources.set(next);
        SocketAddr::new(ip, next | 0x8000)
    }

    pub(crate) async fn hop(&self) {
        self.clock.sleep(HOP).await;
    }

    /// All addresses of a name.
    pub(crate) fn addresses(&self, name: &str, namespace: &str) -> Vec<IpAddr> {
        (self.directory.names)(name, namespace).unwrap_or_else(|| vec![outside_address(name)])
    }

    /// The name of the pod at an address.
    pub(crate) fn pod_at(&self, ip: IpAddr) -> Option<&Rc<Pod>> {
        self.by_address.get(&ip.to_canonical())
    }

    /// Who takes a connection to an address.
    pub(crate) fn reach(&self, from: Origin<'_>, to: SocketAddr) -> Option<Reached> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        if let Some(endpoints) = (self.directory.services)(to) {
            // As the cluster's relay does: any one of them.
            let at = self.dice().below(endpoints.len() as u64) as usize;
            return self.reach_real(from, *endpoints.get(at)?);
        }
        self.reach_real(from, to)
    }

    fn reach_real(&self, from: Origin<'_>, to: SocketAddr) -> Option<Reached> {
        let own = match from {
            Origin::Outside => None,
            Origin::Proxy(pod) | Origin::Program(pod) | Origin::Beside(pod) if to.ip().is_loopback() => {
                self.pod_at(pod.address())
            }
            // As redirect rules have it: a proxy that calls its own pod as a client would comes in like any other.
            Origin::Proxy(_) => None,
            Origin::Program(pod) | Origin::Beside(pod) => {
                self.pod_at(to.ip()).filter(|there| there.addresses == pod.addresses)
            }
        };
        if let Some(own) = own {
            return own.application.listens(to.port()).then(|| Reached::Program(Rc::clone(own), to));
        }
        let Some(pod) = self.pod_at(to.ip()) else {
            let inside = (self.directory.inside)(to.ip()) || to.ip().is_loopback();
            return (!inside && self.directory.outside.listens(to.port())).then_some(Reached::Outside(to));
        };
        match pod.proxy(self) {
            Some(proxy) => proxy.inbound(to).then(|| Reached::Proxy(Rc::clone(proxy), to)),
            None => pod.application.listens(to.port()).then(|| Reached::Program(Rc::clone(pod), to)),
        }
    }
}

impl Reached {
    /// Whether TLS comes about with whoever it is.
    ///
    /// # Errors
    /// In words, when it does not.
    pub fn greet(&self, peer: SocketAddr, greeting: &Rc<Greeting>) -> Result<(), String> {
        let program = match self {
            Reached::Proxy(proxy, to) => return proxy.greet(peer, *to, greeting),
            Reached::Program(pod, to) => pod.application.spoken(to.port()),
            Reached::Outside(_) => Spoken::Either,
        };
        if program == Spoken::Plain { Err("the program speaks no TLS".to_owned()) } else { Ok(()) }
    }

    /// Says something on a new connection, and hears the answer.
    pub fn take<'a>(
        self,
        world: &'a Rc<World>,
        peer: SocketAddr,
        said: Said,
        trace: &'a Trace,
    ) -> LocalBoxFuture<'a, Heard> {
        Box::pin(async move {
            match self {
                Reached::Proxy(proxy, to) => proxy.take_inbound(world, peer, to, said, trace).await,
                Reached::Program(pod, to) => {
                    pod.received.set(pod.received.get() + 1);
                    let place = Place { world, pod: Some(&pod), to, trace, greeting: None };
                    answer(&*pod.application, place, said).await
                }
                Reached::Outside(to) => {
                    trace.tell(world, || Decision::Outside);
                    answer(&*world.directory.outside, Place { world, pod: None, to, trace, greeting: None }, said).await
                }
            }
        })
    }
}

impl Pod {
    fn new(cast: Cast) -> Pod {
        let Cast { name, namespace, addresses, bootstrap, application } = cast;
        Pod {
            name: name.into(),
            namespace,
            addresses,
            received: Cell::new(0),
            bootstrap,
            proxy: OnceCell::new(),
            application,
        }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.addresses.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    /// Its proxy, told what it is to know when it is first needed.
    pub fn proxy(self: &Rc<Self>, world: &World) -> Option<&Rc<Proxy>> {
        let made = self.proxy.get_or_init(|| {
            let bootstrap = self.bootstrap.as_ref()?;
            match world.compiler.compile(bootstrap) {
                Ok(compiled) => {
                    compiled.problems.iter().for_each(|problem| world.problem(self, problem));
                    Some(Rc::new(Proxy::new(Rc::clone(self), compiled, world.credentials.of(&self.namespace))))
                }
                Err(error) => {
                    world.problem(self, &format!("its proxy does not start: {error}"));
                    None
                }
            }
        });
        made.as_ref()
    }

    /// Its proxy, if that takes over what the pod's program sends.
    pub(crate) fn sidecar(self: &Rc<Self>, world: &World) -> Option<&Rc<Proxy>> {
        self.proxy(world).filter(|proxy| proxy.is_sidecar())
    }
}

/// What a program makes of what is said to it.
async fn answer(application: &dyn Application, place: Place<'_>, said: Said) -> Heard {
    let Place { world, pod, trace, .. } = place;
    let by = pod.map(|pod| Rc::clone(&pod.name));
    let greeting;
    let mut place = place;
    let said = match (said, application.spoken(place.to.port())) {
        (Said::Within(_), Spoken::Plain) => return Heard::closed("the program speaks no TLS"),
        (Said::Within(within), Spoken::Tls | Spoken::Either) => {
            greeting = within.greeting;
            place.greeting = Some(&greeting);
            *within.said
        }
        (Said::Http(_) | Said::Bytes(_) | Said::Told(..), Spoken::Tls) => {
            return Heard::closed("the program speaks TLS alone");
        }
        (said, _) => said,
    };
    let heard = match said {
        Said::Told(..) => Heard::closed("the program knows no PROXY protocol"),
        // TLS in TLS, which programs do not end.
        Said::Within(_) => Heard::closed("the program speaks no TLS within TLS"),
        Said::Http(request) => match application.answer(place, request).await {
            Ok(answer) => Heard::Http(Answer { by: by.clone(), ..answer }),
            Err(how) => Heard::Broken { how, why: "the service gives no answer".to_owned() },
        },
        Said::Bytes(bytes) | Said::Tls(Hello { bytes, .. }) => {
            Heard::Bytes { bytes: application.reply(place, &bytes), by: by.clone() }
        }
    };
    if let Some(pod) = by {
        let status = match &heard {
            Heard::Http(answer) => Some(answer.head.status),
            Heard::Bytes { .. } | Heard::Broken { .. } => None,
        };
        trace.tell(world, || Decision::Program { pod, status });
    }
    world.hop().await;
    heard
}
