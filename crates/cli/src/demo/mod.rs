//! A demo: an example run before one's eyes, and held to what its traffic test promises.

mod example;
mod mesh;
mod view;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lateen_galley::Kind;
use lateen_local::client::Selection;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::ingress::Ingress;
use crate::commands::test::run_live;
use crate::error::Error;
use crate::state_dir::StateDir;
use crate::terminal::Style;
use crate::traffic_test::{self, Live, Report, Written};
use crate::waiting::{self, Troubles};
use mesh::Mesh;
use view::Steps;

pub use example::list;

/// Between two looks at a mesh that starts.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a mesh may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);
const HTTP: u64 = 80;
/// Where an example's certificates are, in the state directory of a mesh that is kept.
const CERTIFICATES: &str = "certificates";

/// How to run a demo.
pub struct Options {
    /// Which example.
    pub example: String,
    /// Leave the mesh running.
    pub keep: bool,
    /// Its state directory; a temporary one when it is not kept.
    pub state: StateDir,
}

/// Runs an example.
///
/// # Errors
/// When there is no such example, the mesh does not start or end, or the example does not keep its promise.
pub async fn run(options: Options) -> Result<(), Error> {
    let style = Style::of_stdout();
    let directory = options.state.create()?;
    let folder = example::folder(&options.example, &directory)?;
    let tests = tests(&folder)?;

    println!("{}\n", style.bold(&format!("lateen demo {}", options.example)));
    let steps = Steps::new(style);
    let mut mesh = Mesh::start(options.state.clone(), &folder, options.keep)?;
    let outcome = tokio::select! {
        outcome = sail(&mut mesh, &tests, options.keep, steps) => outcome,
        () = asked_to_stop() => Err(Error::Usage("interrupted".to_string())),
    };
    if options.keep && outcome.is_ok() {
        println!("\n{}", how_to_reach(&options, style, &folder));
        return outcome;
    }
    let began = Instant::now();
    let stopped = mesh.stop(PATIENCE).await;
    if outcome.is_ok() && stopped.is_ok() {
        println!("\n  {} taken down in {}, nothing is left", style.good("✓"), view::duration(began.elapsed()));
    }
    outcome.and(stopped)
}

fn tests(folder: &Path) -> Result<Vec<Written>, Error> {
    let path = folder.join(example::TEST);
    let name = path.display().to_string();
    let bytes = fs::read(&path).map_err(Error::io(&name))?;
    Ok(traffic_test::read(&name, &bytes)?)
}

/// Waits for Ctrl-C or SIGTERM: a demo that is broken off takes its mesh down too.
async fn asked_to_stop() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        // Without the handler SIGTERM ends the demo at once, and the mesh follows it.
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

/// Everything between start and end.
async fn sail(mesh: &mut Mesh, tests: &[Written], keep: bool, mut steps: Steps) -> Result<(), Error> {
    if let Err(error) = start(mesh, &mut steps).await {
        steps.erase();
        return Err(error);
    }
    println!();
    let style = Style::of_stdout();
    let report = Report::new(style);
    // Who keeps the mesh may go on with them.
    let certificates = keep.then(|| mesh.state().path().join(CERTIFICATES));
    let mut live = Live::new(mesh.state().clone(), certificates).await?;
    let mut kept = true;
    for written in tests {
        let result = run_live(written, &mut live, &report).await;
        kept &= result.passed();
        for step in &result.steps {
            print!("{}", view::shares(style, &step.verdicts));
        }
    }
    if kept { Ok(()) } else { Err(Error::Usage("the example does not keep its promise".to_owned())) }
}

/// Waits for the mesh, its pods and its proxies.
async fn start(mesh: &mut Mesh, steps: &mut Steps) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let client = mesh.state().client();
    steps.doing("starting a node and a control plane");
    let deployments = loop {
        match client.list(Kind::Deployment, &Selection::default()).await {
            Ok(mut list) => match list.get_mut("items").map(Value::take) {
                Some(Value::Array(items)) if !items.is_empty() => break items,
                _ => still(mesh, deadline, "there are no deployments").await?,
            },
            Err(error) => still(mesh, deadline, &error.to_string()).await?,
        }
    };
    steps.done("mesh", "a node in namespaces of its own, and the control plane");
    steps.doing("waiting for pods and proxies");
    let state = mesh.state().clone();
    let before = Troubles::default();
    let in_force = waiting::in_force(&client, &state, &deployments, &before, PATIENCE);
    tokio::select! {
        ready = in_force => drop(ready?),
        ended = ended(mesh) => return Err(ended),
    }
    let names: Vec<&str> = deployments.iter().filter_map(|object| object.pointer("/metadata/name")?.as_str()).collect();
    steps.done("pods", &names.join(", "));
    mesh.settled().await?;
    steps.done("ingress", &format!("http://{}", Ingress::find(&client).await?.authority(HTTP)?));
    Ok(())
}

/// Why the mesh has ended, once it has.
async fn ended(mesh: &mut Mesh) -> Error {
    loop {
        if let Err(error) = mesh.check() {
            return error;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Lets some time pass for a mesh that starts, unless it ended or there is none left.
async fn still(mesh: &mut Mesh, deadline: Instant, missing: &str) -> Result<(), Error> {
    mesh.check()?;
    if Instant::now() >= deadline {
        return Err(Error::Usage(format!("the mesh did not start in time: {missing}\n{}", mesh.last_lines())));
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

fn how_to_reach(options: &Options, style: Style, folder: &Path) -> String {
    let (routing, folder) = (folder.join(example::ROUTING), folder.display());
    let routing = routing.display();
    let default = StateDir::default().path() == options.state.path();
    let at = if default { String::new() } else { format!(" --state-dir {}", options.state.path().display()) };
    let lateen = own_name();
    let lines = [
        (format!("{lateen} test -f {folder}{at}"), "the test again"),
        (format!("{lateen} get pods -n {}{at}", options.example), "what runs"),
        (format!("$EDITOR {routing}"), "change the rules: saved is applied"),
        (format!("{lateen} down{at}"), "take it down"),
    ];
    let width = lines.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    let shown =
        lines.iter().map(|(command, what)| format!("    {command:<width$}   {}", style.dim(&format!("# {what}"))));
    format!("  It is still running:\n\n{}", shown.collect::<Vec<_>>().join("\n"))
}

/// How this program is called here: by its name if that is found, else by its path.
fn own_name() -> String {
    let name = || {
        let program = std::env::current_exe().ok()?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|directory| directory.join("lateen")).find(|file| file.is_file());
        if found.is_some_and(|found| found.canonicalize().is_ok_and(|found| found == program)) {
            return None;
        }
        let here = std::env::current_dir().ok()?;
        Some(program.strip_prefix(here).unwrap_or(&program).display().to_string())
    };
    name().unwrap_or_else(|| "lateen".to_string())
}
