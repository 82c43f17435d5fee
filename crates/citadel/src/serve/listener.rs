//! TLS on the control plane's port: its own certificate from the authority, renewed and changed with it, and callers'
//! certificates verified by the authority's roots. A caller without one is let in: it has to bring a token.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use lateen_xds::ads::server::Peer;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::ca::Revoked;
use super::{Ca, SERVER_NAMES};
use crate::authority::SignError;
use crate::certificate::{self, CertificateError, Facts};
use crate::key::{Key, KeyError, KeyType};

/// Life of the control plane's own certificate; it is renewed at half of it.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Time a caller has for the handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes at once; further callers wait in the listener's queue.
const HANDSHAKES: usize = 512;
/// Of these from one address: who only opens connections does not keep others waiting. More are closed, and come again.
pub(super) const OF_ONE: usize = 128;

/// Why the control plane has no certificate of its own.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the control plane's key: {0}")]
    Key(#[from] KeyError),
    #[error("the control plane's certificate: {0}")]
    Sign(#[from] SignError),
    #[error("the control plane's certificate: {0}")]
    Certificate(#[from] CertificateError),
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Accepts connections for ever; those whose handshake succeeds come out.
pub fn accept(listener: TcpListener, ca: &Arc<Ca>) -> Result<ReceiverStream<io::Result<Accepted>>, TlsError> {
    let config = Arc::new(ArcSwap::from_pointee(server_config(ca)?));
    let (sender, incoming) = mpsc::channel(64);
    tokio::spawn(renew(Arc::clone(ca), Arc::clone(&config)));
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let callers = Callers::default();
        while let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await {
            let (stream, address) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, say: those that are queued wait.
                        tracing::warn!(%error, "no connection is accepted on the control plane's port");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = sender.closed() => return,
            };
            let Some(place) = callers.place(address.ip()) else { continue };
            let (acceptor, sender) = (TlsAcceptor::from(config.load_full()), sender.clone());
            tokio::spawn(async move {
                let shaken = tokio::time::timeout(PATIENCE, shake(acceptor, stream, address)).await;
                drop((permit, place));
                match shaken {
                    Ok(Ok(accepted)) => drop(sender.send(Ok(accepted)).await),
                    Ok(Err(error)) => tracing::warn!(%address, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%address, "no TLS handshake came"),
                }
            });
        }
    });
    Ok(ReceiverStream::new(incoming))
}

/// Handshakes under way, by address.
#[derive(Clone, Default)]
struct Callers(Arc<Mutex<HashMap<IpAddr, UnderWay>>>);

#[derive(Default)]
struct UnderWay {
    handshakes: usize,
    told: bool,
}

impl Callers {
    /// Counts one more of an address, until the result is dropped; `None`: there are too many.
    fn place(&self, address: IpAddr) -> Option<Place> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = all.entry(address).or_default();
        if of.handshakes >= OF_ONE {
            if !std::mem::replace(&mut of.told, true) {
                tracing::warn!(%address, "connections are closed: {OF_ONE} TLS handshakes of the address are under way");
            }
            return None;
        }
        of.handshakes += 1;
        Some(Place { callers: self.clone(), address })
    }
}

struct Place {
    callers: Callers,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of) = all.get_mut(&self.address) {
            of.handshakes -= 1;
            if of.handshakes == 0 {
                all.remove(&self.address);
            }
        }
    }
}

async fn shake(acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) -> io::Result<Accepted> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let identity = match leaf {
        Some(leaf) => {
            let name = Facts::read(leaf).and_then(|facts| facts.identity());
            Some(name.map_err(io::Error::other)?.to_string())
        }
        None => None,
    };
    Ok(Accepted { stream, peer: Peer { address: Some(address), identity } })
}

fn server_config(ca: &Ca) -> Result<ServerConfig, TlsError> {
    let key = Key::generate(KeyType::EcdsaP256)?;
    let names: Vec<String> = SERVER_NAMES.map(str::to_owned).to_vec();
    let signed = ca.sign_server(&key, &names, LIFE)?;
    let roots = certificate::root_store(&certificate::read_pem(&ca.bundle().borrow())?)?;
    let provider = certificate::provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let revoked: Revoked = ca.revoked().borrow().clone();
    // An authority without a list has revoked nothing.
    let verifier = verifier
        .with_crls(revoked.iter().cloned())
        .only_check_end_entity_revocation()
        .allow_unknown_revocation_status();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        .with_single_cert(signed.chain, key.to_der())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Replaces the certificate at half of its life, and everything whenever the roots or the lists of the revoked change.
async fn renew(ca: Arc<Ca>, config: Arc<ArcSwap<ServerConfig>>) {
    let (mut bundle, mut revoked) = (ca.bundle(), ca.revoked());
    let mut nap = LIFE / 2;
    loop {
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            changed = bundle.changed() => if changed.is_err() { return },
            changed = revoked.changed() => if changed.is_err() { return },
        }
        nap = match server_config(&ca) {
            Ok(new) => {
                config.store(Arc::new(new));
                LIFE / 2
            }
            Err(error) => {
                tracing::error!(%error, "the control plane keeps its old certificate");
                RETRY
            }
        };
    }
}

/// A connection, and who is at its other end.
#[derive(Debug)]
pub struct Accepted {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
