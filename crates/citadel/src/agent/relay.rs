//! Carries the proxy's ADS connection to the control plane, as it is, on a TLS connection with the workload's
//! certificate. The proxy decides when to connect again; while the control plane is away a connection waits.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::Roots;
use super::control_plane::{self, PATIENCE, Server};
use super::keeper::{Held, Svid, trusted};

/// Both ends of the relay.
#[derive(Clone, Debug)]
pub struct Relay {
    pub server: Server,
    pub mark: Option<u32>,
    pub roots: watch::Receiver<Roots>,
    pub svid: Held,
}

impl Relay {
    /// Takes connections for ever.
    ///
    /// # Errors
    /// When the socket cannot be listened at any more.
    pub async fn serve(self, listener: UnixListener) -> io::Result<()> {
        loop {
            let (stream, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the proxy's connection is not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let relay = self.clone();
            tokio::spawn(async move {
                if let Err(error) = relay.carry(stream).await {
                    tracing::warn!(%error, "no way to the control plane");
                }
            });
        }
    }

    async fn carry(mut self, mut near: UnixStream) -> io::Result<()> {
        let svid = tokio::time::timeout(PATIENCE, self.svid())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the workload has no certificate yet"))?;
        let roots = trusted(&self.roots.borrow(), Some(&svid));
        let mut far = control_plane::connect(&self.server, &roots, Some(&svid), self.mark).await?;
        drop(svid);
        // However it ends, the proxy sees its connection closed and decides.
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        Ok(())
    }

    /// A certificate that holds now.
    async fn svid(&mut self) -> Arc<Svid> {
        loop {
            let held = self.svid.borrow_and_update().clone();
            if let Some(svid) = held.filter(|svid| svid.not_after > SystemTime::now()) {
                return svid;
            }
            if self.svid.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
