//! The gRPC adapters over a loopback connection.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use lateen_traffic::Config;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::server::TcpIncoming;

use super::world::{Target, World, cluster_name};
use crate::ads::WorkloadHealth;
use crate::ads::client::{Client, Handle, connector};
use crate::ads::server::{AdsService, Connection, Discovery, Peer, StreamStatus, serve};
use crate::bootstrap::Bootstrap;
use crate::json::Schema;
use crate::{ResourceSet, ResourceType};

/// Longer than anything here takes on the slowest machine; reached only when something is wrong.
pub(super) const FAR_TOO_LONG: Duration = Duration::from_secs(60);

/// A control plane that tells everyone the same.
pub(super) struct Everyone {
    pub(super) set: watch::Sender<Arc<ResourceSet>>,
    clients: Mutex<Vec<(String, watch::Receiver<StreamStatus>)>>,
}

impl Discovery for Everyone {
    fn connect(&self, node: &Node, peer: &Peer) -> Result<Connection, Status> {
        assert!(peer.address.unwrap().ip().is_loopback());
        if node.id.is_empty() {
            return Err(Status::invalid_argument("no node id"));
        }
        let (status, receiver) = watch::channel(StreamStatus::default());
        self.clients.lock().unwrap().push((node.id.clone(), receiver));
        Ok(Connection { resources: self.set.subscribe(), status })
    }
}

impl Everyone {
    pub(super) fn status(&self) -> watch::Receiver<StreamStatus> {
        self.clients.lock().unwrap().last().unwrap().1.clone()
    }
}

pub(super) struct Server {
    pub(super) everyone: Arc<Everyone>,
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(set: ResourceSet, address: &str) -> Server {
        let everyone = Arc::new(Everyone { set: watch::Sender::new(Arc::new(set)), clients: Mutex::default() });
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let discovery: Arc<dyn Discovery> = Arc::clone(&everyone) as _;
        let task = tokio::spawn(async move {
            let shutdown = async { drop(stopped.await) };
            serve(listener, discovery, shutdown).await.unwrap();
        });
        Server { everyone, address, stop: Some(stop), task }
    }

    /// One that is asked for secrets alone.
    pub(super) async fn of_secrets(set: ResourceSet) -> Server {
        let everyone = Arc::new(Everyone { set: watch::Sender::new(Arc::new(set)), clients: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (service, open) = AdsService::closable(Arc::clone(&everyone) as _);
        let task = tokio::spawn(async move {
            let shutdown = async {
                drop(stopped.await);
                drop(open);
            };
            let serving = tonic::transport::Server::builder().add_service(service.into_secret_server());
            serving.serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown).await.unwrap();
        });
        Server { everyone, address, stop: Some(stop), task }
    }

    /// Ends all streams and waits until everything is closed.
    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(FAR_TOO_LONG, self.task).await.unwrap().unwrap();
    }
}

fn bootstrap(address: SocketAddr, api_type: &str) -> Bootstrap {
    let text = format!(
        "
node: {{id: 'sidecar~10.1.1.1~a.default~default.svc.cluster.local', cluster: a.default}}
dynamic_resources:
  ads_config: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds-grpc}}}}]}}
  cds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s}}
  lds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s}}
static_resources:
  clusters:
  - name: xds-grpc
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds-grpc
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]
",
        address.ip(),
        address.port()
    );
    bootstrap_of(&text)
}

pub(super) fn bootstrap_of(text: &str) -> Bootstrap {
    Bootstrap::parse(text, &Schema::load().unwrap()).unwrap()
}

pub(super) struct Proxy {
    pub(super) handle: Handle,
    configs: watch::Receiver<Arc<Config>>,
    pub(super) task: JoinHandle<()>,
}

impl Proxy {
    pub(super) fn start(bootstrap: Bootstrap) -> Proxy {
        let client = Client::new(bootstrap, Box::new(|_| Ok(Box::new(())))).unwrap();
        let handle = client.handle();
        let (sender, configs) = watch::channel(Arc::default());
        let task = tokio::spawn(async move {
            let connector = connector(TcpStream::connect);
            match client.run(connector, move |config| drop(sender.send_replace(config))).await {}
        });
        Proxy { handle, configs, task }
    }

    pub(super) async fn until(&mut self, what: &str, condition: impl Fn(&Config) -> bool) -> Arc<Config> {
        let found = tokio::time::timeout(FAR_TOO_LONG, self.configs.wait_for(|config| condition(config))).await;
        Arc::clone(&found.unwrap_or_else(|_| panic!("never {what}")).unwrap())
    }

    pub(super) async fn until_status(&self, what: &str, condition: impl Fn(&crate::ads::client::Status) -> bool) {
        let mut status = self.handle.status();
        let found = tokio::time::timeout(FAR_TOO_LONG, status.wait_for(|status| condition(status))).await;
        drop(found.unwrap_or_else(|_| panic!("never {what}")).unwrap());
    }
}

fn world(variant: u8) -> World {
    World {
        listeners: vec![Some(Target::Routes(0)), Some(Target::Cluster(1)), None],
        routes: vec![0, 0, 0],
        clusters: vec![variant; 5],
        endpoints: vec![variant; 5],
        extra: BTreeSet::from([3]),
    }
}

