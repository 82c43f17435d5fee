//! Configuration: Kubernetes' and Istio's kinds, what makes them valid, and the store that keeps them.
//! Knows no network, no file and no clock: bytes, times and namespaces are handed in.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod decode;
pub mod istio;
pub mod kind;
mod nearest;
mod object;
mod problem;
mod snapshot;
mod strict;
mod yaml;

pub use decode::{Manifest, Manifests, ReadOptions, read_json, read_manifests};
pub use kind::{Kind, KindInfo};
pub use object::{Config, DecodeError, Object, Resource, Typed};
pub use problem::{FieldProblem, Key, Origin, Problem, Problems, Subject};
pub use snapshot::Snapshot;
pub use yaml::{DOCUMENT_BYTES, SOURCE_BYTES};
