//! What is known about a downstream connection while it lives.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_traffic::hcm::Hcm;
use lateen_traffic::rbac::Peer;
use lateen_traffic::record::Record;
use lateen_traffic::tls::TlsConnection;
use tokio::sync::Notify;

use crate::stats::HttpStats;
use crate::worker::Worker;

/// A downstream connection of HTTP.
pub struct Connection {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// How HTTP is served on it.
    pub hcm: Arc<Hcm>,
    /// Statistics of the connection manager.
    pub stats: Arc<HttpStats>,
    /// The address the client meant.
    pub local: SocketAddr,
    /// The client's end.
    pub peer: SocketAddr,
    /// The end of the connection itself; another one if a proxy in front told of its client.
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

impl Connection {
    /// Its ends, as rules see them. `remote`: the client, as far as the peer is trusted to say who that is.
    pub fn ends(&self, remote: IpAddr) -> Peer<'_> {
        Peer {
            source: self.peer.ip(),
            direct: self.direct.ip(),
            remote,
            local: self.local,
            server_name: self.server_name.as_deref(),
            tls: self.tls.as_deref(),
        }
    }

    /// The record of a request that begins now.
    pub fn record(&self) -> Record {
        Record {
            downstream_direct: self.direct,
            server_name: self.server_name.clone(),
            downstream_tls: self.tls.clone(),
            ..Record::begin(SystemTime::now(), self.local, self.peer)
        }
    }
}

/// Time for the first request of a connection that was opened before it was to end.
const UNUSED: Duration = Duration::from_secs(1);

/// The wish that connections end soon: of a removed or changed listener, or of the whole proxy.
#[derive(Default)]
pub struct Drain {
    on: Cell<bool>,
    changed: Notify,
}

impl Drain {
    /// Begins.
    pub fn begin(&self) {
        self.on.set(true);
        self.changed.notify_waiters();
    }

    /// Whether it has begun.
    pub fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        loop {
            let changed = self.changed.notified();
            if self.on.get() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until it begins, and what has come by then can be read: while the worker took up a new configuration it asked
    /// no socket, and a connection that seems idle may have a request waiting.
    pub async fn idle_ends(&self) {
        self.begun().await;
        // The runtime goes on with who yields when it has asked the system about all sockets.
        tokio::task::yield_now().await;
    }

    /// The same of a connection that nothing was asked on yet: whoever opened it is about to.
    pub async fn unused_ends(&self) {
        self.begun().await;
        tokio::time::sleep(UNUSED).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn what_came_before_a_drain_is_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        let drain = Rc::new(Drain::default());
        let mut byte = [0];
        let mut waits = std::pin::pin!(async {
            tokio::select! {
                biased;
                read = socket.read(&mut byte) => read.unwrap(),
                () = drain.idle_ends() => 0,
            }
        });
        // It waits for both; then both come while nobody asks the system.
        std::future::poll_fn(|cx| {
            assert!(waits.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        peer.write_all(b"x").unwrap();
        drain.begin();
        assert_eq!(waits.await, 1);
    }
}
