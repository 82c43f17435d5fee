//! What holds for every set of resources, whatever the world.

use crate::generate::listener::ChainMatch;
use crate::testing::{self, Cluster, GATEWAY, SIDECAR};
use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster as ClusterMessage, cluster::ClusterDiscoveryType, cluster::DiscoveryType,
};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, filter::ConfigType,
};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, route::Action, route_action::ClusterSpecifier};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, tcp_proxy::ClusterSpecifier as TcpSpecifier,
};
use lateen_xds::convert;
use lateen_xds::{ResourceSet, ResourceType};
use proptest::prelude::*;
use prost::{Message, Name};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};

const RICH: &str = include_str!("../../testdata/rich-in.yaml");

fn decoded<M: Message + Default>(resources: &ResourceSet, kind: &ResourceType) -> Vec<(String, M)> {
    resources
        .of_type(kind)
        .map(|resource| (resource.name().to_string(), M::decode(resource.body().clone()).unwrap()))
        .collect()
}

fn config<M: Message + Name + Default>(filter: &Filter) -> Option<M> {
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { return None };
    (any.type_url == M::type_url()).then(|| M::decode(any.value.as_slice()).unwrap())
}

fn chains(listener: &Listener) -> impl Iterator<Item = &FilterChain> {
    listener.filter_chains.iter().chain(&listener.default_filter_chain)
}

/// Clusters and route configurations that listeners name.
fn named_by_listeners(resources: &ResourceSet) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut clusters, mut routes) = (BTreeSet::new(), BTreeSet::new());
    for (_, listener) in decoded::<Listener>(resources, &ResourceType::Listener) {
        for filter in chains(&listener).flat_map(|chain| &chain.filters) {
            if let Some(manager) = config::<HttpConnectionManager>(filter) {
                match manager.route_specifier {
                    Some(RouteSpecifier::Rds(rds)) => {
                        routes.insert(rds.route_config_name);
                    }
                    Some(RouteSpecifier::RouteConfig(inline)) => clusters.extend(named_by_routes(&inline)),
                    other => panic!("{other:?}"),
                }
            } else if let Some(proxy) = config::<TcpProxy>(filter) {
                match proxy.cluster_specifier {
                    Some(TcpSpecifier::Cluster(cluster)) => {
                        clusters.insert(cluster);
                    }
                    Some(TcpSpecifier::WeightedClusters(weighted)) => {
                        assert!(!weighted.clusters.is_empty());
                        clusters.extend(weighted.clusters.into_iter().map(|cluster| cluster.name));
                    }
                    None => panic!("a TCP proxy without a cluster"),
                }
            } else {
                panic!("unknown filter {}", filter.name);
            }
        }
    }
    (clusters, routes)
}

fn named_by_routes(configuration: &RouteConfiguration) -> BTreeSet<String> {
    let mut clusters = BTreeSet::new();
    for route in configuration.virtual_hosts.iter().flat_map(|host| &host.routes) {
        let Some(Action::Route(action)) = &route.action else { continue };
        match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(cluster)) => {
                clusters.insert(cluster.clone());
            }
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                assert!(!weighted.clusters.is_empty());
                clusters.extend(weighted.clusters.iter().map(|cluster| cluster.name.clone()));
            }
            other => panic!("{other:?}"),
        }
    }
    clusters
}

