//! Mutual TLS between pods of a whole mesh, in which our proxies stand beside some and Envoys beside others: that it is
//! spoken, who is let in by it, and what is told of them.

mod mixed;
mod passthrough;
mod revoked;
mod server_names;
mod shown;
mod unnamed;
mod versions;
mod wire;

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::proxy::Kind;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::real_envoy::envoy;

/// Namespace of everything.
const SHOP: &str = "shop";
/// Ports of every pod: what serves there says nothing, its Services do.
const HTTP: u16 = 8080;
const HTTP2: u16 = 8081;
const UNNAMED: u16 = 8082;
const TCP: u16 = 9000;
const KINDS: [Kind; 2] = [Kind::Lateen, Kind::Envoy];

/// A pod of the sample service under a service account of its own, with a Service that names its ports and one whose
/// port has no name: `NAME-unnamed`. Without a proxy nothing stands beside it.
fn workload(name: &str, proxy: Option<Kind>) -> Vec<Value> {
    let annotations = match proxy {
        None => json!({"sidecar.istio.io/inject": "false"}),
        Some(Kind::Lateen) => json!({}),
        Some(Kind::Envoy) => json!({"sidecar.istio.io/proxyImage": "envoy"}),
    };
    let app = |port: u16, more: &[&str]| {
        let args = [&["--version", name, "--pod", name][..], more].concat();
        json!({"name": format!("at-{port}"), "image": "lateen:latest", "command": ["lateen", "app"], "args": args,
            "ports": [{"containerPort": port}], "readinessProbe": {"httpGet": {"path": "/ready", "port": port}}})
    };
    let named = |suffix: &str, ports: Value| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("{name}{suffix}"), "namespace": SHOP},
            "spec": {"selector": {"app": name}, "ports": ports}})
    };
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": SHOP}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata":
            {"name": name, "namespace": SHOP, "labels": {"app": name, "version": "v1"}, "annotations": annotations},
            "spec": {"serviceAccountName": name, "containers": [
                app(HTTP, &["--tcp-port", &TCP.to_string()]), app(HTTP2, &[]), app(UNNAMED, &[])]}}),
        named(
            "",
            json!([{"name": "http", "port": HTTP}, {"name": "http2", "port": HTTP2}, {"name": "tcp", "port": TCP}]),
        ),
        named("-unnamed", json!([{"port": UNNAMED}])),
    ]
}

/// Which mode of mutual TLS the whole mesh has.
fn mode(mode: &str) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "istio-system"}, "spec": {"mtls": {"mode": mode}}})
}

fn identity(workload: &str) -> String {
    format!("spiffe://cluster.local/ns/{SHOP}/sa/{workload}")
}

fn server(kind: Kind) -> String {
    format!("server-{}", kind.name())
}

fn caller(kind: Kind) -> String {
    format!("caller-{}", kind.name())
}

/// A mesh that has just begun.
struct Stand {
    mesh: Mesh,
}

impl Stand {
    /// Starts it with a server and a caller of each kind of proxy, and with `more`; all are ready.
    async fn up(more: Vec<Value>) -> Stand {
        let mut objects = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}})];
        for kind in KINDS {
            objects.extend(workload(&server(kind), Some(kind)));
            objects.extend(workload(&caller(kind), Some(kind)));
        }
        objects.extend(more);
        let dir: TempDir = Mesh::place(User::Invoker);
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        std::fs::write(dir.path().join("manifests/mesh.yaml"), documents(&objects)).unwrap();
        let mesh = Mesh::up(dir, User::Invoker, &["--image", &format!("envoy={}", envoy())]);
        let pods = objects.iter().filter(|object| object["kind"] == "Pod").count();
        mesh.ready(SHOP, pods).await;
        let told: Value = serde_json::from_str(&mesh.control_plane("/debug/syncz").await).unwrap();
        for proxy in told.as_array().unwrap() {
            let types = proxy["types"].as_object().unwrap();
            assert!(types.values().all(|of_kind| of_kind["rejects"] == 0), "nothing is refused: {proxy:#}");
        }
        Stand { mesh }
    }

    /// Puts objects into the mesh, and waits until every proxy knows.
    async fn put(&self, objects: &[Value]) {
        // Not among the files that are watched, where something else may stand.
        let file = self.mesh.state().with_file_name("more.yaml");
        std::fs::write(&file, documents(objects)).unwrap();
        self.mesh.prints(&["apply", "-f", &file.to_string_lossy(), "--wait"]).await;
    }

    /// The address of a pod.
    async fn address(&self, pod: &str) -> String {
        let pods = self.mesh.pods(SHOP).await;
        let found = pods.iter().find(|object| object["metadata"]["name"] == pod).unwrap();
        found["status"]["podIP"].as_str().unwrap().to_owned()
    }

    /// What a program of a pod prints.
    async fn exec(&self, pod: &str, command: &[&str]) -> String {
        let command = [&["exec", "-n", SHOP, pod, "--"][..], command].concat();
        String::from_utf8_lossy(&self.mesh.run(&command).await.stdout).into_owned()
    }

    /// What the access log of a pod's proxy says of requests that name `mark`.
    async fn logged(&self, pod: &str, mark: &str) -> Vec<String> {
        let log = self.mesh.prints(&["logs", "-n", SHOP, pod, "--proxy"]).await;
        log.lines().filter(|line| line.contains(mark)).map(str::to_owned).collect()
    }

    /// The status of one request of a pod, and what the service says of it.
    async fn ask(&self, pod: &str, more: &[&str], url: &str) -> (String, Value) {
        let format = "\n%{http_code}";
        let command = [&["curl", "-s", "-m", "30", "-w", format][..], more, &[url]].concat();
        let text = self.exec(pod, &command).await;
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        (status.to_owned(), serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
    }

    /// What comes back of bytes without a protocol, or why nothing does.
    async fn echo(&self, pod: &str, host: &str, bytes: &str) -> String {
        let port = TCP.to_string();
        let command = ["exec", "-n", SHOP, pod, "--", "python3", "-c", CONVERSATION, host, &port, bytes];
        let output = self.mesh.run(&command).await;
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

/// Sends a word to a host's port, and prints as much as it was of what comes back. An Envoy that looks for TLS resets
/// who has ended before it has looked: the end comes last.
const CONVERSATION: &str = "
import socket, sys
word = sys.argv[3].encode()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as server:
    server.sendall(word)
    while word and (part := server.recv(len(word))):
        print(part.decode(), end='')
        word = word[len(part):]
";

fn documents(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{object}\n")).collect()
}

/// The header by which a service is told of its caller.
fn told(body: &Value) -> &str {
    body.pointer("/headers/x-forwarded-client-cert").and_then(Value::as_str).unwrap_or_default()
}

/// Whether it is the word of `server`'s proxy that `caller` has shown its certificate, and nobody else's.
fn names(told: &str, caller: &str, server: &str) -> bool {
    let hash = told.strip_prefix(&format!("By={};Hash=", identity(server)));
    let rest = hash.and_then(|rest| rest.split_at_checked(64));
    rest.is_some_and(|(hash, rest)| {
        hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && rest == format!(";Subject=\"\";URI={}", identity(caller))
    })
}
