//! A changed Secret is served to the next handshake, and no connection that is open notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lateen_tests::message::{Reader, Side};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Stand, secret, wait};

/// Somebody who comes by TLS.
#[derive(Clone)]
pub struct Client {
    gateway: SocketAddr,
    host: String,
    config: Arc<rustls::ClientConfig>,
}

impl Client {
    pub fn new(stand: &Stand, host: &str) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(stand.authority.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        // A session that goes on would show the certificate it began with.
        config.resumption = rustls::client::Resumption::disabled();
        Client { gateway: stand.gateway, host: host.to_owned(), config: Arc::new(config) }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let failed = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(self.gateway).await.map_err(failed)?;
        let name = ServerName::try_from(self.host.clone()).unwrap();
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await.map_err(failed)
    }

    /// The certificate it is shown.
    async fn shown(&self) -> Result<Vec<u8>, String> {
        Ok(of(&self.connect().await?))
    }

    /// One request on a connection.
    async fn ask(&self, reader: &mut Reader<TlsStream<TcpStream>>) -> Result<(), String> {
        let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", self.host);
        reader.get_mut().write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        match reader.message(Side::Response).await {
            Some(answer) if answer.status() == 200 && !answer.cut => Ok(()),
            Some(answer) => Err(answer.start),
            None => Err("the connection ended".to_owned()),
        }
    }

    /// Sends bytes, and reads as many.
    pub async fn exchange(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |error: std::io::Error| error.to_string();
        let mut stream = self.connect().await?;
        stream.write_all(bytes).await.map_err(failed)?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).await.map_err(failed)?;
        Ok(back)
    }
}

fn of(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// How often certificates change.
const CHANGES: usize = 5;
/// Requests that each connection makes between two changes, at least.
const BETWEEN: u64 = 20;

/// Certificates change under load: no request fails, no connection is dropped, the next handshake has the new one.
pub async fn serves_what_changes(stand: &Stand) {
    let client = Client::new(stand, "simple.test");
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Vec<Arc<AtomicU64>> = (0..4).map(|_| Arc::default()).collect();
    let mut load: JoinSet<Result<(), String>> = JoinSet::new();
    for (index, count) in counts.iter().enumerate() {
        let (client, stop, count) = (client.clone(), Arc::clone(&stop), Arc::clone(count));
        load.spawn(async move {
            let mut reader = Reader::new(client.connect().await?);
            while !stop.load(Ordering::Relaxed) {
                // Half of them stay on one connection all the time, half of them make a new one for each request.
                if index % 2 == 1 {
                    reader = Reader::new(client.connect().await?);
                }
                client.ask(&mut reader).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    let go_on = || async {
        let before: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        wait::until("requests go on", || async {
            let now = counts.iter().map(|count| count.load(Ordering::Relaxed));
            now.zip(&before).all(|(now, before)| now >= before + BETWEEN).then_some(())
        })
        .await;
    };
    for _ in 0..CHANGES {
        go_on().await;
        let next = stand.authority.sign("simple.test", "");
        stand.put(&[secret("simple", &[("tls.crt", &next.certificate), ("tls.key", &next.key)])]).await;
        wait::until("the new certificate is served", || async {
            let shown = client.shown().await.unwrap_or_else(|error| panic!("{error}"));
            (shown == next.der).then_some(())
        })
        .await;
    }
    go_on().await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.unwrap().unwrap_or_else(|error| panic!("a client saw it: {error}\n{}", stand.mesh.output()));
    }
}
