//! Envoy's xDS protocol: what pilot says to proxies, and what a proxy makes of it.
//!
//! - [`resource`]: named, versioned, encoded resources and immutable sets of them
//! - [`ads`]: the aggregated discovery service, server and client, as state machines with thin gRPC adapters
//!
//! Knows nothing of Kubernetes or Istio resources, and of a proxy only the plain data of `lateen-traffic`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod ads;
mod canonical;
pub mod resource;
mod resource_type;

pub use envoy_types::pb;
pub use resource::{Resource, ResourceSet, Version};
pub use resource_type::ResourceType;
