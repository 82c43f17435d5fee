//! The data plane on real sockets, configured by plain data.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod http1;
mod inherited;
mod mirror;
mod pools;
mod server_first;
mod world;