/// Checks what Envoy would refuse, and what would send traffic nowhere. `missing` says of a cluster that is not there
/// whether the manifests are to blame.
fn check(resources: &ResourceSet, missing: &dyn Fn(&str) -> bool) {
    our_own_proxy_takes(resources);
    let clusters = decoded::<ClusterMessage>(resources, &ResourceType::Cluster);
    let names: HashSet<&str> = clusters.iter().map(|(name, _)| name.as_str()).collect();
    let by_eds: BTreeSet<&str> = clusters
        .iter()
        .filter(|(_, cluster)| {
            cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let assigned: BTreeSet<&str> = resources.of_type(&ResourceType::Endpoint).map(|r| &**r.name()).collect();
    assert_eq!(by_eds, assigned);

    let (mut named, routes) = named_by_listeners(resources);
    let configurations = decoded::<RouteConfiguration>(resources, &ResourceType::Route);
    let present: BTreeSet<String> = configurations.iter().map(|(name, _)| name.clone()).collect();
    // Listeners that lead to the own workload are left out after routes were made for all; nobody asks for those.
    assert!(routes.is_subset(&present), "{routes:?} {present:?}");
    for (name, configuration) in &configurations {
        named.extend(named_by_routes(configuration));
        let mut domains = HashSet::new();
        let mut hosts = HashSet::new();
        for host in &configuration.virtual_hosts {
            assert!(hosts.insert(&host.name), "{name}: two virtual hosts are called {}", host.name);
            assert!(!host.domains.is_empty());
            for domain in &host.domains {
                assert!(domains.insert(domain.to_ascii_lowercase()), "{name}: {domain} stands twice");
            }
        }
    }
    for cluster in &named {
        assert!(names.contains(cluster.as_str()) || missing(cluster), "no cluster {cluster}");
    }
    let mut addresses = HashSet::new();
    for (name, listener) in decoded::<Listener>(resources, &ResourceType::Listener) {
        assert!(addresses.insert(listener.address.clone().map(|address| address.encode_to_vec())), "{name}");
        assert!(!listener.filter_chains.is_empty(), "{name} has no chain");
        let mut taken = HashSet::new();
        for chain in &listener.filter_chains {
            let matches = chain.filter_chain_match.clone().unwrap_or_default();
            for atom in atoms(&matches) {
                assert!(taken.insert(atom), "{name}: two chains take the same: {matches:?}");
            }
        }
    }
}

/// The single matches Envoy makes of one: it refuses two chains that share one.
fn atoms(matches: &FilterChainMatch) -> Vec<(String, String, String, String)> {
    let or_any = |list: Vec<String>| if list.is_empty() { vec![String::new()] } else { list };
    let port = matches.destination_port.as_ref().map(|port| port.value);
    let blocks = or_any(matches.prefix_ranges.iter().map(|block| format!("{block:?}")).collect());
    let names = or_any(matches.server_names.iter().map(|name| name.to_ascii_lowercase()).collect());
    let protocols = or_any(matches.application_protocols.clone());
    let mut all = Vec::new();
    for block in &blocks {
        for name in &names {
            for protocol in &protocols {
                let place = format!("{port:?} {block}");
                all.push((place, name.clone(), protocol.clone(), matches.transport_protocol.clone()));
            }
        }
    }
    all
}

/// The other end of the wire must understand all of it.
fn our_own_proxy_takes(resources: &ResourceSet) {
    let mut notes = convert::Notes::default();
    for (name, cluster) in decoded(resources, &ResourceType::Cluster) {
        convert::cluster(cluster, &mut notes).unwrap_or_else(|reject| panic!("{name}: {reject}"));
    }
    for (name, assignment) in decoded(resources, &ResourceType::Endpoint) {
        convert::endpoints(assignment, convert::Addresses::Ready, &mut notes)
            .unwrap_or_else(|reject| panic!("{name}: {reject}"));
    }
    for (name, listener) in decoded(resources, &ResourceType::Listener) {
        convert::listener(listener, &mut notes).unwrap_or_else(|reject| panic!("{name}: {reject}"));
    }
    for (name, configuration) in decoded(resources, &ResourceType::Route) {
        convert::route_config(configuration, &mut notes).unwrap_or_else(|reject| panic!("{name}: {reject}"));
    }
}

#[test]
fn of_a_rich_world() {
    let cluster = Cluster::read(RICH);
    for id in [SIDECAR, GATEWAY, "sidecar~10.244.9.9~x.other~other.svc.cluster.local"] {
        let labels = [("istio", "ingressgateway"), ("app", "istio-ingressgateway")];
        let labels = if id == GATEWAY { labels.as_slice() } else { &[] };
        let resources = cluster.resources(&testing::node(id, labels));
        check(&resources, &|name| {
            // No such service; no such port.
            name.ends_with("|nowhere.shop.svc.cluster.local")
        });
    }
}

#[test]
fn generation_is_the_same_every_time() {
    let cluster = Cluster::read(RICH);
    let dump = || {
        let resources = cluster.resources(&testing::node(SIDECAR, &[]));
        ResourceType::CORE.map(|kind| resources.of_type(&kind).cloned().collect::<Vec<_>>())
    };
    assert_eq!(dump(), dump());
}

#[test]
fn equal_matches_written_differently_are_found_equal() {
    let block = |text: &str| crate::registry::Cidr::parse(text).unwrap();
    let a = ChainMatch { destinations: vec![block("10.1.0.0/8"), block("10.0.0.1")], ..ChainMatch::default() };
    let b = ChainMatch { destinations: vec![block("10.0.0.1/32"), block("10.2.0.0/8")], ..ChainMatch::default() };
    assert_eq!(a.canonical(), b.canonical());
}

// Small alphabets, so that names, ports and addresses meet often.

fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(values).prop_map(str::to_owned)
}

fn host() -> impl Strategy<Value = String> {
    one_of(&["a", "b.shop.svc.cluster.local", "x.com", "X.com", "*.x.com", "y.x.com", "*"])
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![80u16, 443, 7000, 15001])
}

