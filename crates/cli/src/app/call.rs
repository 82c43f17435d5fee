//! Calls to other services, whose answers become part of the service's own.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::json::Object;

/// Bytes of an answer that are taken.
const LONGEST_ANSWER: usize = 1 << 20;
/// How long one call may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// What is said of a call that took longer.
pub(super) const TOO_LATE: &str = "no answer in time";

/// Headers of a request that go along with the calls it causes: what ties a trace together, and what rules match on.
pub(super) const PASSED_ON: [HeaderName; 9] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("end-user"),
    HeaderName::from_static("x-user"),
    header::USER_AGENT,
    header::AUTHORIZATION,
    header::COOKIE,
];

/// Reads a URL to call.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn parse_url(text: &str) -> Result<Uri, String> {
    match text.parse::<Uri>() {
        Ok(uri) if uri.scheme_str() == Some("http") && uri.authority().is_some() => Ok(uri),
        _ => Err(format!("{text:?} is not a URL of the form http://HOST[:PORT][/PATH]")),
    }
}

/// What a call brought, as JSON: `url`, and `status` with `answer`, or `error`.
pub async fn call(url: &Uri, caused_by: &HeaderMap) -> String {
    let brought = tokio::time::timeout(PATIENCE, exchange(url, caused_by)).await;
    told(url, brought.unwrap_or_else(|_| Err(TOO_LATE.to_owned())))
}

/// The status and body a call brought, or why it brought none.
pub(super) fn told(url: &Uri, brought: Result<(u16, Bytes), String>) -> String {
    let mut seen = Object::with_capacity(512);
    seen.string("url", &url.to_string());
    match brought {
        Ok((status, body)) => {
            seen.number("status", status.into());
            match std::str::from_utf8(&body) {
                // Only whole JSON may stand in JSON.
                Ok(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
                    seen.json("answer", text.trim())
                }
                _ => seen.string("answer", &String::from_utf8_lossy(&body)),
            }
        }
        Err(error) => seen.string("error", &error),
    }
    seen.finish(0).trim_end().to_owned()
}

async fn exchange(url: &Uri, caused_by: &HeaderMap) -> Result<(u16, Bytes), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await.map_err(|error| words(&error))?;
    // Failing to say so only makes the call slower.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
    // How a connection ends shows in the answer.
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|error| words(&error))?;
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(|error| words(&error))?);
    for name in PASSED_ON {
        if let Some(value) = caused_by.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let response = sender.send_request(request).await.map_err(|error| words(&error))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await.map_err(|error| words(&error))?;
    Ok((status, body.to_bytes()))
}
