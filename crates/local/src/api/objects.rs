//! Reading, listing, writing and deleting objects.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use lateen_galley::store::{self, Change, Done};
use lateen_galley::{Key, Kind, Object, Problem, ReadOptions, Snapshot, read_manifests};
use serde_json::{Value, json};

use super::path::ObjectPath;
use super::request::Call;
use super::selector::Selector;
use super::serve::{Body, json as answer, warn};
use super::status::{Cause, Refusal};
use super::{Server, patch, table};

/// How often a patch is tried while others write to the same object, as Kubernetes does.
const PATCH_ATTEMPTS: u32 = 5;

/// Carries a request out.
pub fn handle(server: &Server, kind: Kind, path: &ObjectPath, call: &Call) -> Result<Response<Body>, Refusal> {
    match (&call.method, &path.name) {
        (&Method::GET, Some(name)) => get(server, kind, path, name, call),
        (&Method::GET, None) => list(server, kind, path, call),
        (&Method::POST, None) => create(server, kind, path, call),
        (&Method::PUT, Some(name)) => replace(server, kind, path, name, call),
        (&Method::PATCH, Some(name)) => change(server, kind, path, name, call),
        (&Method::DELETE, Some(name)) => delete(server, kind, path, name, call),
        _ => Err(Refusal::MethodNotAllowed),
    }
}

/// What `labelSelector` and `fieldSelector` say.
pub fn selector(call: &Call) -> Result<Selector, Refusal> {
    Selector::parse(call.query("labelSelector"), call.query("fieldSelector"))
        .map_err(|error| Refusal::BadRequest(error.to_string()))
}

/// The objects a collection's path and selector mean.
pub fn selected<'a>(
    snapshot: &'a Snapshot,
    kind: Kind,
    path: &ObjectPath,
    selector: &Selector,
) -> Vec<&'a Arc<Object>> {
    let named = |object: &&Arc<Object>| path.name.as_deref().is_none_or(|name| name == object.name());
    let chosen = |object: &&Arc<Object>| selector.matches(object.raw());
    match &path.namespace {
        Some(namespace) => snapshot.objects_in(kind, namespace).filter(named).filter(chosen).collect(),
        None => snapshot.objects(kind).filter(named).filter(chosen).collect(),
    }
}

fn key(kind: Kind, path: &ObjectPath, name: &str) -> Key {
    Key::new(kind, path.namespace.clone().unwrap_or_default(), name)
}

/// The object a path names.
pub fn find(server: &Server, key: &Key) -> Result<Arc<Object>, Refusal> {
    server.admission.store().get(key).ok_or_else(|| not_found(key))
}

fn not_found(key: &Key) -> Refusal {
    Refusal::NotFound { resource: key.kind.info().full_name(), name: key.name.clone() }
}

fn get(server: &Server, kind: Kind, path: &ObjectPath, name: &str, call: &Call) -> Result<Response<Body>, Refusal> {
    let object = find(server, &key(kind, path, name))?.to_json(&path.version);
    Ok(answer(StatusCode::OK, &shown(path, object, call)))
}

/// An object as the client wants to see it.
fn shown(path: &ObjectPath, object: Value, call: &Call) -> Value {
    if !call.wants_table() {
        return object;
    }
    let revision = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    table::render(&path.group, &path.resource, &[object], &revision, true, crate::clock::now())
}

fn list(server: &Server, kind: Kind, path: &ObjectPath, call: &Call) -> Result<Response<Body>, Refusal> {
    let selector = selector(call)?;
    // Lists are always whole, so that nobody can hold a token to go on with.
    if !call.query("continue").is_empty() {
        return Err(Refusal::Expired("The provided continue parameter is too old; list again without it".to_owned()));
    }
    let snapshot = server.admission.store().snapshot();
    let objects = selected(&snapshot, kind, path, &selector);
    let objects: Vec<Value> = objects.into_iter().map(|object| object.to_json(&path.version)).collect();
    let revision = snapshot.revision().to_string();
    if call.wants_table() {
        let table = table::render(&path.group, &path.resource, &objects, &revision, true, crate::clock::now());
        return Ok(answer(StatusCode::OK, &table));
    }
    let info = kind.info();
    let list = json!({
        "kind": info.list_kind(), "apiVersion": info.api_version_in(&path.version),
        "metadata": {"resourceVersion": revision}, "items": objects,
    });
    Ok(answer(StatusCode::OK, &list))
}

