//! How long pilot takes: `cargo run -p lateen-pilot --example measure -- SERVICES PROXIES`.
//!
//! Services are entries with two endpoints each; proxies are spread over ten namespaces.

use lateen_galley::{Object, Snapshot};
use lateen_pilot::Config;
use lateen_pilot::node::Node;
use lateen_pilot::push::State;
use lateen_xds::ads::server::StreamStatus;
use lateen_xds::pb;
use serde_json::json;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

fn service(index: usize, last: u8) -> Result<Object, Box<dyn Error>> {
    let (high, low) = (index / 250, index % 250);
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": format!("service-{index}"), "namespace": "default"},
        "spec": {
            "hosts": [format!("service-{index}.example.com")],
            "addresses": [format!("172.16.{high}.{low}")],
            "resolution": "STATIC", "location": "MESH_INTERNAL",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "endpoints": [
                {"address": format!("10.{high}.{low}.1")}, {"address": format!("10.{high}.{low}.{last}")},
            ],
        },
    });
    Ok(Object::decode(object)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let services: usize = arguments.next().unwrap_or_else(|| "200".to_owned()).parse()?;
    let proxies: usize = arguments.next().unwrap_or_else(|| "10".to_owned()).parse()?;
    let mut snapshot = Snapshot::default();
    for index in 0..services {
        snapshot.insert(Arc::new(service(index, 2)?));
    }
    let mut state = State::new(Config::default());
    let started = Instant::now();
    let lap = |what: &str, from: Instant| println!("{what}: {:.2} ms", from.elapsed().as_secs_f64() * 1e3);
    state.take(Arc::new(snapshot.clone()));
    state.push();
    lap("first snapshot taken in", started);

    let mut connected = Vec::new();
    let all = Instant::now();
    for index in 0..proxies {
        let namespace = index % 10;
        let id = format!(
            "sidecar~10.244.{}.{}~p-{index}.n{namespace}~n{namespace}.svc.cluster.local",
            index / 250,
            index % 250
        );
        let node = Node::parse(&pb::envoy::config::core::v3::Node { id, ..Default::default() })?;
        let (status, receiver) = watch::channel(StreamStatus::default());
        let one = Instant::now();
        connected.push((state.connect(node, receiver), status));
        if index == 0 {
            lap("first proxy connected", one);
        }
        if index == 10 {
            lap("a proxy of a known namespace connected", one);
        }
    }
    lap("all proxies connected", all);

    let nothing = Instant::now();
    state.push();
    lap("push of everything, nothing changed", nothing);

    snapshot.insert(Arc::new(service(0, 3)?));
    let endpoint = Instant::now();
    println!("{:?}", state.take(Arc::new(snapshot.clone())));
    lap("one endpoint changed", endpoint);

    snapshot.insert(Arc::new(service(services, 2)?));
    let service = Instant::now();
    println!("{:?}", state.take(Arc::new(snapshot)));
    state.push();
    lap("one service added", service);
    Ok(())
}
