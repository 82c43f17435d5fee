//! Whether a container has started, can take traffic, and is alive, asked from inside its pod's network,
//! so that the sidecar is not in the way.
//!
//! As in Kubernetes, with two differences that make a start brisk. Until a probe first succeeds it is asked
//! every 20 ms, doubling up to its period. And a container without readiness probe is ready once the TCP
//! ports it declares accept connections (for a program that needs a moment to listen; a declared port that
//! still does not listen after five seconds is waited for no longer if another one does).

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::time::{Instant, sleep, timeout};

use super::bootstrap::{READY_PATH, STATUS_PORT};
use crate::node::{NodeHandle, Place, Spawn};

/// The first pause between questions that were not yet answered with yes.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Time after which declared ports that do not listen are waited for no longer.
const PORT_PATIENCE: Duration = Duration::from_secs(5);

/// Where a probe asks.
#[derive(Debug, Clone)]
pub struct Target {
    /// The node.
    pub node: NodeHandle,
    /// The pod.
    pub place: Place,
    /// The pod's address.
    pub address: IpAddr,
    /// The container's environment, for commands.
    pub env: Vec<(String, String)>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum Check {
    /// An HTTP request whose answer must have a status from 200 to 399.
    Http(HttpCheck),
    /// A port that must accept a connection.
    Tcp(u16),
    /// A command that must end with 0.
    Exec(Vec<String>),
    /// The container's declared ports.
    Ports(Vec<u16>),
    /// Nothing: always yes.
    Nothing,
}

/// An HTTP request.
#[derive(Debug, Clone)]
pub struct HttpCheck {
    host: Option<String>,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

/// A probe with its times.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is asked.
    pub check: Check,
    delay: Duration,
    period: Duration,
    patience: Duration,
    successes: u32,
    failures: u32,
}

impl Plan {
    /// The proxy's own readiness: asked often, as everything waits for it.
    pub fn proxy() -> Self {
        let http = HttpCheck { host: None, port: STATUS_PORT, path: READY_PATH.to_owned(), headers: Vec::new() };
        Self { period: Duration::from_secs(1), failures: 4, ..Self::of(Check::Http(http)) }
    }

    fn of(check: Check) -> Self {
        let second = Duration::from_secs(1);
        Self { check, delay: Duration::ZERO, period: 10 * second, patience: second, successes: 1, failures: 3 }
    }

    /// A manifest's probe; `None` if it asks for something that cannot be understood.
    pub fn of_probe(probe: &Probe, container: &Container) -> Option<Self> {
        let port = |port: &IntOrString| resolve_port(port, container);
        let check = if let Some(http) = &probe.http_get {
            http_check(http, container)?
        } else if let Some(tcp) = &probe.tcp_socket {
            Check::Tcp(port(&tcp.port)?)
        } else if let Some(grpc) = &probe.grpc {
            Check::Tcp(u16::try_from(grpc.port).ok()?)
        } else {
            Check::Exec(probe.exec.as_ref()?.command.clone().unwrap_or_default())
        };
        let seconds = |given: Option<i32>, default: u64| {
            Duration::from_secs(given.and_then(|given| u64::try_from(given).ok()).unwrap_or(default))
        };
        let count = |given: Option<i32>, default: u32| {
            given.and_then(|given| u32::try_from(given).ok()).unwrap_or(default).max(1)
        };
        Some(Self {
            check,
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            patience: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        })
    }

    /// What readiness means for a container without a probe for it.
    pub fn declared_ports(container: &Container) -> Self {
        let tcp = |protocol: Option<&str>| protocol.is_none_or(|protocol| protocol == "TCP");
        let ports = container.ports.iter().flatten().filter(|port| tcp(port.protocol.as_deref()));
        let ports: Vec<u16> = ports.filter_map(|port| u16::try_from(port.container_port).ok()).collect();
        Self::of(if ports.is_empty() { Check::Nothing } else { Check::Ports(ports) })
    }
}

fn resolve_port(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name))?;
            u16::try_from(named.container_port).ok()
        }
    }
}

fn http_check(http: &HTTPGetAction, container: &Container) -> Option<Check> {
    let port = resolve_port(&http.port, container)?;
    // The probe of a TLS port does not verify anything in Kubernetes either: that it accepts is what is asked.
    if http.scheme.as_deref() == Some("HTTPS") {
        return Some(Check::Tcp(port));
    }
    let headers = http.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone()));
    let path = http.path.clone().unwrap_or_else(|| "/".to_owned());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    Some(Check::Http(HttpCheck { host: http.host.clone(), port, path, headers: headers.collect() }))
}

