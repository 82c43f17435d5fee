//! The commands, one file each: its arguments, and a `run` that does it.

pub mod app;
pub mod load;

/// What `lateen` can do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Run the sample service the examples use: HTTP/1.1, HTTP/2, gRPC and WebSocket on one port, TCP echo on another
    App(app::Arguments),
    /// Send HTTP/1.1 requests and count what comes back, per status, version and pod
    Load(load::Arguments),
}
