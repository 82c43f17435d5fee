//! Header edits of routes, virtual hosts and weighted clusters (Envoy's `HeaderValueOption` and removal lists).

use std::sync::Arc;

use crate::format::{Facts, Format};
use crate::headers::Headers;

/// Edits in order: removals first, then additions, as Envoy does.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdits {
    /// Lower-case names removed.
    pub remove: Vec<Arc<str>>,
    /// Fields added or set.
    pub add: Vec<HeaderAdd>,
}

/// One field added or set.
#[derive(Debug, Clone)]
pub struct HeaderAdd {
    /// Lower-case name.
    pub name: Arc<str>,
    /// Value; operators without a value give an empty string.
    pub value: Format,
    /// What happens when the field is there already.
    pub action: AddAction,
    /// Add the field even when its value is empty.
    pub keep_empty: bool,
}

/// Envoy's `HeaderAppendAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddAction {
    /// Add another field.
    #[default]
    AppendIfExistsOrAdd,
    /// Add only if the field is not there.
    AddIfAbsent,
    /// Replace what is there, else add.
    OverwriteIfExistsOrAdd,
    /// Replace what is there, else do nothing.
    OverwriteIfExists,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// The values to add, worked out before any header changes, so that edits do not see each other.
    pub fn values(&self, facts: Facts<'_>) -> Vec<String> {
        self.add
            .iter()
            .map(|a| match a.value.as_text() {
                Some(text) => text.to_owned(),
                None => {
                    let mut value = String::new();
                    a.value.render(facts, "", &mut value);
                    // A value from one header may not break out of another.
                    value.retain(|c| c != '\r' && c != '\n' && c != '\0');
                    value
                }
            })
            .collect()
    }

    /// Carries the edits out with the values from [`HeaderEdits::values`].
    pub fn apply(&self, headers: &mut Headers, values: &[String]) {
        for name in &self.remove {
            headers.remove(name);
        }
        // As Envoy: what depends on a field being there is decided first, then fields are replaced, then added.
        let mut added = Vec::new();
        let mut replaced = Vec::new();
        for (add, value) in self.add.iter().zip(values).filter(|(add, value)| add.keep_empty || !value.is_empty()) {
            match add.action {
                AddAction::AppendIfExistsOrAdd => added.push((add, value)),
                AddAction::AddIfAbsent if headers.contains(&add.name) => {}
                AddAction::AddIfAbsent => added.push((add, value)),
                AddAction::OverwriteIfExists if !headers.contains(&add.name) => {}
                AddAction::OverwriteIfExists | AddAction::OverwriteIfExistsOrAdd => replaced.push((add, value)),
            }
        }
        for (add, value) in replaced {
            headers.remove(&add.name);
            headers.append(&*add.name, value);
        }
        for (add, value) in added {
            headers.append(&*add.name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(action: AddAction, value: &str) -> Vec<String> {
        let edits = HeaderEdits {
            remove: vec!["gone".into()],
            add: vec![HeaderAdd { name: "x".into(), value: Format::text(value), action, keep_empty: false }],
        };
        let mut headers: Headers = [("x", "1"), ("gone", "2")].into_iter().collect();
        edits.apply(&mut headers, &[value.to_owned()]);
        headers.iter().map(|(n, v)| format!("{n}={}", String::from_utf8_lossy(v))).collect()
    }

    #[test]
    fn actions_differ_when_the_field_is_there() {
        assert_eq!(edit(AddAction::AppendIfExistsOrAdd, "2"), ["x=1", "x=2"]);
        assert_eq!(edit(AddAction::AddIfAbsent, "2"), ["x=1"]);
        assert_eq!(edit(AddAction::OverwriteIfExistsOrAdd, "2"), ["x=2"]);
        assert_eq!(edit(AddAction::OverwriteIfExists, "2"), ["x=2"]);
        assert_eq!(edit(AddAction::AppendIfExistsOrAdd, ""), ["x=1"]);
    }
}
