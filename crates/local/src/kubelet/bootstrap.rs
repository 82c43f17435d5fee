//! The bootstrap file of a pod's proxy, after the one Istio's agent writes
//! (`tools/packaging/common/envoy_bootstrap.json`). It is a valid Envoy bootstrap, so that either proxy
//! can be started with it. Pure: everything is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use lateen_galley::{Object, mesh};
use serde_json::{Map, Value, json};

use super::agent;
use crate::admission::PROXY_CONTAINER;
use crate::dns::CLUSTER_DOMAIN;
use crate::node::SIDECAR_MARK;

/// The admin interface, on the pod's own loopback.
pub const ADMIN_PORT: u16 = 15000;
/// Where readiness is asked: `/healthz/ready`.
pub const STATUS_PORT: u16 = 15021;
/// Where statistics are scraped: `/stats/prometheus`.
pub const STATS_PORT: u16 = 15090;
/// The path that readiness is asked at.
pub const READY_PATH: &str = "/healthz/ready";

/// Which part the proxy plays; Istio's node types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyType {
    /// Beside an application.
    Sidecar,
    /// A gateway.
    Router,
}

/// Which part a pod's proxy plays, if it has one.
pub fn proxy_type(pod: &Pod) -> Option<ProxyType> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let proxy = containers.into_iter().find(|container| container.name == PROXY_CONTAINER)?;
    let router = proxy.args.iter().flatten().any(|word| word == "router");
    Some(if router { ProxyType::Router } else { ProxyType::Sidecar })
}

/// The bootstrap of a pod's proxy, if it has one.
pub fn bootstrap(object: &Object, pod: &Pod, addresses: &[IpAddr], node: &str) -> Option<Value> {
    let (name, namespace, metadata) = (object.name(), object.namespace(), &pod.metadata);
    let deployment = metadata.owner_references.iter().flatten().find(|owner| owner.kind == "Deployment");
    let owner = match deployment {
        Some(owner) => format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{}", owner.name),
        None => format!("kubernetes://apis/v1/namespaces/{namespace}/pods/{name}"),
    };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str());
    let containers: Vec<&str> = containers.filter(|name| *name != PROXY_CONTAINER).collect();
    let none = BTreeMap::new();
    let proxy = Proxy {
        kind: proxy_type(pod)?,
        pod: name,
        namespace,
        addresses,
        labels: metadata.labels.as_ref().unwrap_or(&none),
        annotations: metadata.annotations.as_ref().unwrap_or(&none),
        service_account: super::service_account(pod),
        workload: deployment.map_or(name, |owner| owner.name.as_str()),
        owner: &owner,
        containers: &containers,
        node,
    };
    Some(proxy.bootstrap())
}

/// What a bootstrap says of its pod.
#[derive(Debug, Clone)]
struct Proxy<'a> {
    /// Sidecar or gateway.
    kind: ProxyType,
    /// The pod's name.
    pod: &'a str,
    /// The pod's namespace.
    namespace: &'a str,
    /// The pod's addresses, the IPv4 one first.
    addresses: &'a [IpAddr],
    /// The pod's labels.
    labels: &'a BTreeMap<String, String>,
    /// The pod's annotations.
    annotations: &'a BTreeMap<String, String>,
    /// The pod's service account.
    service_account: &'a str,
    /// The Deployment, or the pod itself if it belongs to none.
    workload: &'a str,
    /// `kubernetes://apis/apps/v1/namespaces/NS/deployments/NAME`.
    owner: &'a str,
    /// Names of the application's containers.
    containers: &'a [&'a str],
    /// Name of the node.
    node: &'a str,
}

