//! Several objects at once, all of them or none, for `lateen apply`: Kubernetes' API has no path for that.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use lateen_galley::store::{Batch, Change, Done};
use lateen_galley::{DecodeError, FieldProblem, Object, Origin, Problem, Problems};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Server;
use super::request::Call;
use super::serve::{Body, json as answer};
use super::status::Refusal;

/// Where it is asked for, by POST.
pub const PATH: &str = "/lateen/batch";
/// The largest body, in bytes.
const BODY_LIMIT: usize = 64 << 20;

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    pub items: Vec<Written>,
}

/// An object that is to be, and where it is written down.
#[derive(Debug, Serialize, Deserialize)]
pub struct Written {
    pub source: String,
    pub document: usize,
    pub object: Value,
}

/// What was done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// One for each that was asked for, in their order.
    pub items: Vec<Made>,
    /// What was accepted and yet looks wrong.
    pub warnings: Vec<String>,
}

/// What became of one object.
#[derive(Debug, Serialize, Deserialize)]
pub struct Made {
    pub done: Done,
    pub object: Value,
}

/// Makes every object what is asked, or changes nothing.
pub async fn apply(
    server: &Server,
    query: &str,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    let call = Call::read(http::Method::POST, query, headers, body, BODY_LIMIT).await?;
    let asked: Asked =
        serde_json::from_slice(&call.body).map_err(|error| Refusal::BadRequest(format!("the batch: {error}")))?;
    let versions: Vec<String> = asked.items.iter().map(|written| version(&written.object)).collect();
    let batch = decode(asked).map_err(Refusal::Nothing)?;
    let admission = &server.admission;
    let committed = if call.dry_run()? { admission.rehearse_all(batch) } else { admission.commit(batch) };
    let committed = committed.map_err(|refused| Refusal::Nothing(refused.problems()))?;
    let items = committed.outcomes.iter().zip(&versions);
    let answered = Answer {
        items: items
            .map(|(outcome, version)| Made { done: outcome.done, object: outcome.object.to_json(version) })
            .collect(),
        warnings: committed.warnings.iter().map(ToString::to_string).collect(),
    };
    let answered = serde_json::to_value(&answered).map_err(|error| Refusal::Internal(error.to_string()))?;
    Ok(answer(StatusCode::OK, &answered))
}

/// The version an object is written in, without its group.
fn version(object: &Value) -> String {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    version.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The changes that are asked for.
fn decode(asked: Asked) -> Result<Batch, Problems> {
    let mut batch = Batch::new();
    let mut problems = Vec::new();
    for Written { source, document, object } in asked.items {
        let origin = Some(Origin { source: Arc::from(source), document });
        let mut wrong =
            |subject, field| problems.push(Problem { origin: origin.clone(), subject: Some(subject), field });
        match Object::decode(object) {
            Ok(object) if object.name().is_empty() => {
                wrong((&object.key()).into(), FieldProblem::new("metadata.name", "required"));
            }
            Ok(object) => batch.push((Change::Upsert(object), origin)),
            Err(DecodeError::Kind { subject, error }) => wrong(subject, FieldProblem::new("", error.to_string())),
            Err(DecodeError::Fields { subject, problems: fields }) => {
                fields.into_iter().for_each(|field| wrong(subject.clone(), field));
            }
        }
    }
    if problems.is_empty() { Ok(batch) } else { Err(Problems(problems)) }
}
