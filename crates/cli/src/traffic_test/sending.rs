//! Sending the requests of a step over sockets: from this process to the ingress gateway, or from inside a pod, where
//! `lateen send` runs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use lateen_citadel::certificate;
use lateen_traffic::proxy_protocol::{self, Told, Version};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::certificates::Certificates;
use super::cookies::Jar;
use super::kind::Send;
use super::outcome::Outcome;
use crate::error::Error;

/// Bytes of an answer's body that are kept.
const LONGEST_BODY: usize = 64 << 10;

/// What to send, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Connect here, whatever the host's address is.
    pub address: Option<SocketAddr>,
    pub host: String,
    pub port: u16,
    /// As the request says it.
    pub authority: String,
    pub path: String,
    /// Bytes, not HTTP: the body is sent, and what comes back until the other side is done is the answer.
    pub tcp: bool,
    /// The client that a PROXY protocol header is to tell of.
    pub told: Option<IpAddr>,
    pub tls: Option<Tls>,
    pub method: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    pub count: u64,
    pub concurrency: u64,
    pub clients: u64,
    pub cookies: bool,
    pub timeout: Duration,
}

/// How TLS is spoken.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tls {
    /// The server that is asked for, and whose certificate it must be.
    pub name: String,
    /// Whose certificates are believed, in PEM.
    pub authorities: String,
    /// What is shown if it is asked for: certificate and key in PEM.
    pub certificate: Option<(String, String)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({})", self.name)
    }
}

impl Plan {
    /// What a step sends, told apart from other requests by its user-agent unless it has one of its own.
    ///
    /// # Errors
    /// When its URL is none.
    pub fn of(send: &Send, mark: &str, certificates: &Certificates) -> Result<Plan, Error> {
        let target = send.target().ok_or_else(|| Error::Usage(format!("{:?} is not a URL", send.url)))?;
        let mut headers = send.headers.clone();
        if !send.names_user_agent() {
            headers.insert("user-agent".to_owned(), mark.to_owned());
        }
        let tls = send.tls.as_ref().map(|tls| Tls {
            name: if tls.server_name.is_empty() { target.host.clone() } else { tls.server_name.clone() },
            authorities: certificates.authority(&tls.authority).unwrap_or_default().to_owned(),
            certificate: certificates.pair(&tls.certificate).map(|pair| (pair.certificate.clone(), pair.key.clone())),
        });
        Ok(Plan {
            address: None,
            told: send.proxy_protocol,
            tls,
            host: target.host,
            port: target.port,
            authority: target.authority,
            path: target.path,
            tcp: target.tcp,
            method: send.method.clone(),
            headers,
            body: send.body.clone(),
            count: send.count,
            concurrency: send.concurrency,
            clients: send.clients,
            cookies: send.cookies,
            timeout: send.timeout.0,
        })
    }
}

/// Sends everything; outcomes are in the order of sending. `done` counts those that are there.
pub async fn run(plan: Plan, done: Rc<Cell<u64>>) -> Vec<Outcome> {
    let clients = (0..plan.clients).map(|number| Client { number, ..Client::default() }).collect();
    let sender = Rc::new(Sender {
        next: Cell::new(0),
        clients,
        outcomes: RefCell::new(Vec::with_capacity(usize::try_from(plan.count).unwrap_or(0))),
        done,
        secured: plan.tls.as_ref().map(|tls| tls.connector().map_err(|error| format!("TLS: {}", reasons(&*error)))),
        plan,
    });
    let workers = (0..sender.plan.concurrency).map(|_| Rc::clone(&sender).work());
    LocalSet::new().run_until(futures::future::join_all(workers)).await;
    let mut outcomes = sender.outcomes.take();
    outcomes.sort_by_key(|outcome| outcome.number);
    outcomes
}

