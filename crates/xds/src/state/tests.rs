use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;

use super::*;
use crate::bootstrap::parse_document;
use crate::convert::route_names;
use crate::json::Schema;

struct Told {
    schema: Schema,
    state: State,
    bound: Bound,
    version: u32,
}

/// Ports that are held now.
type Bound = Arc<Mutex<Vec<u16>>>;

/// The one port that somebody else has.
const TAKEN: u16 = 9;

struct Held(Bound, u16);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().unwrap().retain(|port| *port != self.1);
    }
}

impl Told {
    fn new() -> Told {
        Told::with("{}")
    }

    fn with(bootstrap: &str) -> Told {
        let schema = Schema::load().unwrap();
        let bootstrap = Bootstrap::parse(bootstrap, &schema).unwrap();
        let bound: Bound = Arc::default();
        let bind = {
            let bound = Arc::clone(&bound);
            move |address: SocketAddr| {
                if address.port() == TAKEN {
                    return Err(io::Error::from_raw_os_error(98));
                }
                bound.lock().unwrap().push(address.port());
                Ok(Box::new(Held(Arc::clone(&bound), address.port())) as Box<dyn Send>)
            }
        };
        let state = State::new(&bootstrap, Box::new(bind), UNIX_EPOCH).unwrap();
        Told { schema, state, bound, version: 0 }
    }

    /// Applies resources in YAML; answers with what was refused.
    fn tell(&mut self, r#type: ResourceType, resources: &str, removed: &[&str]) -> Vec<String> {
        self.version += 1;
        let document = format!("{{resources: [{resources}]}}");
        let response: DiscoveryResponse = self.schema.from_json(parse_document(&document).unwrap()).unwrap();
        let version: Arc<str> = self.version.to_string().into();
        let received = |body: Any| Received { name: resource_name(&body), version: Arc::clone(&version), body };
        let update = Update {
            resources: response.resources.into_iter().map(received).collect(),
            removed: removed.iter().map(|name| Arc::from(*name)).collect(),
            r#type,
            version: Arc::clone(&version),
            nonce: "".into(),
        };
        let refused = self.state.apply(&update, UNIX_EPOCH);
        refused.into_iter().map(|Refused { name, reason }| format!("{name}: {reason}")).collect()
    }

    fn clusters(&mut self) -> Vec<String> {
        let mut names: Vec<String> = self.state.config().clusters.keys().map(|name| name.to_string()).collect();
        names.sort();
        names
    }

    fn listeners(&mut self) -> Vec<String> {
        self.state.config().listeners.keys().map(|name| name.to_string()).collect()
    }
}

fn wanted(told: &Told) -> Vec<String> {
    told.state.wanted(&Eds).keys().map(ToString::to_string).collect()
}

fn cluster(name: &str, service: &str, seconds: u32) -> String {
    format!(
        "{{'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster, name: {name}, type: EDS, connect_timeout: {seconds}s,
          eds_cluster_config: {{service_name: {service}, eds_config: {{ads: {{}}}}}}}}"
    )
}

fn endpoints(service: &str, port: u16) -> String {
    format!(
        "{{'@type': type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: {service}, endpoints:
          [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 10.0.0.1, port_value: {port}}}}}}}}}]}}]}}"
    )
}

