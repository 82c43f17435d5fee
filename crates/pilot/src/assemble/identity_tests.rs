//! A mesh whose workloads have names under several trust domains: clients expect them under each, servers let in those
//! and whom the mesh trusts, and policies that name one mean all.

use crate::Config;
use crate::testing::{self, CANARY, Cluster, SIDECAR};
use lateen_xds::ResourceType;

const NAMES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    trustDomain: mesh.example
    trustDomainAliases: [old.example]
    caCertificates:
    - {pem: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", trustDomains: [partner.example]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.77, clusterIPs: [10.96.0.77], selector: {app: api}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api-1, namespace: shop, labels: {app: api}}
spec: {serviceAccountName: api, containers: [{name: api, image: app}, {name: istio-proxy, image: auto}]}
status: {podIP: 10.244.0.77, podIPs: [{ip: 10.244.0.77}], phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.0.77], conditions: {ready: true}, targetRef: {kind: Pod, name: api-1, namespace: shop}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api, namespace: shop}
spec: {host: api, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec: {rules: [{from: [{source: {principals: [mesh.example/ns/shop/sa/caller]}}]}]}
"#;

#[test]
fn workloads_are_known_under_all_of_the_mesh_s_names() {
    let mut cluster = Cluster::read(CANARY);
    cluster.apply(NAMES);
    let mut state = cluster.state(Config::default());
    let connected = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    let resources = connected.resources.borrow().clone();
    // Texts are in a message as they are.
    let says = |kind: &ResourceType, name: &str, text: &str| {
        let named = resources.of_type(kind).find(|resource| &**resource.name() == name);
        let body = named.unwrap_or_else(|| panic!("{kind} {name}")).body();
        body.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let api = |text: &str| says(&ResourceType::Cluster, "outbound|80||api.shop.svc.cluster.local", text);
    assert!(api("spiffe://mesh.example/ns/shop/sa/api"), "the client's expectation");
    assert!(api("spiffe://old.example/ns/shop/sa/api"));
    assert!(!api("partner.example") && !api("cluster.local/ns"));
    let inbound = |text: &str| says(&ResourceType::Listener, "virtualInbound", text);
    for domain in ["mesh.example", "old.example", "partner.example"] {
        assert!(inbound(&format!("spiffe://{domain}/")), "{domain} is let in");
    }
    assert!(!inbound("spiffe://cluster.local/"));
    for domain in ["mesh.example", "old.example"] {
        assert!(inbound(&format!("{domain}/ns/shop/sa/caller")), "the policy means {domain} too");
    }
    assert!(!inbound("partner.example/ns/shop/sa/caller"));
}
