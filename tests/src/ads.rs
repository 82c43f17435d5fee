//! A small control plane: serves one fixed set of resources over ADS to whoever connects.

use std::sync::{Arc, Mutex};

use lateen_xds::ads::server::{Connection, Discovery, Peer, StreamStatus, serve};
use lateen_xds::json::Schema;
use lateen_xds::pb::envoy::config::cluster::v3::Cluster;
use lateen_xds::pb::envoy::config::core::v3::Node;
use lateen_xds::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_xds::pb::envoy::config::listener::v3::Listener;
use lateen_xds::pb::envoy::config::route::v3::RouteConfiguration;
use lateen_xds::{Resource, ResourceSet, ResourceType};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;

/// A running ADS server.
pub struct ControlPlane {
    pub port: u16,
    service: Arc<Fixed>,
}

struct Fixed {
    resources: watch::Sender<Arc<ResourceSet>>,
    streams: Mutex<Vec<watch::Receiver<StreamStatus>>>,
}

impl Discovery for Fixed {
    fn connect(&self, _node: &Node, _peer: &Peer) -> Result<Connection, Status> {
        let (status, watched) = watch::channel(StreamStatus::default());
        self.streams.lock().unwrap().push(watched);
        Ok(Connection { resources: self.resources.subscribe(), status })
    }
}

impl ControlPlane {
    /// Serves these listeners and clusters, given as a bootstrap's static resources: their routes by
    /// RDS, their endpoints by EDS.
    pub async fn start(listeners: &[Value], clusters: &[Value]) -> ControlPlane {
        let (resources, _) = watch::channel(Arc::new(resources("1", listeners, clusters)));
        let service = Arc::new(Fixed { resources, streams: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        tokio::spawn(serve(listener, service.clone(), std::future::pending()));
        ControlPlane { port, service }
    }

    /// Replaces everything that is served.
    pub fn push(&self, version: &str, listeners: &[Value], clusters: &[Value]) {
        self.service.resources.send_replace(Arc::new(resources(version, listeners, clusters)));
    }

    /// What clients refused so far, as they put it.
    pub fn refusals(&self) -> Vec<String> {
        let streams = self.service.streams.lock().unwrap();
        streams.iter().flat_map(|stream| refused(&stream.borrow())).collect()
    }
}

fn refused(status: &StreamStatus) -> Vec<String> {
    status
        .types
        .iter()
        .filter_map(|(kind, status)| Some(format!("{kind:?}: {}", status.last_error.as_ref()?)))
        .collect()
}

fn resources(version: &str, listeners: &[Value], clusters: &[Value]) -> ResourceSet {
    let schema = Schema::load().expect("the embedded descriptors");
    let ads = || json!({"ads": {}, "resource_api_version": "V3"});
    let (mut lds, mut rds, mut cds, mut eds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for listener in listeners {
        let mut listener = listener.clone();
        for config in http_managers(&mut listener) {
            let Some(routes) = config.remove("route_config") else { continue };
            let name = name_of(&routes);
            config.insert("rds".to_owned(), json!({"route_config_name": name, "config_source": ads()}));
            let routes: RouteConfiguration = schema.from_json(routes).expect("a route configuration");
            rds.push(Resource::new(name, &routes));
        }
        let name = name_of(&listener);
        let listener: Listener = schema.from_json(listener).expect("a listener");
        lds.push(Resource::new(name, &listener));
    }
    for cluster in clusters {
        let mut cluster = cluster.clone();
        let name = name_of(&cluster);
        if let Some(fields) = cluster.as_object_mut()
            && fields.get("type").is_some_and(|kind| kind == "STATIC")
            && let Some(endpoints) = fields.remove("load_assignment")
        {
            fields.insert("type".to_owned(), json!("EDS"));
            fields.insert("eds_cluster_config".to_owned(), json!({"eds_config": ads()}));
            let endpoints: ClusterLoadAssignment = schema.from_json(endpoints).expect("endpoints");
            eds.push(Resource::new(name.clone(), &endpoints));
        }
        let cluster: Cluster = schema.from_json(cluster).expect("a cluster");
        cds.push(Resource::new(name, &cluster));
    }
    ResourceSet::new(version)
        .with(ResourceType::Cluster, cds)
        .with(ResourceType::Endpoint, eds)
        .with(ResourceType::Listener, lds)
        .with(ResourceType::Route, rds)
}

fn name_of(resource: &Value) -> String {
    resource["name"].as_str().expect("a named resource").to_owned()
}

/// The HTTP connection managers of a listener.
fn http_managers(listener: &mut Value) -> Vec<&mut serde_json::Map<String, Value>> {
    let chains = listener.get_mut("filter_chains").and_then(Value::as_array_mut);
    chains
        .into_iter()
        .flatten()
        .filter_map(|chain| chain.get_mut("filters")?.as_array_mut())
        .flatten()
        .filter_map(|filter| filter.get_mut("typed_config")?.as_object_mut())
        .filter(|config| config.contains_key("route_config"))
        .collect()
}
