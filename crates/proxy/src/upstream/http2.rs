//! HTTP/2 connections to a host, shared by many requests.

use std::cell::Cell;
use std::rc::Rc;

use lateen_traffic::cluster::{ClusterSettings, UpstreamBind};
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::tls::Wanted;
use tokio::time::Instant;

use super::pool::{Pool, is_due};
use super::tls::Offer;
use super::{Host, Upstream};
use crate::http2::keepalive::unanswered;
use crate::http2::{Client, Connection, Failure, Reason, Settings};
use crate::io::Io;

/// An HTTP/2 connection to a host.
pub(super) struct Http2Connection {
    client: Client,
    io: Rc<Io>,
    streams: Cell<u32>,
    uses: Cell<u32>,
    born: Instant,
    idle_since: Cell<Instant>,
    open: Cell<bool>,
}

/// A place for one stream on an HTTP/2 connection.
pub struct Http2Lease {
    connection: Rc<Http2Connection>,
    pool: Rc<Pool>,
}

impl Http2Connection {
    pub(super) fn is_open(&self) -> bool {
        self.open.get() && self.client.is_open()
    }

    /// It takes no more streams.
    pub(super) fn retire(&self) {
        self.open.set(false);
    }

    /// Nothing happens on it, and one of its limits is over.
    pub(super) fn is_due(&self, now: Instant, settings: &ClusterSettings) -> bool {
        self.streams.get() == 0 && is_due(now, self.born, self.idle_since.get(), settings)
    }
}

impl Upstream {
    /// A place for one request on an HTTP/2 connection to `host`.
    ///
    /// # Errors
    /// When there is none to be had, or a limit is reached.
    pub async fn http2(
        &self,
        host: &Rc<Host>,
        bind: Option<&UpstreamBind>,
        wanted: &Wanted,
    ) -> Result<Http2Lease, UpstreamFailure> {
        let settings = self.settings();
        let pool = host.pools.of(wanted);
        let limit = settings.http2.max_concurrent_streams;
        let mut pending = None;
        loop {
            let found = {
                let mut all = pool.http2.borrow_mut();
                all.retain(|c| {
                    c.is_open()
                        && settings.max_requests_per_connection.is_none_or(|most| c.uses.get() < most)
                        && settings.max_connection_duration.is_none_or(|most| c.born.elapsed() < most)
                });
                all.iter().find(|c| c.streams.get() < limit.min(c.client.most_streams())).cloned()
            };
            if let Some(connection) = found {
                connection.streams.set(connection.streams.get() + 1);
                connection.uses.set(connection.uses.get() + 1);
                return Ok(Http2Lease { connection, pool });
            }
            if pending.is_none() {
                pending = Some(self.pend(&settings)?);
            }
            if pool.http2_opening.get() || !self.may_open(&pool, &settings) {
                pool.changed().await;
                continue;
            }
            let opening = Opening::begin(&pool);
            // Apart, so that requests that find a connection need no room for it.
            let opened = Box::pin(self.open(host, &pool, &settings, bind, Offer::http(wanted, "h2")));
            let (io, counted) = opened.await?;
            let told = Settings {
                stream_window: settings.http2.stream_window,
                connection_window: settings.http2.connection_window,
                ..Settings::default()
            };
            let (client, driver) = Connection::client(Rc::clone(&io), told);
            self.stats.upstream_cx_http2_total.inc();
            let now = Instant::now();
            let unanswered = unanswered(driver.pings(), settings.http2.keepalive, Rc::clone(&io));
            let connection = Rc::new(Http2Connection {
                client,
                io,
                streams: Cell::new(0),
                uses: Cell::new(0),
                born: now,
                idle_since: Cell::new(now),
                open: Cell::new(true),
            });
            pool.http2.borrow_mut().push(Rc::clone(&connection));
            tokio::task::spawn_local({
                let (connection, pool) = (Rc::downgrade(&connection), Rc::downgrade(&pool));
                async move {
                    let more = || pool.upgrade().iter().for_each(|pool| pool.wake_all());
                    // How it ended is seen by each stream; a peer that is silent is left with all of them.
                    tokio::select! {
                        biased;
                        _ = driver.run(more) => {}
                        () = unanswered => {}
                    }
                    if let Some(connection) = connection.upgrade() {
                        connection.open.set(false);
                    }
                    drop(counted);
                }
            });
            drop(opening);
        }
    }
}

/// One connection is opened at a time; the others who want one wait for it.
struct Opening<'a>(&'a Pool);

impl<'a> Opening<'a> {
    fn begin(pool: &'a Pool) -> Self {
        pool.http2_opening.set(true);
        Self(pool)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.http2_opening.set(false);
        self.0.wake_all();
    }
}

impl Http2Lease {
    /// Sends the request.
    pub fn client(&self) -> &Client {
        &self.connection.client
    }

    /// The stream under the connection.
    pub fn io(&self) -> &Rc<Io> {
        &self.connection.io
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        let c = &self.connection;
        c.streams.set(c.streams.get() - 1);
        c.idle_since.set(Instant::now());
        self.pool.wake_one();
    }
}

/// What the end of a stream means for a request that has no response yet, or only part of one.
pub fn failure(failure: Failure) -> UpstreamFailure {
    match failure {
        Failure::Reset(Reason::REFUSED_STREAM) | Failure::NotTaken => UpstreamFailure::RefusedStream,
        Failure::Reset(Reason::PROTOCOL_ERROR) | Failure::Violation => UpstreamFailure::Protocol,
        Failure::Reset(_) => UpstreamFailure::RemoteReset,
        Failure::Closed => UpstreamFailure::Termination,
    }
}
