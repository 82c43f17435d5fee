use super::*;
use crate::rules::{KeysAt, keys_wanted};
use crate::testing::{self, CANARY, Cluster, GATEWAY, SIDECAR};
use lateen_xds::Version;
use std::collections::BTreeMap;

type Versions = BTreeMap<String, Version>;

fn versions(resources: &ResourceSet, kind: &ResourceType) -> Versions {
    resources.of_type(kind).map(|resource| (resource.name().to_string(), resource.version())).collect()
}

fn all(resources: &ResourceSet) -> [Versions; 4] {
    ResourceType::CORE.map(|kind| versions(resources, &kind))
}

fn changed(before: &Versions, after: &Versions) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

const NOT_READY: &str = r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: helloworld-1, namespace: shop, labels: {kubernetes.io/service-name: helloworld}}
addressType: IPv4
endpoints:
- {addresses: [10.244.0.5], conditions: {ready: true}, targetRef: {kind: Pod, name: hello-v1, namespace: shop}}
- {addresses: [10.244.0.6], conditions: {ready: false}, targetRef: {kind: Pod, name: hello-v2, namespace: shop}}
ports: [{name: http, port: 8080}]
"#;

const NEW_SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: late, namespace: shop}
spec: {clusterIP: 10.96.0.99, clusterIPs: [10.96.0.99], ports: [{name: http, port: 8080}]}
"#;

#[test]
fn nobody_is_told_anything_before_the_first_snapshot() {
    let mut state = State::new(Config::default());
    let (_status, receiver) = watch::channel(StreamStatus::default());
    assert!(state.connect(Node::parse(&testing::node(SIDECAR, &[])).unwrap(), receiver).is_none());
}

#[test]
fn endpoints_change_at_once_and_alone() {
    let mut cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config::default());
    let proxies = [SIDECAR, GATEWAY].map(|id| testing::add(&mut state, &testing::node(id, &[])));
    let before = proxies.each_ref().map(|proxy| all(&proxy.resources.borrow()));
    cluster.apply(NOT_READY);
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    for (proxy, before) in proxies.iter().zip(before) {
        let after = all(&proxy.resources.borrow());
        let [clusters, endpoints, listeners, routes] = [0, 1, 2, 3].map(|i| changed(&before[i], &after[i]));
        assert_eq!(
            endpoints,
            ["outbound|8080|v2|helloworld.shop.svc.cluster.local", "outbound|8080||helloworld.shop.svc.cluster.local"]
        );
        assert_eq!([clusters, listeners, routes], [Vec::<String>::new(), Vec::new(), Vec::new()]);
    }
    assert_eq!((state.counts.full_pushes, state.counts.endpoint_pushes), (1, 1));
}

#[test]
fn the_same_objects_read_again_are_no_change() {
    let cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config::default());
    let proxy = testing::add(&mut state, &testing::node(GATEWAY, &[]));
    let before = all(&proxy.resources.borrow());
    assert_eq!(state.take(Cluster::read(CANARY).snapshot()), Pending::Nothing);
    assert_eq!(all(&proxy.resources.borrow()), before);
    assert_eq!(state.take(Cluster::read(&CANARY.replace("weight: 90", "weight: 80")).snapshot()), Pending::WhenQuiet);
}

#[test]
fn clusters_change_with_the_identities_of_their_endpoints_alone() {
    let mut cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config { automatic_mutual_tls: true, ..Config::default() });
    let proxy = testing::add(&mut state, &testing::node(GATEWAY, &[]));
    let pod = |account: &str, ready: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: hello-v2, namespace: shop, labels: {{app: helloworld, version: v2}}}}
spec: {{serviceAccountName: {account}, containers: [{{name: app, image: hello}}]}}
status: {{podIP: 10.244.0.6, podIPs: [{{ip: 10.244.0.6}}], conditions: [{{type: Ready, status: "{ready}"}}]}}
"#
        )
    };
    let mut told = |manifest: &str| {
        let before = all(&proxy.resources.borrow());
        cluster.apply(manifest);
        assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
        let after = all(&proxy.resources.borrow());
        changed(&before[0], &after[0])
    };
    assert_eq!(told(NOT_READY), Vec::<String>::new());
    assert_eq!(
        told(&pod("other", "True")),
        ["v1", "v2", ""].map(|subset| format!("outbound|8080|{subset}|helloworld.shop.svc.cluster.local")).as_slice()
    );
    assert_eq!(told(&pod("other", "False")), Vec::<String>::new());
}

