//! The sample service: it answers every request with what it saw of it, so that a person or a test can tell which
//! pod and version answered and what the mesh did to the request on its way. It knows nothing of the mesh.
//!
//! One thread serves all; an answer costs one allocation for its body.

mod authorize;
mod behaviour;
mod body;
mod call;
mod echo;
mod grpc;
mod http;
mod json;
mod simulated;
mod tls;
mod websocket;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

pub use authorize::{AllowIf, parse as parse_allow_if};
pub use behaviour::{Behaviour, parse_rate, parse_size};
pub use call::parse_url;
pub use simulated::Simulated;
pub use tls::Options as TlsOptions;

use crate::error::Error;

/// Who answers.
pub struct Identity {
    pub pod: String,
    pub version: String,
}

impl Identity {
    /// The line that TCP answers may begin with: who answers, as JSON.
    fn greeting(&self) -> String {
        let mut who = json::Object::with_capacity(64);
        who.string("pod", &self.pod);
        who.string("version", &self.version);
        who.finish(0)
    }
}

/// What to serve, and where.
pub struct Options {
    pub port: u16,
    pub tcp_port: Option<u16>,
    /// The same as on `port`, over TLS.
    pub tls: Option<TlsOptions>,
    /// Answers on that port begin with a line that names the pod and the version.
    pub tcp_says_who: bool,
    /// How long requests under way may take to finish after SIGTERM.
    pub grace: Duration,
    pub identity: Identity,
    pub behaviour: Behaviour,
    /// Services asked before each answer, in order.
    pub calls: Vec<Uri>,
    /// It says which requests of others may pass, and nothing else.
    pub allow_if: Option<AllowIf>,
}

/// What all connections of one service share.
struct Service {
    identity: Identity,
    /// The version as a header's value.
    version_header: HeaderValue,
    behaviour: Behaviour,
    calls: Vec<Uri>,
    allow_if: Option<AllowIf>,
    /// Requests and gRPC messages answered so far.
    answered: AtomicU64,
}

impl Service {
    /// The number of the next answer, from 1.
    fn next_call(&self) -> u64 {
        self.answered.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Serves until SIGTERM or SIGINT, then lets requests under way finish.
///
/// # Errors
/// When a port cannot be bound.
pub async fn serve(options: Options) -> Result<(), Error> {
    // Whoever finds the HTTP port open finds the other one open too.
    if let Some(port) = options.tcp_port {
        let greeting = options.tcp_says_who.then(|| options.identity.greeting());
        tokio::spawn(echo::serve(listen(port)?, greeting));
    }
    let secured = match &options.tls {
        Some(tls) => Some((listen(tls.port)?, tls.acceptor()?)),
        None => None,
    };
    let listener = listen(options.port)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("cannot watch SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("cannot watch SIGINT"))?;
    let version = options.identity.version.clone();
    let version_header = HeaderValue::from_str(&version)
        .map_err(|_| Error::Usage(format!("--version {version:?} cannot be sent as an HTTP header")))?;
    let service = Arc::new(Service {
        version_header,
        identity: options.identity,
        behaviour: options.behaviour,
        calls: options.calls,
        allow_if: options.allow_if,
        answered: AtomicU64::new(0),
    });
    println!("lateen app {version} serves on port {}", options.port);

    let connections = GracefulShutdown::new();
    loop {
        tokio::select! {
            stream = accept(&listener) => {
                let connection = serve_connection(stream, service.clone(), connections.watcher(), None);
                tokio::spawn(connection);
            }
            (stream, acceptor) = accept_secured(secured.as_ref()) => {
                let (service, watcher) = (service.clone(), connections.watcher());
                tokio::spawn(async move {
                    if let Some((stream, said)) = tls::accept(&acceptor, stream).await {
                        serve_connection(stream, service, watcher, Some(said)).await;
                    }
                });
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop((listener, secured));
    println!("lateen app {version} stops; finishing {} connections", connections.count());
    if tokio::time::timeout(options.grace, connections.shutdown()).await.is_err() {
        println!("lateen app {version}: some requests did not finish within {:?}", options.grace);
    }
    Ok(())
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers must not wait for an acknowledgement; failing to say so only makes them slower.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                eprintln!("accept: {error}");
                // Out of file descriptors: accepting again at once would spin.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Never, if there is no TLS.
async fn accept_secured(secured: Option<&(TcpListener, TlsAcceptor)>) -> (TcpStream, TlsAcceptor) {
    match secured {
        Some((listener, acceptor)) => (accept(listener).await, acceptor.clone()),
        None => std::future::pending().await,
    }
}

/// Serves HTTP/1.1 or HTTP/2, whichever the client's first bytes are.
async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Arc<Service>,
    watcher: Watcher,
    said: Option<tls::Said>,
) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    // Head and body leave in one plain write, which is cheaper than a vectored one.
    server.http1().writev(false);
    server.http2().max_concurrent_streams(1000);
    let answer = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if let Some(said) = &said {
            request.extensions_mut().insert(said.clone());
        }
        http::answer(service.clone(), request)
    });
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), answer);
    // A client that breaks off or speaks no HTTP is no event of the service's.
    let _ = watcher.watch(connection).await;
}

/// Listens on every address of both families, or of IPv4 where there is no IPv6.
fn listen(port: u16) -> Result<TcpListener, Error> {
    let bind = |socket: std::io::Result<TcpSocket>, address: SocketAddr| {
        let socket = socket?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(4096)
    };
    bind(TcpSocket::new_v6(), SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|_| bind(TcpSocket::new_v4(), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))
        .map_err(Error::io(format!("cannot listen on port {port}")))
}
