//! Why the client did not get what it asked for.

use std::io;
use std::path::PathBuf;

use serde_json::Value;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("no cluster answers at {}: {source} (is `lateen up` running with this state directory?)", socket.display())]
    Unreachable {
        /// The API's socket.
        socket: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The API refused.
    #[error("{0}")]
    Refused(Refused),
    /// The connection broke or spoke something else.
    #[error("the connection to the cluster broke: {0}")]
    Broken(String),
    /// Input or output of this side failed while a command ran in a pod.
    #[error("cannot {step}: {source}")]
    Terminal {
        /// What was being done.
        step: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// A `Status` object of the API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The HTTP status.
    pub code: u16,
    /// Kubernetes' reason, such as `NotFound`.
    pub reason: String,
    /// In words, naming the object and what is wrong with it.
    pub message: String,
    /// Each field that is wrong: its path, and why.
    pub causes: Vec<(String, String)>,
}

impl ClientError {
    /// The HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(refused) => Some(refused.code),
            _ => None,
        }
    }

    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether the revision asked for is no longer kept, so that a new list is needed.
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    pub(super) fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Refused {
    /// Reads a `Status`; whatever else came with that HTTP status is shown as it is.
    pub fn read(code: u16, body: &[u8]) -> Self {
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let causes = status.pointer("/details/causes").and_then(Value::as_array).into_iter().flatten();
        let mut message = text(&status, "message");
        if message.is_empty() {
            message = format!("HTTP status {code}: {}", String::from_utf8_lossy(body).trim());
        }
        Self {
            code,
            reason: text(&status, "reason"),
            message,
            causes: causes.map(|cause| (text(cause, "field"), text(cause, "message"))).collect(),
        }
    }
}
