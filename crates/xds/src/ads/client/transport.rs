//! One HTTP/2 connection to the control plane. How sockets are made is the caller's affair: they carry the marks and
//! addresses of its upstream connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Ready, ready};
use http::Uri;
use hyper_util::rt::TokioIo;
use lateen_traffic::cluster::EndpointAddress;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

/// A dead connection is noticed after the sum of both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a connected TCP socket.
pub type Connector = Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

/// Why there is no connection to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("{0}: {1}")]
    Connect(EndpointAddress, io::Error),
    #[error("{0}: not connected after {1:?}")]
    Timeout(EndpointAddress, Duration),
    #[error("HTTP/2: {0}")]
    Http(#[from] tonic::transport::Error),
}

/// Connects to a control plane. `authority` is what the requests are addressed to.
pub(super) async fn connect(
    address: &EndpointAddress,
    authority: &str,
    timeout: Duration,
    connector: &Connector,
) -> Result<Channel, TransportError> {
    let failed = |e| TransportError::Connect(address.clone(), e);
    let connecting = async {
        match address {
            EndpointAddress::Pipe(path) => {
                let stream = UnixStream::connect(&**path).await.map_err(failed)?;
                open(stream, authority).await
            }
            EndpointAddress::Socket(address) => open(connector(*address).await.map_err(failed)?, authority).await,
            EndpointAddress::Dns { host, port } => {
                let mut found = tokio::net::lookup_host((&**host, *port)).await.map_err(failed)?;
                let none = || failed(io::Error::other("the name has no address"));
                let first = found.next().ok_or_else(none)?;
                open(connector(first).await.map_err(failed)?, authority).await
            }
        }
    };
    tokio::time::timeout(timeout, connecting).await.map_err(|_| TransportError::Timeout(address.clone(), timeout))?
}

async fn open<I>(stream: I, authority: &str) -> Result<Channel, TransportError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query("/").build();
    let uri = uri.unwrap_or_else(|_| Uri::from_static("http://xds"));
    let channel = Endpoint::from(uri)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(Once(Some(stream)))
        .await?;
    Ok(channel)
}

/// Hands out a stream that is connected already, once: who reconnects and when is decided elsewhere.
struct Once<I>(Option<I>);

impl<I: AsyncRead + AsyncWrite + Send + Unpin + 'static> Service<Uri> for Once<I> {
    type Response = TokioIo<I>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<I>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::Error::other("the connection is used up")))
    }
}

/// Makes a [`Connector`] of an async function.
pub fn connector<F, Fut>(connect: F) -> Connector
where
    F: Fn(SocketAddr) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    Arc::new(move |address| Box::pin(connect(address)) as Pin<Box<dyn Future<Output = _> + Send>>)
}
