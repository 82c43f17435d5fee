//! The sample service's port for TLS: the same answers, which also tell which server the client asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::Error;

/// A client that does not get on with its handshake for so long is let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where TLS is served, and by what.
pub struct Options {
    pub port: u16,
    /// File with the certificate, and those that lead from it to an authority.
    pub certificate: PathBuf,
    /// File with its key.
    pub key: PathBuf,
    /// File with the authorities of clients, who must show a certificate then.
    pub client_authorities: Option<PathBuf>,
}

/// What a client said in its handshake.
#[derive(Clone)]
pub struct Said {
    /// The server it asked for; empty if it asked for none.
    pub server_name: Arc<str>,
}

impl Options {
    /// What makes handshakes.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be.
    pub fn acceptor(&self) -> Result<TlsAcceptor, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Usage(format!("TLS cannot be served: {error}"));
        let certificates = |path: &PathBuf| -> Result<Vec<CertificateDer<'static>>, Error> {
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            read.map_err(|error| Error::Usage(format!("{}: {error}", path.display())))
        };
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| Error::Usage(format!("{}: {error}", self.key.display())))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = rustls::RootCertStore::empty();
                for authority in certificates(path)? {
                    roots.add(authority).map_err(|error| unusable(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| unusable(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config =
            builder.with_single_cert(certificates(&self.certificate)?, key).map_err(|error| unusable(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Makes a handshake. `None`: it did not come about, which is no event of the service's.
pub async fn accept(acceptor: &TlsAcceptor, stream: TcpStream) -> Option<(TlsStream<TcpStream>, Said)> {
    let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await.ok()?.ok()?;
    let server_name = stream.get_ref().1.server_name().unwrap_or_default().into();
    Some((stream, Said { server_name }))
}
