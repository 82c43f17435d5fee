//! `lateen logs`: what a pod's containers wrote.

use std::process::ExitCode;

use lateen_local::client::LogOptions;
use tokio::io::AsyncWriteExt;

use crate::error::Error;
use crate::state_dir::StateDir;
use crate::terminal;

/// The name Istio gives the sidecar's container.
const PROXY: &str = "istio-proxy";

#[derive(clap::Args)]
pub struct Arguments {
    pod: String,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The sidecar's log instead of the service's: its access log is there
    #[arg(long, conflicts_with = "container")]
    proxy: bool,
    /// The log of this container; the service's when none is named
    #[arg(short, long)]
    container: Option<String>,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// The log of the run before the last restart
    #[arg(short, long)]
    previous: bool,
    /// Each line with the time it was written
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Prints the log.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    terminal::die_quietly_on_closed_pipe();
    let client = arguments.state_dir.client();
    let pod = arguments.pod.strip_prefix("pod/").unwrap_or(&arguments.pod);
    let options = LogOptions {
        container: arguments.container.or_else(|| arguments.proxy.then(|| PROXY.to_string())),
        follow: arguments.follow,
        previous: arguments.previous,
        tail_lines: arguments.tail,
        timestamps: arguments.timestamps,
    };
    super::block_on(async {
        let mut log = client.logs(&arguments.namespace, pod, &options).await?;
        let mut output = tokio::io::stdout();
        while let Some(text) = log.next().await? {
            output.write_all(&text).await.map_err(Error::io("standard output"))?;
            output.flush().await.map_err(Error::io("standard output"))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
