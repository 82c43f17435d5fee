//! `lateen control-plane`: discovery alone, for the cluster that started it or any other API at a socket.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::control_plane::{self, Ads, Options};
use crate::error::Error;

#[derive(clap::Args)]
pub struct Arguments {
    /// Socket of the Kubernetes API
    #[arg(long, value_name = "PATH")]
    api_socket: PathBuf,
    /// A listening TCP socket inherited by number: proxies connect there
    #[arg(long, value_name = "NUMBER", conflicts_with = "xds_address", required_unless_present = "xds_address")]
    xds_fd: Option<RawFd>,
    /// An address to listen at for proxies
    #[arg(long, value_name = "IP:PORT")]
    xds_address: Option<SocketAddr>,
    /// Socket to make, at which /ready, /metrics and pages under /debug are answered
    #[arg(long, value_name = "PATH")]
    http_socket: Option<PathBuf>,
    /// Address at which the same is answered
    #[arg(long, value_name = "IP:PORT")]
    http_address: Option<SocketAddr>,
    /// trace, debug, info, warn, error or off
    #[arg(short, long, default_value = "info", value_name = "LEVEL")]
    log_level: tracing_subscriber::filter::LevelFilter,
}

/// Serves until SIGTERM.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let ads = match (arguments.xds_fd, arguments.xds_address) {
        (Some(descriptor), _) => Ads::Inherited(descriptor),
        (None, Some(address)) => Ads::Address(address),
        (None, None) => return Err(Error::Usage("one of --xds-fd and --xds-address is needed".to_string())),
    };
    tracing_subscriber::fmt()
        .with_max_level(arguments.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the control plane"))?;
    runtime.block_on(control_plane::run(Options {
        api: arguments.api_socket,
        ads,
        pages: arguments.http_socket,
        http: arguments.http_address,
    }))?;
    Ok(ExitCode::SUCCESS)
}