fn listener(name: &str, port: u16, routes: &str) -> String {
    format!(
        "{{'@type': type.googleapis.com/envoy.config.listener.v3.Listener, name: {name}, address: {{socket_address:
          {{address: 0.0.0.0, port_value: {port}}}}}, filter_chains: [{{filters: [{{name: h, typed_config: {{'@type':
          type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
          stat_prefix: x, rds: {{route_config_name: {routes}, config_source: {{ads: {{}}}}}}, http_filters: [{{name: r,
          typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]}}"
    )
}

fn routes(name: &str) -> String {
    format!("{{'@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration, name: {name}}}")
}

use ResourceType::{Cluster as Cds, Endpoint as Eds, Listener as Lds, Route as Rds};

#[test]
fn clusters_wait_for_endpoints_and_the_older_one_stays() {
    let mut told = Told::new();
    assert!(told.tell(Cds, &cluster("a", "s1", 1), &[]).is_empty());
    assert_eq!(told.clusters(), [""; 0]);
    assert_eq!(wanted(&told), ["s1"]);
    told.tell(Eds, &endpoints("s1", 80), &[]);
    assert_eq!(told.clusters(), ["a"]);

    // With endpoints known, a change is in force at once.
    told.tell(Cds, &cluster("a", "s1", 2), &[]);
    assert_eq!(told.state.config().clusters["a"].settings.connect_timeout.as_secs(), 2);
    // With others not known yet, it waits.
    told.tell(Cds, &cluster("a", "s2", 3), &[]);
    assert_eq!(told.state.config().clusters["a"].settings.connect_timeout.as_secs(), 2);
    assert_eq!(wanted(&told), ["s1", "s2"]);
    told.tell(Eds, &endpoints("s1", 81), &[]);
    let port =
        |told: &mut Told| told.state.config().clusters["a"].endpoints.localities[0].endpoints[0].address.to_string();
    assert_eq!(port(&mut told), "10.0.0.1:81", "the one that serves still hears of its endpoints");
    told.tell(Eds, &endpoints("s2", 90), &[]);
    assert_eq!(told.state.config().clusters["a"].settings.connect_timeout.as_secs(), 3);
    assert_eq!(port(&mut told), "10.0.0.1:90");
    assert_eq!(wanted(&told), ["s2"]);

    told.tell(Cds, "", &["a"]);
    assert_eq!(told.clusters(), [""; 0]);
    assert!(told.state.wanted(&Eds).is_empty());
    assert!(told.state.names(&Eds).is_empty(), "nothing is kept of what nobody wants");
}

#[test]
fn endpoints_that_nobody_has_do_not_hold_a_cluster() {
    let mut told = Told::new();
    told.tell(Cds, &cluster("a", "s", 1), &[]);
    told.tell(Eds, "", &["s"]);
    assert_eq!(told.clusters(), ["a"]);
    // Of a cluster in use they are kept.
    told.tell(Eds, &endpoints("s", 80), &[]);
    told.tell(Eds, "", &["s"]);
    assert_eq!(told.state.config().clusters["a"].endpoints.localities.len(), 1);
}

#[test]
fn listeners_wait_for_routes_and_the_older_one_stays() {
    let mut told = Told::new();
    told.tell(Lds, &listener("l", 80, "r1"), &[]);
    assert_eq!(told.listeners(), [""; 0]);
    assert_eq!(told.state.warming().count(), 1);
    told.tell(Rds, &routes("r1"), &[]);
    assert_eq!(told.listeners(), ["l"]);
    told.tell(Lds, &listener("l", 80, "r2"), &[]);
    assert_eq!(told.state.config().routes.len(), 1);
    let first = Arc::clone(&told.state.config().listeners["l"]);
    assert_eq!(route_names(&first).next().map(|name| &**name), Some("r1"));
    told.tell(Rds, &routes("r2"), &[]);
    let config = told.state.config();
    assert_eq!(route_names(&config.listeners["l"]).next().map(|name| &**name), Some("r2"));
    assert_eq!(config.routes.keys().map(|name| &**name).collect::<Vec<_>>(), ["r2"], "the first is let go of");
    // Routes are kept while a listener names them.
    told.tell(Rds, "", &["r2"]);
    assert_eq!(told.state.config().routes.len(), 1);
    told.tell(Lds, "", &["l"]);
    assert!(told.state.config().routes.is_empty());
}

#[test]
fn an_address_is_held_from_before_its_listener_is_accepted_until_no_form_of_it_is_left() {
    let mut told = Told::new();
    let held = Arc::clone(&told.bound);
    let held = move || held.lock().unwrap().clone();
    let refused = told.tell(Lds, &[listener("a", 80, "r"), listener("b", TAKEN, "r")].join(","), &[]);
    assert_eq!(refused, ["b: cannot bind '0.0.0.0:9': Address already in use"]);
    // It waits for its routes, and has its address.
    assert_eq!((told.listeners(), held()), (vec![], vec![80]));
    told.tell(Rds, &routes("r"), &[]);
    assert_eq!(told.listeners(), ["a"]);

    assert!(told.tell(Lds, &listener("a", 81, "other"), &[]).is_empty());
    assert_eq!(held(), [80, 81]);
    assert_eq!(told.tell(Lds, &listener("a", TAKEN, "r"), &[]).len(), 1);
    assert_eq!(held(), [80, 81]);
    told.tell(Rds, &routes("other"), &[]);
    assert_eq!(held(), [81]);
    told.tell(Lds, "", &["a"]);
    assert_eq!(held(), [0u16; 0]);
}

#[test]
fn a_new_listener_can_take_an_address_that_becomes_free() {
    let mut told = Told::new();
    told.tell(Lds, &listener("a", 80, "r"), &[]);
    told.tell(Rds, &routes("r"), &[]);
    let refused = told.tell(Lds, &listener("b", 80, "r"), &[]);
    assert_eq!(refused, ["b: address 0.0.0.0:80 is that of listener \"a\" too"]);
    // The routes go over too: nobody would ask for them again.
    assert!(told.tell(Lds, &listener("b", 80, "r"), &["a"]).is_empty());
    assert_eq!(told.listeners(), ["b"]);
    assert_eq!(told.state.config().routes.len(), 1);
}

#[test]
fn what_is_refused_leaves_the_last_good_one() {
    let mut told = Told::new();
    told.tell(Cds, &cluster("a", "s", 1), &[]);
    told.tell(Eds, &endpoints("s", 80), &[]);
    let before = told.state.config();
    let refused = told.tell(Cds, &format!("{}, {}", cluster("a", "s", 0), cluster("b", "s", 2)), &[]);
    assert_eq!(refused, ["a: connect_timeout: must be above 0"]);
    assert_eq!(told.clusters(), ["a", "b"]);
    assert!(Arc::ptr_eq(&before.clusters["a"], &told.state.config().clusters["a"]));
    assert_eq!(told.state.failures().map(|(_, name, _)| name.to_string()).collect::<Vec<_>>(), ["a"]);

    let bootstrap = envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap::default();
    let dump = told.state.config_dump_json(&bootstrap, UNIX_EPOCH, false, &told.schema).unwrap();
    let a = &dump["configs"][1]["dynamic_active_clusters"][0];
    assert_eq!(a["cluster"]["connect_timeout"], "1s");
    assert_eq!(a["client_status"], "NACKED");
    assert_eq!(a["error_state"]["details"], "connect_timeout: must be above 0");
    assert_eq!(a["error_state"]["version_info"], "3");
    assert_eq!(a["last_updated"], "1970-01-01T00:00:00Z");

    assert!(told.tell(Cds, &cluster("a", "s", 5), &[]).is_empty());
    assert_eq!(told.state.failures().count(), 0);
}

#[test]
fn the_bootstraps_own_cannot_be_replaced() {
    let mut told = Told::with("static_resources: {clusters: [{name: fixed}]}");
    let refused = told.tell(Cds, &cluster("fixed", "s", 1), &[]);
    assert!(refused[0].starts_with("fixed: the bootstrap has a static resource of this name"), "{refused:?}");
    told.tell(Cds, "", &["fixed"]);
    assert_eq!(told.clusters(), ["fixed"]);
}

#[test]
fn the_same_again_changes_nothing() {
    let mut told = Told::new();
    let all = format!("{}, {}", cluster("a", "s", 1), cluster("b", "t", 1));
    told.tell(Cds, &all, &[]);
    told.tell(Eds, &format!("{}, {}", endpoints("s", 80), endpoints("t", 80)), &[]);
    let before = told.state.config();
    told.tell(Cds, &all, &[]);
    told.tell(Eds, &endpoints("s", 80), &[]);
    assert!(Arc::ptr_eq(&before, &told.state.config()));
    // A change of one copies nothing of the others but pointers.
    told.tell(Eds, &endpoints("s", 81), &[]);
    let after = told.state.config();
    assert!(Arc::ptr_eq(&before.clusters["b"], &after.clusters["b"]));
    assert!(Arc::ptr_eq(&before.clusters["a"].settings, &after.clusters["a"].settings));
    assert!(Arc::ptr_eq(&before.listeners, &after.listeners));
}

#[test]
fn resources_that_are_not_what_they_say_are_refused() {
    let mut told = Told::new();
    assert_eq!(
        told.tell(Eds, &cluster("a", "s", 1), &[]),
        ["a: a resource of type type.googleapis.com/envoy.config.cluster.v3.Cluster, \
          not envoy.config.endpoint.v3.ClusterLoadAssignment"]
    );
    assert_eq!(
        told.tell(Rds, "{'@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration}", &[]),
        [": a resource without a name"]
    );
    let body = Any { type_url: Cds.url().to_owned(), value: vec![0x0a, 0xff] };
    let received = Received { name: "x".into(), version: "1".into(), body };
    let update =
        Update { r#type: Cds, version: "1".into(), nonce: "".into(), resources: vec![received], removed: vec![] };
    assert!(told.state.apply(&update, UNIX_EPOCH)[0].reason.to_string().starts_with("malformed: "));
}
