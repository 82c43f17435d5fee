//! Listeners at work: sockets, original destinations, the choice of a filter chain.

mod handshake;
mod proxy_header;
mod server_first;

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use lateen_traffic::access_log::AccessLog;
use lateen_traffic::format::Facts;
use lateen_traffic::hcm::{Codec, Hcm};
use lateen_traffic::listener::{ConnectionFacts, Direction, FilterChain, Listener, Terminal, TransportProtocol};
use lateen_traffic::record::{Flags, Record};
use lateen_traffic::tls::TlsConnection;
use lateen_traffic::{Config, Protocol, RequestHead};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admission;
use crate::connection::{Connection, Drain};
use crate::inspect::{self, HttpInspection, Inspection};
use crate::io::{Io, Socket};
use crate::stats::ListenerStats;
use crate::timer::Timer;
use crate::upstream::original_destination;
use crate::worker::{Admitted, Worker};

/// Length of the accept queue where a listener does not say.
const BACKLOG: u32 = 4096;

/// The listeners of one worker.
pub struct Listeners {
    worker: Rc<Worker>,
    inherited: Arc<Vec<(u16, OwnedFd)>>,
    table: Rc<Table>,
    sockets: HashMap<SocketAddr, Vec<JoinHandle<()>>>,
    // Inherited sockets, by their place, whose port no listener has: who connects is told so.
    refusing: Option<HashMap<usize, JoinHandle<()>>>,
    closed: bool,
}

/// Who serves connections to which address.
#[derive(Default)]
struct Table {
    by_address: RefCell<HashMap<SocketAddr, Rc<Serving>>>,
}

/// One listener as it is served now.
struct Serving {
    listener: Arc<Listener>,
    drain: Rc<Drain>,
    stats: Arc<ListenerStats>,
}

impl Table {
    fn get(&self, address: SocketAddr) -> Option<Rc<Serving>> {
        self.by_address.borrow().get(&address).cloned()
    }

    /// The listener for an original destination: its very address, else the wildcard address of its port.
    fn for_destination(&self, destination: SocketAddr) -> Option<Rc<Serving>> {
        let any =
            if destination.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let wildcard = SocketAddr::new(any, destination.port());
        let v4_wildcard = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), destination.port());
        self.get(destination).or_else(|| self.get(wildcard)).or_else(|| self.get(v4_wildcard))
    }
}

impl Listeners {
    /// No listeners yet. `inherited` are sockets that were opened for us, by the listener port they stand for.
    pub fn new(worker: Rc<Worker>, inherited: Arc<Vec<(u16, OwnedFd)>>) -> Self {
        Self { worker, inherited, table: Rc::default(), sockets: HashMap::new(), refusing: None, closed: false }
    }

    /// Follows a new configuration: sockets open and close, connections of changed listeners are drained.
    pub fn follow(&mut self, config: &Config) {
        let mut next: HashMap<SocketAddr, Rc<Serving>> = HashMap::new();
        let old = self.table.by_address.take();
        let by_name: HashMap<&str, &Rc<Serving>> = old.values().map(|s| (&*s.listener.name, s)).collect();
        let mut wanted: HashSet<SocketAddr> = HashSet::new();
        for listener in config.listeners.values() {
            let serving = match by_name.get(&*listener.name) {
                Some(serving) if Arc::ptr_eq(&serving.listener, listener) => Rc::clone(serving),
                _ => Rc::new(Serving {
                    listener: Arc::clone(listener),
                    drain: Rc::default(),
                    stats: self.worker.stats.listener(&crate::stats::listener_scope(listener)),
                }),
            };
            for address in &listener.addresses {
                if listener.bind_to_port {
                    wanted.insert(*address);
                }
                next.insert(*address, Rc::clone(&serving));
            }
        }
        for serving in old.values() {
            let stays = serving.listener.addresses.iter().any(|a| next.get(a).is_some_and(|s| Rc::ptr_eq(s, serving)));
            if !stays {
                serving.drain.begin();
            }
        }
        drop(by_name);
        *self.table.by_address.borrow_mut() = next;
        if self.closed {
            return;
        }
        self.sockets.retain(|address, tasks| {
            let stays = wanted.contains(address);
            if !stays {
                tasks.iter().for_each(JoinHandle::abort);
            }
            stays
        });
        self.refuse_ports_without(&wanted);
        for address in wanted {
            if !self.sockets.contains_key(&address) {
                self.open(address);
            }
        }
    }

