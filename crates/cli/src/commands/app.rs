//! `lateen app`: the sample service.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Uri;

use crate::app::{self, Behaviour, Identity, Options};
use crate::duration;
use crate::error::Error;

#[derive(clap::Args)]
#[command(
    after_help = "Every request may override --delay, --status, --fail-rate and --response-size by its query: ?delay=100ms&status=503&fail-rate=0.1&size=1024."
)]
pub struct Arguments {
    /// What the service says its version is
    #[arg(long = "version", env = "VERSION", default_value = "v1")]
    version: String,
    /// Port for HTTP/1.1, HTTP/2 with prior knowledge, gRPC and WebSocket (/ws)
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// Port that sends back every byte it gets
    #[arg(long, env = "TCP_PORT")]
    tcp_port: Option<u16>,
    /// Begin answers on that port with a line that names the pod and the version
    #[arg(long, requires = "tcp_port")]
    tcp_says_who: bool,
    /// Ask this service before each answer, and put its answer into the own one; may be given several times
    #[arg(long = "call", value_name = "URL", value_parser = app::parse_url)]
    calls: Vec<Uri>,
    /// Wait this long before each answer
    #[arg(long, env = "DELAY", default_value = "0s", value_parser = duration::parse)]
    delay: Duration,
    /// Answer with this HTTP status
    #[arg(long, env = "STATUS", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// Share of requests that fail with 503, from 0 to 1
    #[arg(long, env = "FAIL_RATE", default_value = "0", value_parser = app::parse_rate)]
    fail_rate: f64,
    /// Pad each answer's body to at least this many bytes
    #[arg(long, env = "RESPONSE_SIZE", default_value_t = 0, value_parser = app::parse_size)]
    response_size: usize,
    /// What the service says its pod is
    #[arg(long, env = "POD_NAME", default_value = "")]
    pod: String,
    /// On SIGTERM, let requests under way finish for at most this long
    #[arg(long, default_value = "25s", value_parser = duration::parse)]
    grace: Duration,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let options = Options {
        port: arguments.port,
        tcp_port: arguments.tcp_port,
        tcp_says_who: arguments.tcp_says_who,
        calls: arguments.calls,
        grace: arguments.grace,
        identity: Identity { pod: arguments.pod, version: arguments.version },
        behaviour: Behaviour {
            delay: arguments.delay,
            status: arguments.status,
            fail_rate: arguments.fail_rate,
            size: arguments.response_size,
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the service"))?;
    runtime.block_on(app::serve(options))?;
    Ok(ExitCode::SUCCESS)
}
