//! The programs that are compared, each with one worker, and what they are told.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use lateen_tests::bootstrap::{self, Layout};
use lateen_tests::peers;
use lateen_tests::process::Process;
use lateen_tests::proxy::{Kind, Proxy};
use serde_json::{Value, json};

use crate::encrypted;
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

    /// Starts it for `job` and waits until it serves.
    pub async fn start(self, job: Job, ports: Ports, dir: &Path) -> Process {
        match self {
            Contender::Lateen => envoy_kind(Kind::Lateen, job, ports, dir).await,
            Contender::Envoy => envoy_kind(Kind::Envoy, job, ports, dir).await,
            Contender::Haproxy => {
                let file = dir.join("haproxy.cfg");
                let text = match job.is_encrypted() {
                    true => encrypted::haproxy(job, ports, lateen_tests::ports::free(), dir),
                    false => haproxy(job, ports),
                };
                std::fs::write(&file, text).expect("the configuration is written");
                let mut command = Command::new(peers::program("haproxy"));
                command.args(["-db", "-f"]).arg(file);
                Process::start(command, "haproxy", dir)
            }
            Contender::Nginx => nginx(dir, "proxy", &nginx_proxy(ports)),
        }
    }
}

/// Both read the very same file.
async fn envoy_kind(kind: Kind, job: Job, ports: Ports, dir: &Path) -> Process {
    let layout = Layout::new(dir, &[encrypted::INNER], &[("backend", ports.backend)]);
    let file = match job.is_encrypted() {
        true => encrypted::pair(job, &layout, ports.front),
        false => sidecar(job, &layout, ports.front),
    };
    Proxy::start(kind, &file, layout.admin, dir).await.process
}

/// What a sidecar does with a connection: access log, retry policy, request ids, timeouts.
pub fn filter(job: Job, layout: &Layout, name: &str, cluster: &str) -> Value {
    let log = bootstrap::file_log(&layout.access_log(), SIDECAR_LOG);
    match job.is_of_bytes() {
        true => bootstrap::tcp(layout, name, json!({"cluster": cluster, "access_log": log})),
        false => {
            let hosts = json!([{"name": "all", "domains": ["*"], "include_request_attempt_count": true, "routes": [{
                "name": "default", "match": {"prefix": "/"},
                "route": {"cluster": cluster, "timeout": "15s", "retry_policy": {
                    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", "num_retries": 2}},
            }]}]);
            bootstrap::http(
                layout,
                name,
                hosts,
                json!({"access_log": log, "use_remote_address": false, "normalize_path": true}),
            )
        }
    }
}

/// A bootstrap as heavy as a sidecar's.
fn sidecar(job: Job, layout: &Layout, front: u16) -> Value {
    let listener = json!({
        "name": "bench",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": front}},
        "filter_chains": [{"filters": [filter(job, layout, "bench", "backend")]}],
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
        "global\n  nbthread 1\n  maxconn 4096\n\
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
pub fn backend(job: Job, port: u16, dir: &Path) -> Process {
    let h2 = if job == Job::H2c { " http2" } else { "" };
    let body = "x".repeat(1024);
    nginx(dir, "backend", &format!("server {{ listen 127.0.0.1:{port}{h2}; location / {{ return 200 '{body}'; }} }}\n"))
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
