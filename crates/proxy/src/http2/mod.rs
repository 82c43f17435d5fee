//! HTTP/2 (RFC 9113), for clients and towards hosts.
//!
//! A connection's state has no socket (`core`, `receive`); who drives it gives it what was read and writes what has
//! gathered (`connection`). A stream is one handle for both directions (`stream`). Heads are read into, and written
//! from, those that the router knows (`head`), by the proxy's own HPACK (`hpack`): there is no form in between.

mod connection;
mod core;
mod frame;
mod goaway;
mod head;
mod hpack;
pub mod keepalive;
mod receive;
mod send;
mod serve;
pub mod spare;
mod stream;
#[cfg(test)]
mod tests;

pub use self::connection::{Client, Connection};
pub use self::core::Settings;
pub use self::frame::{PREFACE, Reason};
pub use self::serve::serve;
pub use self::stream::{Failure, Stream};
