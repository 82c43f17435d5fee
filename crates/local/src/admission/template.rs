//! Whether the pods of a Deployment could be made: what is added to them must fit what they have. Told to whoever writes the
//! Deployment, since nobody reads what a controller is told.

use lateen_galley::{DecodeError, FieldProblem, Object, validate};
use serde_json::{Value, json};

use super::sidecar;

/// What is wrong with the template's pods only when they are completed; what is wrong before that, the store finds.
/// `namespace` is the namespace's object, if there is one.
pub fn problems(deployment: &Value, namespace: Option<&Value>) -> Vec<FieldProblem> {
    let at = |pointer| deployment.pointer(pointer).cloned().unwrap_or_default();
    let mut metadata = at("/spec/template/metadata");
    if !metadata.is_object() {
        metadata = json!({});
    }
    (metadata["name"], metadata["namespace"]) = (at("/metadata/name"), at("/metadata/namespace"));
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": at("/spec/template/spec")});
    let before = wrong(pod.clone());
    sidecar::complete_pod(&mut pod, namespace);
    let mut problems = wrong(pod);
    problems.retain(|problem| !before.contains(problem));
    for problem in &mut problems {
        problem.path = format!("spec.template.{}", problem.path);
        problem.message.push_str(", in the pods with what is added to them");
    }
    problems
}

fn wrong(pod: Value) -> Vec<FieldProblem> {
    match Object::decode(pod) {
        Ok(pod) => validate::object(&pod).errors,
        Err(DecodeError::Fields { problems, .. }) => problems,
        Err(other) => vec![FieldProblem::new("", other.to_string())],
    }
}
