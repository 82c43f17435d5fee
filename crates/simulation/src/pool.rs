//! Connections of a proxy to one host: which are free, who waits, and what limits allow. One worker is simulated, so
//! limits are held as strictly as they can be.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use futures::channel::oneshot;
use lateen_traffic::Protocol;
use lateen_traffic::cluster::ClusterSettings;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::tls::Wanted;

use crate::message::{Heard, Said, Within};
use crate::tls::Greeting;
use crate::trace::Trace;
use crate::upstream::{Counted, Host, Upstream};
use crate::world::{Origin, Reached, World};

/// The two ends of a connection.
#[derive(Clone)]
pub(crate) struct Wire {
    /// The proxy's.
    pub source: SocketAddr,
    /// Whoever took it.
    pub reached: Reached,
    /// What TLS it begins with, if it is one of TLS.
    tls: Option<Rc<Greeting>>,
    /// Who else may have it: whose TLS is to be the same.
    wanted: Wanted,
}

impl Wire {
    /// Says something on the connection, and hears the answer.
    pub async fn say(self, world: &Rc<World>, said: Said, trace: &Trace) -> Heard {
        let said = match self.tls {
            Some(greeting) => Said::Within(Within { greeting, said: Box::new(said) }),
            None => said,
        };
        self.reached.take(world, self.source, said, trace).await
    }
}

/// Sidecars connect to the program beside them from these addresses, by which redirect rules let them pass (Istio's).
const BESIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)), IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))];

/// Connections to a host.
#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Connection>>,
    shared: RefCell<Vec<Rc<Shared>>>,
    opening: Cell<bool>,
    open: Cell<u32>,
    waiting: RefCell<VecDeque<oneshot::Sender<()>>>,
}

/// A connection that one request uses at a time.
struct Connection {
    wire: Wire,
    uses: u32,
    born: Duration,
    idle_since: Duration,
    _open: Open,
}

/// A connection that many use.
struct Shared {
    wire: Wire,
    streams: Cell<u32>,
    uses: Cell<u32>,
    born: Duration,
    idle_since: Cell<Duration>,
    _open: Open,
}

/// Counts a connection while it is open.
struct Open {
    upstream: Rc<Upstream>,
    host: Rc<Host>,
}

impl Open {
    fn new(upstream: &Rc<Upstream>, host: &Rc<Host>) -> Open {
        upstream.connections.set(upstream.connections.get() + 1);
        host.pool.open.set(host.pool.open.get() + 1);
        Open { upstream: Rc::clone(upstream), host: Rc::clone(host) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.upstream.connections.set(self.upstream.connections.get() - 1);
        self.host.pool.open.set(self.host.pool.open.get() - 1);
        // Its place is free for another connection.
        self.host.pool.wake_one();
    }
}

/// A connection for one request.
pub(crate) struct Lease {
    kind: Option<Leased>,
    host: Rc<Host>,
}

enum Leased {
    One(Connection),
    Shared(Rc<Shared>),
}

impl Lease {
    /// Its ends.
    pub fn wire(&self) -> Option<&Wire> {
        match self.kind.as_ref()? {
            Leased::One(connection) => Some(&connection.wire),
            Leased::Shared(shared) => Some(&shared.wire),
        }
    }

    /// The answer was whole: the next request may have the connection. `used`: there was a request at all.
    pub fn release(mut self, world: &World, settings: &ClusterSettings, used: bool) {
        let Some(Leased::One(mut connection)) = self.kind.take_if(|kind| matches!(kind, Leased::One(_))) else {
            return;
        };
        connection.uses += u32::from(used);
        if settings.max_requests_per_connection.is_some_and(|limit| connection.uses >= limit) {
            return;
        }
        connection.idle_since = world.clock.now();
        self.host.pool.idle.borrow_mut().push(connection);
        self.host.pool.wake_one();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(Leased::Shared(shared)) = &self.kind {
            shared.streams.set(shared.streams.get() - 1);
            self.host.pool.wake_one();
        }
    }
}

/// One connection of HTTP/2 is opened at a time; the others who want one wait for it.
struct Opening<'a>(&'a Pool);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.waiting.borrow_mut().drain(..).for_each(|waiter| _ = waiter.send(()));
    }
}

impl Pool {
    fn wake_one(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(waiter) = waiting.pop_front() {
            if waiter.send(()).is_ok() {
                return;
            }
        }
    }

    async fn change(&self) {
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().push_back(sender);
        // An error means that the pool went away; the caller looks again either way.
        let _ = receiver.await;
    }

    fn take_idle(&self, now: Duration, settings: &ClusterSettings, wanted: &Wanted) -> Option<Connection> {
        loop {
            let at = self.idle.borrow().iter().rposition(|connection| connection.wire.wanted == *wanted)?;
            let connection = self.idle.borrow_mut().remove(at);
            if !is_due(now, connection.born, connection.idle_since, settings) {
                return Some(connection);
            }
        }
    }
}

/// Whether a connection without requests is closed by now: it had none for too long, or is too old.
fn is_due(now: Duration, born: Duration, idle_since: Duration, settings: &ClusterSettings) -> bool {
    let over = |since: Duration, limit: Option<Duration>| limit.is_some_and(|limit| now - since >= limit);
    over(idle_since, settings.idle_timeout) || over(born, settings.max_connection_duration)
}

