//! Documents that lie beside manifests and are no objects of a cluster: traffic tests. A folder with an example in it
//! can be applied whole; who reads manifests passes these over, who runs tests passes over the rest.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::object::subject_of;
use crate::problem::{FieldProblem, Origin, Problem, Problems};
use crate::{strict, yaml};

/// The API group of such documents.
const GROUP: &str = "test.lateen.dev";

/// Whether a document lies beside the manifests.
pub fn is_beside(document: &Value) -> bool {
    let api_version = document.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    api_version.split_once('/').is_some_and(|(group, _)| group == GROUP)
}

/// Reads the documents of a source that lie beside the manifests, each as strictly as a manifest; `api_version` and
/// `kind` are what each must be.
///
/// # Errors
/// Everything that is wrong with any of them. Manifests, right or wrong, are no concern of this.
pub fn read_beside<T: for<'de> Deserialize<'de>>(
    source: &str,
    bytes: &[u8],
    api_version: &str,
    kind: &str,
) -> Result<Vec<(Origin, T)>, Problems> {
    let source: Arc<str> = source.into();
    // A source that cannot be read at all is told by whoever reads its manifests, and here when nobody does.
    let documents = yaml::documents(bytes).map_err(|message| {
        let field = FieldProblem::new("", format!("{source}: {message}"));
        Problems(vec![Problem { origin: None, subject: None, field }])
    })?;
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for document in documents {
        let origin = Origin { source: source.clone(), document: document.number };
        let value = match document.value {
            Ok(value) if is_beside(&value) => value,
            Ok(_) => continue,
            Err(message) => {
                let field = FieldProblem::new("", message);
                problems.push(Problem { origin: Some(origin), subject: None, field });
                continue;
            }
        };
        let subject = Some(subject_of(&value));
        let mut tell = |field| {
            problems.push(Problem { origin: Some(origin.clone()), subject: subject.clone(), field });
        };
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("apiVersion") != api_version || text("kind") != kind {
            let message =
                format!("{} of {} is not known; {kind} of {api_version} is", text("kind"), text("apiVersion"));
            tell(FieldProblem::new("kind", message));
            continue;
        }
        match strict::decode(&value) {
            Ok(decoded) => found.push((origin, decoded)),
            Err(fields) => fields.into_iter().for_each(tell),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(Problems(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ReadOptions, read_manifests};

    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    #[serde(rename_all = "camelCase")]
    struct Test {
        api_version: String,
        kind: String,
        spec: Spec,
    }

    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Spec {
        steps: Vec<String>,
    }

    const TEXT: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: test.lateen.dev/v1alpha1
kind: Test
spec: {steps: [one]}
";

    fn read(text: &str) -> Result<Vec<(Origin, Test)>, Problems> {
        read_beside("x.yaml", text.as_bytes(), "test.lateen.dev/v1alpha1", "Test")
    }

    #[test]
    fn each_reader_takes_its_own() {
        let manifests = read_manifests("x.yaml", TEXT.as_bytes(), ReadOptions::default()).complete().unwrap();
        assert_eq!(manifests.len(), 1);
        let tests = read(TEXT).unwrap();
        assert_eq!((tests.len(), tests[0].0.document), (1, 2));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let told = |text: &str| read(text).unwrap_err().to_string();
        assert!(
            told(&TEXT.replace("[one]", "[1]"))
                .starts_with("x.yaml, document 2, Test: spec.steps[0]: expected a string")
        );
        assert!(told(&TEXT.replace("steps:", "stps:")).contains("spec.stps: unknown field, did you mean \"steps\"?"));
        assert!(told(&TEXT.replace("kind: Test", "kind: Text")).contains("kind: Text of test.lateen.dev/v1alpha1"));
    }
}
