//! Small messages that several of Istio's kinds share.

use serde::{Deserialize, Serialize};

/// How a string of a request is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "StringMatchFields", into = "StringMatchFields")]
pub enum StringMatch {
    /// `{}`: whatever its value is, it only has to be there (headers and query parameters).
    #[default]
    Present,
    /// The whole string, byte for byte.
    Exact(String),
    /// The string begins so.
    Prefix(String),
    /// The whole string matches this RE2 expression.
    Regex(String),
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename = "StringMatch")]
struct StringMatchFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
}

impl TryFrom<StringMatchFields> for StringMatch {
    type Error = String;

    fn try_from(fields: StringMatchFields) -> Result<Self, String> {
        let StringMatchFields { exact, prefix, regex } = fields;
        match (exact, prefix, regex) {
            (None, None, None) => Ok(Self::Present),
            (Some(text), None, None) => Ok(Self::Exact(text)),
            (None, Some(text), None) => Ok(Self::Prefix(text)),
            (None, None, Some(text)) => Ok(Self::Regex(text)),
            _ => Err("only one of exact, prefix, regex may be set".to_owned()),
        }
    }
}

impl From<StringMatch> for StringMatchFields {
    fn from(value: StringMatch) -> Self {
        let mut fields = Self::default();
        match value {
            StringMatch::Present => {}
            StringMatch::Exact(text) => fields.exact = Some(text),
            StringMatch::Prefix(text) => fields.prefix = Some(text),
            StringMatch::Regex(text) => fields.regex = Some(text),
        }
        fields
    }
}

/// A share in percent, `0.0` to `100.0`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Percent {
    /// 100.0 is all of it.
    pub value: f64,
}

/// A port of a service by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortSelector {
    /// 1 to 65535.
    pub number: u32,
}
