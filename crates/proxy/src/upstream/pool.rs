//! A worker's connections to one host, apart by what their TLS was to be.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lateen_traffic::cluster::{ClusterSettings, UpstreamBind};
use lateen_traffic::proxy_protocol;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::tls::Wanted;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::http2::Http2Connection;
use super::tls::Offer;
use super::{ClusterShared, Host, HostShared, Permit, Upstream, dial};
use crate::http1::{Reader, Writer};
use crate::io::Io;
use crate::stats::ClusterStats;

/// Kinds of TLS to one host that are kept apart; beyond these only as many as requests use at the moment.
const MOST_POOLS: usize = 64;

/// All of a worker's connections to one host.
#[derive(Default)]
pub struct Pools(RefCell<Vec<Rc<Pool>>>);

/// Idle connections and those who wait for one.
#[derive(Default)]
pub struct Pool {
    wanted: Wanted,
    idle: RefCell<Vec<Http1Connection>>,
    pub(super) http2: RefCell<Vec<Rc<Http2Connection>>>,
    pub(super) http2_opening: Cell<bool>,
    waiting: RefCell<VecDeque<oneshot::Sender<()>>>,
    open: Cell<u32>,
    // How often all connections were retired.
    retired: Cell<u32>,
}

/// An HTTP/1.1 connection to a host.
pub struct Http1Connection {
    /// Reads responses.
    pub reader: Reader,
    /// Writes requests.
    pub writer: Writer,
    /// The stream under both.
    pub io: Rc<Io>,
    uses: u32,
    // Of its pool, when it was made.
    retired: u32,
    born: Instant,
    idle_since: Instant,
    counted: Counted,
}

/// An HTTP/1.1 connection while one request uses it.
pub struct Http1Lease {
    connection: Option<Http1Connection>,
    pool: Rc<Pool>,
}

/// An open connection, counted wherever connections are counted.
pub(super) struct Counted {
    cluster: Arc<ClusterShared>,
    host: Arc<HostShared>,
    stats: Arc<ClusterStats>,
    owner: std::rc::Weak<Pool>,
    // The connection itself, once it is there, and since when.
    io: std::cell::OnceCell<(Rc<Io>, Instant)>,
}

