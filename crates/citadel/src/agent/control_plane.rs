//! Connections to the control plane: TLS by the mesh's roots and with the workload's certificate, once there is one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Address;
use super::keeper::Svid;
use crate::certificate;

/// Time for a connection and its handshake: while the control plane starts again, both wait.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A server of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub address: Address,
    /// The name its certificate must have.
    pub name: String,
}

/// Connects to a server that a certificate by one of the roots proves, offering HTTP/2.
///
/// # Errors
/// When nobody answers in time, or somebody who is not the server.
pub async fn connect(
    server: &Server,
    roots: &[CertificateDer<'static>],
    svid: Option<&Svid>,
    mark: Option<u32>,
) -> io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(config(roots, svid).map_err(io::Error::other)?));
    let name = ServerName::try_from(server.name.clone()).map_err(io::Error::other)?;
    let connecting = async {
        let stream = dial(&server.address, mark).await?;
        stream.set_nodelay(true)?;
        connector.connect(name, stream).await
    };
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, format!("not connected after {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, connecting)
        .await
        .map_err(timed_out)?
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", server.address)))
}

fn config(
    roots: &[CertificateDer<'static>],
    svid: Option<&Svid>,
) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let config = ClientConfig::builder_with_provider(certificate::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(certificate::root_store(roots)?);
    let mut config = match svid {
        Some(svid) => config.with_client_auth_cert(svid.chain.clone(), svid.key.to_der())?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each connection has its own configuration: there is nothing to resume from.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

async fn dial(address: &Address, mark: Option<u32>) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match address {
        Address::Socket(address) => vec![*address],
        Address::Name(name, port) => tokio::net::lookup_host((name.as_str(), *port)).await?.collect(),
    };
    let mut last = io::Error::other("the name has no address");
    for address in addresses {
        match dial_one(address, mark).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_one(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    socket.connect(address).await
}
