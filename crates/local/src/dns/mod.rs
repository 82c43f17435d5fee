//! The cluster's DNS server (the role of CoreDNS, and of the DNS proxy in Istio's agent): UDP and
//! TCP on sockets it is given, answers from the [`Zone`] of the moment, everything else from the
//! host's resolvers.

mod answer;
mod forward;
mod zone;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

pub use answer::{Outcome, answer};
pub use forward::Upstream;
pub use zone::{CLUSTER_DOMAIN, Found, Records, ServicePort, Zone};

/// Queries being forwarded and TCP connections open at one time; beyond it UDP queries are dropped,
/// as a full network would, and connections wait.
const CONCURRENCY: usize = 1024;
/// A TCP connection without a query for this long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// The server: its zone and whom it asks.
#[derive(Clone)]
pub struct Server {
    zone: watch::Receiver<Arc<Zone>>,
    upstream: Arc<Upstream>,
    permits: Arc<Semaphore>,
}

impl Server {
    /// A server that answers from the latest zone of `zone`.
    pub fn new(zone: watch::Receiver<Arc<Zone>>, upstream: Upstream) -> Self {
        Self { zone, upstream: Arc::new(upstream), permits: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    /// Answers datagrams until the socket breaks.
    ///
    /// # Errors
    /// When the socket cannot be read any more.
    pub async fn serve_udp(self, socket: UdpSocket) -> io::Result<()> {
        let socket = Arc::new(socket);
        let mut buffer = [0u8; 4096];
        loop {
            let (length, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error of an earlier answer, not of this socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            let Some(query) = buffer.get(..length).and_then(|bytes| Message::from_vec(bytes).ok()) else {
                continue;
            };
            match self.decide(&query) {
                Outcome::Reply(reply) => {
                    if let Some(bytes) = answer::encode(&reply, &query, true) {
                        let _ = socket.send_to(&bytes, peer).await;
                    }
                }
                outcome => {
                    let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { continue };
                    let (server, socket) = (self.clone(), Arc::clone(&socket));
                    tokio::spawn(async move {
                        let reply = server.finish(outcome, &query, false).await;
                        if let Some(bytes) = answer::encode(&reply, &query, true) {
                            let _ = socket.send_to(&bytes, peer).await;
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    /// Answers connections until the listener breaks.
    ///
    /// # Errors
    /// When the listener cannot accept for a reason that does not pass.
    pub async fn serve_tcp(self, listener: TcpListener) -> io::Result<()> {
        loop {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return Ok(()) };
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(self.clone().serve_stream(stream, permit));
                }
                Err(error) if crate::hosts::is_passing(&error) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn serve_stream(self, mut stream: TcpStream, _permit: OwnedSemaphorePermit) {
        loop {
            let Ok(Ok(length)) = timeout(TCP_IDLE, stream.read_u16()).await else { return };
            let mut bytes = vec![0; usize::from(length)];
            let Ok(Ok(_)) = timeout(TCP_IDLE, stream.read_exact(&mut bytes)).await else { return };
            let Ok(query) = Message::from_vec(&bytes) else { return };
            let reply = self.finish(self.decide(&query), &query, true).await;
            let Some(bytes) = answer::encode(&reply, &query, false) else { return };
            let Ok(length) = u16::try_from(bytes.len()) else { return };
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            let Ok(Ok(())) = timeout(TCP_IDLE, stream.write_all(&framed)).await else { return };
        }
    }

    fn decide(&self, query: &Message) -> Outcome {
        let zone = Arc::clone(&self.zone.borrow());
        answer(&zone, query)
    }

    async fn finish(&self, outcome: Outcome, query: &Message, tcp: bool) -> Message {
        match outcome {
            Outcome::Reply(reply) => reply,
            Outcome::Forward if self.upstream.is_empty() => answer::failure(query, ResponseCode::NXDomain),
            Outcome::Forward => match self.upstream.ask(query, tcp).await {
                Some(reply) => reply,
                None => answer::failure(query, ResponseCode::ServFail),
            },
            Outcome::Chase { mut reply, target } => {
                let mut further = query.clone();
                if let Some(question) = further.queries.first_mut() {
                    question.set_name(target);
                }
                match self.upstream.ask(&further, tcp).await {
                    Some(found) => {
                        reply.metadata.response_code = found.metadata.response_code;
                        reply.answers.extend(found.answers);
                    }
                    None => reply.metadata.response_code = ResponseCode::ServFail,
                }
                reply
            }
        }
    }
}
