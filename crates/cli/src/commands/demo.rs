//! `lateen demo`: an example, run and judged.

use std::process::ExitCode;

use crate::demo::{self, Options};
use crate::error::Error;
use crate::state_dir::StateDir;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(value_enum)]
    example: Example,
    /// Leave the mesh running and print how to reach it
    #[arg(long)]
    keep: bool,
    /// Requests to send
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Connections to send them on
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    #[command(flatten)]
    state_dir: StateDir,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Example {
    /// One service in two versions, 90% of the requests to one and 10% to the other
    Canary,
}

/// Exits 0 when what came back is what the example promises.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let Example::Canary = arguments.example;
    // A mesh that is taken down again needs no place others find.
    let temporary = if arguments.keep || arguments.state_dir.is_given() {
        None
    } else {
        Some(tempfile::Builder::new().prefix("lateen-demo-").tempdir().map_err(Error::io("a temporary directory"))?)
    };
    let state = match &temporary {
        Some(directory) => StateDir::at(directory.path().to_path_buf()),
        None => arguments.state_dir,
    };
    super::block_on(demo::canary(Options {
        keep: arguments.keep,
        state,
        requests: arguments.requests,
        concurrency: arguments.concurrency.into(),
    }))?;
    Ok(ExitCode::SUCCESS)
}