impl Tls {
    fn connector(&self) -> Result<(TlsConnector, ServerName<'static>), Box<dyn std::error::Error>> {
        let roots = certificate::root_store(&certificate::read_pem(&self.authorities)?)?;
        let config = ClientConfig::builder_with_provider(certificate::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => config.with_no_client_auth(),
            Some((chain, key)) => config
                .with_client_auth_cert(certificate::read_pem(chain)?, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((TlsConnector::from(Arc::new(config)), ServerName::try_from(self.name.clone())?))
    }
}

/// What bytes go over.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// An error and what it comes of: what a library says first is often the least.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

struct Sender {
    plan: Plan,
    /// How TLS is spoken, or why it cannot be.
    secured: Option<Result<(TlsConnector, ServerName<'static>), String>>,
    next: Cell<u64>,
    clients: Vec<Client>,
    outcomes: RefCell<Vec<Outcome>>,
    done: Rc<Cell<u64>>,
}

/// One client: its connections without a request, and its cookies.
#[derive(Default)]
struct Client {
    number: u64,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
    cookies: RefCell<Jar>,
}

/// What came back over HTTP.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Sender {
    async fn work(self: Rc<Self>) {
        loop {
            let number = self.next.get();
            if number >= self.plan.count {
                return;
            }
            self.next.set(number + 1);
            let at = usize::try_from(number % self.plan.clients).unwrap_or(0);
            let Some(client) = self.clients.get(at) else { return };
            let outcome = self.one(client, number).await;
            self.outcomes.borrow_mut().push(outcome);
            self.done.set(self.done.get() + 1);
        }
    }

    async fn one(&self, client: &Client, number: u64) -> Outcome {
        let began = Instant::now();
        let exchange = async { if self.plan.tcp { self.tcp(client).await } else { self.http(client).await } };
        let answer = match tokio::time::timeout(self.plan.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer in time".to_owned()),
        };
        let mut outcome = Outcome { number, client: client.number, latency: began.elapsed(), ..Outcome::default() };
        match answer {
            Ok(Answer { status, headers, body }) => {
                outcome.status = Some(status);
                outcome.headers = headers;
                outcome.body = body;
                outcome.name_pod();
            }
            Err(failure) => outcome.failure = failure,
        }
        outcome
    }

    async fn http(&self, client: &Client) -> Result<Answer, String> {
        let mut sender = self.connection(client).await?;
        let response = sender.send_request(self.request(client)?).await.map_err(|error| reasons(&error))?;
        let (parts, body) = response.into_parts();
        if self.plan.cookies {
            let given = parts.headers.get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
            client.cookies.borrow_mut().keep(given);
        }
        let body = Limited::new(body, LONGEST_BODY).collect().await.map_err(|error| error.to_string())?.to_bytes();
        client.idle.borrow_mut().push(sender);
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers.iter().map(text).collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    fn request(&self, client: &Client) -> Result<Request<Full<Bytes>>, String> {
        let unusable = |error: &dyn std::fmt::Display| error.to_string();
        let mut request = Request::new(Full::new(Bytes::from(self.plan.body.clone())));
        *request.method_mut() = Method::from_bytes(self.plan.method.as_bytes()).map_err(|error| unusable(&error))?;
        *request.uri_mut() = self.plan.path.parse::<Uri>().map_err(|error| unusable(&error))?;
        let host = HeaderValue::from_str(&self.plan.authority).map_err(|error| unusable(&error))?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        for (name, value) in &self.plan.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| unusable(&error))?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|error| unusable(&error))?);
        }
        if let Some(cookies) = client.cookies.borrow().header() {
            headers.insert(header::COOKIE, HeaderValue::from_str(&cookies).map_err(|error| unusable(&error))?);
        }
        Ok(request)
    }

    async fn connection(&self, client: &Client) -> Result<SendRequest<Full<Bytes>>, String> {
        loop {
            let Some(mut sender) = client.idle.borrow_mut().pop() else { break };
            // A server may close a connection after any answer: that is its right, and no failure.
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = self.connect(client).await?;
        let stream: Box<dyn Stream> = match &self.secured {
            None => Box::new(stream),
            Some(Err(reason)) => return Err(reason.clone()),
            Some(Ok((connector, name))) => {
                let made = connector.connect(name.clone(), stream).await;
                Box::new(made.map_err(|error| format!("TLS: {}", reasons(&error)))?)
            }
        };
        let (sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(|error| reasons(&error))?;
        // How a connection ends shows in its requests.
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    async fn connect(&self, client: &Client) -> Result<TcpStream, String> {
        let address = match self.plan.address {
            Some(address) => address,
            None => {
                let host = self.plan.host.trim_start_matches('[').trim_end_matches(']');
                let mut found =
                    lookup_host((host, self.plan.port)).await.map_err(|error| format!("{host}: {error}"))?;
                found.next().ok_or_else(|| format!("{host} has no address"))?
            }
        };
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(|error| error.to_string())?;
        // Every address of the loopback network is this machine's.
        if self.plan.clients > 1 && address.is_ipv4() && address.ip().is_loopback() {
            let source = super::client_address(client.number);
            socket.bind(SocketAddr::new(source, 0)).map_err(|error| format!("{source}: {error}"))?;
        }
        let mut stream = socket.connect(address).await.map_err(|error| format!("{address}: {error}"))?;
        // Failing to say so only makes requests slower.
        let _ = stream.set_nodelay(true);
        if let Some(ip) = self.plan.told {
            let port = stream.local_addr().map_err(|error| error.to_string())?.port();
            let told = Told { source: SocketAddr::new(ip, port), destination: address };
            let header = proxy_protocol::write(Version::V2, told);
            stream.write_all(&header).await.map_err(|error| format!("{address}: {error}"))?;
        }
        Ok(stream)
    }

    async fn tcp(&self, client: &Client) -> Result<Answer, String> {
        let mut stream = self.connect(client).await?;
        let failed = |error: std::io::Error| error.to_string();
        stream.write_all(self.plan.body.as_bytes()).await.map_err(failed)?;
        stream.shutdown().await.map_err(failed)?;
        let mut body = Vec::new();
        stream.take(LONGEST_BODY as u64).read_to_end(&mut body).await.map_err(failed)?;
        if body.is_empty() {
            return Err("closed without an answer".to_owned());
        }
        Ok(Answer { status: 200, headers: Vec::new(), body: String::from_utf8_lossy(&body).into_owned() })
    }
}
