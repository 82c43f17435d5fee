//! Ways into services that do not go through a sidecar: the host's loopback (LoadBalancer addresses
//! and node ports), and virtual addresses used by pods without sidecar.

mod backends;
mod inside;
mod listeners;
mod relay;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::network;

pub use backends::{Backends, Endpoint, ServicePort};
pub use inside::Inside;
pub use listeners::{GatewayListeners, HostListeners};
pub use relay::Dialer;

/// Connections relayed at one time; more wait in the listeners' queues.
const CONCURRENCY: usize = 4096;

/// How long a connection to a service is held while none of its endpoints takes it. Kubernetes refuses it at once; a gateway
/// that was killed is back sooner than this.
const HOLD: Duration = Duration::from_secs(1);
/// How often endpoints are tried meanwhile, at least.
const HOLD_RETRY: Duration = Duration::from_millis(20);

/// What all relays share: the services of the moment and the way to their endpoints.
#[derive(Debug, Clone)]
pub struct Relay {
    backends: watch::Receiver<Arc<Backends>>,
    dialer: Dialer,
    permits: Arc<Semaphore>,
}

impl Relay {
    /// Relays to the endpoints of the latest `backends`.
    pub fn new(backends: watch::Receiver<Arc<Backends>>, dialer: Dialer) -> Self {
        Self { backends, dialer, permits: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    /// Serves a listener that stands for one service port, until it breaks or the future is dropped.
    /// Connections taken before go on.
    async fn serve_port(self, listener: TcpListener, port: ServicePort) -> io::Result<()> {
        self.serve(listener, move |_, _| Ok(Destination::Service(port.clone()))).await
    }

    /// Serves the listener at which pods' connections to virtual addresses and to the outside arrive,
    /// until it breaks or the future is dropped.
    ///
    /// # Errors
    /// When the listener cannot accept any more.
    pub async fn serve_redirected(self, listener: TcpListener) -> io::Result<()> {
        let own = listener.local_addr()?;
        self.serve(listener, move |backends, stream| {
            let original = relay::original_destination(stream)?;
            match backends.behind(original) {
                Some(port) => Ok(Destination::Service(port.clone())),
                None if original == own || network::is_virtual(original.ip()) => {
                    Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nothing is there"))
                }
                None => Ok(Destination::Outside(Endpoint::Address(original))),
            }
        })
        .await
    }

    /// Serves a listener that stands for one place outside, until it breaks or the future is dropped.
    ///
    /// # Errors
    /// When the listener cannot accept any more.
    pub async fn serve_outside(self, listener: TcpListener, place: Endpoint) -> io::Result<()> {
        self.serve(listener, move |_, _| Ok(Destination::Outside(place.clone()))).await
    }

    async fn serve(
        self,
        listener: TcpListener,
        destination: impl Fn(&Backends, &TcpStream) -> io::Result<Destination>,
    ) -> io::Result<()> {
        loop {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return Ok(()) };
            let stream = accept(&listener).await?;
            let Ok(destination) = destination(&self.backends.borrow(), &stream) else {
                relay::reset(stream);
                continue;
            };
            let relay = self.clone();
            tokio::spawn(async move {
                match relay.connect(&destination).await {
                    Ok(server) => relay::copy(stream, server).await,
                    Err(error) => {
                        tracing::debug!(%error, ?destination, "a connection found no endpoint");
                        relay::reset(stream);
                    }
                }
                drop(permit);
            });
        }
    }

    /// Connects to an address of the cluster, as a pod without sidecar would.
    async fn connect_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let port = self.backends.borrow().behind(address).cloned();
        let destination = match port {
            Some(port) => Destination::Service(port),
            None if network::is_virtual(address.ip()) => {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nothing is there"));
            }
            None => Destination::Outside(Endpoint::Address(address)),
        };
        self.clone().connect(&destination).await
    }

    async fn connect(mut self, destination: &Destination) -> io::Result<TcpStream> {
        let port = match destination {
            Destination::Outside(place) => return self.dialer.connect(place).await,
            Destination::Service(port) => port,
        };
        let patience = Instant::now() + HOLD;
        loop {
            let endpoints = self.backends.borrow_and_update().of(port).to_vec();
            let error = match self.dialer.connect_any(&endpoints).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if Instant::now() >= patience {
                return Err(error);
            }
            // Endpoints that are known may also come back by themselves.
            let changed = tokio::time::timeout(HOLD_RETRY, self.backends.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                tokio::time::sleep(HOLD_RETRY).await;
            }
        }
    }
}

/// Where a connection is to go.
#[derive(Debug)]
enum Destination {
    Service(ServicePort),
    Outside(Endpoint),
}

/// Accepts one connection, waiting out errors that pass.
pub(crate) async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if is_passing(&error) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error),
        }
    }
}

/// Whether an error of accept(2) says nothing about the listener: the peer went away, or descriptors
/// or memory ran out for the moment.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EPERM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
        )
    )
}

/// Binds a listener on the host's loopback.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
