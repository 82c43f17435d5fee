//! `lateen exec`: runs a program of this machine inside a pod's network.

use std::io::IsTerminal;
use std::process::ExitCode;

use lateen_local::client::{Exec, Streams};

use crate::error::Error;
use crate::state_dir::StateDir;
use crate::terminal::RawMode;

#[derive(clap::Args)]
#[command(after_help = "Ends with the program's exit code.")]
pub struct Arguments {
    pod: String,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Whose environment the program gets; the service's when none is named
    #[arg(short, long)]
    container: Option<String>,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// Pass the input on; it is passed on anyway when it is no terminal
    #[arg(short = 'i', long)]
    stdin: bool,
    #[command(flatten)]
    state_dir: StateDir,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let client = arguments.state_dir.client();
    let terminal = std::io::stdin().is_terminal();
    let input = arguments.stdin || arguments.tty || !terminal;
    let exec = Exec {
        namespace: arguments.namespace,
        pod: arguments.pod.strip_prefix("pod/").unwrap_or(&arguments.pod).to_string(),
        container: arguments.container,
        command: arguments.command,
        tty: arguments.tty,
    };
    let raw = if arguments.tty && terminal { RawMode::enter() } else { None };
    let code = super::block_on(async {
        let streams = Streams {
            stdin: input.then(|| Box::new(tokio::io::stdin()) as _),
            stdout: Box::new(tokio::io::stdout()),
            stderr: Box::new(tokio::io::stderr()),
        };
        Ok(client.exec(&exec, streams).await?)
    });
    drop(raw);
    // An exit code is a byte.
    Ok(ExitCode::from(u8::try_from(code?).unwrap_or(u8::MAX)))
}
