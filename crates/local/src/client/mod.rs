//! A small client of the Kubernetes API, over the unix socket that `lateen up` serves it at. Everything
//! here is what any Kubernetes client says; it knows no other door.

mod exec;
mod failure;
mod replicate;
mod watch;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus};
use lateen_galley::{Kind, Manifest};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::api::batch::{self, Answer, Asked, Written};
use crate::api::path::percent_encode;

pub use exec::{Exec, Streams};
pub use failure::{ClientError, Refused};
pub use replicate::replicate;
pub use watch::{Event, EventKind, Watch};

/// The largest answer read as one, in bytes.
const ANSWER_LIMIT: usize = 256 << 20;
/// Kubernetes' name for who applied something.
const FIELD_MANAGER: &str = "lateen";

/// The client; cheap to clone. Each request makes its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// Which objects a list means.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// One namespace; all of them if `None`.
    pub namespace: Option<String>,
    /// A label selector; empty for all.
    pub labels: String,
    /// A field selector; empty for all.
    pub fields: String,
}

/// What `kubectl logs` can be asked.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Which container; the pod's application if `None`.
    pub container: Option<String>,
    /// Go on as more comes.
    pub follow: bool,
    /// Of the run before the last restart.
    pub previous: bool,
    /// Only so many last lines.
    pub tail_lines: Option<u64>,
    /// Each line with its time.
    pub timestamps: bool,
}

/// What [`Client::apply`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The object as it is now.
    pub object: Value,
    /// Whether it is new.
    pub created: bool,
    /// Whether it is another than before.
    pub changed: bool,
    /// What was accepted and yet looks wrong.
    pub warnings: Vec<String>,
}

/// Log text as it comes.
#[derive(Debug)]
pub struct Log {
    body: Incoming,
}

impl Log {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(ClientError::broken)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Client {
    /// A client of the API at this socket. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// One object.
    ///
    /// # Errors
    /// A refusal (404 if it is not there), or a connection that fails; so for all methods.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Value, ClientError> {
        self.json(Method::GET, &object_path(kind, namespace, name), None).await
    }