fn named_ports() -> impl Strategy<Value = Vec<(u16, String)>> {
    let names = one_of(&["http", "tcp", "grpc", "web", "tls", "https", "mongo", "mysql", "udp", "grpc-web"]);
    prop::collection::vec((port(), names), 1..3).prop_map(|mut ports| {
        ports.sort();
        ports.dedup_by_key(|(number, _)| *number);
        ports
    })
}

fn metadata(name: &str, namespace: &str, age: u8) -> Value {
    json!({
        "name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", age % 60),
    })
}

fn namespace() -> impl Strategy<Value = String> {
    one_of(&["shop", "other", "istio-system"])
}

fn service() -> impl Strategy<Value = Value> {
    let address = one_of(&["None", "10.96.0.1", "10.96.0.2", "fd00::1"]);
    (one_of(&["a", "b", "c"]), namespace(), any::<u8>(), address, named_ports()).prop_map(
        |(name, namespace, age, address, ports)| {
            let ports: Vec<Value> = ports
                .iter()
                .map(|(number, name)| {
                    let transport = if name == "udp" { "UDP" } else { "TCP" };
                    json!({"name": name, "port": number, "protocol": transport})
                })
                .collect();
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata(&name, &namespace, age),
                "spec": {"clusterIP": address, "selector": {"app": "x"}, "ports": ports},
            })
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    let address = one_of(&["10.244.0.5", "10.244.0.6", "10.244.0.2"]);
    let endpoints = prop::collection::vec((address, any::<bool>()), 0..3);
    (one_of(&["a", "b", "c"]), namespace(), named_ports(), endpoints).prop_map(|(name, namespace, ports, endpoints)| {
        let ports: Vec<Value> = ports.iter().map(|(number, name)| json!({"name": name, "port": number})).collect();
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, ready)| json!({"addresses": [address], "conditions": {"ready": ready}}))
            .collect();
        let mut metadata = metadata(&name, &namespace, 0);
        metadata["labels"] = json!({"kubernetes.io/service-name": name});
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        })
    })
}

fn service_entry() -> impl Strategy<Value = Value> {
    let address = one_of(&["10.96.0.1", "172.16.0.1", "192.168.0.0/16", "192.168.1.0/16", "not one"]);
    let endpoint = one_of(&["1.1.1.1", "10.244.0.5", "backend.x.com", "unix:///x"]);
    (
        (one_of(&["e", "f", "g"]), namespace(), any::<u8>()),
        prop::collection::vec(host(), 1..3),
        prop::collection::vec(address, 0..3),
        named_ports(),
        one_of(&["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN"]),
        prop::collection::vec(endpoint, 0..3),
    )
        .prop_map(|((name, namespace, age), hosts, addresses, ports, resolution, endpoints)| {
            let ports: Vec<Value> = ports
                .iter()
                .map(|(number, name)| json!({"name": name, "number": number, "protocol": name.to_uppercase()}))
                .collect();
            let endpoints: Vec<Value> = endpoints.iter().map(|address| json!({"address": address})).collect();
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": metadata(&name, &namespace, age),
                "spec": {
                    "hosts": hosts, "addresses": addresses, "ports": ports, "resolution": resolution,
                    "endpoints": endpoints,
                },
            })
        })
}

fn destination() -> impl Strategy<Value = Value> {
    (host(), one_of(&["", "v1"]), prop::option::of(port())).prop_map(|(host, subset, port)| match port {
        Some(number) => json!({"host": host, "subset": subset, "port": {"number": number}}),
        None => json!({"host": host, "subset": subset}),
    })
}

fn virtual_service() -> impl Strategy<Value = Value> {
    let weight = prop::sample::select(vec![0i32, 1, 50, i32::MAX]);
    let weighted =
        (destination(), weight).prop_map(|(destination, weight)| json!({"destination": destination, "weight": weight}));
    let destinations = prop::collection::vec(weighted, 1..3).boxed();
    let http_match = prop::sample::select(vec![
        json!({}),
        json!({"uri": {"prefix": "/"}}),
        json!({"uri": {"exact": "/x"}, "port": 80}),
        json!({"headers": {"a": {"prefix": ""}}, "sourceLabels": {"app": "x"}}),
        json!({"gateways": ["gw"]}),
        json!({"sourceNamespace": "other"}),
    ]);
    let l4_match = prop::sample::select(vec![
        json!({}),
        json!({"port": 7000}),
        json!({"destinationSubnets": ["10.0.0.0/8"]}),
        json!({"gateways": ["mesh"]}),
    ]);
    let http = (prop::collection::vec(http_match, 0..3), destinations.clone())
        .prop_map(|(matches, route)| json!({"match": matches, "route": route}));
    let tcp = (prop::collection::vec(l4_match, 0..2), destinations.clone())
        .prop_map(|(matches, route)| json!({"match": matches, "route": route}));
    let tls = (host(), destinations).prop_map(|(host, route)| json!({"match": [{"sniHosts": [host]}], "route": route}));
    (
        (one_of(&["r", "s", "t"]), namespace(), any::<u8>()),
        prop::collection::vec(host(), 1..3),
        prop::sample::subsequence(vec!["mesh", "gw", "shop/gw"], 0..3),
        prop::collection::vec(http, 0..3),
        prop::collection::vec(tcp, 0..2),
        prop::collection::vec(tls, 0..2),
    )
        .prop_map(|((name, namespace, age), hosts, gateways, http, tcp, tls)| {
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": metadata(&name, &namespace, age),
                "spec": {"hosts": hosts, "gateways": gateways, "http": http, "tcp": tcp, "tls": tls},
            })
        })
}

