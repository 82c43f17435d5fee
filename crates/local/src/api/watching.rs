//! Watches: events of one kind as JSON lines, from a revision on.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use lateen_galley::Kind;
use lateen_galley::store::{Event, EventKind, Filter, Watch};
use serde_json::{Value, json};
use std::collections::VecDeque;
use tokio::time::{Instant, sleep_until};

use super::path::ObjectPath;
use super::request::Call;
use super::selector::Selector;
use super::serve::Body;
use super::status::Refusal;
use super::{Server, objects, table};

/// A watch that nothing happens to says this soon how far it is, if the client wants bookmarks and the cluster has gone on: who
/// watches several kinds knows by that what it has seen all of.
const BOOKMARK_SOON: Duration = Duration::from_millis(5);
/// And this often in any case.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts unless the client says; Kubernetes takes 30 minutes and up to as much again.
const LASTS: Duration = Duration::from_secs(30 * 60);

/// Starts a watch.
pub fn watch(server: &Server, kind: Kind, path: &ObjectPath, call: &Call) -> Result<Response<Body>, Refusal> {
    let selector = objects::selector(call)?;
    let store = server.admission.store();
    let asked = call.query("resourceVersion");
    let from: u64 = match asked {
        "" => 0,
        text => text.parse().map_err(|_| Refusal::BadRequest(format!("resourceVersion: {text:?} is no revision")))?,
    };
    let initial_asked = call.flag("sendInitialEvents");
    let mut lines = VecDeque::new();
    let mut view = View {
        kind,
        group: path.group.clone(),
        version: path.version.clone(),
        resource: path.resource.clone(),
        table: call.wants_table(),
        headers_sent: false,
        selector,
    };
    let filter = Filter { kind: Some(kind), namespace: path.namespace.clone(), name: path.name.clone() };
    let from = if from == 0 || initial_asked {
        let snapshot = store.snapshot();
        for object in objects::selected(&snapshot, kind, path, &view.selector) {
            lines.push_back(view.line("ADDED", object.to_json(&path.version)));
        }
        if initial_asked {
            lines.push_back(view.bookmark(snapshot.revision(), true));
        }
        snapshot.revision()
    } else {
        from
    };
    let mut watch = store.watch(from, filter);
    // What is too old is told before the watch begins.
    if let Some(event) = watch.try_next().map_err(|expired| Refusal::Expired(expired.to_string()))? {
        lines.extend(view.event(&event));
    }
    let lasts = match call.query("timeoutSeconds") {
        "" => LASTS + LASTS.mul_f64(rand::random::<f64>()),
        seconds => Duration::from_secs(
            seconds.parse().map_err(|_| Refusal::BadRequest(format!("timeoutSeconds: {seconds:?} is no number")))?,
        ),
    };
    // A client that asks for more than the longest watch gets that one.
    let lasts = lasts.min(2 * LASTS);
    let following = Following {
        watch,
        view,
        lines,
        ends: Instant::now() + lasts,
        bookmarks: call.flag("allowWatchBookmarks"),
        told: from,
        due: None,
        over: false,
    };
    let frames = stream::unfold(following, |mut following| async move {
        let line = following.next().await?;
        Some((Ok(Frame::data(line)), following))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(frames))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// How events look to this watcher.
struct View {
    kind: Kind,
    group: String,
    version: String,
    resource: String,
    table: bool,
    headers_sent: bool,
    selector: Selector,
}

struct Following {
    watch: Watch,
    view: View,
    lines: VecDeque<Bytes>,
    ends: Instant,
    bookmarks: bool,
    /// The revision the client was told last, and when it is to be told how far this is.
    told: u64,
    due: Option<Instant>,
    over: bool,
}

impl Following {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            if !self.bookmarks || self.watch.revision() <= self.told {
                self.due = None;
            } else {
                self.due = self.due.or(Some(Instant::now() + BOOKMARK_SOON));
            }
            let bookmark = self.due.unwrap_or_else(|| Instant::now() + BOOKMARK_EVERY);
            tokio::select! {
                () = sleep_until(self.ends) => {
                    self.over = true;
                    self.tell_revision();
                }
                () = sleep_until(bookmark) => self.tell_revision(),
                event = self.watch.progress() => match event {
                    Ok(Some(event)) => {
                        if let Some(line) = self.view.event(&event) {
                            self.told = event.revision;
                            self.lines.push_back(line);
                        }
                    }
                    Ok(None) => {}
                    Err(expired) => {
                        self.over = true;
                        let status = Refusal::Expired(expired.to_string()).object();
                        self.lines.push_back(line(&json!({"type": "ERROR", "object": status})));
                    }
                },
            }
        }
    }

    fn tell_revision(&mut self) {
        if self.bookmarks {
            self.told = self.watch.revision();
            self.lines.push_back(self.view.bookmark(self.told, false));
        }
    }
}

impl View {
    /// An event as this watcher sees it: an object that begins or ceases to be selected comes or goes.
    fn event(&mut self, event: &Event) -> Option<Bytes> {
        let now = event.kind != EventKind::Deleted && self.selector.matches(event.object.raw());
        let before = match event.kind {
            EventKind::Added => false,
            EventKind::Modified => {
                event.previous.as_ref().is_some_and(|previous| self.selector.matches(previous.raw()))
            }
            EventKind::Deleted => self.selector.matches(event.previous.as_ref().unwrap_or(&event.object).raw()),
        };
        let kind = match (before, now) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(self.line(kind, event.object.to_json(&self.version)))
    }

    fn line(&mut self, kind: &str, object: Value) -> Bytes {
        let object = if self.table {
            let headers = !std::mem::replace(&mut self.headers_sent, true);
            let revision =
                object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
            table::render(&self.group, &self.resource, &[object], &revision, headers, crate::clock::now())
        } else {
            object
        };
        line(&json!({"type": kind, "object": object}))
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let info = self.kind.info();
        let mut object = json!({
            "kind": info.name, "apiVersion": info.api_version_in(&self.version),
            "metadata": {"resourceVersion": revision.to_string()},
        });
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        if let Some(metadata) = metadata.filter(|_| initial_end) {
            metadata.insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
        }
        line(&json!({"type": "BOOKMARK", "object": object}))
    }
}

fn line(event: &Value) -> Bytes {
    let mut text = event.to_string();
    text.push('\n');
    Bytes::from(text)
}