    /// The list object of a kind, `items` and `metadata.resourceVersion` among its fields.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn list(&self, kind: Kind, selection: &Selection) -> Result<Value, ClientError> {
        self.json(Method::GET, &list_path(kind, selection), None).await
    }

    /// The table the server shows for a kind (`meta.k8s.io/v1` `Table`): of one object if named, else of a list.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn table(&self, kind: Kind, selection: &Selection, name: Option<&str>) -> Result<Value, ClientError> {
        let path = match name {
            Some(name) => object_path(kind, selection.namespace.as_deref().unwrap_or_default(), name),
            None => list_path(kind, selection),
        };
        let request = Request::get(path).header(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io");
        let (_, body) = self.answer(request, Bytes::new()).await?;
        parse(&body)
    }

    /// Makes an object what a manifest says, as `kubectl apply --server-side` does. An object without a
    /// namespace goes to `namespace`.
    ///
    /// # Errors
    /// As for [`Self::get`]; 422 with the fields that are wrong.
    pub async fn apply(&self, object: &Value, namespace: &str, dry_run: bool) -> Result<Applied, ClientError> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind_name, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let kind = lateen_galley::kind::by_api_version(api_version, kind_name).map_err(|error| {
            ClientError::Refused(Refused {
                code: 404,
                reason: "NotFound".to_owned(),
                message: error.to_string(),
                causes: Vec::new(),
            })
        })?;
        let given = text("/metadata/namespace");
        let namespace = if given.is_empty() { namespace } else { given };
        let before = match self.get(kind, namespace, name).await {
            Ok(before) => Some(before),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let version = api_version.rsplit('/').next().unwrap_or_default();
        let mut path = versioned_path(kind, version, Some(namespace), Some(name));
        path.push_str(&format!("?fieldManager={FIELD_MANAGER}&force=true"));
        if dry_run {
            path.push_str("&dryRun=All");
        }
        let request = Request::patch(path).header(header::CONTENT_TYPE, "application/apply-patch+yaml");
        let response = self.send(request, Bytes::from(object.to_string())).await?;
        let warnings = warnings(response.headers());
        let object: Value = parse(&read(response.into_body()).await?)?;
        let revision = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
        let changed = before.as_ref().and_then(revision) != revision(&object);
        Ok(Applied { created: before.is_none(), changed, object, warnings })
    }

    /// Makes objects what manifests say, each as [`Self::apply`] does: all of them, or none.
    ///
    /// # Errors
    /// As for [`Self::get`]; 422 with everything that is wrong in any of them.
    pub async fn apply_all(&self, manifests: &[Manifest], dry_run: bool) -> Result<Answer, ClientError> {
        let written = |Manifest { origin, object }: &Manifest| Written {
            source: origin.source.to_string(),
            document: origin.document,
            object: object.raw().clone(),
        };
        let asked = Asked { items: manifests.iter().map(written).collect() };
        let asked = serde_json::to_vec(&asked).map_err(ClientError::broken)?;
        let path = if dry_run { format!("{}?dryRun=All", batch::PATH) } else { batch::PATH.to_owned() };
        let (_, body) = self.answer(Request::post(path), Bytes::from(asked)).await?;
        serde_json::from_slice(&body).map_err(ClientError::broken)
    }

    /// Makes a new object.
    ///
    /// # Errors
    /// As for [`Self::get`]; 409 if it is there.
    pub async fn create(&self, kind: Kind, namespace: &str, object: &Value) -> Result<Value, ClientError> {
        let selection = Selection { namespace: Some(namespace.to_owned()), ..Selection::default() };
        self.json(Method::POST, &list_path(kind, &selection), Some(object)).await
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// As for [`Self::get`]; 409 if it has changed since the given one was read.
    pub async fn replace(&self, kind: Kind, namespace: &str, name: &str, object: &Value) -> Result<Value, ClientError> {
        self.json(Method::PUT, &object_path(kind, namespace, name), Some(object)).await
    }

    /// Changes an object by a JSON merge patch (RFC 7386).
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn merge_patch(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Value, ClientError> {
        let request = Request::patch(object_path(kind, namespace, name))
            .header(header::CONTENT_TYPE, "application/merge-patch+json");
        let (_, body) = self.answer(request, Bytes::from(patch.to_string())).await?;
        parse(&body)
    }

    /// The same of its status alone.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn patch_status(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Value, ClientError> {
        let request = Request::patch(object_path(kind, namespace, name) + "/status")
            .header(header::CONTENT_TYPE, "application/merge-patch+json");
        let (_, body) = self.answer(request, Bytes::from(patch.to_string())).await?;
        parse(&body)
    }

    /// Deletes an object. Pods end within their grace period, or the given one (seconds).
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        grace: Option<u32>,
    ) -> Result<Value, ClientError> {
        let mut path = object_path(kind, namespace, name);
        if let Some(seconds) = grace {
            path.push_str(&format!("?gracePeriodSeconds={seconds}"));
        }
        self.json(Method::DELETE, &path, None).await
    }

    /// Whose token it is, and for which of the audiences (`TokenReview`).
    ///
    /// # Errors
    /// As for [`Self::get`]. A token that is not accepted is no error: the review's status says so.
    pub async fn review_token(&self, token: &str, audiences: &[&str]) -> Result<TokenReviewStatus, ClientError> {
        let spec = serde_json::json!({"token": token, "audiences": audiences});
        let review = serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let reviewed: TokenReview =
            serde_json::from_value(self.json(Method::POST, path, Some(&review)).await?).map_err(ClientError::broken)?;
        Ok(reviewed.status.unwrap_or_default())
    }

    /// A token for a service account, as `kubectl create token` gets it (`TokenRequest`).
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn create_token(&self, namespace: &str, name: &str, audiences: &[&str]) -> Result<String, ClientError> {
        let path = format!("{}/token", object_path(Kind::ServiceAccount, namespace, name));
        let request = serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": audiences}});
        let answer = self.json(Method::POST, &path, Some(&request)).await?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        token.map(str::to_owned).ok_or_else(|| ClientError::broken("the answer has no token"))
    }

    /// What a container wrote.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn logs(&self, namespace: &str, pod: &str, options: &LogOptions) -> Result<Log, ClientError> {
        let mut path = format!("{}/log?", object_path(Kind::Pod, namespace, pod));
        path.push_str(&format!("follow={}&previous={}", options.follow, options.previous));
        if let Some(container) = &options.container {
            path.push_str(&format!("&container={}", percent_encode(container)));
        }
        if let Some(lines) = options.tail_lines {
            path.push_str(&format!("&tailLines={lines}"));
        }
        path.push_str(&format!("&timestamps={}", options.timestamps));
        let response = self.send(Request::get(path), Bytes::new()).await?;
        Ok(Log { body: response.into_body() })
    }

    /// Follows the changes of a kind from a revision on (that of a list).
    ///
    /// # Errors
    /// As for [`Self::get`]; 410 if that revision is no longer kept.
    pub async fn watch(&self, kind: Kind, selection: &Selection, revision: &str) -> Result<Watch, ClientError> {
        let mut path = list_path(kind, selection);
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(&format!("watch=true&allowWatchBookmarks=true&resourceVersion={}", percent_encode(revision)));
        let response = self.send(Request::get(path), Bytes::new()).await?;
        Ok(Watch::new(response.into_body()))
    }

    /// A connection to a port of a host of the cluster, through the cluster's own network; `None` if the host is none of the
    /// cluster's.
    ///
    /// # Errors
    /// When nobody takes the connection there, or the API is not reached.
    pub async fn tunnel(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Option<impl AsyncRead + AsyncWrite + Send + Unpin + use<>>, ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::broken)?;
        tokio::spawn(connection.with_upgrades());
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let request = Request::connect(format!("{host}:{port}")).header(header::HOST, format!("{host}:{port}"));
        let request = request.body(Full::new(Bytes::new())).map_err(ClientError::broken)?;
        let response = sender.send_request(request).await.map_err(ClientError::broken)?;
        let status = response.status();
        if status.is_success() {
            let upgraded = hyper::upgrade::on(response).await.map_err(ClientError::broken)?;
            return Ok(Some(TokioIo::new(upgraded)));
        }
        let body = read(response.into_body()).await?;
        if status == StatusCode::NOT_FOUND {
            Ok(None)
        } else {
            Err(ClientError::Refused(Refused::read(status.as_u16(), &body)))
        }
    }

    async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json");
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let (_, body) = self.answer(request, body).await?;
        parse(&body)
    }

    async fn answer(&self, request: http::request::Builder, body: Bytes) -> Result<(u16, Bytes), ClientError> {
        let response = self.send(request, body).await?;
        let code = response.status().as_u16();
        Ok((code, read(response.into_body()).await?))
    }

    /// Sends a request and refuses answers that are refusals.
    async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::broken)?;
        tokio::spawn(connection);
        let request = request.header(header::HOST, "localhost").body(Full::new(body)).map_err(ClientError::broken)?;
        let response = sender.send_request(request).await.map_err(ClientError::broken)?;
        if response.status().is_client_error() || response.status().is_server_error() {
            let code = response.status().as_u16();
            let body = read(response.into_body()).await?;
            return Err(ClientError::Refused(Refused::read(code, &body)));
        }
        Ok(response)
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let unreachable = |source| ClientError::Unreachable { socket: self.socket.clone(), source };
        UnixStream::connect(&self.socket).await.map_err(unreachable)
    }
}