#[test]
fn endpoints_do_not_wait_for_other_changes() {
    let mut cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config::default());
    let proxy = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    let before = all(&proxy.resources.borrow());
    cluster.apply(NEW_SERVICE);
    assert_eq!(state.take(cluster.snapshot()), Pending::WhenQuiet);
    assert_eq!(all(&proxy.resources.borrow()), before);
    cluster.apply(NOT_READY);
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    let between = all(&proxy.resources.borrow());
    assert_eq!(changed(&before[1], &between[1]).len(), 2);
    assert_eq!(before[0], between[0]);
    state.push();
    let after = all(&proxy.resources.borrow());
    assert_eq!(changed(&between[0], &after[0]), ["outbound|8080||late.shop.svc.cluster.local"]);
    assert_eq!(changed(&between[3], &after[3]), ["8080"]);
    assert_eq!(changed(&between[2], &after[2]), Vec::<String>::new());
}

#[test]
fn what_is_put_together_in_steps_is_what_is_made_at_once() {
    let mut cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config::default());
    let ids = [SIDECAR, GATEWAY, "sidecar~10.244.0.6~hello-v2.shop~shop.svc.cluster.local"];
    let proxies = ids.map(|id| testing::add(&mut state, &testing::node(id, &[])));
    for change in [NOT_READY, NEW_SERVICE, &CANARY.replace("weight: 90", "weight: 70"), CANARY, NOT_READY] {
        cluster.apply(change);
        if state.take(cluster.snapshot()) == Pending::WhenQuiet {
            state.push();
        }
    }
    for (id, proxy) in ids.iter().zip(&proxies) {
        let fresh = cluster.resources(&testing::node(id, &[]));
        assert_eq!(all(&proxy.resources.borrow()), all(&fresh), "{id}");
    }
}

const ISSUER: &str = r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: web, namespace: shop}
spec: {jwtRules: [{issuer: a, jwksUri: "https://a.test/keys", timeout: 2s}, {issuer: "https://b.test"}, {issuer: "https://b.test"}]}
"#;

#[test]
fn fetched_keys_change_listeners_once_things_are_quiet() {
    let mut cluster = Cluster::read(CANARY);
    cluster.apply(ISSUER);
    let places = [KeysAt::Address("https://a.test/keys".to_owned()), KeysAt::Issuer("https://b.test".to_owned())];
    let seconds = std::time::Duration::from_secs;
    let wanted = places.iter().cloned().zip([seconds(2), seconds(5)]).collect();
    assert_eq!(keys_wanted(&cluster.snapshot()), wanted);

    let mut state = cluster.state(Config::default());
    let proxy = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    let says = |keys: &str| {
        let resources = proxy.resources.borrow().clone();
        let mut listeners = resources.of_type(&ResourceType::Listener);
        listeners.any(|listener| String::from_utf8_lossy(listener.body()).contains(keys))
    };
    assert!(says("keys-that-could-not-be-had"));
    let keys = |text: &str| Arc::new(places.iter().map(|place| (place.clone(), text.into())).collect());
    assert_eq!(state.learn(keys("fetched")), Pending::WhenQuiet);
    state.push();
    assert!(says("fetched") && !says("keys-that-could-not-be-had"));
    assert_eq!(state.learn(keys("fetched")), Pending::Nothing);
    assert_eq!(state.learn(keys("rotated")), Pending::WhenQuiet);
    state.push();
    assert!(says("rotated") && !says("fetched"));
}

