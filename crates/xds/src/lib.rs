//! Envoy's xDS protocol: what pilot says to proxies, and what a proxy makes of it.
//!
//! - [`resource`]: named, versioned, encoded resources and immutable sets of them
//! - [`ads`]: the aggregated discovery service, server and client, as state machines with thin gRPC adapters
//! - [`json`]: protobuf JSON with typed `Any`s
//! - [`bootstrap`]: Envoy's bootstrap files
//! - [`istio`]: messages that Istio adds to Envoy's
//! - [`check`]: what authorization services are asked and answer
//! - [`convert`]: Envoy's messages to what a proxy decides by
//! - [`state`]: all that a proxy has been told, and the configuration that comes of it
//!
//! Knows nothing of Kubernetes or Istio resources, and of a proxy only the plain data of `lateen-traffic`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod ads;
pub mod bootstrap;
mod canonical;
pub mod check;
pub mod convert;
pub mod istio;
pub mod json;
mod keys;
pub mod resource;
mod resource_type;

pub mod state;

pub use envoy_types::pb;
pub use resource::{Resource, ResourceSet, Resources, Version};
pub use resource_type::ResourceType;
