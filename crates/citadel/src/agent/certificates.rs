//! Asks a server of Istio's certificate service for a certificate.

use std::future::{Ready, ready};
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;
use zeroize::Zeroizing;

use crate::istio::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};

/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer, in bytes: a chain and a bundle of roots.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{0}")]
    Connect(#[from] io::Error),
    #[error("HTTP/2: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("the authority refuses: {}", .0.message())]
    Refused(Box<tonic::Status>),
    #[error("the token is damaged: it cannot stand in a header")]
    Token,
}

/// What an authority answers, each element PEM: the certificate first, roots last.
pub async fn ask(
    stream: TlsStream<TcpStream>,
    csr: String,
    ttl: Option<Duration>,
    token: Option<Zeroizing<String>>,
) -> Result<Vec<String>, AskError> {
    let channel = Endpoint::from_static("http://istiod").connect_with_connector(Once(Some(stream))).await?;
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    grpc.ready().await?;
    let seconds = ttl.map_or(0, |ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
    let message = CertificateRequest { csr, validity_duration: seconds, metadata: None };
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    if let Some(token) = token {
        let value = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut value = MetadataValue::try_from(value.as_str()).map_err(|_| AskError::Token)?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
    }
    let codec = ProstCodec::<CertificateRequest, CertificateResponse>::default();
    let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
    let answer = grpc.unary(request, path, codec).await.map_err(|status| AskError::Refused(Box::new(status)))?;
    Ok(answer.into_inner().cert_chain)
}

/// Hands out a stream that is connected already, once.
pub(crate) struct Once(pub(crate) Option<TlsStream<TcpStream>>);

impl Service<Uri> for Once {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::Error::other("the connection is used up")))
    }
}
