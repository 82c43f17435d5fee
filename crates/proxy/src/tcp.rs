//! The TCP proxy at work.

mod tunnel;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::SystemTime;

use bytes::BytesMut;
use lateen_traffic::RequestHead;
use lateen_traffic::cluster::{Discovery, NameCache};
use lateen_traffic::format::Facts;
use lateen_traffic::hashing;
use lateen_traffic::listener::Gate;
use lateen_traffic::metadata::Metadata;
use lateen_traffic::outlier::Report;
use lateen_traffic::record::{Flags, Record};
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::tcp::TcpProxy;
use lateen_traffic::tls::Wanted;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::Instant;

use self::tunnel::{Refusal, Through};
use crate::admission::{self, Denial};
use crate::io::Io;
use crate::listener::Accepted;
use crate::timer::Timer;
use crate::upstream::{Again, Host, TcpLease, Upstream};
use crate::worker::Worker;

/// Bytes moved at once. Measured: below 64 KiB the system calls dominate.
const BUFFER: usize = 256 * 1024;

/// Most that is read of a client before it is known whether it may go on.
const FIRST: usize = 16 * 1024;

thread_local! {
    // Filled and emptied within one poll, so all connections of a worker can share it.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// A connection to one of the proxy's clusters, made before it was known that it is needed.
pub struct Ready {
    cluster: Arc<str>,
    upstream: Rc<Upstream>,
    host: Rc<Host>,
    lease: TcpLease,
}

impl Ready {
    /// Waits until the server says something; false when it ends the connection instead.
    pub async fn speaks(&self) -> bool {
        self.lease.io.has_bytes().await
    }

    fn take(self, accepted: &Accepted, record: &mut Record) -> TcpLease {
        let settings = self.upstream.settings();
        record.attempts = 1;
        record.upstream_cluster = Some(self.cluster);
        record.upstream_cluster_alt = settings.alt_stat_name.clone();
        record.upstream_host = Some(self.host.target.clone());
        self.upstream.report(&settings, &self.host, Report::Served, &mut accepted.worker.dice());
        self.lease
    }
}

/// A way to a host, or on from it.
enum Way {
    Plain(TcpLease),
    Tunnel(Through),
}

/// Connects to where the proxy would for this client, if that is within the cluster's limits. Nobody is told of a failure:
/// the client may turn out to want something else. Nobody is asked for a tunnel.
pub async fn ask(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    original: Option<SocketAddr>,
    source: SocketAddr,
    destination: SocketAddr,
) -> Option<Ready> {
    if proxy.tunnel.is_some() {
        return None;
    }
    let config = worker.config();
    let cluster = proxy.cluster(&mut worker.dice()).map(Arc::clone)?;
    let upstream = worker.upstream(&cluster, &config)?;
    let hash = proxy.hash_source_ip.then(|| hashing::of_address(source.ip()));
    let host = upstream.pick(original, hash, Again::default(), &mut worker.dice())?;
    let host = upstream.for_client(host, source, destination);
    if !upstream.has_room() {
        return None;
    }
    let lease = upstream.tcp(&host, worker.process.upstreams.default_bind.as_ref(), &Wanted::default()).await.ok()?;
    Some(Ready { cluster, upstream, host, lease })
}

/// Serves a connection to its end and tells what happened, with a connection to a host that is there already or one that is made now.
/// `gates` say whether the client may go on once it has spoken.
pub async fn serve(
    client: Rc<Io>,
    accepted: Accepted,
    proxy: Arc<TcpProxy>,
    gates: &[Gate],
    ready: Option<Ready>,
) -> Record {
    let worker = &accepted.worker;
    let stats = worker.stats.tcp(&proxy.stat_prefix);
    stats.downstream_cx_total.inc();
    let started = Instant::now();
    let mut record = Record {
        downstream_direct: accepted.direct,
        ..Record::begin(SystemTime::now(), accepted.local, accepted.peer)
    };
    record.server_name = accepted.server_name.clone();
    record.downstream_tls = accepted.tls.clone();
    let way = match ready {
        Some(ready) => Some(Way::Plain(ready.take(&accepted, &mut record))),
        None => connect(&accepted, &proxy, &mut record).await,
    };
    match way {
        Some(mut way) => {
            if let Way::Plain(upstream) = &way {
                upstream.stats.upstream_rq_total.inc();
                record.upstream_local = upstream.io.local_addr();
                record.upstream_tls = upstream.io.facts().cloned();
            }
            let mut metadata = Metadata::default();
            let admit = async {
                let mut first = BytesMut::new();
                if !gates.is_empty() {
                    first.reserve(FIRST);
                    client.read_into(&mut first).await?;
                    admission::admit(&accepted, gates, &mut metadata).await.map_err(Stopped::Denied)?;
                    // Whatever has come since stays where it is.
                    client.put_back(first.split().freeze());
                }
                Ok(())
            };
            let over = exchange(&client, &mut way, &proxy, started, admit).await;
            record.metadata = metadata;
            record.bytes_received = client.received();
            record.bytes_sent = client.sent();
            match over {
                Over::Ended => {}
                Over::Denied(denial) => denial.tell(&mut record),
                Over::Idle => stats.idle_timeout.inc(),
                Over::Duration => {
                    stats.max_downstream_connection_duration.inc();
                    record.flags.add(Flags::DURATION_TIMEOUT);
                }
                Over::Broken => {
                    client.reset_on_close();
                    if let Way::Plain(upstream) = &way {
                        upstream.io.reset_on_close();
                    }
                }
            }
        }
        // What an inspector has read of the client was for nobody.
        None => {
            stats.downstream_cx_no_route.inc();
        }
    }
    stats.downstream_cx_rx_bytes_total.add(record.bytes_received);
    stats.downstream_cx_tx_bytes_total.add(record.bytes_sent);
    record.duration = started.elapsed();
    let facts = Facts { record: &record, request: &RequestHead::default(), response: None };
    worker.logs.write(&proxy.access_log, facts);
    record
}

/// A connection to one of the proxy's clusters; `None` with the reason in the record.
async fn connect(accepted: &Accepted, proxy: &TcpProxy, record: &mut Record) -> Option<Way> {
    let worker = &accepted.worker;
    let config = worker.config();
    let upstream = {
        let mut dice = worker.dice();
        let name = proxy.cluster(&mut dice);
        drop(dice);
        name.and_then(|name| {
            let upstream = worker.upstream(name, &config)?;
            record.upstream_cluster = Some(Arc::clone(name));
            Some(upstream)
        })
    };
    let Some(upstream) = upstream else {
        record.flags.add(Flags::NO_CLUSTER);
        return None;
    };
    let settings = upstream.settings();
    record.upstream_cluster_alt = settings.alt_stat_name.clone();
    let destination = match &settings.discovery {
        Discovery::Named(cache) => named(accepted, proxy, cache).await,
        _ => accepted.original,
    };
    let hash = proxy.hash_source_ip.then(|| hashing::of_address(accepted.peer.ip()));
    let mut tried = Vec::new();
    for attempt in 1..=proxy.max_connect_attempts {
        record.attempts = attempt;
        let again = Again { tried: &tried, selections: 3, ..Again::default() };
        let Some(host) = upstream.pick(destination, hash, again, &mut worker.dice()) else {
            upstream.stats.upstream_cx_none_healthy.inc();
            record.flags.add(Flags::NO_HEALTHY_UPSTREAM);
            return None;
        };
        let host = upstream.for_client(host, accepted.peer, accepted.local);
        record.upstream_host = Some(host.target.clone());
        let bind = worker.process.upstreams.default_bind.as_ref();
        let way = match &proxy.tunnel {
            None => upstream.tcp(&host, bind, &Wanted::default()).await.map(Way::Plain).map_err(Refusal::Failed),
            Some(tunnel) => {
                let opening = tunnel::open(&upstream, &host, bind, tunnel, record);
                let opened = match proxy.idle_timeout {
                    Some(most) => tokio::time::timeout(most, opening).await,
                    None => Ok(opening.await),
                };
                opened.unwrap_or(Err(Refusal::Failed(UpstreamFailure::ConnectTimeout))).map(Way::Tunnel)
            }
        };
        match way {
            Ok(way) => {
                upstream.report(&settings, &host, Report::Served, &mut worker.dice());
                return Some(way);
            }
            Err(Refusal::Answered(status)) => {
                record.flags.add(Flags::UPSTREAM_CONNECTION_FAILURE);
                record.upstream_failure = format!("tunnel_response:{status}").into();
                upstream.report(&settings, &host, Report::Connected, &mut worker.dice());
                tried.push(host);
            }
            Err(Refusal::Failed(failure)) => {
                // Whatever became of the request: to the client it is a connection that was not made.
                let flags = if proxy.tunnel.is_some() && failure != UpstreamFailure::Overflow {
                    Flags::UPSTREAM_CONNECTION_FAILURE
                } else {
                    failure.flags()
                };
                record.flags.add(flags);
                record.upstream_failure = failure.transport_reason();
                if failure == UpstreamFailure::Overflow {
                    return None;
                }
                let timed_out = failure == UpstreamFailure::ConnectTimeout;
                let report = if timed_out { Report::TimedOut } else { Report::Failed };
                upstream.report(&settings, &host, report, &mut worker.dice());
                tried.push(host);
            }
        }
    }
    upstream.stats.upstream_cx_connect_attempts_exceeded.inc();
    record.flags.add(Flags::RETRY_LIMIT);
    None
}

/// The address of the host whose name the client sent, if it sent one and there is such a host.
async fn named(accepted: &Accepted, proxy: &TcpProxy, cache: &NameCache) -> Option<SocketAddr> {
    let (port, name) = (proxy.named_port?, accepted.server_name.as_deref()?);
    accepted.worker.process.upstreams.names.resolve(cache, name, port).await.ok()
}

enum Over {
    Ended,
    Denied(Denial),
    Broken,
    Idle,
    Duration,
}

/// `admit` is over when the client's first bytes or its end have come, and may go on.
async fn exchange(
    client: &Rc<Io>,
    way: &mut Way,
    proxy: &TcpProxy,
    started: Instant,
    admit: impl Future<Output = Result<(), Stopped>>,
) -> Over {
    let active = Cell::new(started);
    let both = async {
        let lease = match way {
            Way::Tunnel(through) => return through.carry(client, &active, admit).await,
            Way::Plain(lease) => lease,
        };
        let upstream = &lease.io;
        let up = async {
            admit.await?;
            pump(client, upstream, &active).await
        };
        tokio::select! {
            moved = async { tokio::try_join!(up, pump(upstream, client, &active)) } => moved.map(|_| ()),
            () = lease.host_fell() => Ok(()),
        }
    };
    let mut both = std::pin::pin!(both);
    let mut timer = Timer::default();
    let end = proxy.max_downstream_connection_duration.map(|t| started + t);
    loop {
        let idle = proxy.idle_timeout.map(|t| active.get() + t);
        let deadline = [idle, end].into_iter().flatten().min();
        match crate::timer::before(&mut timer, deadline, both.as_mut()).await {
            Some(Ok(_)) => return Over::Ended,
            Some(Err(Stopped::Denied(denial))) => return Over::Denied(denial),
            Some(Err(Stopped::Broken)) => return Over::Broken,
            None => {
                let now = Instant::now();
                if end.is_some_and(|at| at <= now) {
                    return Over::Duration;
                }
                if proxy.idle_timeout.is_some_and(|t| active.get() + t <= now) {
                    return Over::Idle;
                }
            }
        }
    }
}

/// Why bytes move no further before the end of their stream.
enum Stopped {
    Broken,
    Denied(Denial),
}

impl From<io::Error> for Stopped {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

/// Moves bytes one way until the end of the stream, which is passed on.
async fn pump(from: &Io, to: &Io, active: &Cell<Instant>) -> Result<(), Stopped> {
    loop {
        let (ended, rest) = std::future::poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let mut source = from;
                ready!(Pin::new(&mut source).poll_read(cx, &mut buffer))?;
                let mut data: &[u8] = buffer.filled();
                let ended = data.is_empty();
                let mut sink = to;
                while !data.is_empty() {
                    match Pin::new(&mut sink).poll_write(cx, data) {
                        Poll::Ready(Ok(n)) => data = &data[n..],
                        Poll::Ready(Err(e)) => return Poll::Ready(Err(e.into())),
                        // What does not fit leaves the shared buffer; nothing more is read until it is written.
                        Poll::Pending => break,
                    }
                }
                Poll::Ready(Ok::<_, Stopped>((ended, data.to_vec())))
            })
        })
        .await?;
        active.set(Instant::now());
        if ended {
            // The other direction may go on (half-close).
            return match to.shutdown().await {
                Err(e) if e.kind() != io::ErrorKind::NotConnected => Err(e.into()),
                _ => Ok(()),
            };
        }
        if !rest.is_empty() {
            to.write(&rest).await?;
        }
    }
}