/// Asks until the plan's threshold of yes is reached; `false` if the threshold of no is reached first and
/// `give_up` says that this counts.
pub async fn until_success(plan: &Plan, target: &Target, give_up: bool) -> bool {
    sleep(plan.delay).await;
    let begun = Instant::now();
    let (mut yes, mut no, mut pause) = (0, 0, FIRST_PAUSE);
    let mut last_counted = begun;
    loop {
        if ask(plan, target, begun.elapsed() > PORT_PATIENCE).await {
            yes += 1;
            no = 0;
            if yes >= plan.successes {
                return true;
            }
        } else {
            yes = 0;
            // Questions asked earlier than the period says do not count as failures.
            if last_counted.elapsed() >= plan.period {
                last_counted = Instant::now();
                no += 1;
                if give_up && no >= plan.failures {
                    return false;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(plan.period);
    }
}

/// Asks every period until the plan's threshold of no is reached.
pub async fn until_failure(plan: &Plan, target: &Target) {
    if matches!(plan.check, Check::Nothing | Check::Ports(_)) {
        return std::future::pending().await;
    }
    let mut no = 0;
    while no < plan.failures {
        sleep(plan.period).await;
        no = if ask(plan, target, true).await { 0 } else { no + 1 };
    }
}

async fn ask(plan: &Plan, target: &Target, impatient: bool) -> bool {
    let asked: std::pin::Pin<Box<dyn Future<Output = bool> + Send + '_>> = match &plan.check {
        Check::Nothing => return true,
        Check::Tcp(port) => Box::pin(accepts(target, *port)),
        Check::Http(http) => Box::pin(answers(target, http)),
        Check::Exec(command) => Box::pin(succeeds(target, command)),
        Check::Ports(ports) => Box::pin(async move {
            let (mut open, mut closed) = (0, 0);
            for port in ports {
                if accepts(target, *port).await { open += 1 } else { closed += 1 }
            }
            closed == 0 || (impatient && open > 0)
        }),
    };
    timeout(plan.patience, asked).await.unwrap_or(false)
}

/// Programs listen on the pod's address or on its loopback: either is found.
async fn accepts(target: &Target, port: u16) -> bool {
    for address in [target.address, IpAddr::V4(Ipv4Addr::LOCALHOST)] {
        if target.node.connect(target.place, SocketAddr::new(address, port), None).await.is_ok() {
            return true;
        }
    }
    false
}

async fn answers(target: &Target, http: &HttpCheck) -> bool {
    let host: IpAddr = match http.host.as_deref().map(str::parse) {
        Some(Ok(host)) => host,
        Some(Err(_)) | None => target.address,
    };
    let address = SocketAddr::new(host, http.port);
    let Ok(stream) = target.node.connect(target.place, address, None).await else { return false };
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await else {
        return false;
    };
    let mut request = Request::get(http.path.as_str()).header(http::header::USER_AGENT, "kube-probe/1.33");
    let named = |name: &str| http.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    if !named("host") {
        request = request.header(http::header::HOST, address.to_string());
    }
    for (name, value) in &http.headers {
        request = request.header(name, value);
    }
    let Ok(request) = request.body(Empty::<bytes::Bytes>::new()) else { return false };
    let answered = async move {
        let status = sender.send_request(request).await.ok()?.status();
        Some((200..400).contains(&status.as_u16()))
    };
    // The connection ends once nobody can send on it any more.
    let (answer, _) = tokio::join!(answered, connection);
    answer.unwrap_or(false)
}

async fn succeeds(target: &Target, command: &[String]) -> bool {
    let mut spawn = Spawn::new(target.place, command.iter().cloned());
    spawn.env.clone_from(&target.env);
    let Ok(mut container) = target.node.spawn(spawn).await else { return false };
    container.wait().await.is_ok_and(|exit| exit.code() == 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn probes_find_named_ports_and_keep_their_times() {
        let container: Container = serde_json::from_value(json!({
            "name": "a", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}],
            "readinessProbe": {"httpGet": {"path": "ready", "port": "http"}, "periodSeconds": 3, "failureThreshold": 2},
        }))
        .unwrap();
        let plan = Plan::of_probe(container.readiness_probe.as_ref().unwrap(), &container).unwrap();
        assert_eq!((plan.period, plan.failures), (Duration::from_secs(3), 2));
        assert!(matches!(&plan.check, Check::Http(http) if http.port == 8080 && http.path == "/ready"));
        assert!(matches!(Plan::declared_ports(&container).check, Check::Ports(ports) if ports == [8080]));
        let unknown: Probe = serde_json::from_value(json!({"tcpSocket": {"port": "none"}})).unwrap();
        assert!(Plan::of_probe(&unknown, &container).is_none());
    }
}
