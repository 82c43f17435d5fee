//! `pods/log`.

use bytes::Bytes;
use futures::stream;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use lateen_galley::{Key, Kind, Object};

use super::path::ObjectPath;
use super::request::Call;
use super::serve::Body;
use super::status::Refusal;
use super::{Server, objects};
use crate::kubelet::{self, logs};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

/// Which container a request means: the one it names, or the pod's application.
pub fn container(object: &Object, asked: &str) -> Result<String, Refusal> {
    let pod = object.typed::<Pod>();
    let spec = pod.and_then(|pod| pod.spec.as_ref());
    let names: Vec<&str> = spec
        .into_iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
        .map(|container| container.name.as_str())
        .collect();
    if asked.is_empty() {
        let default = pod.and_then(kubelet::main_container);
        return default.map(str::to_owned).ok_or_else(|| Refusal::BadRequest("the pod has no container".to_owned()));
    }
    if names.contains(&asked) {
        return Ok(asked.to_owned());
    }
    let message =
        format!("container {asked} is not valid for pod {}: its containers are {}", object.name(), names.join(", "));
    Err(Refusal::BadRequest(message))
}

/// Answers with a container's log.
pub async fn log(server: &Server, path: &ObjectPath, call: &Call) -> Result<Response<Body>, Refusal> {
    let key = Key::new(Kind::Pod, path.namespace.clone().unwrap_or_default(), path.name.clone().unwrap_or_default());
    let pod = objects::find(server, &key)?;
    let kubelet = server.kubelet.as_ref().ok_or_else(|| Refusal::Unavailable("no pods run here".to_owned()))?;
    let container = container(&pod, call.query("container"))?;
    let previous = call.flag("previous");
    let timestamps = call.flag("timestamps");
    let tail = match call.query("tailLines") {
        "" => None,
        text => Some(text.parse().map_err(|_| Refusal::BadRequest(format!("tailLines: {text:?} is no number")))?),
    };
    let since = match (call.query("sinceSeconds"), call.query("sinceTime")) {
        ("", "") => None,
        ("", time) => Some(
            time.parse::<Timestamp>().map_err(|_| Refusal::BadRequest(format!("sinceTime: {time:?} is no time")))?,
        ),
        (text, _) => {
            let wrong = || Refusal::BadRequest(format!("sinceSeconds: {text:?} is no number"));
            let seconds: i64 = text.parse().map_err(|_| wrong())?;
            let then = crate::clock::now().as_second().saturating_sub(seconds);
            Some(Timestamp::from_second(then).map_err(|_| wrong())?)
        }
    };
    if !call.query("limitBytes").is_empty() {
        return Err(Refusal::BadRequest("limitBytes is not supported".to_owned()));
    }
    let mut reader = kubelet.logs().of(pod.uid(), &container).read(previous, call.flag("follow")).map_err(|_| {
        let what = if previous { "previous terminated container" } else { "container" };
        Refusal::BadRequest(format!("{what} \"{container}\" in pod \"{}\" has not started yet", pod.name()))
    })?;
    let stored = reader.now().map_err(|error| Refusal::Internal(format!("cannot read the log: {error}")))?;
    let stored = since.map_or(stored.as_slice(), |since| logs::since(&stored, since));
    let stored = tail.map_or(stored, |lines| logs::tail(stored, lines));
    let first = logs::plain(stored, timestamps);
    let pieces = stream::unfold((Some(first), reader), move |(first, mut reader)| async move {
        let piece = match first {
            Some(first) => first,
            None => logs::plain(&reader.more().await.ok()??, timestamps),
        };
        Some((Ok(Frame::data(Bytes::from(piece))), (None, reader)))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(pieces))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
