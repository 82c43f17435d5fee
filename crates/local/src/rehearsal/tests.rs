use lateen_galley::{ReadOptions, read_manifests};

use super::*;

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: a, command: [lateen, app], args: [--version, $(V)], env: [{name: V, value: v7}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: away, namespace: shop}
spec: {hosts: [away.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
"#;

fn rehearsed(text: &str) -> Result<Rehearsal, Problems> {
    rehearse(read_manifests("shop.yaml", text.as_bytes(), ReadOptions::default()).complete()?)
}

#[test]
fn everything_runs_at_once() {
    let shop = rehearsed(SHOP).unwrap();
    let cast: Vec<Cast> = cast(&shop.snapshot).into_iter().filter(|pod| pod.namespace == "shop").collect();
    assert_eq!(cast.len(), 2);
    assert_eq!(cast[0].programs[0].words, ["lateen", "app", "--version", "v7"]);
    let id = cast[0].bootstrap.as_ref().unwrap()["node"]["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("sidecar~10.244."), "{id}");
    let directory = Directory::new(&shop.snapshot);
    let found = directory.addresses("web", "shop").unwrap();
    let mut behind = directory.behind(SocketAddr::new(found[0], 80)).unwrap();
    behind.sort();
    let mut pods: Vec<SocketAddr> = cast.iter().map(|pod| SocketAddr::new(pod.addresses[0], 8080)).collect();
    pods.sort();
    assert_eq!(behind, pods);
    assert!(directory.addresses("away.test", "shop").unwrap()[0].to_string().starts_with("240.240."));
    assert_eq!(directory.addresses("elsewhere.test", "shop"), None);
}

#[test]
fn the_same_manifests_make_the_same_cluster() {
    let names = |rehearsal: Rehearsal| -> Vec<(String, Vec<IpAddr>)> {
        cast(&rehearsal.snapshot).into_iter().map(|pod| (pod.name, pod.addresses)).collect()
    };
    assert_eq!(names(rehearsed(SHOP).unwrap()), names(rehearsed(SHOP).unwrap()));
}

#[test]
fn what_the_api_refuses_is_refused() {
    let wrong = SHOP.replace("resolution: DNS", "resolution: STATIC, endpoints: [{address: nowhere.test}]");
    let told = rehearsed(&wrong).unwrap_err().to_string();
    assert!(told.contains("shop.yaml") && told.contains("spec.endpoints"), "{told}");
}
