//! `lateen demo`: an example, run and judged.

use std::process::ExitCode;

use crate::demo::{self, Options};
use crate::error::Error;
use crate::state_dir::StateDir;
use crate::terminal::Style;

#[derive(clap::Args)]
pub struct Arguments {
    /// Which example; without a name they are listed
    example: Option<String>,
    /// Leave the mesh running and print how to reach it
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Exits 0 when what came back is what the example promises.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let Some(example) = arguments.example else {
        let examples = demo::list();
        let width = examples.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let style = Style::of_stdout();
        for (name, title) in examples {
            println!("{}{:width$}  {title}", style.bold(&name), "", width = width - name.len());
        }
        return Ok(ExitCode::SUCCESS);
    };
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
    super::block_on(demo::run(Options { example, keep: arguments.keep, state }))?;
    Ok(ExitCode::SUCCESS)
}
