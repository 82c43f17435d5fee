//! The authority at work: Istio's certificate service, and the control plane's port with TLS, at which every caller
//! proves who it is.

mod buckets;
mod ca;
mod caller;
mod certificates;
mod listener;
mod status;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use lateen_xds::ads::server::{AdsService, Discovery};
use tokio::net::TcpListener;

pub use ca::{Ca, FollowError, RotateError};
pub use caller::{AUDIENCE, Review, ReviewError, Reviewer};
pub use listener::TlsError;
pub use status::{Role, Root, Signer, Status, Step};

use caller::Guard;
use certificates::CertificateService;

/// A connection that answers no ping for this long is dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests at once on one connection: an agent has one stream of configuration, and asks for one certificate.
const STREAMS: u32 = 100;

/// Names of the control plane, in its certificate; proxies expect the first of them.
pub const SERVER_NAMES: [&str; 3] = ["istiod.istio-system.svc", "istiod.istio-system", "istiod"];

/// Why the port could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the control plane's port failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("{0}")]
    Tls(#[from] TlsError),
}

/// Serves ADS and the certificate service with TLS until `shutdown`. Callers prove who they are by a certificate of the
/// authority's or by a service-account token, which `reviewer` judges; all others are refused.
///
/// # Errors
/// When the control plane cannot have a certificate of its own, or the listener breaks.
pub async fn serve(
    listener: TcpListener,
    ca: Arc<Ca>,
    reviewer: Reviewer,
    discovery: Arc<dyn Discovery>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let incoming = listener::accept(listener, &ca)?;
    let (ads, open) = AdsService::closable(discovery);
    let certificates = CertificateService::new(Arc::clone(&ca));
    let refused = Arc::default();
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(Guard {
            inner: ads.into_server(),
            reviewer: reviewer.clone(),
            ca: Arc::clone(&ca),
            refused: Arc::clone(&refused),
        })
        .add_service(Guard { inner: certificates, reviewer, ca, refused })
        .serve_with_incoming_shutdown(incoming, async move {
            shutdown.await;
            drop(open);
        })
        .await?;
    Ok(())
}
