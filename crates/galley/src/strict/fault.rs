//! Why decoding stopped, and where.

use std::fmt;

use serde::de;
use serde_json::Value;

use super::place::{Place, Step};

/// A message; the place is filled in by the first that knows it on the way up.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) steps: Option<Vec<Step>>,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn at(mut self, place: &Place<'_>) -> Self {
        self.steps.get_or_insert_with(|| place.steps());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { steps: None, message: message.to_string() }
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match unexpected {
            de::Unexpected::Map => "an object".to_owned(),
            de::Unexpected::Seq => "a list".to_owned(),
            de::Unexpected::Unit => "nothing".to_owned(),
            other => other.to_string(),
        };
        Self::custom(format_args!("expected {}, found {found}", plainly(&expected.to_string())))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }
}

/// Kubernetes' name of a type in words.
fn plainly(expected: &str) -> &str {
    match expected {
        "IntOrString" => "a number or a string",
        "Quantity" => "a quantity such as 500m or 128Mi",
        other => other,
    }
}

/// A value as it is shown to the one who wrote it.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(number) => format!("{number}"),
        Value::String(text) if text.chars().count() > 40 => "a long string".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