fn create(server: &Server, kind: Kind, path: &ObjectPath, call: &Call) -> Result<Response<Body>, Refusal> {
    call.must_be_document()?;
    let object = document(kind, path, call)?;
    write(server, Change::Create(object), path, call)
}

fn replace(server: &Server, kind: Kind, path: &ObjectPath, name: &str, call: &Call) -> Result<Response<Body>, Refusal> {
    call.must_be_document()?;
    let object = document(kind, path, call)?;
    same_name(&object, name)?;
    write(server, update(path, object), path, call)
}

fn update(path: &ObjectPath, object: Object) -> Change {
    if path.subresource.is_some() { Change::UpdateStatus(object) } else { Change::Update(object) }
}

fn change(server: &Server, kind: Kind, path: &ObjectPath, name: &str, call: &Call) -> Result<Response<Body>, Refusal> {
    const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
                            application/strategic-merge-patch+json, application/apply-patch+yaml";
    if call.content_type() == "application/apply-patch+yaml" {
        let object = document(kind, path, call)?;
        same_name(&object, name)?;
        let change = if path.subresource.is_some() { Change::UpdateStatus(object) } else { Change::Upsert(object) };
        return write(server, change, path, call);
    }
    let patch: Value = serde_json::from_slice(&call.body)
        .map_err(|error| Refusal::BadRequest(format!("the patch is no JSON: {error}")))?;
    let conditional = patch.pointer("/metadata/resourceVersion").is_some();
    let mut attempts = if conditional { 1 } else { PATCH_ATTEMPTS };
    loop {
        let object = find(server, &key(kind, path, name))?;
        let mut changed = object.to_json(&path.version);
        match call.content_type() {
            "application/merge-patch+json" => patch::merge(&mut changed, &patch),
            "application/strategic-merge-patch+json" => patch::strategic(&mut changed, &patch),
            "application/json-patch+json" => {
                patch::json(&mut changed, &patch).map_err(|error| Refusal::BadRequest(error.to_string()))?;
            }
            _ => return Err(Refusal::UnsupportedMediaType { accepted: ACCEPTED }),
        }
        let changed = Object::decode(changed).map_err(|error| undecodable(kind, name, &error))?;
        same_name(&changed, name)?;
        attempts -= 1;
        match write(server, update(path, changed), path, call) {
            // Somebody wrote between our reading and our writing: the patch is for what is there now.
            Err(Refusal::Conflict { .. }) if attempts > 0 => {}
            written => return written,
        }
    }
}

fn delete(server: &Server, kind: Kind, path: &ObjectPath, name: &str, call: &Call) -> Result<Response<Body>, Refusal> {
    let key = key(kind, path, name);
    let options: Value = if call.body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&call.body).map_err(|error| Refusal::BadRequest(format!("DeleteOptions: {error}")))?
    };
    let object = find(server, &key)?;
    let text = |pointer: &str| options.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let grace = match call.query("gracePeriodSeconds") {
        "" => options.get("gracePeriodSeconds").and_then(Value::as_u64),
        seconds => Some(
            seconds
                .parse()
                .map_err(|_| Refusal::BadRequest(format!("gracePeriodSeconds: {seconds:?} is no number")))?,
        ),
    };
    let dry = call.dry_run()? || options.get("dryRun").is_some_and(|dry| dry == &json!(["All"]));
    if let (Some(kubelet), Some(grace), false) = (&server.kubelet, grace.filter(|_| kind == Kind::Pod), dry) {
        kubelet.limit_grace(object.uid(), grace);
    }
    if text("/propagationPolicy").as_deref() == Some("Orphan") || call.query("propagationPolicy") == "Orphan" {
        return Err(Refusal::BadRequest("propagationPolicy: \"Orphan\" is not supported".to_owned()));
    }
    let revision = match text("/preconditions/resourceVersion") {
        Some(text) => {
            Some(text.parse().map_err(|_| Refusal::BadRequest(format!("preconditions: {text:?} is no revision")))?)
        }
        None => None,
    };
    if !dry {
        let change = Change::Delete { key: key.clone(), uid: text("/preconditions/uid"), revision };
        let (outcome, _) = server.admission.write(change).map_err(refusal)?;
        if outcome.object.metadata().deletion_timestamp.is_some() {
            return Ok(answer(StatusCode::OK, &outcome.object.to_json(&path.version)));
        }
    }
    let info = kind.info();
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": name, "group": info.group, "kind": info.plural, "uid": object.uid()},
    });
    Ok(answer(StatusCode::OK, &status))
}

