//! The agent: what stands between a proxy and the control plane. It makes the workload's key, gets its certificate and
//! renews it, hands both to the proxy by SDS on a unix socket, and carries the proxy's ADS stream to the control plane
//! on a connection that proves the workload's identity. The key never leaves this process but by that socket.
//!
//! The proxy, ours or Envoy, knows of none of this: it has two static clusters at unix sockets.

pub(crate) mod certificates;
pub(crate) mod control_plane;
pub mod files;
pub(crate) mod keeper;
mod relay;
pub mod renewal;
mod secrets;
pub mod watched;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::certificate;
use crate::key::KeyType;
use crate::spiffe::Identity;

pub use control_plane::Server;
pub(crate) use files::system_roots;

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose identity the workload has.
    pub identity: Identity,
    /// Who signs: any server of Istio's certificate service.
    pub authority: Server,
    /// Where the proxy's configuration comes from.
    pub discovery: Server,
    /// File with the roots to trust, in PEM; read again when it changes.
    pub roots: PathBuf,
    /// File with roots that peers may have too, in PEM, which there need not be; read again when it changes. The control
    /// plane is not known by them.
    pub federated: PathBuf,
    /// File with lists of revoked certificates, in PEM, which there need not be; read again when it changes.
    pub revocations: PathBuf,
    /// File with the service-account token; read again for each request.
    pub token: PathBuf,
    /// Unix socket to make for SDS.
    pub secrets_socket: PathBuf,
    /// Unix socket to make for ADS.
    pub discovery_socket: PathBuf,
    /// Life to ask for; the authority's default if `None`.
    pub ttl: Option<Duration>,
    pub key_type: KeyType,
    /// `SO_MARK` of connections, which lets them pass the pod's redirect rules.
    pub mark: Option<u32>,
}

/// The roots to trust; none before the first.
pub(crate) type Roots = Arc<[CertificateDer<'static>]>;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct StartError {
    path: PathBuf,
    source: io::Error,
}

/// An agent whose sockets are there; nobody is answered before [`Agent::run`].
#[derive(Debug)]
pub struct Agent {
    options: Options,
    secrets: std::os::unix::net::UnixListener,
    discovery: std::os::unix::net::UnixListener,
}

impl Agent {
    /// Makes the sockets, for this user alone. One that was left behind is replaced.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let secrets = listen(&options.secrets_socket)?;
        let discovery = listen(&options.discovery_socket)?;
        Ok(Self { options, secrets, discovery })
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When a socket cannot be listened at any more.
    pub async fn run(self) -> io::Result<()> {
        let Self { options, secrets, discovery } = self;
        let (secrets, discovery) = (UnixListener::from_std(secrets)?, UnixListener::from_std(discovery)?);
        let none: Roots = Arc::from([]);
        let roots = watched::follow(options.roots.clone(), none, None, |pem| certificate::read_pem(pem).map(Arc::from));
        let revoked = |pem: &str| certificate::revocations(pem).map(|_| Some(Arc::from(pem)));
        let revoked = watched::follow(options.revocations.clone(), None, Some(None), revoked);
        let federated = |pem: &str| certificate::read_pem(pem).map(Arc::from);
        let federated = watched::follow(options.federated.clone(), Arc::from([]), Some(Arc::from([])), federated);
        let (held, holding) = watch::channel(None);
        let keeper = keeper::Keeper::new(&options, roots.clone(), held);
        let told = secrets::follow(roots.clone(), federated, revoked, holding.clone());
        let relay = relay::Relay { server: options.discovery.clone(), mark: options.mark, roots, svid: holding };
        tokio::select! {
            () = keeper.run() => Ok(()),
            served = secrets::serve(secrets, told) => served.map_err(io::Error::other),
            served = relay.serve(discovery) => served,
        }
    }
}

fn listen(path: &Path) -> Result<std::os::unix::net::UnixListener, StartError> {
    let made = (|| {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })();
    made.map_err(|source| StartError { path: path.to_owned(), source })
}

/// An address with a port, or a name with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Socket(SocketAddr),
    Name(String, u16),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Socket(address));
        }
        let parts = text.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
        match parts {
            Some((name, port)) if !name.is_empty() && !name.contains(['/', ':', '[']) => {
                Ok(Self::Name(name.to_owned(), port))
            }
            _ => Err(format!("{text:?} is no HOST:PORT")),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}
