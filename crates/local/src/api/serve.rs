//! Connections, and which part of the API a request is for.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, WARNING};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use std::time::Duration;
use tokio::net::UnixListener;

use super::path::{self, ObjectPath, Route};
use super::request::{BODY_LIMIT, Call};
use super::status::Refusal;
use super::{Server, authentication, batch, discovery, exec, logs, objects, openapi, tunnel, watching};
use crate::tokens::Tokens;
use lateen_galley::Kind;

/// Time a client has to send a request's head.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// A response's body: whole, or piece by piece.
pub type Body = BoxBody<Bytes, Infallible>;

/// Serves connections until the listener breaks or the future is dropped; connections made before go on
/// as long as the runtime does.
///
/// # Errors
/// When the listener cannot accept any more.
pub async fn serve(listener: UnixListener, server: Server) -> io::Result<()> {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if crate::hosts::is_passing(&error) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let server = server.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(answer(&server, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the API ended badly");
            }
        });
    }
}

async fn answer(server: &Server, request: Request<Incoming>) -> Response<Body> {
    match route(server, request).await {
        Ok(response) => response,
        Err(refusal) => json(refusal.code(), &refusal.object()),
    }
}

async fn route(server: &Server, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    if request.method() == Method::CONNECT {
        return tunnel::connect(server, request).await;
    }
    if request.uri().path() == batch::PATH && request.method() == Method::POST {
        let (head, body) = request.into_parts();
        return batch::apply(server, head.uri.query().unwrap_or_default(), &head.headers, body).await;
    }
    let route = path::parse(request.uri().path()).ok_or(Refusal::NoSuchResource)?;
    let objects = match route {
        Route::Objects(objects) => objects,
        other => {
            if request.method() != Method::GET && request.method() != Method::HEAD {
                return Err(Refusal::MethodNotAllowed);
            }
            return about(server, &other).ok_or(Refusal::NoSuchResource);
        }
    };
    if objects.group == authentication::GROUP {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let call = Call::read(head.method, query, &head.headers, body, BODY_LIMIT).await?;
        return authentication::review(server, &objects, &call);
    }
    let kind = kind_of(&objects)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let call = Call::read(head.method, query, &head.headers, body, BODY_LIMIT).await?;
    match (kind, objects.subresource.as_deref()) {
        (_, None | Some("status")) if call.method == Method::GET && call.flag("watch") => {
            watching::watch(server, kind, &objects, &call)
        }
        (_, None | Some("status")) => objects::handle(server, kind, &objects, &call),
        (Kind::Pod, Some("log")) if call.method == Method::GET => logs::log(server, &objects, &call).await,
        (Kind::Pod, Some("exec")) => exec::exec(server, &objects, &call, &head.headers, upgrade).await,
        (Kind::ServiceAccount, Some("token")) => authentication::issue(server, &objects, &call),
        (Kind::Pod, Some("log")) => Err(Refusal::MethodNotAllowed),
        _ => Err(Refusal::NoSuchResource),
    }
}

fn about(server: &Server, route: &Route) -> Option<Response<Body>> {
    let value = match route {
        Route::Version => discovery::version(),
        Route::CoreVersions => discovery::core_versions(),
        Route::Groups => discovery::groups(),
        Route::Group(name) => discovery::group(name)?,
        Route::Resources { group, version } => discovery::resources(group, version)?,
        Route::Keys => server.tokens.jwks(),
        Route::OpenId => Tokens::configuration(),
        Route::OpenApi => openapi::index(),
        Route::OpenApiOf { group, version } => openapi::of(group, version)?,
        Route::Health => return Some(text("ok")),
        Route::Objects(_) => return None,
    };
    Some(json(StatusCode::OK, &value))
}

fn kind_of(path: &ObjectPath) -> Result<Kind, Refusal> {
    let kind =
        lateen_galley::kind::by_path(&path.group, &path.version, &path.resource).ok_or(Refusal::NoSuchResource)?;
    let info = kind.info();
    let misplaced = path.namespace.is_some() != info.namespaced && (path.name.is_some() || path.namespace.is_some());
    let without_status = path.subresource.as_deref() == Some("status") && !info.has_status;
    if misplaced || without_status { Err(Refusal::NoSuchResource) } else { Ok(kind) }
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A plain text answer.
fn text(text: &'static str) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A body that is there at once.
pub fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).boxed()
}

/// Adds warnings, which clients show to people (RFC 7234 5.5, code 299 as Kubernetes uses it).
pub fn warn<'a>(response: &mut Response<Body>, warnings: impl Iterator<Item = &'a lateen_galley::Problem>) {
    for warning in warnings {
        let quoted: String = warning
            .to_string()
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
