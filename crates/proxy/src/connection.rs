//! What is known about a downstream connection while it lives.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

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
}
