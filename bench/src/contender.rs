//! The programs that are compared, each with one worker, and what they are told.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use lateen_tests::bootstrap::{self, Layout};
use lateen_tests::process::Process;
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::{peers, wait};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::encrypted::Pair;
use crate::job::Job;

/// A proxy under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    Lateen,
    Envoy,
    Haproxy,
    Nginx,
}

/// Istio's default access log: what a sidecar writes for every request.
const SIDECAR_LOG: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
\"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Where a contender listens and what it forwards to.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub front: u16,
    pub backend: u16,
}

impl Contender {
    pub fn name(self) -> &'static str {
        match self {
            Contender::Lateen => "lateen",
            Contender::Envoy => "envoy",
            Contender::Haproxy => "haproxy",
            Contender::Nginx => "nginx",
        }
    }

    /// Starts it for `job`, one process or the two of a pair.
    pub async fn start(self, job: Job, ports: Ports, dir: &Path) -> Vec<Process> {
        match self {
            Contender::Lateen => envoy_kind(Kind::Lateen, job, ports, dir).await,
            Contender::Envoy => envoy_kind(Kind::Envoy, job, ports, dir).await,
            Contender::Haproxy => {
                let pair = Pair::new(job, ports);
                let files: Vec<(u16, String)> = match job.is_encrypted() {
                    true => pair.ports().map(|ports| ports.front).into_iter().zip(pair.haproxy(dir)).collect(),
                    false => vec![(ports.front, haproxy(job, ports))],
                };
                let mut processes = Vec::new();
                for (port, text) in files {
                    let file = dir.join(format!("haproxy-{port}.cfg"));
                    std::fs::write(&file, text).expect("the configuration is written");
                    let mut command = Command::new(peers::program("haproxy"));
                    command.args(["-db", "-f"]).arg(file);
                    processes.push(listening(Process::start(command, &format!("haproxy-{port}"), dir), port).await);
                }
                processes
            }
            Contender::Nginx => vec![listening(nginx(dir, "proxy", &nginx_proxy(ports)), ports.front).await],
        }
    }
}

/// The server, once it listens.
async fn listening(mut server: Process, port: u16) -> Process {
    wait::until("the server listens", || {
        if let Some(status) = server.ended() {
            panic!("it ended, {status}:\n{}", server.output());
        }
        async move { TcpStream::connect(("127.0.0.1", port)).await.ok() }
    })
    .await;
    server
}

/// Both read the very same file.
async fn envoy_kind(kind: Kind, job: Job, ports: Ports, dir: &Path) -> Vec<Process> {
    let layout = |name: &str, Ports { backend, .. }: Ports| {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).expect("a directory for the proxy");
        Layout::new(&dir, &[], &[("backend", backend)])
    };
    let files = match job.is_encrypted() {
        true => {
            let pair = Pair::new(job, ports);
            let [inbound, outbound] = pair.ports();
            let (inbound, outbound) = (layout("in", inbound), layout("out", outbound));
            vec![(pair.inbound(&inbound), inbound), (pair.outbound(&outbound), outbound)]
        }
        false => {
            let layout = layout("one", ports);
            vec![(sidecar(job, &layout, ports.front), layout)]
        }
    };
    let mut processes = Vec::new();
    for (file, layout) in files {
        processes.push(Proxy::start(kind, &file, layout.admin, &layout.dir).await.process);
    }
    processes
}

