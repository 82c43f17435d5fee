//! A whole cluster in real namespaces, as root and as an ordinary user, without the mesh's own control plane and
//! proxy (their tests are the binary's): pods, names, virtual addresses, host ports, exec, logs, restarts, rollouts.
//! Never skipped: a machine that cannot do it fails.
//!
//! Not a libtest harness, as a node must be started before any thread exists. Inside pods this same binary plays
//! the apps, and the gateway's proxy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "cluster/app.rs"]
mod app;
#[path = "cluster/scenario.rs"]
mod scenario;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// The ordinary user that root's run also becomes.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", rest @ ..] => app::serve(rest),
        ["fetch", url] => app::fetch(url),
        ["proxy", "-c", bootstrap, ..] => app::gateway(bootstrap),
        ["--scenario", name] => {
            scenario::run(name);
            ExitCode::SUCCESS
        }
        ["--list", ..] | [.., "--list"] => {
            for name in scenario::NAMES {
                println!("root::{name}: test\nuser::{name}: test");
            }
            ExitCode::SUCCESS
        }
        filters => run_as_everyone(filters),
    }
}

fn run_as_everyone(filters: &[&str]) -> ExitCode {
    let filters: Vec<&str> = filters.iter().copied().filter(|filter| !filter.starts_with('-')).collect();
    // A place where the other user may execute from.
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let binary = directory.path().join("cluster-test");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    for path in [directory.path(), &binary] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let users: &[(&str, Option<u32>)] =
        if root { &[("root", None), ("user", Some(NOBODY))] } else { &[("user", None)] };
    let mut failed = false;
    for ((name, user), scenario) in users.iter().flat_map(|user| scenario::NAMES.map(|name| (user, name))) {
        let full = format!("{name}::{scenario}");
        if !filters.is_empty() && !filters.iter().any(|filter| full.contains(filter)) {
            continue;
        }
        let mut command = Command::new(&binary);
        command.args(["--scenario", scenario]).current_dir("/");
        if let Some(user) = user {
            command.uid(*user).gid(*user);
        }
        let passed = command.status().unwrap().success();
        println!("test {full} ... {}", if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
