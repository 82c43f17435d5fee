//! End-to-end tests: real processes, real sockets, real peers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;
mod balance;
mod callers;
mod canary;
mod differential;
mod drain;
mod examples;
mod faults;
mod gateway_tls;
mod hosts;
mod identity;
mod issuers;
mod loopback;
mod moves;
mod mtls;
mod real_envoy;
mod routes;
mod told;
mod volumes;
mod workload_groups;

use tokio::sync::{Mutex, MutexGuard};

/// Meshes share the host's ingress ports: one runs at a time.
async fn one_mesh_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}
