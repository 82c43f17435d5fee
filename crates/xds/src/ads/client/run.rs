//! Runs a proxy's configuration: streams to the control plane and to servers of secrets, and files, feed a [`State`], and every new [`Config`] is
//! published. While the control plane is away the last good configuration stays.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap as PbBootstrap;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lateen_traffic::Config;
use lateen_traffic::cluster::EndpointAddress;
use lateen_traffic::tls::{SecretName, SecretOrigin};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::files::FileSource;
use super::session::{Ask, ClientSession};
use super::transport::{Connector, TransportError, connect};
use crate::ResourceType;
use crate::ads::{Awaited, Protocol, WorkloadHealth};
use crate::bootstrap::{Ads, Bootstrap, ResourceSource};
use crate::convert::{Notes, Reject};
use crate::json::{JsonError, Schema};
use crate::state::{Bind, Refused, State, Update, Users};

/// The pause before the n-th attempt to reconnect is random, up to this times 2^n.
const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// All resources of a large mesh in one response.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
/// How often files are looked at.
const FILE_INTERVAL: Duration = Duration::from_millis(250);

/// How the connection to the control plane is, for the admin page and readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// A stream is open and has brought a response.
    pub connected: bool,
    /// Clusters and listeners have been received once, with all that they refer to (at once if there is nothing to
    /// receive). Never false again.
    pub ready: bool,
    /// Streams opened so far.
    pub streams: u64,
    /// Responses applied so far.
    pub updates: u64,
    /// Resources refused so far.
    pub refused: u64,
    /// Why the last attempt or stream ended.
    pub last_error: Option<String>,
}

/// A proxy's configuration, before it runs.
pub struct Client {
    shared: Arc<Shared>,
    session: Option<(ClientSession, Ads)>,
    files: Vec<FileSource>,
}

