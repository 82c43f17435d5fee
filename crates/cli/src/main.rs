//! The `lateen` binary: what a person types, and all wiring between the parts.
//!
//! Every command is a file in `commands/`. The environment is read here and nowhere else in the workspace.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod app;
mod commands;
mod control_plane;
mod daemon;
mod demo;
mod duration;
mod error;
mod load;
mod manifests;
mod page;
mod secrecy;
mod state_dir;
mod table;
mod terminal;
mod traffic_test;
mod waiting;

use std::process::ExitCode;

use clap::Parser;

use commands::Command;

/// A service mesh: Istio's API for people, Envoy's xDS between its parts, one binary.
#[derive(Parser)]
#[command(name = "lateen", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
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
        Command::Up(arguments) => commands::up::run(arguments),
        Command::Down(arguments) => commands::down::run(arguments),
        Command::Apply(arguments) => commands::apply::run(arguments),
        Command::Delete(arguments) => commands::delete::run(arguments),
        Command::Get(arguments) => commands::get::run(arguments),
        Command::Ingress(arguments) => commands::ingress::run(arguments),
        Command::Exec(arguments) => commands::exec::run(arguments),
        Command::Logs(arguments) => commands::logs::run(arguments),
        Command::Run(arguments) => commands::run::run(arguments),
        Command::Test(arguments) => commands::test::run(arguments),
        Command::Demo(arguments) => commands::demo::run(arguments),
        Command::Proxy(arguments) => commands::proxy::run(arguments),
        Command::Ca(arguments) => commands::ca::run(arguments),
        Command::Agent(arguments) => commands::agent::run(arguments),
        Command::ControlPlane(arguments) => commands::control_plane::run(arguments),
        Command::App(arguments) => commands::app::run(arguments),
        Command::Load(arguments) => commands::load::run(arguments),
        Command::Send => commands::send::run(),
    }
}
