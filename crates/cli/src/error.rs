//! What can go wrong in a command, as the person at the terminal reads it.

use std::io;

/// An error that ends a command. It is printed after `lateen: ` and the exit code is 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the operating system refused; `what` says what was tried.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The command line asks for something that cannot be done.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Puts what was tried in front of an I/O error.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
