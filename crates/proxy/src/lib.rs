#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod access_log;
pub mod admin;
pub mod dns;
pub mod inspect;
pub mod stats;
