//! End-to-end tests: real processes, real sockets, real peers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod differential;