impl Upstream {
    /// A connection to a host for a request of a client that speaks `client`.
    ///
    /// # Errors
    /// When there is none to be had, or a limit is reached.
    pub async fn lease(
        self: &Rc<Self>,
        world: &World,
        host: &Rc<Host>,
        client: Protocol,
        wanted: &Wanted,
    ) -> Result<Lease, UpstreamFailure> {
        if self.settings().protocol.is_http2(client) {
            return self.shared(world, host, wanted).await;
        }
        let settings = self.settings();
        let one = |connection| Lease { kind: Some(Leased::One(connection)), host: Rc::clone(host) };
        if let Some(connection) = host.pool.take_idle(world.clock.now(), settings, wanted) {
            return Ok(one(connection));
        }
        let _pending = self.pend()?;
        loop {
            if self.may_open(host) {
                let (wire, open) = self.open(world, host, wanted).await?;
                let now = world.clock.now();
                return Ok(one(Connection { wire, uses: 0, born: now, idle_since: now, _open: open }));
            }
            host.pool.change().await;
            if let Some(connection) = host.pool.take_idle(world.clock.now(), settings, wanted) {
                return Ok(one(connection));
            }
        }
    }

    async fn shared(
        self: &Rc<Self>,
        world: &World,
        host: &Rc<Host>,
        wanted: &Wanted,
    ) -> Result<Lease, UpstreamFailure> {
        let settings = self.settings();
        let mut pending = None;
        loop {
            let found = {
                let now = world.clock.now();
                let mut all = host.pool.shared.borrow_mut();
                all.retain(|c| {
                    settings.max_requests_per_connection.is_none_or(|most| c.uses.get() < most)
                        && !(c.streams.get() == 0 && is_due(now, c.born, c.idle_since.get(), settings))
                });
                all.iter()
                    .find(|c| c.streams.get() < settings.http2.max_concurrent_streams && c.wire.wanted == *wanted)
                    .cloned()
            };
            if let Some(shared) = found {
                shared.streams.set(shared.streams.get() + 1);
                shared.uses.set(shared.uses.get() + 1);
                shared.idle_since.set(world.clock.now());
                return Ok(Lease { kind: Some(Leased::Shared(shared)), host: Rc::clone(host) });
            }
            if pending.is_none() {
                pending = Some(self.pend()?);
            }
            if host.pool.opening.get() || !self.may_open(host) {
                host.pool.change().await;
                continue;
            }
            host.pool.opening.set(true);
            let _opening = Opening(&host.pool);
            let (wire, open) = self.open(world, host, wanted).await?;
            let now = world.clock.now();
            host.pool.shared.borrow_mut().push(Rc::new(Shared {
                wire,
                streams: Cell::new(0),
                uses: Cell::new(0),
                born: now,
                idle_since: Cell::new(now),
                _open: open,
            }));
        }
    }

    /// A connection for bytes.
    ///
    /// # Errors
    /// When there is none to be had, or the limit is reached.
    pub async fn connect(self: &Rc<Self>, world: &World, host: &Rc<Host>) -> Result<Lease, UpstreamFailure> {
        let wanted = &Wanted::default();
        if self.connections.get() >= self.settings().limits.max_connections {
            return Err(UpstreamFailure::Overflow);
        }
        let (wire, open) = self.open(world, host, wanted).await?;
        let now = world.clock.now();
        let connection = Connection { wire, uses: 0, born: now, idle_since: now, _open: open };
        Ok(Lease { kind: Some(Leased::One(connection)), host: Rc::clone(host) })
    }

    fn pend(&self) -> Result<Counted<'_>, UpstreamFailure> {
        let limit = self.settings().limits.max_pending_requests;
        Counted::take(&self.pending, limit).ok_or(UpstreamFailure::Overflow)
    }

    /// One connection a host is always allowed; beyond that the cluster's limit holds.
    fn may_open(&self, host: &Host) -> bool {
        self.connections.get() < self.settings().limits.max_connections || host.pool.open.get() == 0
    }

    async fn open(
        self: &Rc<Self>,
        world: &World,
        host: &Rc<Host>,
        wanted: &Wanted,
    ) -> Result<(Wire, Open), UpstreamFailure> {
        let open = Open::new(self, host);
        world.hop().await;
        let bind = self.settings().bind.as_ref().and_then(|bind| bind.source).map(|source| source.ip());
        let beside = bind.is_some_and(|ip| BESIDE.contains(&ip));
        let origin = if beside { Origin::Beside(&self.owner) } else { Origin::Proxy(&self.owner) };
        let reached = host.address().and_then(|address| world.reach(origin, address));
        let reached = reached.ok_or(UpstreamFailure::Connect("Connection refused".into()))?;
        let source = world.next_source(bind.unwrap_or(self.owner.address()));
        let tls = match (self.tls(host), self.owner.proxy(world)) {
            (Some(tls), Some(proxy)) => {
                let greeting = Rc::new(Greeting::new(tls, &proxy.side(), wanted));
                let refused = |why| UpstreamFailure::Tls(format!("TLS_error:|{why}:TLS_error_end").into());
                reached.greet(source, &greeting).map_err(refused)?;
                Some(greeting)
            }
            _ => None,
        };
        Ok((Wire { source, reached, tls, wanted: wanted.clone() }, open))
    }
}