    /// The first whole configuration is here: from now on connections to inherited sockets that no listener serves are
    /// refused. Until then they wait, as the listener may only not be known yet.
    pub fn refuse_unserved(&mut self) {
        self.refusing.get_or_insert_default();
        let served: HashSet<SocketAddr> = self.sockets.keys().copied().collect();
        self.refuse_ports_without(&served);
    }

    fn refuse_ports_without(&mut self, served: &HashSet<SocketAddr>) {
        let Some(refusing) = &mut self.refusing else { return };
        for (place, (port, fd)) in self.inherited.iter().enumerate() {
            if served.iter().any(|address| address.port() == *port) {
                if let Some(task) = refusing.remove(&place) {
                    task.abort();
                }
            } else if let Entry::Vacant(vacant) = refusing.entry(place) {
                match inherit(fd) {
                    Ok(socket) => _ = vacant.insert(tokio::task::spawn_local(refuse(socket))),
                    Err(error) => tracing::error!(port, %error, "cannot use an inherited socket"),
                }
            }
        }
    }

    fn open(&mut self, address: SocketAddr) {
        let backlog = self.table.get(address).and_then(|s| s.listener.backlog).unwrap_or(BACKLOG);
        let mut tasks = Vec::new();
        match listen(address, backlog) {
            Ok(socket) => tasks.push(self.accept_from(socket, address)),
            Err(error) => tracing::error!(%address, %error, "cannot listen"),
        }
        for (port, fd) in self.inherited.iter() {
            if *port != address.port() {
                continue;
            }
            match inherit(fd) {
                Ok(socket) => tasks.push(self.accept_from(socket, address)),
                Err(error) => tracing::error!(%address, %error, "cannot use an inherited socket"),
            }
        }
        self.sockets.insert(address, tasks);
    }