impl Proxy<'_> {
    /// `TYPE~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local`.
    fn id(&self) -> String {
        let kind = match self.kind {
            ProxyType::Sidecar => "sidecar",
            ProxyType::Router => "router",
        };
        let address = self.addresses.first().map(IpAddr::to_string).unwrap_or_default();
        format!("{kind}~{address}~{}.{ns}~{ns}.svc.{CLUSTER_DOMAIN}", self.pod, ns = self.namespace)
    }

    /// The bootstrap as JSON.
    fn bootstrap(&self) -> Value {
        let app = self.labels.get("app").map_or(self.workload, String::as_str);
        json!({
            "node": {"id": self.id(), "cluster": format!("{app}.{}", self.namespace), "metadata": self.metadata()},
            "admin": {"address": address("127.0.0.1", ADMIN_PORT)},
            "cluster_manager": {"upstream_bind_config": mark()},
            "dynamic_resources": {
                "lds_config": over_ads(),
                "cds_config": over_ads(),
                "ads_config": {
                    "api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
                },
            },
            "static_resources": {
                "clusters": [
                    cluster("prometheus_stats", "127.0.0.1", ADMIN_PORT),
                    cluster("agent", "127.0.0.1", ADMIN_PORT),
                    socket_cluster("xds-grpc", agent::DISCOVERY_SOCKET),
                    socket_cluster("sds-grpc", agent::SECRETS_SOCKET),
                ],
                "listeners": [
                    static_listener(STATS_PORT, "stats", "/stats/prometheus", "/stats/prometheus", "prometheus_stats"),
                    static_listener(STATUS_PORT, "agent", READY_PATH, "/ready", "agent"),
                ],
            },
        })
    }

    /// What the pod's annotation says of its proxy: the settings as a whole, and the variables that are meant for here.
    fn add_settings(&self, metadata: &mut Value) {
        let Some(text) = self.annotations.get(mesh::ANNOTATION) else { return };
        // What is no YAML was refused when the pod came.
        let Ok(settings) = serde_norway::from_str::<Value>(text) else { return };
        for (name, value) in settings.get("proxyMetadata").and_then(Value::as_object).into_iter().flatten() {
            if let Some(name) = name.strip_prefix("ISTIO_META_") {
                metadata[name] = value.clone();
            }
        }
        metadata["PROXY_CONFIG"] = settings;
    }

    fn metadata(&self) -> Value {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let mut metadata = json!({
            "NAME": self.pod,
            "NAMESPACE": self.namespace,
            "INSTANCE_IPS": addresses.join(","),
            "LABELS": strings(self.labels),
            "ANNOTATIONS": strings(self.annotations),
            "CLUSTER_ID": "Kubernetes",
            "MESH_ID": CLUSTER_DOMAIN,
            "SERVICE_ACCOUNT": self.service_account,
            "WORKLOAD_NAME": self.workload,
            "OWNER": self.owner,
            "APP_CONTAINERS": self.containers.join(","),
            "INTERCEPTION_MODE": "REDIRECT",
            "NODE_NAME": self.node,
            "ENVOY_STATUS_PORT": STATUS_PORT,
            "ENVOY_PROMETHEUS_PORT": STATS_PORT,
        });
        self.add_settings(&mut metadata);
        metadata
    }
}

fn strings(map: &BTreeMap<String, String>) -> Map<String, Value> {
    map.iter().map(|(key, value)| (key.clone(), json!(value))).collect()
}

fn address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn over_ads() -> Value {
    json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"})
}

/// Every connection the proxy makes carries the mark that its pod's redirect rules let pass.
fn mark() -> Value {
    // SOL_SOCKET and SO_MARK by number, as Envoy takes them.
    let mark = json!({"level": 1, "name": 36, "int_value": SIDECAR_MARK, "state": "STATE_PREBIND"});
    json!({"socket_options": [mark]})
}

fn cluster(name: &str, host: &str, port: u16) -> Value {
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "1s", "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host, port)}}]}],
        },
    })
}

/// A gRPC server at a unix socket of the pod's: the agent.
fn socket_cluster(name: &str, path: &str) -> Value {
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "1s", "lb_policy": "ROUND_ROBIN",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}],
        },
    })
}

fn static_listener(port: u16, stat_prefix: &str, path: &str, upstream_path: &str, cluster: &str) -> Value {
    let route = json!({
        "match": {"prefix": path},
        "route": {"cluster": cluster, "prefix_rewrite": upstream_path},
    });
    json!({
        "name": format!("0.0.0.0_{port}"),
        "address": address("0.0.0.0", port),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type":
                    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "codec_type": "AUTO",
                "stat_prefix": stat_prefix,
                "route_config": {"virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": [route]}]},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }]}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_named_as_istio_names_it() {
        let (labels, annotations) = (BTreeMap::from([("app".to_owned(), "web".to_owned())]), BTreeMap::new());
        let proxy = Proxy {
            kind: ProxyType::Sidecar,
            pod: "web-1",
            namespace: "shop",
            addresses: &["10.244.0.5".parse().unwrap(), "fd00:10:244::5".parse().unwrap()],
            labels: &labels,
            annotations: &annotations,
            service_account: "default",
            workload: "web",
            owner: "kubernetes://apis/apps/v1/namespaces/shop/deployments/web",
            containers: &["app"],
            node: "lateen",
        };
        let bootstrap = proxy.bootstrap();
        assert_eq!(bootstrap["node"]["id"], "sidecar~10.244.0.5~web-1.shop~shop.svc.cluster.local");
        assert_eq!(bootstrap["node"]["cluster"], "web.shop");
        assert_eq!(bootstrap["node"]["metadata"]["INSTANCE_IPS"], "10.244.0.5,fd00:10:244::5");
        let mark = &bootstrap["cluster_manager"]["upstream_bind_config"]["socket_options"][0];
        assert_eq!((&mark["level"], &mark["name"], &mark["int_value"]), (&json!(1), &json!(36), &json!(1337)));
    }
}
