//! What a connection speaks, told from its first bytes: Envoy's `tls_inspector` and `http_inspector`.
//!
//! Pure functions over what was peeked so far; they are called again with more bytes until they decide. Know nothing of
//! sockets and timeouts.

mod http;
mod tls;

pub use http::{HttpInspection, HttpVersion, http};
pub use tls::{ClientHello, Inspection, tls_client_hello};

/// Most bytes that are looked at. Envoy's default for both inspectors.
pub const MAX_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