    fn accept_from(&self, socket: TcpListener, address: SocketAddr) -> JoinHandle<()> {
        let (worker, table) = (Rc::clone(&self.worker), Rc::clone(&self.table));
        tokio::task::spawn_local(async move {
            loop {
                match socket.accept().await {
                    Ok((stream, peer)) => {
                        let Some(serving) = table.get(address) else { continue };
                        let admitted = match serving.listener.ignores_global_limit {
                            true => None,
                            false => match worker.admit() {
                                None => {
                                    serving.stats.downstream_global_cx_overflow.inc();
                                    continue;
                                }
                                counted => counted,
                            },
                        };
                        let (worker, table) = (Rc::clone(&worker), Rc::clone(&table));
                        tokio::task::spawn_local(take(worker, table, serving, stream, peer, admitted));
                    }
                    // Out of descriptors or memory: what is there must first end. Other errors concern one connection.
                    Err(error)
                        if matches!(
                            error.raw_os_error(),
                            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
                        ) =>
                    {
                        tracing::warn!(%error, "cannot accept connections for now");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Err(_) => {}
                }
            }
        })
    }

    /// Lets connections end, all or the inbound ones; `close` closes the sockets too.
    pub fn drain(&mut self, inbound_only: bool, close: bool) {
        let table = self.table.by_address.borrow();
        let concerned = |s: &Serving| !inbound_only || s.listener.direction == Direction::Inbound;
        for serving in table.values().filter(|s| concerned(s)) {
            serving.drain.begin();
        }
        if close {
            for (_, task) in self.refusing.take().into_iter().flatten() {
                task.abort();
            }
            self.closed |= !inbound_only;
            self.sockets.retain(|address, tasks| {
                let stays = table.get(address).is_some_and(|s| !concerned(s));
                if !stays {
                    tasks.iter().for_each(JoinHandle::abort);
                }
                stays
            });
        }
    }
}

/// A socket with an address that several sockets of this process may have.
///
/// # Errors
/// When somebody else has the address, or it is not to be had here.
pub fn bind(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking().cloexec(),
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = bind(address)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

fn inherit(fd: &OwnedFd) -> io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(fd.try_clone()?);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Resets every connection.
async fn refuse(socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// A connection whose filter chain is known.
pub struct Accepted {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// The address the client meant.
    pub local: SocketAddr,
    /// The client's end.
    pub peer: SocketAddr,
    /// The end of the connection itself.
    pub direct: SocketAddr,
    /// The original destination, if a redirect rule turned the connection to us.
    pub original: Option<SocketAddr>,
    /// TLS server name the client asked for.
    pub server_name: Option<Arc<str>>,
    /// What its TLS handshake found out; `None` if it is plaintext.
    pub tls: Option<Arc<TlsConnection>>,
    /// Tells when the listener wants its connections to end.
    pub drain: Rc<Drain>,
}

/// Serves one connection from its first byte to its end.
async fn take(
    worker: Rc<Worker>,
    table: Rc<Table>,
    mut serving: Rc<Serving>,
    mut stream: TcpStream,
    direct: SocketAddr,
    _admitted: Option<Admitted>,
) {
    let begun = SystemTime::now();
    let Ok(local) = stream.local_addr() else { return };
    // Best effort: without it answers may wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let mut original = None;
    if serving.listener.use_original_dst || serving.listener.original_dst {
        original = original_destination(&stream);
        if serving.listener.use_original_dst
            && let Some(other) = original.and_then(|o| table.for_destination(o))
        {
            serving = other;
        }
    }
    let stats = Arc::clone(&serving.stats);
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    let open = Open { stats: Arc::clone(&stats), since: Instant::now() };
    let mut destination = original.unwrap_or(local);
    let listener = Arc::clone(&serving.listener);
    let mut peer = direct;
    let mut prefix = BytesMut::new();
    if let Some(expect) = listener.proxy_protocol {
        match proxy_header::take(expect, &listener, &stats, &mut stream, &mut prefix).await {
            Some(told) => {
                peer = told.map_or(peer, |told| told.source);
                destination = told.map_or(destination, |told| told.destination);
            }
            None => {
                // As if the bytes that were looked at were still unread.
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                return;
            }
        }
    }
    let mut facts =
        ConnectionFacts { destination: Some(destination), source: Some(peer), ..ConnectionFacts::default() };
    let mut ready = None;
    if listener.inspects(destination.port()) {
        let before = facts.clone();
        stats.downstream_pre_cx_active.inc();
        let go_on = tokio::select! {
            biased;
            go_on = inspect(&listener, &stats, &mut stream, &mut prefix, &mut facts) => Some(go_on),
            spoken = server_first::speaks(&worker, &listener, &before, original) => {
                ready = Some(spoken);
                None
            }
        };
        let go_on = match go_on {
            Some(go_on) => go_on,
            None if prefix.is_empty() => true,
            // The client had begun to speak: what it says decides.
            None => {
                ready = None;
                inspect(&listener, &stats, &mut stream, &mut prefix, &mut facts).await
            }
        };
        stats.downstream_pre_cx_active.dec();
        if !go_on {
            return;
        }
    }
    let server_name: Option<Arc<str>> = facts.server_name.as_deref().map(Arc::from);
    let Some(chain) = listener.find_chain(&facts).cloned() else {
        stats.no_filter_chain_match.inc();
        let mut record = Record { downstream_direct: direct, ..Record::begin(SystemTime::now(), destination, peer) };
        record.flags = Flags::NO_ROUTE;
        record.details = "filter_chain_not_found".into();
        record.server_name = server_name;
        let facts = Facts { record: &record, request: &RequestHead::default(), response: None };
        worker.logs.write(&listener.access_log, facts);
        // What was read by looking at it was not served: the client sees a reset, as if it were still unread.
        if prefix.is_empty() {
            return;
        }
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    };
    let since = Since { time: begun, instant: open.since };
    let accepted = Accepted {
        worker,
        local: destination,
        peer,
        direct,
        original,
        server_name,
        tls: None,
        drain: Rc::clone(&serving.drain),
    };
    serve(accepted, &listener, &chain, &stats, (stream, prefix), (since, ready)).await;
}

/// Counts a connection of a listener while it is open.
struct Open {
    stats: Arc<ListenerStats>,
    since: Instant,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stats.downstream_cx_active.dec();
        self.stats.downstream_cx_destroy.inc();
        self.stats.downstream_cx_length_ms.record(self.since.elapsed());
    }
}

/// When a connection began.
#[derive(Clone, Copy)]
struct Since {
    time: SystemTime,
    instant: Instant,
}

async fn serve(
    mut accepted: Accepted,
    listener: &Listener,
    chain: &FilterChain,
    stats: &ListenerStats,
    (stream, prefix): (TcpStream, BytesMut),
    (since, ready): (Since, Option<crate::tcp::Ready>),
) {
    let worker = Rc::clone(&accepted.worker);
    let mut record = Record {
        downstream_direct: accepted.direct,
        server_name: accepted.server_name.clone(),
        ..Record::begin(since.time, accepted.local, accepted.peer)
    };
    let write = |logs: &[AccessLog], mut record: Record| {
        record.duration = since.instant.elapsed();
        worker.logs.write(logs, Facts { record: &record, request: &RequestHead::default(), response: None });
    };
    let io = match &chain.tls {
        None => Io::plain(Socket::Tcp(stream), prefix.freeze()),
        Some(tls) => {
            let (timeout, socket) = (chain.handshake_timeout, (stream, prefix));
            match handshake::of_client(&accepted, tls, timeout, stats, socket, &mut record).await {
                Some(io) => {
                    accepted.tls = io.facts().cloned();
                    io
                }
                None => {
                    // As in Envoy, where what ends the chain is at work before the handshake is over.
                    match &chain.terminal {
                        Terminal::Tcp(proxy) => {
                            worker.stats.tcp(&proxy.stat_prefix).downstream_cx_total.inc();
                            record.upstream_cluster = proxy.cluster(&mut worker.dice()).cloned();
                            write(&proxy.access_log, record.clone());
                        }
                        Terminal::Http(hcm) => {
                            let stats = worker.stats.http(&hcm.stat_prefix);
                            stats.downstream_cx_total.inc();
                            stats.downstream_cx_ssl_total.inc();
                            stats.downstream_cx_destroy.inc();
                        }
                    }
                    return write(&listener.access_log, record);
                }
            }
        }
    };
    let io = Rc::new(io);
    record.downstream_tls = accepted.tls.clone();
    match &chain.terminal {
        Terminal::Tcp(proxy) => {
            record = crate::tcp::serve(Rc::clone(&io), accepted, Arc::clone(proxy), &chain.gates, ready).await;
        }
        Terminal::Http(hcm) => {
            if chain.gates.is_empty() || admission::admits(&accepted, &chain.gates, &io).await {
                record.protocol = serve_http(accepted, Arc::clone(hcm), Rc::clone(&io)).await;
            }
        }
    }
    if io.broke() {
        stats.tls().broken();
    }
    if !listener.access_log.is_empty() {
        record.bytes_received = io.received();
        record.bytes_sent = io.sent();
        write(&listener.access_log, record);
    }
}

/// The protocol that was spoken, once that is known.
async fn serve_http(accepted: Accepted, hcm: Arc<Hcm>, io: Rc<Io>) -> Option<Protocol> {
    let stats = accepted.worker.stats.http(&hcm.stat_prefix);
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    let over_tls = accepted.tls.is_some();
    if over_tls {
        stats.downstream_cx_ssl_total.inc();
        stats.downstream_cx_ssl_active.inc();
    }
    let opened = Instant::now();
    let agreed = accepted.tls.as_deref().and_then(|tls| tls.application_protocol.as_deref());
    let http2 = match (hcm.codec, agreed) {
        (Codec::Http1, _) => Some(false),
        (Codec::Http2, _) | (Codec::Auto, Some("h2")) => Some(true),
        (Codec::Auto, Some("http/1.1" | "http/1.0")) => Some(false),
        (Codec::Auto, _) => tokio::select! {
            biased;
            known = is_http2(&io, &hcm) => known,
            () = accepted.drain.unused_ends() => None,
        },
    };
    if let Some(http2) = http2 {
        let connection = Connection {
            worker: accepted.worker,
            stats: Arc::clone(&stats),
            local: accepted.local,
            peer: accepted.peer,
            direct: accepted.direct,
            original: accepted.original,
            server_name: accepted.server_name,
            tls: accepted.tls,
            drain: accepted.drain,
            hcm,
        };
        if http2 {
            stats.downstream_cx_http2_active.inc();
            crate::http2::serve(Rc::clone(&io), connection).await;
            stats.downstream_cx_http2_active.dec();
        } else {
            stats.downstream_cx_http1_active.inc();
            crate::http1::server::serve(Rc::clone(&io), connection).await;
            stats.downstream_cx_http1_active.dec();
        }
        stats.downstream_cx_rx_bytes_total.add(io.received());
        stats.downstream_cx_tx_bytes_total.add(io.sent());
    } else {
        stats.downstream_cx_idle_timeout.inc();
    }
    if over_tls {
        stats.downstream_cx_ssl_active.dec();
    }
    stats.downstream_cx_active.dec();
    stats.downstream_cx_destroy.inc();
    stats.downstream_cx_length_ms.record(opened.elapsed());
    http2.map(|http2| if http2 { Protocol::Http2 } else { Protocol::Http11 })
}

/// Whether the connection begins with HTTP/2's preface; `None` if it ended or idled before that was known.
async fn is_http2(io: &Io, hcm: &Hcm) -> Option<bool> {
    let mut timer = Timer::default();
    let deadline = hcm.timeouts.idle.map(|t| Instant::now() + t);
    let mut first = BytesMut::new();
    let http2 = loop {
        let n = first.len().min(crate::http2::PREFACE.len());
        if n > 0 && first[..n] != crate::http2::PREFACE[..n] {
            break false;
        }
        if n == crate::http2::PREFACE.len() {
            break true;
        }
        first.reserve(4096);
        match crate::timer::before(&mut timer, deadline, io.read_into(&mut first)).await? {
            Ok(0) if first.is_empty() => return None,
            // Too short for HTTP/2: HTTP/1 will say what is wrong with it.
            Ok(0) => break false,
            Ok(_) => {}
            Err(_) => return None,
        }
    };
    io.put_back(first.freeze());
    Some(http2)
}

/// Looks at the first bytes until it is known what they are. False: the connection is to be closed.
async fn inspect(
    listener: &Listener,
    stats: &ListenerStats,
    stream: &mut TcpStream,
    prefix: &mut BytesMut,
    facts: &mut ConnectionFacts,
) -> bool {
    let port = facts.destination.map_or(0, |d| d.port());
    let mut tls = listener.tls_inspector.as_ref().is_some_and(|i| i.runs_for(port));
    let mut http = listener.http_inspector.as_ref().is_some_and(|i| i.runs_for(port));
    let mut timer = Timer::default();
    let deadline = listener.inspect_timeout.map(|t| Instant::now() + t);
    loop {
        if tls && !prefix.is_empty() {
            match inspect::tls_client_hello(prefix) {
                Inspection::NeedMore => {}
                Inspection::NotTls | Inspection::Bad(_) => tls = false,
                Inspection::ClientHello(hello) => {
                    facts.transport = TransportProtocol::Tls;
                    facts.server_name = hello.server_name;
                    facts.application_protocols = hello.alpn;
                    break true;
                }
            }
        }
        if http && !tls && !prefix.is_empty() {
            match inspect::http(prefix) {
                HttpInspection::NeedMore => {}
                HttpInspection::NotHttp => http = false,
                HttpInspection::Http(version) => {
                    facts.application_protocols = vec![version.as_str().to_owned()];
                    break true;
                }
            }
        }
        if !tls && !http {
            break true;
        }
        prefix.reserve(4096);
        match crate::timer::before(&mut timer, deadline, stream.read_buf(prefix)).await {
            Some(Ok(0)) => {
                stats.downstream_listener_filter_remote_close.inc();
                // A client that ended its side may still wait for an answer to what it sent.
                break !prefix.is_empty();
            }
            Some(Ok(_)) => {}
            Some(Err(_)) => {
                stats.downstream_listener_filter_error.inc();
                break false;
            }
            None => {
                stats.downstream_pre_cx_timeout.inc();
                break listener.continue_on_inspect_timeout;
            }
        }
    }
}
