//! Envoy's protobuf messages to the plain data of `lateen-traffic`.
//!
//! Every message is destructured whole, so that a field added by a newer Envoy cannot be dropped by accident. What is
//! not supported meets one of three fates, named at the head of each converter:
//! - reject: the meaning of security or routing would be lost. The resource is refused with the field's path, and the
//!   last good one stays;
//! - degrade: one route answers 500, the rest works;
//! - note: statistics, tuning or looks. Counted in [`Notes`], shown in the admin page.
//!
//! Knows no socket or clock, and no file but those that hold certificates.
#![allow(deprecated)] // Envoy's deprecated fields are fields all the same.

mod access_log;
mod action;
mod address;
mod alpn;
mod balance;
mod cluster;
mod codec;
mod cors;
mod dynamic_forward_proxy;
mod endpoint;
mod ext_authz;
mod fault;
mod filter;
mod hash_policy;
mod hcm;
mod health_check;
mod jwt;
mod listener;
mod matcher;
mod metadata;
mod mirror;
mod outlier;
mod overrides;
mod proxy_protocol;
mod rbac;
pub(crate) mod reject;
mod retry;
mod route;
mod secret;
mod tcp;
mod tls;
mod upstream_http;

#[cfg(test)]
mod tests;

pub use cluster::{ConvertedCluster, cluster};
pub use endpoint::{Addresses, endpoints};
pub use listener::listener;
pub use reject::{Notes, Reject};
pub use route::route_config;
pub use secret::secret;

pub(crate) use address::{socket_address, unpack, upstream_bind};
pub(crate) use cluster::secrets_of_cluster;
pub(crate) use listener::{route_names, secrets_of_listener};
pub(crate) use reject::{At, note_if_set, reject_if_set};