#[test]
fn a_changed_weight_changes_one_route_configuration_of_the_gateway() {
    let mut cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config::default());
    let [gateway, sidecar] = [GATEWAY, SIDECAR].map(|id| testing::add(&mut state, &testing::node(id, &[])));
    let before = [&gateway, &sidecar].map(|proxy| all(&proxy.resources.borrow()));
    cluster.apply(&CANARY.replace("weight: 90", "weight: 70"));
    assert_eq!(state.take(cluster.snapshot()), Pending::WhenQuiet);
    state.push();
    let after = [&gateway, &sidecar].map(|proxy| all(&proxy.resources.borrow()));
    assert_eq!(changed(&before[0][3], &after[0][3]), ["http.8080"]);
    assert_eq!(before[0][..3], after[0][..3]);
    assert_eq!(before[1], after[1]);
}

#[test]
fn a_pod_that_becomes_known_after_its_proxy_connected_gets_its_ports() {
    let full = Cluster::read(CANARY);
    let mut cluster = full.clone();
    cluster.0.remove(&lateen_galley::Key::new(lateen_galley::Kind::Pod, "shop", "hello-v1"));
    cluster.0.remove(&lateen_galley::Key::new(lateen_galley::Kind::EndpointSlice, "shop", "helloworld-1"));
    let mut state = cluster.state(Config::default());
    let proxy = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    let inbound =
        |proxy: &testing::Connected| proxy.resources.borrow().get(&ResourceType::Cluster, "inbound|8080||").is_some();
    assert!(!inbound(&proxy));
    assert_eq!(state.take(full.snapshot()), Pending::Nothing);
    assert!(inbound(&proxy));
}

#[test]
fn proxies_share_what_they_have_in_common() {
    let cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config::default());
    let _first = testing::add(&mut state, &testing::node(SIDECAR, &[("app", "x")]));
    let (made, _) = state.memo_counts();
    let _second = testing::add(
        &mut state,
        &testing::node("sidecar~10.244.0.6~hello-v2.shop~shop.svc.cluster.local", &[("app", "y")]),
    );
    assert_eq!(state.memo_counts().0, made);
}

#[test]
fn who_is_gone_is_forgotten() {
    let cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config::default());
    for namespace in 0..100 {
        let id = format!("sidecar~10.244.1.1~x.n{namespace}~n{namespace}.svc.cluster.local");
        drop(testing::add(&mut state, &testing::node(&id, &[])));
    }
    assert_eq!(state.proxies().count(), 0);
    assert!(state.scopes.len() <= SPARE_SCOPES + 2, "{}", state.scopes.len());
}

/// A mesh of so many services in one namespace, and what one more edit of an endpoint makes pilot do.
fn work_of_one_endpoint(services: usize) -> (u64, Counts) {
    let slice = |index: usize, last: usize| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: s{index}, namespace: shop, labels: {{kubernetes.io/service-name: s{index}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
             endpoints: [{{addresses: [10.1.{}.{}]}}, {{addresses: [10.2.0.{last}]}}]\n",
            index / 250,
            index % 250
        )
    };
    let mut cluster = Cluster::read(CANARY);
    for index in 0..services {
        cluster.apply(&NEW_SERVICE.replace("late", &format!("s{index}")));
        cluster.apply(&slice(index, 1));
    }
    // It reaches its own namespace, which is another.
    cluster.apply(&sidecar("\"./*\"").replace("shop", "far"));
    let mut state = cluster.state(Config::default());
    let mut near = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    let mut far = testing::add(&mut state, &testing::node("sidecar~10.244.9.9~x.far~far.svc.cluster.local", &[]));
    let before = (state.memo_counts(), state.counts);
    near.resources.mark_unchanged();
    far.resources.mark_unchanged();
    cluster.apply(&slice(0, 2));
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    assert!(near.resources.has_changed().unwrap() && !far.resources.has_changed().unwrap());
    (state.memo_counts().0 - before.0.0 + state.memo_counts().1 - before.0.1, since(&state, before.1))
}

fn since(state: &State, before: Counts) -> Counts {
    Counts {
        full_pushes: state.counts.full_pushes - before.full_pushes,
        endpoint_pushes: state.counts.endpoint_pushes - before.endpoint_pushes,
        rule_pushes: state.counts.rule_pushes - before.rule_pushes,
        assembled: state.counts.assembled - before.assembled,
        told: state.counts.told - before.told,
    }
}