impl Counted {
    fn new(upstream: &Upstream, host: &Host, pool: &Rc<Pool>) -> Self {
        upstream.shared.connections.fetch_add(1, Ordering::Relaxed);
        if !upstream.shared.had_traffic.load(Ordering::Relaxed) {
            upstream.shared.had_traffic.store(true, Ordering::Relaxed);
        }
        host.shared.connections.fetch_add(1, Ordering::Relaxed);
        host.shared.connections_total.fetch_add(1, Ordering::Relaxed);
        pool.open.set(pool.open.get() + 1);
        upstream.stats.upstream_cx_total.inc();
        upstream.stats.upstream_cx_active.inc();
        Self {
            cluster: Arc::clone(&upstream.shared),
            host: Arc::clone(&host.shared),
            stats: Arc::clone(&upstream.stats),
            owner: Rc::downgrade(pool),
            io: std::cell::OnceCell::new(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.cluster.connections.fetch_sub(1, Ordering::Relaxed);
        self.host.connections.fetch_sub(1, Ordering::Relaxed);
        self.stats.upstream_cx_active.dec();
        self.stats.upstream_cx_destroy.inc();
        if let Some((io, since)) = self.io.get() {
            self.stats.upstream_cx_rx_bytes_total.add(io.received());
            self.stats.upstream_cx_tx_bytes_total.add(io.sent());
            self.stats.upstream_cx_length_ms.record(since.elapsed());
            if io.broke() {
                self.stats.tls().broken();
            }
        }
        if let Some(pool) = self.owner.upgrade() {
            pool.open.set(pool.open.get() - 1);
            // Its place is free for another connection.
            pool.wake_one();
        }
    }
}

impl Pools {
    /// Connections whose TLS is as wanted.
    pub(super) fn of(&self, wanted: &Wanted) -> Rc<Pool> {
        let mut all = self.0.borrow_mut();
        if let Some(pool) = all.iter().find(|pool| pool.wanted == *wanted) {
            return Rc::clone(pool);
        }
        if all.len() >= MOST_POOLS {
            // Names may be the clients' to choose: those that no request uses now go, with their idle connections.
            all.retain(|pool| Rc::strong_count(pool) > 1 || pool.is_used());
        }
        let made = Rc::new(Pool { wanted: wanted.clone(), ..Pool::default() });
        all.push(Rc::clone(&made));
        made
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().iter().all(|pool| pool.open.get() == 0)
    }

    /// No connection that is there takes another request.
    pub(super) fn retire(&self) {
        self.0.borrow().iter().for_each(|pool| pool.retire());
    }

    /// Closes idle connections that ended or are too old; tells how many stay.
    pub(super) fn sweep(&self, now: Instant, settings: &ClusterSettings) -> usize {
        let mut all = self.0.borrow_mut();
        let open = all.iter().map(|pool| pool.sweep(now, settings)).sum();
        // What nobody asks for any longer: filters may offer something else by now.
        all.retain(|pool| pool.open.get() > 0 || Rc::strong_count(pool) > 1);
        open
    }
}

impl Pool {
    fn put(&self, connection: Http1Connection) {
        self.idle.borrow_mut().push(connection);
        self.wake_one();
    }

    pub(super) fn wake_one(&self) {
        let Ok(mut waiting) = self.waiting.try_borrow_mut() else { return };
        while let Some(waiter) = waiting.pop_front() {
            if waiter.send(()).is_ok() {
                return;
            }
        }
    }

    pub(super) fn wake_all(&self) {
        for waiter in self.waiting.borrow_mut().drain(..) {
            let _ = waiter.send(());
        }
    }

    fn retire(&self) {
        self.retired.set(self.retired.get().wrapping_add(1));
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        drop(idle);
        for connection in self.http2.borrow_mut().drain(..) {
            connection.retire();
        }
    }

    fn sweep(&self, now: Instant, settings: &ClusterSettings) -> usize {
        let (keep, close): (Vec<_>, Vec<_>) = self
            .idle
            .borrow_mut()
            .drain(..)
            .partition(|c| !c.io.is_readable() && !is_due(now, c.born, c.idle_since, settings));
        *self.idle.borrow_mut() = keep;
        drop(close);
        self.http2.borrow_mut().retain(|c| c.is_open() && !c.is_due(now, settings));
        self.open.get() as usize
    }

    /// Whether connections are open that would not end with it.
    fn is_used(&self) -> bool {
        let idle = self.idle.borrow().len() + self.http2.borrow().len();
        self.open.get() as usize > idle
    }

    fn take_idle(&self, settings: &ClusterSettings) -> Option<Http1Connection> {
        loop {
            let connection = self.idle.borrow_mut().pop()?;
            // Anything to read before a request was sent is the end of the connection, or nonsense.
            let stale =
                connection.io.is_readable() || is_due(Instant::now(), connection.born, connection.idle_since, settings);
            if !stale {
                return Some(connection);
            }
        }
    }

    /// Waits for something in it to change.
    pub(super) async fn changed(&self) {
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().push_back(sender);
        // An error means that it went away with its host; the caller looks again either way.
        let _ = receiver.await;
    }
}

/// Whether a connection without requests is to be closed: it had none for too long, or is too old.
pub(super) fn is_due(now: Instant, born: Instant, idle_since: Instant, settings: &ClusterSettings) -> bool {
    let over = |since: Instant, limit: Option<Duration>| limit.is_some_and(|limit| now.duration_since(since) >= limit);
    over(idle_since, settings.idle_timeout) || over(born, settings.max_connection_duration)
}

impl Upstream {
    /// A connection to `host` for one HTTP/1.1 request.
    ///
    /// # Errors
    /// When there is none to be had, or a limit is reached.
    pub async fn http1(
        &self,
        host: &Rc<Host>,
        bind: Option<&UpstreamBind>,
        wanted: &Wanted,
    ) -> Result<Http1Lease, UpstreamFailure> {
        let settings = self.settings();
        let pool = host.pools.of(wanted);
        if let Some(connection) = pool.take_idle(&settings) {
            return Ok(Http1Lease { connection: Some(connection), pool });
        }
        let _pending = self.pend(&settings)?;
        loop {
            if self.may_open(&pool, &settings) {
                let offer = Offer::http(wanted, "http/1.1");
                // Apart, so that requests that find a connection need no room for it.
                let (io, counted) = Box::pin(self.open(host, &pool, &settings, bind, offer)).await?;
                self.stats.upstream_cx_http1_total.inc();
                let now = Instant::now();
                let connection = Http1Connection {
                    reader: Reader::new(Rc::clone(&io)),
                    writer: Writer::new(Rc::clone(&io)),
                    io,
                    uses: 0,
                    retired: pool.retired.get(),
                    born: now,
                    idle_since: now,
                    counted,
                };
                return Ok(Http1Lease { connection: Some(connection), pool });
            }
            pool.changed().await;
            if let Some(connection) = pool.take_idle(&settings) {
                // As in Envoy, those who go on waiting try for a connection whenever one has become free.
                if !pool.waiting.borrow().is_empty() {
                    self.may_open(&pool, &settings);
                }
                return Ok(Http1Lease { connection: Some(connection), pool });
            }
        }
    }

    /// A plain connection to `host`, for TCP.
    ///
    /// # Errors
    /// When there is none to be had, or a limit is reached.
    pub async fn tcp(
        &self,
        host: &Rc<Host>,
        bind: Option<&UpstreamBind>,
        wanted: &Wanted,
    ) -> Result<TcpLease, UpstreamFailure> {
        let settings = self.settings();
        if self.shared.connections.load(Ordering::Relaxed) >= settings.limits.max_connections {
            self.stats.upstream_cx_overflow.inc();
            return Err(UpstreamFailure::Overflow);
        }
        let (io, counted) = self.open(host, &host.pools.of(wanted), &settings, bind, Offer::tcp(wanted)).await?;
        Ok(TcpLease { io, stats: Arc::clone(&self.stats), counted })
    }

    /// Whether the cluster may have one connection more.
    pub fn has_room(&self) -> bool {
        self.shared.connections.load(Ordering::Relaxed) < self.settings().limits.max_connections
    }

    pub(super) fn pend(&self, settings: &ClusterSettings) -> Result<Pending, UpstreamFailure> {
        let Some(permit) = Permit::take(&self.shared, |s| &s.pending, settings.limits.max_pending_requests) else {
            self.stats.upstream_rq_pending_overflow.inc();
            return Err(UpstreamFailure::Overflow);
        };
        self.stats.upstream_rq_pending_total.inc();
        self.stats.upstream_rq_pending_active.inc();
        Ok(Pending { _permit: permit, stats: Arc::clone(&self.stats) })
    }

    /// One connection a pool is always allowed, as in Envoy; beyond that the cluster's limit holds.
    pub(super) fn may_open(&self, pool: &Pool, settings: &ClusterSettings) -> bool {
        let room = self.shared.connections.load(Ordering::Relaxed) < settings.limits.max_connections;
        if !room {
            self.stats.upstream_cx_overflow.inc();
        }
        room || pool.open.get() == 0
    }

    pub(super) async fn open(
        &self,
        host: &Rc<Host>,
        pool: &Rc<Pool>,
        settings: &ClusterSettings,
        bind: Option<&UpstreamBind>,
        offer: Offer<'_>,
    ) -> Result<(Rc<Io>, Counted), UpstreamFailure> {
        let counted = Counted::new(self, host, pool);
        let connecting = async {
            let failed = |error: std::io::Error| UpstreamFailure::Connect(words(&error));
            let mut socket = dial(&host.target, settings, bind).await.map_err(failed)?;
            if let (Some(version), Some((told, _))) = (settings.proxy_protocol, &host.told) {
                socket.write_all(&proxy_protocol::write(version, *told)).await.map_err(failed)?;
            }
            self.transport(host, settings, socket, offer).await
        };
        let begun = Instant::now();
        match tokio::time::timeout(settings.connect_timeout, connecting).await {
            Ok(Ok(io)) => {
                let (io, now) = (Rc::new(io), Instant::now());
                self.stats.upstream_cx_connect_ms.record(now - begun);
                // Set once, here.
                let _ = counted.io.set((Rc::clone(&io), now));
                Ok((io, counted))
            }
            Ok(Err(failure)) => {
                self.stats.upstream_cx_connect_fail.inc();
                host.shared.connect_failures.fetch_add(1, Ordering::Relaxed);
                Err(failure)
            }
            Err(_) => {
                self.stats.upstream_cx_connect_fail.inc();
                self.stats.upstream_cx_connect_timeout.inc();
                host.shared.connect_failures.fetch_add(1, Ordering::Relaxed);
                Err(UpstreamFailure::ConnectTimeout)
            }
        }
    }
}

/// A plain connection to a host.
pub struct TcpLease {
    /// The stream.
    pub io: Rc<Io>,
    /// Statistics of its cluster.
    pub stats: Arc<ClusterStats>,
    counted: Counted,
}

impl TcpLease {
    /// Ready when the host becomes unhealthy, in clusters whose connections end then.
    pub async fn host_fell(&self) {
        self.counted.host.fell.notified().await;
    }
}

/// A request waiting for a connection.
pub(super) struct Pending {
    _permit: Permit,
    stats: Arc<ClusterStats>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.stats.upstream_rq_pending_active.dec();
    }
}

/// The system's words for an error, without the number that Rust appends.
fn words(error: &std::io::Error) -> Cow<'static, str> {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned().into(),
        None => text.into(),
    }
}

