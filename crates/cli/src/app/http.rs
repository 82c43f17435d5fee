//! Answers to HTTP requests.
//!
//! `/ready` is answered 200 at once. A service that says who may pass does nothing else; else `/echo` sends the request's body back as it comes, `/ws` is a WebSocket echo, gRPC requests are known by their
//! content type, everything else is told what was seen of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};

use super::authorize::{self, Decision};
use super::body::Body;
use super::json::Object;
use super::{Behaviour, Identity, Service, call, grpc, tls, websocket};

/// Tells which version answered without reading the body.
const X_VERSION: HeaderName = HeaderName::from_static("x-version");
/// Where readiness is asked.
pub(super) const READY: &str = "/ready";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers one request.
pub async fn answer(service: Arc<Service>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    // Whoever asks whether the service is ready does not ask how it behaves.
    if request.uri().path() == READY {
        return Ok(respond(&service, StatusCode::OK, Body::empty()));
    }
    if let Some(rule) = &service.allow_if {
        let said = request.headers().get(rule.name()).map(HeaderValue::as_bytes);
        return Ok(decision(&service, rule.decide(said)));
    }
    let behaviour = match request.uri().query().map(|query| service.behaviour.overridden(query)) {
        None => service.behaviour,
        Some(Ok(behaviour)) => behaviour,
        Some(Err(reason)) => return Ok(refusal(&service, &reason)),
    };
    if grpc::is_grpc(request.headers()) {
        return Ok(grpc::answer(service, behaviour, request).await);
    }
    if request.uri().path() == "/ws" && websocket::is_asked_for(&request) {
        return Ok(websocket::answer(request));
    }
    let (parts, body) = request.into_parts();
    if parts.uri.path() == "/echo" {
        return Ok(echo(&service, behaviour, &parts, body).await);
    }
    let received = receive(body).await;
    Ok(report(&service, behaviour, &parts, received).await)
}

/// What came after a request's head.
struct Received {
    /// Length of the body in bytes.
    length: u64,
    trailers: Option<HeaderMap>,
    /// The client broke off.
    broken: bool,
}

/// What is told of a request.
pub(super) struct Seen<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub host: &'a str,
    pub protocol: &'a str,
    pub body_bytes: u64,
    /// The server that the client asked for, if it came by TLS.
    pub server_name: Option<&'a str>,
}

impl Seen<'_> {
    /// The beginning of an answer, which is to be `size` bytes long at least.
    pub fn tell<'a>(
        &self,
        identity: &Identity,
        call: u64,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        size: usize,
    ) -> Object {
        let mut seen = Object::with_capacity(768 + size);
        seen.string("pod", &identity.pod);
        seen.string("version", &identity.version);
        seen.number("call", call);
        seen.string("method", self.method);
        seen.string("path", self.path);
        if let Some(query) = self.query {
            seen.string("query", query);
        }
        seen.string("host", self.host);
        seen.string("protocol", self.protocol);
        seen.headers("headers", headers);
        seen.number("body_bytes", self.body_bytes);
        if let Some(server_name) = self.server_name {
            let mut tls = Object::with_capacity(64);
            tls.string("server_name", server_name);
            seen.json("tls", &tls.finish(0));
        }
        seen
    }
}

fn fields(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
}

async fn receive(mut body: Incoming) -> Received {
    let mut received = Received { length: 0, trailers: None, broken: false };
    if body.is_end_stream() {
        return received;
    }
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => received.length += data.len() as u64,
            Ok(Err(frame)) => received.trailers = frame.into_trailers().ok(),
            Err(_) => {
                received.broken = true;
                break;
            }
        }
    }
    received
}

async fn wait(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

async fn report(service: &Service, behaviour: Behaviour, parts: &Parts, received: Received) -> Response<Body> {
    wait(behaviour.delay).await;
    let seen = Seen {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        host: host(parts),
        protocol: protocol(parts.version),
        body_bytes: received.length,
        server_name: parts.extensions.get::<tls::Said>().map(|said| &*said.server_name),
    };
    let mut seen = seen.tell(&service.identity, service.next_call(), fields(&parts.headers), behaviour.size);
    if let Some(trailers) = &received.trailers {
        seen.headers("trailers", fields(trailers));
    }
    if !service.calls.is_empty() {
        let mut answers = Vec::with_capacity(service.calls.len());
        for url in &service.calls {
            answers.push(call::call(url, &parts.headers).await);
        }
        seen.json("calls", &format!("[{}]", answers.join(",")));
    }
    let status = if received.broken {
        StatusCode::BAD_REQUEST
    } else if behaviour.fails(rand::random::<f64>) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::from_u16(behaviour.status).unwrap_or(StatusCode::OK)
    };
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED) {
        return respond(service, status, Body::empty());
    }
    let mut response = respond(service, status, Bytes::from(seen.finish(behaviour.size)).into());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// Trailers are sent back too, to clients that say they take them.
async fn echo(service: &Service, behaviour: Behaviour, parts: &Parts, body: Incoming) -> Response<Body> {
    wait(behaviour.delay).await;
    service.next_call();
    let status = StatusCode::from_u16(behaviour.status).unwrap_or(StatusCode::OK);
    let mut response = respond(service, status, Body::Echo(body));
    for name in [header::CONTENT_TYPE, header::TRAILER] {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn decision(service: &Service, decision: Decision) -> Response<Body> {
    service.next_call();
    let status = StatusCode::from_u16(decision.status).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = respond(service, status, Bytes::from(decision.body).into());
    response.headers_mut().insert(authorize::RESULT, HeaderValue::from_static(decision.result));
    response
}

fn refusal(service: &Service, reason: &str) -> Response<Body> {
    let mut response = respond(service, StatusCode::BAD_REQUEST, Bytes::from(format!("{reason}\n")).into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn respond(service: &Service, status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(X_VERSION, service.version_header.clone());
    response
}

fn host(parts: &Parts) -> &str {
    match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(""),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
