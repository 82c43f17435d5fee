//! What went wrong, said so that the operator knows what this machine lacks.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// A step that the kernel refused, inside the node or while starting it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done: `create the namespaces`, `add the redirect rules of pod default/web`.
    pub step: String,
    /// The kernel's error number, when the kernel was it.
    pub errno: Option<i32>,
    /// What that means on this machine and what would help; may be empty.
    pub why: String,
}

impl Failure {
    /// A request that is wrong in itself.
    pub(super) fn refused(step: impl Into<String>, why: impl Into<String>) -> Self {
        Self { step: step.into(), errno: None, why: why.into() }
    }

    /// A system call that failed.
    pub(super) fn kernel(step: impl Into<String>, error: &io::Error) -> Self {
        let errno = error.raw_os_error();
        let why = if errno.is_none() { error.to_string() } else { String::new() };
        Self { step: step.into(), errno, why }
    }

    /// The same with an explanation.
    pub(super) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// The same with a wider step before it.
    pub(super) fn within(mut self, outer: impl fmt::Display) -> Self {
        self.step = format!("{outer}: {}", self.step);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.step)?;
        if let Some(errno) = self.errno {
            write!(f, ": {}", io::Error::from_raw_os_error(errno))?;
        }
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Why the node did not start or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A program that already has threads cannot start a node.
    #[error("the node must be started before any thread: this process has {0} threads")]
    Threads(usize),
    /// The node could not be started on this machine.
    #[error("cannot run pods on this machine: {0}")]
    Start(Failure),
    /// One request failed; the node and everything else in it goes on.
    #[error("{0}")]
    Request(Failure),
    /// The node has ended, and every pod with it.
    #[error("the node process has ended and all pods with it")]
    Gone,
    /// A request does not fit the limits of the socket to the node.
    #[error("request to the node is too large: {what} {size}, at most {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        size: usize,
        /// How much there may be.
        limit: usize,
    },
    /// The supervisor's own side failed.
    #[error("cannot {step}: {source}")]
    Supervisor {
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// For `map_err`: a system call that failed while doing `step`.
pub(super) fn failed(step: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::kernel(step, &error)
}
