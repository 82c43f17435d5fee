//! Asks a control plane for one of its pages.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::error::Error;

/// Longest answer taken, in bytes.
const LONGEST_ANSWER: usize = 64 << 20;

/// Asks at its socket.
///
/// # Errors
/// When it does not answer.
pub async fn ask(socket: &Path, method: Method, path: &'static str) -> Result<(StatusCode, Bytes), Error> {
    let broken = |error: String| Error::Usage(format!("the control plane does not answer: {error}"));
    let stream = UnixStream::connect(socket).await.map_err(|error| broken(error.to_string()))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.to_string()))?;
    // How it ends shows in the answer.
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_static(path);
    request.headers_mut().insert(HOST, HeaderValue::from_static("control-plane"));
    let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
    Ok((status, body.map_err(|error| broken(error.to_string()))?.to_bytes()))
}
