//! Names, labels and annotations.

use super::{Findings, names};
use crate::kind::Kind;
use crate::object::Object;

/// Bytes of all annotations together.
const ANNOTATION_BYTES: usize = 256 << 10;

pub(super) fn check(object: &Object, findings: &mut Findings) {
    let metadata = object.metadata();
    let kind = object.kind();
    if object.name().is_empty() {
        findings.error("metadata.name", "required");
    } else {
        let form = match kind {
            Kind::Namespace | Kind::Gateway => names::label(object.name()),
            Kind::Service => names::service_name(object.name()),
            _ => names::subdomain(object.name()),
        };
        findings.check("metadata.name", form);
    }
    if kind.info().namespaced {
        if object.namespace().is_empty() {
            findings.error("metadata.namespace", "required");
        } else {
            findings.check("metadata.namespace", names::label(object.namespace()));
        }
    } else if metadata.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty()) {
        findings.error("metadata.namespace", format!("a {kind} lives in no namespace"));
    }
    for (name, value) in metadata.labels.iter().flatten() {
        findings.check("metadata.labels", names::qualified_name(name));
        findings.check(&format!("metadata.labels[{name:?}]"), names::label_value(value));
    }
    let mut bytes = 0;
    for (name, value) in metadata.annotations.iter().flatten() {
        findings.check("metadata.annotations", names::qualified_name(&name.to_ascii_lowercase()));
        bytes += name.len() + value.len();
    }
    if bytes > ANNOTATION_BYTES {
        findings.error("metadata.annotations", format!("{bytes} bytes are more than {ANNOTATION_BYTES}"));
    }
}
