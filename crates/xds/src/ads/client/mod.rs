//! The client's end of ADS: what a proxy speaks to its control plane.

mod files;
mod run;
mod session;
mod transport;

#[cfg(test)]
mod tests;

pub use run::{Client, FileError, Handle, Status};
pub use session::{Ask, ClientSession, introduced};
pub use transport::{Connector, TransportError, connector};
