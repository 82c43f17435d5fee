//! The Kubernetes REST API of the cluster, over a unix socket: the paths, verbs, objects, tables and
//! refusals that Kubernetes documents, so that its clients can be used.
//!
//! It reads from the store's snapshots and writes through [`Admission`]; what an object must look like is
//! galley's affair alone.

mod authentication;
pub mod batch;
pub mod channel;
mod discovery;
mod exec;
mod logs;
mod objects;
mod openapi;
mod patch;
pub mod path;
mod protobuf;
mod request;
mod selector;
mod serve;
mod status;
mod table;
mod tunnel;
mod watching;

#[cfg(test)]
mod tests;

use crate::admission::Admission;
use crate::hosts::Inside;
use crate::kubelet::Kubelet;
use crate::tokens::Tokens;

pub use serve::serve;

/// The API's server; clones share everything.
#[derive(Debug, Clone)]
pub struct Server {
    admission: Admission,
    /// Runs the pods whose logs are asked for and in which commands are run.
    kubelet: Option<Kubelet>,
    tokens: Tokens,
    /// The cluster's network.
    inside: Option<Inside>,
}

impl Server {
    /// Serves the objects of this store, tokens of its service accounts, and logs and exec of the pods that `kubelet`
    /// runs.
    pub fn new(admission: Admission, kubelet: Option<Kubelet>, tokens: Tokens) -> Self {
        Self { admission, kubelet, tokens, inside: None }
    }

    /// The same, which also connects its clients to hosts of the cluster.
    #[must_use]
    pub fn with_network(self, inside: Inside) -> Self {
        Self { inside: Some(inside), ..self }
    }
}
