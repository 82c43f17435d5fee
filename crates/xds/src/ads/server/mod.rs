//! The server's end of ADS: what pilot speaks to proxies.

mod known;
mod service;
mod status;
mod stream;
mod subscription;

#[cfg(test)]
mod tests;

pub use service::{AdsService, Connection, Discovery, Peer, ServeError, serve};
pub use status::{Refusal, StreamStatus, TypeStatus};
pub use stream::{Push, ServerStream, StreamError};
/// How a client is turned away.
pub use tonic::Status;
