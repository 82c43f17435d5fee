//! The aggregated discovery service, both ends of it. Each end is a state machine that knows no socket and no clock
//! ([`server::ServerStream`], [`client::ClientSession`]) and a thin adapter to gRPC around it.

mod awaited;
pub mod client;
pub mod server;
mod workload_health;

pub use awaited::Awaited;
pub use workload_health::WorkloadHealth;

#[cfg(test)]
mod tests;

/// The two variants of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Incremental: responses hold what changed, and removals by name. Envoy's `DELTA_GRPC`.
    Delta,
    /// State of the world: responses for clusters and listeners are complete, absence deletes. Envoy's `GRPC`.
    StateOfTheWorld,
}
