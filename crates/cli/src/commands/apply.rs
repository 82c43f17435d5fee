//! `lateen apply`: makes the mesh what manifests say.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lateen_galley::ReadOptions;

use crate::duration;
use crate::error::Error;
use crate::manifests;
use crate::state_dir::StateDir;

#[derive(clap::Args)]
pub struct Arguments {
    /// Manifests: files, folders, or - for standard input
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// Namespace of what names none, and the only one allowed when given [default: default]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only ask whether the mesh would take it
    #[arg(long)]
    dry_run: bool,
    /// Return when it is in force: what was applied is ready, and every proxy has taken the configuration
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long --wait waits
    #[arg(long, default_value = "60s", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Applies everything, or nothing if any manifest is not understood or the mesh would refuse it.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let namespace = arguments.namespace.as_deref().unwrap_or("default");
    let options = ReadOptions { namespace, only_that_namespace: arguments.namespace.is_some() };
    let manifests = manifests::read(&arguments.files, options)?;
    let client = arguments.state_dir.client();
    super::block_on(async {
        if arguments.wait {
            super::apply_in_force(&client, &arguments.state_dir, &manifests, arguments.timeout).await?;
        } else {
            super::apply(&client, &manifests, arguments.dry_run).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