#[test]
fn a_changed_endpoint_is_as_much_work_in_a_large_mesh_as_in_a_small_one() {
    let (asked_for, counts) = work_of_one_endpoint(3);
    // Its service's cluster and endpoints, for the scope that reaches it.
    assert_eq!(asked_for, 2);
    assert_eq!(counts, Counts { endpoint_pushes: 1, told: 1, ..Counts::default() });
    assert_eq!(work_of_one_endpoint(300), (asked_for, counts));
}

#[test]
fn endpoints_that_come_and_go_are_not_kept_for_ever() {
    let mut cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config::default());
    let _proxy = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    for turn in 0..2000 {
        cluster.apply(&NOT_READY.replace("10.244.0.6", &format!("10.245.{}.{}", turn / 250, turn % 250)));
        assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    }
    assert!(state.memo.kept() < 400, "{}", state.memo.kept());
}

#[test]
fn an_edit_of_a_delegate_changes_the_roots_routes() {
    let mut cluster = Cluster::read(include_str!("../../testdata/delegates-in.yaml"));
    let mut state = cluster.state(Config::default());
    let proxy = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    let before = all(&proxy.resources.borrow());
    let here = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: here, namespace: shop}
spec: {http: [{directResponse: {status: 205}}]}
";
    cluster.apply(here);
    assert_eq!(state.take(cluster.snapshot()), Pending::WhenQuiet);
    state.push();
    let after = all(&proxy.resources.borrow());
    assert_eq!(changed(&before[3], &after[3]), ["80"]);
}

/// A mesh of so many services in each of two namespaces with a rule each, and what an edit of one of the rules makes pilot
/// do: inputs asked for, and sets of resources made or changed.
fn work_of_one_edit(services: usize, edited: fn(&str, &str) -> String) -> (u64, Counts) {
    let mut cluster = Cluster::read(CANARY);
    for namespace in ["shop", "far"] {
        cluster.apply(&sidecar("\"./*\"").replace("shop", namespace));
        for index in 0..services {
            cluster.apply(&NEW_SERVICE.replace("late", &format!("s{index}")).replace("shop", namespace));
            cluster.apply(&virtual_service(&format!("s{index}"), "1s").replace("shop", namespace));
        }
    }
    let mut state = cluster.state(Config::default());
    let mut near = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    let mut far = testing::add(&mut state, &testing::node("sidecar~10.244.9.9~x.far~far.svc.cluster.local", &[]));
    let before = (state.memo_counts(), state.counts);
    near.resources.mark_unchanged();
    far.resources.mark_unchanged();
    cluster.apply(&edited("s0", "2s"));
    assert_eq!(state.take(cluster.snapshot()), Pending::WhenQuiet);
    state.push();
    assert!(near.resources.has_changed().unwrap() && !far.resources.has_changed().unwrap());
    (state.memo_counts().0 - before.0.0 + state.memo_counts().1 - before.0.1, since(&state, before.1))
}

fn virtual_service(host: &str, timeout: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {host}, namespace: shop}}\n\
         spec: {{hosts: [{host}], http: [{{timeout: {timeout}, route: [{{destination: {{host: {host}}}}}]}}]}}\n"
    )
}

fn destination_rule(host: &str, timeout: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}, namespace: shop}}\n\
         spec: {{host: {host}, trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {timeout}}}}}}}}}\n"
    )
}

#[test]
fn an_edited_rule_is_as_much_work_in_a_large_mesh_as_in_a_small_one() {
    let counts = Counts { rule_pushes: 1, told: 1, ..Counts::default() };
    // The routes of its port, for the scope that has the rule.
    assert_eq!(work_of_one_edit(3, virtual_service), (1, counts));
    assert_eq!(work_of_one_edit(200, virtual_service), (1, counts));
    // Its service's cluster and endpoints, as they were and as they are.
    assert_eq!(work_of_one_edit(3, destination_rule), (4, counts));
    assert_eq!(work_of_one_edit(200, destination_rule), (4, counts));
}

