//! The connection that a host is asked over.

use std::rc::Rc;
use std::sync::Arc;

use lateen_traffic::health_check::Probe;
use lateen_traffic::proxy_protocol::{self, Told};
use lateen_traffic::tls::{TransportSocket, UpstreamTls};
use tokio::io::AsyncWriteExt as _;

use super::tcp::Tcp;
use super::{NoAnswer, Ways};
use crate::http1::{Reader, Writer};
use crate::http2;
use crate::io::{Io, Socket};
use crate::tls;
use crate::tls::context::Contexts;
use crate::upstream::{Check, dial, server_name};

/// By the protocol of what is asked.
pub enum Connection {
    Http1(Http1),
    Http2(Http2),
    Tcp(Tcp),
}

pub struct Http1 {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    io: Rc<Io>,
}

pub struct Http2 {
    pub(super) client: http2::Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub(super) async fn open(check: &Check, ways: &Ways) -> Result<Self, NoAnswer> {
        let mut socket = dial(&check.at, &check.cluster, ways.bind.as_ref()).await?;
        if let Some(version) = check.cluster.proxy_protocol {
            let Socket::Tcp(stream) = &mut socket else { return Err(NoAnswer) };
            let told = Told { source: stream.local_addr()?, destination: stream.peer_addr()? };
            stream.write_all(&proxy_protocol::write_local(version, told)).await?;
        }
        let io = Rc::new(match &check.transport {
            TransportSocket::Plain => Io::plain(socket, bytes::Bytes::new()),
            TransportSocket::Tls(tls) => encrypted(check, tls, &ways.tls, socket).await?,
        });
        let http2 = match &check.settings.probe {
            Probe::Http(probe) => probe.http2,
            Probe::Grpc(_) => true,
            Probe::Tcp(_) => return Ok(Self::Tcp(Tcp::new(io))),
        };
        Ok(if http2 { Self::http2(io) } else { Self::http1(io) })
    }

    pub fn http1(io: Rc<Io>) -> Self {
        let (reader, writer) = (Reader::new(Rc::clone(&io)), Writer::new(Rc::clone(&io)));
        Self::Http1(Http1 { reader, writer, io })
    }

    /// Must run inside a `LocalSet`.
    pub fn http2(io: Rc<Io>) -> Self {
        let (client, connection) = http2::Connection::client(io, http2::Settings::default());
        let driver = tokio::task::spawn_local(async move {
            // How it ended is seen by the next request.
            connection.run(|| ()).await;
        });
        Self::Http2(Http2 { client, driver })
    }

    /// Whether another request may go over it.
    pub(super) fn is_fresh(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.reader.buffer.is_empty() && !http1.io.is_readable(),
            Self::Http2(http2) => http2.client.is_open(),
            Self::Tcp(_) => true,
        }
    }
}

/// Speaks TLS, as traffic does.
async fn encrypted(
    check: &Check,
    settings: &Arc<UpstreamTls>,
    contexts: &Contexts,
    socket: Socket,
) -> Result<Io, NoAnswer> {
    let client = contexts.client(settings, &contexts.secrets())?;
    let name = server_name(settings, &check.hostname);
    let mut config = client.for_host(name.is_some(), None);
    if let Some(alpn) = &check.settings.alpn {
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    }
    let (stream, facts) = tls::connect(&client, Arc::new(config), name.as_deref(), socket).await?;
    Ok(Io::tls(stream, Arc::new(facts)))
}

/// The PROXY protocol's header of a connection that no client is behind.
pub(super) async fn tell_of_itself(io: &Io, version: proxy_protocol::Version) -> Result<(), NoAnswer> {
    let (Some(source), Some(destination)) = (io.local_addr(), io.peer_addr()) else { return Err(NoAnswer) };
    Ok(io.write(&proxy_protocol::write_local(version, Told { source, destination })).await?)
}
