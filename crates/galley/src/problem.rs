//! What is wrong with configuration, said so that its writer finds the place: source, document, resource, field.

use std::fmt;
use std::sync::Arc;

use crate::kind::Kind;

/// Something wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldProblem {
    /// `spec.http[0].route[1].destination.host`; empty is the whole object.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl FieldProblem {
    /// A problem at the path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Where a document was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// A file's name, or what stands for one.
    pub source: Arc<str>,
    /// Counted from 1, empty documents included.
    pub document: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.source, self.document)
    }
}

/// Which object is spoken of, as far as it is known: parts not known are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// As in a manifest's `kind`.
    pub kind: String,
    /// Empty for objects without.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.kind.is_empty() { "an object" } else { &self.kind })?;
        match (self.namespace.is_empty(), self.name.is_empty()) {
            (_, true) => Ok(()),
            (true, false) => write!(f, " {}", self.name),
            (false, false) => write!(f, " {}/{}", self.namespace, self.name),
        }
    }
}

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Absent for objects that no document holds.
    pub origin: Option<Origin>,
    /// Absent when the document could not be read so far.
    pub subject: Option<Subject>,
    /// What is wrong.
    pub field: FieldProblem,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}")?;
            f.write_str(if self.subject.is_some() { ", " } else { ": " })?;
        }
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        self.field.fmt(f)
    }
}

/// Everything found wrong, each as one line when shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// The key of an object: unique in a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind, whatever version it was written in.
    pub kind: Kind,
    /// Empty for kinds without.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// A key; the namespace is dropped for kinds that live in none.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        let namespace = if kind.info().namespaced { namespace.into() } else { String::new() };
        Self { kind, namespace, name: name.into() }
    }
}

impl From<&Key> for Subject {
    fn from(key: &Key) -> Self {
        Self { kind: key.kind.name().to_owned(), namespace: key.namespace.clone(), name: key.name.clone() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Subject::from(self).fmt(f)
    }
}
