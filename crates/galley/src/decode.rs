//! Bytes to objects, saying of everything that is wrong where it is.

use std::sync::Arc;

use serde_json::Value;

use crate::beside;
use crate::kind::{self, LookupError};
use crate::object::{DecodeError, Object, subject_of};
use crate::problem::{FieldProblem, Origin, Problem, Problems, Subject};
use crate::yaml;

/// An object as somebody wrote it down, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The place.
    pub origin: Origin,
    /// What is written there.
    pub object: Object,
}

/// How manifests are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions<'a> {
    /// Namespace of objects that name none.
    pub namespace: &'a str,
    /// Whether objects that name another are refused, as `kubectl -n` does.
    pub only_that_namespace: bool,
}

impl Default for ReadOptions<'_> {
    fn default() -> Self {
        Self { namespace: "default", only_that_namespace: false }
    }
}

/// What a source holds: all that could be read, and all that could not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    /// In the order in which they are written.
    pub manifests: Vec<Manifest>,
    /// Whatever is wrong; empty when `manifests` is everything that is of the mesh.
    pub problems: Problems,
    /// Objects of kinds that are none of the mesh's, as warnings.
    pub passed_over: Vec<Problem>,
}

impl Manifests {
    /// The manifests, if nothing is wrong.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn complete(self) -> Result<Vec<Manifest>, Problems> {
        if self.problems.0.is_empty() { Ok(self.manifests) } else { Err(self.problems) }
    }
}

/// Reads a source: YAML documents or JSON, with `kind: List` taken apart.
/// Types are checked here, meaning is not: that is [`crate::validate`]'s, and the store does it for everything written to it.
pub fn read_manifests(source: &str, bytes: &[u8], options: ReadOptions<'_>) -> Manifests {
    let source: Arc<str> = source.into();
    let mut read = Manifests::default();
    let documents = match yaml::documents(bytes) {
        Ok(documents) => documents,
        Err(message) => {
            let field = FieldProblem::new("", format!("{source}: {message}"));
            read.problems.0.push(Problem { origin: None, subject: None, field });
            return read;
        }
    };
    for document in documents {
        let origin = Origin { source: source.clone(), document: document.number };
        match document.value {
            Err(message) => {
                let field = FieldProblem::new("", message);
                read.problems.0.push(Problem { origin: Some(origin), subject: None, field });
            }
            // Not for a cluster.
            Ok(value) if beside::is_beside(&value) => {}
            Ok(value) => {
                for item in items(value) {
                    read.one(&origin, item, options);
                }
            }
        }
    }
    read
}

/// Reads one object from the JSON of a request.
///
/// # Errors
/// The parser's words, or every field that is wrong.
pub fn read_json(bytes: &[u8]) -> Result<Object, DecodeError> {
    let value = yaml::json(bytes).map_err(|message| DecodeError::Fields {
        subject: Subject::default(),
        problems: vec![FieldProblem::new("", message)],
    })?;
    Object::decode(value)
}

/// The objects of a `List` or `…List`, or the object itself.
fn items(mut value: Value) -> Vec<Value> {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    let Some(of_kind) = kind.strip_suffix("List") else { return vec![value] };
    let of_kind = of_kind.to_owned();
    let api_version = value.get("apiVersion").cloned();
    let Some(Value::Array(mut items)) = value.get_mut("items").map(Value::take) else { return vec![value] };
    if !of_kind.is_empty() {
        // The items of a typed list need not repeat what they are.
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.entry("kind").or_insert_with(|| of_kind.clone().into());
            if let Some(api_version) = &api_version {
                item.entry("apiVersion").or_insert_with(|| api_version.clone());
            }
        }
    }
    items
}

impl Manifests {
    fn one(&mut self, origin: &Origin, mut value: Value, options: ReadOptions<'_>) {
        octal_file_modes(&mut value);
        if let Err(field) = settle_namespace(&mut value, options) {
            self.problem(origin, subject_of(&value), field);
            return;
        }
        match Object::decode(value) {
            Ok(object) => self.manifests.push(Manifest { origin: origin.clone(), object }),
            Err(DecodeError::Kind { subject, error }) if matches!(*error, LookupError::Foreign { .. }) => {
                let field = FieldProblem::new("", error.to_string());
                self.passed_over.push(Problem { origin: Some(origin.clone()), subject: Some(subject), field });
            }
            Err(DecodeError::Kind { subject, error }) => {
                self.problem(origin, subject, FieldProblem::new("", error.to_string()));
            }
            Err(DecodeError::Fields { subject, problems }) => {
                for field in problems {
                    self.problem(origin, subject.clone(), field);
                }
            }
        }
    }

    fn problem(&mut self, origin: &Origin, subject: Subject, field: FieldProblem) {
        self.problems.0.push(Problem { origin: Some(origin.clone()), subject: Some(subject), field });
    }
}

/// Kubernetes' tools read YAML 1.1, where `defaultMode: 0644` is an octal number; in YAML 1.2 it is text.
fn octal_file_modes(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(octal_file_modes),
        Value::Object(fields) => {
            for (name, value) in fields {
                let digits = value.as_str().filter(|text| text.len() > 1 && text.starts_with('0') && text.len() <= 5);
                let mode = digits.and_then(|text| u32::from_str_radix(text, 8).ok());
                match mode.filter(|_| name == "defaultMode" || name == "mode") {
                    Some(mode) => *value = mode.into(),
                    None => octal_file_modes(value),
                }
            }
        }
        _ => {}
    }
}

/// Fills in the namespace of an object that names none.
fn settle_namespace(value: &mut Value, options: ReadOptions<'_>) -> Result<(), FieldProblem> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    // An unknown kind and metadata of a wrong type are found by decoding.
    let Ok(kind) = kind::by_api_version(text("apiVersion"), text("kind")) else { return Ok(()) };
    let Some(Value::Object(metadata)) = value.get_mut("metadata") else { return Ok(()) };
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    let problem = |message: String| Err(FieldProblem::new("metadata.namespace", message));
    if !kind.info().namespaced {
        if !given.is_empty() {
            return problem(format!("a {kind} lives in no namespace"));
        }
    } else if given.is_empty() {
        if metadata.get("namespace").is_none_or(|namespace| namespace.is_null() || namespace.is_string()) {
            metadata.insert("namespace".to_owned(), options.namespace.into());
        }
    } else if options.only_that_namespace && given != options.namespace {
        return problem(format!("{given:?} is not the namespace asked for, {:?}", options.namespace));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