/// What a sidecar does with a connection: access log, faults, CORS, rules about who may call, retry policy, request ids,
/// timeouts. The callers are as RBAC's `principals` has them; without any there is no rule, as in a sidecar's outbound listeners.
pub fn filter(job: Job, layout: &Layout, name: &str, cluster: &str, callers: Option<Value>) -> Value {
    let log = bootstrap::file_log(&layout.access_log(), SIDECAR_LOG);
    match job.is_of_bytes() {
        true => bootstrap::tcp(layout, name, json!({"cluster": cluster, "access_log": log})),
        false => {
            let hosts = json!([{"name": "all", "domains": ["*"], "include_request_attempt_count": true, "routes": [{
                "name": "default", "match": {"prefix": "/"},
                "route": {"cluster": cluster, "timeout": "15s", "retry_policy": {
                    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", "num_retries": 2}},
            }]}]);
            let rules = callers.map(|callers| {
                let permissions = json!([{"and_rules": {"rules": [
                    {"url_path": {"path": {"prefix": "/"}}}, {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
                ]}}]);
                let policy = json!({"permissions": permissions, "principals": [callers]});
                extension("rbac", "RBAC", json!({"rules": {"action": "ALLOW", "policies": {"callers": policy}}}))
            });
            let filters = [extension("fault", "HTTPFault", json!({})), extension("cors", "Cors", json!({}))];
            let filters: Vec<Value> = rules.into_iter().chain(filters).chain([bootstrap::router()]).collect();
            bootstrap::http(
                layout,
                name,
                hosts,
                json!({"access_log": log, "http_filters": filters, "use_remote_address": false, "normalize_path": true}),
            )
        }
    }
}

/// One of Envoy's HTTP filters.
fn extension(name: &str, message: &str, mut settings: Value) -> Value {
    settings["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{name}.v3.{message}").into();
    json!({"name": format!("envoy.filters.http.{name}"), "typed_config": settings})
}

/// A bootstrap as heavy as a sidecar's.
fn sidecar(job: Job, layout: &Layout, front: u16) -> Value {
    let callers = json!({"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}});
    let listener = json!({
        "name": "bench",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": front}},
        "filter_chains": [{"filters": [filter(job, layout, "bench", "backend", Some(callers))]}],
    });
    let more = match job {
        Job::H2c => bootstrap::http2_upstream(),
        _ => json!({}),
    };
    bootstrap::fixed(layout, &[listener], &[bootstrap::cluster(layout, "backend", &["backend"], more)])
}

fn haproxy(job: Job, Ports { front, backend }: Ports) -> String {
    let (mode, proto) = match job {
        Job::H2c => ("http", " proto h2"),
        Job::Tcp => ("tcp", ""),
        _ => ("http", ""),
    };
    format!(
        "global\n  nbthread 1\n  maxconn 1024\n\
         defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen bench\n  bind 127.0.0.1:{front}{proto}\n  server backend 127.0.0.1:{backend}{proto}\n"
    )
}

fn nginx_proxy(Ports { front, backend }: Ports) -> String {
    format!(
        "upstream backend {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{front};\n\
         location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}\n"
    )
}

/// The cheap backend behind every HTTP job: 1 KiB from memory.
pub async fn backend(job: Job, port: u16, dir: &Path) -> Process {
    let h2 = if job == Job::H2c { " http2" } else { "" };
    let body = "x".repeat(1024);
    let server = format!("server {{ listen 127.0.0.1:{port}{h2}; location / {{ return 200 '{body}'; }} }}\n");
    listening(nginx(dir, "backend", &server), port).await
}

/// nginx as one process, logging nothing.
fn nginx(dir: &Path, name: &str, servers: &str) -> Process {
    let home = dir.join(format!("nginx-{name}"));
    std::fs::create_dir_all(&home).expect("a directory for nginx");
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", home.display()))
        .collect();
    let text = format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {home}/pid;\nerror_log {home}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; http2_max_concurrent_streams 1024;\n{paths}{servers}}}\n",
        home = home.display()
    );
    let file = home.join("nginx.conf");
    std::fs::write(&file, text).expect("the configuration is written");
    let mut command = Command::new(peers::program("nginx"));
    command.arg("-e").arg(home.join("error.log")).arg("-p").arg(&home).arg("-c").arg(&file);
    Process::start(command, &format!("nginx-{name}"), dir)
}
