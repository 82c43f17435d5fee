//! Discovery: from services and rules to what each proxy is sent over xDS.
//!
//! A snapshot of objects becomes a [`world::World`]; a connected proxy's [`node::Node`] says which part of it the proxy
//! may see ([`scope`]); listeners are planned ([`plan`]), resources generated ([`generate`]) and put together
//! ([`assemble`]). Only the push machinery knows of connections and time; nothing here does I/O.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod assemble;
mod config;
pub mod credentials;
mod debug;
pub mod discovery;
pub mod generate;
#[cfg(test)]
mod golden_tests;
mod host;
pub mod names;
pub mod node;
pub mod plan;
pub mod push;
pub mod registration;
pub mod registry;
pub mod rules;
pub mod scope;
#[cfg(test)]
mod testing;
pub mod world;

pub use config::{Config, ExportDefaults, OutboundTrafficPolicy};
pub use debug::Answer;
pub use push::Pilot;
