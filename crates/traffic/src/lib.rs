//! What a proxy decides: which filter chain, which route, which header edits, which cluster, which host, whether to
//! try again, what to answer by itself. Plain data in, decision out; the clock and the dice are arguments.
//!
//! This crate knows no socket, no async runtime, no protobuf, and speaks no TLS. The data comes from `lateen-xds`, the
//! decisions are carried out by `lateen-proxy`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod access_log;
pub mod balance;
pub mod cluster;
pub mod config;
pub mod edit;
pub mod ext_authz;
pub mod filter;
pub mod format;
pub mod forwarding;
pub mod hashing;
pub mod hcm;
pub mod headers;
pub mod health;
pub mod health_check;
pub mod jwt;
pub mod listener;
pub mod matcher;
pub mod message;
pub mod metadata;
pub mod mirror;
pub mod outlier;
pub mod path;
pub mod proxy_protocol;
pub mod rbac;
pub mod record;
pub mod reply;
pub mod retry;
pub mod route;
pub mod router;
pub mod tcp;
pub mod tls;

pub use config::{ClusterChange, Clusters, Config};
pub use headers::Headers;
pub use message::{Protocol, RequestHead, ResponseHead};

/// A source of randomness. Decisions take it as an argument, so that they can be repeated in tests.
pub trait Dice {
    /// A uniformly distributed number.
    fn roll(&mut self) -> u64;

    /// A uniformly distributed number in `0..n`; 0 when `n` is 0.
    fn below(&mut self, n: u64) -> u64 {
        // Multiply-shift instead of a modulo: no division, and a bias below 2^-32 for every n the mesh uses.
        ((u128::from(self.roll()) * u128::from(n)) >> 64) as u64
    }
}

impl<F: FnMut() -> u64> Dice for F {
    fn roll(&mut self) -> u64 {
        self()
    }
}
