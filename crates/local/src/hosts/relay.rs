//! One accepted connection taken to one of its endpoints and copied both ways, as kube-proxy's rules
//! would have done in the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::backends::Endpoint;
use crate::node::{NodeHandle, Place};

/// Copy buffer a direction, in bytes: 8 KiB costs three times as much, more or splice(2) no less.
const BUFFER: usize = 64 * 1024;
/// Time one endpoint has to take a connection before the next one is tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Makes connections: into the pod network from the node, elsewhere from the host.
#[derive(Debug, Clone)]
pub struct Dialer {
    node: Option<NodeHandle>,
}

impl Dialer {
    /// Reaches pods through this node.
    pub fn new(node: NodeHandle) -> Self {
        Self { node: Some(node) }
    }

    /// Reaches everything from the host's network.
    #[cfg(test)]
    pub fn host_only() -> Self {
        Self { node: None }
    }

    /// Connects to one endpoint.
    ///
    /// # Errors
    /// What the kernel or the resolver says, or that the endpoint took too long.
    pub async fn connect(&self, endpoint: &Endpoint) -> io::Result<TcpStream> {
        let connected = async {
            match (endpoint, &self.node) {
                (Endpoint::Address(address), Some(node)) if crate::network::is_pod(address.ip()) => {
                    node.connect(Place::Node, *address, None).await.map_err(io::Error::other)
                }
                (Endpoint::Address(address), _) => TcpStream::connect(address).await,
                (Endpoint::Name(name, port), _) => TcpStream::connect((name.as_str(), *port)).await,
            }
        };
        let stream = timeout(CONNECT_PATIENCE, connected).await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Connects to any of the endpoints, tried in random order.
    ///
    /// # Errors
    /// The last endpoint's error, or that there is none.
    pub async fn connect_any(&self, endpoints: &[Endpoint]) -> io::Result<TcpStream> {
        let mut order: Vec<&Endpoint> = endpoints.iter().collect();
        order.shuffle(&mut rand::rng());
        let mut error = io::Error::new(io::ErrorKind::ConnectionRefused, "no endpoint is ready");
        for endpoint in order {
            match self.connect(endpoint).await {
                Ok(stream) => return Ok(stream),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }
}

/// Copies both ways until both sides are done, passing half-closes on, and resets: to the other side an end would look like
/// a whole answer.
pub async fn copy(mut client: TcpStream, mut server: TcpStream) {
    let _ = client.set_nodelay(true);
    if copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await.is_err() {
        reset(client);
        reset(server);
    }
}

/// Ends a connection so that the client sees a reset, as it would see from a port nobody listens on.
pub fn reset(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// The destination a redirected connection was meant for (`SO_ORIGINAL_DST`).
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = socket2::SockRef::from(stream);
    let original = match stream.local_addr()?.ip() {
        IpAddr::V4(_) => socket.original_dst_v4()?,
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => socket.original_dst_v4()?,
        IpAddr::V6(_) => socket.original_dst_v6()?,
    };
    original.as_socket().ok_or_else(|| io::Error::other("the original destination is no IP address"))
}
