//! HTTP/1.1 (RFC 9112), both sides: heads, body framing, connections.
//!
//! Written here and not taken from a library because it is the proxy's own business: what is refused and how, which
//! bytes go out in which write, and what a broken message does to the connection.

pub mod chunked;
pub mod head;
pub mod reader;
pub mod server;
pub mod target;
pub mod writer;

pub use reader::Reader;
pub use writer::Writer;
