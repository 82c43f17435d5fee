//! What a stream has told its client and what the client made of it, for `proxy-status` and its like.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ads::{Awaited, WorkloadHealth};
use crate::{ResourceType, Version};

/// One client's view, by resource type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamStatus {
    /// Version of the set of resources that the client is being told; empty before the first.
    pub version: Arc<str>,
    pub types: BTreeMap<ResourceType, TypeStatus>,
    /// What the client last said of the workload it is for, if anything.
    pub workload: Option<WorkloadHealth>,
    /// What it waits for before all that it has accepted is in force, if it is a proxy of ours.
    pub awaited: BTreeSet<Awaited>,
    /// Names of the secrets that the client asks for: who serves them may make them up as they are asked for.
    pub secrets: BTreeSet<Arc<str>>,
}

impl StreamStatus {
    /// Whether the client has accepted everything it was sent and nothing waits to be sent.
    pub fn synced(&self) -> bool {
        let accepted = |of_type: &TypeStatus| of_type.sent_nonce == of_type.acked_nonce && of_type.refused.is_empty();
        self.answered() && self.types.values().all(accepted)
    }

    /// Whether the client has accepted or refused everything, and nothing waits to be sent.
    pub fn answered(&self) -> bool {
        self.types.values().all(|of_type| of_type.waiting == 0 && !of_type.in_flight)
    }
}

/// One type's part of a [`StreamStatus`]. Nonces and versions are empty before the first response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// Whether the client asked for every resource of the type.
    pub wildcard: bool,
    /// How many names the client asked for one by one.
    pub names: usize,
    /// How many names are not yet told as they are now.
    pub waiting: usize,
    /// Whether a response has been sent that is not answered yet.
    pub in_flight: bool,
    pub sent_version: Arc<str>,
    pub sent_nonce: Arc<str>,
    pub acked_version: Arc<str>,
    pub acked_nonce: Arc<str>,
    /// Responses refused so far.
    pub rejects: u64,
    /// The text of the last refusal, also when no single resource could be blamed.
    pub last_error: Option<String>,
    /// Resources held back until they change, by name.
    pub refused: BTreeMap<Arc<str>, Refusal>,
}

/// Why a resource is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The version refused; `None`: its removal.
    pub version: Option<Version>,
    /// The client's words.
    pub message: String,
}