/// The one object a body holds, in the namespace of the path.
fn document(kind: Kind, path: &ObjectPath, call: &Call) -> Result<Object, Refusal> {
    let namespace = path.namespace.clone().unwrap_or_default();
    let options = ReadOptions { namespace: &namespace, only_that_namespace: !namespace.is_empty() };
    let read = read_manifests("the request", &call.body, options);
    if let Some(first) = read.problems.0.first() {
        let name = path.name.clone().or_else(|| Some(first.subject.as_ref()?.name.clone())).unwrap_or_default();
        let causes = read.problems.0.iter().map(cause).collect();
        return Err(Refusal::Invalid { kind: full_kind(kind), name, causes });
    }
    let mut manifests = read.manifests.into_iter();
    let (Some(manifest), None) = (manifests.next(), manifests.next()) else {
        return Err(Refusal::BadRequest("the body must hold one object".to_owned()));
    };
    let object = manifest.object;
    if object.kind() != kind {
        let message = format!("the body is a {}, the path is for a {}", object.kind().name(), kind.name());
        return Err(Refusal::BadRequest(message));
    }
    Ok(object)
}

fn cause(problem: &Problem) -> Cause {
    Cause { field: problem.field.path.clone(), message: problem.field.message.clone() }
}

fn full_kind(kind: Kind) -> String {
    let info = kind.info();
    if info.group.is_empty() { info.name.to_owned() } else { format!("{}.{}", info.name, info.group) }
}

fn same_name(object: &Object, name: &str) -> Result<(), Refusal> {
    if object.name() == name {
        return Ok(());
    }
    let message = format!(
        "the name of the object ({}) does not match the name on the URL ({name})",
        if object.name().is_empty() { "none" } else { object.name() }
    );
    Err(Refusal::BadRequest(message))
}

fn write(server: &Server, change: Change, path: &ObjectPath, call: &Call) -> Result<Response<Body>, Refusal> {
    let written = if call.dry_run()? { server.admission.rehearse(change) } else { server.admission.write(change) };
    let (outcome, warnings) = written.map_err(refusal)?;
    let status = if outcome.done == Done::Created { StatusCode::CREATED } else { StatusCode::OK };
    let object = outcome.object.to_json(&path.version);
    let mut response = answer(status, &shown(path, object, call));
    warn(&mut response, warnings.iter());
    Ok(response)
}

fn undecodable(kind: Kind, name: &str, error: &lateen_galley::DecodeError) -> Refusal {
    let causes = match error {
        lateen_galley::DecodeError::Fields { problems, .. } => {
            let one = |problem: &lateen_galley::FieldProblem| Cause {
                field: problem.path.clone(),
                message: problem.message.clone(),
            };
            problems.iter().map(one).collect()
        }
        other => vec![Cause { field: String::new(), message: other.to_string() }],
    };
    Refusal::Invalid { kind: full_kind(kind), name: name.to_owned(), causes }
}

/// The store's refusals in the API's words.
fn refusal(refused: store::Refusal) -> Refusal {
    use store::Refusal as Store;
    let resource = |key: &Key| key.kind.info().full_name();
    match refused {
        Store::NotFound(key) => not_found(&key),
        Store::NoNamespace(key) => Refusal::NotFound { resource: "namespaces".to_owned(), name: key.namespace },
        Store::AlreadyExists(key) => Refusal::AlreadyExists { resource: resource(&key), name: key.name },
        Store::Conflict { key, .. } => Refusal::Conflict { resource: resource(&key), name: key.name },
        Store::Invalid { key, problems } => Refusal::Invalid {
            kind: full_kind(key.kind),
            name: key.name,
            causes: problems
                .into_iter()
                .map(|problem| Cause { field: problem.path, message: problem.message })
                .collect(),
        },
        Store::TooLarge { limit, .. } => Refusal::TooLarge { limit },
        full @ Store::Full { .. } => Refusal::Unavailable(full.to_string()),
    }
}
