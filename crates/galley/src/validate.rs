//! Whether an object that has the right types makes sense: as Kubernetes' API server and Istio's webhook check it.
//! Works on one object at a time; knows nothing of what else there is.

mod metadata;
mod names;

use crate::object::Object;
use crate::problem::FieldProblem;

/// What was found in one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What makes it unusable.
    pub errors: Vec<FieldProblem>,
    /// What looks like a mistake, and can be used.
    pub warnings: Vec<FieldProblem>,
}

impl Findings {
    pub(crate) fn error(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldProblem::new(path, message));
    }

    #[allow(dead_code)]
    pub(crate) fn warning(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(FieldProblem::new(path, message));
    }

    /// An error if the check fails.
    pub(crate) fn check(&mut self, path: &str, result: Result<(), String>) {
        if let Err(message) = result {
            self.error(path, message);
        }
    }
}

/// Checks an object.
pub fn object(object: &Object) -> Findings {
    let mut findings = Findings::default();
    metadata::check(object, &mut findings);
    findings
}

/// Checks what may not change between two states of one object.
pub fn change(_old: &Object, _new: &Object) -> Vec<FieldProblem> {
    Vec::new()
}
