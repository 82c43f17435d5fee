//! Where in a document something is.

use std::fmt;

use serde_json::Value;

/// A place, kept on the stack while decoding goes down.
pub(super) enum Place<'a> {
    Root,
    Field(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

/// One step of a place that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Field(String),
    Index(usize),
}

impl Place<'_> {
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut place = self;
        loop {
            match place {
                Place::Root => break,
                Place::Field(parent, name) => {
                    steps.push(Step::Field((*name).to_owned()));
                    place = parent;
                }
                Place::Index(parent, index) => {
                    steps.push(Step::Index(*index));
                    place = parent;
                }
            }
        }
        steps.reverse();
        steps
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(&self.steps()))
    }
}

/// `spec.http[0].headers["x.y"].exact`
pub(super) fn show(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Field(name) if is_plain(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Field(name) => text.push_str(&format!("[{name:?}]")),
        }
    }
    text
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Puts `null` at the place, if there is such a place.
pub(super) fn blank(mut value: &mut Value, steps: &[Step]) {
    for step in steps {
        let inner = match (value, step) {
            (Value::Object(fields), Step::Field(name)) => fields.get_mut(name),
            (Value::Array(items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        };
        let Some(inner) = inner else { return };
        value = inner;
    }
    *value = Value::Null;
}
