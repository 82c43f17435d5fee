//! The gRPC service around [`ServerStream`]. Knows sockets and the clock, nothing of what resources mean.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use futures::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::status::StreamStatus;
use super::stream::{Push, ServerStream, StreamError};
use crate::ResourceSet;
use crate::ads::Protocol;

/// A connection that answers no ping for this long is dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new stream may take to say who it is.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A reconnecting client sends the versions of everything it has in one request.
const MAX_REQUEST_BYTES: usize = 32 << 20;
/// Responses not yet taken by the transport; more wait in the stream's own state, merged.
const RESPONSES_QUEUED: usize = 4;

/// Decides who may connect, and what each client is told.
pub trait Discovery: Send + Sync + 'static {
    /// A client has opened a stream and named itself. An error ends the stream with that status.
    fn connect(&self, node: &Node, peer: &Peer) -> Result<Connection, Status>;
}

/// Who is at the other end of a connection. Whoever accepts connections gives it as their `ConnectInfo`; of plain TCP
/// the address alone is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    /// The SPIFFE id that it has proven.
    pub identity: Option<String>,
}

/// One client's stream, as its server keeps it.
#[derive(Debug)]
pub struct Connection {
    /// What the client shall have. The first value is complete: clients are answered from it at once.
    pub resources: watch::Receiver<Arc<ResourceSet>>,
    /// Told after every request and response; dropped when the stream ends, which its receivers can see.
    pub status: watch::Sender<StreamStatus>,
}

/// The ADS service, both protocols.
#[derive(Clone)]
pub struct AdsService {
    discovery: Arc<dyn Discovery>,
    closing: Closing,
}

/// Streams end when the sender is dropped. A service that is not served by [`serve`] holds its own.
#[derive(Clone)]
struct Closing {
    closed: watch::Receiver<()>,
    _open: Option<Arc<watch::Sender<()>>>,
}

impl AdsService {
    pub fn new(discovery: Arc<dyn Discovery>) -> AdsService {
        let (service, open) = AdsService::closable(discovery);
        AdsService { closing: Closing { _open: Some(Arc::new(open)), ..service.closing }, ..service }
    }

    /// A service whose streams end when the second is dropped: servers wait for streams when they shut down.
    pub fn closable(discovery: Arc<dyn Discovery>) -> (AdsService, watch::Sender<()>) {
        let (open, closed) = watch::channel(());
        (AdsService { discovery, closing: Closing { closed, _open: None } }, open)
    }

    /// As a service for a tonic server, with this crate's limits.
    pub fn into_server(self) -> AggregatedDiscoveryServiceServer<AdsService> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(usize::MAX)
    }

    /// As the service that Envoy asks for secrets alone.
    pub fn into_secret_server(self) -> SecretDiscoveryServiceServer<AdsService> {
        SecretDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }
}

/// Why [`serve`] could not go on.
#[derive(Debug, thiserror::Error)]
#[error("the xDS server failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves ADS in plain HTTP/2 until `shutdown`; streams open then are ended.
pub async fn serve(
    listener: TcpListener,
    discovery: Arc<dyn Discovery>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (service, open) = AdsService::closable(discovery);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(service.into_server())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
            shutdown.await;
            drop(open);
        })
        .await?;
    Ok(())
}

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsService {
    type StreamAggregatedResourcesStream = Responses<discovery::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<discovery::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.start(request)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.start(request)))
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for AdsService {
    type StreamSecretsStream = Responses<discovery::DiscoveryResponse>;
    type DeltaSecretsStream = Responses<discovery::DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(Response::new(self.start(request)))
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(Response::new(self.start(request)))
    }

    async fn fetch_secrets(
        &self,
        _: Request<discovery::DiscoveryRequest>,
    ) -> Result<Response<discovery::DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}

impl AdsService {
    fn start<Q: Dialect>(&self, request: Request<Streaming<Q>>) -> Responses<Q::Response> {
        let (sender, responses) = mpsc::channel(RESPONSES_QUEUED);
        let known = request.extensions().get::<Peer>().cloned();
        let peer = known.unwrap_or_else(|| Peer { address: request.remote_addr(), identity: None });
        let (service, requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(status) = service.converse(requests, &peer, &sender).await {
                tracing::debug!(?peer, %status, "xDS stream ended");
                // Nobody may be left to hear it.
                let _ = sender.send(Err(status)).await;
            }
        });
        Box::pin(ReceiverStream::new(responses))
    }

    async fn converse<Q: Dialect>(
        mut self,
        mut requests: Streaming<Q>,
        peer: &Peer,
        responses: &mpsc::Sender<Result<Q::Response, Status>>,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, requests.next())
            .await
            .map_err(|_| Status::deadline_exceeded("no request came on the stream"))?;
        let Some(mut request) = first.transpose()? else { return Ok(()) };
        let node = request.take_node().unwrap_or_default();
        let Connection { mut resources, status } = self.discovery.connect(&node, peer)?;

        let mut stream = ServerStream::new(Q::PROTOCOL, Arc::clone(&resources.borrow_and_update()));
        let mut pushes = request.put(&mut stream, Instant::now())?;
        loop {
            status.send_replace(stream.status());
            for push in pushes {
                if responses.send(Ok(Q::response(&push))).await.is_err() {
                    return Ok(());
                }
            }
            let deadline = stream.deadline();
            // What the client has to say comes first: it may make a push needless.
            pushes = tokio::select! {
                biased;
                _ = self.closing.closed.changed() => return Err(Status::unavailable("the xDS server is shutting down")),
                request = requests.next() => match request.transpose()? {
                    Some(request) => request.put(&mut stream, Instant::now())?,
                    None => return Ok(()),
                },
                changed = resources.changed() => match changed {
                    Ok(()) => {
                        let set = Arc::clone(&resources.borrow_and_update());
                        stream.on_update(set, Instant::now())
                    }
                    Err(_) => return Err(Status::unavailable("the control plane has let go of this client")),
                },
                () = sleep_until(deadline) => stream.on_deadline(Instant::now()),
            };
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl From<StreamError> for Status {
    fn from(error: StreamError) -> Status {
        Status::resource_exhausted(error.to_string())
    }
}

/// The requests and responses of one protocol.
trait Dialect: Send + Sized + 'static {
    const PROTOCOL: Protocol;
    type Response: Send + 'static;

    fn take_node(&mut self) -> Option<Node>;
    fn put(self, stream: &mut ServerStream, now: Instant) -> Result<Vec<Push>, StreamError>;
    fn response(push: &Push) -> Self::Response;
}

impl Dialect for discovery::DeltaDiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Delta;
    type Response = discovery::DeltaDiscoveryResponse;

    fn take_node(&mut self) -> Option<Node> {
        self.node.take()
    }

    fn put(self, stream: &mut ServerStream, now: Instant) -> Result<Vec<Push>, StreamError> {
        stream.on_delta_request(self, now)
    }

    fn response(push: &Push) -> Self::Response {
        push.to_delta()
    }
}

impl Dialect for discovery::DiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;
    type Response = discovery::DiscoveryResponse;

    fn take_node(&mut self) -> Option<Node> {
        self.node.take()
    }

    fn put(self, stream: &mut ServerStream, now: Instant) -> Result<Vec<Push>, StreamError> {
        stream.on_request(self, now)
    }

    fn response(push: &Push) -> Self::Response {
        push.to_state_of_the_world()
    }
}
