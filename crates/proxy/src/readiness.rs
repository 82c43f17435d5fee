//! Whether the workload beside the proxy is well, for workloads that no kubelet looks after: asked from here, as Kubernetes'
//! readiness probes ask, and told to the control plane when it changes. Istio's agent does so (`pkg/istio-agent/health`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lateen_traffic::RequestHead;
use lateen_traffic::cluster::{EndpointAddress, UpstreamBind};
use lateen_traffic::edit::HeaderEdits;
use lateen_traffic::health_check::{Asked, GrpcProbe, Outcome};
use lateen_traffic::tls::{TlsSettings, TlsVersion, UpstreamTls, ValidationSource};
use lateen_xds::ads::WorkloadHealth;
use lateen_xds::ads::client::Handle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::health_check::{NoAnswer, connection::Connection, grpc, http};
use crate::io::{Io, Socket};
use crate::tls::context::{Contexts, Secrets};
use crate::tls::{self, failure};
use crate::upstream::connect;

/// How the workload is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Its address. Where a check names no host, this and the loopback address are tried.
    pub address: Option<IpAddr>,
    /// Time before the first check.
    pub delay: Duration,
    /// Time from one check to the next, above 0.
    pub period: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that make it healthy, at least 1.
    pub successes: u32,
    /// Failures in a row that make it unhealthy, at least 1.
    pub failures: u32,
    pub check: Check,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A request that is to be answered with a status from 200 to 399; with `tls` in TLS, whatever certificate is shown.
    Http { tls: bool, host: Option<String>, port: u16, path: String, headers: Vec<(String, String)> },
    /// A connection that is to be accepted.
    Tcp { host: Option<String>, port: u16 },
    /// A program, with its arguments, that is to end with 0.
    Exec(Vec<String>),
    /// `grpc.health.v1.Health/Check` of a service, empty for all, that is to be serving.
    Grpc { port: u16, service: String },
}

/// Asks for ever. Must run inside a `LocalSet`.
pub async fn watch(readiness: Readiness, bind: Option<UpstreamBind>, control_plane: Handle) {
    sleep(readiness.delay).await;
    let mut turns = interval(readiness.period.max(Duration::from_millis(1)));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut row = Row::default();
    loop {
        turns.tick().await;
        let answer = timeout(readiness.timeout, readiness.ask(bind.as_ref())).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", readiness.timeout)));
        if let Some(news) = row.add(&readiness, answer) {
            tracing::info!(health = ?news, "the workload's readiness changed");
            control_plane.tell_health(news);
        }
    }
}

/// Answers in a row, and what was told.
#[derive(Debug, Default)]
struct Row {
    healthy: Option<bool>,
    good: u32,
    bad: u32,
}

impl Row {
    /// One more answer; what is to be told of it.
    fn add(&mut self, readiness: &Readiness, answer: Result<(), String>) -> Option<WorkloadHealth> {
        let (row, other, enough) = match &answer {
            Ok(()) => (&mut self.good, &mut self.bad, readiness.successes),
            Err(_) => (&mut self.bad, &mut self.good, readiness.failures),
        };
        *row = row.saturating_add(1);
        *other = 0;
        if *row < enough || self.healthy == Some(answer.is_ok()) {
            return None;
        }
        self.healthy = Some(answer.is_ok());
        Some(match answer {
            Ok(()) => WorkloadHealth::Healthy,
            Err(why) => WorkloadHealth::Unhealthy(why),
        })
    }
}

impl Readiness {
    async fn ask(&self, bind: Option<&UpstreamBind>) -> Result<(), String> {
        let silent = |NoAnswer| "no answer of the protocol".to_owned();
        match &self.check {
            Check::Exec(command) => {
                let Some((program, arguments)) = command.split_first() else { return Err("no command".to_owned()) };
                let mut process = tokio::process::Command::new(program);
                process.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                match process.kill_on_drop(true).status().await {
                    Ok(status) if status.success() => Ok(()),
                    Ok(status) => Err(format!("{program}: {status}")),
                    Err(error) => Err(format!("{program}: {error}")),
                }
            }
            Check::Tcp { host, port } => self.connect(host.as_deref(), *port, bind).await.map(drop),
            Check::Http { tls, host, port, path, headers } => {
                let (socket, at) = self.connect(host.as_deref(), *port, bind).await?;
                let io = if *tls { encrypted(socket).await? } else { Io::plain(socket, Bytes::new()) };
                let mut request = RequestHead {
                    method: "GET".to_owned(),
                    scheme: if *tls { "https" } else { "http" }.to_owned(),
                    authority: host.as_ref().map_or(at.to_string(), |host| format!("{host}:{port}")),
                    path: path.clone(),
                    ..RequestHead::default()
                };
                for (name, value) in headers {
                    match name.eq_ignore_ascii_case("host") {
                        true => request.authority.clone_from(value),
                        false => request.headers.append(name.to_ascii_lowercase(), value),
                    }
                }
                if !request.headers.contains("user-agent") {
                    request.headers.append("user-agent", "lateen-probe/1.0");
                }
                request.headers.append("connection", "close");
                let answer = http::ask(&mut Connection::http1(Rc::new(io)), &request, b"", 0).await.map_err(silent)?;
                match answer.head.status {
                    200..400 => Ok(()),
                    status => Err(format!("status {status}")),
                }
            }
            Check::Grpc { port, service } => {
                let (socket, at) = self.connect(None, *port, bind).await?;
                let probe = GrpcProbe {
                    service: service.as_str().into(),
                    authority: at.to_string().into(),
                    edits: HeaderEdits::default(),
                };
                let host = EndpointAddress::Socket(at);
                let asked = Asked { name: &probe.authority, host: &host, at: SystemTime::now() };
                let mut connection = Connection::http2(Rc::new(Io::plain(socket, Bytes::new())));
                let request = probe.request(asked, self.timeout);
                match grpc::ask(&mut connection, &request, &probe.service).await.map_err(silent)? {
                    Outcome::Good => Ok(()),
                    _ => Err("not serving".to_owned()),
                }
            }
        }
    }

