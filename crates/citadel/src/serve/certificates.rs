//! Istio's `IstioCertificateService` on top of the authority.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use lateen_xds::ads::server::Peer;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Ca;
use super::buckets::{Buckets, Turn};
use crate::authority::SignError;
use crate::certificate;
use crate::istio::{self, CertificateRequest, CertificateResponse};
use crate::request::{RequestError, SigningRequest};
use crate::spiffe::Identity;

/// Longest message, in bytes: a request of the largest size, and metadata.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// Requests that are looked at at once; each keeps a core busy for some milliseconds.
const AT_ONCE: usize = 2;
/// Requests that may wait for that; more are told to come again. A whole mesh may begin at once.
const WAITING: usize = 4096;

/// The service. Its callers come through a guard that says who they are.
#[derive(Clone)]
pub struct CertificateService {
    ca: Arc<Ca>,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// No service account has the authority for itself.
    shares: Arc<Mutex<Buckets<Identity>>>,
}

impl CertificateService {
    pub fn new(ca: Arc<Ca>) -> Self {
        Self {
            ca,
            places: Arc::new(Semaphore::new(WAITING)),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            shares: Arc::default(),
        }
    }

    async fn in_turn(self, request: Request<CertificateRequest>) -> Result<Response<CertificateResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let identity = peer.identity.as_deref().unwrap_or_default();
        let caller: Identity =
            identity.parse().map_err(|_| Status::unauthenticated("the caller has not proven who it is"))?;
        let share = self.shares.lock().unwrap_or_else(PoisonError::into_inner).take(caller.clone(), Instant::now());
        if let Turn::Refused { first } = share {
            if first {
                tracing::warn!(%caller, address = ?peer.address, "more certificate signing requests than one may send");
            }
            return Err(Status::resource_exhausted("too many requests for this service account: come again"));
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            tracing::warn!(waiting = WAITING, "certificate signing requests are more than can be signed");
            Status::resource_exhausted("too many requests are waiting: come again")
        })?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| Status::unavailable("the authority has ended"))?;
        let created = tokio::task::spawn_blocking(move || {
            // The work goes on when the caller does not wait for it, and counts until it is done.
            let _until_done = (place, turn);
            self.create(request, &caller, &peer)
        });
        created.await.map_err(|_| Status::internal("the request could not be looked at"))?
    }

    fn create(
        &self,
        request: Request<CertificateRequest>,
        caller: &Identity,
        peer: &Peer,
    ) -> Result<Response<CertificateResponse>, Status> {
        // Metadata is what Istio's agents tell of their cluster; it changes nothing here.
        let CertificateRequest { csr, validity_duration, metadata: _ } = request.into_inner();
        self.sign(&csr, validity_duration, caller).inspect_err(|status| {
            let reason = status.message();
            tracing::warn!(%caller, address = ?peer.address, reason, "certificate signing request refused");
        })
    }

    fn sign(&self, csr: &str, seconds: i64, caller: &Identity) -> Result<Response<CertificateResponse>, Status> {
        let request = SigningRequest::read(csr).map_err(|error| refusal(&error))?;
        let ttl = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let (signed, bundle) = self.ca.sign(&request, caller, ttl).map_err(|error| match error {
            SignError::Request(error) => refusal(&error),
            SignError::Expired | SignError::Elsewhere => Status::failed_precondition(error.to_string()),
            SignError::Sign(_) => Status::internal(error.to_string()),
        })?;
        let mut chain = Vec::with_capacity(3);
        if let Some((leaf, between)) = signed.chain.split_first() {
            let serial = certificate::Facts::read(leaf).map(|facts| facts.serial).unwrap_or_default();
            let life = signed.not_after.duration_since(SystemTime::now()).unwrap_or_default();
            tracing::info!(%caller, serial, seconds = life.as_secs(), "certificate signed");
            chain.push(certificate::to_pem([leaf]));
            if !between.is_empty() {
                chain.push(certificate::to_pem(between));
            }
        }
        chain.push(bundle.to_string());
        Ok(Response::new(CertificateResponse { cert_chain: chain }))
    }
}

fn refusal(error: &RequestError) -> Status {
    match error {
        RequestError::Identity { .. } => Status::permission_denied(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}

impl NamedService for CertificateService {
    const NAME: &'static str = istio::SERVICE;
}

impl UnaryService<CertificateRequest> for CertificateService {
    type Response = CertificateResponse;
    type Future = BoxFuture<'static, Result<Response<CertificateResponse>, Status>>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        Box::pin(self.clone().in_turn(request))
    }
}

impl Service<http::Request<Body>> for CertificateService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != istio::CREATE_CERTIFICATE {
            return Box::pin(async { Ok(Status::unimplemented("the service has no such method").into_http()) });
        }
        let service = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<CertificateResponse, CertificateRequest>::default();
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE_BYTES), None);
            Ok(grpc.unary(service, request).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Settings;
    use crate::store::Store;

    #[tokio::test]
    async fn more_requests_than_can_wait_are_told_to_come_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("ca")).unwrap();
        let authority = store.load(Settings::default(), None, SystemTime::now()).unwrap();
        let full = CertificateService {
            places: Arc::new(Semaphore::new(1)),
            ..CertificateService::new(Ca::new(authority, store))
        };
        // The one that waits gets its turn never.
        let turns = full.turns.clone().acquire_many_owned(AT_ONCE as u32).await.unwrap();
        let ask = || full.clone().in_turn(request(Some("web")));
        let waiting = tokio::spawn(ask());
        while full.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask().await.unwrap_err().code(), tonic::Code::ResourceExhausted);
        drop(turns);
        assert_eq!(waiting.await.unwrap().unwrap_err().code(), tonic::Code::InvalidArgument, "and now it is looked at");
    }

    fn request(account: Option<&str>) -> Request<CertificateRequest> {
        let mut request = Request::new(CertificateRequest::default());
        let identity = account.map(|account| format!("spiffe://cluster.local/ns/shop/sa/{account}"));
        request.extensions_mut().insert(Peer { address: None, identity });
        request
    }

    #[tokio::test]
    async fn one_service_account_does_not_have_the_authority_for_itself() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("ca")).unwrap();
        let authority = store.load(Settings::default(), None, SystemTime::now()).unwrap();
        let service = CertificateService::new(Ca::new(authority, store));
        // The clock is not held: some come back meanwhile.
        let spend = || {
            let caller: Identity =
                request(Some("greedy")).extensions().get::<Peer>().unwrap().identity.as_ref().unwrap().parse().unwrap();
            while service.shares.lock().unwrap().take(caller.clone(), Instant::now()) == Turn::Granted {}
        };
        let ask = |account: Option<&'static str>| service.clone().in_turn(request(account));
        loop {
            spend();
            let status = ask(Some("greedy")).await.unwrap_err();
            if status.code() == tonic::Code::ResourceExhausted {
                assert!(status.message().contains("this service account"), "{status}");
                break;
            }
        }
        assert_eq!(ask(Some("other")).await.unwrap_err().code(), tonic::Code::InvalidArgument, "which was looked at");
        assert_eq!(ask(None).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    }
}
