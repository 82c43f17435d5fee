//! Who calls: everybody proves it, by a certificate on the connection or by a service-account token in the request's
//! metadata. What comes through the [`Guard`] carries a [`Peer`] with an identity.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures::future::BoxFuture;
use lateen_xds::ads::server::Peer;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::Ca;
use super::buckets::{Buckets, Turn};
use crate::spiffe::{Identity, TrustDomain, TrustDomains};

/// Whom a token must be meant for (Istio's value).
pub const AUDIENCE: &str = "istio-ca";
/// Longest token looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// How a service account is called by Kubernetes: `system:serviceaccount:NAMESPACE:NAME`.
const USER_PREFIX: &str = "system:serviceaccount:";

/// What Kubernetes says of a token (`TokenReview`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    /// `system:serviceaccount:NAMESPACE:NAME`; `None`: the token is not accepted, for this reason.
    pub user: Result<String, String>,
    /// Which of the audiences asked for it is meant for.
    pub audiences: Vec<String>,
}

/// Nobody can say: try again.
#[derive(Debug, thiserror::Error)]
#[error("tokens cannot be checked now: {0}")]
pub struct ReviewError(pub String);

/// Asks Kubernetes about a token that should be meant for [`AUDIENCE`].
pub type Reviewer = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Review, ReviewError>> + Send + Sync>;

/// Lets only callers with an identity through to a service.
#[derive(Clone)]
pub struct Guard<S> {
    pub inner: S,
    pub reviewer: Reviewer,
    pub ca: Arc<Ca>,
    pub refused: Refused,
}

/// Whose tokens were refused: who guesses does not have Kubernetes asked for ever.
pub type Refused = Arc<Mutex<Buckets<IpAddr>>>;

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that is ready goes, its copy stays.
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        let (reviewer, trust_domains) = (Arc::clone(&self.reviewer), self.ca.trust_domains());
        let refused = Arc::clone(&self.refused);
        Box::pin(async move {
            let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
            match identify(&peer, request.headers(), &reviewer, &refused, &trust_domains).await {
                Ok(identity) => {
                    request.extensions_mut().insert(Peer { identity: Some(identity.to_string()), ..peer });
                    inner.call(request).await
                }
                Err(status) => {
                    let path = request.uri().path();
                    tracing::warn!(address = ?peer.address, path, reason = status.message(), "caller refused");
                    Ok(status.into_http())
                }
            }
        })
    }
}

/// The caller's identity. A certificate goes first, as in Istio.
async fn identify(
    peer: &Peer,
    headers: &http::HeaderMap,
    reviewer: &Reviewer,
    refused: &Refused,
    trust_domains: &TrustDomains,
) -> Result<Identity, Status> {
    if let Some(identity) = &peer.identity {
        let identity: Identity =
            identity.parse().map_err(|error| Status::unauthenticated(format!("the certificate: {error}")))?;
        // The chain was verified by the authority's own roots, but those may sign for others too.
        if !trust_domains.contain(identity.trust_domain()) {
            return Err(Status::unauthenticated(format!("the certificate is of another trust domain: {identity}")));
        }
        return Ok(identity);
    }
    let value = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let token = token.filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| Status::unauthenticated("neither a certificate nor a bearer token is given"))?;
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Status::unauthenticated(format!("the token has more than {MAX_TOKEN_BYTES} bytes")));
    }
    let address = peer.address.map(|address| address.ip());
    let buckets = || refused.lock().unwrap_or_else(PoisonError::into_inner);
    if address.is_some_and(|address| buckets().take(address, Instant::now()) != Turn::Granted) {
        return Err(Status::resource_exhausted("too many tokens from this address are not accepted: come again"));
    }
    let review = reviewer(token.to_owned()).await.map_err(|error| Status::unavailable(error.to_string()));
    let owner = review.and_then(|review| owner(review, &trust_domains.own));
    if let Some(address) = address
        && !owner.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated)
    {
        buckets().put_back(&address);
    }
    owner
}

/// Whose token it is.
fn owner(review: Review, trust_domain: &TrustDomain) -> Result<Identity, Status> {
    let refused = |why: String| Status::unauthenticated(format!("the token is not accepted: {why}"));
    let user = review.user.map_err(refused)?;
    if !review.audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(refused(format!("it is not meant for {AUDIENCE}")));
    }
    let account = user.strip_prefix(USER_PREFIX).and_then(|account| account.split_once(':'));
    let (namespace, name) = account.ok_or_else(|| refused(format!("{user:?} is no service account")))?;
    Identity::new(trust_domain.clone(), namespace, name).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reviewed(user: &str, audiences: &[&str]) -> Result<String, String> {
        let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        let review = Review { user: Ok(user.to_owned()), audiences };
        let owner = owner(review, &"cluster.local".parse().unwrap());
        owner.map(|identity| identity.to_string()).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_token_is_its_service_account_s() {
        let expected = "spiffe://cluster.local/ns/shop/sa/web".to_owned();
        assert_eq!(reviewed("system:serviceaccount:shop:web", &["istio-ca"]), Ok(expected));
    }

    #[test]
    fn tokens_for_others_and_of_people_are_refused() {
        assert!(reviewed("system:serviceaccount:shop:web", &[]).unwrap_err().contains("istio-ca"));
        assert!(reviewed("system:serviceaccount:shop:web", &["api"]).is_err());
        assert!(reviewed("alice", &["istio-ca"]).is_err());
        assert!(reviewed("system:serviceaccount:a/sa/b", &["istio-ca"]).is_err());
        assert!(reviewed("system:serviceaccount:a:b/../c", &["istio-ca"]).is_err());
    }
}
