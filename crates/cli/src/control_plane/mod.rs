//! The control plane as a process: a replica of the cluster's objects in, pilot in the middle, ADS out. Wiring only.

mod pages;
mod shown;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use lateen_galley::Kind;
use lateen_local::client::{Client, replicate};
use lateen_pilot::{Config, Pilot};
use lateen_xds::ads::server;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::Error;

/// Where proxies connect.
pub enum Ads {
    /// A listening socket inherited from the process that started this one: it outlives this process, so that proxies'
    /// connections wait in it while a next one starts.
    Inherited(RawFd),
    Address(SocketAddr),
}

/// What a control plane is given.
pub struct Options {
    /// The Kubernetes API's socket.
    pub api: PathBuf,
    pub ads: Ads,
    /// Socket at which it shows itself.
    pub pages: Option<PathBuf>,
    /// Address at which it shows itself.
    pub http: Option<SocketAddr>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When a socket cannot be had, or the ADS server fails.
pub async fn run(options: Options) -> Result<(), Error> {
    let inherited = matches!(options.ads, Ads::Inherited(_));
    let listener = match options.ads {
        Ads::Inherited(descriptor) => adopt(descriptor).map_err(Error::io("the inherited ADS listener"))?,
        Ads::Address(address) => TcpListener::bind(address).await.map_err(Error::io(address.to_string()))?,
    };
    let pilot = Pilot::new(Config::default()).map_err(Error::io("cannot start the pilot"))?;
    let shown = shown::pages(pilot.clone());
    if let Some(path) = &options.pages {
        let socket = pages::listen_unix(path).map_err(Error::io(path.display().to_string()))?;
        tokio::spawn(pages::serve(pages::Listener::Unix(socket), shown.clone()));
    }
    if let Some(address) = options.http {
        let socket = TcpListener::bind(address).await.map_err(Error::io(address.to_string()))?;
        tokio::spawn(pages::serve(pages::Listener::Tcp(socket), shown));
    }

    let (sender, mut snapshots) = watch::channel(None);
    let kinds: Vec<Kind> = Kind::all().collect();
    tokio::spawn(async move { replicate(Client::new(options.api), &kinds, sender).await });
    let told = pilot.clone();
    tokio::spawn(async move {
        while snapshots.changed().await.is_ok() {
            if let Some(snapshot) = snapshots.borrow_and_update().clone() {
                told.update(Arc::new(snapshot));
            }
        }
    });

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
    let served = server::serve(listener, Arc::new(pilot), stop).await;
    if let Some(path) = options.pages {
        // A socket that stays is replaced by the next one.
        let _ = std::fs::remove_file(path);
    }
    Ok(served?)
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
