//! Kubernetes' label selectors, by which the mesh's settings choose namespaces.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::validate::Findings;

/// Labels that an object must have; without any, every object is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    /// Keys and values that it has.
    pub match_labels: BTreeMap<String, String>,
    /// All of these hold, too.
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// What holds of one label.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelectorRequirement {
    /// The label's key.
    pub key: String,
    /// What holds of its value.
    pub operator: LabelSelectorOperator,
    /// The values of `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// What can hold of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum LabelSelectorOperator {
    /// It is there, with one of the values.
    In,
    /// It has none of the values, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether it chooses an object with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }

    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        for (index, requirement) in self.match_expressions.iter().enumerate() {
            let at = format!("{at}.matchExpressions[{index}]");
            let of_values = matches!(requirement.operator, LabelSelectorOperator::In | LabelSelectorOperator::NotIn);
            if of_values == requirement.values.is_empty() {
                let message = if of_values { "must be given" } else { "can be given with In and NotIn alone" };
                findings.error(format!("{at}.values"), message);
            }
        }
    }
}

impl LabelSelectorRequirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelSelectorOperator::In => listed,
            LabelSelectorOperator::NotIn => !listed,
            LabelSelectorOperator::Exists => value.is_some(),
            LabelSelectorOperator::DoesNotExist => value.is_none(),
        }
    }
}