fn destination_rule() -> impl Strategy<Value = Value> {
    let balancing = one_of(&["RANDOM", "PASSTHROUGH", "ROUND_ROBIN"]);
    ((one_of(&["d", "h"]), namespace(), any::<u8>()), host(), balancing).prop_map(
        |((name, namespace, age), host, balancing)| {
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
                "metadata": metadata(&name, &namespace, age),
                "spec": {
                    "host": host, "trafficPolicy": {"loadBalancer": {"simple": balancing}},
                    "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
                },
            })
        },
    )
}

fn gateway() -> impl Strategy<Value = Value> {
    let server = (port(), one_of(&["HTTP", "HTTPS", "TLS", "TCP", "GRPC"]), host(), any::<bool>()).prop_map(
        |(number, protocol, host, tls)| {
            let port = json!({"number": number, "name": "p", "protocol": protocol});
            let redirect = protocol == "HTTP";
            match tls {
                true => json!({"port": port, "hosts": [host], "tls": {"httpsRedirect": redirect}}),
                false => json!({"port": port, "hosts": [format!("*/{host}")]}),
            }
        },
    );
    (one_of(&["gw", "gw2"]), namespace(), any::<u8>(), prop::collection::vec(server, 1..4)).prop_map(
        |(name, namespace, age, servers)| {
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
                "metadata": metadata(&name, &namespace, age), "spec": {"servers": servers},
            })
        },
    )
}

fn world() -> impl Strategy<Value = Vec<Value>> {
    let object = prop_oneof![service(), slice(), service_entry(), virtual_service(), destination_rule(), gateway(),];
    prop::collection::vec(object, 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_any_world(objects in world()) {
        let mut cluster = Cluster::default();
        for object in objects {
            cluster.0.insert(std::sync::Arc::new(lateen_galley::Object::decode(object).unwrap()));
        }
        for id in [SIDECAR, GATEWAY, "sidecar~fd00::9~x.other~other.svc.cluster.local"] {
            let resources = cluster.resources(&testing::node(id, &[("app", "x")]));
            let clusters: HashSet<String> =
                resources.of_type(&ResourceType::Cluster).map(|resource| resource.name().to_string()).collect();
            check(&resources, &|name| {
                // Destinations of rules may have no such host, port or subset, and names to be resolved no address.
                // What is left: a cluster for the very service and port, without which the service does not work.
                let own: Vec<&str> = name.split('|').collect();
                let [_, port, subset, host] = own.as_slice() else { return name == crate::names::UNKNOWN_SERVICE };
                !subset.is_empty() || !clusters.contains(&format!("outbound|{port}||{host}"))
            });
        }
    }
}

/// A plain Envoy refuses a listener with a filter it does not have.
#[test]
fn only_proxies_that_can_say_by_alpn_that_http_comes() {
    let cluster = Cluster::read(testing::CANARY);
    for (node, own) in [(SIDECAR, true), (SIDECAR, false), (GATEWAY, true), (GATEWAY, false)] {
        let plain = testing::node(node, &[]);
        let node = if own { lateen_xds::ads::client::introduced(plain) } else { plain };
        let mut managers = 0;
        for (name, listener) in decoded::<Listener>(&cluster.resources(&node), &ResourceType::Listener) {
            let filters = chains(&listener).flat_map(|chain| &chain.filters);
            for manager in filters.filter_map(config::<HttpConnectionManager>) {
                let filters: Vec<&str> = manager.http_filters.iter().map(|filter| filter.name.as_str()).collect();
                let expected = own && name != "virtualInbound";
                assert_eq!(filters.contains(&"istio.alpn"), expected, "{name}: {filters:?}");
                managers += 1;
            }
        }
        assert!(managers > 0);
    }
}
