//! What becomes of fields that are not carried out: refusals with their path, and counted notes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Why a resource is refused: the path of the field, as in `filter_chains[0].filters[1].typed_config`, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Reject {
    path: String,
    reason: String,
}

impl Reject {
    /// A refusal of the message being read as a whole.
    pub fn new(reason: impl fmt::Display) -> Reject {
        Reject { path: String::new(), reason: reason.to_string() }
    }

    /// A refusal of one field.
    pub(crate) fn field(field: &str, reason: impl fmt::Display) -> Reject {
        Reject { path: field.to_owned(), reason: reason.to_string() }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    fn under(mut self, parent: &str) -> Reject {
        self.path = match self.path.as_str() {
            "" => parent.to_owned(),
            path if path.starts_with('[') => format!("{parent}{path}"),
            path => format!("{parent}.{path}"),
        };
        self
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

/// Puts the name of the enclosing field before a refusal's path.
pub(crate) trait At<T> {
    fn at(self, field: &str) -> Result<T, Reject>;
}

impl<T> At<T> for Result<T, Reject> {
    fn at(self, field: &str) -> Result<T, Reject> {
        self.map_err(|reject| reject.under(field))
    }
}

/// Converts each element of a list; refusals name the field and the position.
pub(crate) fn each<T, U>(
    field: &str,
    list: Vec<T>,
    mut convert: impl FnMut(T) -> Result<U, Reject>,
) -> Result<Vec<U>, Reject> {
    list.into_iter()
        .enumerate()
        .map(|(at, item)| convert(item).map_err(|reject| reject.under(&format!("[{at}]")).under(field)))
        .collect()
}

/// Fields that were set and are not carried out, with how often, by message and field (`Listener.stat_prefix`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    counts: BTreeMap<&'static str, u64>,
}

impl Notes {
    pub(crate) fn add(&mut self, field: &'static str) {
        *self.counts.entry(field).or_default() += 1;
    }

    pub(crate) fn add_if(&mut self, set: bool, field: &'static str) {
        if set {
            self.add(field);
        }
    }

    /// Every field noted so far and how often.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().map(|(field, count)| (*field, *count))
    }
}

/// Whether a field says anything, other than its default.
pub(crate) trait IsSet {
    fn is_set(&self) -> bool;
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

impl IsSet for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for u32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<K, V> IsSet for HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

/// Refuses the resource if one of these fields is set.
macro_rules! reject_if_set {
    ($($field:ident),+ $(,)?) => {
        $(if crate::convert::reject::IsSet::is_set(&$field) {
            let name = stringify!($field).trim_start_matches("r#");
            return Err(crate::convert::reject::Reject::field(name, "not supported yet"));
        })+
    };
}

/// Counts those of these fields that are set.
macro_rules! note_if_set {
    ($notes:expr, $message:literal: $($field:ident),+ $(,)?) => {
        $($notes.add_if(
            crate::convert::reject::IsSet::is_set(&$field),
            concat!($message, ".", stringify!($field)),
        );)+
    };
}

pub(crate) use {note_if_set, reject_if_set};
