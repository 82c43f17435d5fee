//! What the end-to-end tests and the benchmarks are made of: real processes that cannot outlive a
//! test, real peers to compare with, upstreams and clients that work on bytes, and the differential
//! suite's way of running one corpus through two proxies.
//!
//! Knows nothing of how Lateen works inside: it starts binaries, speaks protocols and reads what
//! comes out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod ads;
pub mod agent;
pub mod bootstrap;
pub mod case;
pub mod chance;
pub mod check;
pub mod client;
pub mod differential;
pub mod drawn;
mod h2_frames;
pub mod h2_upstream;
pub mod load;
pub mod mesh;
pub mod message;
pub mod names;
pub mod network;
pub mod peers;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod stand;
pub mod tls;
pub mod upstream;
pub mod wait;