/// A look at a running [`Client`].
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    status: watch::Sender<Status>,
    /// Something may be wanted that no response on the stream concerned told of.
    wants: watch::Sender<()>,
    /// What the control plane is to know of the workload.
    workload: Mutex<Option<WorkloadHealth>>,
    /// What must be received before the proxy is ready.
    awaited: Vec<ResourceType>,
    node: Node,
    bootstrap: PbBootstrap,
    started: SystemTime,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A state is whole between any two steps of it; a panic elsewhere does not change that.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// What is served by now.
    pub fn config(&self) -> Arc<Config> {
        self.shared.state().config()
    }

    /// How things are; the receiver tells of changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// Lets the control plane know how the workload is, now and whenever it is connected to anew.
    pub fn tell_health(&self, health: WorkloadHealth) {
        *self.shared.workload.lock().unwrap_or_else(PoisonError::into_inner) = Some(health);
        self.shared.wants.send_replace(());
    }

    /// What has been told and is not carried out, with how often.
    pub fn notes(&self) -> Notes {
        self.shared.state().notes().clone()
    }

    /// Resources of which the newest content was refused: type, name, reason.
    pub fn failures(&self) -> Vec<(ResourceType, Arc<str>, String)> {
        let state = self.shared.state();
        state.failures().map(|(r#type, name, reason)| (r#type, Arc::clone(name), reason.to_owned())).collect()
    }

    /// Names of clusters and listeners that wait for endpoints or routes.
    pub fn warming(&self) -> Vec<Arc<str>> {
        self.shared.state().warming().cloned().collect()
    }

    /// Envoy's `/config_dump`, without private keys; `with_endpoints` as by `?include_eds`.
    pub fn config_dump(&self, with_endpoints: bool, schema: &Schema) -> Result<serde_json::Value, JsonError> {
        self.shared.state().config_dump_json(&self.shared.bootstrap, self.shared.started, with_endpoints, schema)
    }
}

impl Client {
    /// Converts the static resources and takes their listeners' addresses by `bind`; nothing runs yet.
    pub fn new(bootstrap: Bootstrap, bind: Bind) -> Result<Client, Reject> {
        let started = SystemTime::now();
        let state = State::new(&bootstrap, bind, started)?;
        let Bootstrap { node, ads, listener_source, cluster_source, raw, .. } = bootstrap;
        let mut awaited = Vec::new();
        let mut by_ads = Vec::new();
        let mut files = Vec::new();
        for (r#type, source) in [(ResourceType::Cluster, cluster_source), (ResourceType::Listener, listener_source)] {
            match source {
                None => continue,
                Some(ResourceSource::Ads) => by_ads.push(r#type.clone()),
                Some(ResourceSource::File(path)) => files.push(FileSource::new(r#type.clone(), path)),
            }
            awaited.push(r#type);
        }
        let session = ads.map(|ads| (ClientSession::new(ads.protocol, node.clone(), by_ads), ads));
        let shared = Shared {
            state: Mutex::new(state),
            status: watch::Sender::default(),
            wants: watch::Sender::default(),
            workload: Mutex::default(),
            awaited,
            node,
            bootstrap: raw,
            started,
        };
        Ok(Client { shared: Arc::new(shared), session, files })
    }

    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Runs for ever. `publish` is called at once with the static configuration, then with every new one, in order,
    /// before the control plane is told that it is accepted. `connector` makes the sockets to the control plane.
    pub async fn run(self, connector: Connector, publish: impl FnMut(Arc<Config>) + Send) -> Infallible {
        let Client { shared, session, files } = self;
        let publisher = Publisher { shared: &shared, publish: Mutex::new((publish, None)) };
        publisher.publish();
        let discovery = async {
            match session {
                Some((session, ads)) => follow(session, ads, SecretOrigin::ControlPlane, &publisher, &connector).await,
                None => std::future::pending().await,
            }
        };
        let files = watch_files(files, &publisher);
        let secrets = follow_secret_servers(&publisher, &connector);
        let patience = lose_patience(&publisher);
        tokio::select! {
            never = discovery => never,
            never = files => never,
            never = secrets => never,
            never = patience => never,
        }
    }
}

/// Applies updates and publishes what comes of them, one at a time.
struct Publisher<'a, P> {
    shared: &'a Shared,
    publish: Mutex<(P, Option<Arc<Config>>)>,
}

impl<P: FnMut(Arc<Config>)> Publisher<'_, P> {
    fn apply(&self, origin: &SecretOrigin, update: &Update) -> Vec<Refused> {
        let refused = self.shared.state().apply_from(origin, update, SystemTime::now());
        for Refused { name, reason } in &refused {
            tracing::warn!(r#type = %update.r#type, %name, %reason, "refused a resource");
        }
        self.publish();
        self.shared.wants.send_replace(());
        self.shared.status.send_modify(|status| {
            status.updates += 1;
            status.refused += refused.len() as u64;
        });
        refused
    }

    /// Publishes the configuration if it is new.
    fn publish(&self) {
        // Held over the call, so that configurations are published in order.
        let mut guard = self.publish.lock().unwrap_or_else(PoisonError::into_inner);
        let (publish, last) = &mut *guard;
        let mut state = self.shared.state();
        let config = state.config();
        let complete = self.shared.awaited.iter().all(|r#type| state.has_received(r#type))
            && (self.shared.awaited.is_empty() || state.warming().next().is_none());
        drop(state);
        if last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &config)) {
            *last = Some(Arc::clone(&config));
            publish(config);
        }
        self.shared.status.send_if_modified(|status| {
            let news = complete && !status.ready;
            status.ready |= complete;
            news
        });
    }

    fn workload(&self) -> Option<WorkloadHealth> {
        self.shared.workload.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn awaited(&self) -> BTreeSet<Awaited> {
        self.shared.state().awaited()
    }

    /// What is to be asked for on a stream to `origin`.
    fn wanted(&self, origin: &SecretOrigin, r#type: &ResourceType) -> Users {
        let state = self.shared.state();
        match (origin, r#type) {
            (SecretOrigin::ControlPlane, _) => state.wanted(r#type),
            (_, ResourceType::Secret) => state.wanted_secrets(origin),
            _ => Users::new(),
        }
    }
}

/// Keeps a stream to each server of secrets open that something refers to. One that is referred to no longer is asked for
/// nothing more, and its stream stays.
async fn follow_secret_servers<P: FnMut(Arc<Config>)>(
    publisher: &Publisher<'_, P>,
    connector: &Connector,
) -> Infallible {
    let mut wants = publisher.shared.wants.subscribe();
    let mut known = BTreeSet::new();
    let mut streams = FuturesUnordered::new();
    loop {
        for server in publisher.shared.state().secret_servers() {
            if !known.insert(Arc::clone(&server)) {
                continue;
            }
            let protocol = if server.delta { Protocol::Delta } else { Protocol::StateOfTheWorld };
            let session = ClientSession::new(protocol, publisher.shared.node.clone(), []);
            let authority = server.authority.as_deref().map(str::to_owned);
            let at = Ads { cluster: Arc::clone(&server.cluster), protocol, authority };
            streams.push(follow(session, at, SecretOrigin::Server(server), publisher, connector));
        }
        tokio::select! {
            // The sender lives as long as this.
            _ = wants.changed() => {}
            Some(never) = streams.next() => match never {},
        }
    }
}

/// Lets what waits for a secret for longer than it is to wait be served without.
async fn lose_patience<P: FnMut(Arc<Config>)>(publisher: &Publisher<'_, P>) -> Infallible {
    let mut wants = publisher.shared.wants.subscribe();
    let mut since: HashMap<SecretName, Instant> = HashMap::new();
    loop {
        let awaited = publisher.shared.state().awaited_secrets();
        since.retain(|name, _| awaited.contains_key(name));
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut over = Vec::new();
        for (name, patience) in awaited {
            let Some(patience) = patience else { continue };
            let until = *since.entry(name.clone()).or_insert(now) + patience;
            if until <= now {
                over.push(name);
            } else {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        }
        for name in &over {
            tracing::warn!(secret = %name.name, "a secret is not to be had; what needs it makes no handshake until it comes");
            publisher.shared.state().give_up(name);
        }
        if !over.is_empty() {
            publisher.publish();
            continue;
        }
        tokio::select! {
            _ = wants.changed() => {}
            () = tokio::time::sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
    }
}

/// Keeps a stream open to the control plane, or to a server of secrets.
async fn follow<P: FnMut(Arc<Config>)>(
    mut session: ClientSession,
    ads: Ads,
    origin: SecretOrigin,
    publisher: &Publisher<'_, P>,
    connector: &Connector,
) -> Infallible {
    // Only the control plane is shown.
    let told = origin == SecretOrigin::ControlPlane;
    let who = if told { "control plane" } else { "server of secrets" };
    let status = &publisher.shared.status;
    let mut failures = 0u32;
    let mut turn = 0usize;
    loop {
        let outcome = match server(publisher, &ads, turn) {
            Some((address, timeout)) => {
                let authority = ads.authority.as_deref().unwrap_or(&ads.cluster);
                match connect(&address, authority, timeout, connector).await {
                    Ok(channel) => {
                        tracing::info!(%address, "connected to the {who}");
                        if told {
                            status.send_modify(|status| status.streams += 1);
                        }
                        match session.protocol() {
                            Protocol::Delta => converse::<Delta, P>(&mut session, channel, &origin, publisher).await,
                            Protocol::StateOfTheWorld => {
                                converse::<StateOfTheWorld, P>(&mut session, channel, &origin, publisher).await
                            }
                        }
                    }
                    Err(e) => StreamEnd::from(e),
                }
            }
            None => StreamEnd { served: false, reason: format!("cluster {:?} has no endpoint", ads.cluster) },
        };
        turn = turn.wrapping_add(1);
        let StreamEnd { served, reason } = outcome;
        failures = if served { 0 } else { failures.saturating_add(1) };
        tracing::info!(%reason, "the {who} is away; what it said last stays");
        if told {
            status.send_modify(|status| {
                status.connected = false;
                status.last_error = Some(reason);
            });
        }
        tokio::time::sleep(pause(failures)).await;
    }
}

/// A random pause before the next attempt, so that proxies do not all come back at the same moment.
fn pause(failures: u32) -> Duration {
    let limit = BACKOFF_BASE.saturating_mul(1u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX)).min(BACKOFF_MAX);
    limit.mul_f64(rand::random_range(0.2..=1.0))
}

/// The address of the control plane to try now.
fn server<P: FnMut(Arc<Config>)>(
    publisher: &Publisher<'_, P>,
    ads: &Ads,
    turn: usize,
) -> Option<(EndpointAddress, Duration)> {
    let config = publisher.shared.state().config();
    let cluster = config.clusters.get(&ads.cluster)?;
    let addresses: Vec<&EndpointAddress> =
        cluster.endpoints.localities.iter().flat_map(|l| &l.endpoints).map(|e| &e.address).collect();
    let address = addresses.get(turn.checked_rem(addresses.len())?)?;
    Some(((*address).clone(), cluster.settings.connect_timeout))
}

/// How a stream ended.
struct StreamEnd {
    /// It brought a response.
    served: bool,
    reason: String,
}

impl From<TransportError> for StreamEnd {
    fn from(error: TransportError) -> StreamEnd {
        // tonic's own words say only that there was an error; the causes say which.
        let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        let reason = causes.fold(error.to_string(), |said, cause| match cause.to_string() {
            cause if said.contains(&cause) => said,
            cause => format!("{said}: {cause}"),
        });
        StreamEnd { served: false, reason }
    }
}

/// Speaks on one stream until it ends.
async fn converse<D: Dialect, P: FnMut(Arc<Config>)>(
    session: &mut ClientSession,
    channel: Channel,
    origin: &SecretOrigin,
    publisher: &Publisher<'_, P>,
) -> StreamEnd {
    let wanted = |r#type: &ResourceType| publisher.wanted(origin, r#type);
    let told = *origin == SecretOrigin::ControlPlane;
    let mut wants = publisher.shared.wants.subscribe();
    let (requests, outgoing) = mpsc::unbounded_channel();
    let send = |asks: Vec<Ask>| asks.iter().all(|ask| requests.send(D::request(ask)).is_ok());
    send(session.connected(wanted));
    if told {
        send(session.tell_health(publisher.workload()));
    }
    let mut served = false;
    let mut responses = match D::open(channel, origin, UnboundedReceiverStream::new(outgoing)).await {
        Ok(responses) => responses,
        Err(status) => return StreamEnd { served, reason: status.to_string() },
    };
    loop {
        let response = tokio::select! {
            response = responses.message() => response,
            // The sender lives as long as this.
            _ = wants.changed() => {
                send(session.want(wanted));
                if told {
                    send(session.tell_health(publisher.workload()));
                    send(session.tell_awaited(publisher.awaited()));
                }
                continue;
            }
        };
        let mut update = match response {
            Ok(Some(response)) => D::update(session, response),
            Ok(None) => return StreamEnd { served, reason: "the control plane ended the stream".to_owned() },
            Err(status) => return StreamEnd { served, reason: status.to_string() },
        };
        if !session.asks_for(&update.r#type) {
            continue;
        }
        if !std::mem::replace(&mut served, true) && told {
            publisher.shared.status.send_modify(|status| status.connected = true);
        }
        let refused = publisher.apply(origin, &update);
        update.overwrite_secrets();
        if told {
            // Before the acknowledgement: who hears that one knows what is still missing.
            send(session.tell_awaited(publisher.awaited()));
        }
        if !send(session.answer(&update, &refused, wanted)) {
            return StreamEnd { served, reason: "the connection is closed".to_owned() };
        }
    }
}

/// The messages of one protocol.
trait Dialect {
    type Request: Send + 'static;
    type Response;

    fn request(ask: &Ask) -> Self::Request;
    fn update(session: &mut ClientSession, response: Self::Response) -> Update;
    fn open(
        channel: Channel,
        origin: &SecretOrigin,
        requests: UnboundedReceiverStream<Self::Request>,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, tonic::Status>> + Send;
}

struct Delta;
struct StateOfTheWorld;

impl Dialect for Delta {
    type Request = discovery::DeltaDiscoveryRequest;
    type Response = discovery::DeltaDiscoveryResponse;

    fn request(ask: &Ask) -> Self::Request {
        ask.to_delta()
    }

    fn update(session: &mut ClientSession, response: Self::Response) -> Update {
        session.on_delta_response(response)
    }

    async fn open(
        channel: Channel,
        origin: &SecretOrigin,
        requests: UnboundedReceiverStream<Self::Request>,
    ) -> Result<Streaming<Self::Response>, tonic::Status> {
        let responses = match origin {
            SecretOrigin::ControlPlane => aggregated(channel).delta_aggregated_resources(requests).await?,
            _ => secrets(channel).delta_secrets(requests).await?,
        };
        Ok(responses.into_inner())
    }
}

impl Dialect for StateOfTheWorld {
    type Request = discovery::DiscoveryRequest;
    type Response = discovery::DiscoveryResponse;

    fn request(ask: &Ask) -> Self::Request {
        ask.to_state_of_the_world()
    }

    fn update(session: &mut ClientSession, response: Self::Response) -> Update {
        session.on_response(response)
    }

    async fn open(
        channel: Channel,
        origin: &SecretOrigin,
        requests: UnboundedReceiverStream<Self::Request>,
    ) -> Result<Streaming<Self::Response>, tonic::Status> {
        let responses = match origin {
            SecretOrigin::ControlPlane => aggregated(channel).stream_aggregated_resources(requests).await?,
            _ => secrets(channel).stream_secrets(requests).await?,
        };
        Ok(responses.into_inner())
    }
}

fn aggregated(channel: Channel) -> AggregatedDiscoveryServiceClient<Channel> {
    AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES)
}

fn secrets(channel: Channel) -> SecretDiscoveryServiceClient<Channel> {
    SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES)
}

/// Reads files of resources whenever they change.
async fn watch_files<P: FnMut(Arc<Config>)>(mut files: Vec<FileSource>, publisher: &Publisher<'_, P>) -> Infallible {
    if files.is_empty() {
        return std::future::pending().await;
    }
    loop {
        for file in &mut files {
            match file.read_if_changed() {
                None => {}
                Some(Ok(mut update)) => {
                    let there: BTreeSet<&Arc<str>> = update.resources.iter().map(|resource| &resource.name).collect();
                    let before = publisher.shared.state().names(&update.r#type);
                    update.removed = before.iter().filter(|name| !there.contains(name)).cloned().collect();
                    publisher.apply(&SecretOrigin::ControlPlane, &update);
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "a file of resources cannot be used; what it said before stays");
                    publisher.shared.status.send_modify(|status| status.last_error = Some(error.to_string()));
                }
            }
        }
        tokio::time::sleep(FILE_INTERVAL).await;
    }
}

/// Why a file of resources cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{0}: {1}")]
    Content(PathBuf, crate::bootstrap::BootstrapError),
    #[error("{0}: {1}")]
    Json(PathBuf, JsonError),
}
