//! The node in real namespaces: as root and as an ordinary user. Never skipped: a machine that cannot do it fails,
//! and the message says what it lacks.
//!
//! Not a libtest harness, as a node must be started before any thread exists: every case runs in a process of its own,
//! which this same binary is. Inside pods it also plays the apps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "node/app.rs"]
mod app;
#[path = "node/cases.rs"]
mod cases;
#[path = "node/lifetime.rs"]
mod lifetime;
#[path = "node/machines.rs"]
mod machines;
#[path = "node/world.rs"]
mod world;

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// For one case; they take a fraction of a second.
const LIMIT: Duration = Duration::from_secs(120);
/// The ordinary user that root's run also becomes.
const NOBODY: u32 = 65534;

type Case = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--app", rest @ ..] => app::run(rest),
        ["--supervisor", rest @ ..] => lifetime::supervise(rest),
        ["--machine", rest @ ..] => machines::play(rest),
        ["--case", name] => {
            let case = all_cases().into_iter().find(|(known, _)| known == name).expect("a known case");
            case.1();
            ExitCode::SUCCESS
        }
        _ => run_all(&arguments),
    }
}

fn all_cases() -> Vec<Case> {
    [cases::CASES, lifetime::CASES, machines::CASES].concat()
}

fn run_all(arguments: &[String]) -> ExitCode {
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    // A place where the other user may execute from.
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let binary = directory.path().join("node-test");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    for path in [directory.path(), &binary] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let users: &[(&str, Option<u32>)] =
        if root { &[("root", None), ("user", Some(NOBODY))] } else { &[("user", None)] };
    let chosen: Vec<(String, &str, Option<u32>)> = users
        .iter()
        .flat_map(|(user, id)| all_cases().into_iter().map(move |(name, _)| (format!("{user}::{name}"), name, *id)))
        .filter(|(full, ..)| filters.is_empty() || filters.iter().any(|filter| full.contains(filter.as_str())))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for (full, ..) in &chosen {
            println!("{full}: test");
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let since = Instant::now();
    let mut failures = Vec::new();
    for (full, name, user) in &chosen {
        let (passed, output) = run_case(&binary, name, *user);
        println!("test {full} ... {}", if passed { "ok" } else { "FAILED" });
        for line in output.lines().filter(|line| line.starts_with("measured: ")) {
            println!("    {line}");
        }
        if !passed {
            failures.push((full, output));
        }
    }
    for (full, output) in &failures {
        println!("\n---- {full} ----\n{output}");
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        chosen.len() - failures.len(),
        failures.len(),
        all_cases().len() * users.len() - chosen.len(),
        since.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_case(binary: &Path, name: &str, user: Option<u32>) -> (bool, String) {
    let (mut output, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(binary);
    command.args(["--case", name]).current_dir("/").stdin(Stdio::null());
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    if let Some(user) = user {
        // As root, std also clears the supplementary groups.
        command.uid(user).gid(user);
    }
    let mut child = command.spawn().unwrap();
    drop(command);
    let (done, text) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        output.read_to_end(&mut text).unwrap();
        let _ = done.send(String::from_utf8_lossy(&text).into_owned());
    });
    let since = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if since.elapsed() > LIMIT => {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    // Whoever holds the pipe longer than that has outlived its case.
    let Ok(mut text) = text.recv_timeout(LIMIT) else {
        return (false, format!("{status}, and processes it started still run"));
    };
    if let Some(signal) = status.signal() {
        text.push_str(&format!("ended by signal {signal} after {:?}\n", since.elapsed()));
    }
    (status.success(), text)
}