fn seconds(config: &Config, id: u8) -> Option<u64> {
    Some(config.clusters.get(cluster_name(id).as_str())?.settings.connect_timeout.as_secs())
}

async fn follows_loses_and_finds_again(api_type: &str) {
    let server = Server::start(world(0).set(0), "127.0.0.1:0").await;
    let mut proxy = Proxy::start(bootstrap(server.address, api_type));
    let config = proxy.until("all listeners", |config| config.listeners.len() == 2).await;
    assert_eq!(seconds(&config, 0), Some(1));
    assert!(config.routes.contains_key("r0"));
    proxy.until_status("ready", |status| status.ready && status.connected).await;

    server.everyone.set.send_replace(Arc::new(world(1).set(1)));
    proxy.until("the change", |config| seconds(config, 0) == Some(2) && seconds(config, 3) == Some(2)).await;
    let mut status = server.everyone.status();
    let synced = tokio::time::timeout(FAR_TOO_LONG, status.wait_for(StreamStatus::synced)).await.unwrap();
    assert_eq!(&*synced.unwrap().types[&ResourceType::Cluster].acked_version, "1");

    // The control plane goes away: what was good stays.
    let address = server.address;
    server.stop().await;
    proxy.until_status("lost", |status| !status.connected && status.last_error.is_some()).await;
    assert!(status.wait_for(|_| false).await.is_err(), "the end of a stream can be seen");
    assert_eq!(proxy.handle.config().listeners.len(), 2);
    assert!(proxy.handle.status().borrow().ready);

    // It comes back with something new.
    let server = Server::start(world(2).set(2), &address.to_string()).await;
    proxy.until("the newer control plane's", |config| seconds(config, 0) == Some(3)).await;
    proxy.until_status("found again", |status| status.connected && status.streams >= 2).await;

    let dump = proxy.handle.config_dump(true, &Schema::load().unwrap()).unwrap();
    let kinds: Vec<&str> =
        dump["configs"].as_array().unwrap().iter().map(|one| one["@type"].as_str().unwrap()).collect();
    let expected = ["Bootstrap", "Clusters", "Endpoints", "Listeners", "Routes", "Secrets"]
        .map(|kind| format!("type.googleapis.com/envoy.admin.v3.{kind}ConfigDump"));
    assert_eq!(kinds, expected);
    assert_eq!(dump["configs"][1]["static_clusters"][0]["cluster"]["name"], "xds-grpc");
    assert_eq!(dump["configs"][1]["dynamic_active_clusters"][0]["client_status"], "ACKED");
    assert_eq!(dump["configs"][3]["dynamic_listeners"][0]["name"], "l0");
    proxy.task.abort();
    server.stop().await;
}

async fn tells_health(api_type: &str) {
    let server = Server::start(world(0).set(0), "127.0.0.1:0").await;
    let proxy = Proxy::start(bootstrap(server.address, api_type));
    let sick = WorkloadHealth::Unhealthy("connection refused".to_owned());
    let heard = async |everyone: &Everyone, health: &WorkloadHealth| {
        let mut status = everyone.status();
        let heard = status.wait_for(|status| status.workload.as_ref() == Some(health));
        drop(tokio::time::timeout(FAR_TOO_LONG, heard).await.expect("the workload's health is told").unwrap());
    };
    proxy.handle.tell_health(WorkloadHealth::Healthy);
    proxy.until_status("connected", |status| status.connected).await;
    heard(&server.everyone, &WorkloadHealth::Healthy).await;
    proxy.handle.tell_health(sick.clone());
    heard(&server.everyone, &sick).await;
    // Who comes back says it again.
    let address = server.address.to_string();
    server.stop().await;
    let server = Server::start(world(0).set(0), &address).await;
    proxy.until_status("back", |status| status.connected && status.streams > 1).await;
    heard(&server.everyone, &sick).await;
    proxy.task.abort();
    server.stop().await;
}

#[tokio::test]
async fn the_workloads_health_is_told_by_delta() {
    tells_health("DELTA_GRPC").await;
}

#[tokio::test]
async fn the_workloads_health_is_told_by_state_of_the_world() {
    tells_health("GRPC").await;
}

#[tokio::test]
async fn delta_follows_loses_and_finds_again() {
    follows_loses_and_finds_again("DELTA_GRPC").await;
}

#[tokio::test]
async fn state_of_the_world_follows_loses_and_finds_again() {
    follows_loses_and_finds_again("GRPC").await;
}

#[tokio::test]
async fn clients_without_a_name_are_turned_away() {
    let server = Server::start(world(0).set(0), "127.0.0.1:0").await;
    let mut nameless = bootstrap(server.address, "DELTA_GRPC");
    nameless.node.id.clear();
    let proxy = Proxy::start(nameless);
    let said = |status: &crate::ads::client::Status| {
        status.last_error.as_ref().is_some_and(|error| error.contains("no node id"))
    };
    proxy.until_status("turned away", said).await;
    assert!(!proxy.handle.status().borrow().ready);
    proxy.task.abort();
    server.stop().await;
}
