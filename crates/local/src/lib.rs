//! One machine as a cluster: a Kubernetes API over a unix socket, controllers, pods as processes in network
//! namespaces, DNS, and ways in from the host. It knows Kubernetes' objects and galley's store; it knows
//! nothing of xDS, of the proxy or of what pilot makes of the objects.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod admission;
pub mod api;
pub mod client;
mod clock;
pub mod cluster;
pub mod controllers;
pub mod dns;
pub mod files;
pub mod hosts;
pub mod kubelet;
pub mod network;
pub mod node;
pub mod rehearsal;
pub mod tokens;
