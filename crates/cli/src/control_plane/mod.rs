//! The control plane as a process: a replica of the cluster's objects in, pilot and the certificate authority in the
//! middle, ADS and certificates out. Wiring only.

mod authority;
pub mod identity;
pub mod keys;
mod pages;
mod registration;
mod shown;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use lateen_citadel::spiffe::TrustDomain;
use lateen_galley::Kind;
use lateen_local::client::{Client, replicate};
use lateen_pilot::{Config, Pilot};
use lateen_xds::ads::server;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::Error;
use crate::secrecy;

use authority::Authority;
pub use shown::{AUTHORITY, ROTATE};

/// Where proxies connect.
pub enum Place {
    /// A listening socket inherited from the process that started this one: it outlives this process, so that proxies'
    /// connections wait in it while a next one starts.
    Inherited(RawFd),
    Address(SocketAddr),
}

/// What a control plane is given.
pub struct Options {
    /// The Kubernetes API's socket.
    pub api: PathBuf,
    /// Where proxies are served that prove who they are, with TLS, and get certificates.
    pub secure: Option<(Place, identity::Options)>,
    /// Where proxies are served without TLS, whoever they are.
    pub plain: Option<Place>,
    /// Socket at which it shows itself.
    pub pages: Option<PathBuf>,
    /// Address at which it shows itself.
    pub http: Option<SocketAddr>,
    /// How keys of tokens' issuers are fetched.
    pub keys: keys::Options,
    /// The mesh's, unless its settings name another.
    pub trust_domain: TrustDomain,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When a socket cannot be had, or the ADS server fails.
pub async fn run(options: Options) -> Result<(), Error> {
    secrecy::no_core_files();
    let places = options.secure.iter().map(|(place, _)| place).chain(&options.plain);
    let inherited = places.into_iter().any(|place| matches!(place, Place::Inherited(_)));
    let plain = match options.plain {
        Some(place) => Some(place.listen().await?),
        None => None,
    };
    let secure = match options.secure {
        Some((place, identity)) => Some((place.listen().await?, identity)),
        None => None,
    };
    let config = Config { trust_domain: options.trust_domain.to_string(), ..Config::default() };
    let pilot = Pilot::new(config).map_err(Error::io("cannot start the pilot"))?;
    let authority = Authority::default();
    if let Some(path) = &options.pages {
        let socket = pages::listen_unix(path).map_err(Error::io(path.display().to_string()))?;
        let shown = shown::pages(pilot.clone(), Some(authority.clone()));
        tokio::spawn(pages::serve(pages::Listener::Unix(socket), shown));
    }
    if let Some(address) = options.http {
        let socket = TcpListener::bind(address).await.map_err(Error::io(address.to_string()))?;
        // Whoever can reach an address has nothing to do with the authority.
        tokio::spawn(pages::serve(pages::Listener::Tcp(socket), shown::pages(pilot.clone(), None)));
    }

    let (sender, snapshots) = watch::channel(None);
    let kinds: Vec<Kind> = Kind::all().collect();
    let client = Client::new(options.api);
    let replica = client.clone();
    tokio::spawn(async move { replicate(replica, &kinds, sender).await });
    let known = snapshots.clone();
    tokio::spawn(keys::feed(pilot.clone(), options.keys, client.clone(), snapshots));

    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("cannot watch SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("cannot watch SIGINT"))?;
    let stop = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                // Ctrl-C at the terminal of a cluster is the cluster's to act on: it ends this process in its turn.
                _ = interrupt.recv() => if !inherited { return },
            }
        }
    };
    let (stopping, stopped) = watch::channel(());
    tokio::spawn(async move {
        stop.await;
        drop(stopping);
    });
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move { while stopped.changed().await.is_ok() {} }
    };
    let registrar = registration::Registrar::new(pilot, client.clone(), known.clone());
    tokio::spawn(registrar.clone().sweep());
    let discovery = Arc::new(registrar);
    let plain = async {
        match plain {
            Some(listener) => Ok(server::serve(listener, discovery.clone(), until_stopped()).await?),
            None => Ok(()),
        }
    };
    let secure = async {
        let Some((listener, options)) = secure else { return Ok(()) };
        let ca = tokio::select! {
            ca = identity::start(options, client.clone(), known, authority) => ca?,
            () = until_stopped() => return Ok(()),
        };
        let reviewer = identity::reviewer(client.clone());
        Ok(lateen_citadel::serve::serve(listener, ca, reviewer, discovery.clone(), until_stopped()).await?)
    };
    let served: Result<((), ()), Error> = tokio::try_join!(plain, secure);
    if let Some(path) = options.pages {
        // A socket that stays is replaced by the next one.
        let _ = std::fs::remove_file(path);
    }
    served.map(|_| ())
}

impl Place {
    async fn listen(self) -> Result<TcpListener, Error> {
        match self {
            Place::Inherited(descriptor) => adopt(descriptor).map_err(Error::io("the inherited listener for proxies")),
            Place::Address(address) => TcpListener::bind(address).await.map_err(Error::io(address.to_string())),
        }
    }
}

/// Takes over a listening socket that this process was started with.
fn adopt(descriptor: RawFd) -> io::Result<TcpListener> {
    // SAFETY: fcntl only asks whether the number is an open descriptor.
    if descriptor <= libc::STDERR_FILENO || unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and the process that started this one has left it to it.
    let listener = std::net::TcpListener::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    listener.set_nonblocking(true)?;
    // Proves that it is a socket, and of TCP.
    listener.local_addr()?;
    TcpListener::from_std(listener)
}