    /// A connection to the workload, and where it went.
    async fn connect(
        &self,
        host: Option<&str>,
        port: u16,
        bind: Option<&UpstreamBind>,
    ) -> Result<(Socket, SocketAddr), String> {
        let addresses: Vec<SocketAddr> = match host {
            Some(host) => match tokio::net::lookup_host((host, port)).await {
                Ok(found) => found.collect(),
                Err(error) => return Err(format!("{host}: {error}")),
            },
            // Programs listen at their address or at the loopback one: either is found.
            None => {
                let own = self.address.into_iter().chain([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
                own.map(|address| SocketAddr::new(address, port)).collect()
            }
        };
        let mut failure = format!("{}: no address", host.unwrap_or_default());
        for address in addresses {
            // With the mark of the proxy's connections no redirect rule turns it around.
            let connected: io::Result<_> = connect(address, bind, None).await;
            match connected {
                Ok(stream) => return Ok((Socket::Tcp(stream), address)),
                Err(error) => failure = format!("{address}: {error}"),
            }
        }
        Err(failure)
    }
}

/// TLS with a server that may be anybody: Kubernetes' probes do not verify it either.
async fn encrypted(socket: Socket) -> Result<Io, String> {
    let settings = UpstreamTls {
        settings: TlsSettings {
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
            cipher_suites: Vec::new(),
            groups: Vec::new(),
            application_protocols: Vec::new(),
            certificates: Vec::new(),
            validation: ValidationSource::default(),
        },
        server_name: None,
        host_name_as_server_name: false,
        match_server_name: false,
        max_sessions: 0,
    };
    let client = Contexts::default().client(&Arc::new(settings), &Secrets::new()).map_err(|error| error.to_string())?;
    let shaken = tls::connect(&client, Arc::new(client.for_host(false, None)), None, socket).await;
    let (stream, facts) = shaken.map_err(|error| failure::words(&error))?;
    Ok(Io::tls(stream, Arc::new(facts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness(check: Check) -> Readiness {
        Readiness {
            address: None,
            delay: Duration::ZERO,
            period: Duration::from_secs(1),
            timeout: Duration::from_secs(9),
            successes: 1,
            failures: 1,
            check,
        }
    }

    #[test]
    fn a_row_of_answers_is_told_once() {
        let readiness = Readiness { successes: 2, failures: 3, ..readiness(Check::Tcp { host: None, port: 1 }) };
        let mut row = Row::default();
        let mut told = |answers: &str| -> Vec<bool> {
            let answer = |letter| if letter == '+' { Ok(()) } else { Err("no".to_owned()) };
            let news = answers.chars().filter_map(|letter| row.add(&readiness, answer(letter)));
            news.map(|news| news == WorkloadHealth::Healthy).collect()
        };
        assert_eq!(told("+-+"), Vec::<bool>::new());
        assert_eq!(told("+"), [true]);
        assert_eq!(told("+++--+--+--"), Vec::<bool>::new());
        assert_eq!(told("-"), [false]);
        assert_eq!(told("---+-+"), Vec::<bool>::new());
        assert_eq!(told("+"), [true]);
    }

    #[tokio::test]
    async fn every_way_of_asking_tells_well_from_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = [0; 512];
                let count = stream.read(&mut bytes).await.unwrap_or(0);
                let well = bytes[..count].starts_with(b"GET /well ");
                let status = if well { "302 X" } else { "404 X" };
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
            }
        });
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let http =
            |path: &str| Check::Http { tls: false, host: None, port, path: path.to_owned(), headers: Vec::new() };
        for (check, failure) in [
            (http("/well"), None),
            (http("/ill"), Some("status 404")),
            (Check::Tcp { host: Some("localhost".to_owned()), port }, None),
            (Check::Tcp { host: None, port: 1 }, Some("127.0.0.1:1: Connection refused (os error 111)")),
            (Check::Exec(words(&["true"])), None),
            (Check::Exec(words(&["sh", "-c", "exit 3"])), Some("sh: exit status: 3")),
        ] {
            let answer = readiness(check.clone()).ask(None).await;
            assert_eq!(answer.err().as_deref(), failure, "{check:?}");
        }
    }

    #[tokio::test]
    async fn servers_of_tls_are_asked_whoever_they_are() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let certified = rcgen::generate_simple_self_signed(["b.test".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certified.cert.der().clone()], key).unwrap());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await.unwrap();
            let mut bytes = [0; 512];
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(bytes[..count].starts_with(b"GET /well "));
            stream.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
            stream.flush().await.unwrap();
        });
        let check = Check::Http { tls: true, host: None, port, path: "/well".to_owned(), headers: Vec::new() };
        assert_eq!(readiness(check).ask(None).await, Ok(()));
    }
}