async fn read(body: Incoming) -> Result<Bytes, ClientError> {
    let collected = Limited::new(body, ANSWER_LIMIT).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(ClientError::broken)
}

/// The texts of `299 - "TEXT"` warnings.
fn warnings(headers: &HeaderMap) -> Vec<String> {
    let texts = headers.get_all(header::WARNING).iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    let quoted = texts.filter_map(|text| text.strip_prefix("299 - \"")?.strip_suffix('"'));
    quoted.map(|text| text.replace("\\\"", "\"").replace("\\\\", "\\")).collect()
}

fn parse(body: &[u8]) -> Result<Value, ClientError> {
    serde_json::from_slice(body).map_err(ClientError::broken)
}

fn versioned_path(kind: Kind, version: &str, namespace: Option<&str>, name: Option<&str>) -> String {
    let info = kind.info();
    let mut path =
        if info.group.is_empty() { format!("/api/{version}") } else { format!("/apis/{}/{version}", info.group) };
    if let Some(namespace) = namespace.filter(|_| info.namespaced) {
        path.push_str(&format!("/namespaces/{}", percent_encode(namespace)));
    }
    path.push_str(&format!("/{}", info.plural));
    if let Some(name) = name {
        path.push_str(&format!("/{}", percent_encode(name)));
    }
    path
}

fn object_path(kind: Kind, namespace: &str, name: &str) -> String {
    versioned_path(kind, preferred_version(kind), Some(namespace), Some(name))
}

fn list_path(kind: Kind, selection: &Selection) -> String {
    let mut path = versioned_path(kind, preferred_version(kind), selection.namespace.as_deref(), None);
    let selectors = [("labelSelector", &selection.labels), ("fieldSelector", &selection.fields)];
    let mut separator = '?';
    for (key, selector) in selectors.into_iter().filter(|(_, selector)| !selector.is_empty()) {
        path.push_str(&format!("{separator}{key}={}", percent_encode(selector)));
        separator = '&';
    }
    path
}

fn preferred_version(kind: Kind) -> &'static str {
    kind.info().versions.first().copied().unwrap_or("v1")
}
