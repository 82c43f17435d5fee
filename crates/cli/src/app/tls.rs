//! The sample service's port for TLS: the same answers, which also tell which server the client asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lateen_proxy::tls::verify::Verifier;
use lateen_traffic::tls::{Validation, as_version3};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
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
                let authorities = certificates(path)?;
                let mut roots = rustls::RootCertStore::empty();
                for authority in &authorities {
                    roots.add(authority.clone()).map_err(|error| unusable(&error))?;
                }
                if roots.is_empty() {
                    return Err(unusable(&format_args!("{}: no certificate in it", path.display())));
                }
                let authorities = authorities.iter().map(|der| der.to_vec().into()).collect();
                let rules = Validation { authorities, ..Validation::default() };
                let algorithms = provider.signature_verification_algorithms;
                builder.with_client_cert_verifier(Arc::new(Verifier::new(rules, algorithms, true, false)))
            }
        };
        let chain = certificates(&self.certificate)?;
        let own = chain.iter().take(1).map(|der| CertificateDer::from(as_version3(der).into_owned())).collect();
        let mut certified = CertifiedKey::from_der(own, key, &provider).map_err(|error| unusable(&error))?;
        certified.cert = chain;
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use tokio::net::TcpListener;

    use super::*;

    /// Files as guides have people make them: certificates of version 1.
    fn made(dir: &Path) {
        let made = |line: &str| {
            let run =
                Command::new("openssl").args(line.split(' ')).current_dir(dir).stdin(Stdio::null()).output().unwrap();
            assert!(run.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&run.stderr));
        };
        let key = |name: &str| format!("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key");
        for authority in ["ca", "other"] {
            made(&format!("req -x509 -days 30 {} -subj /CN={authority} -out {authority}.crt", key(authority)));
        }
        for (name, authority) in [("server", "ca"), ("client", "ca"), ("stranger", "other")] {
            made(&format!("req {} -subj /CN={name}.test -out {name}.csr", key(name)));
            let by = format!("-CA {authority}.crt -CAkey {authority}.key -set_serial 0");
            made(&format!("x509 -req -days 30 {by} -in {name}.csr -out {name}.crt"));
        }
    }

    #[tokio::test]
    async fn certificates_without_extensions_are_served_and_believed() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path());
        let path = |name: &str| dir.path().join(name);
        let options = |key: &str, client_authorities| Options {
            port: 0,
            certificate: path("server.crt"),
            key: path(key),
            client_authorities,
        };
        assert!(options("client.key", None).acceptor().is_err(), "the key of another");
        std::fs::write(path("empty.crt"), "").unwrap();
        assert!(options("server.key", Some(path("empty.crt"))).acceptor().is_err(), "nobody could come");
        let acceptor = options("server.key", Some(path("ca.crt"))).acceptor().unwrap();
        for (client, comes) in [("client", true), ("stranger", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let to = listener.local_addr().unwrap().to_string();
            let shown = ["-cert", &format!("{client}.crt"), "-key", &format!("{client}.key")].map(str::to_owned);
            let mut client = Command::new("openssl")
                .args(["s_client", "-brief", "-verify_return_error", "-CAfile", "ca.crt", "-connect", &to])
                .args(shown)
                .current_dir(dir.path())
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let accepted = accept(&acceptor, listener.accept().await.unwrap().0).await;
            assert_eq!(accepted.is_some(), comes);
            drop(accepted);
            client.wait().unwrap();
        }
    }
}
