//! Who gets in at a sidecar that takes mutual TLS alone, and whom it takes callers for: our sidecar and Envoy's, called by
//! our proxy and by Envoy, with certificates of every sort.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lateen_citadel::authority::Files;
use lateen_galley::{ReadOptions, Snapshot, read_manifests};
use lateen_pilot::{Config, Pilot};
use lateen_tests::bootstrap::{self, Layout, http, listener, merge};
use lateen_tests::load::Target;
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::stand::{self, GATEWAY, IDENTITY, POD, Role};
use lateen_tests::tls::{self, Authority, Certified};
use lateen_tests::{network, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

/// The workload's port that takes mutual TLS alone, and the one that takes plain text too.
const STRICT: u16 = 8080;
const PERMISSIVE: u16 = 8081;

const MANIFESTS: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: client, namespace: shop}
spec:
  selector: {matchLabels: {app: client}}
  portLevelMtls: {8081: {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: client, namespace: shop}
spec:
  selector: {matchLabels: {app: client}}
  rules:
  - from:
    - source: {principals: [cluster.local/ns/shop/sa/alice]}
    - source: {namespaces: [friends]}
    - source: {serviceAccounts: [carol]}
    to: [{operation: {ports: ["8080"]}}]
  - to: [{operation: {ports: ["8081"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: banned, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {serviceAccounts: [mallory]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: watched, namespace: shop}
spec: {action: AUDIT, rules: [{from: [{source: {serviceAccounts: [carol]}}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFormat: "marked %DYNAMIC_METADATA(envoy.common:access_log_hint)% \
      %DYNAMIC_METADATA(envoy.filters.http.rbac:istio_audit_enforced_effective_policy_id)% %REQ(:PATH)%\n"
---
apiVersion: v1
kind: Service
metadata: {name: client, namespace: shop}
spec:
  clusterIP: 10.96.0.5
  selector: {app: client}
  ports: [{name: http, port: 8080}, {name: http-both, port: 8081}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client, version: v1, team: a}}
spec: {containers: [{name: app}]}
status: {podIP: 10.244.0.5, podIPs: [{ip: 10.244.0.5}], conditions: [{type: Ready, status: "True"}]}
"#;

fn snapshot() -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    let manifests = read_manifests("callers", MANIFESTS.as_bytes(), ReadOptions::default()).complete().unwrap();
    for manifest in manifests {
        snapshot.insert(Arc::new(manifest.object));
    }
    snapshot.set_revision(1);
    Arc::new(snapshot)
}

/// The service: answers with what it is told of its caller, and keeps the paths it is asked for.
async fn service(port: u16, asked: Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("0.0.0.0", port)).await.unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut head = Vec::new();
            let mut byte = [0];
            loop {
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut byte).await {
                        Ok(1) => head.push(byte[0]),
                        _ => return,
                    }
                }
                let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
                asked.lock().unwrap().push(text.split(' ').nth(1).unwrap_or_default().to_owned());
                let told = |line: &&str| line.to_ascii_lowercase().starts_with("x-forwarded-client-cert:");
                let told: Vec<&str> = text.lines().filter(told).map(|line| &line[24..]).collect();
                let body = told.join("\n");
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A caller: the path by which the client proxy is asked to be it, the port it goes to, its certificate (none for plain
/// text, `Some(None)` for TLS without one), and the status that comes back.
struct Caller {
    path: &'static str,
    port: u16,
    certificate: Option<Option<Certified>>,
    status: u16,
}

fn callers(mesh: &Authority) -> Vec<Caller> {
    let of = |path, identity: &str, status| Caller {
        path,
        port: STRICT,
        certificate: Some(Some(mesh.sign("", identity))),
        status,
    };
    let alice = "spiffe://cluster.local/ns/shop/sa/alice";
    let expired = mesh.sign_with("", alice, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = mesh.sign_with("", alice, |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let stranger = Authority::new("elsewhere").sign("", alice);
    let refused = |path, certificate| Caller { path, port: STRICT, certificate, status: 503 };
    vec![
        of("/alice", alice, 200),
        of("/friend", "spiffe://cluster.local/ns/friends/sa/anybody", 200),
        of("/carol", "spiffe://cluster.local/ns/shop/sa/carol", 200),
        of("/bob", "spiffe://cluster.local/ns/shop/sa/bob", 403),
        of("/mallory", "spiffe://cluster.local/ns/shop/sa/mallory", 403),
        of("/other-carol", "spiffe://cluster.local/ns/other/sa/carol", 403),
        of("/other-domain", "spiffe://elsewhere.example/ns/shop/sa/alice", 503),
        of("/domain-like-ours", "spiffe://cluster.local.example/ns/shop/sa/alice", 503),
        refused("/other-authority", Some(Some(stranger))),
        refused("/expired", Some(Some(expired))),
        refused("/early", Some(Some(early))),
        refused("/anonymous", Some(None)),
        refused("/plain", None),
        Caller { path: "/both-plain", port: PERMISSIVE, certificate: None, status: 200 },
        Caller { path: "/both", port: PERMISSIVE, certificate: Some(Some(mesh.sign("", alice))), status: 200 },
    ]
}

/// Where callers come from: the way to the pod leads through its sidecar from there.
const FROM: u32 = 9;

fn cluster(caller: &Caller, mesh: &Authority) -> Value {
    let mut cluster = json!({
        "name": caller.path, "type": "STATIC", "connect_timeout": "5s",
        "upstream_bind_config": {"source_address": {"address": network::client(FROM).to_string(), "port_value": 0}},
        "load_assignment": {"cluster_name": caller.path, "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
            {"socket_address": {"address": POD.to_string(), "port_value": caller.port}}}}]}]},
    });
    if let Some(certificate) = &caller.certificate {
        let shown: Vec<Value> = certificate.iter().map(Certified::json).collect();
        let socket = tls::upstream(json!({"common_tls_context": {
            "alpn_protocols": ["istio"],
            // Left to itself, Envoy's client goes no further than TLS 1.2.
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": shown,
            "validation_context": {
                "trusted_ca": {"inline_string": mesh.pem},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": IDENTITY}}],
            },
        }}));
        merge(&mut cluster, json!({"transport_socket": socket}));
    }
    cluster
}

async fn get_in(server: Kind) {
    let mesh = Authority::new("mesh");
    let files = Files {
        certificate: mesh.pem.clone(),
        key: mesh.key.clone().into(),
        root: mesh.pem.clone(),
        chain: String::new(),
    };
    let asked = Arc::new(Mutex::new(Vec::new()));
    for port in [STRICT, PERMISSIVE] {
        tokio::spawn(service(port, Arc::clone(&asked)));
    }
    let quick = Duration::from_millis(1);
    let pilot = Pilot::new(Config { debounce_quiet: quick, debounce_max: quick * 5, ..Config::default() }).unwrap();
    pilot.update(snapshot());
    stand::serve_discovery(&pilot).await;
    let dir = tempfile::tempdir().unwrap();
    let sidecar = stand::proxy_under(server, Role::Sidecar, dir.path(), Some(&files)).await;
    let callers = callers(&mesh);
    for client in [Kind::Lateen, Kind::Envoy] {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), &["in"], &[]);
        let routes: Vec<Value> = callers
            .iter()
            .map(|caller| json!({"match": {"path": caller.path}, "route": {"cluster": caller.path}}))
            .collect();
        let routes = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
        let clusters: Vec<Value> = callers.iter().map(|caller| cluster(caller, &mesh)).collect();
        let file =
            bootstrap::fixed(&layout, &[listener(&layout, "in", http(&layout, "in", routes, json!({})))], &clusters);
        let proxy = Proxy::start(client, &file, layout.admin, dir.path()).await;
        let target = |path: &str| Target::new(([127, 0, 0, 1], layout.listener("in")).into(), "client.shop", path);
        let first = target("/alice");
        wait::until("the sidecar serves", || async { first.ask().await.ok().filter(|answer| answer.status() == 200) })
            .await;
        asked.lock().unwrap().clear();
        let mut expected = Vec::new();
        for caller in &callers {
            let answer = target(caller.path).ask().await.unwrap();
            let told = answer.text();
            let place = format!("{} from {} to {}: {answer:?}", caller.path, client.name(), server.name());
            assert_eq!(
                answer.status(),
                caller.status,
                "{place}\n{}\n{}",
                proxy.process.output(),
                sidecar.process.output()
            );
            match (&caller.certificate, caller.status) {
                (Some(_), 200) => {
                    assert!(told.trim().starts_with(&format!("By={IDENTITY};Hash=")), "{place}");
                    assert!(
                        told.contains(";URI=spiffe://cluster.local/ns/") && told.matches("By=").count() == 1,
                        "{place}"
                    );
                    expected.push(caller.path.to_owned());
                }
                (None, 200) => {
                    assert_eq!(told, "", "{place}");
                    expected.push(caller.path.to_owned());
                }
                (_, 403) => assert_eq!(told, "RBAC: access denied", "{place}"),
                _ => {}
            }
        }
        assert_eq!(*asked.lock().unwrap(), expected, "nobody else was heard");
    }
    plainly().await;
    told(&sidecar).await;
}

/// What the sidecar tells its operator of two rounds of callers: which policy refused, which marked.
async fn told(sidecar: &Proxy) {
    let rule = |policy: &str| format!("ns[shop]-policy[{policy}]-rule[0]");
    let lines = [format!("marked true {} /carol\n", rule("watched")), "marked false - /mallory\n".to_owned()];
    wait::until("the log tells who was marked", || async {
        let log = sidecar.process.output();
        lines.iter().all(|line| log.matches(line).count() == 2).then_some(())
    })
    .await;
    let statistics = sidecar.admin("/stats").await.text();
    for (name, count) in [
        (format!("policy.{}.denied", rule("banned")), 2),
        (format!("istio_audit_.policy.{}.allowed", rule("watched")), 2),
        // Who is in no ALLOW policy is refused by none by name, and so are the two from /bob and /other-carol.
        ("denied".to_owned(), 6),
    ] {
        let line = format!("http.inbound_0.0.0.0_{STRICT};.rbac.{name}: {count}");
        assert!(statistics.lines().any(|told| told == line), "{line} is not in\n{statistics}");
    }
    if sidecar.kind == Kind::Lateen {
        let refusals: Value = serde_json::from_str(&sidecar.admin("/refusals?format=json").await.text()).unwrap();
        let refusals = refusals["refusals"].as_array().unwrap();
        let of = |path: &str, principal: &str, policy: &str| {
            let is = |one: &&Value| {
                let of_path = one["request"] == json!({"method": "GET", "host": "client.shop", "path": path});
                let local = format!("{POD}:{STRICT}");
                of_path && one["principal"] == principal && one["policy"] == policy && one["local"] == local
            };
            refusals.iter().filter(is).count()
        };
        let banned = of("/mallory", "spiffe://cluster.local/ns/shop/sa/mallory", &rule("banned"));
        let nobodys = of("/bob", "spiffe://cluster.local/ns/shop/sa/bob", "none");
        assert_eq!((banned, nobodys, refusals.len()), (2, 2, 6), "{refusals:#?}");
    }
}

/// Without TLS and without a proxy: nothing comes back from the port that takes mutual TLS alone, and a forged word about
/// the caller does not reach the service behind the other one.
async fn plainly() {
    let say = async |port: u16| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((network::client(FROM), 0).into()).unwrap();
        let mut stream = socket.connect((POD, port).into()).await.unwrap();
        let request = "GET /plainly HTTP/1.1\r\nhost: client.shop\r\nconnection: close\r\n\
                       x-forwarded-client-cert: URI=spiffe://cluster.local/ns/shop/sa/alice\r\n\r\n";
        let mut heard = Vec::new();
        let said = stream.write_all(request.as_bytes()).await;
        let ended = stream.read_to_end(&mut heard).await;
        (String::from_utf8_lossy(&heard).into_owned(), said.and(ended.map(drop)))
    };
    let (heard, ended) = say(STRICT).await;
    assert_eq!(heard, "", "{ended:?}");
    let (heard, _) = say(PERMISSIVE).await;
    assert!(heard.starts_with("HTTP/1.1 200 OK\r\n") && !heard.contains("alice"), "{heard}");
}

#[test]
fn at_our_sidecar() {
    network::alone(POD, GATEWAY, get_in(Kind::Lateen));
}

#[test]
fn at_envoys() {
    network::alone(POD, GATEWAY, get_in(Kind::Envoy));
}
