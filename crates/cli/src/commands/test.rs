//! `lateen test`: sends what traffic tests say, and judges what comes back; with `--offline` in a mesh that is only
//! computed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lateen_galley::{Kind, ReadOptions, Snapshot};
use lateen_local::client::replicate;
use lateen_local::rehearsal;
use tokio::sync::watch;

use crate::error::Error;
use crate::manifests;
use crate::state_dir::StateDir;
use crate::terminal::{self, Style};
use crate::traffic_test::{self, Live, Offline, Ran, Report, Result as Tested, Written, junit};
use crate::waiting::{self, Troubles};

/// How long proxies may take to have what was applied before.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a mesh may take to tell what it holds.
const PATIENCE_OF_OBJECTS: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
#[command(after_help = "Exits 0 when everything is as expected, 1 when something is not or a test cannot be run.")]
pub struct Arguments {
    /// Traffic tests: files, folders, or - for standard input. Manifests among them are passed over, unless --offline
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// Send nothing: compute what the mesh would do with the manifests of these files, in no time and without a mesh.
    /// Where there are no manifests, with what the running mesh holds
    #[arg(long)]
    offline: bool,
    /// Further manifests for --offline: files, folders, or - for standard input
    #[arg(long, value_name = "PATH", requires = "offline")]
    manifests: Vec<PathBuf>,
    /// Tell of each step why requests went where they went, one of each outcome; with --offline. Steps that fail are
    /// always explained
    #[arg(long, requires = "offline")]
    explain: bool,
    /// What chance is drawn from with --offline: the same number, the same run
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "offline")]
    seed: u64,
    /// Write the results here too, as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Leave the certificates of the tests in this folder, for curl and openssl
    #[arg(long, value_name = "FOLDER", conflicts_with = "offline")]
    certificates: Option<PathBuf>,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Runs every test of the files, one after the other.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let began = Instant::now();
    let sources = manifests::sources(&arguments.files)?;
    let mut tests: Vec<Written> = Vec::new();
    for (source, bytes) in &sources {
        tests.extend(traffic_test::read(source, bytes)?);
    }
    if tests.is_empty() {
        return Err(Error::Usage("no traffic test is in these files".to_owned()));
    }
    let report = Report::new(Style::of_stdout());
    let results = if arguments.offline {
        let snapshot = objects(&arguments, &sources)?;
        offline(&tests, snapshot, &arguments, &report)?
    } else {
        super::block_on(live(&tests, &arguments, &report))?
    };
    report.sum(&results, began.elapsed());
    if let Some(path) = &arguments.junit {
        std::fs::write(path, junit(&results)).map_err(Error::io(path.display().to_string()))?;
    }
    let passed = results.iter().all(Tested::passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The cluster that is computed: of the manifests, or else the running one's.
fn objects(arguments: &Arguments, sources: &[(String, Vec<u8>)]) -> Result<Snapshot, Error> {
    let mut manifests = manifests::read_sources(sources, ReadOptions::default())?;
    manifests.extend(manifests::read(&arguments.manifests, ReadOptions::default())?);
    manifests.sort_by_key(|manifest| manifest.object.kind() != Kind::Namespace);
    if manifests.is_empty() {
        return super::block_on(running(&arguments.state_dir)).map_err(|error| {
            let why = "there are no manifests in these files (give them with --manifests)";
            Error::Usage(format!("{why}, and no mesh to take them from: {error}"))
        });
    }
    let rehearsed = rehearsal::rehearse(manifests)?;
    rehearsed.warnings.iter().for_each(terminal::warn);
    Ok(rehearsed.snapshot)
}

/// What the running mesh holds.
async fn running(state: &StateDir) -> Result<Snapshot, Error> {
    let client = state.client();
    // Says so at once if nobody is there.
    client.list(Kind::Namespace, &Default::default()).await?;
    let (sender, mut snapshots) = watch::channel(None);
    let kinds: Vec<Kind> = Kind::all().collect();
    let first = async {
        loop {
            if let Some(snapshot) = snapshots.borrow_and_update().clone() {
                return Some(snapshot);
            }
            snapshots.changed().await.ok()?;
        }
    };
    let first: Option<Snapshot> = tokio::select! {
        first = first => first,
        () = replicate(client, &kinds, sender) => None,
        () = tokio::time::sleep(PATIENCE_OF_OBJECTS) => None,
    };
    first.ok_or_else(|| Error::Usage("the mesh does not tell what it holds".to_owned()))
}

fn offline(
    tests: &[Written],
    snapshot: Snapshot,
    arguments: &Arguments,
    report: &Report,
) -> Result<Vec<Tested>, Error> {
    let mut results = Vec::new();
    for written in tests {
        // Each test finds the mesh as if nothing had happened in it.
        let mut mesh = Offline::new(snapshot.clone(), &written.test, arguments.seed)?;
        results.push(run_offline(written, &mut mesh, arguments.explain, report));
        mesh.problems().into_iter().for_each(terminal::warn);
    }
    Ok(results)
}

async fn live(tests: &[Written], arguments: &Arguments, report: &Report) -> Result<Vec<Tested>, Error> {
    let state = &arguments.state_dir;
    let awaited = Troubles::awaited(state).await;
    let standing = waiting::in_force(&state.client(), state, &[], &awaited, PATIENCE).await?;
    standing.iter().for_each(terminal::warn);
    let mut live = Live::new(state.clone(), arguments.certificates.clone()).await?;
    let mut results = Vec::new();
    for written in tests {
        results.push(run_live(written, &mut live, report).await);
    }
    Ok(results)
}

fn run_offline(written: &Written, mesh: &mut Offline, explain: bool, report: &Report) -> Tested {
    let test = &written.test;
    report.test(&test.metadata.name, &test.spec.title);
    let mut result = Tested::of(written);
    for step in &test.spec.steps {
        if step.live_only {
            result.leave_out(step, "only a running mesh can tell", report);
            continue;
        }
        match mesh.step(step, test) {
            Ok((ran, explanations)) => {
                report.step(&ran);
                if explain || ran.verdicts.iter().any(|verdict| !verdict.passed) {
                    report.explain(&explanations);
                }
                result.steps.push(ran);
            }
            Err(error) => {
                result.breaks(&step.name, &error, report);
                break;
            }
        }
    }
    result
}

/// Runs one test and writes as it goes.
pub async fn run_live(written: &Written, live: &mut Live, report: &Report) -> Tested {
    let test = &written.test;
    report.test(&test.metadata.name, &test.spec.title);
    let mut result = Tested::of(written);
    if let Err(error) = live.prepare(test).await {
        result.breaks("certificates", &error, report);
        return result;
    }
    for step in &test.spec.steps {
        if step.offline_only {
            result.leave_out(step, "only computed, where waiting takes no time", report);
            continue;
        }
        let done = Rc::default();
        let running = live.step(step, &test.metadata.namespace, Rc::clone(&done));
        let ran: Result<Ran, Error> = report.progress(&step.name, step.send.count, done, running).await;
        match ran {
            Ok(ran) => {
                report.step(&ran);
                result.steps.push(ran);
            }
            Err(error) => {
                result.breaks(&step.name, &error, report);
                break;
            }
        }
    }
    result
}
