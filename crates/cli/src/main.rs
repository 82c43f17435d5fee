//! The `lateen` binary: what a person types, and all wiring between the parts.
//!
//! Every command is a file in `commands/`. The environment is read here and nowhere else in the workspace.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod app;
mod commands;
mod duration;
mod error;
mod load;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use commands::Command;

/// A service mesh: Istio's API for people, Envoy's xDS between its parts, one binary.
#[derive(Parser)]
#[command(name = "lateen", version, about, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // A reader that goes away (`lateen get pods | head`) is not an error of ours to report.
    terminal::die_quietly_on_closed_pipe();
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lateen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// No thread may exist before a command is entered: `up` forks first.
fn run(command: Command) -> Result<ExitCode, error::Error> {
    match command {
        Command::App(arguments) => commands::app::run(arguments),
        Command::Load(arguments) => commands::load::run(arguments),
    }
}
