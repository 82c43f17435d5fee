//! `labelSelector` and `fieldSelector` of list and watch requests.
//! Grammar: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>.

use serde_json::Value;

/// Which objects a request means; an empty one means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<(String, Requirement)>,
    fields: Vec<(Field, bool, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    Phase,
    Node,
    Type,
}

impl Field {
    fn pointer(self) -> &'static str {
        match self {
            Self::Name => "/metadata/name",
            Self::Namespace => "/metadata/namespace",
            Self::Phase => "/status/phase",
            Self::Node => "/spec/nodeName",
            Self::Type => "/type",
        }
    }
}

/// A selector that cannot be understood, told as the API server tells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The label selector's text is no selector.
    #[error("unable to parse requirement: {0:?} is not a label requirement")]
    Label(String),
    /// The field selector's text is no selector.
    #[error("invalid field selector: {0:?} is not of the form field=value or field!=value")]
    Field(String),
    /// Objects cannot be selected by that field.
    #[error("field label not supported: {0}")]
    Unsupported(String),
}

impl Selector {
    /// Reads both selectors.
    ///
    /// # Errors
    /// When a part cannot be understood or a field cannot be selected by.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, SelectorError> {
        let labels = split_outside_parentheses(labels)
            .into_iter()
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| parse_label(part).ok_or_else(|| SelectorError::Label(part.to_owned())))
            .collect::<Result<_, _>>()?;
        let fields = fields
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(parse_field)
            .collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    /// Whether this object is meant.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        let label = |key: &str| labels?.get(key)?.as_str();
        self.labels.iter().all(|(key, requirement)| match (requirement, label(key)) {
            (Requirement::Exists, value) => value.is_some(),
            (Requirement::Absent, value) => value.is_none(),
            (Requirement::In(values), Some(value)) => values.iter().any(|wanted| wanted == value),
            (Requirement::In(_), None) => false,
            (Requirement::NotIn(values), Some(value)) => values.iter().all(|unwanted| unwanted != value),
            (Requirement::NotIn(_), None) => true,
        }) && self.fields.iter().all(|(field, equal, wanted)| {
            let value = object.pointer(field.pointer()).and_then(Value::as_str).unwrap_or_default();
            (value == wanted) == *equal
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, character) in text.char_indices() {
        match character {
            '(' => inside = true,
            ')' => inside = false,
            ',' if !inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_label(text: &str) -> Option<(String, Requirement)> {
    let key = |text: &str| {
        let text = text.trim();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        (!text.is_empty() && text.chars().all(fits)).then(|| text.to_owned())
    };
    let value = |text: &str| {
        let text = text.trim();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        text.chars().all(fits).then(|| text.to_owned())
    };
    if let Some((head, list)) = text.split_once('(') {
        let values: Vec<String> = list.trim_end().strip_suffix(')')?.split(',').map(value).collect::<Option<_>>()?;
        let (name, operator) = head.trim_end().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some((key(name)?, Requirement::In(values))),
            "notin" => Some((key(name)?, Requirement::NotIn(values))),
            _ => None,
        };
    }
    if let Some((name, unwanted)) = text.split_once("!=") {
        return Some((key(name)?, Requirement::NotIn(vec![value(unwanted)?])));
    }
    if let Some((name, wanted)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Some((key(name)?, Requirement::In(vec![value(wanted)?])));
    }
    match text.strip_prefix('!') {
        Some(name) => Some((key(name)?, Requirement::Absent)),
        None => Some((key(text)?, Requirement::Exists)),
    }
}

fn parse_field(text: &str) -> Result<(Field, bool, String), SelectorError> {
    let (name, equal, value) = if let Some((name, value)) = text.split_once("!=") {
        (name, false, value)
    } else if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (name, true, value)
    } else {
        return Err(SelectorError::Field(text.to_owned()));
    };
    let field = match name.trim() {
        "metadata.name" => Field::Name,
        "metadata.namespace" => Field::Namespace,
        "status.phase" => Field::Phase,
        "spec.nodeName" => Field::Node,
        "type" => Field::Type,
        other => return Err(SelectorError::Unsupported(other.to_owned())),
    };
    Ok((field, equal, value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn selects(labels: &str, fields: &str) -> bool {
        let object = json!({"metadata": {"name": "a", "namespace": "shop", "labels": {"app": "a", "tier": "web"}}});
        Selector::parse(labels, fields).unwrap().matches(&object)
    }

    #[test]
    fn labels_select_as_kubernetes_documents() {
        for yes in ["app=a", "app==a,tier", "app in (a, b)", "app notin (b),tier!=db", "none!=x", "!none", ""] {
            assert!(selects(yes, ""), "{yes}");
        }
        for no in ["app=b", "none", "!app", "app notin (a)", "none in (a)", "app=a,tier=db"] {
            assert!(!selects(no, ""), "{no}");
        }
        for wrong in ["a in b", "app in (a", "=x", "a b", "x like (y)", "a=b=c"] {
            assert!(Selector::parse(wrong, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn fields_select_by_name_and_namespace() {
        assert!(selects("", "metadata.name=a,metadata.namespace=shop"));
        assert!(!selects("", "metadata.name!=a"));
        assert_eq!(Selector::parse("", "spec.color=red"), Err(SelectorError::Unsupported("spec.color".to_owned())));
    }

    proptest! {
        #[test]
        fn no_text_panics(labels in ".{0,60}", fields in ".{0,60}") {
            let _ = Selector::parse(&labels, &fields);
        }
    }
}
