//! The authority at work: Istio's certificate service, and the control plane's port with TLS, at which every caller
//! proves who it is.

mod ca;
mod caller;
mod certificates;
mod listener;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use lateen_xds::ads::server::{AdsService, Discovery};
use tokio::net::TcpListener;

pub use ca::Ca;
pub use caller::{AUDIENCE, Review, ReviewError, Reviewer};
pub use listener::TlsError;

use caller::Guard;
use certificates::CertificateService;

/// A connection that answers no ping for this long is dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

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
    let domain = ca.trust_domain();
    let guard = |service| Guard { inner: service, reviewer: reviewer.clone(), trust_domain: domain.clone() };
    let certificates = CertificateService::new(ca);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(guard(ads.into_server()))
        .add_service(Guard { inner: certificates, reviewer: reviewer.clone(), trust_domain: domain.clone() })
        .serve_with_incoming_shutdown(incoming, async move {
            shutdown.await;
            drop(open);
        })
        .await?;
    Ok(())
}
