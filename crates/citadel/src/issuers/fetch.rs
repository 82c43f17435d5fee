//! One question to an issuer: HTTP/1.1, over TLS or not, within a time and a size.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::Source;
use crate::agent;
use crate::certificate;

/// Longer answers are none of a key set.
const LONGEST: usize = 1 << 20;
/// Redirections followed, as Go's client (and so Istio) does.
const REDIRECTIONS: usize = 10;

/// A connection, however it was made.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to a port of a host.
pub type Dialer = Arc<
    dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>> + Send + Sync + 'static,
>;

/// Whether a text is a key set that proxies take.
pub type Check = fn(&str) -> Result<(), String>;

/// Asks issuers.
pub struct Fetcher {
    pub dial: Dialer,
    /// Certificates trusted beside the system's, in PEM; read at each fetch.
    pub roots: Option<PathBuf>,
    pub check: Check,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("roots", &self.roots).finish_non_exhaustive()
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0:?} is no address of HTTP")]
    Address(String),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("nothing came within {0:?}")]
    Late(Duration),
    #[error("the answer's status is {0}")]
    Status(http::StatusCode),
    #[error("the answer is longer than {LONGEST} bytes")]
    Long,
    #[error("more than {REDIRECTIONS} redirections")]
    Redirections,
    #[error("https led to http")]
    Downgrade,
    #[error("the issuer's description names no jwks_uri")]
    NoKeysNamed,
    #[error("the answer {0}")]
    NotKeys(String),
}

/// Where an issuer describes itself.
pub fn description(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

impl Fetcher {
    /// A source's keys, as a key set with the keys in one order whatever order they came in. `patience` is for each
    /// question.
    ///
    /// # Errors
    /// When they are not to be had.
    pub async fn fetch(&self, source: &Source, patience: Duration) -> Result<Arc<str>, FetchError> {
        let address = match source {
            Source::Address(address) => address.to_string(),
            Source::Issuer(issuer) => {
                let described_at = description(issuer);
                let described: Value = serde_json::from_slice(&self.get(&described_at, patience).await?)
                    .map_err(|_| FetchError::NoKeysNamed)?;
                let named = described.get("jwks_uri").and_then(Value::as_str).filter(|named| !named.is_empty());
                let named = named.ok_or(FetchError::NoKeysNamed)?;
                if parse(&described_at)?.scheme() == Some(&Scheme::HTTPS)
                    && parse(named)?.scheme() != Some(&Scheme::HTTPS)
                {
                    return Err(FetchError::Downgrade);
                }
                named.to_owned()
            }
        };
        let text = self.get(&address, patience).await?;
        let keys = ordered(&text).ok_or_else(|| FetchError::NotKeys("is no JSON Web Key Set".to_owned()))?;
        (self.check)(&keys).map_err(FetchError::NotKeys)?;
        Ok(keys.into())
    }

    async fn get(&self, address: &str, patience: Duration) -> Result<Bytes, FetchError> {
        tokio::time::timeout(patience, self.follow(address)).await.map_err(|_| FetchError::Late(patience))?
    }

    async fn follow(&self, address: &str) -> Result<Bytes, FetchError> {
        let mut at = parse(address)?;
        for _ in 0..=REDIRECTIONS {
            let answer = self.ask(&at).await?;
            if answer.status().is_success() {
                return read(answer).await;
            }
            if ![301, 302, 303, 307, 308].contains(&answer.status().as_u16()) {
                return Err(FetchError::Status(answer.status()));
            }
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let next = redirected(&at, to.ok_or(FetchError::Status(answer.status()))?)?;
            if at.scheme() == Some(&Scheme::HTTPS) && next.scheme() != Some(&Scheme::HTTPS) {
                return Err(FetchError::Downgrade);
            }
            at = next;
        }
        Err(FetchError::Redirections)
    }

    async fn ask(&self, at: &Uri) -> Result<Response<Incoming>, FetchError> {
        let authority = at.authority().ok_or_else(|| FetchError::Address(at.to_string()))?;
        let host = at.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let secure = at.scheme() == Some(&Scheme::HTTPS);
        let port = at.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let mut stream = (self.dial)(host.clone(), port).await?;
        if secure {
            let connector = TlsConnector::from(Arc::new(self.tls().await?));
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            stream = Box::new(connector.connect(name, stream).await?);
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends once the answer is read or let go of.
        tokio::spawn(connection);
        let path = at.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(HOST, authority.as_str())
            .header(USER_AGENT, "lateen")
            .header(ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        Ok(sender.send_request(request).await?)
    }

    async fn tls(&self) -> io::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for path in [Some(agent::system_roots()), self.roots.as_deref()].into_iter().flatten() {
            // Without the system's, those that were named are enough.
            match tokio::fs::read(path).await {
                Ok(pem) => roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten()),
                Err(_) if Some(path) != self.roots.as_deref() => continue,
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            };
        }
        let mut config = ClientConfig::builder_with_provider(certificate::provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

async fn read(answer: Response<Incoming>) -> Result<Bytes, FetchError> {
    match Limited::new(answer.into_body(), LONGEST).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::Long),
        Err(error) => Err(io::Error::other(error).into()),
    }
}

fn parse(address: &str) -> Result<Uri, FetchError> {
    let wrong = || FetchError::Address(address.to_owned());
    let uri: Uri = address.parse().map_err(|_| wrong())?;
    let named = |host: &str| !host.is_empty() && !uri.authority().is_some_and(|all| all.as_str().contains('@'));
    let fits = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(named);
    if fits { Ok(uri) } else { Err(wrong()) }
}

/// Where a `location` leads from an address (RFC 3986 section 5.2, without `.` and `..`).
fn redirected(from: &Uri, to: &str) -> Result<Uri, FetchError> {
    if to.contains("://") {
        return parse(to);
    }
    let (scheme, authority) = (from.scheme_str().unwrap_or("http"), from.authority().map_or("", |a| a.as_str()));
    let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    parse(&match to.strip_prefix("//") {
        Some(rest) => format!("{scheme}://{rest}"),
        None if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        None => format!("{scheme}://{authority}{folder}/{to}"),
    })
}

/// A key set without anything but its keys, in one order.
fn ordered(text: &[u8]) -> Option<String> {
    let Value::Object(mut set) = serde_json::from_slice(text).ok()? else { return None };
    let Value::Array(keys) = set.remove("keys")? else { return None };
    let mut keys: Vec<String> = keys.iter().map(Value::to_string).collect();
    keys.sort_unstable();
    Some(format!("{{\"keys\":[{}]}}", keys.join(",")))
}
