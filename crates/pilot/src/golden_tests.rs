//! Manifests in, resources out: each `testdata/NAME-in.yaml` has its `NAME-out.json`. After a change that is meant, run
//! with `LATEEN_UPDATE_GOLDEN=1` and read the difference.

use crate::testing::{self, Cluster};
use crate::{Config, OutboundTrafficPolicy};
use lateen_xds::ResourceType::{self, Cluster as Cds, Endpoint as Eds, Listener as Lds, Route as Rds};
use lateen_xds::json::Schema;
use serde_json::{Map, Value};
use std::path::PathBuf;

const SIDECAR: &str = testing::SIDECAR;
const GATEWAY: &str = testing::GATEWAY;

/// Compares what these proxies are sent of these types with what is written down.
fn check(name: &str, config: Config, nodes: &[&str], types: &[ResourceType]) {
    let testdata = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let cluster = Cluster::read(&std::fs::read_to_string(testdata.join(format!("{name}-in.yaml"))).unwrap());
    let schema = Schema::load().unwrap();
    let mut state = cluster.state(config);
    let mut proxies = Map::new();
    for node in nodes {
        let connected = testing::add(&mut state, &testing::node(node, &[]));
        let resources = connected.resources.borrow().clone();
        let mut of_types = Map::new();
        for kind in types {
            let type_name = kind.url().rsplit('/').next().unwrap();
            let of_type: Vec<Value> = resources
                .of_type(kind)
                .map(|resource| schema.encoded_to_json(type_name, resource.body()).unwrap())
                .collect();
            of_types.insert(kind.to_string(), Value::from(of_type));
        }
        proxies.insert((*node).to_owned(), Value::from(of_types));
    }
    let actual = format!("{:#}\n", Value::from(proxies));
    let file = testdata.join(format!("{name}-out.json"));
    if std::env::var_os("LATEEN_UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    let first = expected.lines().zip(actual.lines()).position(|(expected, actual)| expected != actual);
    let shown = |text: &str| {
        let start = first.unwrap_or(0).saturating_sub(8);
        text.lines().skip(start).take(20).collect::<Vec<_>>().join("\n")
    };
    assert!(expected == actual, "{name}: expected\n{}\ngot\n{}", shown(&expected), shown(&actual));
}

#[test]
fn named_hosts() {
    check("named-hosts", quiet(), &[SIDECAR], &[Cds, Eds, Lds, Rds]);
}

#[test]
fn sidecars() {
    let worker = "sidecar~10.244.0.7~worker.shop~shop.svc.cluster.local";
    check("sidecars", quiet(), &[SIDECAR, worker], &[Cds, Lds, Rds]);
}

fn quiet() -> Config {
    Config { access_log: None, automatic_mutual_tls: false, ..Config::default() }
}

#[test]
fn canary() {
    check("canary", Config::default(), &[SIDECAR, GATEWAY], &[Cds, Eds, Lds, Rds]);
}

#[test]
fn protocols() {
    let config = Config { outbound_traffic_policy: OutboundTrafficPolicy::RegistryOnly, ..quiet() };
    check("protocols", config, &[SIDECAR], &[Lds, Rds]);
}

#[test]
fn resolutions() {
    check("resolutions", quiet(), &[SIDECAR, GATEWAY], &[Cds, Eds]);
}

#[test]
fn routing() {
    check("routing", quiet(), &[SIDECAR], &[Rds]);
}

#[test]
fn filters() {
    check("filters", quiet(), &[SIDECAR], &[Rds]);
}

#[test]
fn delegates() {
    check("delegates", quiet(), &[SIDECAR], &[Rds]);
}

#[test]
fn mesh() {
    check("mesh", Config::default(), &[SIDECAR, GATEWAY], &[Cds, Lds, Rds]);
}

#[test]
fn localhost() {
    check("localhost", quiet(), &[SIDECAR], &[Cds]);
}

#[test]
fn gateways() {
    check("gateways", quiet(), &[GATEWAY], &[Lds, Rds]);
}

#[test]
fn auto_passthrough() {
    check("auto-passthrough", quiet(), &[GATEWAY], &[Cds, Eds, Lds]);
}

#[test]
fn gateway_tls() {
    check("gateway-tls", quiet(), &[GATEWAY], &[Lds, Rds]);
}

#[test]
fn balancing() {
    check("balancing", quiet(), &[SIDECAR], &[Cds, Lds, Rds]);
}

#[test]
fn localities() {
    check("localities", quiet(), &[SIDECAR], &[Cds, Eds]);
}

#[test]
fn outliers() {
    check("outliers", quiet(), &[SIDECAR], &[Cds, Eds]);
}

#[test]
fn pools() {
    check("pools", quiet(), &[SIDECAR], &[Cds, Lds]);
}

#[test]
fn authorization() {
    check("authorization", quiet(), &[SIDECAR, GATEWAY], &[Lds]);
}

/// Shapes are those of Istio's `pilot/pkg/security/authz/builder/testdata` (`custom-*`).
#[test]
fn custom() {
    let other = |address: &str, pod: &str| format!("sidecar~{address}~{pod}.shop~shop.svc.cluster.local");
    let (worker, lost) = (other("10.244.0.7", "worker"), other("10.244.0.8", "lost"));
    check("custom", quiet(), &[SIDECAR, &worker, &lost], &[Lds]);
}

#[test]
fn peers() {
    check("peers", quiet(), &[SIDECAR, "sidecar~10.244.0.7~worker.shop~shop.svc.cluster.local"], &[Lds]);
}

#[test]
fn tokens() {
    check("tokens", quiet(), &[SIDECAR, GATEWAY], &[Lds, Rds]);
}

#[test]
fn tls() {
    let config = Config { automatic_mutual_tls: true, ..quiet() };
    check("tls", config, &[SIDECAR, GATEWAY], &[Cds, Eds]);
}