#[test]
fn rules_that_are_edited_again_and_again_are_not_kept_for_ever() {
    let mut cluster = Cluster::read(CANARY);
    let mut state = cluster.state(Config::default());
    let _proxies = [SIDECAR, GATEWAY].map(|id| testing::add(&mut state, &testing::node(id, &[])));
    for turn in 0..300 {
        cluster.apply(&CANARY.replace("weight: 90", &format!("weight: {turn}")));
        cluster.apply(&destination_rule("other", &format!("{}s", turn + 1)));
        cluster.apply(&virtual_service("other", &format!("{}s", turn + 1)));
        assert_eq!(state.take(cluster.snapshot()), Pending::WhenQuiet);
        state.push();
    }
    assert_eq!((state.counts.full_pushes, state.counts.rule_pushes), (1, 300));
    assert!(state.memo.kept() < 150, "{}", state.memo.kept());
}

const ELSEWHERE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: far, namespace: elsewhere}
spec: {clusterIP: 10.96.0.98, ports: [{name: http, port: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-1, namespace: elsewhere, labels: {kubernetes.io/service-name: far}}
addressType: IPv4
endpoints: [{addresses: [10.244.3.3], conditions: {ready: true}}]
ports: [{name: http, port: 8080}]
"#;

fn sidecar(hosts: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: default, namespace: shop}}
spec: {{egress: [{{hosts: [{hosts}]}}]}}
"
    )
}

#[test]
fn a_sidecar_is_not_woken_by_what_its_scope_does_not_hold() {
    let mut cluster = Cluster::read(CANARY);
    cluster.apply(&sidecar("\"./*\""));
    let mut state = cluster.state(Config::default());
    let mut proxy = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    let mut gateway = testing::add(&mut state, &testing::node(GATEWAY, &[]));
    let mut woken = || {
        let woken = [&mut proxy, &mut gateway].map(|proxy| proxy.resources.has_changed().unwrap());
        proxy.resources.mark_unchanged();
        gateway.resources.mark_unchanged();
        woken
    };
    woken();
    cluster.apply(ELSEWHERE);
    assert_eq!(state.take(cluster.snapshot()), Pending::WhenQuiet);
    state.push();
    assert_eq!(woken(), [false, true], "a new service");
    cluster.apply(&ELSEWHERE.replace("10.244.3.3", "10.244.3.4"));
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    assert_eq!(woken(), [false, true], "an endpoint");
    cluster.apply(NOT_READY);
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
    assert_eq!(woken(), [true, true], "an endpoint in scope");
    cluster.apply(&sidecar("\"./*\", \"elsewhere/*\""));
    assert_eq!(state.take(cluster.snapshot()), Pending::WhenQuiet);
    state.push();
    assert_eq!(woken(), [true, false], "the scope itself");
    assert!(
        proxy
            .resources
            .borrow()
            .get(&ResourceType::Cluster, "outbound|8080||far.elsewhere.svc.cluster.local")
            .is_some()
    );
}

#[test]
fn what_is_in_a_namespace_that_is_not_discovered_is_told_to_nobody() {
    let mut cluster = Cluster::read(CANARY);
    cluster.apply(ELSEWHERE);
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: elsewhere, labels: {mesh: out}}\n");
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    let mut state = cluster.state(Config::default());
    let proxy = testing::add(&mut state, &testing::node(SIDECAR, &[]));
    let told = |host: &str| {
        let cluster = format!("outbound|8080||{host}.svc.cluster.local");
        proxy.resources.borrow().get(&ResourceType::Cluster, &cluster).is_some()
    };
    assert!(told("helloworld.shop") && told("far.elsewhere"));
    let settings = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "discoverySelectors: [{matchExpressions: [{key: mesh, operator: DoesNotExist}]}]"}
"#;
    cluster.apply(settings);
    assert_eq!(state.take(cluster.snapshot()), Pending::WhenQuiet);
    state.push();
    assert!(told("helloworld.shop") && !told("far.elsewhere"));
    cluster.apply(&ELSEWHERE.replace("10.244.3.3", "10.244.3.4"));
    assert_eq!(state.take(cluster.snapshot()), Pending::Nothing);
}
