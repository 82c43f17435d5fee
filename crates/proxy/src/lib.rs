//! The data plane: listeners, HTTP/1.1, HTTP/2 and TCP, routed and balanced by `lateen-traffic`'s decisions, driven by
//! xDS alone.
//!
//! One main thread (xDS, admin, DNS, statistics) and N workers, each a single-threaded runtime with its own sockets and
//! pools. It knows no control plane and no Kubernetes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod access_log;
pub mod admin;
mod admission;
mod connection;
pub mod dns;
mod health_check;
mod http1;
mod http2;
pub mod inspect;
mod io;
mod listener;
pub mod logging;
mod own_address;
pub mod proxy;
pub mod readiness;
mod refusals;
mod router;
mod run;
pub mod stats;
mod tcp;
mod timer;
pub mod tls;
mod upstream;
mod view;
mod worker;

pub use run::{Options, RunError, run};