impl Http1Lease {
    /// The connection.
    pub fn parts(&mut self) -> Option<(&mut Reader, &mut Writer, &Rc<Io>)> {
        self.connection.as_mut().map(|c| (&mut c.reader, &mut c.writer, &c.io))
    }

    /// Puts the connection back for the next request, if `settings` allow another.
    pub fn release(mut self, settings: &ClusterSettings) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.uses += 1;
        if settings.max_requests_per_connection.is_some_and(|limit| connection.uses >= limit) {
            connection.counted.stats.upstream_cx_max_requests.inc();
            return;
        }
        if !connection.reader.buffer.is_empty() || connection.retired != self.pool.retired.get() {
            return;
        }
        connection.idle_since = Instant::now();
        self.pool.put(connection);
    }

    /// Puts the connection back as it was got.
    pub fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_clients_choose_do_not_pile_up() {
        let pools = Pools::default();
        let named = |name: u32| Wanted { server_name: Some(name.to_string().into()), ..Wanted::default() };
        let used = pools.of(&named(0));
        let busy = Rc::downgrade(&pools.of(&named(1)));
        // A connection for TCP holds no pool.
        busy.upgrade().unwrap().open.set(1);
        for name in 2..1000 {
            pools.of(&named(name));
        }
        assert!(pools.0.borrow().len() <= MOST_POOLS);
        assert!(Rc::ptr_eq(&used, &pools.of(&named(0))));
        assert!(busy.upgrade().is_some());
    }
}
